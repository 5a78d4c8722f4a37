    -- an engine's first and last minutes are not those of the span: so much is read before and after it
    10 * minute_ns AS beyond_ns,
    -- of engines that tell the unit: that one was observed says nothing of what others count. Found once: what
    -- asks for them six times read 3 M rows, 0.4 s of processor time
    (
        SELECT groupUniqArray((host, pod, model, model_version, first_told))
        FROM (SELECT DISTINCT host, pod, model, model_version, authority FROM unit WHERE unit = 'observed_ns') AS looked_unit
        INNER JOIN
        (
            SELECT model, authority, argMin(unit, indexOf(splitByChar(',', {unit:String}), unit)) AS first_told
            FROM
            (
                SELECT DISTINCT unit, model, authority
                FROM unit
                WHERE unit IN (SELECT arrayJoin(splitByChar(',', {unit:String})))
            )
            GROUP BY model, authority
        ) AS tells USING (model, authority)
    ) AS told_places,
    places AS (SELECT p.1, p.2, p.3 AS model, p.4 FROM (SELECT arrayJoin(told_places) AS p)),
    looked AS
    (
        SELECT
            host,
            pod AS engine_pod,
            model,
            model_version AS engine_version,
            arrayJoin(range(seen_minute, if(is_last, seen_minute + 1, next_minute))) AS minute,
            -- between two minutes in which it was observed it was not
            avg(multiIf(minute != seen_minute, 0, is_first OR is_last, 1, least(1, in_minute_ns / minute_ns))) AS ratio,
            min(if(minute != seen_minute, 0, in_minute_ns / minute_ns)) AS least_seen_ratio
        FROM
        (
            SELECT
                *,
                row_number() OVER life = 1 AS is_first,
                leadInFrame(seen_minute, 1, toInt64(-1)) OVER life AS next_minute,
                next_minute = -1 AS is_last
            FROM
            (
                SELECT
                    host,
                    pod,
                    model,
                    model_version,
                    pid,
                    process_start_ns,
                    arrayJoin(range(
                        intDiv(greatest(begin_ns, since_ns - beyond_ns), minute_ns),
                        intDiv(least(end_ns, until_ns + beyond_ns) - 1, minute_ns) + 1)) AS seen_minute,
                    sum(quantity * (least(end_ns, (seen_minute + 1) * minute_ns) - greatest(begin_ns, seen_minute * minute_ns))
                        / (end_ns - begin_ns)) AS in_minute_ns
                FROM
                (
                    SELECT *, toUnixTimestamp64Nano(t) AS end_ns, end_ns - toInt64(period_ns) AS begin_ns
                    FROM unit FINAL
                    WHERE unit = 'observed_ns' AND quantity > 0 AND period_ns > 0 AND end_ns > since_ns - beyond_ns
                        AND begin_ns < until_ns + beyond_ns
                )
                GROUP BY host, pod, model, model_version, pid, process_start_ns, seen_minute
            )
            WINDOW life AS (
                PARTITION BY host, pod, model, model_version, pid, process_start_ns ORDER BY seen_minute
                ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
        )
        GROUP BY host, engine_pod, model, engine_version, minute
    )
