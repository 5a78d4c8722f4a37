-- When the windows of a sum began and ended, and how long they were: so that who was measured from when until when
-- is known without reading windows.
ALTER TABLE attribution_minute
    ADD COLUMN IF NOT EXISTS first_at DateTime64(3, 'UTC') DEFAULT toDateTime64(bucket_start, 3, 'UTC') COMMENT 'start of the first window in the sum' CODEC(DoubleDelta, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS last_at DateTime64(3, 'UTC') DEFAULT toDateTime64(bucket_start + 60, 3, 'UTC') COMMENT 'end of the last one' CODEC(DoubleDelta, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS longest_window_ms UInt32 DEFAULT 1 COMMENT 'length of the longest one' CODEC(ZSTD(1));

ALTER TABLE attribution_hour
    ADD COLUMN IF NOT EXISTS first_at DateTime64(3, 'UTC') DEFAULT toDateTime64(bucket_start, 3, 'UTC') COMMENT 'start of the first window in the sum' CODEC(DoubleDelta, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS last_at DateTime64(3, 'UTC') DEFAULT toDateTime64(bucket_start + 3600, 3, 'UTC') COMMENT 'end of the last one' CODEC(DoubleDelta, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS longest_window_ms UInt32 DEFAULT 1 COMMENT 'length of the longest one' CODEC(ZSTD(1));

ALTER TABLE attribution_day
    ADD COLUMN IF NOT EXISTS first_at DateTime64(3, 'UTC') DEFAULT toDateTime64(bucket_start, 3, 'UTC') COMMENT 'start of the first window in the sum' CODEC(DoubleDelta, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS last_at DateTime64(3, 'UTC') DEFAULT toDateTime64(bucket_start + 86400, 3, 'UTC') COMMENT 'end of the last one' CODEC(DoubleDelta, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS longest_window_ms UInt32 DEFAULT 1 COMMENT 'length of the longest one' CODEC(ZSTD(1));

-- The sums that are there are made anew by the next stream or replay; until then they are not used.
INSERT INTO dirty_bucket (bucket_start, host, gpu, writer, version, deleted, noted_at)
SELECT DISTINCT toStartOfMinute(window_start), host, gpu, 'measured time', 1, 0, toDateTime(0, 'UTC') FROM attribution;
