"""Check that rows depend on the readings alone, not on how these arrive or what happens to the stream."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

from wattribute.bus import SAMPLES
from wattribute.collector.local_log import LocalLog
from wattribute.collector.publish import Publisher
from wattribute.kernels.result import PROVISIONAL
from wattribute.kernels.series import LATENESS_NS
from wattribute.records import Device, Gap, Process, Record
from wattribute.stream.engine import Engine
from wattribute.stream.fleet import FleetWatts
from wattribute.stream.write import write_results
from wattribute.verify.memory_sink import FOREVER, MemorySink, Row, Table, lived
from wattribute.verify.methods import replayed
from wattribute.verify.recording import Flush, Recording

_WINDOW_NS: Final = 1_000_000_000
_AFTER_THE_ROWS: Final = 1  # step of a stream's work: rows are in the store, and nothing is committed


class Sameness(NamedTuple):
    """How many rows differ if there is only the first half of the readings, if the stream is killed and
    restarted, if readings come sorted by time. And how long after the last reading that concerns it or the 10
    s after it a window still changed."""

    half_rows: int
    killed_rows: int
    sorted_rows: int
    settled_s: float


def sameness(recording: Recording, whole: Table, fleet: FleetWatts | None) -> Sameness:
    """Compare the rows. ``whole`` is what ``replay`` makes of the recording."""
    told = _Told(recording.flushes)
    middle = len(recording.flushes) // 2
    half = replayed([recording.trace, *_records(recording.flushes[:middle])], fleet)
    settled = {key for key in whole.keys() | half.keys() if told.is_settled(key[3] * 1_000_000, middle)}
    by_time = whole  # if the clock was set back, there is no other order
    if not any(after < before for before, after in pairwise(recording.walls())):
        in_order = sorted(_records(recording.flushes), key=lambda record: record.t)
        by_time = replayed([recording.trace, *in_order], fleet)
    with TemporaryDirectory() as folder:
        killed, messages = _killed(recording, Path(folder), fleet)
    undisturbed, settled_s = _live(messages, told, fleet)
    return Sameness(
        _differing(half, whole, settled),
        sum(killed.get(key) != undisturbed.get(key) for key in killed.keys() | undisturbed.keys()),
        _differing(by_time, whole),
        settled_s,
    )


class _Told:
    """Which flush is the last that concerns a time."""

    def __init__(self, flushes: Sequence[Flush]) -> None:
        self.now_ns: list[int] = []  # the host's clock after each flush
        self._from_ns: list[int] = []  # the earliest time that each flush, and those after it, concern
        for flush in flushes:
            devices = (record.t for record in flush.records if isinstance(record, Device))
            self.now_ns.append(max([*self.now_ns[-1:], *devices], default=0))
        from_ns = 1 << 62
        for flush in reversed(flushes):
            from_ns = min([from_ns, *map(_begin_ns, flush.records)])
            self._from_ns.insert(0, from_ns)

    def last(self, window_ns: int) -> int:
        """The last flush that concerns a window, given by its start, or the 10 s after it: what is learned
        then changes it too."""
        return bisect_left(self._from_ns, window_ns + _WINDOW_NS + LATENESS_NS) - 1

    def is_settled(self, window_ns: int, flushes: int) -> bool:
        """Whether a window is final after ``flushes`` flushes, and no later one concerns it. The last of them
        does not count: ``replay`` makes messages by the second, and that flush may end within one."""
        is_final = window_ns + _WINDOW_NS + LATENESS_NS <= self.now_ns[flushes - 2]
        return is_final and self.last(window_ns) < flushes


def _begin_ns(record: Record) -> int:
    """The earliest time that a record concerns."""
    if isinstance(record, Process):
        return record.t - (record.period_ns or 0)
    return min(record.from_ns, record.t) if isinstance(record, Gap) else record.t


def _records(flushes: Sequence[Flush]) -> list[Record]:
    return [record for flush in flushes for record in flush.records]


def _killed(
    recording: Recording, folder: Path, fleet: FleetWatts | None
) -> tuple[Table, list[tuple[int, bytes]]]:
    """The rows of a stream that read a third of the messages and committed, was killed in the second third,
    and was restarted; and the messages."""
    log, sink, third = LocalLog(folder), MemorySink(), len(recording.flushes) // 3
    publisher = Publisher(log, log, recording.trace.host, recording.trace.boot_id)
    parts = slice(third), slice(third, -third), slice(-third, None)
    for part, steps in zip(parts, (FOREVER, _AFTER_THE_ROWS, FOREVER), strict=True):
        for flush in recording.flushes[part]:
            publisher(flush.records, flush.clock_epoch)
        with closing(LocalLog(folder)) as own:
            lived(own, sink, steps, lambda origin: Engine(origin, fleet=fleet))
    messages = log.read(SAMPLES, 0, FOREVER)
    log.close()
    return sink.table(), [(message.offset, message.value) for message in messages]


class _Watched(MemorySink):
    """A sink that notes in which windows anything changed."""

    def __init__(self) -> None:
        super().__init__()
        self.changed_ns: set[int] = set()

    def keep(self, key: tuple[Any, ...], row: Row) -> None:
        """Keep a row in place of an earlier one."""
        if _figures(self.rows.get(key)) != _figures(row):
            self.changed_ns.add(row["window_start"] * 1_000_000)
        super().keep(key, row)


def _live(
    messages: Sequence[tuple[int, bytes]], told: _Told, fleet: FleetWatts | None
) -> tuple[Table, float]:
    """The rows of a stream that takes each message as it comes; and how long after the last message that
    concerns it a window still changed."""
    sink, engine, settled_ns = _Watched(), Engine("verify", fleet=fleet), 0
    for offset, message in messages:
        before_ns = int(engine.series.hosts.now_ns[0])
        engine.take([offset], [message])
        write_results(engine, sink)
        for window_ns in sink.changed_ns:
            settled_ns = max(settled_ns, before_ns - told.now_ns[told.last(window_ns)])
        sink.changed_ns.clear()
    return sink.table(), settled_ns / 1e9


def _figures(row: Row | None) -> Row | None:
    """A row, without the parts that depend on when it was written."""
    if row is None or row["deleted"]:
        return None
    return row | {"version": 0, "flags": row["flags"] & ~PROVISIONAL}


def _differing(table: Table, due: Table, keys: Iterable[tuple[Any, ...]] | None = None) -> int:
    """How many rows differ, of all or of some."""
    of = table.keys() | due.keys() if keys is None else keys
    return sum(_figures(table.get(key)) != _figures(due.get(key)) for key in of)
