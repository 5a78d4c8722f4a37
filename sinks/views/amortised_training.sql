-- What of the training behind each model version falls into [since, until): of each run that `lineage` names, its share
-- of all that the run ever cost, spread evenly over the life declared for the version. A memo: it was paid for when
-- the run ran, and is in no sum. Nothing falls into the time after the last minute that was measured.
CREATE OR REPLACE VIEW amortised_training AS
WITH
    toDateTime(least(4294967295, greatest(0, toUnixTimestamp64Second(
        parseDateTime64BestEffort({since:String}, 3, 'UTC')))), 'UTC') AS since_at,
    toDateTime(least(4294967295, greatest(0, toUnixTimestamp64Second(
        parseDateTime64BestEffort({until:String}, 3, 'UTC')))), 'UTC') AS until_at,
    (SELECT max(bucket_start) + toIntervalMinute(1) FROM attribution_minute) AS measured_until
SELECT
    made.model AS model,
    made.model_version AS model_version,
    groupArray(made.run) AS runs,
    groupArrayIf(made.run, trained.seen = 0) AS unknown_runs,
    sum(made.share_ratio
        * greatest(0, dateDiff('second', greatest(since_at, life_from), least(until_at, life_to, measured_until)))
        / dateDiff('second', life_from, life_to) * trained.money) AS amount,
    if(countIf(trained.money IS NULL) = 0, amount, NULL) AS amortised_training_usd
FROM (SELECT * FROM lineage FINAL WHERE share_ratio > 0 AND life_to > life_from) AS made
LEFT JOIN
(
    SELECT run, count() AS seen, if(countIf(cost_usd IS NULL) = 0, sum(cost_usd), NULL) AS money
    FROM cost(policy = {policy:String}, since = '1970-01-01', until = '2200-01-01')
    WHERE run IN (SELECT run FROM lineage FINAL WHERE share_ratio > 0)
    GROUP BY run
) AS trained ON made.run = trained.run
GROUP BY made.model, made.model_version
