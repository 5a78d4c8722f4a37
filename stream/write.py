"""Results into the sink: the one place where rows leave the stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from wattribute.sinks.contract import Coded, CodedLabels, Column, Sink
from wattribute.stream.engine import Engine


class Unwritten:
    """What an engine has handed out and no sink has acknowledged. An engine hands out a row once, so what a
    write that failed did not get through stays here."""

    def __init__(self) -> None:
        self.attribution: list[Mapping[str, Column]] = []
        self.tables: deque[tuple[str, Sequence[Mapping[str, Any]]]] = deque()

    def take(
        self, engine: Engine, ended: bool = False, restate: bool = True, provisional: bool = True
    ) -> None:
        """Take all that changed. The options are those of ``Engine.rows``."""
        self.attribution += engine.rows(ended, restate, provisional)
        self.tables += engine.tables.take().items()


def write(unwritten: Sequence[Unwritten], sink: Sink) -> int:
    """Write what engines have handed out, attribution first and all of it at once; the number of attribution
    rows. Raises StoreError."""
    columns = [columns for one in unwritten for columns in one.attribution]
    if columns:
        sink.write_attribution(*columns)
    for one in unwritten:
        one.attribution.clear()
    for one in unwritten:
        while one.tables:
            sink.write_rows(*one.tables[0])
            one.tables.popleft()
    return sum(_length(each) for each in columns)


def write_results(engine: Engine, sink: Sink, ended: bool = False) -> int:
    """Write all that changed; the number of attribution rows. Raises StoreError."""
    unwritten = Unwritten()
    unwritten.take(engine, ended)
    return write([unwritten], sink)


def _length(columns: Mapping[str, Column]) -> int:
    column = columns["window_start"]
    return len(column.codes if isinstance(column, Coded | CodedLabels) else column)
