    -- the price and the tariff in force for what was `used`: the greatest of those that match; where none does, a tuple
    -- of empty texts
    SELECT
        *,
        best.4 AS price_id,
        best.6 AS currency,
        if(best.6 = 'USD', best.5, NULL) AS price_per_gpu_hour_usd,
        best_tariff.3 AS tariff_id,
        multiIf(best.4 = '', NULL, best.12, 0, best_tariff.5 = 'USD', best_tariff.4, NULL) AS price_per_kwh_usd
    FROM
    (
        SELECT
            *,
            arrayMax(arrayFilter(
                t -> NOT best.12 AND (t.6 = '' OR t.6 = provider) AND (t.7 = '' OR t.7 = region),
                held_tariffs)) AS best_tariff
        FROM
        (
            SELECT
                used.*,
                rate.held_tariffs AS held_tariffs,
                arrayMax(arrayFilter(
                    p -> (p.9 = '' OR p.9 = used.provider) AND (p.10 = '' OR p.10 = used.region)
                        AND (p.11 = '' OR p.11 = used.pricing),
                    rate.held_prices)) AS best
            FROM used
            LEFT JOIN
            (
                SELECT
                    held.1 AS class,
                    price.13 AS gpu_model,
                    groupArray(price) AS held_prices,
                    any(arrayMap(place -> tariffs[place], held.3)) AS held_tariffs
                FROM (SELECT arrayJoin(rates.3) AS held, arrayJoin(arrayMap(place -> prices[place], held.2)) AS price)
                GROUP BY class, gpu_model
            ) AS rate ON used.class = rate.class AND used.gpu_model = rate.gpu_model
        )
    )
