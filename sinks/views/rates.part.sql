    (
        SELECT groupArray((
            origin, 4 * (provider != '') + 2 * (region != '') + (category != ''), known_from, price_id,
            price_per_gpu_hour, currency, toInt64(toUnixTimestamp(valid_from)),
            toInt64(toUnixTimestamp(valid_to)), provider, region, category, includes_energy, gpu_model))
        FROM price_book
        WHERE known_from <= as_of_at AND known_until > as_of_at AND valid_from < until_at
    ) AS prices,
    (
        SELECT groupArray((
            2 * (provider != '') + (region != ''), known_from, tariff_id,
            price_per_kwh * node_power_ratio * pue_ratio, currency, provider, region,
            toInt64(toUnixTimestamp(valid_from)), toInt64(toUnixTimestamp(valid_to)), offset_from,
            offset_s, arrayStringConcat(arrayMap(hour -> if(has(week_hours, hour), '1', '0'), range(168))), has_hours,
            has_quarters))
        FROM tariff_book
        WHERE known_from <= as_of_at AND known_until > as_of_at AND valid_from < until_at
    ) AS tariffs,
    (
        -- What things cost in the span, as a tuple: 1 the times at which a price or tariff begins or ends; 2 for each part
        -- from one to the next, and each slot of the week (UTC) in it, a number that stands for what holds then; 3 that
        -- number with the places of the prices and tariffs; 4 how many slots a week has (1 where no tariff has hours), 5
        -- their length. Slots and numbers carry only places: with the prices and tariffs themselves, two time zones
        -- took 2 GiB. ARRAY JOIN makes the slots: with the function arrayJoin, the engine would compute what is the
        -- same for all slots again for each.
        SELECT (
            any(starts),
            arrayMap(c -> c.2, arraySort(groupArray((cell, class)))),
            groupUniqArray((class, held_prices, held_tariffs)),
            any(slots),
            any(slot_s))
        FROM
        (
            SELECT
                starts,
                slots,
                slot_s,
                held_prices,
                slot,
                (place - 1) * slots + slot AS cell,
                arrayMap(t -> t.1, arrayFilter(
                    t -> substring(t.3, intDiv(604800 + slot * slot_s + t.2, 3600) % 168 + 1, 1) = '1', live))
                    AS held_tariffs,
                dense_rank() OVER (ORDER BY held_prices, held_tariffs) AS class
            FROM
            (
                SELECT
                    starts,
                    slots,
                    slot_s,
                    place,
                    starts[place] AS start,
                    arrayFilter((at, p) -> p.1 <= start AND p.2 > start, arrayEnumerate(priced_from), priced_from) AS held_prices,
                    -- for those that hold on some day: how far their clock is ahead then, and their hours
                    arrayMap(
                        t -> (t.6, t.4[arrayLastIndex(c -> c <= start, t.3)], t.5),
                        arrayFilter(t -> t.1 <= start AND t.2 > start, told)) AS live
                FROM
                (
                    SELECT
                        arrayMap(p -> (p.7, p.8), prices) AS priced_from,
                        arrayMap((t, at) -> (t.8, t.9, t.10, t.11, t.12, at), tariffs, arrayEnumerate(tariffs)) AS told,
                        multiIf(arrayExists(t -> t.14, tariffs), 900, arrayExists(t -> t.13, tariffs), 3600, 604800)
                            AS slot_s,
                        intDiv(604800, slot_s) AS slots,
                        toInt64(toUnixTimestamp(toDateTime(greatest(since_at, from_at), 'UTC'))) AS since_s,
                        -- Rounded up: what begins within the last second counts for a window of it.
                        toInt64(toUnixTimestamp(toDateTime(least(until_at, to_at), 'UTC'))) + 1 AS until_s,
                        arraySort(arrayDistinct(arrayPushFront(
                            arrayFilter(
                                e -> e > since_s AND e < until_s,
                                arrayConcat(
                                    arrayFlatten(arrayMap(p -> [p.1, p.2], priced_from)),
                                    arrayFlatten(arrayMap(t -> arrayConcat([t.1, t.2], t.3), told)))),
                            since_s))) AS starts
                    FROM
                    (
                        -- The time in which there is something to price; the engine knows that of each of its parts.
                        -- Clocks change twice a year, a week has up to 672 slots: since 1970 these took 1.6 of 1.9 s.
                        SELECT min(at) AS from_at, max(at) + toIntervalDay(1) AS to_at
                        FROM
                        (
                            SELECT arrayJoin([min(window_start), max(window_start)]) AS at FROM attribution HAVING count() > 0
                            UNION ALL
                            SELECT arrayJoin([min(bucket_start), max(bucket_start)]) FROM attribution_day HAVING count() > 0
                        )
                    )
                )
                ARRAY JOIN arrayEnumerate(starts) AS place
            )
            ARRAY JOIN range(slots) AS slot
        )
    ) AS rates