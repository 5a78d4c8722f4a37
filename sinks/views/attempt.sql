-- Each attempt of a run: from its start to its end, and where it was resumed.
CREATE OR REPLACE VIEW attempt AS
SELECT
    run,
    attempt,
    if(countIf(event = 'start') = 0, min(t), minIf(t, event = 'start')) AS started,
    if(countIf(event IN ('finish', 'fail')) = 0, NULL, maxIf(t, event IN ('finish', 'fail'))) AS ended,
    multiIf(ended IS NULL, 'running', argMaxIf(event, t, event IN ('finish', 'fail')) = 'finish', 'finished', 'failed')
        AS outcome,
    argMinIf(step, t, event = 'start') AS resumed_position
FROM run_event FINAL
GROUP BY run, attempt
