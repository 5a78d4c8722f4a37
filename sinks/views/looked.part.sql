    -- all of the minutes that the span cuts
    intDiv(since_ns, minute_ns) * minute_ns AS first_ns,
    intDiv(until_ns + minute_ns - 1, minute_ns) * minute_ns AS last_ns,
    -- engines that report the unit: that one was observed says nothing of what others count. Found once, used six times
    (
        SELECT groupUniqArray((host, pod, model, model_version, first_told))
        FROM (SELECT DISTINCT host, pod, model, model_version, authority FROM unit_teller WHERE unit = 'observed_ns') AS looked_unit
        INNER JOIN
        (
            SELECT model, authority, argMin(unit, indexOf(splitByChar(',', {unit:String}), unit)) AS first_told
            FROM
            (
                SELECT DISTINCT unit, model, authority
                FROM unit_teller
                WHERE unit IN (SELECT arrayJoin(splitByChar(',', {unit:String})))
            )
            GROUP BY model, authority
        ) AS tells USING (model, authority)
    ) AS told_places,
    places AS (SELECT p.1, p.2, p.3 AS model, p.4 FROM (SELECT arrayJoin(told_places) AS p)),
    looked AS
    (
        SELECT
            engine.1 AS host,
            engine.2 AS engine_pod,
            engine.3 AS model,
            engine.4 AS engine_version,
            minute,
            avg(if(minute = begun OR minute = ended, 1, least(1, in_minute_ns / minute_ns))) AS ratio,
            min(in_minute_ns / minute_ns) AS least_seen_ratio
        FROM
        (
            SELECT
                engine,
                minute,
                max(begun_minute) AS begun,
                max(ended_minute) AS ended,
                sum(observed_ns) AS in_minute_ns
            FROM
            (
                -- every minute of its life, because it may not have been observed in all of them
                SELECT
                    engine,
                    begun_minute,
                    ended_minute,
                    arrayJoin(range(
                        greatest(begun_minute, intDiv(since_ns, minute_ns)),
                        least(ended_minute, intDiv(until_ns - 1, minute_ns)) + 1)) AS minute,
                    0. AS observed_ns
                FROM
                (
                    SELECT
                        (host, pod, model, model_version, pid, process_start_ns) AS engine,
                        intDiv(min(first_ns), minute_ns) AS begun_minute,
                        intDiv(max(last_ns) - 1, minute_ns) AS ended_minute
                    FROM unit_teller
                    WHERE unit = 'observed_ns' AND has_period
                    GROUP BY engine
                )
                UNION ALL
                SELECT
                    engine,
                    toInt64(0),
                    toInt64(0),
                    arrayJoin(range(
                        intDiv(greatest(begin_ns, first_ns), minute_ns),
                        intDiv(least(end_ns, last_ns) - 1, minute_ns) + 1)) AS seen_minute,
                    quantity * (least(end_ns, (seen_minute + 1) * minute_ns) - greatest(begin_ns, seen_minute * minute_ns))
                        / (end_ns - begin_ns)
                FROM
                (
                    SELECT
                        (host, pod, model, model_version, pid, process_start_ns) AS engine,
                        quantity,
                        toUnixTimestamp64Nano(t) AS end_ns,
                        end_ns - toInt64(period_ns) AS begin_ns
                    FROM unit FINAL
                    WHERE unit = 'observed_ns' AND quantity > 0 AND period_ns > 0 AND {{hours}}
                        AND end_ns > first_ns AND begin_ns < last_ns
                )
            )
            GROUP BY engine, minute
        )
        GROUP BY host, engine_pod, model, engine_version, minute
    )
