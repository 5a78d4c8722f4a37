-- Every table is a ReplacingMergeTree whose key names a fact: writing a fact again changes nothing.
-- Read with FINAL. Codecs as measured: T64 or plain ZSTD(1) for integers, DoubleDelta for times;
-- Gorilla is larger on noisy figures.
-- A statement ends with a semicolon at the end of a line. Every statement may be repeated.

-- What each process, and nobody, cost in one window of one GPU: see docs/store.md.
-- The month is a function of window_start, which is in the key: FINAL never misses a row's other versions.
CREATE TABLE IF NOT EXISTS attribution
(
    window_start DateTime64(3, 'UTC') COMMENT 'start of the window; windows align to the Unix epoch' CODEC(DoubleDelta, ZSTD(1)),
    window_ms UInt32 COMMENT 'length of the window' CODEC(ZSTD(1)),
    host LowCardinality(String),
    gpu LowCardinality(String) COMMENT 'UUID of the device',
    gpu_model LowCardinality(String) COMMENT 'as NVML names it',
    gpu_instance Int16 COMMENT 'MIG instance, -1 without MIG' CODEC(ZSTD(1)),
    account Enum8('process' = 1, 'reserved' = 2, 'unheld' = 3, 'residual' = 4) COMMENT 'who holds the row: a process, a reservation without process, nobody, or what cannot be split',
    device_energy_uj Int64 COMMENT 'energy of the device in the whole window, repeated on each of its rows' CODEC(T64, ZSTD(1)),
    boot_id LowCardinality(String),
    pid UInt32 CODEC(T64, ZSTD(1)),
    process_start_ns UInt64 CODEC(ZSTD(1)),
    part LowCardinality(String) COMMENT 'empty: the whole process; else an adapter or application inside it',
    cluster LowCardinality(String),
    container LowCardinality(String),
    pod LowCardinality(String),
    namespace LowCardinality(String),
    job LowCardinality(String),
    user LowCardinality(String),
    team LowCardinality(String),
    application LowCardinality(String),
    workload LowCardinality(String),
    phase LowCardinality(String),
    model LowCardinality(String),
    model_version LowCardinality(String),
    run LowCardinality(String),
    attempt UInt32 CODEC(T64, ZSTD(1)),
    provider LowCardinality(String),
    region LowCardinality(String),
    pricing LowCardinality(String) COMMENT 'what the host is charged as: on_demand, spot, …',
    labels Map(LowCardinality(String), String) COMMENT 'the labels of the host, and over them those of the workload' CODEC(ZSTD(1)),
    active_energy_uj Int64 COMMENT 'energy above the idle level, caused by this process' CODEC(T64, ZSTD(1)),
    idle_energy_equal_uj Int64 COMMENT 'share of the idle level, policy equal' CODEC(T64, ZSTD(1)),
    idle_energy_memory_uj Int64 COMMENT 'share of the idle level, policy memory' CODEC(T64, ZSTD(1)),
    idle_energy_active_uj Int64 COMMENT 'share of the idle level, policy active' CODEC(T64, ZSTD(1)),
    active_time_ns Int64 COMMENT 'SM time' CODEC(T64, ZSTD(1)),
    gpu_time_equal_ns Int64 COMMENT 'active_time_ns and the share of the idle time, policy equal' CODEC(T64, ZSTD(1)),
    gpu_time_memory_ns Int64 COMMENT 'the same, policy memory' CODEC(T64, ZSTD(1)),
    gpu_time_active_ns Int64 COMMENT 'the same, policy active' CODEC(T64, ZSTD(1)),
    memory_bytes UInt64 COMMENT 'mean over the window' CODEC(T64, ZSTD(1)),
    energy_source Enum8('counter' = 1, 'instant' = 2, 'average' = 3, 'module' = 4, 'none' = 5),
    weight_source Enum8('exclusive' = 1, 'accounting' = 2, 'utilization' = 3, 'gpm' = 4, 'memory' = 5, 'equal' = 6, 'none' = 7),
    identity_source LowCardinality(String) COMMENT 'what told the identity',
    covered_ns UInt64 COMMENT 'observed part of the device''s window, repeated on each of its rows' CODEC(T64, ZSTD(1)),
    error_uj Int64 COMMENT 'half-width of a 95 % band of the energy' CODEC(T64, ZSTD(1)),
    error_ns Int64 COMMENT 'half-width of a 95 % band of the time' CODEC(T64, ZSTD(1)),
    flags UInt32 COMMENT 'bit set: what is weak about the row' CODEC(T64, ZSTD(1)),
    segment UInt32 COMMENT 'counter segment: between two resets of the energy counter' CODEC(T64, ZSTD(1)),
    version UInt64 COMMENT 'a function of the input: a later restatement is greater' CODEC(T64, ZSTD(1)),
    deleted UInt8 COMMENT '1: nothing is due any more' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version, deleted)
