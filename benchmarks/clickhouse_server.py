"""A server with the part of ClickHouse's HTTP interface that the client uses, which stores no rows.

chDB in this process answers queries and creates tables; an INSERT of an Arrow stream is counted and
acknowledged. So a sink does all of its own work, but nobody does the work of ClickHouse."""

from __future__ import annotations

import sys
import tempfile
from contextlib import closing
from pathlib import Path

from benchmarks.contender import Figures
from tests.clickhouse_shim import ClickHouseShim


def serve() -> Figures:
    """Print the store's URL; end at a line on standard input. Return how many rows were acknowledged."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(ClickHouseShim(Path(folder), keeps_rows=False)) as shim,
    ):
        print(shim.url("wattribute"), flush=True)
        sys.stdin.readline()
    return {"rows": shim.rows}
