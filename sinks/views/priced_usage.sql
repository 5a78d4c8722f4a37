-- What was used in [since, until) and what it cost with the prices known at as_of, by identity, account, price and bucket
-- of the calendar of a time zone. cost, cost_over_time and cost_as_of are this view with parameters filled in.
--     SELECT … FROM priced_usage(policy = 'memory', since = '2026-06-01', until = '2026-07-01', step = 'day',
--         tz = 'Europe/Berlin', as_of = '2026-06-15')
-- Every parameter is required; times are texts in UTC, or DateTimes. step is hour, day, week (from Monday), month, or
-- all for one bucket; of the first and the last one only what lies in the span is counted.
-- Integers are summed before they meet a price. Without a price the money is NULL. A price in another currency
-- than USD is named and not summed: its money is NULL too. Where a price does not include energy, that is added at the
-- tariff of the hour in which it was used; without a tariff the money is NULL.
-- A user's price wins over a bundled one, then the more specific one, then the one recorded later.
--
-- It reads as few rows as can be: the sums of whole days, hours and minutes (UTC), and attribution at the ends of the
-- span. A sum is used where no price, tariff or bucket begins within it, and none of its minutes is behind
-- (dirty_bucket); else the finer ones are. That adds up to the plain sum over attribution, to the last digit.
-- Conditions on the key go into PREWHERE: all versions of a row have the same key, so FINAL sees them all or none.
CREATE OR REPLACE VIEW priced_usage AS
WITH
    (
        -- subqueries of their own, so that they are evaluated where there is no row too
        SELECT throwIf(
            {policy:String} NOT IN ('equal', 'memory', 'active'),
            'unknown policy: it is one of equal, memory, active')
    ) AS wrong_policy,
    (
        SELECT throwIf(
            {step:String} NOT IN ('all', 'hour', 'day', 'week', 'month'),
            'unknown step: it is one of hour, day, week, month, all')
    ) AS wrong_step,
    greatest(parseDateTime64BestEffort({since:String}, 3, 'UTC'), toDateTime64(0, 3, 'UTC')) AS since_at,
    least(parseDateTime64BestEffort({until:String}, 3, 'UTC'), toDateTime64('2106-01-01', 3, 'UTC')) AS until_at,
    parseDateTime64BestEffort({as_of:String}, 3, 'UTC') AS as_of_at,
    toStartOfMinute(since_at + toIntervalMillisecond(59999)) AS first_minute,
    toStartOfHour(since_at + toIntervalMillisecond(3599999)) AS first_hour,
    toStartOfDay(since_at + toIntervalMillisecond(86399999)) AS first_day,
    toStartOfMinute(until_at) AS last_minute,
    toStartOfHour(until_at) AS last_hour,
    toStartOfDay(until_at) AS last_day,
{{rates}},
    -- as in tariff_book, of all that was ever told: that costs a few more rows, and less time than to ask tariff_book
    (SELECT max(from_hour != 0 OR to_hour != 24 OR length(days) != 7) FROM tariff) = 1 AS has_hours,
    (
        SELECT max(arrayExists(ahead_s -> ahead_s % 3600 != 0, offset_s))
        FROM tariff
        WHERE from_hour != 0 OR to_hour != 24 OR length(days) != 7
    ) = 1 AS has_quarters,
    (
        SELECT groupUniqArray((host, gpu, bucket_start))
        FROM dirty_bucket FINAL
        WHERE bucket_start >= first_minute AND bucket_start < last_minute
    ) AS behind
