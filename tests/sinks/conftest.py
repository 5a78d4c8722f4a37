"""Stores on real chDB. A process can have only one engine path, so each module opens one and closes it again.
Its tests share a database, which is emptied between them: creating one takes a second, emptying it 20 ms."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.needs import need
from wattribute.sinks.contract import Coded, CodedLabels, Column

START_MS = 1_780_000_020_000  # a whole minute: 2026-05-28T20:27:00Z
TEXT = [
    "host",
    "gpu",
    "gpu_model",
    "account",
    "boot_id",
    "part",
    "cluster",
    "container",
    "pod",
    "namespace",
    "job",
    "user",
    "team",
    "application",
    "workload",
    "phase",
    "model",
    "model_version",
    "run",
    "provider",
    "region",
    "pricing",
    "energy_source",
    "weight_source",
    "identity_source",
]
NUMBERS = {
    "window_start": np.int64,
    "window_ms": np.uint32,
    "gpu_instance": np.int16,
    "device_energy_uj": np.int64,
    "pid": np.uint32,
    "process_start_ns": np.uint64,
    "attempt": np.uint32,
    "active_energy_uj": np.int64,
    "idle_energy_equal_uj": np.int64,
    "idle_energy_memory_uj": np.int64,
    "idle_energy_active_uj": np.int64,
    "active_time_ns": np.int64,
    "gpu_time_equal_ns": np.int64,
    "gpu_time_memory_ns": np.int64,
    "gpu_time_active_ns": np.int64,
    "memory_bytes": np.uint64,
    "covered_ns": np.uint64,
    "error_uj": np.int64,
    "error_ns": np.int64,
    "flags": np.uint32,
    "segment": np.uint32,
    "version": np.uint64,
    "deleted": np.uint8,
    "nothing_due": np.uint8,
}
DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(TEXT, ""),
    **dict.fromkeys(NUMBERS, 0),
    "window_start": START_MS,
    "window_ms": 1000,
    "host": "h",
    "gpu": "GPU-1",
    "gpu_model": "NVIDIA H200",
    "gpu_instance": -1,
    "account": "process",
    "energy_source": "counter",
    "weight_source": "exclusive",
    "version": 1,
    "labels": {},
}

Rows = Sequence[Mapping[str, Any]]
AsColumns = Callable[[Rows], dict[str, Column]]


@pytest.fixture(scope="session")
def start_ms() -> int:
    return START_MS


@pytest.fixture(scope="session")
def as_columns() -> AsColumns:
    """A function that makes columns from attribution rows, each given by its differences from DEFAULTS."""

    def columns(rows: Rows) -> dict[str, Column]:
        full = [DEFAULTS | dict(row) for row in rows]
        codes = np.arange(len(rows), dtype=np.int32)
        made: dict[str, Column] = {name: Coded(codes, [row[name] for row in full]) for name in TEXT}
        made |= {name: np.array([row[name] for row in full], dtype=kind) for name, kind in NUMBERS.items()}
        made["labels"] = CodedLabels(codes, [row["labels"] for row in full])
        return made

    return columns


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("chdb")
    return tmp_path_factory.mktemp("chdb")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Any]:
    """Keeps the engine of the module's folder open, so that a test's own store opens at once."""
    import clickhouse_connect

    (folder / "owner.lock").touch()
    with clickhouse_connect.get_client(interface="chdb", path=str(folder)) as client:
        yield client


@pytest.fixture
def url(folder: Path, engine: Any, _numbers: Iterator[int]) -> str:
    """The URL of a database for one test."""
    return f"chdb://{folder}?database=test{next(_numbers)}"


@pytest.fixture(scope="session")
def _numbers() -> Iterator[int]:
    return itertools.count()


@pytest.fixture
def sink(folder: Path, engine: Any) -> Iterator[Any]:
    """A sink on a database that is like new; its store is ``sink.store``."""
    from wattribute.sinks.clickhouse import ClickHouseSink
    from wattribute.sinks.store import open_store

    made = ClickHouseSink(open_store(f"chdb://{folder}?database=shared"))
    yield made
    filled = made.store.query(
        "SELECT name FROM system.tables"
        " WHERE database = currentDatabase() AND total_rows > 0 AND name != 'migration'"
    )
    for (name,) in filled.rows:
        made.store.command("TRUNCATE TABLE {name:Identifier}", {"name": name})
    made.close()


@pytest.fixture
def priced(sink: Any) -> Any:
    """A sink whose store has a price: a GPU hour of an H200 costs 3.6 USD."""
    from wattribute.sinks.prices import Price, add_prices

    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=3.6)])
    return sink
