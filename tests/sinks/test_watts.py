"""What models draw for each percent of SM time: figures worked out by hand."""

from __future__ import annotations

import pytest

from tests.sinks.conftest import AsColumns
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.watts import watts_rows


def test_watts_per_percent_and_how_far_gpus_are_apart(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """2 W per percent in 100 s, 4 in 300 s; what has hardly any SM time, or no energy, says nothing."""
    seen = {"a": (100, 20_000), "b": (300, 120_000), "hardly any": (0.001, 100), "no energy": (100, 0)}
    rows = [
        {"window_start": start_ms, "gpu": gpu, "model": "m", "model_version": "v1"}
        | {"active_time_ns": round(busy_s * 1e9), "active_energy_uj": joules * 1_000_000}
        for gpu, (busy_s, joules) in seen.items()
    ]
    sink.write_attribution(as_columns(rows))
    sink.refresh_rollups()
    (row,) = watts_rows(sink.store, None, None)
    assert row["watts_per_percent"] == pytest.approx(3.5)  # 140,000 J in 400 s
    assert row["spread_w"] == pytest.approx(0.75**0.5)  # (100 × 2² + 300 × 4²) / 400 - 3.5²
    assert (row["busy_hours"], row["gpus"]) == (pytest.approx(400 / 3600), 2)
