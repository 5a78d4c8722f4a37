-- How much SM time an input and an output token of a model version took in [since, until): the least squares of
--     active time of a minute = input_token_ns × (input - cached) + output_token_ns × output
-- over the minutes in which it served and its SM time is known. docs/unit-costs.md has the mathematics.
-- unusable says why it should not be believed, and is empty where it may be.
CREATE OR REPLACE VIEW token_fit AS
WITH
    10 AS least_minutes,
    0.5 AS least_r_squared,
    -- a coefficient is known to a half of itself (95 %): twice its standard error
    0.25 AS greatest_error_ratio,
    -- in seconds and thousands of tokens: the products stay within what a float holds
    xx * yy - xy * xy AS determinant
SELECT
    model,
    model_version,
    count() AS minutes,
    sum(x * x) AS xx,
    sum(x * y) AS xy,
    sum(y * y) AS yy,
    sum(x * active) AS xa,
    sum(y * active) AS ya,
    sum(active * active) - sum(active) * sum(active) / minutes AS spread,
    (xa * yy - ya * xy) / determinant AS input_s,
    (ya * xx - xa * xy) / determinant AS output_s,
    greatest(0, sum(active * active) - input_s * xa - output_s * ya) AS rest,
    if(determinant > 1e-9 * xx * yy, input_s * 1e6, NULL) AS input_token_ns,
    if(determinant > 1e-9 * xx * yy, output_s * 1e6, NULL) AS output_token_ns,
    if(spread > 0 AND input_token_ns IS NOT NULL, 1 - rest / spread, NULL) AS r_squared,
    if(minutes > 2, sqrt(rest / (minutes - 2) / determinant), NULL) AS scatter,
    multiIf(
        minutes < least_minutes, 'fewer than 10 minutes with tokens and GPU time',
        input_token_ns IS NULL, 'input and output tokens rise and fall together',
        input_token_ns <= 0 OR output_token_ns <= 0, 'the fit makes a token cost less than nothing',
        r_squared IS NULL OR r_squared < least_r_squared, 'tokens explain less than half of how GPU time varies',
        scatter * sqrt(yy) > greatest_error_ratio * input_s OR scatter * sqrt(xx) > greatest_error_ratio * output_s,
            'input and output tokens cannot be told apart well enough',
        '') AS unusable
FROM
(
    SELECT
        model,
        model_version,
        greatest(0, input_tokens - cached_tokens) / 1e3 AS x,
        output_tokens / 1e3 AS y,
        active_time_ns / 1e9 AS active
    FROM model_minute(policy = 'equal', since = {since:String}, until = {until:String})
    WHERE x + y > 0 AND gpu_time_ns > 0 AND longest_period_ns <= 60000000000
)
GROUP BY model, model_version
