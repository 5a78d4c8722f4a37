"""Results into the sink: the one place where rows leave the stream."""

from __future__ import annotations

from wattribute.sinks.contract import Sink
from wattribute.stream.engine import Engine


def write_results(
    engine: Engine, sink: Sink, ended: bool = False, restate: bool = True, provisional: bool = True
) -> int:
    """Write all that changed, attribution first; the number of attribution rows. Raises StoreError.

    The options are those of ``Engine.rows``."""
    count = 0
    for columns in engine.rows(ended, restate, provisional):
        sink.write_attribution(columns)
        count += len(columns["window_start"]) if hasattr(columns["window_start"], "__len__") else 0
    for table, rows in engine.tables.take().items():
        sink.write_rows(table, rows)
    return count
