-- What each model version cost in [since, until), and for each token and request that it served, under an idle policy:
--     SELECT … FROM model_cost(policy = 'equal', since = …, until = …)
-- Serving is what is not training: training is of phase training, or of a run without a phase, and a column of its own.
-- Energy and money of the processes alone, as in unit_cost. Without units, or without a price, a quotient is NULL.
CREATE OR REPLACE VIEW model_cost AS
SELECT
    spent.model AS model,
    spent.model_version AS model_version,
    spent.energy AS energy_uj,
    spent.gpu_time AS gpu_time_ns,
    if(gpu_time_ns > 0, spent.active_time / gpu_time_ns, NULL) AS active_ratio,
    spent.money AS cost_usd,
    spent.active_money AS active_cost_usd,
    spent.training_energy AS training_energy_uj,
    spent.training_gpu_time AS training_gpu_time_ns,
    spent.training_money AS training_cost_usd,
    if(served.output_tokens > 0, served.output_tokens, NULL) AS output_tokens,
    if(served.input_tokens > 0, served.input_tokens, NULL) AS input_tokens,
    if(served.requests > 0, served.requests, NULL) AS requests,
    cost_usd / output_tokens * 1e6 AS cost_usd_per_million_output_tokens,
    active_cost_usd / output_tokens * 1e6 AS busy_usd_per_million_output_tokens,
    cost_usd / requests AS cost_usd_per_request,
    energy_uj / 1e6 / output_tokens AS j_per_output_token,
    measured.quality AS quality
FROM
(
    SELECT
        model,
        model_version,
        sumIf(energy_uj, NOT is_training) AS energy,
        sumIf(gpu_time_ns, NOT is_training) AS gpu_time,
        sumIf(active_time_ns, NOT is_training) AS active_time,
        sumIf(energy_uj, is_training) AS training_energy,
        sumIf(gpu_time_ns, is_training) AS training_gpu_time,
        if(countIf(cost_usd IS NULL AND NOT is_training) = 0, ifNull(sumIf(cost_usd, NOT is_training), 0), NULL) AS money,
        if(money IS NULL, NULL, ifNull(sumIf(active_cost_usd, NOT is_training), 0)) AS active_money,
        if(countIf(cost_usd IS NULL AND is_training) = 0, ifNull(sumIf(cost_usd, is_training), 0), NULL) AS training_money
    FROM
    (
        SELECT *, phase = 'training' OR (run != '' AND phase = '') AS is_training
        FROM cost(policy = {policy:String}, since = {since:String}, until = {until:String})
        WHERE account = 'process' AND model != ''
    )
    GROUP BY model, model_version
) AS spent
LEFT JOIN
(
    SELECT
        model,
        model_version,
        sumIf(quantity, unit = 'output_tokens') AS output_tokens,
        sumIf(quantity, unit = 'input_tokens') AS input_tokens,
        sumIf(quantity, unit = 'requests') AS requests
    FROM
    (
        SELECT 'output_tokens' AS unit, model, model_version, run, phase, quantity
        FROM counted_unit(unit = 'output_tokens', since = {since:String}, until = {until:String})
        UNION ALL
        SELECT 'input_tokens' AS unit, model, model_version, run, phase, quantity
        FROM counted_unit(unit = 'input_tokens', since = {since:String}, until = {until:String})
        UNION ALL
        SELECT 'requests' AS unit, model, model_version, run, phase, quantity
        FROM counted_unit(unit = 'requests', since = {since:String}, until = {until:String})
    )
    WHERE NOT (phase = 'training' OR (run != '' AND phase = ''))
    GROUP BY model, model_version
) AS served ON spent.model = served.model AND spent.model_version = served.model_version
LEFT JOIN
(
    -- the latest of each metric, whenever it was measured
    SELECT
        model,
        model_version,
        mapFromArrays(groupArray(measure), groupArray(latest)) AS quality
    FROM
    (
        SELECT
            model,
            model_version,
            concat(metric, if(dataset = '', '', concat(' on ', dataset))) AS measure,
            argMax(value, t) AS latest
        FROM quality FINAL
        GROUP BY model, model_version, measure
        ORDER BY measure
    )
    GROUP BY model, model_version
) AS measured ON spent.model = measured.model AND spent.model_version = measured.model_version
