"""A process killed between the rows and their rollups leaves both in step after the next start."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

WRITER = """
import os, signal, sys
import numpy as np
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.contract import Coded, CodedLabels
from wattribute.sinks.store import Store, open_store

url, kill_before = sys.argv[1], int(sys.argv[2])
store = open_store(url)
sink = ClickHouseSink(store)

def column(name, kind, count):
    codes = np.arange(count, dtype=np.int32)
    if kind.startswith("Map"):
        return CodedLabels(np.zeros(count, np.int32), [{}])
    if kind.startswith("Enum8"):
        return Coded(np.zeros(count, np.int32), ["process" if name == "account" else "none"])
    if kind.startswith("LowCardinality"):
        return Coded(codes % 3, [f"{name} {place}" for place in range(3)])
    if name == "window_start":
        return 1_780_000_020_000 + 61_000 * np.arange(count)
    return np.zeros(count, np.int64) if name == "deleted" else np.arange(count)

types = store.column_types("attribution")
columns = {name: column(name, kind, 300) for name, kind in types.items()}
columns["nothing_due"] = np.zeros(300, np.uint8)
steps = 0

def counted(step):
    def run(*arguments):
        global steps
        if steps == kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1
        return step(*arguments)
    return run

# what a write and a refresh do to the store: note, rows, minutes, hours, days, notes deleted
for name in ("insert_values", "insert_select", "command"):
    setattr(Store, name, counted(getattr(Store, name)))
sink.write_attribution(columns)
sink.refresh_rollups()
"""
CHECK = """
import sys
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.store import open_store

sink = ClickHouseSink(open_store(sys.argv[1]))
sink.refresh_rollups()
sums = "sum(active_energy_uj), sum(gpu_time_memory_ns), sum(error_ns)"
for table in ("attribution", "attribution_minute", "attribution_hour", "attribution_day"):
    print(sink.store.query(f"SELECT {sums} FROM {table} FINAL").rows)
print(sink.store.query("SELECT count() FROM dirty_bucket FINAL").rows)
sink.close()
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("kill_before", "total"),
    [(1, 0), (2, 44850), (3, 44850), (5, 44850)],
    ids=["rows", "minutes", "hours", "notes"],
)
def test_killed_before(tmp_path: Path, kill_before: int, total: int) -> None:
    address = f"chdb://{tmp_path / 'store'}"
    writer = subprocess.run([sys.executable, "-c", WRITER, address, str(kill_before)], check=False)
    assert writer.returncode == -signal.SIGKILL
    checked = subprocess.run(
        [sys.executable, "-c", CHECK, address], capture_output=True, text=True, check=True
    )
    *sums, notes = checked.stdout.splitlines()
    assert sums == [f"[({total}, {total}, {total})]"] * 4
    assert notes == "[(0,)]"
