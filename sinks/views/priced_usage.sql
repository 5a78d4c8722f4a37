-- What was used in [since, until) and what it cost with the prices known at as_of, by identity, account, price and step
-- of the calendar of a time zone: the view that cost, cost_over_time and cost_as_of ask.
--     SELECT … FROM priced_usage(policy = 'memory', since = '2026-06-01', until = '2026-07-01', step = 'day',
--         tz = 'Europe/Berlin', as_of = '2026-06-15')
-- step is hour, day, week (from Monday), month, or all for a single bucket.
-- Integers are summed before they meet a price. Without a price the money is NULL. A price in another currency
-- than USD is named and not summed: its money is NULL too.
-- A user's price wins over a bundled one, then the more specific one, then the one recorded later.
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
    parseDateTime64BestEffort({since:String}, 3, 'UTC') AS since_at,
    parseDateTime64BestEffort({until:String}, 3, 'UTC') AS until_at,
    (
        -- where a price begins or ends within the span: sums do not cross these
        SELECT arraySort(groupUniqArray(edge))
        FROM (SELECT arrayJoin([book_price.7, book_price.8]) AS edge
            FROM (SELECT arrayJoin(prices) AS book_price FROM price_book(as_of = {as_of:String})))
        WHERE edge > since_at AND edge < until_at
    ) AS edges
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
        p -> p.7 <= used.priced_at AND p.8 > used.priced_at AND (p.9 = '' OR p.9 = used.provider)
            AND (p.10 = '' OR p.10 = used.region) AND (p.11 = '' OR p.11 = used.pricing),
        book.prices)) AS best,
    best.4 AS price_id,
    best.6 AS currency,
    if(currency = 'USD', best.5, NULL) AS price_per_gpu_hour_usd,
    price_per_gpu_hour_usd * active_time_ns / 3.6e12 AS active_cost_usd,
    price_per_gpu_hour_usd * (gpu_time_ns - active_time_ns) / 3.6e12 AS idle_cost_usd,
    price_per_gpu_hour_usd * gpu_time_ns / 3.6e12 AS cost_usd,
    if(price_per_gpu_hour_usd IS NULL OR NOT best.12, NULL, 0.) AS energy_cost_usd
FROM
(
    SELECT
        multiIf(
            {step:String} = 'hour', toDateTime(toStartOfHour(window_start, {tz:String}), 'UTC'),
            {step:String} = 'day', toDateTime(toStartOfDay(window_start, {tz:String}), 'UTC'),
            {step:String} = 'week', toDateTime(toDateTime(toMonday(window_start, {tz:String}), {tz:String}), 'UTC'),
            {step:String} = 'month',
                toDateTime(toDateTime(toStartOfMonth(window_start, {tz:String}), {tz:String}), 'UTC'),
            toDateTime(since_at, 'UTC')) AS bucket_start,
        host,
        gpu,
        gpu_instance,
        account,
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
        if(segment = 0, since_at, toDateTime64(edges[segment], 3, 'UTC')) AS priced_at,
        sum(active_energy_uj) AS active_energy,
        sum(multiIf(
            {policy:String} = 'equal', idle_energy_equal_uj,
            {policy:String} = 'memory', idle_energy_memory_uj,
            idle_energy_active_uj)) AS idle_energy,
        sum(active_time_ns) AS active_time,
        sum(multiIf(
            {policy:String} = 'equal', gpu_time_equal_ns,
            {policy:String} = 'memory', gpu_time_memory_ns,
            gpu_time_active_ns)) AS gpu_time,
        sum(error_uj) AS error_energy,
        sum(error_ns) AS error_time,
        arrayCount(edge -> edge <= window_start, edges) AS segment
    FROM attribution FINAL
    WHERE window_start >= since_at AND window_start < until_at AND wrong_policy = 0 AND wrong_step = 0
    GROUP BY ALL
) AS used
LEFT JOIN price_book(as_of = {as_of:String}) AS book ON used.gpu_model = book.gpu_model
