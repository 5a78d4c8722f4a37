-- What each model version cost in [since, until), and each token and request that it served, under an idle policy:
--     SELECT … FROM model_cost(policy = 'equal', since = …, until = …)
-- Training has the phase training, or a run and no phase; it has columns of its own, and everything else is serving.
-- Energy and money are those of processes only, as in unit_cost. Over the rows they add up to those of all processes,
-- because what has no model, no units, or no GPU time has a row too (unmatched). What is not known is NULL, and reasons
-- says why. docs/unit-costs.md has the mathematics.
CREATE OR REPLACE VIEW model_cost AS
SELECT
    model,
    model_version,
    unmatched,
    energy_uj,
    gpu_time_ns,
    if(gpu_time_ns > 0, active_time_ns / gpu_time_ns, NULL) AS active_ratio,
    cost_usd,
    active_cost_usd,
    coverage_ratio,
    error_uj,
    error_usd,
    training_energy_uj,
    training_gpu_time_ns,
    training_cost_usd,
    output_tokens,
    input_tokens,
    cached_tokens,
    reasoning_tokens,
    requests,
    served_cost_usd / output_tokens * 1e6 AS cost_usd_per_million_output_tokens,
    served_active_usd / output_tokens * 1e6 AS busy_usd_per_million_output_tokens,
    capacity_output_tokens_per_gpu_s,
    served_cost_usd / served_s / capacity_output_tokens_per_gpu_s * 1e6
        AS capacity_usd_per_million_output_tokens,
    requests_cost_usd / requests AS cost_usd_per_request,
    served_j / output_tokens AS j_per_output_token,
    requests_j / requests AS j_per_request,
    fit_minutes,
    fit_r_squared,
    token_price_method,
    served_cost_usd * input_ratio AS input_cost_usd,
    served_cost_usd - input_cost_usd AS output_cost_usd,
    served_cost_usd * input_ratio / nullIf(computed_tokens, 0) * 1e6 AS input_price_usd_per_million,
    served_cost_usd * (1 - input_ratio) / output_tokens * 1e6 AS output_price_usd_per_million,
    served_j * input_ratio / nullIf(computed_tokens, 0) * 1e6 AS input_j_per_million,
    served_j * (1 - input_ratio) / output_tokens * 1e6 AS output_j_per_million,
    served_cost_usd * input_ratio / nullIf(computed_tokens, 0) * cached_tokens AS cache_saving_usd,
    amortised_training_usd,
    -- of the training too, only the part that falls into the time in which tokens were counted
    (served_cost_usd + amortised_training_usd * ifNull(coverage_ratio, 1)) / output_tokens * 1e6
        AS fully_loaded_usd_per_million_output_tokens,
    quality,
    latency_s,
    CAST(arrayFilter(reason -> reason.2 != '', [
        ('cost_usd_per_million_output_tokens', multiIf(
            unmatched = 'no GPU time', 'no GPU time was seen under this name: its tokens have no cost here',
            gpu_time_ns = 0, 'it served nothing',
            output_tokens IS NULL, 'no output tokens were counted',
            served_j IS NULL, 'no GPU time while tokens were counted',
            cost_usd IS NULL, 'a part has no price',
            '')),
        ('cost_usd_per_request', multiIf(
            gpu_time_ns = 0, '',
            requests IS NULL, 'no requests were counted',
            '')),
        ('capacity_usd_per_million_output_tokens', multiIf(
            gpu_time_ns = 0, '',
            output_tokens IS NULL, '',
            capacity_output_tokens_per_gpu_s IS NULL, 'no 15 minutes in a row are known',
            '')),
        ('token_price_method', multiIf(
            token_price_method = 'ratio', fit_unusable,
            token_price_method = 'output_only', if(input_tokens IS NULL,
                'no input tokens were counted', 'all input tokens came from the cache'),
            token_price_method = 'input_only', 'no output tokens were counted',
            '')),
        ('fully_loaded_usd_per_million_output_tokens', multiIf(
            empty(runs), 'no training is declared for it',
            notEmpty(unknown_runs), concat('never seen: run ', arrayStringConcat(unknown_runs, ', ')),
            amortised_training_usd IS NULL, 'a part of its training has no price',
            ''))
    ]), 'Map(String, String)') AS reasons
