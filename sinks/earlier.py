"""What a store knows of a run that is to be started again, or that has a name which others have."""

from __future__ import annotations

from dataclasses import dataclass

from wattribute.sinks.span import Time, span_times
from wattribute.sinks.store import Readable


@dataclass(frozen=True, slots=True)
class Earlier:
    """The earlier attempts of a run: the last one's number, the models that they were of, and the last
    checkpoint that any of them told: one that began anew may have told a lower one than those before it."""

    attempt: int | None = None
    models: tuple[str, ...] = ()
    checkpoint_step: int | None = None


def runs_of_several_teams(store: Readable, since: Time, until: Time) -> dict[str, list[str]]:
    """The teams of each run that several held GPUs for, on the days of [since, until). Its name alone tells a
    run: these may be several runs that nobody told apart. Raises StoreError."""
    rows = store.query(
        "SELECT run, arraySort(groupUniqArray(toString(team))) FROM attribution_day FINAL"
        " WHERE run != '' AND team != ''"
        " AND bucket_start >= toStartOfDay(greatest(parseDateTime64BestEffort({since:String}, 3, 'UTC'),"
        " toDateTime64(0, 3, 'UTC')))"
        " AND bucket_start < parseDateTime64BestEffort({until:String}, 3, 'UTC')"
        " GROUP BY run HAVING uniqExact(team) > 1 ORDER BY run",
        span_times(since, until),
    ).rows
    return {run: list(teams) for run, teams in rows}


def earlier_attempts(store: Readable, run: str) -> Earlier:
    """What is known of ``run``. Raises StoreError."""
    told = store.query(
        "SELECT count(), max(attempt), argMaxIf(step, t, event = 'checkpoint') FROM run_event FINAL"
        " WHERE run = {run:String}",
        {"run": run},
    ).rows[0]
    used = store.query(
        "SELECT count(), max(attempt), arraySort(groupUniqArrayIf(model, model != '')) FROM process FINAL"
        " WHERE run = {run:String}",
        {"run": run},
    ).rows[0]
    attempts = [int(row[1]) for row in (told, used) if row[0]]
    return Earlier(max(attempts, default=None), tuple(used[2]), told[2] if told[0] else None)