SELECT
    used.bucket_start AS bucket_start,
    used.host AS host,
    used.gpu AS gpu,
    used.gpu_instance AS gpu_instance,
    used.account AS account,
    used.gpu_model AS gpu_model,
    used.part AS part,
    used.cluster AS cluster,
    used.container AS container,
    used.pod AS pod,
    used.namespace AS namespace,
    used.job AS job,
    used.user AS user,
    used.team AS team,
    used.application AS application,
    used.workload AS workload,
    used.phase AS phase,
    used.model AS model,
    used.model_version AS model_version,
    used.run AS run,
    used.attempt AS attempt,
    used.provider AS provider,
    used.region AS region,
    used.pricing AS pricing,
    used.labels AS labels,
    used.active_energy AS active_energy_uj,
    used.idle_energy AS idle_energy_uj,
    active_energy_uj + idle_energy_uj AS energy_uj,
    used.active_time AS active_time_ns,
    used.gpu_time AS gpu_time_ns,
    used.error_energy AS error_uj,
    used.error_time AS error_ns,
    -- the greatest of what matches; where nothing does, a tuple of empty texts
    arrayMax(arrayFilter(
        p -> (p.9 = '' OR p.9 = used.provider) AND (p.10 = '' OR p.10 = used.region)
            AND (p.11 = '' OR p.11 = used.pricing),
        rate.held_prices)) AS best,
    best.4 AS price_id,
    best.6 AS currency,
    if(currency = 'USD', best.5, NULL) AS price_per_gpu_hour_usd,
    arrayMax(arrayFilter(
        t -> NOT best.12 AND (t.6 = '' OR t.6 = used.provider) AND (t.7 = '' OR t.7 = used.region),
        rate.held_tariffs)) AS best_tariff,
    best_tariff.3 AS tariff_id,
    multiIf(price_id = '', NULL, best.12, 0, best_tariff.5 = 'USD', best_tariff.4, NULL) AS price_per_kwh_usd,
    (price_per_gpu_hour_usd * active_time_ns + price_per_kwh_usd * active_energy_uj) / 3.6e12 AS active_cost_usd,
    (price_per_gpu_hour_usd * (gpu_time_ns - active_time_ns) + price_per_kwh_usd * idle_energy_uj) / 3.6e12
        AS idle_cost_usd,
    (price_per_gpu_hour_usd * gpu_time_ns + price_per_kwh_usd * energy_uj) / 3.6e12 AS cost_usd,
    price_per_kwh_usd * energy_uj / 3.6e12 AS energy_cost_usd
