-- The GPU time that is billed in [since, until), and what of it no collector saw, by host, GPU model, price and bucket:
--     SELECT … FROM billed(since = …, until = …, step = 'day', tz = 'UTC', as_of = '2200-01-01')
-- step is hour, day, week, month or all; as_of is as in priced_usage. What is billed is what `billed_host` says of a
-- host's GPUs of one model. Where it says nothing, every GPU of that model that was seen there is billed from the
-- host's first to its last window, at the provider, region and pricing of its rows, which hold until they change. What
-- is billed after now does not count yet.
-- As in cost, a window counts where it begins: all edges are moved up to the next window of the host.
CREATE OR REPLACE VIEW billed AS
WITH
{{wrong_step}},
    toUnixTimestamp64Milli(parseDateTime64BestEffort({since:String}, 3, 'UTC')) AS since_ms,
    toUnixTimestamp64Milli(parseDateTime64BestEffort({until:String}, 3, 'UTC')) AS until_ms,
    (
        SELECT groupArray((host, gpu_model, terms, first_ms, last_ms, longest_ms, gpus))
        FROM
        (
            SELECT
                host,
                gpu_model,
                (provider, region, pricing) AS terms,
                toUnixTimestamp64Milli(min(first_at)) AS first_ms,
                toUnixTimestamp64Milli(max(last_at)) AS last_ms,
                toInt64(max(longest_window_ms)) AS longest_ms,
                groupUniqArray(toString(gpu)) AS gpus
            FROM measured
            GROUP BY host, gpu_model, terms
        )
    ) AS seen,
    (
        SELECT groupArray(host)
        FROM (SELECT s.1 AS host FROM (SELECT arrayJoin(seen) AS s) GROUP BY s.1, s.2 HAVING count() > 1)
    ) AS changing,
    minutes AS
    (
        SELECT host, gpu_model, bucket_start, (provider, region, pricing) AS terms, min(first_at) AS begin_at,
            max(last_at) AS end_at
        FROM attribution_minute FINAL
        WHERE has(changing, host)
        GROUP BY host, gpu_model, bucket_start, terms
    ),
    -- for the hosts that had several terms: the minutes that do not show which of the terms held when, because these
    -- come back within it
    unclear AS
    (
        SELECT host, bucket_start
        FROM
        (
            SELECT host, bucket_start, arraySort(groupArray((begin_at, end_at))) AS held
            FROM minutes
            GROUP BY host, gpu_model, bucket_start
        )
        WHERE arrayExists((earlier, later) -> later.1 < earlier.2, arrayPopBack(held), arrayPopFront(held))
        UNION DISTINCT
        SELECT host, bucket_start FROM dirty_bucket FINAL WHERE has(changing, host)
    ),
    (
        -- when the terms of a host changed
        SELECT groupArray((host, gpu_model, at_ms, terms))
        FROM
        (
            SELECT *, lagInFrame(terms, 1, ('', '', 'none before')) OVER (
                PARTITION BY host, gpu_model ORDER BY at_ms ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS terms_before
            FROM
            (
                SELECT host, gpu_model, toUnixTimestamp64Milli(begin_at) AS at_ms, terms
                FROM minutes
                WHERE (host, bucket_start) NOT IN unclear
                UNION ALL
                SELECT
                    host,
                    gpu_model,
                    toUnixTimestamp64Milli(window_start) AS at_ms,
                    min((provider, region, pricing)) AS terms
                FROM attribution FINAL
                PREWHERE (host, toStartOfMinute(window_start)) IN unclear
                GROUP BY host, gpu_model, at_ms
            )
        )
        WHERE terms != terms_before
    ) AS moves,
{{bounds}},
    (
        SELECT groupUniqArray((host, gpu, bucket_start))
        FROM
        (
            SELECT host, gpu, bucket_start FROM dirty_bucket FINAL
            UNION ALL
            -- No sum of an hour or a day lies on both sides of a change; a second on, for a minute stays where its windows
            -- are gone.
            SELECT host, gpu, bucket_start + 1
            FROM attribution_minute
            PREWHERE (host, bucket_start) IN (
                SELECT m.1, toStartOfMinute(fromUnixTimestamp64Milli(m.3, 'UTC')) FROM (SELECT arrayJoin(moves) AS m))
            UNION ALL
            -- nor of a minute in which they come back
            SELECT host, gpu, toStartOfMinute(window_start)
            FROM attribution
            PREWHERE (host, toStartOfMinute(window_start)) IN unclear
        )
        WHERE bucket_start >= first_minute AND bucket_start < last_minute
    ) AS behind,
    (
        -- of all hosts, as far as the span goes
        SELECT (
            greatest(since_ms, least(
                arrayMin(s -> s.4, arrayPushBack(seen, ('', '', ('', '', ''), until_ms, 0, 0, []))),
                min(toInt64(toUnixTimestamp(billed_from)) * 1000))),
            least(until_ms, greatest(
                arrayMax(s -> s.5, arrayPushBack(seen, ('', '', ('', '', ''), 0, since_ms, 0, []))),
                toInt64(toUnixTimestamp(now())) * 1000)))
        FROM (SELECT billed_from FROM billed_host FINAL UNION ALL SELECT toDateTime(4294967280, 'UTC'))
    ) AS reach,
    (
        -- counted from a time that every day has: where clocks go forward at midnight, there is no 0:00
        SELECT if({step:String} = 'all', [], groupArray(toInt64(toUnixTimestamp(multiIf(
            {step:String} = 'hour', toStartOfHour(addHours(origin, number)),
            {step:String} = 'day', toStartOfDay(addDays(origin + 43200, number)),
            {step:String} = 'week', toDateTime(toMonday(addWeeks(origin + 43200, number)), {tz:String}),
            toDateTime(toStartOfMonth(addMonths(origin + 43200, number)), {tz:String})))) * 1000))
        FROM
        (
            SELECT
                multiIf(
                    {step:String} = 'hour', toStartOfHour(first_at),
                    {step:String} = 'day', toStartOfDay(first_at),
                    {step:String} = 'week', toDateTime(toMonday(first_at), {tz:String}),
                    toDateTime(toStartOfMonth(first_at), {tz:String})) AS origin,
                arrayJoin(range(toUInt64(greatest(0, 2 + dateDiff(
                    if({step:String} = 'all', 'year', {step:String}),
                    origin, toDateTime(intDiv(reach.2, 1000), {tz:String}), {tz:String}))))) AS number
            FROM (SELECT toDateTime(intDiv(reach.1, 1000), {tz:String}) AS first_at)
        )
    ) AS calendar,
    (
        SELECT arrayConcat(calendar, groupUniqArray(toInt64(toUnixTimestamp(edge)) * 1000))
        FROM (SELECT arrayJoin([valid_from, valid_to]) AS edge FROM price_book)
    ) AS edges
SELECT
    multiIf(
        {step:String} = 'hour', toDateTime(toStartOfHour(priced_at, {tz:String}), 'UTC'),
        {step:String} = 'day', toDateTime(toStartOfDay(priced_at, {tz:String}), 'UTC'),
        {step:String} = 'week', toDateTime(toDateTime(toMonday(priced_at, {tz:String}), {tz:String}), 'UTC'),
        {step:String} = 'month', toDateTime(toDateTime(toStartOfMonth(priced_at, {tz:String}), {tz:String}), 'UTC'),
        toDateTime(intDiv(since_ms, 1000), 'UTC')) AS bucket_start,
    priced.host AS host,
    priced.gpu_model AS gpu_model,
    priced.piece.4.1 AS provider,
    priced.piece.4.2 AS region,
    priced.piece.4.3 AS pricing,
    priced.is_declared AS is_declared,
    priced.best.4 AS price_id,
    priced.best.6 AS currency,
    if(currency = 'USD', priced.best.5, NULL) AS price_per_gpu_hour_usd,
    sum(priced.billed) AS billed_ns,
    sum(greatest(0, priced.billed - priced.covered)) AS unobserved_ns
FROM
(
    SELECT
        device.host AS host,
        device.gpu_model AS gpu_model,
        device.is_declared AS is_declared,
        device.piece AS piece,
        device.covered AS covered,
        fromUnixTimestamp64Milli(piece.1, 'UTC') AS priced_at,
        -- 1024 GPUs, the most of a host, pass 64 bits in 104 days, and 3,500 of many hosts in a month
        toInt128(piece.2 - piece.1) * 1000000 * piece.3 AS billed,
        arrayMax(arrayFilter(
            p -> p.7 <= priced_at AND p.8 > priced_at AND (p.9 = '' OR p.9 = piece.4.1)
                AND (p.10 = '' OR p.10 = piece.4.2) AND (p.11 = '' OR p.11 = piece.4.3),
            book.prices)) AS best
    FROM
    (
        SELECT
            host,
            gpu_model,
            is_declared,
            arrayJoin(arrayEnumerate(pieces)) AS place,
            pieces[place] AS piece,
            covered_by_place[place] AS covered
        FROM
        (
            SELECT
                billing.host AS host,
                billing.gpu_model AS gpu_model,
                any(billing.is_declared) AS is_declared,
                any(billing.pieces) AS pieces,
                sumMap(map(arrayLastIndex(p -> p.1 <= used.at_ms AND p.2 > used.at_ms, billing.pieces), used.covered_ns))
                    AS covered_by_place
            FROM
            (
                SELECT
                    host,
                    gpu_model,
                    toUnixTimestamp64Milli(first_at) AS at_ms,
                    sum(gpu_time_equal_ns) AS covered_ns
                FROM
{{usage}}
                GROUP BY host, gpu_model, at_ms
            ) AS used
            RIGHT JOIN
            (
                SELECT
                    host,
                    gpu_model,
                    is_declared,
                    -- between two edges, in order
                    arraySort(arrayFlatten(arrayMap(
                        s -> arrayMap(
                            (a, b) -> (a, b, s.3, s.4),
                            arrayConcat([s.1], arrayFilter(e -> e > s.1 AND e < s.2, moved)),
                            arrayConcat(arrayFilter(e -> e > s.1 AND e < s.2, moved), [s.2])),
                        arrayFilter(s -> s.1 < s.2, spans)))) AS pieces
                FROM
                (
                    SELECT
                        host,
                        gpu_model,
                        is_declared,
                        arraySort(arrayDistinct(arrayMap(e -> intDiv(e + longest_ms - 1, longest_ms) * longest_ms, edges))) AS moved,
                        arrayMap(s -> (
                            intDiv(greatest(s.1, since_ms) + longest_ms - 1, longest_ms) * longest_ms,
                            intDiv(least(s.2, until_ms) + longest_ms - 1, longest_ms) * longest_ms,
                            s.3, s.4), told) AS spans
                    FROM
                    (
                        SELECT
                            host,
                            gpu_model,
                            longest_ms,
                            notEmpty(declared) AS is_declared,
                            if(
                                is_declared,
                                arrayMap(t -> (t.1, least(t.2, greatest(toInt64(toUnixTimestamp(now())) * 1000, last_ms)), t.3, t.4), declared),
                                arrayMap(
                                    (c, next_ms) -> (c.1, next_ms, seen_gpus, c.2),
                                    ordered, arrayPushBack(arrayMap(c -> c.1, arraySlice(ordered, 2)), last_ms))) AS told
                        FROM
                        (
                            SELECT
                                host,
                                gpu_model,
                                greatest(1, max(longest)) AS longest_ms,
                                max(last) AS last_ms,
                                max(gpus) AS seen_gpus,
                                groupArrayArray(declared_spans) AS declared,
                                groupArrayArray(changes) AS changed,
                                arraySort(if(empty(changed), groupArrayArray(first), changed)) AS ordered
                            FROM
                            (
                                SELECT
                                    s.1 AS host,
                                    s.2 AS gpu_model,
                                    max(s.6) AS longest,
                                    max(s.5) AS last,
                                    toInt64(length(groupUniqArrayArray(s.7))) AS gpus,
                                    groupArray((s.4, s.3)) AS first,
                                    CAST([], 'Array(Tuple(Int64, Tuple(String, String, String)))') AS changes,
                                    CAST([], 'Array(Tuple(Int64, Int64, Int64, Tuple(String, String, String)))') AS declared_spans
                                FROM (SELECT arrayJoin(seen) AS s)
                                WHERE wrong_step = 0
                                GROUP BY host, gpu_model
                                UNION ALL
                                SELECT m.1, m.2, 0, 0, 0, [], groupArray((m.3, m.4)), []
                                FROM (SELECT arrayJoin(moves) AS m)
                                GROUP BY m.1, m.2
                                UNION ALL
                                SELECT host, gpu_model, 0, 0, 0, [], [],
                                    groupArray((
                                        toInt64(toUnixTimestamp(billed_from)) * 1000, toInt64(toUnixTimestamp(billed_to)) * 1000,
                                        toInt64(gpus), (provider, region, pricing)))
                                FROM billed_host FINAL
                                GROUP BY host, gpu_model
                            )
                            GROUP BY host, gpu_model
                        )
                    )
                )
            ) AS billing ON used.host = billing.host AND used.gpu_model = billing.gpu_model
            GROUP BY billing.host, billing.gpu_model
        )
    ) AS device
    LEFT JOIN
    (
        -- as priced_usage chooses: of the prices that match the greatest tuple wins
        SELECT
            gpu_model,
            groupArray((
                origin, 4 * (provider != '') + 2 * (region != '') + (category != ''), known_from, price_id,
                assumeNotNull(price_per_gpu_hour), currency, valid_from, valid_to, provider, region, category)) AS prices
        FROM price_book
        WHERE known_from <= parseDateTime64BestEffort({as_of:String}, 3, 'UTC')
            AND known_until > parseDateTime64BestEffort({as_of:String}, 3, 'UTC')
        GROUP BY gpu_model
    ) AS book ON device.gpu_model = book.gpu_model
) AS priced
GROUP BY bucket_start, host, gpu_model, provider, region, pricing, is_declared, price_id, currency, price_per_gpu_hour_usd
