-- What each model version did in each whole minute of [since, until), under an idle policy: its GPU time, and the
-- tokens that it served, each unit as the best source of the minute counted it. Of serving alone. A count is spread
-- evenly over its period; longest_period_ns is the longest that reaches into the minute. What names no version is of the
-- only one that held a GPU meanwhile. authority is of who counted the output tokens (NULL: nobody); is_whole says
-- whether the version held a GPU from the start of the minute to its end, and the minute is all summed up. Time comes
-- from attribution_minute, so not of the minute that is under way.
CREATE OR REPLACE VIEW model_minute AS
WITH
    (
        SELECT throwIf(
            {policy:String} NOT IN ('equal', 'memory', 'active'),
            'unknown policy: it is one of equal, memory, active')
    ) AS wrong_policy,
    toInt64(60000000000) AS minute_ns,
    parseDateTime64BestEffort({since:String}, 3, 'UTC') AS since_at,
    parseDateTime64BestEffort({until:String}, 3, 'UTC') AS until_at,
    -- in ns a time must stay below 2262
    intDiv(greatest(0, toUnixTimestamp64Milli(since_at)) + 59999, 60000) AS first_minute,
    intDiv(least(9000000000000, toUnixTimestamp64Milli(until_at)), 60000) AS end_minute
SELECT
    model,
    model_version,
    minute,
    sum(active_ns) AS active_time_ns,
    sum(time_ns) AS gpu_time_ns,
    argMaxIf(quantity, told_by, unit = 'input_tokens') AS input_tokens,
    argMaxIf(quantity, told_by, unit = 'cached_tokens') AS cached_tokens,
    argMaxIf(quantity, told_by, unit = 'output_tokens') AS output_tokens,
    greatest(
        argMaxIf(period, told_by, unit = 'input_tokens'),
        argMaxIf(period, told_by, unit = 'cached_tokens'),
        argMaxIf(period, told_by, unit = 'output_tokens')) AS longest_period_ns,
    maxOrNullIf(told_by, unit = 'output_tokens') AS authority,
    max(seen_whole) AND NOT minute IN (SELECT intDiv(toUnixTimestamp(bucket_start), 60) FROM dirty_bucket FINAL)
        AS is_whole
FROM
(
    SELECT
        model,
        model_version,
        toInt64(intDiv(toUnixTimestamp(bucket_start), 60)) AS minute,
        '' AS unit,
        toUInt8(0) AS told_by,
        sum(active_time_ns) AS active_ns,
        sum(multiIf(
            {policy:String} = 'equal', gpu_time_equal_ns,
            {policy:String} = 'memory', gpu_time_memory_ns,
            gpu_time_active_ns)) AS time_ns,
        0. AS quantity,
        toUInt64(0) AS period,
        -- where windows straddle minutes, the first one begins within its length
        toUnixTimestamp64Milli(min(first_at)) < minute * 60000 + max(longest_window_ms)
            AND toUnixTimestamp64Milli(max(last_at)) > (minute + 1) * 60000 - max(longest_window_ms) AS seen_whole
    FROM attribution_minute FINAL
    WHERE account = 'process' AND NOT {{trains}} AND wrong_policy = 0
    GROUP BY model, model_version, bucket_start
    UNION ALL
    SELECT
        model,
        model_version,
        arrayJoin(range(intDiv(begin_ns, minute_ns), intDiv(greatest(begin_ns, end_ns - 1), minute_ns) + 1)) AS minute,
        unit,
        told_by,
        toInt64(0) AS active_ns,
        toInt64(0) AS time_ns,
        sum(if(period_ns = 0, counted, counted / period_ns
            * (least(end_ns, (minute + 1) * minute_ns) - greatest(begin_ns, minute * minute_ns)))) AS quantity,
        max(period_ns) AS period,
        0 AS seen_whole
    FROM
    (
        SELECT
            model,
{{of_version}},
            unit,
            told_by,
            counted,
            period_ns,
            end_ns,
            begin_ns
        FROM
        (
            SELECT
                model,
                unit.model_version AS told_version,
                run,
                phase,
                toString(unit.unit) AS unit,
                unit.authority AS told_by,
                unit.quantity AS counted,
                period_ns,
                toUnixTimestamp64Nano(t) AS end_ns,
                end_ns - toInt64(period_ns) AS begin_ns
            FROM unit FINAL
            WHERE unit.unit IN ('input_tokens', 'cached_tokens', 'output_tokens')
                AND end_ns >= first_minute * minute_ns AND begin_ns < end_minute * minute_ns
        ) AS told
        LEFT JOIN
{{sole_version}} AS sole USING (model)
        WHERE NOT is_training
    )
    GROUP BY model, model_version, minute, unit, told_by
)
WHERE minute >= first_minute AND minute < end_minute
GROUP BY model, model_version, minute
