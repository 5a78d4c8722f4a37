-- What each run cost in [since, until), over all its attempts, under an idle policy: money and energy so far, how much
-- of it was wasted, and what it will have cost at its last step, where the steps are known:
--     SELECT … FROM run_cost(policy = 'equal', since = …, until = …)
-- Without a price the money is NULL; without `run` records the waste, the steps and what is computed from them are
-- NULL. Steps are of the whole run: where the span leaves out any part of it, the cost of a step is NULL too. The
-- projected end is also NULL where the latest attempt did not report what it resumed from, where nothing shows its pace
-- yet, and where nothing of the run was measured for an hour in which others were: it may have been killed.
CREATE OR REPLACE VIEW run_cost AS
WITH
    parseDateTime64BestEffort({since:String}, 3, 'UTC') AS since_at,
    parseDateTime64BestEffort({until:String}, 3, 'UTC') AS until_at
SELECT
    run,
    argMax(spent.model, spent.attempt) AS model,
    argMax(spent.model_version, spent.attempt) AS model_version,
    argMax(spent.team, spent.attempt) AS team,
    count() AS attempts,
    if(any(told.attempt) > max(spent.attempt), any(told.outcome),
        argMaxIf(spent.outcome, spent.attempt, spent.outcome != '')) AS outcome,
    min(spent.used_from) AS used_from,
    max(spent.used_until) AS used_until,
    sum(spent.energy_uj) AS energy_uj,
    sum(spent.gpu_time_ns) AS gpu_time_ns,
    if(countIf(spent.cost_usd IS NULL) = 0, sum(spent.cost_usd), NULL) AS cost_usd,
    cost_usd * 3.6e6 / dateDiff('millisecond', used_from, used_until) AS cost_usd_per_hour,
    if(outcome = '' OR cost_usd IS NULL, NULL, sum(spent.wasted_usd)) AS wasted_usd,
    -- of an attempt that reported nothing, all may have been wasted
    if(outcome = '' OR cost_usd IS NULL, NULL,
        sum(if(spent.outcome = '', spent.cost_usd, spent.wasted_most_usd))) AS wasted_most_usd,
    -- an attempt without a GPU yet has reported what it resumes from: what was made beyond that is no longer useful
    if(outcome = '', NULL, ifNull(
        if(any(told.attempt) > max(spent.attempt), any(told.position), NULL),
        argMaxIf(spent.position, spent.attempt, spent.outcome != ''))) AS position,
    argMax(spent.target_position, spent.attempt) AS target_position,
    -- useful: each step counted once, however often it was made
    position - minIf(spent.origin_position, spent.is_useful) AS useful_steps,
    min(seen.first_at) >= since_at AND max(seen.last_at) <= until_at AS is_whole,
    if(is_whole AND useful_steps > 0, cost_usd / useful_steps, NULL) AS cost_usd_per_step,
    if(is_whole AND useful_steps > 0, energy_uj / 1e6 / useful_steps, NULL) AS j_per_step,
    -- For the rest, what a step took in the latest attempt, from its first new step (pace_from; before that it starts
    -- up) to its last: 1 number of steps, 2 ns that they took, 3 ns until now that were measured, 4 what those cost,
    -- GPUs reserved alongside included, 5 ns since the last step, at most as long as the next report may have taken.
    argMax((
        if(spent.outcome = 'running', spent.position - spent.origin_position - 1, 0),
        toFloat64(dateDiff('nanosecond', spent.pace_from, spent.progress_at)),
        toFloat64(dateDiff('nanosecond', greatest(spent.pace_from, spent.used_from), spent.used_until)),
        spent.pace_usd,
        least(
            toFloat64(greatest(0, dateDiff('nanosecond', spent.progress_at, spent.used_until))),
            -- its first new step came before, and is one of those that were reported
            toFloat64(dateDiff('nanosecond', spent.pace_from, spent.progress_at))
                * (1 + 1 / greatest(1, spent.position - spent.origin_position - 1))
                / greatest(1, spent.progress_count))), spent.attempt) AS latest,
    latest.1 AS latest_steps,
    latest.4 AS latest_usd,
    greatest(0, (target_position - position) * latest.2 / latest_steps - latest.5) AS rest_ns,
    is_whole AND outcome = 'running' AND latest_steps > 0 AND latest.2 > 0 AND target_position >= position
        AND used_until + toIntervalHour(1) >= (SELECT max(bucket_start) FROM attribution_minute) AS is_projected,
    if(is_projected, cost_usd + rest_ns * latest_usd / latest.3, NULL) AS projected_cost_usd,
    if(is_projected, addMilliseconds(used_until, toInt64(least(toFloat64(3e12), rest_ns / 1e6))), NULL) AS projected_end
FROM attempt_cost(policy = {policy:String}, since = {since:String}, until = {until:String}) AS spent
LEFT JOIN (SELECT run, min(first_at) AS first_at, max(last_at) AS last_at FROM measured WHERE run != '' GROUP BY run) AS seen
    ON spent.run = seen.run
LEFT JOIN
(
    -- of the latest attempt that was reported, which may have had no GPU yet
    SELECT
        run,
        max(begun.attempt) AS attempt,
        argMax(begun.outcome, begun.attempt) AS outcome,
        argMax(tuple(begun.position), begun.attempt).1 AS position
    FROM
    (
        SELECT
            run,
            attempt,
            multiIf(
                countIf(event IN ('finish', 'fail')) = 0, if(countIf(event != 'start') = 0, 'waiting', 'running'),
                argMaxIf(event, t, event IN ('finish', 'fail')) = 'finish', 'finished',
                'failed') AS outcome,
            toFloat64(max(step)) AS position
        FROM run_event FINAL
        WHERE t < until_at
        GROUP BY run, attempt
    ) AS begun
    GROUP BY run
) AS told ON spent.run = told.run
GROUP BY spent.run AS run
