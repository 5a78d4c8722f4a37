"""A price for an input token and one for an output token, and what a version costs at its best: by hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.contract import Column
from wattribute.sinks.models import model_rows
from wattribute.sinks.prices import Price, add_prices

AsColumns = Callable[[Sequence[Mapping[str, Any]]], dict[str, Column]]
Served = tuple[float, float, float, float]

MINUTE_NS = 60 * 10**9
USD_PER_S = 1e-3  # at 3.6 USD per GPU-hour


def serve(sink: ClickHouseSink, as_columns: AsColumns, start_ms: int, minutes: Sequence[Served | None],
          model_version: str = "v1", period_ns: int = MINUTE_NS) -> None:  # fmt: skip
    """Minutes of a GPU held by one process: (active s, input, cached, output tokens); None: not held."""
    rows, units = [], []
    for place, minute in enumerate(minutes):
        if minute is None:
            continue
        active_s, *counts = minute
        row = {"window_start": start_ms + 60_000 * place, "window_ms": 60_000, "gpu": f"GPU-{model_version}"}
        row |= {"pid": 1, "model": "m", "model_version": model_version, "phase": "inference"}
        row |= {"active_energy_uj": 600_000_000, "active_time_ns": round(active_s * 1e9)}
        rows.append(row | {f"gpu_time_{policy}_ns": MINUTE_NS for policy in ("equal", "memory", "active")})
        for unit, quantity in zip(("input_tokens", "cached_tokens", "output_tokens"), counts, strict=True):
            if quantity:
                t = (start_ms + 60_000 * (place + 1)) * 10**6
                units.append(
                    {"t": t, "period_ns": period_ns, "unit": unit, "quantity": quantity, "authority": 4,
                     "model": "m", "model_version": model_version, "phase": "inference",
                     "event_id": f"{model_version} {unit} {place}"}
                )  # fmt: skip
    sink.write_attribution(as_columns(rows))
    sink.write_rows("unit", units)
    sink.refresh_rollups()


@pytest.fixture
def priced(sink: ClickHouseSink) -> ClickHouseSink:
    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=3.6)])
    return sink


def varied(input_ms: float, output_ms: float, minutes: int = 30, noise: float = 0.0) -> list[Served | None]:
    """Minutes in which an input token that is not cached takes input_ms, and an output token output_ms."""
    chance = random.Random(7)  # noqa: S311 - not for secrets
    made: list[Served | None] = []
    for _ in range(minutes):
        computed, cached, output = chance.randint(0, 9000), chance.randint(0, 9000), chance.randint(0, 3000)
        active_s = (input_ms * computed + output_ms * output) / 1e3 * (1 + noise * chance.gauss(0, 1))
        made.append((active_s, computed + cached, cached, output))
    return made


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_what_a_token_takes_is_found_in_the_minutes(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int, noise: float
) -> None:
    minutes = varied(input_ms=1.0, output_ms=8.0, noise=noise)
    serve(priced, as_columns, start_ms, minutes)

    (row,) = model_rows(priced.store, None, None, "equal")

    served = [minute for minute in minutes if minute is not None]
    computed = sum(minute[1] - minute[2] for minute in served)
    output = sum(minute[3] for minute in served)
    weight = computed + 8 * output
    cost_usd = 30 * 60 * USD_PER_S
    tolerance = {0.0: 1e-9, 0.05: 0.1}[noise]
    assert (row["token_price_method"], row["fit_minutes"]) == ("fit", 30)
    assert row["fit_r_squared"] == pytest.approx(1, rel=tolerance)
    assert row["input_price_usd_per_million"] == pytest.approx(cost_usd / weight * 1e6, rel=tolerance)
    assert row["output_price_usd_per_million"] == pytest.approx(8 * cost_usd / weight * 1e6, rel=tolerance)
    assert row["output_j_per_million"] == pytest.approx(8 * 30 * 600 / weight * 1e6, rel=tolerance)
    assert row["cost_usd"] == pytest.approx(cost_usd, rel=1e-12)
    assert row["input_cost_usd"] + row["output_cost_usd"] == pytest.approx(cost_usd, rel=1e-12)
    assert row["cost_usd_per_million_output_tokens"] == pytest.approx(cost_usd / output * 1e6)
    cached = sum(minute[2] for minute in served)
    assert row["cache_saving_usd"] == pytest.approx(cached * row["input_price_usd_per_million"] / 1e6)
    assert "token_price_method" not in row["reasons"]
