"""A store in memory, and a stream that may be killed at any step of its work."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Event
from typing import Any, Final

import numpy as np

from wattribute.bus import SAMPLES, UNITS, Partition, Position
from wattribute.collector.local_consumer import LocalConsumer
from wattribute.collector.local_log import LocalLog
from wattribute.sinks.contract import Coded, CodedLabels, Column
from wattribute.stream.engine import Engine
from wattribute.stream.loop import StreamLoop

KEY: Final = (
    "host", "gpu", "gpu_instance", "window_start", "account", "boot_id", "pid", "process_start_ns", "part",
)  # fmt: skip
"""The columns by which the store tells rows apart."""
FOREVER: Final = 1 << 60
"""More steps than any stream takes."""

Row = dict[str, Any]
Table = dict[tuple[Any, ...], Row]


class KilledError(Exception):
    """In place of a SIGKILL."""


def rows_of(columns: Mapping[str, Column]) -> Iterator[Row]:
    """The rows that a sink makes of columns; rows of accounts that are due nothing are marked deleted."""
    names = [name for name in columns if name != "nothing_due"]
    gone = _plain(columns["nothing_due"])
    for *values, bits in zip(*(_plain(columns[name]) for name in names), gone, strict=True):
        row = dict(zip(names, values, strict=True))
        yield row
        nobody = {"gpu_instance": -1, "pid": 0, "process_start_ns": 0, "part": "", "deleted": 1}
        for bit, account in ((1, "unheld"), (2, "residual")):
            if bits & bit:
                yield row | nobody | {"account": account}


def _plain(column: Column) -> list[Any]:
    if isinstance(column, Coded | CodedLabels):
        return [column.values[code] for code in column.codes.tolist()]
    return list(np.asarray(column).tolist())


class MemorySink:
    """A sink that keeps the row of the greatest version of each key, as the store does. After ``steps_left``
    steps of its work its process is killed."""

    def __init__(self) -> None:
        self.rows: Table = {}
        self.small: set[tuple[str, str]] = set()
        self.steps_left = FOREVER

    def step(self) -> None:
        """A moment at which the process may be killed. Raises KilledError."""
        self.steps_left -= 1
        if self.steps_left < 0:
            raise KilledError

    def announce(self, batches: Sequence[Mapping[str, Column]]) -> None:
        """Nothing is to be done in advance."""

    def write_attribution(self, columns: Mapping[str, Column]) -> None:
        """Keep the rows."""
        self.step()
        for row in rows_of(columns):
            key = tuple(row[name] for name in KEY)
            if key not in self.rows or self.rows[key]["version"] <= row["version"]:
                self.keep(key, row)
        self.step()

    def keep(self, key: tuple[Any, ...], row: Row) -> None:
        """Keep a row in place of an earlier one."""
        self.rows[key] = row

    def write_rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep the rows of other tables."""
        self.step()
        self.small |= {(table, repr(sorted(row.items()))) for row in rows}

    def refresh_rollups(self) -> None:
        """Nothing is summed."""
        self.step()

    def close(self) -> None:
        """Nothing is held."""

    def table(self) -> Table:
        """The rows that a query finds."""
        return {key: row for key, row in self.rows.items() if not row["deleted"]}


class MortalConsumer(LocalConsumer):
    """A consumer whose process may be killed before or after a commit."""

    sink: MemorySink

    def commit(self, positions: dict[Partition, Position]) -> None:
        """Store the group's positions."""
        self.sink.step()
        super().commit(positions)
        self.sink.step()


def lived(
    log: LocalLog, sink: MemorySink, steps: int = FOREVER, make_engine: Callable[[str], Engine] = Engine
) -> bool:
    """Run the stream for at most ``steps`` steps; return whether it came to the end of the bus."""
    sink.steps_left = steps
    consumer = MortalConsumer(log, (SAMPLES, UNITS), lambda partition: loop.on_assign(partition))  # noqa: PLW0108 - no loop yet
    consumer.sink = sink
    loop = StreamLoop(consumer, log, sink, make_engine)
    try:
        loop.run(Event(), until_idle=True)
    except KilledError:
        return False
    finally:
        sink.steps_left = FOREVER
        gc.unfreeze()  # the loop freezes what exists: its 20 MB would never be freed
    return True
