-- The units that count in [since, until), each in proportion to the part of (t - period, t] that lies in the span, or
-- without a period by its t. Where several sources report the same, one counts in each minute: see lesser_unit. A unit
-- that names no version (an application seldom knows it) belongs to the model's version that held a GPU at the time,
-- where only one did. unit may name several, separated by commas: five at once are a fifth of the work.
CREATE OR REPLACE VIEW counted_unit AS
WITH
{{span}},
{{contested}}
SELECT
    host,
    pod,
    model,
{{of_version}},
    run,
    attempt,
    part,
    application,
    phase,
    source,
    authority,
    counted_quantity AS quantity,
    unit
FROM
(
    SELECT
        unit,
        host,
        pod,
        model,
        model_version AS told_version,
        run,
        attempt,
        part,
        application,
        phase,
        source,
        authority,
        begin_ns,
        end_ns,
        quantity * if(begin_ns >= since_ns AND end_ns <= until_ns, 1,
            (least(end_ns, until_ns) - greatest(begin_ns, since_ns)) / period_ns) AS counted_quantity
    FROM
    (
        SELECT *, toUnixTimestamp64Nano(t) AS end_ns, end_ns - toInt64(period_ns) AS begin_ns
        FROM unit FINAL
        WHERE unit IN (SELECT arrayJoin(splitByChar(',', {unit:String})))
            AND (unit, model, authority) NOT IN (SELECT unit, model, authority FROM sources WHERE authority < greatest)
            AND {{hours}}
            AND begin_ns < until_ns AND end_ns >= since_ns AND (end_ns > since_ns OR period_ns = 0)
    )
    UNION ALL
    SELECT
        unit,
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
        authority,
        first_minute * 60000000000 AS begin_ns,
        (last_minute + 1) * 60000000000 AS end_ns,
        -- what counts in all its minutes counts as it was reported: the sum of its parts would be off by a rounding
        if(min(counts), any(whole), sumIf(minutes.quantity, counts)) AS counted_quantity
    FROM lesser_unit(unit = {unit:String}, since = {since:String}, until = {until:String}) AS minutes
    WHERE is_within
    GROUP BY unit, host, pod, place, model, model_version, run, attempt, part, application, phase, source, authority,
        first_minute, last_minute
    HAVING max(counts)
) AS counted
ASOF LEFT JOIN
{{sole_version}} AS sole USING (model, told_version, begin_ns)
