-- The units of sources that are not the best of their model, minute by minute, and whether they count there:
--     SELECT … FROM lesser_unit(unit = 'output_tokens', since = …, until = …)
-- unit may name several, separated by commas.
-- They count in a minute in which no source of a greater authority (engine, span, client, gateway, others) was there
-- that may mean the same units. A source was there if it reported the unit, even as 0, or that it was observing
-- (observed_ns; this does not count for a unit that it never reports). Two sources may mean the same units where they
-- do not name different versions, pods or processes (a process, a pod's name and a pod's uid, as without a kubelet, may
-- be one and the same); metrics and spans of applications also not different applications. Training is separate from
-- serving, and so is each training run. A run that names no phase is training, unless processes of its version only
-- served at the time (as in counted_unit).
-- whole, head and tail are what falls of a count into the span, and into the first and the last of its minutes. That is
-- nothing where the count lies in a minute that the span cuts, but outside the span (is_within 0).
CREATE OR REPLACE VIEW lesser_unit AS
WITH
{{contested}},
    placed AS
    (
        SELECT multiIf(pod != '', pod, concat(host, ' ', toString(pid))) AS place
        FROM unit_teller
        WHERE (pod != '' OR pid != 0)
            AND (unit, model, authority) IN (SELECT unit, model, authority FROM sources WHERE authority < greatest)
        GROUP BY place
    ),
    toInt64(60000000000) AS minute_ns,
{{span}},
    -- of a minute that the span cuts, all is read: who was there must not depend on where it is cut
    intDiv(since_ns, minute_ns) * minute_ns AS first_ns,
    intDiv(until_ns + minute_ns - 1, minute_ns) * minute_ns AS last_ns,
    -- the versions that only served, of the models that have units with a run and no phase; '' where the whole model did
    (
        SELECT groupArray((model, told_version))
        FROM
        (
            SELECT model, arrayJoin(arrayDistinct(['', version])) AS told_version
            FROM
{{held_hour}}
            WHERE model IN (SELECT model FROM unit_teller WHERE names_run_only)
            GROUP BY model, told_version
            HAVING max(trains) = 0
        )
    ) AS served_only
SELECT
    lesser.*,
    multiIf(minute = first_minute, head, minute = last_minute, tail, (whole - head - tail) / (last_minute - first_minute - 1))
        AS quantity,
    NOT arrayExists(
        o -> o.1 > authority
            AND (empty(o.2) OR empty(model_version) OR o.2 = model_version)
            AND (empty(o.3) OR empty(place) OR o.4 != place_kind OR o.3 = place)
            AND (o.1 != 3 OR authority != 2 OR empty(o.5) OR empty(application) OR o.5 = application),
        better.seen) AS counts
FROM
(
    SELECT *, arrayJoin(range(first_minute, last_minute + 1)) AS minute
    FROM
    (
        SELECT
            unit,
            host,
            pod,
            multiIf(pod != '', pod, pid != 0, concat(host, ' ', toString(pid)), '') AS place,
            {{place_kind}} AS place_kind,
            model,
            model_version,
            run,
            attempt,
            part,
            application,
            phase,
            source,
            authority,
            {{training_of}} AS training,
            is_within,
            first_minute,
            last_minute,
            max(period_ns) AS longest_period_ns,
            sum(in_span) AS whole,
            sum(in_first) AS head,
            sum(in_last) AS tail
        FROM
        (
            SELECT
                *,
                toUnixTimestamp64Nano(t) AS end_ns,
                end_ns - toInt64(period_ns) AS begin_ns,
                greatest(begin_ns, since_ns) AS from_ns,
                least(end_ns, until_ns) AS to_ns,
                intDiv(from_ns, minute_ns) AS first_minute,
                greatest(first_minute, intDiv(to_ns - 1, minute_ns)) AS last_minute,
                begin_ns < until_ns AND end_ns >= since_ns AND (end_ns > since_ns OR period_ns = 0) AS is_within,
                quantity * multiIf(
                    NOT is_within, 0,
                    from_ns = begin_ns AND to_ns = end_ns, 1,
                    (to_ns - from_ns) / period_ns) AS in_span,
                if(first_minute = last_minute, in_span,
                    in_span * ((first_minute + 1) * minute_ns - from_ns) / (to_ns - from_ns)) AS in_first,
                if(first_minute = last_minute, in_span,
                    in_span * (to_ns - last_minute * minute_ns) / (to_ns - from_ns)) AS in_last
            FROM unit FINAL
            WHERE (unit, model, authority) IN (SELECT unit, model, authority FROM sources WHERE authority < greatest)
                AND {{hours}}
                AND begin_ns < last_ns AND end_ns >= first_ns AND (end_ns > first_ns OR period_ns = 0)
        )
        GROUP BY ALL
    )
) AS lesser
LEFT JOIN
(
    SELECT
        unit,
        model,
        training,
        arrayJoin(range(first_minute, last_minute + 1)) AS minute,
        groupUniqArray((authority, model_version, at, kind, of)) AS seen
    FROM
    (
        SELECT
            told.unit AS unit,
            model,
            {{training_of}} AS training,
            authority,
            model_version,
            -- a place that no lesser source names needs no name: then thousands of pods become one row
            multiIf(
                pod = '' AND pid = 0, '',
                (SELECT count() FROM placed) = 0, '-',
                if(pod != '', pod, concat(host, ' ', toString(pid))) AS place IN (SELECT place FROM placed), place,
                '-') AS at,
            {{place_kind}} AS kind,
            if(authority = 3, application, '') AS of,
            intDiv(toUnixTimestamp64Nano(t) - toInt64(period_ns), minute_ns) AS first_minute,
            greatest(first_minute, intDiv(toUnixTimestamp64Nano(t) - 1, minute_ns)) AS last_minute
        FROM unit AS seen_unit FINAL
        INNER JOIN (SELECT unit, model, authority FROM sources WHERE authority > least) AS told USING (model, authority)
        WHERE (seen_unit.unit = told.unit OR (seen_unit.unit = 'observed_ns' AND quantity > 0))
            AND {{hours}}
            AND toUnixTimestamp64Nano(t) - toInt64(period_ns) < last_ns
            AND toUnixTimestamp64Nano(t) >= first_ns
        GROUP BY ALL
    )
    GROUP BY unit, model, training, minute
) AS better USING (unit, model, training, minute)
