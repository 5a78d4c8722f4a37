"""What of its training a model version bears: figures worked out by hand, and what makes no sense."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.sinks.conftest import AsColumns
from wattribute.errors import UsageError
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.lineage import Lineage, add_lineage, life_began, list_lineage
from wattribute.sinks.models import model_rows
from wattribute.sinks.prices import Price, add_prices

T_NS = 10**12  # costs 1 USD at 3.6 USD per GPU-hour
BEGIN = datetime(2026, 6, 1, tzinfo=UTC)
RUN = "sft-7\u00a0é'; DROP \U0001f469\u200d\U0001f52c"  # a no-break space, and an emoji of two joined


def used(at: datetime, pid: int, seconds: int, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"window_start": int(at.timestamp() * 1000), "pid": pid, "active_energy_uj": 1}
    row |= {f"gpu_time_{policy}_ns": seconds * T_NS for policy in ("equal", "memory", "active")}
    return row | more


def of(version: str, days: int, share: float = 1.0, run: str = RUN) -> Lineage:
    return Lineage("m", version, run, BEGIN, BEGIN + timedelta(days=days), share)


@pytest.fixture
def served(sink: ClickHouseSink, as_columns: AsColumns, start_ms: int) -> ClickHouseSink:
    """A run that cost 100 USD, long before; the versions serve for 2 USD on each of two days."""
    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=3.6)])
    rows = [used(BEGIN - timedelta(days=90), 1, 100, run=RUN, phase="training", model="base")]
    units = []
    for day in (0, 1):
        at = BEGIN + timedelta(days=day, hours=23, minutes=59)
        for pid, version in enumerate(("v1", "v2"), 2):
            rows.append(used(at, pid, 2, model="m", model_version=version, phase="inference"))
            units.append(
                {"t": int(at.timestamp()) * 10**9, "unit": "output_tokens", "quantity": 1e6, "model": "m"}
                | {"model_version": version, "event_id": f"{day} {version}", "phase": "inference"}
            )
    sink.write_attribution(as_columns(rows))
    sink.write_rows("unit", units)
    sink.refresh_rollups()
    return sink


@pytest.mark.long
def test_training_is_spread_over_the_life_and_is_in_no_sum(served: ClickHouseSink) -> None:
    assert add_lineage(served.store, of("v1", 10, 0.75)) == []
    assert add_lineage(served.store, of("v2", 100, 0.25)) == []

    day = {
        row["model_version"]: row
        for row in model_rows(served.store, BEGIN, BEGIN + timedelta(days=1), "equal")
    }
    both = {row["model_version"]: row for row in model_rows(served.store, None, None, "equal")}

    # 75 USD over 10 days; 25 USD over 100
    assert day["v1"]["amortised_training_usd"] == pytest.approx(7.5)
    assert day["v2"]["amortised_training_usd"] == pytest.approx(0.25)
    assert day["v1"]["cost_usd"] == pytest.approx(2)
    assert day["v1"]["cost_usd_per_million_output_tokens"] == pytest.approx(2)
    assert day["v1"]["fully_loaded_usd_per_million_output_tokens"] == pytest.approx(9.5)
    # all time: two days of the life have been measured, to the minute
    assert both["v1"]["amortised_training_usd"] == pytest.approx(15)
    assert both["v1"]["fully_loaded_usd_per_million_output_tokens"] == pytest.approx((4 + 15) / 2)
    assert both[""]["training_cost_usd"] == pytest.approx(100)


def test_a_life_begins_with_the_first_service_and_loses_nothing_of_what_came_before(
    served: ClickHouseSink,
) -> None:
    assert life_began(served.store, "m", "v2", RUN) == (BEGIN, "it was first seen to serve then")
    # the run itself was of the model base: a version of that has not served yet
    assert life_began(served.store, "base", "", RUN) == (
        BEGIN - timedelta(days=90),
        f"run {RUN} was last seen then",
    )
    assert life_began(served.store, "m", "v9", "none") is None
    add_lineage(served.store, Lineage("m", "v1", RUN, BEGIN, BEGIN + timedelta(days=2)))
    rows = {row["model_version"]: row for row in model_rows(served.store, None, None, "equal")}
    # all tokens that it ever served bear all of the 100 USD
    assert rows["v1"]["amortised_training_usd"] == pytest.approx(100)
    assert rows["v1"]["fully_loaded_usd_per_million_output_tokens"] == pytest.approx((4 + 100) / 2)


def test_training_of_time_in_which_nobody_counted_is_on_neither_side(
    priced: ClickHouseSink, as_columns: AsColumns
) -> None:
    """Four minutes of service, which are all of the life; the engine was looked at in the first two."""
    rows = [used(BEGIN - timedelta(days=90), 1, 100, run=RUN, phase="training", model="base")]
    units: list[dict[str, Any]] = []
    for minute in range(4):
        at = BEGIN + timedelta(minutes=minute)
        rows.append(used(at, 2, 1, model="m", model_version="v1", phase="inference"))
        for unit, quantity in (("observed_ns", 60e9), ("output_tokens", 1e6)) if minute < 2 else ():
            units.append(
                {"t": int(at.timestamp() + 60) * 10**9, "period_ns": 60 * 10**9, "unit": unit, "host": "h"}
                | {"quantity": quantity, "model": "m", "model_version": "v1", "phase": "inference"}
                | {"event_id": f"{minute} {unit}", "authority": 4}
            )
    priced.write_attribution(as_columns(rows))
    priced.write_rows("unit", units)
    priced.refresh_rollups()
    add_lineage(priced.store, Lineage("m", "v1", RUN, BEGIN, BEGIN + timedelta(minutes=4)))

    row = next(row for row in model_rows(priced.store, None, None, "equal") if row["model"] == "m")

    assert row["coverage_ratio"] == pytest.approx(0.5)
    assert row["amortised_training_usd"] == pytest.approx(100)
    assert row["cost_usd_per_million_output_tokens"] == pytest.approx(2 / 2)
    assert row["fully_loaded_usd_per_million_output_tokens"] == pytest.approx((2 + 50) / 2)


def test_where_the_run_is_not_known_nothing_is_loaded(served: ClickHouseSink) -> None:
    (remark,) = add_lineage(served.store, of("v1", 10, run="SFT-7 é'; DRO"))
    assert (
        remark
        == f"no run SFT-7 é'; DRO was seen yet: until it is, its cost is not known; one named {RUN} is known"
    )

    rows = {row["model_version"]: row for row in model_rows(served.store, None, None, "equal")}

    assert rows["v1"]["fully_loaded_usd_per_million_output_tokens"] is None
    reason = {
        name: row["reasons"]["fully_loaded_usd_per_million_output_tokens"] for name, row in rows.items()
    }
    assert reason["v1"] == "never seen: run SFT-7 é'; DRO"
    assert reason["v2"] == "no training is declared for it"
    assert [(row["run"], row["is_seen"]) for row in list_lineage(served.store)] == [("SFT-7 é'; DRO", 0)]


def test_of_a_run_no_more_than_all_is_given_out(served: ClickHouseSink) -> None:
    for version in ("v1", "v2", "v3"):
        add_lineage(served.store, of(version, 10, 1 / 3))
    with pytest.raises(
        UsageError, match=r"1 is assigned already \(m v1 0.333333, .*at most 0 is left, not 0.1"
    ):
        add_lineage(served.store, of("v4", 10, 0.1))
    add_lineage(served.store, of("v1", 10, 0))
    add_lineage(served.store, of("v4", 10, 0.3))
    add_lineage(served.store, of("v4", 20, 0.1))
    assert [(row["model_version"], row["share_ratio"]) for row in list_lineage(served.store)] == [
        ("v2", pytest.approx(1 / 3)), ("v3", pytest.approx(1 / 3)), ("v4", 0.1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"days": 0}, "before it begins"),
        ({"days": 10, "share": 1.5}, "it must be from 0 to 1"),
        ({"days": 10, "share": float("nan")}, "it must be from 0 to 1"),
        ({"days": 10, "run": ""}, "needs a model and a run"),
        ({"days": 40_000}, "between 1970 and"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError, match=line):
        of("v1", **wrong)
