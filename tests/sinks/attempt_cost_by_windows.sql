-- What attempt_cost says, worked out window by window: what the sums must come to. It prices them as the views do, which
-- test_tariff_sums.py holds against a reckoning of its own.
CREATE OR REPLACE VIEW attempt_cost_by_windows AS
WITH
    (
        SELECT throwIf(
            {policy:String} NOT IN ('equal', 'memory', 'active'),
            'unknown policy: it is one of equal, memory, active')
    ) AS wrong_policy,
    greatest(parseDateTime64BestEffort({since:String}, 3, 'UTC'), toDateTime64(0, 3, 'UTC')) AS since_at,
    least(parseDateTime64BestEffort({until:String}, 3, 'UTC'), toDateTime64('2106-01-01', 3, 'UTC')) AS until_at,
    toDateTime64('2200-01-01', 3, 'UTC') AS as_of_at,
{{rates}},
    used AS
    (
        SELECT
            run,
            attempt,
            gpu_model,
            provider,
            region,
            pricing,
            class,
            max((w.model, w.model_version)) AS named,
            max(w.team) AS team,
            min(w.begin_at) AS first_at,
            max(w.begin_at + toIntervalMillisecond(w.window_ms)) AS last_at,
            sum(w.energy_uj) AS energy,
            sum(w.time_ns) AS gpu_time,
            sum(w.time_ns * least(1, w.lost_ratio + w.retry_ratio)) AS wasted,
            sum(w.time_ns * least(1, w.lost_most_ratio + w.retry_most_ratio)) AS wasted_most,
            sum(w.energy_uj * least(1, w.lost_ratio + w.retry_ratio)) AS wasted_energy,
            sum(w.energy_uj * least(1, w.lost_most_ratio + w.retry_most_ratio)) AS wasted_most_energy,
            sum(w.time_ns * w.pace_ratio) AS paced,
            sum(w.energy_uj * w.pace_ratio) AS paced_energy
        FROM
        (
            SELECT
                run,
                attempt,
                gpu_model,
                provider,
                region,
                pricing,
                model,
                model_version,
                team,
                window_start AS begin_at,
                window_ms,
                toUnixTimestamp64Milli(window_start) * 1000000 AS begin_ns,
                begin_ns + toInt64(window_ms) * 1000000 AS end_ns,
                active_energy_uj + multiIf(
                    {policy:String} = 'equal', idle_energy_equal_uj,
                    {policy:String} = 'memory', idle_energy_memory_uj,
                    idle_energy_active_uj) AS energy_uj,
                multiIf(
                    {policy:String} = 'equal', gpu_time_equal_ns,
                    {policy:String} = 'memory', gpu_time_memory_ns,
                    gpu_time_active_ns) AS time_ns,
                intDiv(toUnixTimestamp64Milli(window_start), 1000) AS begin_s,
                rates.2[(indexOf(rates.1, roundDown(begin_s, rates.1)) - 1) * rates.4
                    + intDiv(begin_s % 604800, rates.5) + 1] AS class,
                -- the part of the window in which the attempt was going on
                if(started_ns < end_ns, greatest(begin_ns, started_ns), begin_ns) AS from_ns,
                if(ended_ns > from_ns, least(end_ns, ended_ns), end_ns) AS to_ns,
                least(1, greatest(0, to_ns - ifNull(lost_ns, to_ns)) / (to_ns - from_ns)) AS lost_ratio,
                least(1, greatest(0, to_ns - ifNull(lost_most_ns, to_ns)) / (to_ns - from_ns)) AS lost_most_ratio,
                multiIf(
                    account = 'reserved', 1,
                    is_retry, least(1, greatest(0, ifNull(working_ns, to_ns) - from_ns) / (to_ns - from_ns)),
                    0) AS retry_ratio,
                multiIf(
                    account = 'reserved', 1,
                    is_retry, least(1, greatest(0, ifNull(working_latest_ns, to_ns) - from_ns) / (to_ns - from_ns)),
                    0) AS retry_most_ratio,
                -- of all of it: a GPU may be held before the start
                least(1, greatest(0, end_ns - ifNull(pace_ns, end_ns)) / (end_ns - begin_ns)) AS pace_ratio
            FROM attribution FINAL
            LEFT JOIN
            (
                SELECT
                    run,
                    attempt,
                    is_retry,
                    toUnixTimestamp64Nano(started) AS started_ns,
                    toUnixTimestamp64Nano(ended) AS ended_ns,
                    toUnixTimestamp64Nano(lost_from) AS lost_ns,
                    toUnixTimestamp64Nano(lost_from_earliest) AS lost_most_ns,
                    toUnixTimestamp64Nano(working_from) AS working_ns,
                    toUnixTimestamp64Nano(working_from_latest) AS working_latest_ns,
                    toUnixTimestamp64Nano(pace_from) AS pace_ns
                FROM attempt_progress
            ) AS progress USING (run, attempt)
            WHERE run != '' AND window_start >= since_at AND window_start < until_at AND wrong_policy = 0
        ) AS w
        GROUP BY run, attempt, gpu_model, provider, region, pricing, class
    )
SELECT
    run,
    attempt,
    max(priced.named).1 AS model,
    max(priced.named).2 AS model_version,
    max(priced.team) AS team,
    min(priced.first_at) AS used_from,
    max(priced.last_at) AS used_until,
    sum(priced.energy) AS energy_uj,
    sum(priced.gpu_time) AS gpu_time_ns,
    if(countIf(priced.money IS NULL) = 0, sum(priced.money), NULL) AS cost_usd,
    if(countIf(priced.money IS NULL) = 0, sum(priced.wasted_money), NULL) AS wasted_usd,
    if(countIf(priced.money IS NULL) = 0, sum(priced.wasted_most_money), NULL) AS wasted_most_usd,
    if(countIf(priced.money IS NULL) = 0, sum(priced.paced_money), NULL) AS pace_usd
FROM
(
    SELECT
        *,
        (price_per_gpu_hour_usd * gpu_time + price_per_kwh_usd * energy) / 3.6e12 AS money,
        (price_per_gpu_hour_usd * wasted + price_per_kwh_usd * wasted_energy) / 3.6e12 AS wasted_money,
        (price_per_gpu_hour_usd * wasted_most + price_per_kwh_usd * wasted_most_energy) / 3.6e12 AS wasted_most_money,
        (price_per_gpu_hour_usd * paced + price_per_kwh_usd * paced_energy) / 3.6e12 AS paced_money
    FROM
    (
{{priced}}
    )
) AS priced
GROUP BY run, attempt
