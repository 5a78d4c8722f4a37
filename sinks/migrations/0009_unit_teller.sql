-- The hour by which a span finds its units. A store that was made with it has it in the order of the table too.
ALTER TABLE unit
    ADD COLUMN IF NOT EXISTS key_hour Int32 DEFAULT if(
        endsWith(event_key, concat(' ', toString(toUnixTimestamp64Nano(t)))) AND period_ns <= 3600000000000,
        intDiv(toUnixTimestamp64Nano(t), 3600000000000), 0)
        COMMENT 'hours of Unix time of t, where event_key ends with it; else 0: told again, it may have another t'
        AFTER event_key;

-- Who ever told which unit, and from when until when. What was there at any time may be asked of every span, and units
-- are many: an engine that is looked at every 5 s tells 30 million a year. That a unit is told again changes nothing
-- here, so the view may fill it.
CREATE TABLE IF NOT EXISTS unit_teller
(
    unit LowCardinality(String),
    model LowCardinality(String),
    model_version LowCardinality(String),
    authority UInt8,
    host LowCardinality(String),
    pod LowCardinality(String),
    pid UInt32,
    process_start_ns UInt64,
    names_run_only Bool COMMENT 'it names a run and no phase',
    has_period Bool COMMENT 'and a quantity in it',
    first_ns SimpleAggregateFunction(min, Int64) COMMENT 'Unix time at which the first period began',
    last_ns SimpleAggregateFunction(max, Int64) COMMENT 'and the last one ended'
)
ENGINE = AggregatingMergeTree
ORDER BY (unit, model, model_version, authority, host, pod, pid, process_start_ns, names_run_only, has_period);

CREATE MATERIALIZED VIEW IF NOT EXISTS unit_teller_recorder TO unit_teller AS
SELECT
    unit, model, model_version, authority, host, pod, pid, process_start_ns,
    run != '' AND phase = '' AS names_run_only,
    period_ns > 0 AND quantity > 0 AS has_period,
    min(toUnixTimestamp64Nano(t) - toInt64(period_ns)) AS first_ns,
    max(toUnixTimestamp64Nano(t)) AS last_ns
FROM unit
GROUP BY ALL;

INSERT INTO unit_teller SELECT
    unit, model, model_version, authority, host, pod, pid, process_start_ns,
    run != '' AND phase = '' AS names_run_only,
    period_ns > 0 AND quantity > 0 AS has_period,
    min(toUnixTimestamp64Nano(t) - toInt64(period_ns)) AS first_ns,
    max(toUnixTimestamp64Nano(t)) AS last_ns
FROM unit
GROUP BY ALL;
