    (
        -- What things cost in the span, as a tuple: 1 the times at which a price or tariff begins or ends; 2 for each part
        -- from one to the next, and each slot of the week (UTC) in it, a number that stands for what holds then; 3 that
        -- number with the prices and tariffs; 4 how many slots a week has (1 where no tariff has hours), 5 their length.
        SELECT (
            any(starts),
            arrayMap(c -> c.2, arraySort(groupArray((cell, class)))),
            groupUniqArray((class, held_prices, held_tariffs)),
            any(slots),
            any(slot_s))
        FROM
        (
            SELECT
                *,
                arrayFilter(p -> p.7 <= start AND p.8 > start, prices) AS held_prices,
                arrayFilter(
                    t -> t.8 <= start AND t.9 > start AND has(t.12, intDiv(
                        604800 + slot * slot_s + t.11[arrayLastIndex(c -> c <= start, t.10)], 3600) % 168),
                    tariffs) AS held_tariffs,
                dense_rank() OVER (ORDER BY arrayMap(p -> p.4, held_prices), arrayMap(t -> t.3, held_tariffs)) AS class
            FROM
            (
                SELECT
                    *,
                    arrayJoin(range(length(starts) * slots)) AS cell,
                    starts[intDiv(cell, slots) + 1] AS start,
                    cell % slots AS slot
                FROM
                (
                    SELECT
                        *,
                        multiIf(arrayExists(t -> t.14, tariffs), 900, arrayExists(t -> t.13, tariffs), 3600, 604800)
                            AS slot_s,
                        intDiv(604800, slot_s) AS slots,
                        toInt64(toUnixTimestamp(toDateTime(greatest(since_at, kept.from_at), 'UTC'))) AS since_s,
                        toInt64(toUnixTimestamp(toDateTime(least(until_at, kept.until_at), 'UTC'))) AS until_s,
                        arraySort(arrayDistinct(arrayPushFront(
                            arrayFilter(
                                e -> e > since_s AND e < until_s,
                                arrayConcat(
                                    arrayFlatten(arrayMap(p -> [p.7, p.8], prices)),
                                    arrayFlatten(arrayMap(t -> [t.8, t.9], tariffs)),
                                    arrayFlatten(arrayMap(t -> t.10, tariffs)))),
                            since_s))) AS starts
                    FROM
                    (
                        SELECT groupArray((
                            origin, 4 * (provider != '') + 2 * (region != '') + (category != ''), known_from, price_id,
                            price_per_gpu_hour, currency, toInt64(toUnixTimestamp(valid_from)),
                            toInt64(toUnixTimestamp(valid_to)), provider, region, category, includes_energy, gpu_model))
                            AS prices
                        FROM price_book
                        WHERE known_from <= as_of_at AND known_until > as_of_at AND valid_from < until_at
                    ) AS p
                    CROSS JOIN
                    (
                        SELECT groupArray((
                            2 * (provider != '') + (region != ''), known_from, tariff_id,
                            price_per_kwh * node_power_ratio * pue_ratio, currency, provider, region,
                            toInt64(toUnixTimestamp(valid_from)), toInt64(toUnixTimestamp(valid_to)), offset_from,
                            offset_s, week_hours, has_hours, has_quarters)) AS tariffs
                        FROM tariff_book
                        WHERE known_from <= as_of_at AND known_until > as_of_at AND valid_from < until_at
                    ) AS t
                    CROSS JOIN
                    (
                        -- When there is something to price; the engine knows that of each of its parts. Clocks change
                        -- twice a year, and a week has up to 672 slots: from 1970 on these took 1.6 of 1.9 s.
                        SELECT min(at) AS from_at, max(at) + toIntervalDay(1) AS until_at
                        FROM
                        (
                            SELECT arrayJoin([min(window_start), max(window_start)]) AS at FROM attribution HAVING count() > 0
                            UNION ALL
                            SELECT arrayJoin([min(bucket_start), max(bucket_start)]) FROM attribution_day HAVING count() > 0
                        )
                    ) AS kept
                )
            )
        )
    ) AS rates
