-- How far each attempt of a run came, and what of its time was in vain:
--   from lost_from on: what came after the progress that the next attempt resumed from. Where only counted steps tell
--     when that was reached, by an even pace at best (lost_from) and after the checkpoint before it at worst
--     (lost_from_earliest). Where it is not known, or nobody has resumed it yet, after its last progress at best and
--     all of it at worst.
--   until working_from, for an attempt after the first: the retry, up to its first new step.
-- NULL where that does not apply, and for working_from also where there is no new step yet.
-- While an attempt runs, what is told of the time after its last window does not count yet: its energy is not there.
CREATE OR REPLACE VIEW attempt_progress AS
WITH
    toDateTime64('2200-01-01', 9, 'UTC') AS never,
    known AS
    (
        SELECT run, attempt, if(max(has_ended) OR max(until) = 0, never, max(until)) AS known_until
        FROM
        (
            SELECT run, attempt, 1 AS has_ended, toDateTime64(0, 9, 'UTC') AS until
            FROM run_event
            WHERE event IN ('finish', 'fail')
            UNION ALL
            SELECT run, attempt, 0, toDateTime64(max(last_at), 9, 'UTC')
            FROM measured
            WHERE run != ''
            GROUP BY run, attempt
        )
        GROUP BY run, attempt
    )
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
    multiIf(
        NOT (is_followed OR outcome = 'failed'), NULL,
        next_position IS NULL, noted_at,
        next_position > kept_position AND position > kept_position AND counted_until > kept_at,
        addNanoseconds(kept_at, toInt64(dateDiff('nanosecond', kept_at, counted_until)
            * least(1, (next_position - kept_position) / (position - kept_position)))),
        kept_at) AS lost_from,
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
        arrayFilter(n -> n.2 <= next_position, noted) AS kept,
        arrayMax(arrayPushBack(arrayMap(n -> n.1, kept), started)) AS kept_at,
        arrayMax(arrayPushBack(arrayMap(n -> n.2, kept), toUInt64(0))) AS kept_position,
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
            max(steps) AS target_position,
            max(t) AS told_until,
            groupArrayIf((t, assumeNotNull(step)), step IS NOT NULL AND (known_until = 0 OR t <= known_until)) AS told,
            groupArrayIf((t, assumeNotNull(step)), step IS NOT NULL AND event != 'fail') AS noted,
            toFloat64(arrayMax(arrayPushBack(arrayMap(n -> n.2, told), toUInt64(0)))) AS told_position
        FROM run_event FINAL
        LEFT JOIN known USING (run, attempt)
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
            sum(quantity * if(t <= known_until OR period_ns = 0, t <= known_until,
                greatest(0, 1 - dateDiff('nanosecond', known_until, t) / period_ns))) AS of_source,
            max(t) AS until_at,
            -- the first of q steps in a period ends after one q-th of it
            min(fromUnixTimestamp64Nano(
                toUnixTimestamp64Nano(t) - toInt64(period_ns * (1 - 1 / greatest(quantity, 1))), 'UTC')) AS from_at
        FROM
        (
            SELECT
                run, attempt, authority, quantity, t, period_ns,
                if(known.known_until = 0, never, known.known_until) AS known_until
            FROM unit FINAL
            LEFT JOIN known USING (run, attempt)
            WHERE unit = 'steps' AND run != '' AND quantity > 0
        )
        GROUP BY run, attempt, authority
    )
    GROUP BY run, attempt
) AS counted USING (run, attempt)
