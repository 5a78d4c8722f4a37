-- How much SM time an input and an output token of a model version took in [since, until): the least squares of
--     active time of a minute = input_token_ns × (input - cached) + output_token_ns × output
-- over the minutes in which it served and its SM time is known. docs/unit-costs.md has the mathematics.
-- unusable says why it should not be believed, and is empty where it may be.
CREATE OR REPLACE VIEW token_fit AS
SELECT
    model,
    model_version,
    minutes,
    input_token_ns,
    output_token_ns,
    if(spread > 0, 1 - rest / spread, NULL) AS r_squared,
    multiIf(
        minutes < 10, 'fewer than 10 minutes with tokens and GPU time',
        input_token_ns IS NULL, 'input and output tokens rise and fall together',
        input_token_ns <= 0 OR output_token_ns <= 0, 'the fit makes a token cost less than nothing',
        ifNull(r_squared, 0) < 0.5, 'tokens explain less than half of how GPU time varies',
        -- known to a half (95 %) at least: two standard errors
        2 * input_error_ns > input_token_ns / 2 OR 2 * output_error_ns > output_token_ns / 2,
            'input and output tokens cannot be told apart well enough',
        '') AS unusable
FROM
(
    SELECT
        *,
        greatest(0, aa - input_token_ns * xa - output_token_ns * ya) AS rest,
        sqrt(rest / (minutes - 2) * yy / determinant) AS input_error_ns,
        sqrt(rest / (minutes - 2) * xx / determinant) AS output_error_ns
    FROM
    (
        SELECT
            *,
            -- 0 where one is a fixed multiple of the other: then nothing tells what each takes
            xx * yy - xy * xy AS determinant,
            if(determinant > 1e-9 * xx * yy, (xa * yy - ya * xy) / determinant, NULL) AS input_token_ns,
            if(determinant > 1e-9 * xx * yy, (ya * xx - xa * xy) / determinant, NULL) AS output_token_ns
        FROM
        (
            SELECT
                model,
                model_version,
                count() AS minutes,
                sum(x * x) AS xx,
                sum(x * y) AS xy,
                sum(y * y) AS yy,
                sum(x * active) AS xa,
                sum(y * active) AS ya,
                sum(active * active) AS aa,
                aa - sum(active) * sum(active) / minutes AS spread
            FROM
            (
                SELECT
                    model,
                    model_version,
                    greatest(0, input_tokens - cached_tokens) AS x,
                    output_tokens AS y,
                    toFloat64(active_time_ns) AS active
                FROM model_minute(policy = 'equal', since = {since:String}, until = {until:String})
                WHERE x + y > 0 AND gpu_time_ns > 0 AND longest_period_ns <= 60000000000
            )
            GROUP BY model, model_version
        )
    )
)
