"""A server that speaks ClickHouse's HTTP interface as far as the client uses it, and stores no rows.

Questions and tables are answered by chDB in this process; an INSERT of an Arrow stream is counted and
acknowledged. So a sink does all of its own work, and the work of ClickHouse is done by nobody."""

from __future__ import annotations

import sys
import tempfile
from contextlib import closing
from pathlib import Path

from benchmarks.contender import Figures
from tests.clickhouse_shim import ClickHouseShim


def serve() -> Figures:
    """Print the store's URL; end when told by a line on standard input. How many rows were acknowledged."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(ClickHouseShim(Path(folder), keeps_rows=False)) as shim,
    ):
        print(shim.url("wattribute"), flush=True)
        sys.stdin.readline()
    return {"rows": shim.rows}