FROM
(
    SELECT
        multiIf(
            {step:String} = 'hour', toDateTime(toStartOfHour(summed.bucket_start, {tz:String}), 'UTC'),
            {step:String} = 'day', toDateTime(toStartOfDay(summed.bucket_start, {tz:String}), 'UTC'),
            {step:String} = 'week', toDateTime(toDateTime(toMonday(summed.bucket_start, {tz:String}), {tz:String}), 'UTC'),
            {step:String} = 'month', toDateTime(toDateTime(toStartOfMonth(summed.bucket_start, {tz:String}), {tz:String}), 'UTC'),
            toDateTime(since_at, 'UTC')) AS bucket_start,
        summed.r.2[(indexOf(summed.r.1, roundDown(toInt64(toUnixTimestamp(summed.bucket_start)), summed.r.1)) - 1) * summed.r.4 + intDiv(toInt64(toUnixTimestamp(summed.bucket_start)) % 604800, summed.r.5) + 1] AS class,
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
        sum(summed.active_energy_uj) AS active_energy,
        sum(multiIf(
            {policy:String} = 'equal', summed.idle_energy_equal_uj,
            {policy:String} = 'memory', summed.idle_energy_memory_uj,
            summed.idle_energy_active_uj)) AS idle_energy,
        sum(summed.active_time_ns) AS active_time,
        sum(multiIf(
            {policy:String} = 'equal', summed.gpu_time_equal_ns,
            {policy:String} = 'memory', summed.gpu_time_memory_ns,
            summed.gpu_time_active_ns)) AS gpu_time,
        sum(summed.error_uj) AS error_energy,
        sum(summed.error_ns) AS error_time
    FROM
    (
        SELECT *, rates AS r
        FROM
        (
        SELECT * EXCEPT (flags, window_count, version, deleted)
        FROM attribution_day FINAL
        PREWHERE bucket_start >= first_day AND bucket_start < last_day
            AND NOT (has_hours OR bucket_start IN (SELECT toStartOfDay(edge) FROM price_edge WHERE edge != toStartOfDay(edge))
                OR NOT ({step:String} = 'all' OR {tz:String} = 'UTC' AND {step:String} != 'hour') AND multiIf({step:String} = 'hour', toStartOfHour(bucket_start, {tz:String}), {step:String} = 'day', toStartOfDay(bucket_start, {tz:String}),
                    {step:String} = 'week', toDateTime(toMonday(bucket_start, {tz:String}), {tz:String}),
                    toDateTime(toStartOfMonth(bucket_start, {tz:String}), {tz:String}))
                    != multiIf({step:String} = 'hour', toStartOfHour(bucket_start + 86399, {tz:String}), {step:String} = 'day', toStartOfDay(bucket_start + 86399, {tz:String}),
                    {step:String} = 'week', toDateTime(toMonday(bucket_start + 86399, {tz:String}), {tz:String}),
                    toDateTime(toStartOfMonth(bucket_start + 86399, {tz:String}), {tz:String})))
            AND NOT (host, gpu, bucket_start) IN (
                SELECT late.1, late.2, toStartOfDay(late.3) FROM (SELECT arrayJoin(behind) AS late))
        UNION ALL
        SELECT * EXCEPT (flags, window_count, version, deleted)
        FROM attribution_hour FINAL
        PREWHERE bucket_start >= first_hour AND bucket_start < last_hour
            AND (bucket_start < first_day OR bucket_start >= last_day
                OR (has_hours OR toStartOfDay(bucket_start) IN (SELECT toStartOfDay(edge) FROM price_edge WHERE edge != toStartOfDay(edge))
                OR NOT ({step:String} = 'all' OR {tz:String} = 'UTC' AND {step:String} != 'hour') AND multiIf({step:String} = 'hour', toStartOfHour(toStartOfDay(bucket_start), {tz:String}), {step:String} = 'day', toStartOfDay(toStartOfDay(bucket_start), {tz:String}),
                    {step:String} = 'week', toDateTime(toMonday(toStartOfDay(bucket_start), {tz:String}), {tz:String}),
                    toDateTime(toStartOfMonth(toStartOfDay(bucket_start), {tz:String}), {tz:String}))
                    != multiIf({step:String} = 'hour', toStartOfHour(toStartOfDay(bucket_start) + 86399, {tz:String}), {step:String} = 'day', toStartOfDay(toStartOfDay(bucket_start) + 86399, {tz:String}),
                    {step:String} = 'week', toDateTime(toMonday(toStartOfDay(bucket_start) + 86399, {tz:String}), {tz:String}),
                    toDateTime(toStartOfMonth(toStartOfDay(bucket_start) + 86399, {tz:String}), {tz:String})))
                OR (host, gpu, toStartOfDay(bucket_start)) IN (
                SELECT late.1, late.2, toStartOfDay(late.3) FROM (SELECT arrayJoin(behind) AS late)))
            AND NOT (has_quarters OR bucket_start IN (SELECT toStartOfHour(edge) FROM price_edge WHERE edge != toStartOfHour(edge))
                OR NOT ({step:String} = 'all' OR {tz:String} = 'UTC') AND multiIf({step:String} = 'hour', toStartOfHour(bucket_start, {tz:String}), {step:String} = 'day', toStartOfDay(bucket_start, {tz:String}),
                    {step:String} = 'week', toDateTime(toMonday(bucket_start, {tz:String}), {tz:String}),
                    toDateTime(toStartOfMonth(bucket_start, {tz:String}), {tz:String}))
                    != multiIf({step:String} = 'hour', toStartOfHour(bucket_start + 3599, {tz:String}), {step:String} = 'day', toStartOfDay(bucket_start + 3599, {tz:String}),
                    {step:String} = 'week', toDateTime(toMonday(bucket_start + 3599, {tz:String}), {tz:String}),
                    toDateTime(toStartOfMonth(bucket_start + 3599, {tz:String}), {tz:String})))
            AND NOT (host, gpu, bucket_start) IN (
                SELECT late.1, late.2, toStartOfHour(late.3) FROM (SELECT arrayJoin(behind) AS late))
        UNION ALL
        SELECT * EXCEPT (flags, window_count, version, deleted)
        FROM attribution_minute FINAL
        PREWHERE bucket_start >= first_minute AND bucket_start < last_minute
            AND (bucket_start < first_hour OR bucket_start >= last_hour
                OR (has_quarters OR toStartOfHour(bucket_start) IN (SELECT toStartOfHour(edge) FROM price_edge WHERE edge != toStartOfHour(edge))
                OR NOT ({step:String} = 'all' OR {tz:String} = 'UTC') AND multiIf({step:String} = 'hour', toStartOfHour(toStartOfHour(bucket_start), {tz:String}), {step:String} = 'day', toStartOfDay(toStartOfHour(bucket_start), {tz:String}),
                    {step:String} = 'week', toDateTime(toMonday(toStartOfHour(bucket_start), {tz:String}), {tz:String}),
                    toDateTime(toStartOfMonth(toStartOfHour(bucket_start), {tz:String}), {tz:String}))
                    != multiIf({step:String} = 'hour', toStartOfHour(toStartOfHour(bucket_start) + 3599, {tz:String}), {step:String} = 'day', toStartOfDay(toStartOfHour(bucket_start) + 3599, {tz:String}),
                    {step:String} = 'week', toDateTime(toMonday(toStartOfHour(bucket_start) + 3599, {tz:String}), {tz:String}),
                    toDateTime(toStartOfMonth(toStartOfHour(bucket_start) + 3599, {tz:String}), {tz:String})))
                OR (host, gpu, toStartOfHour(bucket_start)) IN (
                SELECT late.1, late.2, toStartOfHour(late.3) FROM (SELECT arrayJoin(behind) AS late)))
            AND NOT (host, gpu, bucket_start) IN (
                SELECT late.1, late.2, late.3 FROM (SELECT arrayJoin(behind) AS late))
        UNION ALL
        SELECT
            toStartOfMinute(window_start) AS bucket_start,
            host,
            gpu,
            gpu_instance,
            account,
            sipHash64(gpu_model, part, cluster, container, pod, namespace, job, user, team, application, workload, phase,
                model, model_version, run, provider, region, pricing, attempt, labels) AS identity,
            gpu_model,
            part,
            cluster,
            container,
            pod,
            namespace,
            job,
            user,
            team,
            application,
            workload,
            phase,
            model,
            model_version,
            run,
            attempt,
            provider,
            region,
            pricing,
            labels,
            active_energy_uj,
            idle_energy_equal_uj,
            idle_energy_memory_uj,
            idle_energy_active_uj,
            active_time_ns,
            gpu_time_equal_ns,
            gpu_time_memory_ns,
            gpu_time_active_ns,
            error_uj,
            error_ns
        FROM attribution FINAL
        PREWHERE window_start >= since_at AND window_start < until_at
            AND (window_start < first_minute OR window_start >= last_minute
                OR (host, gpu, toStartOfMinute(window_start)) IN (
                SELECT late.1, late.2, late.3 FROM (SELECT arrayJoin(behind) AS late)))
        )
    ) AS summed
    WHERE wrong_policy = 0 AND wrong_step = 0
    GROUP BY bucket_start, class, host, gpu, gpu_instance, account, identity
) AS used
LEFT JOIN
(
    SELECT held.1 AS class, price.13 AS gpu_model, groupArray(price) AS held_prices, any(held.3) AS held_tariffs
    FROM (SELECT arrayJoin(rates.3) AS held, arrayJoin(held.2) AS price)
    GROUP BY class, gpu_model
) AS rate ON used.class = rate.class AND used.gpu_model = rate.gpu_model
