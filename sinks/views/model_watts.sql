-- What each model version was seen to draw for each percent of SM time, by GPU model, in [since, until):
--     SELECT … FROM model_watts(since = …, until = …)
-- Energy above idle ÷ SM time, over whole hours (UTC) that begin in the span. spread_w is how far hours and GPUs
-- differ, weighted by their SM time. The figure of a version that shared its GPUs rests on what was learned there.
CREATE OR REPLACE VIEW model_watts AS
SELECT
    gpu_model,
    model,
    model_version,
    sum(joules) / sum(busy_s) / 100 AS watts_per_percent,
    sqrt(greatest(0, sum(busy_s * pow(joules / busy_s / 100, 2)) / sum(busy_s) - pow(watts_per_percent, 2))) AS spread_w,
    sum(busy_s) / 3600 AS busy_hours,
    uniqExact(host, gpu) AS gpus
FROM
(
    SELECT
        gpu_model,
        model,
        model_version,
        host,
        gpu,
        sum(active_energy_uj) / 1e6 AS joules,
        sum(active_time_ns) / 1e9 AS busy_s
    FROM attribution_hour FINAL
    WHERE account = 'process' AND model != ''
        AND bucket_start >= parseDateTime64BestEffort({since:String}, 3, 'UTC')
        AND bucket_start < parseDateTime64BestEffort({until:String}, 3, 'UTC')
    GROUP BY gpu_model, model, model_version, host, gpu, bucket_start
    -- without power, or where hardly any SM time was read, it says nothing of the model
    HAVING busy_s > 0 AND joules > 0 AND joules / busy_s <= 10000
)
GROUP BY gpu_model, model, model_version
