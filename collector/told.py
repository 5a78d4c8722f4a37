"""What applications told over HTTP, from the moment it is accepted until the next flush takes it."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from wattribute.errors import RecordError
from wattribute.records import Record, Run, parse

_S: Final = 1_000_000_000
_WAITING_MOST: Final = 200_000  # records between two flushes: some 100 MB
_AHEAD_MOST_NS: Final = 60 * _S
_BEHIND_MOST_NS: Final = 3_600 * _S  # what comes later than that is late for every window too

_Any = TypeVar("_Any", bound=Record)

_log = logging.getLogger(__name__)


class FullError(Exception):
    """So much waits for the bus that no more is taken: the sender is to try again."""


@dataclass(slots=True)
class IntakeHealth:
    """How the intake is doing. ``rejected`` counts what could not be used, by reason."""

    requests: int = 0  # that were taken
    refused: int = 0  # that were answered with 4xx or 5xx
    records: int = 0
    moved: int = 0  # records whose time was not believed
    repeated: int = 0  # points of a series that are no later than its last
    forgotten: int = 0  # spans that made room for others within ten minutes
    rejected: Counter[str] = field(default_factory=Counter)

    def shown(self) -> str:
        """In words."""
        parts = [f"{self.requests:,} requests told {self.records:,} records"]
        parts += [f"{self.refused:,} requests were refused"] if self.refused else []
        parts += [f"{count:,} rejected: {why}" for why, count in self.rejected.most_common(3)]
        parts += [f"{self.moved:,} put at their receipt, for their clock is off"] if self.moved else []
        parts += [f"{self.repeated:,} points of counters had come before"] if self.repeated else []
        forgotten = f"{self.forgotten:,} spans made room early: calls above them may count beside them"
        parts += [forgotten] if self.forgotten else []
        return "; ".join(parts)


class Told:
    """The records that wait for the next flush. Handlers put them in, the sampler's thread takes them out."""

    def __init__(self) -> None:
        self.health = IntakeHealth()
        self._lock = threading.Lock()
        self._waiting: list[Record] = []
        self._warned: set[str] = set()

    def ensure_room(self) -> None:
        """Raises FullError. Ask before a request is read: what its series gained is gone afterwards."""
        if len(self._waiting) >= _WAITING_MOST:
            raise FullError(f"{len(self._waiting):,} records wait for the bus; try again later")

    def put(self, records: Sequence[Record]) -> None:
        """Accept the records of a request."""
        with self._lock:
            self._waiting.extend(records)
            self.health.records += len(records)

    def take(self, _now_ns: int = 0) -> Sequence[Record]:
        """All that was put since the last call."""
        with self._lock:
            records, self._waiting = self._waiting, []
        return records

    def at_a_credible_time(self, record: _Any, now_ns: int, who: str) -> _Any:
        """The record; put at ``now_ns``, counted and logged once for each ``who``, where its time lies more
        than a minute ahead of the host's clock or more than an hour behind."""
        off_ns = clock_off_ns(record.t, now_ns)
        if not off_ns:
            return record
        self.health.moved += 1
        if who not in self._warned and len(self._warned) < 1000:
            self._warned.add(who)
            _log.warning(
                "the clock of %s is off by %+.0f s: what it tells is put at the time of its receipt",
                who or "an application without a name",
                off_ns / _S,
            )
        return replace(record, t=now_ns)

    def reject(self, reasons: Mapping[str, int]) -> None:
        """Count what could not be used; the first of a reason is logged."""
        for why, count in reasons.items():
            known = (
                why if why in self.health.rejected or len(self.health.rejected) < 1000 else "other reasons"
            )
            if known not in self.health.rejected:
                _log.warning("told, and not used: %s", why)
            self.health.rejected[known] += count


def clock_off_ns(t: int, now_ns: int) -> int:
    """How far a clock is off that says ``t`` at ``now_ns``; 0 where that is believed: it may be late."""
    off_ns = t - now_ns
    return 0 if -_BEHIND_MOST_NS <= off_ns <= _AHEAD_MOST_NS else off_ns


def record_of(kind: str, fields: Mapping[str, object]) -> Record:
    """The record of a kind with these fields, checked as a line of a trace is; and that a run is not further
    than it goes, for its projected end would lie before now. Raises RecordError."""
    record = parse({"kind": kind, **{name: value for name, value in fields.items() if value != ""}})
    if isinstance(record, Run) and record.steps is not None and (record.step or 0) > record.steps:
        raise RecordError(
            f"step {record.step} lies beyond the last of {record.steps} steps: tell how many it goes by now"
        )
    return record
