-- What each model version did in each whole minute of [since, until), under an idle policy: its GPU time, and the
-- tokens that it served, as they count (counted_unit). Serving only. A count is spread evenly over its period;
-- longest_period_ns is the longest period that reaches into the minute. What names no version belongs to the only one
-- that held a GPU at the time. authority and least_authority are those of who counted the output tokens (NULL: nobody).
-- is_whole: the version held a GPU from the start of the minute to its end, and the minute is all summed up.
-- is_counted: all of its tokens are in, because each engine was observed for nine tenths of the minute (one scrape may
-- be missed), or a lesser source counts in its place. Time comes from attribution_minute, so the current minute is not
-- in it.
CREATE OR REPLACE VIEW model_minute AS
WITH
{{wrong_policy}},
    toInt64(60000000000) AS minute_ns,
    parseDateTime64BestEffort({since:String}, 3, 'UTC') AS since_at,
    parseDateTime64BestEffort({until:String}, 3, 'UTC') AS until_at,
    -- in ns a time must stay below 2262
    intDiv(greatest(0, toUnixTimestamp64Milli(since_at)) + 59999, 60000) AS first_minute,
    intDiv(least(9000000000000, toUnixTimestamp64Milli(until_at)), 60000) AS end_minute,
    first_minute * minute_ns AS since_ns,
    end_minute * minute_ns AS until_ns,
{{contested}},
{{looked}}
SELECT
    model,
    model_version,
    minute,
    sum(active_ns) AS active_time_ns,
    sum(time_ns) AS gpu_time_ns,
    sumIf(quantity, unit = 'input_tokens') AS input_tokens,
    sumIf(quantity, unit = 'cached_tokens') AS cached_tokens,
    sumIf(quantity, unit = 'output_tokens') AS output_tokens,
    max(period) AS longest_period_ns,
    maxOrNullIf(told_by, unit = 'output_tokens') AS authority,
    minOrNullIf(told_by, unit = 'output_tokens') AS least_authority,
    max(seen_whole) AND NOT minute IN (SELECT intDiv(toUnixTimestamp(bucket_start), 60) FROM dirty_bucket FINAL)
        AS is_whole,
    -- a place is empty (not given), a pod, or a host and PID
    arrayAll(
        a -> arrayExists(
            s -> s = '' OR s = a.2 OR startsWith(s, concat(a.1, ' ')) OR empty(a.2) AND position(s, ' ') = 0,
            groupUniqArrayArray(filled)),
        groupUniqArrayArray(away)) AS is_counted
FROM
(
    SELECT
        model,
        model_version,
        minute,
        '' AS unit,
        toUInt8(0) AS told_by,
        sum(active) AS active_ns,
        sum(time) AS time_ns,
        0. AS quantity,
        toUInt64(0) AS period,
        -- where windows straddle minutes, the first one begins within its length
        min(first_ms) < minute * 60000 + max(longest_ms) AND max(last_ms) > (minute + 1) * 60000 - max(longest_ms)
            AS seen_whole,
        -- where an engine was not observed; its first and last minutes too, the rest of which may not have been seen
        groupUniqArrayIf((host, pod), is_known AND least_seen_ratio < 0.9) AS away,
        CAST([], 'Array(String)') AS filled
    FROM
    (
        SELECT
            *,
{{engine_of}}
        FROM
        (
            SELECT
                toString(host) AS host,
                toString(pod) AS pod,
                model,
                model_version,
                toInt64(intDiv(toUnixTimestamp(bucket_start), 60)) AS minute,
                sum(active_time_ns) AS active,
                sum({{policy_time}}) AS time,
                toUnixTimestamp64Milli(min(first_at)) AS first_ms,
                toUnixTimestamp64Milli(max(last_at)) AS last_ms,
                max(longest_window_ms) AS longest_ms
            FROM attribution_minute FINAL
            WHERE account = 'process' AND NOT {{trains}} AND wrong_policy = 0
                AND bucket_start >= since_at AND bucket_start < until_at
            GROUP BY host, pod, model, model_version, bucket_start
        )
    ) AS held
    LEFT JOIN looked USING (host, engine_pod, model, engine_version, minute)
    GROUP BY model, model_version, minute
    UNION ALL
    SELECT
        model,
        model_version,
        minute,
        unit,
        told_by,
        toInt64(0) AS active_ns,
        toInt64(0) AS time_ns,
        sum(counted) AS quantity,
        max(period_ns) AS period,
        0 AS seen_whole,
        CAST([], 'Array(Tuple(String, String))') AS away,
        groupUniqArrayIf(place, is_lesser AND unit = 'output_tokens') AS filled
    FROM
    (
        SELECT
            model,
{{of_version}},
            minute,
            unit,
            told_by,
            counted,
            period_ns,
            place,
            is_lesser
        FROM
        (
            SELECT
                *,
                arrayJoin(range(intDiv(begin_ns, minute_ns), intDiv(greatest(begin_ns, end_ns - 1), minute_ns) + 1))
                    AS minute,
                if(period_ns = 0, quantity, quantity / period_ns
                    * (least(end_ns, (minute + 1) * minute_ns) - greatest(begin_ns, minute * minute_ns))) AS counted
            FROM
            (
                SELECT
                    model,
                    model_version AS told_version,
                    run,
                    phase,
                    toString(unit) AS unit,
                    authority AS told_by,
                    quantity,
                    period_ns,
                    toUnixTimestamp64Nano(t) AS end_ns,
                    end_ns - toInt64(period_ns) AS begin_ns,
                    '' AS place,
                    0 AS is_lesser
                FROM unit FINAL
                WHERE unit IN (SELECT arrayJoin(splitByChar(',', {unit:String})))
                    AND (unit, model, authority) NOT IN (SELECT unit, model, authority FROM sources WHERE authority < greatest)
                    AND {{hours}}
                    AND end_ns >= since_ns AND begin_ns < until_ns
            )
            UNION ALL
            SELECT
                model,
                model_version AS told_version,
                run,
                phase,
                toString(unit) AS unit,
                authority AS told_by,
                quantity,
                longest_period_ns AS period_ns,
                (last_minute + 1) * minute_ns AS end_ns,
                first_minute * minute_ns AS begin_ns,
                place,
                1 AS is_lesser,
                minute,
                quantity AS counted
            FROM lesser_unit(unit = {unit:String}, since = {since:String}, until = {until:String})
            WHERE counts
        ) AS told
        ASOF LEFT JOIN
{{sole_version}} AS sole USING (model, told_version, begin_ns)
        WHERE NOT is_training
    )
    GROUP BY model, model_version, minute, unit, told_by
)
WHERE if(minute < first_minute, 0, minute < end_minute)
GROUP BY model, model_version, minute
