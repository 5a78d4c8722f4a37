(
    -- Of each model, which versions held a GPU in the span, and whether in what trains (1) or serves (0).
    SELECT model, groupUniqArray((version, trains)) AS held
    FROM
    (
        SELECT model, model_version AS version, phase = 'training' OR (run != '' AND phase = '') AS trains
        FROM attribution_hour FINAL
        WHERE account = 'process' AND bucket_start >= toStartOfHour(since_at) AND bucket_start < until_at
            AND last_at > since_at AND first_at < until_at
        GROUP BY ALL
        UNION DISTINCT
        -- and what the sums of hours do not hold yet
        SELECT model, model_version AS version, phase = 'training' OR (run != '' AND phase = '') AS trains
        FROM attribution FINAL
        WHERE account = 'process' AND window_start >= since_at AND window_start < until_at
            AND window_start >= (
                SELECT if(count() = 0, toDateTime('2105-01-01', 'UTC'), min(bucket_start)) FROM dirty_bucket FINAL)
            AND (host, gpu, toStartOfMinute(window_start)) IN (SELECT host, gpu, bucket_start FROM dirty_bucket FINAL)
        GROUP BY ALL
    )
    GROUP BY model
)
