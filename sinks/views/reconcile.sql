-- Whether the parts add up to the bill: the processes, reservations, idle GPUs and what cannot be split, as in cost,
-- and what no collector saw, beside the GPU time billed in [since, until), under an idle policy:
--     SELECT … FROM reconcile(policy = 'equal', since = …, until = …)
-- A row for each host, GPU model and price. The two sides are computed separately: one from what was measured, priced
-- as in cost, the other from the time billed (view billed) and the price in force. Without a price the money is NULL.
CREATE OR REPLACE VIEW reconcile AS
SELECT
    host,
    gpu_model,
    provider,
    region,
    pricing,
    (host, gpu_model) IN (SELECT host, gpu_model FROM billed_host FINAL) AS is_declared,
    price_id,
    currency,
    price_per_gpu_hour_usd,
    sum(side.process) AS process_ns,
    sum(side.reserved) AS reserved_ns,
    sum(side.unheld) AS unheld_ns,
    sum(side.residual) AS residual_ns,
    sum(side.unobserved) AS unobserved_ns,
    sum(side.billed) AS billed_ns,
    billed_ns - process_ns - reserved_ns - unheld_ns - residual_ns - unobserved_ns AS difference_ns,
    price_per_gpu_hour_usd * process_ns / 3.6e12 AS process_usd,
    price_per_gpu_hour_usd * reserved_ns / 3.6e12 AS reserved_usd,
    price_per_gpu_hour_usd * unheld_ns / 3.6e12 AS unheld_usd,
    price_per_gpu_hour_usd * residual_ns / 3.6e12 AS residual_usd,
    price_per_gpu_hour_usd * toFloat64(unobserved_ns) / 3.6e12 AS unobserved_usd,
    price_per_gpu_hour_usd * toFloat64(billed_ns) / 3.6e12 AS billed_usd,
    price_per_gpu_hour_usd * toFloat64(difference_ns) / 3.6e12 AS difference_usd
FROM
(
    SELECT
        host,
        gpu_model,
        provider,
        region,
        pricing,
        price_id,
        currency,
        price_per_gpu_hour_usd,
        sumIf(gpu_time_ns, account = 'process') AS process,
        sumIf(gpu_time_ns, account = 'reserved') AS reserved,
        sumIf(gpu_time_ns, account = 'unheld') AS unheld,
        sumIf(gpu_time_ns, account = 'residual') AS residual,
        toInt64(0) AS unobserved,
        toInt64(0) AS billed
    FROM cost(policy = {policy:String}, since = {since:String}, until = {until:String})
    GROUP BY ALL
    UNION ALL
    SELECT host, gpu_model, provider, region, pricing, price_id, currency, price_per_gpu_hour_usd,
        0, 0, 0, 0, unobserved_ns, billed_ns
    FROM billed(since = {since:String}, until = {until:String}, step = 'all', tz = 'UTC', as_of = '2200-01-01')
) AS side
GROUP BY host, gpu_model, provider, region, pricing, price_id, currency, price_per_gpu_hour_usd
