(
    -- For each model and version that a count may name ('': none), whether processes of it served and trained in the span,
    -- of any version for ''. For '' also the only version that served at all, and the next two versions that serve from
    -- begin_ns on, with when they begin; what has ended by then is not among them. One row for each stretch of hours
    -- without a break, because a version that was rolled back to serves again. Counts are joined to it by time: with an
    -- array of all stretches beside each count, two versions that took turns by the hour for four months took over 2 GiB.
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
            -- only where counts name no version: with thousands of versions this is a lot
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
