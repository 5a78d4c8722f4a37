"""What a store knows of a run that is to be started again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wattribute.sinks.store import Readable


@dataclass(frozen=True, slots=True)
class Earlier:
    """The earlier attempts of a run: the last one's number, the models that they were of, and the last
    checkpoint that any of them told: one that began anew may have told a lower one than those before it.
    Which of them have ended, and how far each has come, where that is known."""

    attempt: int | None = None
    models: tuple[str, ...] = ()
    checkpoint_step: int | None = None
    ended: frozenset[int] = frozenset()
    reached: Mapping[int, int] = field(default_factory=dict)


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
    states = store.query(
        "SELECT attempt, ended IS NOT NULL, position FROM attempt_progress WHERE run = {run:String}",
        {"run": run},
    ).rows
    return Earlier(
        attempt=max(attempts, default=None),
        models=tuple(used[2]),
        checkpoint_step=told[2] if told[0] else None,
        ended=frozenset(attempt for attempt, has_ended, _ in states if has_ended),
        reached={attempt: int(position) for attempt, _, position in states if position is not None},
    )
