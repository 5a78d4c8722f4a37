-- What was in the price book at any time: every price as it was told, also where it was told again since.
CREATE TABLE IF NOT EXISTS price_history AS price
ENGINE = ReplacingMergeTree(version)
ORDER BY (price_id, recorded_at);

CREATE MATERIALIZED VIEW IF NOT EXISTS price_recorder TO price_history AS SELECT * FROM price;

INSERT INTO price_history SELECT * FROM price;

-- What electricity costs where a price does not include it. Nothing wrote into the table of that name before.
-- One that is told again, or ended, is a row of its own: the one recorded last counts.
DROP TABLE IF EXISTS tariff;

CREATE TABLE IF NOT EXISTS tariff
(
    tariff_id String,
    provider LowCardinality(String),
    region LowCardinality(String),
    currency LowCardinality(String) DEFAULT 'USD',
    price_per_kwh Float64,
    node_power_ratio Float64 DEFAULT 1 COMMENT 'power of the node over that of its GPUs',
    pue_ratio Float64 DEFAULT 1 COMMENT 'power of the site over that of its nodes',
    time_zone LowCardinality(String) DEFAULT 'UTC' COMMENT 'of the hours and days',
    offset_from Array(Int64) COMMENT 'Unix time from which on the time zone is offset_s ahead of UTC, ascending',
    offset_s Array(Int64),
    from_hour UInt8 DEFAULT 0,
    to_hour UInt8 DEFAULT 24 COMMENT 'the first hour in which it no longer holds',
    days Array(Int64) DEFAULT [1, 2, 3, 4, 5, 6, 7] COMMENT 'on which it holds: 1 is Monday',
    valid_from DateTime('UTC') DEFAULT 0,
    valid_to DateTime('UTC') DEFAULT 4294967280,
    recorded_at DateTime64(3, 'UTC'),
    source String,
    version UInt64,
    deleted UInt8
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (tariff_id, recorded_at);
