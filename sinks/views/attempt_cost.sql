-- What each attempt of a run cost in [since, until), and how much of that was wasted, under an idle policy:
--     SELECT … FROM attempt_cost(policy = 'equal', since = …, until = …)
-- Wasted is what was lost after the progress that the next attempt resumed from, the retry up to its first new step,
-- and what was reserved and not used. Where one of these is not known, the waste is between wasted_usd and
-- wasted_most_usd. It is part of cost_usd, and so is pace_usd: what a running attempt cost from pace_from on, reserved
-- GPUs included. How far it came is here too, as in attempt_progress: that takes 0.2 s and is read once (told).
-- A window that an edge cuts counts by its part beyond the edge: sums that contain an edge are read window by window.
CREATE OR REPLACE VIEW attempt_cost AS
WITH
{{wrong_policy}},
    toDateTime64('2200-01-01', 3, 'UTC') AS as_of_at,
{{bounds}},
{{rates}},
    (
        SELECT groupArray((
            run, attempt, is_retry, toUnixTimestamp64Nano(started), toUnixTimestamp64Nano(ended),
            toUnixTimestamp64Nano(lost_from), toUnixTimestamp64Nano(lost_from_earliest),
            toUnixTimestamp64Nano(working_from), toUnixTimestamp64Nano(working_from_latest),
            toUnixTimestamp64Nano(pace_from), outcome, position, target_position, origin_position, is_useful,
            toUnixTimestamp64Nano(progress_at), progress_count))
        FROM attempt_progress
    ) AS told,
    progress AS
    (
        SELECT
            t.1 AS run,
            t.2 AS attempt,
            t.3 AS is_retry,
            t.4 AS started_ns,
            t.5 AS ended_ns,
            t.6 AS lost_ns,
            t.7 AS lost_most_ns,
            t.8 AS working_ns,
            t.9 AS working_latest_ns,
            t.10 AS pace_ns,
            t.11 AS outcome,
            t.12 AS position,
            t.13 AS target_position,
            t.14 AS origin_position,
            t.15 AS is_useful,
            t.16 AS progress_ns,
            t.17 AS progress_count
        FROM (SELECT arrayJoin(told) AS t)
    ),
    edges AS
    (
        SELECT run, attempt, fromUnixTimestamp64Nano(assumeNotNull(arrayJoin(arrayFilter(
            e -> e IS NOT NULL, arrayDistinct([lost_ns, lost_most_ns, working_ns, working_latest_ns, pace_ns])))), 'UTC') AS edge
        FROM progress
    ),
    -- The minute of an edge, where a day or an hour has windows on both sides of it. It may have none itself.
    (
        SELECT groupUniqArray((host, gpu, toStartOfMinute(edge)))
        FROM
        (
            SELECT host, gpu, run, attempt, bucket_start, first_at, last_at FROM attribution_day FINAL
            UNION ALL
            SELECT host, gpu, run, attempt, bucket_start, first_at, last_at FROM attribution_hour FINAL
        ) AS sums
        INNER JOIN edges USING (run, attempt)
        WHERE run != '' AND bucket_start >= toStartOfDay(since_at) AND bucket_start < until_at
            AND first_at < edge AND edge < last_at
    ) AS edge_minutes,
    -- And the minutes that an edge cuts, with the rows that each was made of; a window may reach into the next one.
    (
        SELECT groupUniqArray((host, gpu, bucket_start, row_count))
        FROM
        (
            SELECT host, gpu, run, attempt, bucket_start, first_at, last_at,
                sum(window_count) OVER (PARTITION BY host, gpu, bucket_start) AS row_count
            FROM attribution_minute FINAL
            -- the hour, for the key begins with it
            PREWHERE (toStartOfHour(bucket_start), host, gpu, bucket_start) IN (
                SELECT toStartOfHour(minute), e.1, e.2, arrayJoin([e.3, e.3 - 60]) AS minute
                FROM (SELECT arrayJoin(edge_minutes) AS e))
        ) AS sums
        INNER JOIN edges USING (run, attempt)
        WHERE first_at < edge AND edge < last_at
    ) AS cut_minutes,
    (
        SELECT groupUniqArray((host, gpu, bucket_start))
        FROM
        (
            SELECT host, gpu, bucket_start FROM dirty_bucket FINAL
            UNION ALL
            -- A second on: that keeps its day and hour out, and not the minute itself, which counts where its windows are gone.
            SELECT e.1 AS host, e.2 AS gpu, e.3 + 1 AS bucket_start
            FROM (SELECT arrayJoin(edge_minutes) AS e)
            UNION ALL
            -- Where all its windows are still kept: retention deletes them one by one, and a replay in part may bring
            -- some back.
            SELECT host, gpu, toStartOfMinute(window_start) AS minute
            FROM attribution FINAL
            -- the minute alone first, as in usage.part
            PREWHERE toStartOfMinute(window_start) IN (SELECT arrayJoin(cut_minutes).3)
                AND (host, gpu, toStartOfMinute(window_start)) IN (
                    SELECT c.1, c.2, c.3 FROM (SELECT arrayJoin(cut_minutes) AS c))
            GROUP BY host, gpu, minute
            HAVING (host, gpu, minute, count()) IN (SELECT c.1, c.2, c.3, c.4 FROM (SELECT arrayJoin(cut_minutes) AS c))
        )
        WHERE bucket_start >= first_minute AND bucket_start < last_minute
    ) AS behind,
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
            min(w.first_at) AS begin_at,
            max(w.last_at) AS end_at,
            -- 16,384 GPUs pass 64 bits within a week
            sum(toInt128(w.energy_uj)) AS energy,
            sum(toInt128(w.time_ns)) AS gpu_time,
            sum(w.time_ns * least(1, w.lost_ratio + w.retry_ratio)) AS wasted,
            sum(w.time_ns * least(1, w.lost_most_ratio + w.retry_most_ratio)) AS wasted_most,
            sum(w.energy_uj * least(1, w.lost_ratio + w.retry_ratio)) AS wasted_energy,
            sum(w.energy_uj * least(1, w.lost_most_ratio + w.retry_most_ratio)) AS wasted_most_energy,
            sum(w.time_ns * w.pace_ratio) AS paced,
            sum(w.energy_uj * w.pace_ratio) AS paced_energy
        FROM
        (
            SELECT
                *,
                {{policy_energy}} AS energy_uj,
                {{policy_time}} AS time_ns,
                toUnixTimestamp64Milli(first_at) * 1000000 AS begin_ns,
                toUnixTimestamp64Milli(last_at) * 1000000 AS end_ns,
                -- the part of it in which the attempt was going on
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
            FROM
            (
{{classed}}
            ) AS summed
            LEFT JOIN progress USING (run, attempt)
            WHERE run != '' AND wrong_policy = 0
        ) AS w
        GROUP BY run, attempt, gpu_model, provider, region, pricing, class
    )