PARTITION BY toYYYYMM(window_start)
-- Time first, for every answer has a span: of ten million rows cost takes 0.32 s of processor time, and took 0.64 with host
-- and GPU first, explain 2.5 and 3.5. A minute, so that rows of a GPU stay together: the table is as large either way. And
-- the key of the index ends before window_start, else a condition on that would not reach the minute.
PRIMARY KEY (toStartOfMinute(window_start), host, gpu)
ORDER BY (toStartOfMinute(window_start), host, gpu, gpu_instance, window_start, account, boot_id, pid, process_start_ns, part);

-- The sums of attribution by identity, a row per bucket and identity; energy and covered time of the device
-- are left out, because they do not add up over identities. Recomputed, never incremented.
CREATE TABLE IF NOT EXISTS attribution_minute
(
    bucket_start DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    host LowCardinality(String),
    gpu LowCardinality(String),
    gpu_instance Int16 CODEC(ZSTD(1)),
    account Enum8('process' = 1, 'reserved' = 2, 'unheld' = 3, 'residual' = 4),
    identity UInt64 COMMENT 'sipHash64 of the columns from gpu_model to labels: one row per identity' CODEC(ZSTD(1)),
    gpu_model LowCardinality(String),
    part LowCardinality(String),
    cluster LowCardinality(String),
    container LowCardinality(String),
    pod LowCardinality(String),
    namespace LowCardinality(String),
    job LowCardinality(String),
    user LowCardinality(String),
    team LowCardinality(String),
    application LowCardinality(String),
    workload LowCardinality(String),
    phase LowCardinality(String),
    model LowCardinality(String),
    model_version LowCardinality(String),
    run LowCardinality(String),
    attempt UInt32 CODEC(T64, ZSTD(1)),
    provider LowCardinality(String),
    region LowCardinality(String),
    pricing LowCardinality(String),
    labels Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    active_energy_uj Int64 CODEC(T64, ZSTD(1)),
    idle_energy_equal_uj Int64 CODEC(T64, ZSTD(1)),
    idle_energy_memory_uj Int64 CODEC(T64, ZSTD(1)),
    idle_energy_active_uj Int64 CODEC(T64, ZSTD(1)),
    active_time_ns Int64 CODEC(T64, ZSTD(1)),
    gpu_time_equal_ns Int64 CODEC(T64, ZSTD(1)),
    gpu_time_memory_ns Int64 CODEC(T64, ZSTD(1)),
    gpu_time_active_ns Int64 CODEC(T64, ZSTD(1)),
    error_uj Int64 CODEC(T64, ZSTD(1)),
    error_ns Int64 CODEC(T64, ZSTD(1)),
    flags UInt32 COMMENT 'every bit that a summed row has' CODEC(T64, ZSTD(1)),
    window_count UInt64 COMMENT 'rows of attribution in the sums' CODEC(T64, ZSTD(1)),
    version UInt64 COMMENT 'the greatest version among the rows of the bucket' CODEC(T64, ZSTD(1)),
    deleted UInt8 CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version, deleted)
PARTITION BY toYYYYMM(bucket_start)
PRIMARY KEY (toStartOfHour(bucket_start), host, gpu)
ORDER BY (toStartOfHour(bucket_start), host, gpu, gpu_instance, bucket_start, account, identity);

CREATE TABLE IF NOT EXISTS attribution_hour AS attribution_minute
ENGINE = ReplacingMergeTree(version, deleted)
PARTITION BY toYYYYMM(bucket_start)
PRIMARY KEY (toStartOfDay(bucket_start), host, gpu)
ORDER BY (toStartOfDay(bucket_start), host, gpu, gpu_instance, bucket_start, account, identity);

CREATE TABLE IF NOT EXISTS attribution_day AS attribution_minute
ENGINE = ReplacingMergeTree(version, deleted)
PARTITION BY toYear(bucket_start)
PRIMARY KEY (bucket_start, host, gpu)
ORDER BY (bucket_start, host, gpu, gpu_instance, account, identity);

