"""Replay: write a trace or log straight into the store, without a bus. The offset is the line number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from wattribute.records import Device, Gap, Gpu, Process, Record, Trace
from wattribute.sinks.contract import Sink
from wattribute.stream.engine import Engine
from wattribute.stream.write import write_results
from wattribute.wire import Encoder

_BATCH_LINES: Final = 20_000  # lines between writes: 4 min of 8 GPUs at 10 Hz
_SECOND_NS: Final = 1_000_000_000


class Line(Protocol):
    """A line: its record, or why there is none, and how the line begins."""

    @property
    def number(self) -> int: ...
    @property
    def record(self) -> Record | None: ...
    @property
    def error(self) -> str | None: ...
    @property
    def raw(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did: lines read, device samples counted, and records that could not be used."""

    lines: int
    samples: int
    dropped: int
    duplicates: int


def replay(
    lines: Iterable[Line], engine: Engine, sink: Sink, progress: Callable[[int], None] | None = None
) -> Replayed:
    """Attribute all lines and store the rows; returns when all of it is in the store.

    Repeating it changes nothing: rows and their versions are a function of the lines. ``progress`` is
    called with the number of lines done. Raises StoreError, and WattributeError where the file cannot be
    read.
    """
    number = 0
    pending: list[tuple[int, bytes]] = []
    written = 0
    for number, message in _messages(lines, engine):
        pending.append((number, message))
        if number - written >= _BATCH_LINES:
            _take(engine, sink, pending)
            pending, written = [], number
            if progress is not None:
                progress(number)
    _take(engine, sink, pending)
    engine.end(number)
    write_results(engine, sink, ended=True)
    sink.refresh_rollups()
    if progress is not None:
        progress(number)
    return Replayed(number, engine.sample_count, engine.tables.dropped, engine.duplicate_count)


def _take(engine: Engine, sink: Sink, pending: list[tuple[int, bytes]]) -> None:
    engine.take([number for number, _ in pending], [message for _, message in pending])
    write_results(engine, sink)


def _messages(lines: Iterable[Line], engine: Engine) -> Iterator[tuple[int, bytes]]:
    """Yield the messages that a collector would have sent, one second at a time, each with its last line's
    number.

    By the second, so that the first half of a trace gives the same messages as the whole does."""
    sender = _Sender()
    epochs: dict[str, int] = {}  # of each host: a part of a recording continues the epoch of the part before
    number = 0
    for line in lines:
        record = line.record
        if record is None:
            engine.tables.dead(line.number, line.error or "", line.raw)
        elif isinstance(record, Trace):
            yield from ((number, value) for value in sender.rest())
            epochs[sender.host] = sender.epoch
            sender = _Sender(record.host, record.boot_id, sender.seq, epochs.get(record.host, 0))
        else:
            if messages := sender.before(record):  # most records have none
                yield from ((number, value) for value in messages)
            sender.group.append(record)
        number = line.number
    yield from ((number, value) for value in sender.rest())


class _Sender:
    """What the collector of one host sends; ``group`` has the records that go together next."""

    def __init__(self, host: str = "", boot_id: str = "", seq: int = 0, epoch: int = 0) -> None:
        self.group: list[Record] = []
        self.host = host
        self._encoder = Encoder(host, boot_id, epoch, seq)
        self._gpus: set[str] = set()  # the GPUs that a gap in the next message would apply to
        self._newest_ns = 0
        self._second = -1
        self._set_back: Gap | None = None

    @property
    def seq(self) -> int:
        """The sequence number of its last message."""
        return self._encoder.seq

    @property
    def epoch(self) -> int:
        """The epoch of its last message."""
        return self._encoder.epoch

    def rest(self) -> list[bytes]:
        """Return the messages of the records that wait."""
        for record in self.group:
            if isinstance(record, Device):
                self._gpus.add(record.gpu)
                self._newest_ns = max(self._newest_ns, record.t)
            elif isinstance(record, Process | Gpu):
                self._gpus.add(record.gpu)
        values = [value for _, _, value in self._encoder.encode(self.group)]
        self.group = []
        return values

    def before(self, record: Record) -> list[bytes]:
        """Return the messages to send before a record."""
        values: list[bytes] = []
        second = record.t // _SECOND_NS
        if second != self._second and self.group:
            values = self.rest()
        self._second = second
        if isinstance(record, Gap):
            if self._names_more():
                values += self.rest()  # a gap comes first among the records sent together
            if record.to_ns > record.t:
                self._set_back = record
        elif self._set_back is not None and isinstance(record, Device):
            gap, self._set_back = self._set_back, None
            if record.t < max([self._newest_ns, *(r.t for r in self.group if isinstance(r, Device))]):
                values += self._begin_epoch(gap)
        return values

    def _names_more(self) -> bool:
        known = self._gpus.union(record.gpu for record in self.group if isinstance(record, Gpu))
        return any(r.gpu not in known for r in self.group if isinstance(r, Device | Process))

    def _begin_epoch(self, gap: Gap) -> list[bytes]:
        """Begin a new epoch, as a collector does, where a gap said and a reading shows that the clock was set
        back. Epoch 0 is of no collector, and nothing begins anew after it: so the gap is sent again in an
        epoch between."""
        values = self.rest()
        self._encoder.epoch = max(1, self._encoder.epoch)
        values += [value for _, _, value in self._encoder.encode([gap])]
        self._encoder.epoch += 1
        self._newest_ns = 0
        return values
