-- The prices of each GPU model, as cost and attempt_cost look them up: of those that match, the greatest tuple wins.
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
        category)) AS prices
FROM price FINAL
WHERE coalesce(effective_price, contracted_price, list_price) IS NOT NULL
GROUP BY gpu_model
