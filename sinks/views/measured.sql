-- Who was ever measured, and from when until when: a row for each identity and sum of a day, or of finer sums where
-- these are behind (dirty_bucket), with the first and the last of its windows.
CREATE OR REPLACE VIEW measured AS
WITH
    dirty AS (SELECT host, gpu, bucket_start FROM dirty_bucket FINAL)
SELECT * EXCEPT (flags, window_count, version, deleted)
FROM attribution_day FINAL
PREWHERE (host, gpu, bucket_start) NOT IN (SELECT host, gpu, toStartOfDay(bucket_start) FROM dirty)
UNION ALL
SELECT * EXCEPT (flags, window_count, version, deleted)
FROM attribution_hour FINAL
PREWHERE (host, gpu, toStartOfDay(bucket_start)) IN (SELECT host, gpu, toStartOfDay(bucket_start) FROM dirty)
    AND (host, gpu, bucket_start) NOT IN (SELECT host, gpu, toStartOfHour(bucket_start) FROM dirty)
UNION ALL
SELECT * EXCEPT (flags, window_count, version, deleted)
FROM attribution_minute FINAL
PREWHERE (host, gpu, toStartOfHour(bucket_start)) IN (SELECT host, gpu, toStartOfHour(bucket_start) FROM dirty)
    AND (host, gpu, bucket_start) NOT IN dirty
UNION ALL
{{windows}}
FROM attribution FINAL
PREWHERE (host, gpu, toStartOfMinute(window_start)) IN dirty
