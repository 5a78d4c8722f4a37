"""What a model version cost for what it served: figures worked out by hand."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.sinks.conftest import AsColumns
from wattribute.errors import StoreError, UsageError
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.models import count_versions, model_rows, quality_rows, renamed_rows, version_rows

T_NS = 10**12  # costs 1 USD at 3.6 USD per GPU-hour


def used(pid: int, seconds: int, active_s: int, **more: Any) -> dict[str, Any]:
    row = {"pid": pid, "model": "m", "model_version": "v1", "active_energy_uj": 1_000_000}
    for policy in ("equal", "memory", "active"):
        row |= {f"gpu_time_{policy}_ns": seconds * T_NS, f"idle_energy_{policy}_uj": 2_000_000}
    return row | {"active_time_ns": active_s * T_NS} | more


def counted(start_ms: int, unit: str, quantity: float, **more: Any) -> dict[str, Any]:
    row = {"t": start_ms * 1_000_000, "period_ns": 0, "unit": unit, "quantity": quantity, "authority": 4}
    row |= {"model": "m", "model_version": "v1", "phase": "inference"}
    row |= {"event_id": f"{unit} {more} {row['t']}"}
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
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    rows = [
        used(1, 4, 1, phase="inference"),
        used(2, 2, 1, phase="inference", run="nightly batch"),  # a run that serves
        used(3, 7, 7, phase="training", run="sft"),
        used(4, 3, 3, run="sft-2"),  # a run of which nobody says what it does
        used(5, 9, 9, model=""),
        {"account": "unheld", "model": ""}
        | {f"gpu_time_{p}_ns": T_NS for p in ("equal", "memory", "active")},
    ]
    priced.write_attribution(as_columns(rows))
    units = [
        counted(start_ms, "output_tokens", 1500.0),
        counted(start_ms, "output_tokens", 500.0, run="nightly batch"),
        counted(start_ms, "output_tokens", 1e9, run="sft", phase="training"),
        counted(start_ms, "input_tokens", 8000.0),
        counted(start_ms, "requests", 12.0),
    ]
    priced.write_rows("unit", units)
    qualities = [
        measured(start_ms, 0.6, dataset="a"),
        measured(start_ms + 1, 0.7, dataset="a"),
        measured(start_ms, 0.5, dataset="b"),
        measured(start_ms, 3.0, metric="latency", model_version="v0"),
    ]
    priced.write_rows("quality", qualities)

    row, nameless = model_rows(priced.store, None, None, "equal")

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
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    rows = [
        used(1, 4, 1),
        used(2, 4, 1, model_version="v2", gpu_model="NVIDIA Nothing"),
        used(3, 4, 1, model_version="v2"),
    ]
    priced.write_attribution(as_columns(rows))
    priced.write_rows("unit", [counted(start_ms, "output_tokens", 10.0, model_version="v2")])

    first, second = model_rows(priced.store, None, None, "memory")

    assert first["cost_usd"] == pytest.approx(4)
    assert (first["output_tokens"], first["quality"]) == (None, {})
    for name in ("cost_usd_per_million_output_tokens", "cost_usd_per_request", "j_per_output_token"):
        assert first[name] is None, name
    assert second["cost_usd"] is None  # a part of it has no price
    assert second["cost_usd_per_million_output_tokens"] is None
    assert second["j_per_output_token"] == pytest.approx(6 / 10)


def test_what_does_not_meet_is_shown_and_the_total_is_right(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Tokens under the engine's name for the model, GPU time under another: no line is lost."""
    evil = "x') OR 1=1; DROP TABLE unit; -- é\\"
    rows = [
        used(1, 4, 1, model=evil, model_version="v1"),
        used(2, 2, 1, model="", run="sft"),
        used(3, 3, 1),
        used(4, 5, 1, model_version="v2"),
    ]
    priced.write_attribution(as_columns(rows))
    told = [counted(start_ms, "output_tokens", 8.0, model="Qwen/x"), counted(start_ms, "requests", 4.0)]
    priced.write_rows("unit", [*told, counted(start_ms, "output_tokens", 1000.0, model_version="v2")])

    found = model_rows(priced.store, None, None, "equal")
    by_name = {(row["model"], row["model_version"]): row for row in found}

    assert {name: row["unmatched"] for name, row in by_name.items()} == {
        ("Qwen/x", "v1"): "no GPU time",
        ("m", "v1"): "",
        ("m", "v2"): "",
        (evil, "v1"): "no units",
        ("", "v1"): "no model",
    }
    assert sum(row["cost_usd"] + row["training_cost_usd"] for row in found) == pytest.approx(4 + 2 + 3 + 5)
    strange = by_name["Qwen/x", "v1"]
    assert (strange["cost_usd"], strange["cost_usd_per_million_output_tokens"]) == (0, None)
    assert strange["reasons"]["cost_usd_per_million_output_tokens"].startswith("no GPU time was seen")
    reasons = by_name["m", "v1"]["reasons"]
    assert reasons["cost_usd_per_million_output_tokens"] == "no output tokens were counted"
    assert by_name["m", "v2"]["reasons"]["cost_usd_per_request"] == "no requests were counted"
    (row,) = version_rows(priced.store, [(evil, "v1")], None, None, "equal")
    assert row["cost_usd"] == pytest.approx(4)


