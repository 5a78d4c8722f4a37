"""Records that applications sent over HTTP, from their acceptance until the next flush takes them."""

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
_BEHIND_MOST_NS: Final = 3_600 * _S  # a record that is older is too late for every window too

_Any = TypeVar("_Any", bound=Record)

_log = logging.getLogger(__name__)


class FullError(Exception):
    """Too many records wait for the bus to accept more; the sender should try again."""


@dataclass(slots=True)
class IntakeHealth:
    """Counters of the intake. ``rejected`` counts entries that could not be used, by reason."""

    requests: int = 0  # accepted requests
    refused: int = 0  # requests that were answered with 4xx or 5xx
    records: int = 0
    moved: int = 0  # records whose time was not credible
    repeated: int = 0  # points of a series that are not later than its last point
    forgotten: int = 0  # spans that were dropped within ten minutes to make room for others
    rejected: Counter[str] = field(default_factory=Counter)

    def shown(self) -> str:
        """The counters in words."""
        parts = [f"{self.requests:,} requests brought {self.records:,} records"]
        parts += [f"{self.refused:,} requests were refused"] if self.refused else []
        parts += [f"{count:,} rejected: {why}" for why, count in self.rejected.most_common(3)]
        parts += [f"{self.moved:,} got the time of receipt: the sender's clock is off"] if self.moved else []
        parts += [f"{self.repeated:,} points of counters were repeated"] if self.repeated else []
        forgotten = f"{self.forgotten:,} spans were dropped early: calls above them may count twice"
        parts += [forgotten] if self.forgotten else []
        return "; ".join(parts)


class Told:
    """Records that wait for the next flush. Request handlers add them, the sampler's thread takes them."""

    def __init__(self) -> None:
        self.health = IntakeHealth()
        self._lock = threading.Lock()
        self._waiting: list[Record] = []
        self._warned: set[str] = set()

    def ensure_room(self) -> None:
        """Raise FullError where there is no room. Call this before a request is read: reading advances its
        series, so what they gained would be lost."""
        if len(self._waiting) >= _WAITING_MOST:
            raise FullError(f"{len(self._waiting):,} records are waiting for the bus; try again later")

    def put(self, records: Sequence[Record]) -> None:
        """Accept the records of a request."""
        with self._lock:
            self._waiting.extend(records)
            self.health.records += len(records)

    def take(self, _now_ns: int = 0) -> Sequence[Record]:
        """All records that were put since the last call."""
        with self._lock:
            records, self._waiting = self._waiting, []
        return records

    def at_a_credible_time(self, record: _Any, now_ns: int, who: str) -> _Any:
        """The record, moved to ``now_ns`` where its time is more than a minute ahead of the host's clock or
        more than an hour behind. A move is counted, and logged once for each ``who``."""
        off_ns = clock_off_ns(record.t, now_ns)
        if not off_ns:
            return record
        self.health.moved += 1
        if who not in self._warned and len(self._warned) < 1000:
            self._warned.add(who)
            _log.warning(
                "the clock of %s is off by %+.0f s: its records get the time of receipt; correct that clock",
                who or "an application without a name",
                off_ns / _S,
            )
        return replace(record, t=now_ns)

    def reject(self, reasons: Mapping[str, int]) -> None:
        """Count entries that could not be used, by reason; log the first of each reason."""
        for why, count in reasons.items():
            known = (
                why if why in self.health.rejected or len(self.health.rejected) < 1000 else "other reasons"
            )
            if known not in self.health.rejected:
                _log.warning("an application sent what cannot be used: %s", why)
            self.health.rejected[known] += count


def clock_off_ns(t: int, now_ns: int) -> int:
    """How far a clock that shows ``t`` at ``now_ns`` is off; 0 where ``t`` is credible: it may be late."""
    off_ns = t - now_ns
    return 0 if -_BEHIND_MOST_NS <= off_ns <= _AHEAD_MOST_NS else off_ns


def record_of(kind: str, fields: Mapping[str, object]) -> Record:
    """The record of a kind with these fields, checked as a line of a trace is. Raises RecordError, also where
    a run's step is beyond its last: its projected end would be in the past."""
    record = parse({"kind": kind, **{name: value for name, value in fields.items() if value != ""}})
    if isinstance(record, Run) and record.steps is not None and (record.step or 0) > record.steps:
        raise RecordError(
            f"step {record.step} lies beyond the last of {record.steps} steps: send the new number of steps"
        )
    return record
