"""The cost of a unit is the same whoever is asked: cost, models, explain or the view. And both of its sides
cover the same: serving apart from training, and what names no version with the version that it is of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.sinks.conftest import AsColumns
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.costs import cost_rows
from wattribute.sinks.evidence import Evidence
from wattribute.sinks.models import model_rows

Row = dict[str, Any]

MINUTE_NS = 60 * 10**9
T_NS = 10**12  # costs 1 USD at 3.6 USD per GPU-hour
AUTHORITY = {"engine": 4, "span": 3, "client": 2, "gateway": 1, "emit": 0}


def told(start_ms: int, source: str, minute: float, quantity: float, seconds: float = 60, **more: Any) -> Row:
    """``quantity`` in the ``seconds`` from a minute on."""
    t = start_ms * 1_000_000 + round((minute + seconds / 60) * MINUTE_NS)
    row = {"t": t, "period_ns": round(seconds * 1e9), "host": "h", "source": source, "unit": "output_tokens"}
    row |= {"authority": AUTHORITY[source], "model": "m", "model_version": "v1", "quantity": quantity}
    row |= {"phase": "inference"}
    return row | {"event_id": f"{source} {minute} {seconds} {more} {t}"} | more


def observed(start_ms: int, minute: float, **more: Any) -> Row:
    row = told(start_ms, "engine", minute, MINUTE_NS, unit="observed_ns", **more)
    return row | {"pid": 9, "process_start_ns": 5} | more


def spent(start_ms: int, minute: float, usd: float = 1, **more: Any) -> Row:
    """A minute of a GPU that costs ``usd`` and takes 3 J for each."""
    row: Row = {
        "window_start": start_ms + round(60_000 * minute),
        "window_ms": 60_000,
        "pid": 1,
        "model": "m",
    }
    row |= {"model_version": "v1", "phase": "inference"}
    for policy in ("equal", "memory", "active"):
        row |= {
            f"gpu_time_{policy}_ns": round(usd * T_NS),
            f"idle_energy_{policy}_uj": round(usd * 2_000_000),
        }
    return row | {"active_time_ns": round(usd * T_NS) // 2, "active_energy_uj": round(usd * 1_000_000)} | more


def each_way(sink: ClickHouseSink, unit: str = "output_tokens") -> list[float | None]:
    """USD for one unit of m v1, as cost, explain and unit_cost tell it."""
    (line,) = (
        row
        for row in cost_rows(sink.store, ["model", "model_version"], None, None, "equal", unit)
        if (row["model"], row["model_version"], row["account"]) == ("m", "v1", "process")
    )
    wanted = {"model": "m", "model_version": "v1"}
    said = Evidence(sink.store, wanted, None, None, "equal").units(unit)[-1]["value"]
    explained = float(said.split()[0]) / 1e6 if said.endswith("USD per million") else None
    views = sink.store.query(
        "SELECT cost_usd_per_unit FROM unit_cost(policy = {policy:String}, since = {since:String},"
        " until = {until:String}, unit = {unit:String})"
        " WHERE model = 'm' AND model_version = 'v1' AND cost_usd_per_unit IS NOT NULL ORDER BY is_training",
        {"policy": "equal", "since": "2000-01-01", "until": "2100-01-01", "unit": unit},
    ).rows
    return [line["cost_usd_per_unit"], explained, *(row[0] for row in views)]


def of_models(sink: ClickHouseSink) -> float | None:
    (row,) = (
        row
        for row in model_rows(sink.store, None, None, "equal")
        if (row["model"], row["model_version"]) == ("m", "v1")
    )
    usd = row["cost_usd_per_million_output_tokens"]
    return None if usd is None else usd / 1e6


@pytest.mark.parametrize(
    ("training", "is_observed"),
    [
        pytest.param({"phase": "", "run": "sft"}, True, marks=pytest.mark.long),
        pytest.param({"phase": "training"}, False, marks=pytest.mark.long),
    ],
)
def test_what_training_costs_is_in_no_token_that_is_served(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int, training: Row, is_observed: bool
) -> None:
    rows = [spent(start_ms, 0, 4), spent(start_ms, 0, 6, gpu="GPU-2", **training)]
    priced.write_attribution(as_columns(rows))
    units = [told(start_ms, "engine", 0, 100), told(start_ms, "emit", 0, 20, unit="steps", **training)]
    units += [observed(start_ms, 0)] if is_observed else []
    priced.write_rows("unit", units)

    assert of_models(priced) == pytest.approx(4 / 100)
    assert each_way(priced) == pytest.approx([4 / 100] * 3)
    assert each_way(priced, "steps") == pytest.approx([6 / 20] * 3)
    (line,) = cost_rows(priced.store, ["model"], None, None, "equal", "output_tokens")
    assert (line["cost_usd"], line["covered_cost_usd"]) == (pytest.approx(10), pytest.approx(4))


def test_tokens_of_training_are_apart_and_told(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    training: Row = {"phase": "training", "run": "sft"}
    priced.write_attribution(as_columns([spent(start_ms, 0, 4)]))
    priced.write_rows("unit", [told(start_ms, "engine", 0, 100), told(start_ms, "emit", 0, 1000, **training)])

    line, unmatched = cost_rows(priced.store, ["model"], None, None, "equal", "output_tokens")
    assert (line["quantity"], line["training_quantity"]) == (100, None)  # no GPU time of training was seen
    assert (unmatched["account"], unmatched["quantity"]) == ("unmatched", 1000)

    priced.write_attribution(as_columns([spent(start_ms, 0, 6, gpu="GPU-2", **training)]))
    (line,) = cost_rows(priced.store, ["model"], None, None, "equal", "output_tokens")
    assert (line["quantity"], line["training_quantity"]) == (100, 1000)
    served, trained = cost_rows(priced.store, ["run"], None, None, "equal", "output_tokens")
    assert (served["cost_usd_per_unit"], trained["cost_usd_per_unit"]) == (0.04, pytest.approx(0.006))


@pytest.mark.parametrize("held", [{"phase": "inference", "run": "eval"}, {"phase": "training", "run": ""}])
def test_a_unit_without_a_phase_is_of_what_its_version_does(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int, held: Row
) -> None:
    """A run without a phase would train, and what has neither would serve: but processes say more."""
    priced.write_attribution(as_columns([spent(start_ms, 0, 4, **held)]))
    priced.write_rows("unit", [told(start_ms, "emit", 0, 100, phase="", run=held["run"])])
    (line,) = cost_rows(priced.store, ["model_version", "run"], None, None, "equal", "output_tokens")
    assert (line["model_version"], line["cost_usd_per_unit"]) == ("v1", pytest.approx(4 / 100))


def test_an_engine_that_names_no_version_covers_the_version_that_it_serves(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Engines seldom know a version: two of four minutes were observed, and explain finds the tokens too."""
    priced.write_attribution(as_columns([spent(start_ms, minute) for minute in range(4)]))
    nameless: Row = {"model_version": ""}
    units = [row for m in (0, 1) for row in (observed(start_ms, m), told(start_ms, "engine", m, 100))]
    priced.write_rows("unit", [row | nameless for row in units])
    (line,) = cost_rows(priced.store, ["model_version"], None, None, "equal", "output_tokens")
    assert (line["model_version"], line["coverage_ratio"]) == ("v1", 0.5)
    assert line["cost_usd_per_unit"] == pytest.approx(2 / 200)
    said = Evidence(priced.store, {"model_version": "v1"}, None, None, "equal").units("output_tokens")
    assert [row["value"] for row in said] == ["200 output_tokens", "10000 USD per million"]


