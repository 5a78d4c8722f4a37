(
    -- Of each model and the version that a count names, whether processes of it served and trained in the span; where it
    -- names none, of any. For those also the only version that served in all, and the next two that serve from a time on,
    -- with when they do: what ends by then is of neither. A line for each stretch of hours without a break, for a version
    -- that is rolled back to comes again; joined by time, for an array of all stretches beside each count took more than
    -- 2 GiB of two versions that took turns by the hour for four months.
    SELECT
        model,
        told_version,
        stretch.2 AS begin_ns,
        max(NOT trains) OVER named AS serves_too,
        max(trains) OVER named AS trains_too,
        if(minIf(version, NOT trains) OVER named = maxIf(version, NOT trains) OVER named,
            minIf(version, NOT trains) OVER named, '') AS only_version,
        minMap(map(toString(version), stretch.1)) OVER (
            PARTITION BY model, told_version ORDER BY stretch.2 DESC RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
            AS begins,
        arraySlice(arraySort(arrayZip(mapValues(begins), mapKeys(begins))), 1, 2) AS next
    FROM
    (
        SELECT
            model,
            version,
            trains,
            arrayJoin(arrayDistinct(['', version])) AS told_version,
            -- of thousands of versions the next of each at each time is much: only where counts name none
            model IN (SELECT model FROM unit_teller WHERE model_version = '') AS is_asked,
            arrayJoin(arrayPushFront(if(is_asked AND told_version = '' AND NOT trains, stretches, []),
                (toInt64(0), toInt64(0)))) AS stretch
        FROM
        (
            SELECT
                model,
                version,
                trains,
                arraySort(groupArray((begin_ns, end_ns))) AS hours,
                arrayMap(s -> (s[1].1, s[-1].2), arraySplit(
                    (hour, ended_before) -> hour.1 > ended_before, hours, arrayPushFront(arrayPopBack(hours.2), 0))) AS stretches
            FROM
{{held_hour}}
            GROUP BY model, version, trains
        )
    )
    WINDOW named AS (PARTITION BY model, told_version)
)
