-- What one unit cost and took, by model, model version and run, with training (is_training) separate from serving:
-- Σ cost / Σ units, each summed before the division.
--     SELECT … FROM unit_cost(policy = 'memory', since = …, until = …, unit = 'output_tokens')
-- Energy and money are those of processes only: idle and residual are in cost. What was spent while the units were not
-- counted is left out of the quotients: coverage_ratio is the part of the GPU time that is included. Where a quotient
-- is NULL, why_null says why. Units for which no GPU time was seen have a row of their own.
CREATE OR REPLACE VIEW unit_cost AS
SELECT
    model,
    model_version,
    run,
    is_training,
    {unit:String} AS unit,
    if(unit_rows = 0, NULL, counted_quantity) AS quantity,
    energy AS energy_uj,
    gpu_time AS gpu_time_ns,
    if(unpriced = 0, money, NULL) AS cost_usd,
    multiIf(covered_time = 0, NULL, quantity > 0, if(unpriced = 0, covered_money, NULL) / quantity, NULL) AS cost_usd_per_unit,
    cost_usd_per_unit * 1e6 AS cost_usd_per_million,
    multiIf(covered_time = 0, NULL, quantity > 0, covered_energy / 1e6 / quantity, NULL) AS j_per_unit,
    if(is_known, covered_time / nullIf(gpu_time, 0), NULL) AS coverage_ratio,
    multiIf(
        unit_rows = 0, 'not counted',
        counted_quantity = 0, 'the count is 0',
        spent_rows = 0, 'unmatched: no GPU time was seen',
        covered_time = 0, 'no GPU time while it was counted',
        unpriced > 0, 'unpriced',
        '') AS why_null
FROM
(
    SELECT
        who.1 AS model,
        who.2 AS model_version,
        who.3 AS run,
        who.4 AS is_training,
        sum(spent_row) AS spent_rows,
        sum(1 - spent_row) AS unit_rows,
        sum(number) AS counted_quantity,
        -- the time of 100,000 GPUs passes 64 bits within a day and two hours
        sum(toInt128(energy_part)) AS energy,
        sum(toInt128(time_part)) AS gpu_time,
        sum(money_part) AS money,
        sum(unpriced_part) AS unpriced,
        sum(energy_part * energy_share) AS covered_energy,
        sum(time_part * time_share) AS covered_time,
        sum(money_part * time_share) AS covered_money,
        max(known) AS is_known
    FROM
    (
        -- one key, not four: for each the engine looks at all that lies below, 0.03 s
        SELECT
            (model, model_version, run, is_training) AS who,
            1 AS spent_row,
            0. AS number,
            energy_uj AS energy_part,
            gpu_time_ns AS time_part,
            ifNull(cost_usd, 0) AS money_part,
            cost_usd IS NULL AS unpriced_part,
            covered_energy_ratio AS energy_share,
            covered_time_ratio AS time_share,
            is_known AS known
        FROM covered_cost(policy = {policy:String}, since = {since:String}, until = {until:String}, unit = {unit:String})
        UNION ALL
        SELECT (model, model_version, run, is_training), 0, quantity, 0, 0, 0, 0, 0, 0, 0
        FROM counted_unit(unit = {unit:String}, since = {since:String}, until = {until:String})
    )
    GROUP BY who
)
