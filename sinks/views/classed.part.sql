    -- with the number that stands for the prices and tariffs of the time (rates)
    SELECT
        *,
        toInt64(toUnixTimestamp(bucket_start)) AS at_s,
        r.2[(indexOf(r.1, roundDown(at_s, r.1)) - 1) * r.4 + intDiv(at_s % 604800, r.5) + 1] AS class
    FROM
    (
        SELECT *, rates AS r
        FROM
{{usage}}
    )
