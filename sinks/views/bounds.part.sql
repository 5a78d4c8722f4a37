    greatest(parseDateTime64BestEffort({since:String}, 3, 'UTC'), toDateTime64(0, 3, 'UTC')) AS since_at,
    least(parseDateTime64BestEffort({until:String}, 3, 'UTC'), toDateTime64('2106-01-01', 3, 'UTC')) AS until_at,
    toStartOfMinute(since_at + toIntervalMillisecond(59999)) AS first_minute,
    toStartOfHour(since_at + toIntervalMillisecond(3599999)) AS first_hour,
    toStartOfDay(since_at + toIntervalMillisecond(86399999)) AS first_day,
    toStartOfMinute(until_at) AS last_minute,
    toStartOfHour(until_at) AS last_hour,
    toStartOfDay(until_at) AS last_day,
    -- as in tariff_book, of all tariffs ever recorded: that reads a few more rows, and takes less time than tariff_book
    (SELECT max(from_hour != 0 OR to_hour != 24 OR length(days) != 7) FROM tariff) = 1 AS has_hours,
    (
        SELECT max(arrayExists(ahead_s -> ahead_s % 3600 != 0, offset_s))
        FROM tariff
        WHERE from_hour != 0 OR to_hour != 24 OR length(days) != 7
    ) = 1 AS has_quarters
