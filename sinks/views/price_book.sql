-- Every version of every price, and from when until when it was the known one: until the price was added again.
CREATE OR REPLACE VIEW price_book AS
SELECT * EXCEPT (list_price, contracted_price, effective_price, recorded_at, version, deleted)
FROM
(
    SELECT
        *,
        coalesce(effective_price, contracted_price, list_price) AS price_per_gpu_hour,
        recorded_at AS known_from,
        leadInFrame(recorded_at, 1, toDateTime64('9999-12-31 23:59:59.999', 3, 'UTC')) OVER (
            PARTITION BY price_id ORDER BY recorded_at ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING
        ) AS known_until
    FROM price_history FINAL
)
WHERE NOT deleted AND price_per_gpu_hour IS NOT NULL
