"""What a store knows about the earlier attempts of a run that is to be started again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wattribute.sinks.store import Readable


@dataclass(frozen=True, slots=True)
class Earlier:
    """The earlier attempts of a run: the number of the last one, their models, and the step of the last
    checkpoint that any of them reported. That may be lower than one before it, where an attempt started from
    the beginning. ``ended`` are the attempts that have ended; ``reached`` has, by attempt, the step that it
    has come to, where a step was reported."""

    attempt: int | None = None
    models: tuple[str, ...] = ()
    checkpoint_step: int | None = None
    ended: frozenset[int] = frozenset()
    reached: Mapping[int, int] = field(default_factory=dict)


def earlier_attempts(store: Readable, run: str) -> Earlier:
    """What is known about ``run``. Raises StoreError."""
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
    # Not from the view attempt_progress: it leaves out records after the last window, and takes an attempt
    # that reported no step to be at step 0.
    states = store.query(
        "SELECT attempt, countIf(event IN ('finish', 'fail')) > 0, argMinIf(step, t, event = 'start'),"
        " max(step) FROM run_event FINAL WHERE run = {run:String} GROUP BY attempt",
        {"run": run},
    ).rows
    # Several sources may count the same steps; each of them counts all, so the greatest sum is taken.
    counted = store.query(
        "SELECT attempt, max(steps) FROM (SELECT attempt, authority, sum(quantity) AS steps FROM unit FINAL"
        " WHERE unit = 'steps' AND run = {run:String} GROUP BY attempt, authority) GROUP BY attempt",
        {"run": run},
    ).rows
    reached = {attempt: step for attempt, _, _, step in states if step is not None}
    resumed = {attempt: step or 0 for attempt, _, step, _ in states}
    for attempt, steps in counted:
        reached[attempt] = max(reached.get(attempt, 0), resumed.get(attempt, 0) + int(steps))
    return Earlier(
        attempt=max(attempts, default=None),
        models=tuple(used[2]),
        checkpoint_step=told[2] if told[0] else None,
        ended=frozenset(attempt for attempt, has_ended, _, _ in states if has_ended),
        reached=reached,
    )
