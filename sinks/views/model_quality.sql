-- How good each model version was found to be before until, and how fast in [since, until). For each metric and dataset
-- the latest value, with its number of samples and which way is better. For a latency (a metric with a name like
-- ttft_p95_s) the mean over the span, weighted by the number of samples.
CREATE OR REPLACE VIEW model_quality AS
WITH
    parseDateTime64BestEffort({since:String}, 3, 'UTC') AS since_at,
    parseDateTime64BestEffort({until:String}, 3, 'UTC') AS until_at
SELECT
    model,
    model_version,
    metric,
    dataset,
    match(metric, '_p[0-9]+_s$') AS is_latency,
    if(is_latency,
        if(sum(q.sample_count) > 0, sum(q.value * q.sample_count) / sum(q.sample_count), avg(q.value)),
        argMax(q.value, q.t)) AS value,
    if(is_latency, sum(q.sample_count), argMax(tuple(q.sample_count), q.t).1) AS sample_count,
    argMax(q.higher_is_better, q.t) AND NOT is_latency AS higher_is_better,
    max(q.t) AS measured_at
FROM quality AS q FINAL
WHERE model != '' AND t < until_at AND (t >= since_at OR NOT is_latency)
GROUP BY model, model_version, metric, dataset
