-- The units that count in [since, until), each by the part of (t - period, t] that lies in the span; one without
-- a period by its t. Where sources of one model, version and run count the same unit, only those of the
-- greatest authority count.
CREATE OR REPLACE VIEW counted_unit AS
WITH
    -- in ns a time must stay below 2262
    toUnixTimestamp64Milli(greatest(parseDateTime64BestEffort({since:String}, 3, 'UTC'), toDateTime64(0, 3, 'UTC')))
        * 1000000 AS since_ns,
    least(toUnixTimestamp64Milli(parseDateTime64BestEffort({until:String}, 3, 'UTC')), 9000000000000)
        * 1000000 AS until_ns,
    toUnixTimestamp64Nano(t) AS end_ns,
    end_ns - toInt64(period_ns) AS begin_ns
SELECT
    host,
    pod,
    model,
    model_version,
    run,
    attempt,
    part,
    application,
    phase,
    source,
    counted_quantity AS quantity
FROM
(
    SELECT
        *,
        quantity * multiIf(
            period_ns = 0, if(end_ns >= since_ns AND end_ns < until_ns, 1, 0),
            begin_ns >= since_ns AND end_ns <= until_ns, 1,
            greatest(0, least(end_ns, until_ns) - greatest(begin_ns, since_ns)) / period_ns) AS counted_quantity,
        max(authority) OVER (PARTITION BY model, model_version, run) AS greatest_authority
    FROM unit FINAL
    WHERE unit = {unit:String} AND end_ns >= since_ns AND begin_ns < until_ns
)
WHERE authority = greatest_authority
