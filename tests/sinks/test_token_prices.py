"""A price for an input token and one for an output token, and what a version costs at its best: by hand."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sinks.conftest import AsColumns
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.models import model_rows
from wattribute.sinks.prices import Price, add_prices
from wattribute.sinks.store import open_store

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
                     "event_id": f"{model_version} {unit} {place} {t}"}
                )  # fmt: skip
    sink.write_attribution(as_columns(rows))
    sink.write_rows("unit", units)
    sink.refresh_rollups()


def varied(input_ms: float, output_ms: float, minutes: int = 30, noise: float = 0.0) -> list[Served | None]:
    """Minutes in which an input token that is not cached takes input_ms, and an output token output_ms."""
    chance = random.Random(7)
    made: list[Served | None] = []
    for _ in range(minutes):
        computed, cached, output = chance.randint(0, 9000), chance.randint(0, 9000), chance.randint(0, 3000)
        active_s = (input_ms * computed + output_ms * output) / 1e3 * (1 + noise * chance.gauss(0, 1))
        made.append((active_s, computed + cached, cached, output))
    return made


@pytest.mark.parametrize("noise", [0.0, pytest.param(0.05, marks=pytest.mark.long)])
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


def scattered(off_s: float) -> list[Served | None]:
    """Six minutes of input alone, which take 20 s but for off_s, and six of output alone, which take 50 s."""
    return [(20 + off_s, 1e3, 0, 0), (20 - off_s, 1e3, 0, 0)] * 3 + [(50.0, 0, 0, 500.0)] * 6


UNUSABLE: dict[str, list[Served | None]] = {
    "fewer than 10 minutes with tokens and GPU time": varied(1, 8, minutes=9),
    "input and output tokens rise and fall together": [(n, 10.0 * n, 0, 5.0 * n) for n in range(1, 31)],
    "the fit makes a token cost less than nothing": [
        (4.0 * n - n % 4, 1e3 * n, 0, 1e3 * (n % 4)) for n in range(1, 16)
    ],
    "tokens explain less than half of how GPU time varies": [
        (10 + 40 * (n % 2), 1000.0 + 10 * (n // 2 % 2), 0, 500.0 + 7 * (n // 4 % 2)) for n in range(32)
    ],
    # An input token takes 20 ms, with a standard error of sqrt(6 * 16² / 10 / (6 * 1000²)), 5.06 ms
    "input and output tokens cannot be told apart well enough": scattered(16.0),
}  # fmt: skip


def test_where_the_minutes_do_not_tell_an_output_token_is_taken_for_two_and_a_half(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    for reason, minutes in UNUSABLE.items():
        serve(priced, as_columns, start_ms, minutes, reason)

    rows = model_rows(priced.store, None, None, "equal")

    assert {row["model_version"] for row in rows} == UNUSABLE.keys()
    for row in rows:
        minutes = UNUSABLE[row["model_version"]]
        computed = sum(minute[1] - minute[2] for minute in minutes if minute)
        output = sum(minute[3] for minute in minutes if minute)
        price = row["cost_usd"] / (computed + 2.5 * output) * 1e6
        why = row["reasons"]["token_price_method"]
        assert (row["token_price_method"], why) == ("ratio", row["model_version"])
        if why == "input and output tokens rise and fall together":
            assert row["fit_r_squared"] is None  # there is no fit
        assert row["input_price_usd_per_million"] == pytest.approx(price)
        assert row["output_price_usd_per_million"] == pytest.approx(2.5 * price)


def test_a_price_that_is_known_to_within_half_of_it_is_used(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """A standard error of 4.74 ms, of 20 ms."""
    serve(priced, as_columns, start_ms, scattered(15.0))
    (row,) = model_rows(priced.store, None, None, "equal")
    assert row["token_price_method"] == "fit"
    # 12 minutes of the GPU, in proportion to 6,000 input tokens of 20 ms and 3,000 output tokens of 100 ms
    assert row["input_cost_usd"] == pytest.approx(12 * 60 * USD_PER_S * 120 / 420)


ONE_KIND: Mapping[str, tuple[Served, str, str | None, tuple[float | None, float | None]]] = {
    "output": ((9.0, 0, 0, 100), "output_only", "no input tokens were counted", (None, 600)),
    "cached": ((9.0, 50, 50, 100), "output_only", "all input tokens came from the cache", (None, 600)),
    "more cached": ((9.0, 50, 70, 100), "output_only", "all input tokens came from the cache", (None, 600)),
    "input": ((9.0, 100, 0, 0), "input_only", "no output tokens were counted", (600, None)),
    "none": ((9.0, 0, 0, 0), "", None, (None, None)),
}


def test_one_kind_of_token_bears_it_all(priced: ClickHouseSink, as_columns: AsColumns, start_ms: int) -> None:
    for version, (served, *_) in ONE_KIND.items():
        serve(priced, as_columns, start_ms, [served], version)

    rows = model_rows(priced.store, None, None, "equal")

    assert {row["model_version"] for row in rows} == ONE_KIND.keys()
    for row in rows:
        _, method, reason, prices = ONE_KIND[row["model_version"]]
        shown = (row["input_price_usd_per_million"], row["output_price_usd_per_million"])
        assert (row["token_price_method"], row["reasons"].get("token_price_method")) == (method, reason)
        assert shown == tuple(None if price is None else pytest.approx(price) for price in prices)
        assert (row["unmatched"] == "no units") == (method == "")


def test_a_count_over_an_hour_is_no_evidence_for_its_minutes(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    serve(priced, as_columns, start_ms, varied(1, 8), period_ns=60 * MINUTE_NS)
    (row,) = model_rows(priced.store, None, None, "equal")
    assert (row["token_price_method"], row["fit_minutes"]) == ("ratio", 0)


def test_at_its_best_it_costs_what_the_best_quarter_of_an_hour_tells(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Twenty minutes of 600 tokens, a pause, then five of 60,000: those are not fifteen in a row."""
    slow: list[Served | None] = [(30, 0, 0, 600)] * 20
    slow[7] = (30, 0, 0, 3600)
    serve(priced, as_columns, start_ms, [*slow, None, *[(30.0, 0, 0, 60_000.0)] * 5])
    serve(priced, as_columns, start_ms, [(30, 0, 0, 600)] * 14, "v2")

    best, short = model_rows(priced.store, None, None, "equal")

    assert best["capacity_output_tokens_per_gpu_s"] == pytest.approx((14 * 600 + 3600) / (15 * 60))
    assert best["capacity_usd_per_million_output_tokens"] == pytest.approx(900 * USD_PER_S / 12_000 * 1e6)
    busy = 25 * 30 * USD_PER_S / (19 * 600 + 3600 + 300_000) * 1e6
    assert best["busy_usd_per_million_output_tokens"] == pytest.approx(busy)
    assert short["capacity_usd_per_million_output_tokens"] is None
    assert short["reasons"]["capacity_usd_per_million_output_tokens"] == "no 15 minutes in a row are known"


