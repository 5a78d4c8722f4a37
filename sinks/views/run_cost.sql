-- What each run cost in [since, until), over all its attempts, under an idle policy: money and energy so far, what of
-- it was in vain, and what it will have cost at its last step, where the steps are known:
--     SELECT … FROM run_cost(policy = 'equal', since = …, until = …)
-- Without a price the money is NULL; without `run` records so are the waste, the steps and what comes of them.
-- Steps are of the whole run: where the span leaves any of it out, what a step cost is NULL too.
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
    argMaxIf(progress.outcome, spent.attempt, progress.outcome != '') AS outcome,
    min(spent.used_from) AS used_from,
    max(spent.used_until) AS used_until,
    sum(spent.energy_uj) AS energy_uj,
    sum(spent.gpu_time_ns) AS gpu_time_ns,
    if(countIf(spent.cost_usd IS NULL) = 0, sum(spent.cost_usd), NULL) AS cost_usd,
    cost_usd * 3.6e6 / dateDiff('millisecond', used_from, used_until) AS cost_usd_per_hour,
    if(outcome = '' OR cost_usd IS NULL, NULL, sum(spent.wasted_usd)) AS wasted_usd,
    if(outcome = '' OR cost_usd IS NULL, NULL, sum(spent.wasted_most_usd)) AS wasted_most_usd,
    if(outcome = '', NULL, argMaxIf(progress.position, spent.attempt, progress.outcome != '')) AS position,
    argMax(progress.target_position, spent.attempt) AS target_position,
    -- useful: each step once, however often it was made
    position - argMin(ifNull(progress.resumed_position, 0), spent.attempt) AS useful_steps,
    min(progress.started) >= since_at AND max(progress.told_until) <= until_at AS is_whole,
    if(is_whole AND useful_steps > 0, cost_usd / useful_steps, NULL) AS cost_usd_per_step,
    if(is_whole AND useful_steps > 0, energy_uj / 1e6 / useful_steps, NULL) AS j_per_step,
    -- the rest at what a step cost in the latest attempt, its retry left out
    argMaxIf(progress.position - ifNull(progress.resumed_position, 0), spent.attempt, progress.outcome != '')
        AS latest_steps,
    argMaxIf(spent.cost_usd - spent.wasted_usd, spent.attempt, progress.outcome != '') AS latest_usd,
    is_whole AND outcome = 'running' AND latest_steps > 0 AND target_position >= position AS is_projected,
    if(is_projected, cost_usd + (target_position - position) * latest_usd / latest_steps, NULL) AS projected_cost_usd,
    if(is_projected,
        addMilliseconds(used_until, toInt64(least(toFloat64(3e12), (target_position - position) / latest_steps
            * dateDiff('millisecond', argMax(ifNull(progress.working_from, progress.started), spent.attempt), used_until)))),
        NULL) AS projected_end
FROM attempt_cost(policy = {policy:String}, since = {since:String}, until = {until:String}) AS spent
LEFT JOIN attempt_progress AS progress ON spent.run = progress.run AND spent.attempt = progress.attempt
GROUP BY spent.run AS run