def test_of_many_versions_the_dearest_are_kept(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    priced.write_attribution(as_columns([used(n, n, 0, model_version=f"v{n:02}") for n in range(1, 31)]))
    kept = model_rows(priced.store, None, None, "equal", limit=3)
    assert [row["model_version"] for row in kept] == ["v28", "v29", "v30"]
    assert count_versions(priced.store, None, None) == 30


@pytest.mark.long
def test_the_dearest_of_many_are_those_of_all(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """It looks at their models alone: cheap versions of a dear model, and what has no price, stay."""
    rows = [used(n, n, 0, model=f"m{n % 7}", model_version=f"v{n:02}") for n in range(1, 31)]
    rows += [used(40, 1, 0, model="m6", gpu_model="unheard of"), used(41, 50, 0, model="")]
    priced.write_attribution(as_columns(rows))
    priced.write_rows("unit", [counted(start_ms, "output_tokens", 5.0, model="nobody's")])
    every = model_rows(priced.store, None, None, "equal")
    assert len(every) == 33
    ranked = sorted(every, key=lambda row: -(math.inf if row["cost_usd"] is None else row["cost_usd"]))
    for limit in (1, 5, 32):
        kept = model_rows(priced.store, None, None, "equal", limit)
        assert {row["model_version"] for row in kept} == {row["model_version"] for row in ranked[:limit]}


def test_a_version_that_was_not_seen_is_pointed_out(sink: ClickHouseSink, as_columns: AsColumns) -> None:
    with pytest.raises(UsageError, match="m@v9 was not seen in this span; no model is known yet"):
        version_rows(sink.store, [("m", "v9")], None, None, "equal")
    sink.write_attribution(as_columns([used(1, 4, 1), used(2, 4, 1, model="other", model_version="v9")]))
    sink.refresh_rollups()
    with pytest.raises(UsageError, match="m@v2 was not seen in this span; the nearest known is m@v1"):
        version_rows(sink.store, [("m", "v2")], None, None, "equal")


@pytest.mark.parametrize("change_s", [150, 120])  # within a minute, and as one begins
def test_a_model_renamed_half_way_counts_as_two_and_is_told(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int, change_s: int
) -> None:
    def at(second: int, pid: int, **more: Any) -> dict[str, Any]:
        return used(pid, 1, 1, window_start=start_ms + 1000 * second, **more)

    before = [at(n, 5) for n in range(-120, -60, 10)]  # another's: the name itself is older
    renamed = [at(n, 1) for n in range(0, change_s, 10)]
    renamed += [at(n, 1, model="m", model_version="v2") for n in range(change_s, 300, 10)]
    follows = [at(n, 2, gpu="GPU-2") for n in range(0, 60, 10)]
    follows += [at(n, 3, gpu="GPU-2", model_version="v2") for n in range(60, 120, 10)]
    late = [at(0, 4, gpu="GPU-3", model=""), at(60, 4, gpu="GPU-3")]  # named late: that is no renaming
    sink.write_attribution(as_columns([*before, *renamed, *follows, *late]))
    sink.refresh_rollups()

    (row,) = renamed_rows(sink.store, None, None)

    assert (row["model"], row["model_version"], row["next_model"], row["next_version"]) == (
        "m",
        "v1",
        "m",
        "v2",
    )
    assert row["at"] == datetime.fromtimestamp(start_ms / 1000 + change_s, UTC)
    assert renamed_rows(sink.store, row["at"], None) == []


def test_quality_is_the_latest_and_latency_the_mean_of_the_span(sink: ClickHouseSink, start_ms: int) -> None:
    speed = {"metric": "ttft_p95_s", "higher_is_better": True, "source": "engine"}  # whatever is told of it
    rows = [
        measured(start_ms, 0.6, sample_count=100, higher_is_better=False),  # put right by the next
        measured(start_ms + 5000, 0.7, sample_count=400, source="later"),
        measured(start_ms + 9000, 0.8, sample_count=900),  # after the span
        measured(start_ms + 1000, 0.2, sample_count=30, **speed),
        measured(start_ms + 2000, 0.6, sample_count=10, **speed),
        measured(start_ms - 1000, 9.0, sample_count=99, **speed),  # before it
        measured(start_ms, 1.0, model_version="v2", metric="ppl", higher_is_better=False),
    ]
    sink.write_rows("quality", rows)
    since, until = (datetime.fromtimestamp(start_ms / 1000 + second, UTC) for second in (0, 9))

    found = quality_rows(sink.store, [("m", "v1"), ("m", "v2")], since, until)

    good, fast = found["m", "v1"]["resolved", ""], found["m", "v1"]["ttft_p95_s", ""]
    assert (good["value"], good["sample_count"], bool(good["higher_is_better"])) == (0.7, 400, True)
    assert (fast["value"], fast["sample_count"]) == (pytest.approx((30 * 0.2 + 10 * 0.6) / 40), 40)
    assert not fast["higher_is_better"]
    (other,) = found["m", "v2"].values()
    assert (other["sample_count"], bool(other["higher_is_better"])) == (None, False)


def test_a_policy_that_there_is_not(sink: ClickHouseSink) -> None:
    with pytest.raises(UsageError, match="unknown policy 'evenly'"):
        model_rows(sink.store, None, None, "evenly")


def test_a_store_of_an_older_program_says_what_to_do(sink: ClickHouseSink) -> None:
    with pytest.raises(StoreError, match=r"`key_hour`.*; if an older wattribute made the store"):
        sink.store.query("SELECT key_hour FROM quality")
    with pytest.raises(StoreError, match=r"Maybe you meant: \['model'\](?!.*older wattribute)"):
        sink.store.query("SELECT modl FROM quality")
    sink.store.command("DROP VIEW model_cost")
    with pytest.raises(StoreError, match="if an older wattribute made the store, run 'wattribute migrate'"):
        sink.store.query(
            "SELECT 1 FROM model_cost(policy = 'equal', since = '2026', until = '2027') -- not its text"
        )
    assert model_rows(sink.store, None, None, "equal") == []  # a command has the view's text