SELECT
    run,
    attempt,
    max(priced.named).1 AS model,
    max(priced.named).2 AS model_version,
    max(priced.team) AS team,
    min(priced.begin_at) AS used_from,
    max(priced.end_at) AS used_until,
    sum(priced.energy) AS energy_uj,
    sum(priced.gpu_time) AS gpu_time_ns,
    if(countIf(priced.money IS NULL) = 0, sum(priced.money), NULL) AS cost_usd,
    if(countIf(priced.money IS NULL) = 0, sum(priced.wasted_money), NULL) AS wasted_usd,
    if(countIf(priced.money IS NULL) = 0, sum(priced.wasted_most_money), NULL) AS wasted_most_usd,
    if(countIf(priced.money IS NULL) = 0, sum(priced.paced_money), NULL) AS pace_usd,
    any(progress.outcome) AS outcome,
    fromUnixTimestamp64Nano(any(progress.started_ns), 'UTC') AS started,
    fromUnixTimestamp64Nano(any(progress.ended_ns), 'UTC') AS ended,
    fromUnixTimestamp64Nano(any(progress.pace_ns), 'UTC') AS pace_from,
    any(progress.position) AS position,
    any(progress.target_position) AS target_position,
    any(progress.origin_position) AS origin_position,
    any(progress.is_useful) AS is_useful,
    fromUnixTimestamp64Nano(any(progress.progress_ns), 'UTC') AS progress_at,
    any(progress.progress_count) AS progress_count
FROM
(
    SELECT
        *,
        (price_per_gpu_hour_usd * toFloat64(gpu_time) + price_per_kwh_usd * toFloat64(energy)) / 3.6e12 AS money,
        (price_per_gpu_hour_usd * wasted + price_per_kwh_usd * wasted_energy) / 3.6e12 AS wasted_money,
        (price_per_gpu_hour_usd * wasted_most + price_per_kwh_usd * wasted_most_energy) / 3.6e12 AS wasted_most_money,
        (price_per_gpu_hour_usd * paced + price_per_kwh_usd * paced_energy) / 3.6e12 AS paced_money
    FROM
    (
{{priced}}
    )
) AS priced
LEFT JOIN progress USING (run, attempt)
GROUP BY run, attempt
