-- The rows of processes in cost, and how much of each falls into time in which a unit was counted (unit_coverage):
--     SELECT … FROM covered_cost(policy = 'equal', unit = 'output_tokens', since = …, until = …)
-- By GPU and identity, so a price that changes within the span is averaged over it. covered_cost_as_of has one more
-- parameter, as_of: it uses the prices that were known at that time.
CREATE OR REPLACE VIEW covered_cost AS
SELECT
    host,
    gpu,
    pod,
    model,
    model_version,
    run,
    attempt,
    part,
    application,
    phase,
    {{trains}} AS is_training,
    energy_uj,
    error_uj,
    active_time_ns,
    gpu_time_ns,
    error_ns,
    price_per_gpu_hour_usd,
    price_per_kwh_usd,
    active_cost_usd,
    cost_usd,
    covered.known AS is_known,
    if(is_known, ifNull(covered.covered_time / nullIf(covered.time, 0), 1), 1) AS covered_time_ratio,
    if(is_known, ifNull(covered.covered_energy / nullIf(covered.energy, 0), 1), 1) AS covered_energy_ratio
FROM
(
    SELECT host, gpu, pod, model, model_version, run, attempt, part, application, phase, energy_uj, error_uj,
        active_time_ns, gpu_time_ns, error_ns, price_per_gpu_hour_usd, price_per_kwh_usd, active_cost_usd,
        cost_usd
    FROM cost_as_of(
        policy = {policy:String}, since = {since:String}, until = {until:String}, as_of = {as_of:String})
    WHERE account = 'process'
) AS spent
LEFT JOIN
(
    SELECT
        host,
        gpu,
        pod,
        model,
        model_version,
        run,
        phase,
        is_known AS known,
        gpu_time_ns AS time,
        energy_uj AS energy,
        covered_gpu_time_ns AS covered_time,
        covered_energy_uj AS covered_energy
    FROM unit_coverage(policy = {policy:String}, since = {since:String}, until = {until:String}, unit = {unit:String})
) AS covered USING (host, gpu, pod, model, model_version, run, phase)