-- Minutes whose rollups may be behind: noted before the rows are written, deleted after the rollups are.
-- A writer deletes only what it noted or found when it began, so that no live writer's note is lost.
CREATE TABLE IF NOT EXISTS dirty_bucket
(
    bucket_start DateTime('UTC'),
    host LowCardinality(String),
    gpu LowCardinality(String),
    writer LowCardinality(String) COMMENT 'one opening of a sink',
    version UInt64 COMMENT 'the order of the notes of one writer',
    deleted UInt8,
    noted_at DateTime('UTC') DEFAULT now()
)
ENGINE = ReplacingMergeTree(version, deleted)
ORDER BY (bucket_start, host, gpu, writer)
TTL noted_at + INTERVAL 1 DAY DELETE WHERE deleted = 1;

-- Counted outcomes: quantity of a unit happened in (t - period_ns, t].
CREATE TABLE IF NOT EXISTS unit
(
    t DateTime64(9, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    period_ns UInt64 CODEC(ZSTD(1)),
    host LowCardinality(String),
    boot_id LowCardinality(String),
    pid UInt32,
    process_start_ns UInt64,
    pod LowCardinality(String),
    source LowCardinality(String),
    authority UInt8 COMMENT 'where several sources count the same, only the greatest counts: engine, span, client metric, gateway',
    model LowCardinality(String),
    model_version LowCardinality(String),
    run LowCardinality(String),
    attempt UInt32,
    part LowCardinality(String),
    application LowCardinality(String),
    phase LowCardinality(String),
    unit LowCardinality(String),
    quantity Float64 CODEC(ZSTD(1)),
    position String COMMENT 'where it stands in its host''s stream: epoch and sequence number',
    event_id String,
    event_key String DEFAULT if(event_id = '', concat('at ', host, ' ', position), concat('id ', event_id))
        COMMENT 'the event_id, else host and position',
    key_hour Int32 DEFAULT if(
        endsWith(event_key, concat(' ', toString(toUnixTimestamp64Nano(t)))) AND period_ns <= 3600000000000,
        intDiv(toUnixTimestamp64Nano(t), 3600000000000), 0)
        COMMENT 'hours of Unix time of t, where event_key ends with it; else 0: told again, it may have another t',
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (unit, key_hour, model, event_key);

-- How good a model version or a run was.
CREATE TABLE IF NOT EXISTS quality
(
    t DateTime64(9, 'UTC'),
    model LowCardinality(String),
    model_version LowCardinality(String),
    run LowCardinality(String),
    metric LowCardinality(String),
    value Float64,
    higher_is_better Bool DEFAULT true,
    sample_count Nullable(UInt64),
    dataset LowCardinality(String),
    source LowCardinality(String)
)
ENGINE = ReplacingMergeTree
ORDER BY (model, model_version, run, metric, dataset, source, t);

-- The life of a run: start, checkpoint, finish, fail.
CREATE TABLE IF NOT EXISTS run_event
(
    run LowCardinality(String),
    attempt UInt32,
    t DateTime64(9, 'UTC'),
    event LowCardinality(String),
    step Nullable(UInt64) COMMENT 'where the run stood',
    steps Nullable(UInt64) COMMENT 'where it is to end'
)
ENGINE = ReplacingMergeTree
ORDER BY (run, attempt, t, event);

-- Which runs a model version was made by, and over which units of its life their cost is spread.
CREATE TABLE IF NOT EXISTS lineage
(
    model LowCardinality(String),
    model_version LowCardinality(String),
    run LowCardinality(String),
    share_ratio Float64 DEFAULT 1,
    life_from DateTime('UTC') DEFAULT 0,
    life_to DateTime('UTC') DEFAULT 4294967295,
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (model, model_version, run);

-- Who a process is. The command line is kept only as far as the rules need it.
CREATE TABLE IF NOT EXISTS process
(
    host LowCardinality(String),
    boot_id LowCardinality(String),
    pid UInt32,
    process_start_ns UInt64,
    command String,
    image LowCardinality(String),
    engine LowCardinality(String),
    container LowCardinality(String),
    pod LowCardinality(String),
    namespace LowCardinality(String),
    job LowCardinality(String),
    user LowCardinality(String),
    team LowCardinality(String),
    application LowCardinality(String),
    workload LowCardinality(String),
    phase LowCardinality(String),
    model LowCardinality(String),
    model_version LowCardinality(String),
    run LowCardinality(String),
    attempt UInt32,
    identity_source LowCardinality(String),
    labels Map(LowCardinality(String), String),
    config Map(LowCardinality(String), String),
    tensor_parallel_size UInt32,
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (host, boot_id, pid, process_start_ns);

-- What a GPU-hour costs, where, as what, and when. An empty provider, region or category holds for any.
-- valid_from and valid_to are whole minutes; valid_to is the first minute in which it no longer holds.
CREATE TABLE IF NOT EXISTS price
(
    price_id String,
    origin Enum8('bundled' = 0, 'user' = 1) COMMENT 'a user''s price wins over a bundled one',
    provider LowCardinality(String),
    region LowCardinality(String),
    category LowCardinality(String) COMMENT 'on_demand, spot, …: compared with the pricing of a row',
    gpu_model LowCardinality(String) COMMENT 'as NVML names it',
    form LowCardinality(String) COMMENT 'SXM, PCIe, …',
    currency LowCardinality(String) DEFAULT 'USD',
    list_price Nullable(Float64) COMMENT 'per GPU-hour, as are the next two',
    contracted_price Nullable(Float64),
    effective_price Nullable(Float64) COMMENT 'what is charged: else contracted_price, else list_price',
    commitment_id String,
    includes_energy Bool DEFAULT true,
    gpus_per_instance UInt16,
    instance_price Nullable(Float64) COMMENT 'per hour of the whole instance',
    valid_from DateTime('UTC') DEFAULT 0,
    valid_to DateTime('UTC') DEFAULT 4294967280 COMMENT 'the last whole minute that the type holds: without end',
    recorded_at DateTime64(3, 'UTC'),
    source String,
    source_date String,
    disputed Bool COMMENT 'sources contradict each other',
    version UInt64,
    deleted UInt8
)
ENGINE = ReplacingMergeTree(version, deleted)
ORDER BY price_id;

-- What a host is, and whose, from valid_from to valid_to.
CREATE TABLE IF NOT EXISTS host
(
    host LowCardinality(String),
    cluster LowCardinality(String),
    provider LowCardinality(String),
    region LowCardinality(String),
    pricing LowCardinality(String),
    instance_id LowCardinality(String),
    instance_type LowCardinality(String),
    gpus_per_instance UInt16,
    owner_team LowCardinality(String),
    account_id LowCardinality(String),
    labels Map(LowCardinality(String), String),
    valid_from DateTime('UTC') DEFAULT 0,
    valid_to DateTime('UTC') DEFAULT 4294967280,
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (host, valid_from);

-- What electricity costs where a price does not include it.
CREATE TABLE IF NOT EXISTS tariff
(
    provider LowCardinality(String),
    region LowCardinality(String),
    currency LowCardinality(String) DEFAULT 'USD',
    price_per_kwh Float64,
    node_power_ratio Float64 DEFAULT 1 COMMENT 'power of the node over that of its GPUs',
    pue_ratio Float64 DEFAULT 1,
    valid_from DateTime('UTC') DEFAULT 0,
    valid_to DateTime('UTC') DEFAULT 4294967280,
    source String,
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (provider, region, valid_from);

-- What may be spent.
CREATE TABLE IF NOT EXISTS budget
(
    budget_id String,
    scope Map(LowCardinality(String), String) COMMENT 'identity columns and the value each must have',
    amount_usd Float64,
    valid_from DateTime('UTC'),
    valid_to DateTime('UTC'),
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY budget_id;

-- Spans in which nothing is known, and why. An empty gpu: every GPU of the host.
CREATE TABLE IF NOT EXISTS gap
(
    host LowCardinality(String),
    gpu LowCardinality(String),
    gap_start DateTime64(9, 'UTC'),
    gap_end DateTime64(9, 'UTC'),
    reason LowCardinality(String),
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (host, gpu, gap_start, reason);

-- Dead letters: what could not be used, where it stood and why.
CREATE TABLE IF NOT EXISTS dead
(
    origin LowCardinality(String) COMMENT 'file, or topic and partition',
    position UInt64 COMMENT 'line or offset',
    t DateTime64(9, 'UTC'),
    reason String,
    excerpt String COMMENT 'the beginning of what stood there'
)
ENGINE = ReplacingMergeTree
ORDER BY (origin, position, reason);
