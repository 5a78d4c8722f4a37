-- What one unit cost and took, by model, model version and run: Σ cost / Σ units, each summed before they meet.
--     SELECT … FROM unit_cost(policy = 'memory', since = …, until = …, unit = 'output_tokens')
-- Energy and money of the processes alone: idle and residual are in cost. Without units, or without a price, a quotient is NULL.
CREATE OR REPLACE VIEW unit_cost AS
SELECT
    spent.model AS model,
    spent.model_version AS model_version,
    spent.run AS run,
    {unit:String} AS unit,
    if(counted.unit_rows = 0, NULL, counted.quantity) AS quantity,
    spent.energy AS energy_uj,
    spent.gpu_time AS gpu_time_ns,
    spent.money AS cost_usd,
    if(quantity > 0, cost_usd / quantity, NULL) AS cost_usd_per_unit,
    if(quantity > 0, cost_usd / quantity * 1e6, NULL) AS cost_usd_per_million,
    if(quantity > 0, energy_uj / 1e6 / quantity, NULL) AS j_per_unit
FROM
(
    SELECT
        model,
        model_version,
        run,
        sum(energy_uj) AS energy,
        sum(gpu_time_ns) AS gpu_time,
        if(countIf(cost_usd IS NULL) = 0, sum(cost_usd), NULL) AS money
    FROM cost(policy = {policy:String}, since = {since:String}, until = {until:String})
    WHERE account = 'process'
    GROUP BY model, model_version, run
) AS spent
LEFT JOIN
(
    SELECT model, model_version, run, sum(quantity) AS quantity, count() AS unit_rows
    FROM counted_unit(unit = {unit:String}, since = {since:String}, until = {until:String})
    GROUP BY model, model_version, run
) AS counted
ON spent.model = counted.model AND spent.model_version = counted.model_version AND spent.run = counted.run
