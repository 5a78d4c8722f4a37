-- Processes that carried the names of two models, or of two versions of one, in [since, until): each counts as two. at
-- is when the second name began. The view only reads around the minutes in which a name first appeared on a GPU, so it
-- is quick for long spans too.
CREATE OR REPLACE VIEW renamed_model AS
WITH
    parseDateTime64BestEffort({since:String}, 3, 'UTC') AS since_at,
    parseDateTime64BestEffort({until:String}, 3, 'UTC') AS until_at,
    fresh AS
    (
        SELECT host, gpu, first_at
        FROM
        (
            SELECT host, gpu, min(bucket_start) AS first_at, count() OVER (PARTITION BY host, gpu) AS names
            FROM attribution_minute FINAL
            WHERE account = 'process' AND model != '' AND bucket_start >= since_at - 60 AND bucket_start < until_at
            GROUP BY host, gpu, model, model_version
        )
        WHERE names > 1
        ORDER BY first_at DESC
        LIMIT 10000
    )
SELECT
    host,
    pid,
    named[1].2 AS model,
    named[1].3 AS model_version,
    named[2].2 AS next_model,
    named[2].3 AS next_version,
    named[2].1 AS at
FROM
(
    SELECT host, pid, arraySort(groupArray((began, model, model_version))) AS named
    FROM
    (
        SELECT host, boot_id, pid, process_start_ns, model, model_version, min(window_start) AS began
        FROM attribution FINAL
        WHERE (host, gpu, toStartOfMinute(window_start)) IN (SELECT host, gpu, arrayJoin([first_at, first_at - 60]) FROM fresh)
            AND account = 'process' AND model != '' AND window_start >= since_at AND window_start < until_at
        GROUP BY host, boot_id, pid, process_start_ns, model, model_version
    )
    GROUP BY host, boot_id, pid, process_start_ns
)
WHERE length(named) > 1