def test_time_in_which_nobody_counted_is_on_neither_side(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Four minutes of a GPU; the engine was looked at in the first two."""
    looked = [
        {
            "t": (start_ms + 60_000 * minute) * 10**6,
            "period_ns": MINUTE_NS,
            "unit": "observed_ns",
            "host": "h",
        }
        | {"quantity": float(MINUTE_NS), "authority": 4, "model": "m", "model_version": "v1"}
        | {"event_id": f"looked {minute}", "phase": "inference"}
        for minute in (1, 2)
    ]
    priced.write_rows("unit", looked)
    serve(priced, as_columns, start_ms, [(30, 50, 0, 100), (30, 50, 0, 100), (30, 0, 0, 0), (30, 0, 0, 0)])

    (row,) = model_rows(priced.store, None, None, "equal")

    assert row["coverage_ratio"] == pytest.approx(0.5)
    assert row["cost_usd"] == pytest.approx(240 * USD_PER_S)
    assert row["cost_usd_per_million_output_tokens"] == pytest.approx(120 * USD_PER_S / 200 * 1e6)
    assert row["input_cost_usd"] + row["output_cost_usd"] == pytest.approx(120 * USD_PER_S)
    assert row["j_per_output_token"] == pytest.approx(2 * 600 / 200)


whole_minutes = st.lists(
    st.tuples(st.floats(0, 60), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)),
    min_size=1, max_size=16,
)  # fmt: skip


@pytest.mark.long
@settings(max_examples=3, suppress_health_check=list(HealthCheck))
@given(versions=st.lists(whole_minutes, min_size=1, max_size=25))
def test_input_and_output_together_are_the_cost(
    url: str, as_columns: AsColumns, start_ms: int, versions: list[list[Served]]
) -> None:
    made = ClickHouseSink(open_store(f"{url}_{abs(hash(str(versions)))}"))
    add_prices(made.store, [Price(gpu_model="NVIDIA H200", price=3.6)])
    for number, minutes in enumerate(versions):
        serve(made, as_columns, start_ms, minutes, f"v{number:03}")

    rows = model_rows(made.store, None, None, "memory")

    made.close()
    assert len(rows) == len(versions)
    for row, minutes in zip(rows, versions, strict=True):
        if not row["token_price_method"]:
            counted = [sum(minute[place] for minute in minutes) for place in (1, 2, 3)]
            assert counted[2] + max(0, counted[0] - counted[1]) == 0
            continue
        computed = max(0, (row["input_tokens"] or 0) - (row["cached_tokens"] or 0))
        output = row["output_tokens"] or 0
        by_price = computed * (row["input_price_usd_per_million"] or 0)
        by_price += output * (row["output_price_usd_per_million"] or 0)
        joules = computed * (row["input_j_per_million"] or 0) + output * (row["output_j_per_million"] or 0)
        assert row["input_cost_usd"] + row["output_cost_usd"] == pytest.approx(row["cost_usd"], rel=1e-9)
        assert by_price / 1e6 == pytest.approx(row["cost_usd"], rel=1e-9)
        assert joules / 1e6 == pytest.approx(row["energy_j"], rel=1e-9)
        assert min(row["input_cost_usd"], row["output_cost_usd"]) >= -1e-12
