-- How far each attempt of a run came, and what of its time was wasted:
--   from lost_from on: what came after the progress that was resumed from. Of the attempts after it, the latest resumes
--     from some step, which the nearest attempt that came up to that step from below has made. That one resumes from a
--     step of its own, and so on to the first. An attempt that none of them resumes from is lost as a whole. Where
--     nothing says when that step was reached: at best by an even pace to the next report (lost_from), at worst from
--     the report before it on (lost_from_earliest). Where the step is not known, or nobody has resumed yet: at best
--     from the last progress on, at worst all of the attempt.
--   until working_from, for an attempt after the first that had a GPU: the retry, up to its first new step. Where that
--     step was reported with others, or only by the attempt that resumed from it: at best by an even pace, at worst
--     when it was reported (working_from_latest). For an attempt that finished and reported no step: at best at once.
-- Of a run that reports no steps at all, at best nothing was wasted, at worst all of it. The columns are NULL where
-- this does not apply; working_from and working_from_latest also where there is no new step yet.
-- While an attempt runs, its steps show how long a step takes from pace_from on: from its first new step, before which
-- it starts up, else from its start; not before it held a GPU, unless it reported steps by then, as where nobody
-- measured yet.
-- While an attempt runs, reports of the time after its last window do not count yet: their energy is not there yet.
CREATE OR REPLACE VIEW attempt_progress AS
WITH
    toDateTime64('2200-01-01', 9, 'UTC') AS never,
    toUnixTimestamp64Nano(never) AS never_ns,
    known AS
    (
        SELECT
            run,
            attempt,
            if(max(has_ended) OR max(until) = 0, never, max(until)) AS known_until,
            max(until) AS measured_until,
            min(since) AS measured_from,
            -- The first that had a GPU, whether or not it reported anything; else the first that reported. GPUs that
            -- were reserved and idle, without a report, are no attempt: who reserves them may not know of attempts.
            min((max(until) = 0 OR max(is_attempt) = 0, attempt)) OVER (PARTITION BY run).2 AS first_attempt
        FROM
        (
            SELECT
                run, attempt, event IN ('finish', 'fail') AS has_ended, 1 AS is_attempt, toDateTime64(0, 9, 'UTC') AS until,
                never AS since
            FROM run_event
            UNION ALL
            SELECT
                run, attempt, 0, max(account != 'reserved'), toDateTime64(max(last_at), 9, 'UTC'),
                toDateTime64(min(first_at), 9, 'UTC')
            FROM measured
            WHERE run != ''
            GROUP BY run, attempt
        )
        GROUP BY run, attempt
    ),
    -- For attempts whose steps several sources reported, for each source: how long its counts are where they have no
    -- period (as long as its counts are usually apart), and from when until when better sources were there. A source
    -- was there from its first count to its last, except where it reported nothing for more than a minute.
    several AS
    (
        SELECT
            run,
            attempt,
            authority,
            usual_ns,
            arraySort(groupArrayArray(stretches) OVER (
                PARTITION BY run, attempt ORDER BY authority DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            )) AS better
        FROM
        (
            SELECT
                run,
                attempt,
                authority,
                toInt64(60000000000) AS minute_ns,
                arraySort(groupArray((toUnixTimestamp64Nano(t), toInt64(period_ns)))) AS told,
                arrayMap(n -> n.1, told) AS ends,
                least(minute_ns, if(length(ends) > 1,
                    arrayReduce('quantileExact', arrayPopFront(arrayDifference(ends))), minute_ns)) AS usual_ns,
                arrayMap(n -> n.1 - if(n.2 > 0, n.2, usual_ns), told) AS begins,
                arrayMap(
                    of -> (arrayMin(n -> n.1, of), of[-1].2),
                    arraySplit(
                        (n, before_ns) -> n.1 > before_ns + minute_ns,
                        arrayZip(begins, ends),
                        arrayPushFront(arrayPopBack(ends), ends[1]))) AS stretches
            FROM unit FINAL
            WHERE unit = 'steps' AND (run, attempt) IN
            (
                SELECT run, attempt
                FROM unit
                WHERE unit = 'steps' AND run != ''
                GROUP BY run, attempt
                HAVING min(authority) < max(authority)
            )
            GROUP BY run, attempt, authority
        )
    )