FROM
(
    SELECT
        *,
        multiIf(
            token_price_method = 'fit', input_token_ns * computed_tokens
                / (input_token_ns * computed_tokens + output_token_ns * output_count),
            -- OpenCost also counts an output token as 2.5 input tokens, where nothing says otherwise
            token_price_method = 'ratio', computed_tokens / (computed_tokens + 2.5 * output_count),
            token_price_method = 'input_only', 1,
            token_price_method = 'output_only', 0,
            NULL) AS input_ratio
    FROM
    (
        SELECT
            used.model AS model,
            used.model_version AS model_version,
            multiIf(
                model = '', 'no model',
                used.gpu_time = 0, if(used.unit_rows > 0, 'no GPU time', ''),
                used.unit_rows = 0, 'no units',
                '') AS unmatched,
            used.energy AS energy_uj,
            used.gpu_time AS gpu_time_ns,
            used.active_time AS active_time_ns,
            if(used.unpriced = 0, used.money, NULL) AS cost_usd,
            if(used.unpriced = 0, used.active_money, NULL) AS active_cost_usd,
            used.error_energy AS error_uj,
            if(used.unpriced = 0, used.error_money, NULL) AS error_usd,
            used.training_energy AS training_energy_uj,
            used.training_gpu_time AS training_gpu_time_ns,
            if(used.training_unpriced = 0, used.training_money, NULL) AS training_cost_usd,
            -- an engine that reports no requests, or no tokens, leaves none of them out while it is not observed
            ifNull(used.token_by < used.request_by, 0) AS all_tokens,
            ifNull(used.request_by < used.token_by, 0) AS all_requests,
            multiIf(NOT used.coverage_known, NULL, all_tokens, NULL, used.covered_time / nullIf(used.gpu_time, 0))
                AS coverage_ratio,
            -- what is divided by tokens and requests: that of the time in which they were counted. Without such time
            -- they have no cost, rather than one of 0
            if(used.gpu_time > 0, cost_usd, NULL) AS all_usd,
            if(used.gpu_time > 0, used.energy / 1e6, NULL) AS all_j,
            multiIf(used.covered_time = 0, NULL, used.unpriced = 0, used.covered_money, NULL) AS covered_usd,
            multiIf(used.covered_time = 0, NULL, used.unpriced = 0, used.covered_active_money, NULL) AS covered_active_usd,
            if(used.covered_time > 0, used.covered_energy / 1e6, NULL) AS covered_j,
            if(all_tokens, all_usd, covered_usd) AS served_cost_usd,
            if(all_tokens, if(used.gpu_time > 0, active_cost_usd, NULL), covered_active_usd) AS served_active_usd,
            if(all_tokens, used.gpu_time, used.covered_time) / 1e9 AS served_s,
            if(all_tokens, all_j, covered_j) AS served_j,
            if(all_requests, all_usd, covered_usd) AS requests_cost_usd,
            if(all_requests, all_j, covered_j) AS requests_j,
            used.output_count AS output_count,
            nullIf(used.output_count, 0) AS output_tokens,
            nullIf(used.input_count, 0) AS input_tokens,
            if(used.cached_rows = 0, NULL, least(used.cached_count, used.input_count)) AS cached_tokens,
            nullIf(used.reasoning_count, 0) AS reasoning_tokens,
            nullIf(used.request_count, 0) AS requests,
            -- what came from the cache was not computed
            greatest(0, used.input_count - used.cached_count) AS computed_tokens,
            pace.capacity_output_tokens_per_gpu_s AS capacity_output_tokens_per_gpu_s,
            if(pace.fit_minutes = 0, 'fewer than 10 minutes with tokens and GPU time', pace.fit_unusable) AS fit_unusable,
            pace.fit_minutes AS fit_minutes,
            pace.fit_r_squared AS fit_r_squared,
            pace.input_token_ns AS input_token_ns,
            pace.output_token_ns AS output_token_ns,
            multiIf(
                served_s = 0, '',
                used.output_count + computed_tokens = 0, '',
                used.output_count = 0, 'input_only',
                computed_tokens = 0, 'output_only',
                fit_unusable = '', 'fit',
                'ratio') AS token_price_method,
            trained.runs AS runs,
            trained.unknown_runs AS unknown_runs,
            if(empty(trained.runs), NULL, trained.amortised_training_usd) AS amortised_training_usd,
            measured.quality AS quality,
            measured.latency AS latency_s
        FROM
        (
            SELECT
                model,
                model_version,
                -- the time of 100,000 GPUs passes 64 bits within a day and two hours
                sumIf(toInt128(energy_uj), NOT is_training) AS energy,
                sumIf(toInt128(gpu_time_ns), NOT is_training) AS gpu_time,
                sumIf(toInt128(active_time_ns), NOT is_training) AS active_time,
                sumIf(toInt128(error_uj), NOT is_training) AS error_energy,
                sumIf(ifNull(cost_usd, 0), NOT is_training) AS money,
                sumIf(ifNull(active_cost_usd, 0), NOT is_training) AS active_money,
                sumIf(ifNull(error_money, 0), NOT is_training) AS error_money,
                countIf(cost_usd IS NULL AND NOT is_training) AS unpriced,
                maxIf(is_known, NOT is_training) AS coverage_known,
                sumIf(gpu_time_ns * covered_time_ratio, NOT is_training) AS covered_time,
                sumIf(energy_uj * covered_energy_ratio, NOT is_training) AS covered_energy,
                sumIf(ifNull(cost_usd, 0) * covered_time_ratio, NOT is_training) AS covered_money,
                sumIf(ifNull(active_cost_usd, 0) * covered_time_ratio, NOT is_training) AS covered_active_money,
                sumIf(toInt128(energy_uj), is_training) AS training_energy,
                sumIf(toInt128(gpu_time_ns), is_training) AS training_gpu_time,
                sumIf(ifNull(cost_usd, 0), is_training) AS training_money,
                countIf(cost_usd IS NULL AND is_training) AS training_unpriced,
                countIf(unit != '') AS unit_rows,
                sumIf(quantity, unit = 'output_tokens') AS output_count,
                sumIf(quantity, unit = 'input_tokens') AS input_count,
                sumIf(quantity, unit = 'cached_tokens') AS cached_count,
                countIf(unit = 'cached_tokens') AS cached_rows,
                sumIf(quantity, unit = 'reasoning_tokens') AS reasoning_count,
                sumIf(quantity, unit = 'requests') AS request_count,
                ifNull(
                    maxOrNullIf(authority, unit = 'output_tokens'),
                    maxOrNullIf(authority, unit = 'input_tokens')) AS token_by,
                maxOrNullIf(authority, unit = 'requests') AS request_by
            FROM
            (
                SELECT
                    model,
                    model_version,
                    is_training,
                    energy_uj,
                    gpu_time_ns,
                    active_time_ns,
                    error_uj,
                    cost_usd,
                    active_cost_usd,
                    (price_per_gpu_hour_usd * error_ns + price_per_kwh_usd * error_uj) / 3.6e12 AS error_money,
                    covered_time_ratio,
                    covered_energy_ratio,
                    is_known,
                    '' AS unit,
                    0. AS quantity,
                    0 AS authority
                FROM covered_cost(
                    policy = {policy:String}, since = {since:String}, until = {until:String},
                    unit = 'output_tokens,requests')
                UNION ALL
                SELECT
                    model, model_version, is_training, 0 AS energy_uj, 0 AS gpu_time_ns, 0 AS active_time_ns,
                    0 AS error_uj, 0. AS cost_usd, 0. AS active_cost_usd, 0. AS error_money,
                    0. AS covered_time_ratio, 0. AS covered_energy_ratio, 0 AS is_known, unit, quantity,
                    authority
                FROM counted_unit(
                    unit = 'output_tokens,input_tokens,cached_tokens,reasoning_tokens,requests',
                    since = {since:String}, until = {until:String})
                WHERE NOT is_training
            )
            GROUP BY model, model_version
        ) AS used
        LEFT JOIN model_throughput(policy = {policy:String}, since = {since:String}, until = {until:String}) AS pace
            USING (model, model_version)
        LEFT JOIN amortised_training(policy = {policy:String}, since = {since:String}, until = {until:String}) AS trained
            USING (model, model_version)
        LEFT JOIN
        (
            SELECT
                model,
                model_version,
                mapFromArrays(
                    groupArrayIf(concat(metric, if(dataset = '', '', concat(' on ', dataset))), NOT is_latency),
                    groupArrayIf(value, NOT is_latency)) AS quality,
                mapFromArrays(groupArrayIf(metric, is_latency), groupArrayIf(value, is_latency)) AS latency
            FROM (SELECT * FROM model_quality(since = {since:String}, until = {until:String}) ORDER BY metric, dataset)
            GROUP BY model, model_version
        ) AS measured USING (model, model_version)
        WHERE used.gpu_time + used.training_gpu_time + used.energy + used.training_energy + used.unit_rows > 0
    )
)
