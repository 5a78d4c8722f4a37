    parseDateTime64BestEffort({since:String}, 3, 'UTC') AS since_at,
    parseDateTime64BestEffort({until:String}, 3, 'UTC') AS until_at,
    -- in ns a time must stay below 2262
    toUnixTimestamp64Milli(greatest(since_at, toDateTime64(0, 3, 'UTC'))) * 1000000 AS since_ns,
    least(toUnixTimestamp64Milli(until_at), 9000000000000) * 1000000 AS until_ns