SELECT
    run,
    attempt,
    started,
    ended,
    outcome,
    resumed_position,
    position,
    target_position,
    is_retry,
    fromUnixTimestamp64Nano(lost_ns, 'UTC') AS lost_from,
    fromUnixTimestamp64Nano(
        if(lost_ns IS NULL, NULL, if(is_resumed AND is_certain, kept.1, began_ns)), 'UTC') AS lost_from_earliest,
    told_until,
    fromUnixTimestamp64Nano(new_ns, 'UTC') AS first_new_at,
    if(is_retry AND new_ns < never_ns, first_new_at, NULL) AS working_from,
    if(is_retry AND new_latest_ns < never_ns, fromUnixTimestamp64Nano(new_latest_ns, 'UTC'), NULL) AS working_from_latest,
    if(outcome = 'running', fromUnixTimestamp64Nano(greatest(
        if(new_ns < never_ns, new_ns, started_ns),
        if(new_latest_ns < ready_ns, started_ns, ready_ns)), 'UTC'), NULL) AS pace_from,
    fromUnixTimestamp64Nano(progress_ns, 'UTC') AS progress_at,
    progress_count,
    if(origin < 0, NULL, origin) AS origin_position,
    is_resumed OR next_position < 0 AS is_useful
FROM
(
    SELECT
        *,
        multiIf(
            NOT (is_followed OR outcome = 'failed'), NULL,
            next_position < 0 OR NOT (is_resumed OR is_certain), noted_ns,
            NOT is_resumed, began_ns,
            kept.2 >= next_position, kept.1,
            beyond.1 = never_ns, greatest(kept.1, end_ns),
            greatest(kept.1, reached_point.1 + toInt64((beyond.1 - reached_point.1)
                * (next_position - reached_point.2) / (beyond.2 - reached_point.2)))) AS lost_ns
    FROM
    (
        SELECT
            *,
            if(kept.2 = resumed_from AND new_ns < never_ns, (new_ns, resumed_from + 1), kept) AS reached_point,
            arrayMin(arrayPushBack(
                arrayFilter(n -> n.1 > kept.1 AND n.2 > next_position, told_and_counted), (never_ns, toFloat64(0)))) AS beyond
        FROM
        (
            SELECT
                *,
                (
                    arrayMax(n -> n.1, arrayPushBack(arrayFilter(n -> n.2 <= next_position, marks), (began_ns, resumed_from))),
                    arrayMax(n -> n.2, arrayPushBack(arrayFilter(n -> n.2 <= next_position, marks), (began_ns, resumed_from)))
                ) AS kept,
                arrayMax(n -> n.1, arrayPushBack(
                    if(notEmpty(marks), marks, arrayFilter(n -> n.2 > resumed_from, told_and_counted)),
                    (if(are_steps_told, began_ns, end_ns), toFloat64(0)))) AS noted_ns,
                if(counted_steps > 0, least(new.1, counted_latest_ns), new.1) AS new_latest_ns,
                multiIf(
                    counted_steps > 0, least(new.1, counted_ns),
                    new.1 < never_ns, old_ns + toInt64((new.1 - old_ns) / (new.2 - resumed_from)),
                    is_resumed, ready_ns + toInt64(greatest(0, end_ns - ready_ns) / (next_position - resumed_from)),
                    outcome = 'finished' OR NOT are_steps_told, ready_ns,
                    never_ns) AS new_ns
            FROM
            (
                SELECT
                    *,
                    goal.1 AS next_position,
                    goal.2 AS is_certain,
                    goal.1 != -2 AS is_followed,
                    goal.1 > 0 AND origin < goal.1 AND (goal.1 <= reached OR goal.1 > reached_before) AS is_resumed,
                    arrayMax(n -> n.1, arrayPushBack(
                        arrayFilter(n -> n.2 <= resumed_from AND n.1 <= new.1, told),
                        (if(new.1 < ready_ns, started_ns, ready_ns), toFloat64(0)))) AS old_ns
                FROM
                (
                    SELECT
                        *,
                        -- The step that a later attempt resumes from (-2: none does, -1: not known); is it certain?
                        arrayFold(
                            (goal, a) -> multiIf(
                                goal.1 = -2, (a.1, toUInt8(a.1 >= 0)),
                                goal.1 = -1, (a.1, toUInt8(0)),
                                goal.1 > 0 AND a.1 < goal.1 AND (goal.1 <= a.2 OR goal.1 > a.3),
                                (a.1, toUInt8(goal.2 AND a.1 >= 0)),
                                goal),
                            arrayReverse(arraySlice(attempts, place + 1)),
                            (toFloat64(-2), toUInt8(1))) AS goal
                    FROM
                    (
                        SELECT
                            *,
                            row_number() OVER all_attempts AS place,
                            groupArray((origin, reached, reached_before)) OVER all_attempts AS attempts
                        FROM
                        (
                            SELECT
                                * EXCEPT (told_until),
                                greatest(events.told_until, if(counted_steps > 0, counted_until, events.told_until)) AS told_until,
                                multiIf(
                                    counted_steps > 0, greatest(told_position, resumed_from + counted_steps),
                                    is_retry AND told_position < 0, NULL,
                                    greatest(told_position, 0)) AS position,
                                -- when it had come so far, and in how many parts that was reported
                                if(counted_steps > 0 AND resumed_from + counted_steps >= told_position, least(toUnixTimestamp64Nano(counted_until), known_ns),
                                    arrayMin(arrayPushBack(arrayMap(n -> n.1, arrayFilter(n -> n.2 = told_position, told)), known_ns))) AS progress_ns,
                                if(counted_steps > 0, counted_rows, countEqual(arrayMap(n -> n.2 > resumed_from AND n.1 <= known_ns, told), 1))
                                    AS progress_count,
                                -- after an attempt that had a GPU: one that never got a GPU left nothing to do again
                                attempt > first_attempt AS is_retry,
                                if(is_retry, ifNull(toFloat64(resumed_position), -1), resumed_from) AS origin,
                                greatest(
                                    arrayMax(arrayPushBack(arrayMap(n -> n.2, told), toFloat64(0))),
                                    if(counted_steps > 0, resumed_from + counted_steps, 0)) AS reached,
                                max(reached) OVER (PARTITION BY run ORDER BY attempt ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                                    AS reached_before,
                                toUnixTimestamp64Nano(counted_from) AS counted_ns,
                                toUnixTimestamp64Nano(counted_from_latest) AS counted_latest_ns,
                                if(counted_steps > 0, arrayPushBack(told, (toUnixTimestamp64Nano(counted_until), resumed_from + counted_steps)), told)
                                    AS told_and_counted,
                                arrayFilter(n -> n.2 > resumed_from, noted) AS marks,
                                max(has_told_steps OR counted_steps > 0) OVER (PARTITION BY run) AS are_steps_told,
                                -- the first report of a new step: when, and which step
                                arrayMin(arrayPushBack(
                                    arrayFilter(n -> n.2 > resumed_from AND n.1 <= known_ns, told), (never_ns, toFloat64(0)))) AS new
                            FROM
                            (
                                SELECT
                                    run,
                                    attempt,
                                    if(countIf(event = 'start') = 0, if(any(measured_until) = 0, min(t), least(min(t), any(measured_from))),
                                        minIf(t, event = 'start')) AS started,
                                    if(countIf(event IN ('finish', 'fail')) = 0, NULL, maxIf(t, event IN ('finish', 'fail'))) AS ended,
                                    multiIf(
                                        ended IS NULL, 'running',
                                        argMaxIf(event, t, event IN ('finish', 'fail')) = 'finish', 'finished',
                                        'failed') AS outcome,
                                    argMinIf(step, t, event = 'start') AS resumed_position,
                                    toFloat64(ifNull(resumed_position, 0)) AS resumed_from,
                                    argMax(steps, t) AS target_position,
                                    countIf(step > 0 OR event != 'start' AND step = 0) > 0 AS has_told_steps,
                                    any(first_attempt) AS first_attempt,
                                    max(t) AS told_until,
                                    if(any(known_until) = 0, never_ns, toUnixTimestamp64Nano(any(known_until))) AS known_ns,
                                    toUnixTimestamp64Nano(started) AS started_ns,
                                    -- it held its GPUs before it reported so, and until it ended or was last seen
                                    if(any(measured_until) = 0, started_ns, least(started_ns, toUnixTimestamp64Nano(any(measured_from))))
                                        AS began_ns,
                                    -- the time before it holds a GPU is waiting
                                    if(any(measured_until) = 0, started_ns, greatest(started_ns, toUnixTimestamp64Nano(any(measured_from))))
                                        AS ready_ns,
                                    ifNull(toUnixTimestamp64Nano(ended), greatest(
                                        toUnixTimestamp64Nano(told_until), toUnixTimestamp64Nano(any(measured_until)))) AS end_ns,
                                    groupArrayIf((toUnixTimestamp64Nano(t), toFloat64(assumeNotNull(step))), step IS NOT NULL) AS told,
                                    groupArrayIf((toUnixTimestamp64Nano(t), toFloat64(assumeNotNull(step))), step IS NOT NULL AND event != 'fail')
                                        AS noted,
                                    arrayMax(arrayPushBack(arrayMap(n -> n.2, arrayFilter(n -> n.1 <= known_ns, told)), toFloat64(-1)))
                                        AS told_position
                                FROM run_event FINAL
                                LEFT JOIN known USING (run, attempt)
                                GROUP BY run, attempt
                            ) AS events
                            LEFT JOIN
                            (
                                SELECT
                                    run,
                                    attempt,
                                    sum(counted_quantity) AS counted_steps,
                                    min(t) AS counted_from_latest,
                                    max(t) AS counted_until,
                                    count() AS counted_rows,
                                    -- the first of q steps in a period ends after one q-th of it
                                    min(fromUnixTimestamp64Nano(toUnixTimestamp64Nano(t)
                                        - toInt64(period_ns * (1 - 1 / greatest(quantity, 1))), 'UTC')) AS counted_from
                                FROM
                                (
                                    SELECT
                                        run,
                                        attempt,
                                        t,
                                        period_ns,
                                        quantity,
                                        greatest(toInt64(1), if(period_ns > 0, toInt64(period_ns), usual_ns))
                                            AS length_ns,
                                        toUnixTimestamp64Nano(t) - length_ns AS begin_ns,
                                        -- reports of the time after the last window do not count yet
                                        least(toUnixTimestamp64Nano(t), if(known.known_until = 0, never_ns,
                                            toUnixTimestamp64Nano(known.known_until))) AS end_ns,
                                        -- what no better source reported: 1 looked at up to here, 2 ns of theirs
                                        end_ns - begin_ns - arrayFold(
                                            (told, s) -> (
                                                greatest(told.1, s.2),
                                                told.2 + greatest(
                                                    toInt64(0), least(end_ns, s.2) - greatest(told.1, s.1))),
                                            better,
                                            (begin_ns, toInt64(0))).2 AS counted_ns,
                                        if(counted_ns = length_ns, quantity, quantity * counted_ns / length_ns)
                                            AS counted_quantity
                                    FROM unit FINAL
                                    LEFT JOIN known USING (run, attempt)
                                    LEFT JOIN several USING (run, attempt, authority)
                                    WHERE unit = 'steps' AND run != '' AND quantity > 0
                                )
                                WHERE counted_quantity > 0
                                GROUP BY run, attempt
                            ) AS counted USING (run, attempt)
                        )
                        WINDOW all_attempts AS (PARTITION BY run ORDER BY attempt ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
                    )
                )
            )
        )
    )
)
