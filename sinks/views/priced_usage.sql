-- What was used in [since, until) and what it cost with the prices known at as_of, by identity, account, price and bucket
-- of the calendar of a time zone. cost, cost_over_time and cost_as_of are this view with parameters filled in,
-- cost_by_policy with a row for each policy.
--     SELECT … FROM priced_usage(policy = 'memory', since = '2026-06-01', until = '2026-07-01', step = 'day',
--         tz = 'Europe/Berlin', as_of = '2026-06-15')
-- Every parameter is required; times are texts in UTC, or DateTimes. step is hour, day, week (from Monday), month, or
-- all for one bucket. Of the first and the last bucket, only what lies in the span is counted.
-- Integers are summed before they meet a price. Without a price the money is NULL. A price in another currency
-- than USD is named and not summed: its money is NULL too. Where a price does not include energy, energy is added at
-- the tariff of the hour in which it was used; without a tariff the money is NULL.
-- A user's price wins over a bundled one, then the more specific one, then the one recorded later.
--
-- It reads as few rows as possible (usage.part.sql).
CREATE OR REPLACE VIEW priced_usage AS
WITH
{{wrong_policy}},
{{wrong_step}},
    parseDateTime64BestEffort({as_of:String}, 3, 'UTC') AS as_of_at,
{{bounds}},
{{rates}},
    (
        SELECT groupUniqArray((host, gpu, bucket_start))
        FROM dirty_bucket FINAL
        WHERE bucket_start >= first_minute AND bucket_start < last_minute
    ) AS behind,
    used AS
    (
        SELECT
            multiIf(
                {step:String} = 'hour', toDateTime(toStartOfHour(summed.bucket_start, {tz:String}), 'UTC'),
                {step:String} = 'day', toDateTime(toStartOfDay(summed.bucket_start, {tz:String}), 'UTC'),
                {step:String} = 'week', toDateTime(toDateTime(toMonday(summed.bucket_start, {tz:String}), {tz:String}), 'UTC'),
                {step:String} = 'month', toDateTime(toDateTime(toStartOfMonth(summed.bucket_start, {tz:String}), {tz:String}), 'UTC'),
                toDateTime(since_at, 'UTC')) AS bucket_start,
            class,
            host,
            gpu,
            gpu_instance,
            account,
            identity,
            any(summed.gpu_model) AS gpu_model,
            any(summed.part) AS part,
            any(summed.cluster) AS cluster,
            any(summed.container) AS container,
            any(summed.pod) AS pod,
            any(summed.namespace) AS namespace,
            any(summed.job) AS job,
            any(summed.user) AS user,
            any(summed.team) AS team,
            any(summed.application) AS application,
            any(summed.workload) AS workload,
            any(summed.phase) AS phase,
            any(summed.model) AS model,
            any(summed.model_version) AS model_version,
            any(summed.run) AS run,
            any(summed.attempt) AS attempt,
            any(summed.provider) AS provider,
            any(summed.region) AS region,
            any(summed.pricing) AS pricing,
            any(summed.labels) AS labels,
            sum(summed.active_energy_uj) AS active_energy_uj,
            sum(summed.idle_energy_equal_uj) AS idle_energy_equal_uj,
            sum(summed.idle_energy_memory_uj) AS idle_energy_memory_uj,
            sum(summed.idle_energy_active_uj) AS idle_energy_active_uj,
            sum(summed.active_time_ns) AS active_time_ns,
            sum(summed.gpu_time_equal_ns) AS gpu_time_equal_ns,
            sum(summed.gpu_time_memory_ns) AS gpu_time_memory_ns,
            sum(summed.gpu_time_active_ns) AS gpu_time_active_ns,
            sum(summed.error_uj) AS error_uj,
            sum(summed.error_ns) AS error_ns
        FROM
        (
{{classed}}
        ) AS summed
        WHERE wrong_policy = 0 AND wrong_step = 0
        GROUP BY bucket_start, class, host, gpu, gpu_instance, account, identity
    )
SELECT
    bucket_start,
    * EXCEPT (
        bucket_start, class, identity, held_tariffs, idle_energy_equal_uj, idle_energy_memory_uj, idle_energy_active_uj,
        gpu_time_equal_ns, gpu_time_memory_ns, gpu_time_active_ns),
    policy,
    multiIf(policy = 'equal', idle_energy_equal_uj, policy = 'memory', idle_energy_memory_uj, idle_energy_active_uj)
        AS idle_energy_uj,
    multiIf(policy = 'equal', gpu_time_equal_ns, policy = 'memory', gpu_time_memory_ns, gpu_time_active_ns) AS gpu_time_ns,
    active_energy_uj + idle_energy_uj AS energy_uj,
    (price_per_gpu_hour_usd * active_time_ns + price_per_kwh_usd * active_energy_uj) / 3.6e12 AS active_cost_usd,
    (price_per_gpu_hour_usd * (gpu_time_ns - active_time_ns) + price_per_kwh_usd * idle_energy_uj) / 3.6e12
        AS idle_cost_usd,
    (price_per_gpu_hour_usd * gpu_time_ns + price_per_kwh_usd * energy_uj) / 3.6e12 AS cost_usd,
    price_per_kwh_usd * energy_uj / 3.6e12 AS energy_cost_usd
FROM
(
{{priced}}
)
ARRAY JOIN [{policy:String}] AS policy
