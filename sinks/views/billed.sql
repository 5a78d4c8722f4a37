-- The GPU time that is billed in [since, until), and what of it no collector saw, by host, GPU model, price and bucket:
--     SELECT … FROM billed(since = …, until = …, step = 'day', tz = 'UTC')
-- step is hour, day, week, month or all. Billed is what `billed_host` says of a host's GPUs of one model. Where it says
-- nothing: every GPU that was seen of it, from the host's first to its last window, at the provider, region and pricing
-- of its rows, which hold until they change.
-- As in cost, a window counts where it begins: all edges are moved up to the next window of the host.
CREATE OR REPLACE VIEW billed AS
WITH
    (
        SELECT throwIf(
            {step:String} NOT IN ('hour', 'day', 'week', 'month', 'all'),
            'unknown step: it is one of hour, day, week, month, all')
    ) AS wrong_step,
    if({step:String} = 'all', 'year', {step:String}) AS unit,
    parseDateTime64BestEffort({since:String}, 3, 'UTC') AS since_at,
    parseDateTime64BestEffort({until:String}, 3, 'UTC') AS until_at,
    (
        SELECT arraySort(groupUniqArray(edge))
        FROM (SELECT arrayJoin([toInt64(toUnixTimestamp(valid_from)), toInt64(toUnixTimestamp(valid_to))]) * 1000 AS edge FROM price FINAL)
    ) AS price_edges,
    seen AS
    (
        SELECT
            host,
            gpu_model,
            (provider, region, pricing) AS terms,
            toUnixTimestamp64Milli(min(window_start)) AS first_ms,
            max(toUnixTimestamp64Milli(window_start) + window_ms) AS last_ms,
            max(window_ms) AS longest_ms,
            groupUniqArray(gpu) AS gpus
        FROM attribution FINAL
        GROUP BY host, gpu_model, terms
    ),
    -- when the terms of a host changed: of those that had several, window by window
    change AS
    (
        SELECT host, gpu_model, groupArray((at_ms, terms)) AS changes
        FROM
        (
            SELECT host, gpu_model, min(first_ms) AS at_ms, any(terms) AS terms
            FROM seen
            GROUP BY host, gpu_model
            HAVING count() = 1
            UNION ALL
            SELECT host, gpu_model, at_ms, terms
            FROM
            (
                SELECT *, lagInFrame(terms, 1, ('', '', 'none before')) OVER (PARTITION BY host, gpu_model ORDER BY at_ms
                    ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS terms_before
                FROM
                (
                    SELECT
                        host,
                        gpu_model,
                        toUnixTimestamp64Milli(window_start) AS at_ms,
                        min((provider, region, pricing)) AS terms
                    FROM attribution FINAL
                    WHERE (host, gpu_model) IN (SELECT host, gpu_model FROM seen GROUP BY host, gpu_model HAVING count() > 1)
                    GROUP BY host, gpu_model, at_ms
                )
            )
            WHERE terms != terms_before
        )
        GROUP BY host, gpu_model
    ),
    device AS
    (
        SELECT
            host,
            gpu_model,
            max(last_ms) AS last_ms,
            toInt64(max(longest_ms)) AS longest_ms,
            toInt64(length(groupUniqArrayArray(gpus))) AS gpus
        FROM seen
        GROUP BY host, gpu_model
    ),
    span AS
    (
        SELECT
            host,
            gpu_model,
            1 AS is_declared,
            (d.provider, d.region, d.pricing) AS terms,
            toInt64(d.gpus) AS gpus,
            toInt64(toUnixTimestamp(d.billed_from)) * 1000 AS from_ms,
            toInt64(toUnixTimestamp(d.billed_to)) * 1000 AS to_ms,
            greatest(1, ifNull(device.longest_ms, 1)) AS longest_ms
        FROM billed_host AS d FINAL
        LEFT JOIN device USING (host, gpu_model)
        UNION ALL
        SELECT host, gpu_model, 0, one.2, gpus, one.1, one.3, longest_ms
        FROM
        (
            SELECT
                host,
                gpu_model,
                device.gpus AS gpus,
                device.longest_ms AS longest_ms,
                arraySort(change.changes) AS ordered,
                arrayJoin(arrayMap(
                    (c, n) -> (c.1, c.2, if(n < length(ordered), ordered[n + 1].1, device.last_ms)),
                    ordered, arrayEnumerate(ordered))) AS one
            FROM change
            INNER JOIN device USING (host, gpu_model)
            WHERE (host, gpu_model) NOT IN (SELECT host, gpu_model FROM billed_host FINAL)
        )
    ),
    -- without a change of price, and within one bucket
    piece AS
    (
        SELECT
            host,
            gpu_model,
            is_declared,
            terms,
            gpus,
            bucket_start,
            greatest(part.1, bucket_ms) AS begin_ms,
            least(part.2, next_ms) AS end_ms
        FROM
        (
            SELECT
                *,
                fromUnixTimestamp64Milli(part.1, 'UTC') AS part_at,
                multiIf(
                    {step:String} = 'hour', toStartOfHour(toDateTime(part_at, {tz:String})),
                    {step:String} = 'day', toStartOfDay(toDateTime(part_at, {tz:String})),
                    {step:String} = 'week', toDateTime(toStartOfWeek(part_at, 1, {tz:String}), {tz:String}),
                    {step:String} = 'month', toDateTime(toStartOfMonth(part_at, {tz:String}), {tz:String}),
                    toDateTime(0, {tz:String})) AS first_bucket,
                arrayJoin(range(if(
                    {step:String} = 'all', 1,
                    1 + dateDiff(unit, first_bucket, fromUnixTimestamp64Milli(part.2 - 1, 'UTC'), {tz:String})))) AS place,
                multiIf(
                    {step:String} = 'hour', addHours(first_bucket, place),
                    {step:String} = 'day', addDays(first_bucket, place),
                    {step:String} = 'week', addWeeks(first_bucket, place),
                    {step:String} = 'month', addMonths(first_bucket, place),
                    first_bucket) AS bucket_start,
                toInt64(toUnixTimestamp(bucket_start)) * 1000 AS bucket_ms,
                if({step:String} = 'all', part.2, toInt64(toUnixTimestamp(multiIf(
                    {step:String} = 'hour', addHours(first_bucket, place + 1),
                    {step:String} = 'day', addDays(first_bucket, place + 1),
                    {step:String} = 'week', addWeeks(first_bucket, place + 1),
                    addMonths(first_bucket, place + 1)))) * 1000) AS next_ms
            FROM
            (
                SELECT
                    host,
                    gpu_model,
                    is_declared,
                    terms,
                    gpus,
                    intDiv(greatest(from_ms, toUnixTimestamp64Milli(since_at)) + longest_ms - 1, longest_ms) * longest_ms AS a,
                    intDiv(least(to_ms, toUnixTimestamp64Milli(until_at)) + longest_ms - 1, longest_ms) * longest_ms AS b,
                    arrayFilter(
                        e -> e > a AND e < b,
                        arrayMap(e -> intDiv(e + longest_ms - 1, longest_ms) * longest_ms, price_edges)) AS within,
                    arrayJoin(arrayZip(arrayPushFront(within, a), arrayPushBack(within, b))) AS part
                FROM span
                WHERE a < b AND wrong_step = 0
            )
        )
        WHERE begin_ms < end_ms
    ),
    covered AS
    (
        SELECT p.host AS host, p.gpu_model AS gpu_model, p.begin_ms AS piece_ms, sum(c.covered_ns) AS covered_ns
        FROM
        (
            SELECT
                host,
                gpu_model,
                (provider, region, pricing) AS terms,
                -- minutes are enough, unless a window crosses one
                if(60000 % window_ms = 0, toStartOfMinute(window_start), window_start) AS about,
                toUnixTimestamp64Milli(min(window_start)) AS at_ms,
                sum(gpu_time_equal_ns) AS covered_ns
            FROM attribution FINAL
            WHERE window_start >= since_at AND window_start < until_at
            GROUP BY host, gpu_model, terms, about
        ) AS c
        ASOF INNER JOIN piece AS p ON c.host = p.host AND c.gpu_model = p.gpu_model AND c.at_ms >= p.begin_ms
        WHERE c.at_ms < p.end_ms
        GROUP BY p.host, p.gpu_model, p.begin_ms
    )
SELECT
    priced.host AS host,
    priced.gpu_model AS gpu_model,
    priced.terms.1 AS provider,
    priced.terms.2 AS region,
    priced.terms.3 AS pricing,
    priced.bucket_start AS bucket_start,
    priced.is_declared AS is_declared,
    priced.best.4 AS price_id,
    priced.best.6 AS currency,
    if(currency = 'USD', priced.best.5, NULL) AS price_per_gpu_hour_usd,
    sum(priced.billed) AS billed_ns,
    sum(priced.unobserved) AS unobserved_ns
FROM
(
    SELECT
        piece.host AS host,
        piece.gpu_model AS gpu_model,
        piece.terms AS terms,
        piece.bucket_start AS bucket_start,
        piece.is_declared AS is_declared,
        fromUnixTimestamp64Milli(piece.begin_ms, 'UTC') AS priced_at,
        (piece.end_ms - piece.begin_ms) * 1000000 * piece.gpus AS billed,
        greatest(0, billed - covered.covered_ns) AS unobserved,
        arrayMax(arrayFilter(
            p -> p.7 <= priced_at AND p.8 > priced_at AND (p.9 = '' OR p.9 = terms.1)
                AND (p.10 = '' OR p.10 = terms.2) AND (p.11 = '' OR p.11 = terms.3),
            book.prices)) AS best
    FROM piece
    LEFT JOIN covered ON piece.host = covered.host AND piece.gpu_model = covered.gpu_model
        AND piece.begin_ms = covered.piece_ms
    LEFT JOIN price_book AS book ON piece.gpu_model = book.gpu_model
) AS priced
GROUP BY host, gpu_model, provider, region, pricing, bucket_start, is_declared, price_id, currency, price_per_gpu_hour_usd
