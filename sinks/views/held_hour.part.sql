(
    WITH
        toStartOfHour(since_at + toIntervalMillisecond(3599999)) AS whole_hours_from,
        toStartOfHour(until_at) AS whole_hours_until,
        toStartOfMinute(since_at + toIntervalMillisecond(59999)) AS whole_minutes_from,
        toStartOfMinute(until_at) AS whole_minutes_until
    -- For each model, which versions held a GPU in the span, whether for training (1) or serving (0), in which hours, and
    -- there from when until when (ns).
    SELECT
        model,
        version,
        trains,
        min(toUnixTimestamp64Milli(began)) * 1000000 AS begin_ns,
        max(toUnixTimestamp64Milli(ended)) * 1000000 AS end_ns
    FROM
    (
        SELECT model, model_version AS version, {{trains}} AS trains, bucket_start AS hour,
            min(first_at) AS began, max(last_at) AS ended
        FROM attribution_hour FINAL
        WHERE account = 'process' AND bucket_start >= whole_hours_from AND bucket_start < whole_hours_until
        GROUP BY model, version, trains, hour
        UNION ALL
        -- of hours that the span cuts, only what lies in the span; else the result would depend on what is summed up by now
        SELECT model, model_version AS version, {{trains}} AS trains, toStartOfHour(bucket_start) AS hour,
            min(first_at) AS began, max(last_at) AS ended
        FROM attribution_minute FINAL
        WHERE account = 'process' AND bucket_start >= whole_minutes_from AND bucket_start < whole_minutes_until
            AND (bucket_start < whole_hours_from OR bucket_start >= whole_hours_until)
        GROUP BY model, version, trains, hour
        UNION ALL
        -- the same for minutes that the span cuts, and what the sums do not hold yet
        SELECT model, model_version AS version, {{trains}} AS trains, toStartOfHour(window_start) AS hour,
            min(window_start) AS began, max(window_start + toIntervalMillisecond(window_ms)) AS ended
        FROM attribution FINAL
        WHERE account = 'process' AND window_start >= since_at AND window_start < until_at
            AND (window_start < whole_minutes_from OR window_start >= whole_minutes_until
                OR window_start >= (SELECT if(count() = 0, toDateTime('2105-01-01', 'UTC'), min(bucket_start))
                    FROM dirty_bucket FINAL)
                    AND (host, gpu, toStartOfMinute(window_start)) IN (
                        SELECT host, gpu, bucket_start FROM dirty_bucket FINAL))
        GROUP BY model, version, trains, hour
    )
    GROUP BY model, version, trains, hour
)
