-- The GPU time and energy of serving, and how much of it falls into time in which its units were counted:
--     SELECT … FROM unit_coverage(policy = 'equal', unit = 'output_tokens', since = …, until = …)
-- Computed by minutes, for the models whose engines report when they were observed (units observed_ns). The covered
-- part of a minute is the part in which an engine at that host and pod was observed, or all of it where a lesser source
-- counts. Several engines there weigh the same, each from its first to its last observed minute. Those two are covered
-- whole; the time before and after is not covered. Where no engine was ever observed at a host and pod (is_known 0),
-- all of it is covered. unit may name several, separated by commas: for each model, the first that its engines report
-- is used.
CREATE OR REPLACE VIEW unit_coverage AS
WITH
    toInt64(60000000000) AS minute_ns,
{{bounds}},
    toUnixTimestamp64Milli(since_at) * 1000000 AS since_ns,
    toUnixTimestamp64Milli(until_at) * 1000000 AS until_ns,
{{looked}},
    dirty AS (SELECT host, gpu, bucket_start FROM dirty_bucket FINAL),
    filled AS
    (
        -- and where: a count that names a pod or process says nothing of the others
        SELECT model, minute, groupUniqArray((model_version, place)) AS seen
        FROM lesser_unit(unit = {unit:String}, since = {since:String}, until = {until:String})
        WHERE counts AND training = '' AND (model, unit) IN (SELECT p.3, p.5 FROM (SELECT arrayJoin(told_places) AS p))
        GROUP BY model, minute
    ),
    spent AS
    (
        SELECT host, gpu, pod, model, model_version, run, phase, minute,
{{engine_of}},
            sum(time_ns) AS time_ns,
            sum(energy) AS energy
        FROM
        (
            SELECT host, gpu, pod, model, model_version, run, phase,
                toInt64(intDiv(toUnixTimestamp(bucket_start), 60)) AS minute,
                {{policy_time}} AS time_ns,
                {{policy_energy}} AS energy
            FROM attribution_minute FINAL
            WHERE account = 'process' AND bucket_start >= first_minute AND bucket_start < last_minute
                AND (host, gpu, bucket_start) NOT IN dirty
            UNION ALL
            SELECT host, gpu, pod, model, model_version, run, phase,
                toInt64(intDiv(toUnixTimestamp(window_start), 60)) AS minute,
                {{policy_time}} AS time_ns,
                {{policy_energy}} AS energy
            FROM attribution FINAL
            WHERE account = 'process' AND window_start >= since_at AND window_start < until_at
                AND (window_start < first_minute OR window_start >= last_minute
                    -- where there is none, no row is read
                    OR window_start >= (SELECT if(count() = 0, toDateTime('2105-01-01', 'UTC'), min(bucket_start)) FROM dirty)
                        AND (host, gpu, toStartOfMinute(window_start)) IN dirty)
        )
        WHERE model IN (SELECT model FROM places) AND NOT {{trains}}
        GROUP BY ALL
    )
SELECT
    host,
    gpu,
    pod,
    model,
    model_version,
    run,
    phase,
    max(is_known) AS is_known,
    sum(time_ns) AS gpu_time_ns,
    sum(energy) AS energy_uj,
    sum(time_ns * share) AS covered_gpu_time_ns,
    sum(energy * share) AS covered_energy_uj
FROM
(
    SELECT
        *,
        multiIf(
            NOT is_known, 1,
            -- a place is empty (not given), a pod, or a host and PID
            arrayExists(
                s -> (s.1 = '' OR s.1 = model_version)
                    AND (s.2 = '' OR s.2 = pod OR startsWith(s.2, concat(host, ' ')) OR empty(pod) AND position(s.2, ' ') = 0),
                filled.seen), 1,
            looked.ratio) AS share
    FROM spent
    LEFT JOIN looked USING (host, engine_pod, model, engine_version, minute)
    LEFT JOIN filled USING (model, minute)
)
GROUP BY host, gpu, pod, model, model_version, run, phase
