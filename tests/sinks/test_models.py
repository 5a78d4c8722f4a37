"""What a model version cost for what it served: figures worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from wattribute.errors import StoreError, UsageError
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.contract import Column
from wattribute.sinks.models import model_rows
from wattribute.sinks.prices import Price, add_prices

AsColumns = Callable[[Sequence[Mapping[str, Any]]], dict[str, Column]]

T_NS = 10**12  # costs 1 USD at 3.6 USD per GPU-hour


def used(pid: int, seconds: int, active_s: int, **more: Any) -> dict[str, Any]:
    row = {"pid": pid, "model": "m", "model_version": "v1", "active_energy_uj": 1_000_000}
    for policy in ("equal", "memory", "active"):
        row |= {f"gpu_time_{policy}_ns": seconds * T_NS, f"idle_energy_{policy}_uj": 2_000_000}
    return row | {"active_time_ns": active_s * T_NS} | more


def counted(start_ms: int, unit: str, quantity: float, **more: Any) -> dict[str, Any]:
    row = {"t": start_ms * 1_000_000, "period_ns": 0, "unit": unit, "quantity": quantity, "authority": 4}
    row |= {"model": "m", "model_version": "v1", "phase": "inference", "event_id": f"{unit} {more}"}
    return row | more


def measured(start_ms: int, value: float, **more: Any) -> dict[str, Any]:
    row = {
        "t": start_ms * 1_000_000,
        "model": "m",
        "model_version": "v1",
        "metric": "resolved",
        "value": value,
    }
    return row | more


def test_what_serving_cost_and_what_training_did(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=3.6)])
    rows = [
        used(1, 4, 1, phase="inference"),
        used(2, 2, 1, phase="inference", run="nightly batch"),  # a run that serves
        used(3, 7, 7, phase="training", run="sft"),
        used(4, 3, 3, run="sft-2"),  # a run of which nobody says what it does
        used(5, 9, 9, model=""),
        {"account": "unheld", "model": ""}
        | {f"gpu_time_{p}_ns": T_NS for p in ("equal", "memory", "active")},
    ]
    sink.write_attribution(as_columns(rows))
    units = [
        counted(start_ms, "output_tokens", 1500.0),
        counted(start_ms, "output_tokens", 500.0, run="nightly batch"),
        counted(start_ms, "output_tokens", 1e9, run="sft", phase="training"),
        counted(start_ms, "input_tokens", 8000.0),
        counted(start_ms, "requests", 12.0),
    ]
    sink.write_rows("unit", units)
    qualities = [
        measured(start_ms, 0.6, dataset="a"),
        measured(start_ms + 1, 0.7, dataset="a"),
        measured(start_ms, 0.5, dataset="b"),
        measured(start_ms, 3.0, metric="latency", model_version="v0"),
    ]
    sink.write_rows("quality", qualities)

    row, nameless = model_rows(sink.store, None, None, "equal")

    assert (row["model"], row["model_version"], row["unmatched"]) == ("m", "v1", "")
    assert (nameless["model"], nameless["unmatched"]) == ("", "no model")
    assert nameless["cost_usd"] == pytest.approx(9)
    assert row["energy_j"] == 2 * 3
    assert row["gpu_hours"] == pytest.approx(6 * T_NS / 3.6e12)
    assert row["active_ratio"] == pytest.approx(2 / 6)
    assert row["cost_usd"] == pytest.approx(6)
    assert (row["output_tokens"], row["input_tokens"], row["requests"]) == (2000, 8000, 12)
    assert row["cost_usd_per_million_output_tokens"] == pytest.approx(6 / 2000 * 1e6)
    assert row["busy_usd_per_million_output_tokens"] == pytest.approx(2 / 2000 * 1e6)
    assert row["cost_usd_per_request"] == pytest.approx(0.5)
    assert row["j_per_output_token"] == pytest.approx(6 / 2000)
    assert row["training_energy_j"] == 2 * 3
    assert row["training_gpu_hours"] == pytest.approx(10 * T_NS / 3.6e12)
    assert row["training_cost_usd"] == pytest.approx(10)
    assert row["quality"] == {"resolved on a": 0.7, "resolved on b": 0.5}


def test_without_units_or_price_there_is_no_quotient(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=3.6)])
    rows = [
        used(1, 4, 1),
        used(2, 4, 1, model_version="v2", gpu_model="NVIDIA Nothing"),
        used(3, 4, 1, model_version="v2"),
    ]
    sink.write_attribution(as_columns(rows))
    sink.write_rows("unit", [counted(start_ms, "output_tokens", 10.0, model_version="v2")])

    first, second = model_rows(sink.store, None, None, "memory")

    assert first["cost_usd"] == pytest.approx(4)
    assert (first["output_tokens"], first["quality"]) == (None, {})
    for name in ("cost_usd_per_million_output_tokens", "cost_usd_per_request", "j_per_output_token"):
        assert first[name] is None, name
    assert second["cost_usd"] is None  # a part of it has no price
    assert second["cost_usd_per_million_output_tokens"] is None
    assert second["j_per_output_token"] == pytest.approx(6 / 10)


def test_a_policy_that_there_is_not(sink: ClickHouseSink) -> None:
    with pytest.raises(UsageError, match="unknown policy 'evenly'"):
        model_rows(sink.store, None, None, "evenly")


def test_a_store_of_an_older_program_says_what_to_do(sink: ClickHouseSink) -> None:
    sink.store.command("DROP VIEW model_cost")
    with pytest.raises(StoreError, match="if an older wattribute made it, run 'wattribute migrate'"):
        model_rows(sink.store, None, None, "equal")
