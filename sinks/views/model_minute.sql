-- What each model version did in each minute that begins in [since, until), under an idle policy: its GPU time, and
-- the tokens that it served, as the best source of each model counted them. Of serving alone. A count is spread evenly
-- over its period; longest_period_ns is the longest that reaches into the minute. Time comes from attribution_minute,
-- so not of the minute that is under way.
CREATE OR REPLACE VIEW model_minute AS
WITH
    (
        SELECT throwIf(
            {policy:String} NOT IN ('equal', 'memory', 'active'),
            'unknown policy: it is one of equal, memory, active')
    ) AS wrong_policy,
    toInt64(60000000000) AS minute_ns,
    -- in ns a time must stay below 2262
    intDiv(greatest(0, toUnixTimestamp64Second(parseDateTime64BestEffort({since:String}, 3, 'UTC'))) + 59, 60)
        AS first_minute,
    intDiv(least(9000000000, toUnixTimestamp64Second(parseDateTime64BestEffort({until:String}, 3, 'UTC'))) + 59, 60)
        AS end_minute
SELECT
    model,
    model_version,
    minute,
    sum(active_ns) AS active_time_ns,
    sum(time_ns) AS gpu_time_ns,
    sumIf(quantity, unit = 'input_tokens') AS input_tokens,
    sumIf(quantity, unit = 'cached_tokens') AS cached_tokens,
    sumIf(quantity, unit = 'output_tokens') AS output_tokens,
    max(period) AS longest_period_ns
FROM
(
    SELECT
        model,
        model_version,
        toInt64(intDiv(toUnixTimestamp(bucket_start), 60)) AS minute,
        active_time_ns AS active_ns,
        multiIf(
            {policy:String} = 'equal', gpu_time_equal_ns,
            {policy:String} = 'memory', gpu_time_memory_ns,
            gpu_time_active_ns) AS time_ns,
        '' AS unit,
        0. AS quantity,
        toUInt64(0) AS period
    FROM attribution_minute FINAL
    WHERE account = 'process' AND NOT (phase = 'training' OR (run != '' AND phase = '')) AND wrong_policy = 0
    UNION ALL
    SELECT
        model,
        model_version,
        arrayJoin(range(intDiv(begin_ns, minute_ns), intDiv(greatest(begin_ns, end_ns - 1), minute_ns) + 1)) AS minute,
        toInt64(0) AS active_ns,
        toInt64(0) AS time_ns,
        unit,
        if(period_ns = 0, counted, counted / period_ns
            * (least(end_ns, (minute + 1) * minute_ns) - greatest(begin_ns, minute * minute_ns))) AS quantity,
        period_ns AS period
    FROM
    (
        SELECT
            model,
            model_version,
            toString(unit.unit) AS unit,
            unit.quantity AS counted,
            period_ns,
            toUnixTimestamp64Nano(t) AS end_ns,
            end_ns - toInt64(period_ns) AS begin_ns
        FROM unit FINAL
        WHERE unit.unit IN ('input_tokens', 'cached_tokens', 'output_tokens')
            AND (unit.unit, model, authority) IN (SELECT unit, model, max(authority) FROM unit
                WHERE unit IN ('input_tokens', 'cached_tokens', 'output_tokens') GROUP BY unit, model)
            AND NOT (phase = 'training' OR (run != '' AND phase = ''))
            AND end_ns >= first_minute * minute_ns AND begin_ns < end_minute * minute_ns
    )
)
WHERE minute >= first_minute AND minute < end_minute
GROUP BY model, model_version, minute
