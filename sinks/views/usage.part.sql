(
    -- What was used in the span: sums of days, hours and minutes (UTC), and windows at the ends of the span and in the
    -- minutes of `behind`. A sum is used where no price, tariff, billed time or step of the calendar begins within it,
    -- and none of its minutes is in `behind`; else the finer sums are used. The result is the plain sum over
    -- attribution, to the last digit. Conditions on the key go into PREWHERE: all versions of a row have the same key,
    -- so FINAL sees them all or none.
    SELECT * EXCEPT (flags, window_count, version, deleted)
    FROM attribution_day FINAL
    PREWHERE bucket_start >= first_day AND bucket_start < last_day
        AND NOT (has_hours
                OR bucket_start IN (SELECT toStartOfDay(edge) FROM price_edge WHERE edge != toStartOfDay(edge))
                OR {step:String} = 'hour' OR {step:String} != 'all'
                    AND dateDiff(if({step:String} = 'all', 'year', {step:String}), bucket_start, bucket_start + 86399, {tz:String}) != 0)
        AND (host, gpu, bucket_start) NOT IN (
            SELECT late.1, late.2, toStartOfDay(late.3) FROM (SELECT arrayJoin(behind) AS late))
    UNION ALL
    SELECT * EXCEPT (flags, window_count, version, deleted)
    FROM attribution_hour FINAL
    PREWHERE bucket_start >= first_hour AND bucket_start < last_hour
        AND (bucket_start < first_day OR bucket_start >= last_day
            OR (has_hours
                OR toStartOfDay(bucket_start) IN (SELECT toStartOfDay(edge) FROM price_edge WHERE edge != toStartOfDay(edge))
                OR {step:String} = 'hour' OR {step:String} != 'all'
                    AND dateDiff(if({step:String} = 'all', 'year', {step:String}), toStartOfDay(bucket_start), toStartOfDay(bucket_start) + 86399, {tz:String}) != 0)
            OR (host, gpu, toStartOfDay(bucket_start)) IN (
                SELECT late.1, late.2, toStartOfDay(late.3) FROM (SELECT arrayJoin(behind) AS late)))
        AND NOT (has_quarters
                OR bucket_start IN (SELECT toStartOfHour(edge) FROM price_edge WHERE edge != toStartOfHour(edge))
                OR {step:String} != 'all' AND toStartOfHour(bucket_start + 3599, {tz:String}) != bucket_start
                    AND ({step:String} = 'hour' OR dateDiff(
                        if({step:String} = 'all', 'year', {step:String}), bucket_start, bucket_start + 3599, {tz:String}) != 0))
        AND (host, gpu, bucket_start) NOT IN (
            SELECT late.1, late.2, toStartOfHour(late.3) FROM (SELECT arrayJoin(behind) AS late))
    UNION ALL
    SELECT * EXCEPT (flags, window_count, version, deleted)
    FROM attribution_minute FINAL
    PREWHERE bucket_start >= first_minute AND bucket_start < last_minute
        AND (bucket_start < first_hour OR bucket_start >= last_hour
            OR (has_quarters
                OR toStartOfHour(bucket_start) IN (SELECT toStartOfHour(edge) FROM price_edge WHERE edge != toStartOfHour(edge))
                OR {step:String} != 'all' AND toStartOfHour(toStartOfHour(bucket_start) + 3599, {tz:String}) != toStartOfHour(bucket_start)
                    AND ({step:String} = 'hour' OR dateDiff(
                        if({step:String} = 'all', 'year', {step:String}), toStartOfHour(bucket_start), toStartOfHour(bucket_start) + 3599, {tz:String}) != 0))
            OR (host, gpu, toStartOfHour(bucket_start)) IN (
                SELECT late.1, late.2, toStartOfHour(late.3) FROM (SELECT arrayJoin(behind) AS late)))
        AND (host, gpu, bucket_start) NOT IN (
            SELECT late.1, late.2, late.3 FROM (SELECT arrayJoin(behind) AS late))
    UNION ALL
{{windows}}
    FROM attribution FINAL
    PREWHERE window_start >= since_at AND window_start < until_at
        AND (window_start < first_minute OR window_start >= last_minute
            -- the minute alone first: that saves most rows the set of triples, which took 0.3 s for ten million rows
            OR toStartOfMinute(window_start) IN (SELECT arrayJoin(behind).3)
                AND (host, gpu, toStartOfMinute(window_start)) IN (
                    SELECT late.1, late.2, late.3 FROM (SELECT arrayJoin(behind) AS late)))
)
