-- The prices of each GPU model, as they were known at a time: of those that match, the greatest tuple wins.
--     SELECT … FROM price_book(as_of = '2200-01-01')
CREATE OR REPLACE VIEW price_book AS
SELECT
    gpu_model,
    groupArray((
        origin,
        4 * (provider != '') + 2 * (region != '') + (category != ''),
        recorded_at,
        price_id,
        assumeNotNull(coalesce(effective_price, contracted_price, list_price)),
        currency,
        valid_from,
        valid_to,
        provider,
        region,
        category,
        includes_energy)) AS prices
FROM
(
    SELECT *
    FROM price_history FINAL
    WHERE recorded_at <= parseDateTime64BestEffort({as_of:String}, 3, 'UTC')
    ORDER BY recorded_at DESC
    LIMIT 1 BY price_id
)
WHERE NOT deleted AND coalesce(effective_price, contracted_price, list_price) IS NOT NULL
GROUP BY gpu_model
