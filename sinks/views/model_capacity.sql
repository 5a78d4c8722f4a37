-- The most that each model version served for its GPU time: output tokens a GPU second in the best 15 minutes in a
-- row, in each of which it held a GPU, of [since, until), under an idle policy. No row: there were no such 15 minutes.
CREATE OR REPLACE VIEW model_capacity AS
SELECT
    model,
    model_version,
    max(tokens / time_ns * 1e9) AS output_tokens_per_gpu_s,
    fromUnixTimestamp64Second((argMax(minute, tokens / time_ns) - 14) * 60, 'UTC') AS best_from
FROM
(
    SELECT
        model,
        model_version,
        minute,
        sum(output_tokens) OVER quarter AS tokens,
        sum(gpu_time_ns) OVER quarter AS time_ns,
        count() OVER quarter AS minutes
    FROM model_minute(policy = {policy:String}, since = {since:String}, until = {until:String})
    WHERE gpu_time_ns > 0
    WINDOW quarter AS (PARTITION BY model, model_version ORDER BY minute RANGE BETWEEN 14 PRECEDING AND CURRENT ROW)
)
WHERE minutes = 15 AND tokens > 0
GROUP BY model, model_version
