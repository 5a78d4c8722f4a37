"""Replay: a trace or log straight into the store, with no bus between. The offset is the line number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from wattribute.records import Record, Trace
from wattribute.sinks.contract import Sink
from wattribute.stream.engine import Engine
from wattribute.stream.write import write_results
from wattribute.wire import Encoder

_BATCH_LINES: Final = 20_000  # lines between writes: 4 min of 8 GPUs at 10 Hz
_SECOND_NS: Final = 1_000_000_000


class Line(Protocol):
    """What stands at a line: a record, or why there is none, and how the line begins."""

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
    """The messages that a collector would have sent, a second at a time, each at its last line's number.

    By the second, so that the first half of a trace gives the messages that the whole gives."""
    encoder = Encoder("", "", epoch=0)
    group: list[Record] = []
    second = -1
    number = 0
    for line in lines:
        record = line.record
        if record is None:
            engine.tables.dead(line.number, line.error or "", line.raw)
        elif isinstance(record, Trace) or (group and record.t // _SECOND_NS != second):
            yield from ((number, value) for _, _, value in encoder.encode(group))
            group = []
        if isinstance(record, Trace):
            encoder = Encoder(record.host, record.boot_id, epoch=0, seq=encoder.seq)
        elif record is not None:
            second = record.t // _SECOND_NS
            group.append(record)
        number = line.number
    yield from ((number, value) for _, _, value in encoder.encode(group))
