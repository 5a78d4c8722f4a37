-- Which GPUs of a host are billed, from when until when, where somebody has said it. A table of its own: the rows of
-- `host` come from collectors, and one of the same minute would replace what a person declared.
CREATE TABLE IF NOT EXISTS billed_host
(
    host LowCardinality(String),
    gpu_model LowCardinality(String) COMMENT 'as NVML names it',
    gpus UInt16 COMMENT 'how many of them are billed',
    provider LowCardinality(String),
    region LowCardinality(String),
    pricing LowCardinality(String),
    billed_from DateTime('UTC'),
    billed_to DateTime('UTC') COMMENT 'the first minute that is not billed any more',
    version UInt64,
    deleted UInt8
)
ENGINE = ReplacingMergeTree(version, deleted)
ORDER BY (host, gpu_model, billed_from);
