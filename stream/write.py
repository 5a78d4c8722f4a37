"""Write results into the sink: the one place where rows leave the stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wattribute.sinks.contract import Column, Sink
from wattribute.stream.engine import Engine


class Unwritten:
    """What an engine has handed out and no sink has acknowledged. An engine hands out a row once, so what a
    failed write did not get through stays here."""

    def __init__(self) -> None:
        self.attribution: deque[Mapping[str, Column]] = deque()
        self._tables: deque[tuple[str, Sequence[Mapping[str, Any]]]] = deque()

    def take(
        self, engine: Engine, ended: bool = False, restate: bool = True, provisional: bool = True
    ) -> None:
        """Take all that changed. The options are those of ``Engine.rows``."""
        self.attribution += engine.rows(ended, restate, provisional)
        self._tables += engine.tables.take().items()

    def write(self, sink: Sink) -> Iterator[int]:
        """Write everything, attribution first; yield the number of attribution rows of each write. Raises
        StoreError."""
        while self.attribution:
            sink.write_attribution(self.attribution[0])
            yield len(self.attribution.popleft()["window_start"])
        while self._tables:
            sink.write_rows(*self._tables[0])
            self._tables.popleft()


def write_results(engine: Engine, sink: Sink, ended: bool = False) -> int:
    """Write all that changed; return the number of attribution rows. Raises StoreError."""
    unwritten = Unwritten()
    unwritten.take(engine, ended)
    return sum(unwritten.write(sink))
