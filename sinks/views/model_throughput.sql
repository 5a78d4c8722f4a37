-- What the minutes of [since, until) show of each model version, under an idle policy (docs/unit-costs.md):
--   how much SM time an input and an output token took: the least squares of
--     SM time of a minute = input_token_ns × (input - cached) + output_token_ns × output
--     over the whole minutes with tokens and GPU time in which all tokens were counted. fit_unusable says why the fit
--     should not be used; empty: it may be.
--   the most that it served for its GPU time: output tokens per GPU second in the best 15 minutes in a row in which it
--     held a GPU all along and the same kinds of sources counted all tokens; NULL where there were no such 15 minutes.
CREATE OR REPLACE VIEW model_throughput AS
SELECT
    model,
    model_version,
    fit_minutes,
    input_token_ns,
    output_token_ns,
    multiIf(fit_minutes < 3, NULL, spread > 0, 1 - rest / spread, NULL) AS fit_r_squared,
    multiIf(
        fit_minutes < 10, 'fewer than 10 minutes with tokens and GPU time',
        input_token_ns IS NULL, 'input and output tokens rise and fall together',
        least(input_token_ns, output_token_ns) <= 0, 'the fit makes a token cost less than nothing',
        ifNull(fit_r_squared, 0) < 0.5, 'tokens explain less than half of how GPU time varies',
        -- each has to be known to within half of its value (95 %): two standard errors
        2 * input_error_ns > input_token_ns / 2 OR 2 * output_error_ns > output_token_ns / 2,
            'input and output tokens cannot be told apart well enough',
        '') AS fit_unusable,
    best.1 AS capacity_output_tokens_per_gpu_s,
    if(best.1 IS NULL, NULL, fromUnixTimestamp64Second((best.2 - 14) * 60, 'UTC')) AS capacity_from
FROM
(
    SELECT
        *,
        -- greatest ignores NULL
        if(input_token_ns IS NULL, NULL, greatest(0, aa - input_token_ns * xa - output_token_ns * ya)) AS rest,
        sqrt(rest / (fit_minutes - 2) * yy / determinant) AS input_error_ns,
        sqrt(rest / (fit_minutes - 2) * xx / determinant) AS output_error_ns
    FROM
    (
        SELECT
            *,
            -- 0 where one is a fixed multiple of the other: then nothing shows what each of them takes
            xx * yy - xy * xy AS determinant,
            if(determinant > 1e-9 * xx * yy, (xa * yy - ya * xy) / determinant, NULL) AS input_token_ns,
            if(determinant > 1e-9 * xx * yy, (ya * xx - xa * xy) / determinant, NULL) AS output_token_ns
        FROM
        (
            SELECT
                model,
                model_version,
                countIf(fits) AS fit_minutes,
                sumIf(x * x, fits) AS xx,
                sumIf(x * y, fits) AS xy,
                sumIf(y * y, fits) AS yy,
                sumIf(x * active, fits) AS xa,
                sumIf(y * active, fits) AS ya,
                sumIf(active * active, fits) AS aa,
                aa - sumIf(active, fits) * sumIf(active, fits) / fit_minutes AS spread,
                max(multiIf(
                    minutes < 15, (NULL, minute),
                    tokens = 0, (NULL, minute),
                    is_steady, (tokens / time_ns * 1e9, minute),
                    (NULL, minute))) AS best
            FROM
            (
                SELECT
                    model,
                    model_version,
                    minute,
                    greatest(0, input_tokens - cached_tokens) AS x,
                    output_tokens AS y,
                    toFloat64(active_time_ns) AS active,
                    -- a count over more than a minute says nothing of one
                    if(longest_period_ns <= 60000000000, x + y > 0, 0) AS fits,
                    sum(output_tokens) OVER quarter AS tokens,
                    sum(gpu_time_ns) OVER quarter AS time_ns,
                    count() OVER quarter AS minutes,
                    min(authority) OVER quarter = max(authority) OVER quarter
                        AND min(least_authority) OVER quarter = max(least_authority) OVER quarter AS is_steady
                FROM model_minute(policy = {policy:String}, since = {since:String}, until = {until:String})
                WHERE multiIf(gpu_time_ns = 0, 0, is_whole, is_counted, 0)
                WINDOW quarter AS (
                    PARTITION BY model, model_version ORDER BY minute RANGE BETWEEN 14 PRECEDING AND CURRENT ROW)
            )
            GROUP BY model, model_version
        )
    )
)