def test_a_version_that_ended_in_the_hour_before_does_not_make_two_of_one(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    priced.write_attribution(as_columns([spent(start_ms, 0, model_version="v0"), spent(start_ms, 2)]))
    priced.refresh_rollups()
    priced.write_rows("unit", [told(start_ms, "span", 2, 100, model_version="")])
    since = datetime.fromtimestamp(start_ms / 1000 + 60, UTC)
    (line,) = cost_rows(priced.store, ["model_version"], since, None, "equal", "output_tokens")
    assert (line["model_version"], line["quantity"]) == ("v1", 100)


@pytest.mark.parametrize(
    ("versions", "named", "shares"), [(2, "", {"v0": 0.5, "v1": 0.5}), (2_000, "v7", {"v7": 1})]
)
def test_versions_that_took_turns_by_the_hour_for_months_do_not_stand_beside_each_count(
    priced: ClickHouseSink, versions: int, named: str, shares: dict[str, float]
) -> None:
    """An array of 2,000 stretches beside each of 40,000 counts took more than 2 GiB."""
    hours, counts = 2_000, 40_000
    store = priced.store
    store.command(
        "INSERT INTO attribution_hour (bucket_start, host, gpu, account, model, model_version, version)"
        " SELECT toDateTime('2026-01-01', 'UTC') + 3600 * number, 'h', 'GPU-1', 'process', 'm',"
        f" concat('v', toString(number % {versions})), 1 FROM numbers({hours})"
    )
    store.command(
        "INSERT INTO unit (t, period_ns, unit, quantity, host, model, model_version, authority, event_id)"
        f" SELECT toDateTime64('2026-01-01', 9, 'UTC') + {hours * 3600 // counts} * number + 60, 60000000000,"
        f" 'images', 1, 'h', 'm', '{named}', 4, toString(number) FROM numbers({counts})"
    )
    found = store.query(
        "SELECT model_version, sum(quantity) FROM counted_unit(unit = 'images', since = '2026-01-01',"
        " until = '2027-01-01') GROUP BY model_version ORDER BY model_version"
        f" SETTINGS max_memory_usage = {256 << 20}"
    ).rows
    assert dict(found) == {version: counts * share for version, share in shares.items()}


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_of_an_hour_that_the_span_cuts_the_versions_in_the_span_count(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int, is_rolled_up: bool
) -> None:
    """v1 held a GPU before the span and at its end, v2 in between, when the tokens were counted."""
    minutes = {"v1": (0, 1, 20), "v2": (8, 9, 10)}
    rows = [spent(start_ms, m, model_version=version) for version, at in minutes.items() for m in at]
    priced.write_attribution(as_columns(rows))
    if is_rolled_up:
        priced.refresh_rollups()
    priced.write_rows("unit", [told(start_ms, "span", 9, 10, model_version="")])
    since, until = (datetime.fromtimestamp(start_ms / 1000 + 60 * m, UTC) for m in (5.5, 25.5))
    lines = cost_rows(priced.store, ["model_version"], since, until, "equal", "output_tokens")
    assert {line["model_version"]: line["quantity"] for line in lines} == {"v1": None, "v2": 10}


@pytest.mark.parametrize("source", ["engine", "span"])
def test_what_names_no_version_is_of_the_one_that_was_there_when_it_was_counted(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int, source: str
) -> None:
    """v1 gives way to v2 after two minutes; in the fifth there are two, and whose those are nobody knows."""
    held = [spent(start_ms, minute, model_version="v1" if minute < 2 else "v2") for minute in range(5)]
    held += [spent(start_ms, 4, model_version="v3", gpu="GPU-2")]
    priced.write_attribution(as_columns(held))
    priced.refresh_rollups()
    counts = [told(start_ms, source, minute, 10**minute, model_version="") for minute in range(5)]
    counts += (
        [told(start_ms, "engine", 90, 0)] if source != "engine" else []
    )  # so that spans are the lesser source
    priced.write_rows("unit", counts)
    rows = priced.store.query(
        "SELECT model_version, sum(quantity) FROM counted_unit(unit = 'output_tokens',"
        " since = '2000-01-01', until = '2100-01-01') GROUP BY ALL HAVING sum(quantity) > 0"
    ).rows
    assert dict(rows) == {"v1": 11, "v2": 1100, "": 10_000}


def test_a_lesser_source_fills_in_for_its_own_pod_alone(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """The engine of pod a was away for a minute; spans of pod b, which counted then, say nothing of a."""
    a: Row = {"pod": "a"}
    b: Row = {"pod": "b", "gpu": "GPU-2", "host": "i"}
    priced.write_attribution(as_columns([spent(start_ms, m, **where) for m in range(3) for where in (a, b)]))
    units = [row for m in (0, 2) for row in (observed(start_ms, m), told(start_ms, "engine", m, 100))]
    spans = [told(start_ms, "span", m, 10, pod="b", host="i") for m in range(3)]
    priced.write_rows("unit", [*(row | {"pod": "a"} for row in units), *spans])
    (line,) = cost_rows(priced.store, ["model"], None, None, "equal", "output_tokens")
    assert (line["quantity"], line["covered_cost_usd"]) == (230, pytest.approx(5))


def test_the_money_of_units_is_that_of_the_prices_known_then(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    priced.write_attribution(as_columns([spent(start_ms, minute) for minute in range(2)]))
    priced.write_rows("unit", [observed(start_ms, 0), told(start_ms, "engine", 0, 100)])
    (then,) = cost_rows(priced.store, [], None, None, "equal", "output_tokens", as_of="2001-01-01")
    assert (then["cost_usd"], then["cost_usd_per_unit"]) == (None, None)
    now, nobody = cost_rows(priced.store, ["model"], None, None, "equal", "output_tokens"), "tenants"
    idle = {"account": "unheld", "model": "", "gpu": "GPU-9", "pid": 0}
    priced.write_attribution(as_columns([spent(start_ms, 0, 3) | idle]))
    (charged,) = cost_rows(priced.store, ["model"], None, None, "equal", "output_tokens", unallocated=nobody)
    assert (now[0]["covered_cost_usd"], charged["cost_usd"]) == (pytest.approx(1), pytest.approx(5))
    assert (charged["covered_cost_usd"], charged["j_per_unit"]) == (pytest.approx(2.5), pytest.approx(0.075))


def test_explain_finds_the_units_that_reach_over_the_end_of_the_span(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    priced.write_attribution(as_columns([spent(start_ms, minute) for minute in range(4)]))
    priced.write_rows("unit", [told(start_ms, "gateway", 1, 100, 120)])
    since, until = (f"{datetime.fromtimestamp(start_ms / 1000 + s, UTC):%F %T}" for s in (60, 120))
    (line,) = cost_rows(priced.store, [], since, until, "equal", "output_tokens")
    said = Evidence(priced.store, {"model": "m"}, since, until, "equal").units("output_tokens")
    assert line["cost_usd_per_million"] == pytest.approx(20_000)
    assert [row["value"] for row in said] == ["50 output_tokens", "20000 USD per million"]


def test_explain_ends_where_nobody_said_where_a_price_comes_from(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    priced.write_attribution(as_columns([spent(start_ms, 0)]))
    (said,) = Evidence(priced.store, {"model": "m"}, None, None, "equal").prices()
    assert said["meaning"].endswith(", user")


def test_the_sums_of_a_large_fleet_pass_64_bits(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """100,000 GPUs for 11 days: 10^20 ns and more than 10^19 uJ, here on three GPUs that ran for decades."""
    decades_ns = 4 * 10**18
    rows = [
        spent(start_ms, 0, 4_000_000, gpu=f"GPU-{n}", active_energy_uj=4 * 10**18, error_uj=decades_ns)
        for n in range(3)
    ]
    priced.write_attribution(as_columns(rows))
    priced.write_rows("unit", [told(start_ms, "engine", 0, 100)])
    (line,) = cost_rows(priced.store, ["model"], None, None, "equal", "output_tokens")
    assert line["gpu_hours"] == pytest.approx(1.2e19 / 3.6e12)
    assert line["active_energy_j"] == pytest.approx(1.2e13)
    assert line["cost_usd"] == pytest.approx(1.2e7)
    assert line["cost_usd_per_unit"] == pytest.approx(1.2e5)
    figure, band, _ = Evidence(priced.store, {"model": "m"}, None, None, "equal").figure()
    assert (figure["gpu_hours"], band["energy_j"]) == (pytest.approx(1.2e19 / 3.6e12), pytest.approx(1.2e13))
    (row,) = model_rows(priced.store, None, None, "equal")
    assert (row["gpu_hours"], row["error_j"]) == (pytest.approx(1.2e19 / 3.6e12), pytest.approx(1.2e13))
    assert row["active_ratio"] == pytest.approx(0.5)


def throughput(sink: ClickHouseSink) -> Row:
    (row,) = sink.store.query(
        "SELECT * FROM model_throughput(policy = {policy:String}, since = {since:String},"
        " until = {until:String}) WHERE model = 'm' AND model_version = 'v1'",
        {"policy": "equal", "since": "2000-01-01", "until": "2100-01-01"},
    ).dicts()
    return row


def test_the_best_15_minutes_are_of_one_source_and_of_whole_minutes(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """A gateway counts twice as many: ten minutes of it and ten of an engine are no 15."""
    of_time = {f"gpu_time_{policy}_ns": MINUTE_NS for policy in ("equal", "memory", "active")}
    held = [spent(start_ms, minute) | of_time for minute in range(20)]
    priced.write_attribution(as_columns(held))
    priced.refresh_rollups()
    counts = [told(start_ms, "engine", minute, 600, model_version="") for minute in range(10, 20)]
    counts += [told(start_ms, "gateway", minute, 1200) for minute in range(20)]
    priced.write_rows("unit", counts)
    assert throughput(priced)["capacity_output_tokens_per_gpu_s"] is None

    priced.write_attribution(as_columns([spent(start_ms, minute) | of_time for minute in range(20, 24)]))
    # of the 25th minute it holds the last half second, in which it serves what was asked for before
    late = spent(start_ms, 24 + 59 / 60, gpu="GPU-1") | {"window_ms": 1000}
    late |= dict.fromkeys(of_time, 10**9)
    priced.write_attribution(as_columns([late]))
    priced.write_rows(
        "unit", [told(start_ms, "engine", minute, 600, model_version="") for minute in range(20, 25)]
    )
    priced.refresh_rollups()
    assert throughput(priced)["capacity_output_tokens_per_gpu_s"] is None

    priced.write_attribution(as_columns([spent(start_ms, 24, gpu="GPU-2") | of_time]))
    priced.refresh_rollups()
    row = throughput(priced)
    assert row["capacity_output_tokens_per_gpu_s"] == pytest.approx(15 * 600 / (15 * 60 + 1))
    assert row["capacity_from"] == datetime.fromtimestamp(start_ms / 1000 + 600, UTC)


def test_what_an_engine_does_not_tell_is_counted_while_it_is_not_observed(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Requests of a gateway in four minutes are priced by four minutes, tokens of an engine by its two."""
    priced.write_attribution(as_columns([spent(start_ms, minute) for minute in range(4)]))
    units = [row for m in (0, 1) for row in (observed(start_ms, m), told(start_ms, "engine", m, 100))]
    units += [told(start_ms, "gateway", minute, 10, unit="requests") for minute in range(4)]
    priced.write_rows("unit", units)
    (line,) = cost_rows(priced.store, ["model"], None, None, "equal", "requests")
    assert (line["cost_usd_per_unit"], line["coverage_ratio"]) == (pytest.approx(4 / 40), None)
    (row,) = model_rows(priced.store, None, None, "equal")
    assert (row["cost_usd_per_request"], row["j_per_request"]) == pytest.approx((4 / 40, 12 / 40))
    assert row["cost_usd_per_million_output_tokens"] == pytest.approx(2 / 200 * 1e6)


@pytest.mark.parametrize("tokens_by", [None, "gateway", "engine"])
def test_an_engine_that_tells_requests_alone_leaves_out_what_was_spent_while_it_was_not_observed(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int, tokens_by: str | None
) -> None:
    """Observed for two of four minutes: its requests are priced by two, a gateway's tokens by all four."""
    priced.write_attribution(as_columns([spent(start_ms, minute) for minute in range(4)]))
    units = [
        row
        for minute in (0, 1)
        for row in (observed(start_ms, minute), told(start_ms, "engine", minute, 10, unit="requests"))
    ]
    if tokens_by:
        minutes = range(4) if tokens_by == "gateway" else range(2)
        units += [told(start_ms, tokens_by, minute, 100) for minute in minutes]
    priced.write_rows("unit", units)
    (line,) = cost_rows(priced.store, ["model"], None, None, "equal", "requests")
    (row,) = model_rows(priced.store, None, None, "equal")
    assert line["cost_usd_per_unit"] == pytest.approx(2 / 20)
    assert (row["cost_usd_per_request"], row["j_per_request"]) == pytest.approx((2 / 20, 6 / 20))
    assert row["coverage_ratio"] == (None if tokens_by == "gateway" else 0.5)
    per_token = {None: None, "gateway": pytest.approx(4 / 400 * 1e6), "engine": pytest.approx(2 / 200 * 1e6)}
    assert row["cost_usd_per_million_output_tokens"] == per_token[tokens_by]


OF_TIME = {f"gpu_time_{policy}_ns": MINUTE_NS for policy in ("equal", "memory", "active")}


def held(start_ms: int, minutes: int, **more: Any) -> list[Row]:
    """Minutes of a GPU, wholly."""
    return [spent(start_ms, minute) | OF_TIME | more for minute in range(minutes)]


def test_at_best_and_on_average_the_tokens_of_all_places_count(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Pod a by its engine, 100 tokens a minute, pod b by spans, 1000: the best is no dearer than the mean."""
    a, b = {"pod": "a", "host": "h"}, {"pod": "b", "host": "i", "gpu": "GPU-2"}
    priced.write_attribution(as_columns([*held(start_ms, 20, **a), *held(start_ms, 20, **b)]))
    priced.refresh_rollups()
    units = [observed(start_ms, minute, pod="a") for minute in range(20)]
    units += [told(start_ms, "engine", minute, 100, pod="a") for minute in range(20)]
    units += [told(start_ms, "span", minute, 1000, pod="b", host="i") for minute in range(20)]
    units += [told(start_ms, "span", minute, 90, pod="a") for minute in range(20)]  # the engine's again
    priced.write_rows("unit", units)
    (row,) = model_rows(priced.store, None, None, "equal")
    per_million = 20 * 120 * 1e-3 / 22_000 * 1e6
    assert row["cost_usd_per_million_output_tokens"] == pytest.approx(per_million)
    assert row["capacity_usd_per_million_output_tokens"] == pytest.approx(per_million)


def test_the_best_15_minutes_are_counted_wherever_the_version_held_a_gpu(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Two engines; five of 25 minutes of the one were not observed, and half a minute of the other."""
    b: Row = {"pod": "b", "host": "i"}
    rows = [*held(start_ms, 25, pod="a"), *held(start_ms, 25, gpu="GPU-2", **b)]
    priced.write_attribution(as_columns(rows))
    priced.refresh_rollups()
    seen = [minute for minute in range(25) if not 5 <= minute < 10]
    units = [told(start_ms, "engine", minute, 600, pod="a") for minute in range(25)]
    units += [observed(start_ms, minute, pod="a") for minute in range(25)]
    units += [told(start_ms, "engine", minute, 300, **b) for minute in seen if minute != 24]
    units += [observed(start_ms, minute, **b) for minute in seen]
    priced.write_rows("unit", units)
    # ten to twenty-four: in the last, nothing was told of b
    assert throughput(priced)["capacity_output_tokens_per_gpu_s"] == pytest.approx(
        (15 * 600 + 14 * 300) / 1800
    )

    half = {"quantity": MINUTE_NS / 2, "event_id": observed(start_ms, 17, pod="a")["event_id"]}
    priced.write_rows("unit", [observed(start_ms, 17, pod="a") | half])
    assert throughput(priced)["capacity_output_tokens_per_gpu_s"] is None
    known = (
        "SELECT minute FROM model_minute(policy = 'equal', since = '2000-01-01', until = '2100-01-01')"
        " WHERE is_counted"
    )
    minutes = [minute - start_ms // 60_000 for (minute,) in priced.store.query(known).rows]
    assert sorted(minutes) == [minute for minute in seen if minute != 17]
    # spans count in the place of the one, and say nothing of the other
    priced.write_rows("unit", [told(start_ms, "span", minute, 300, **b) for minute in (*range(5, 10), 17)])
    minutes = [minute - start_ms // 60_000 for (minute,) in priced.store.query(known).rows]
    assert sorted(minutes) == [minute for minute in range(25) if minute != 17]


def test_time_that_was_not_observed_is_no_evidence_of_what_a_token_takes(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """A thousand input tokens take 0.1 s, output tokens 2 s; of every third minute 15 s were observed."""
    rows, units = [], []
    for minute in range(40):
        thousand_in, thousand_out = 20 + 37 * minute % 130, 2 + minute * minute % 9
        active_ns = round((0.1 * thousand_in + 2 * thousand_out) * 1e9)
        rows.append(spent(start_ms, minute) | OF_TIME | {"active_time_ns": active_ns})
        seconds = 60 if minute % 3 else 15
        at = minute + (60 - seconds) / 60
        seen: Row = {"unit": "observed_ns", "pid": 9, "process_start_ns": 5}
        for unit, thousand in (("input_tokens", thousand_in), ("output_tokens", thousand_out)):
            quantity = 1000 * thousand * seconds / 60
            units.append(told(start_ms, "engine", at, quantity, seconds, unit=unit))
        units.append(told(start_ms, "engine", at, seconds * 1e9, seconds, **seen))
    priced.write_attribution(as_columns(rows))
    priced.refresh_rollups()
    priced.write_rows("unit", units)
    row = throughput(priced)
    assert (row["fit_minutes"], row["fit_unusable"]) == (26, "")
    assert (row["input_token_ns"], row["output_token_ns"]) == pytest.approx((0.1e6, 2e6))
    assert row["capacity_output_tokens_per_gpu_s"] is None
