-- How far each attempt of a run came, and what of its time was in vain:
--   from lost_from on: what came after the progress that the next attempt resumed from. Where that is not known,
--     or nobody has resumed it yet, after its last progress at best (lost_from) and all of it at worst
--     (lost_from_earliest).
--   until working_from, for an attempt after the first: the retry, up to its first new step.
-- NULL where that does not apply, and for working_from also where there is no new step yet.
CREATE OR REPLACE VIEW attempt_progress AS
WITH toDateTime64('2200-01-01', 9, 'UTC') AS never
SELECT
    run,
    attempt,
    started,
    ended,
    outcome,
    resumed_position,
    if(counted_steps > 0, greatest(told_position, resumed_from + counted_steps), told_position) AS position,
    target_position,
    is_retry,
    if(is_followed OR outcome = 'failed', if(next_position IS NULL, noted_at, kept_at), NULL) AS lost_from,
    if(is_followed OR outcome = 'failed', if(next_position IS NULL, started, kept_at), NULL) AS lost_from_earliest,
    greatest(events.told_until, if(counted_steps > 0, counted_until, events.told_until)) AS told_until,
    least(arrayMin(new_at), if(counted_steps > 0, counted_from, never)) AS first_new_at,
    if(is_retry AND first_new_at < never, first_new_at, NULL) AS working_from
FROM
(
    SELECT
        *,
        ifNull(resumed_position, 0) AS resumed_from,
        attempt > min(attempt) OVER (PARTITION BY run) AS is_retry,
        leadInFrame(toUInt8(1), 1, toUInt8(0)) OVER following AS is_followed,
        leadInFrame(resumed_position, 1, NULL) OVER following AS next_position,
        arrayMax(arrayPushBack(arrayMap(n -> n.1, noted), started)) AS noted_at,
        arrayMax(arrayMap(n -> if(n.2 <= next_position, n.1, started), arrayPushBack(noted, (started, 0)))) AS kept_at,
        arrayMap(n -> if(n.2 > resumed_from, n.1, never), arrayPushBack(told, (never, 0))) AS new_at
    FROM
    (
        SELECT
            run,
            attempt,
            minIf(t, event = 'start') AS started,
            if(countIf(event IN ('finish', 'fail')) = 0, NULL, maxIf(t, event IN ('finish', 'fail'))) AS ended,
            multiIf(ended IS NULL, 'running', argMaxIf(event, t, event IN ('finish', 'fail')) = 'finish', 'finished', 'failed')
                AS outcome,
            argMinIf(step, t, event = 'start') AS resumed_position,
            toFloat64(ifNull(max(step), 0)) AS told_position,
            max(steps) AS target_position,
            max(t) AS told_until,
            groupArrayIf((t, assumeNotNull(step)), step IS NOT NULL) AS told,
            groupArrayIf((t, assumeNotNull(step)), step IS NOT NULL AND event != 'fail') AS noted
        FROM run_event FINAL
        GROUP BY run, attempt
    )
    WINDOW following AS (PARTITION BY run ORDER BY attempt ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING)
) AS events
LEFT JOIN
(
    SELECT
        run,
        attempt,
        argMax(of_source, authority) AS counted_steps,
        argMax(from_at, authority) AS counted_from,
        argMax(until_at, authority) AS counted_until
    FROM
    (
        SELECT
            run,
            attempt,
            authority,
            sum(quantity) AS of_source,
            max(t) AS until_at,
            -- the first of q steps in a period ends after one q-th of it
            min(fromUnixTimestamp64Nano(
                toUnixTimestamp64Nano(t) - toInt64(period_ns * (1 - 1 / greatest(quantity, 1))), 'UTC')) AS from_at
        FROM unit FINAL
        WHERE unit = 'steps' AND run != '' AND quantity > 0
        GROUP BY run, attempt, authority
    )
    GROUP BY run, attempt
) AS counted USING (run, attempt)
