"""The same tokens told by several sources count once, minute by minute; and what was spent while nobody
counted is left out of the cost of one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sinks.conftest import AsColumns
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.costs import cost_rows
from wattribute.sinks.evidence import Evidence
from wattribute.sinks.prices import Price, add_prices

Row = dict[str, Any]

AUTHORITY = {"engine": 4, "span": 3, "client": 2, "gateway": 1, "emit": 0}
MINUTE_NS = 60 * 10**9
T_NS = 10**12  # costs 1 USD at 3.6 USD per GPU-hour
SPAN = "since = '2000-01-01', until = '2100-01-01'"


def told(start_ms: int, source: str, minute: float, quantity: float, seconds: float = 60, **more: Any) -> Row:
    """``quantity`` in the ``seconds`` from a minute on."""
    t = start_ms * 1_000_000 + round((minute + seconds / 60) * MINUTE_NS)
    row = {"t": t, "period_ns": round(seconds * 1e9), "host": "h", "source": source, "unit": "output_tokens"}
    row |= {"authority": AUTHORITY[source], "model": "m", "quantity": quantity, "phase": "inference"}
    return row | {"event_id": f"{source} {minute} {seconds} {more} {t}"} | more


def observed(start_ms: int, minute: float, ratio: float = 1, **more: Any) -> Row:
    row = told(start_ms, "engine", minute, ratio * MINUTE_NS, unit="observed_ns", **more)
    return row | {"pid": 9, "process_start_ns": 5} | more


def counted(sink: ClickHouseSink, span: str = SPAN, unit: str = "output_tokens") -> dict[str, float]:
    """The quantity that counts, by source."""
    sql = f"SELECT source, sum(quantity) FROM counted_unit(unit = '{unit}', {span}) GROUP BY source"
    return dict(sink.store.query(sql).rows)


def test_of_all_sources_at_once_the_best_counts(sink: ClickHouseSink, start_ms: int) -> None:
    rows = [told(start_ms, source, minute, 100) for source in AUTHORITY for minute in range(3)]
    sink.write_rows("unit", rows[::-1])
    assert counted(sink) == {"engine": 300}
    sink.write_rows("unit", rows)  # a retried export
    assert counted(sink) == {"engine": 300}


def test_while_the_best_is_down_the_next_counts(sink: ClickHouseSink, start_ms: int) -> None:
    rows = [told(start_ms, "engine", minute, 100) for minute in (0, 1, 4)]
    rows += [told(start_ms, "span", minute, 90) for minute in (0, 1, 2, 4)]
    rows += [told(start_ms, "gateway", minute, 80) for minute in range(5)]
    sink.write_rows("unit", rows)
    assert counted(sink) == {"engine": 300, "span": 90, "gateway": 80}


@pytest.mark.parametrize("looked", ["observed_ns", "a count of 0"])
def test_a_source_that_counted_nothing_is_not_down(sink: ClickHouseSink, start_ms: int, looked: str) -> None:
    zero = observed(start_ms, 1) if looked == "observed_ns" else told(start_ms, "engine", 1, 0)
    rows = [told(start_ms, "engine", 0, 100), zero]
    rows += [told(start_ms, "span", minute, 90) for minute in range(3)]
    sink.write_rows("unit", [*rows, observed(start_ms, 2, 0)])  # it looked in vain
    assert counted(sink) == {"engine": 100, "span": 90}


def test_who_never_counts_a_unit_is_no_better_source_of_it(sink: ClickHouseSink, start_ms: int) -> None:
    rows = [told(start_ms, "engine", 0, 100), observed(start_ms, 0)]
    sink.write_rows("unit", [*rows, told(start_ms, "span", 0, 7, unit="reasoning_tokens")])
    assert counted(sink, unit="reasoning_tokens") == {"span": 7}


def test_a_count_over_several_minutes_counts_by_the_minutes(sink: ClickHouseSink, start_ms: int) -> None:
    """Three minutes and a half of a client, of which the engine saw the second and half of the third."""
    rows = [
        told(start_ms, "client", 0.5, 700, 210),
        told(start_ms, "engine", 1, 50),
        observed(start_ms, 2, 0.5),
    ]
    sink.write_rows("unit", rows)
    assert counted(sink) == {"engine": 50, "client": pytest.approx(100 + 200)}
    since = f"since = fromUnixTimestamp64Milli({start_ms + 210_000}), until = '2100-01-01'"
    assert counted(sink, since) == {"client": pytest.approx(100)}


@pytest.mark.parametrize("cut", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_who_counts_in_a_minute_is_the_same_wherever_it_is_cut(
    sink: ClickHouseSink, start_ms: int, cut: float
) -> None:
    rows = [told(start_ms, "engine", 0.1, 100, 6), told(start_ms, "gateway", 0.6, 90, 6)]
    rows += [told(start_ms, "gateway", 1.1, 80, 6), told(start_ms, "engine", 1.6, 70, 6)]
    sink.write_rows("unit", rows)
    for minute in (0, 1):
        since, edge, until = (start_ms + round(60_000 * (minute + part)) for part in (0, cut, 1))
        parts = [
            counted(sink, f"since = fromUnixTimestamp64Milli({a}), until = fromUnixTimestamp64Milli({b})")
            for a, b in ((since, edge), (edge, until))
        ]
        assert sorted(map(dict, parts), key=len) == [{}, {"engine": 100 if minute == 0 else 70}]


@pytest.mark.parametrize(
    ("engine", "span", "both"),
    [
        ({"model_version": "v1"}, {}, False),
        ({}, {"model_version": "v1"}, False),
        ({"model_version": "v1"}, {"model_version": "v1"}, False),
        ({"model_version": "v1"}, {"model_version": "v2"}, True),
        ({"pod": "a"}, {}, False),
        ({"pod": "a"}, {"pod": "a"}, False),
        ({"pod": "a"}, {"pod": "b"}, True),
        ({"pid": 1}, {"pid": 2}, True),
        ({"pid": 1}, {"host": "other"}, False),
        ({"pid": 1}, {"pod": "a"}, False),  # the process may be the pod's
        ({"pod": "0b5c1d1e-3f60-4a51-9d5e-6d8b1a2c3d4e"}, {"pod": "a"}, False),  # its uid, and its name
        (
            {"pod": "0b5c1d1e-3f60-4a51-9d5e-6d8b1a2c3d4e"},
            {"pod": "0b5c1d1e-3f60-4a51-9d5e-6d8b1a2c3d4f"},
            True,
        ),
        ({}, {"run": "eval-7"}, False),  # who asks does not matter
        ({}, {"run": "sft", "phase": "training"}, True),
        ({}, {"model": "n"}, True),
    ],
)
def test_only_what_may_be_the_same_is_counted_once(
    sink: ClickHouseSink, start_ms: int, engine: Row, span: Row, both: bool
) -> None:
    sink.write_rows(
        "unit", [told(start_ms, "engine", 0, 100, **engine), told(start_ms, "span", 0, 90, **span)]
    )
    assert counted(sink) == {"engine": 100, **({"span": 90} if both else {})}


@pytest.mark.parametrize(
    ("held", "told_version", "both"),
    [
        ([{}], "v1", False),  # its processes only serve, so it is serving that the run asked for
        ([{}], "", False),
        ([{"run": "eval-7", "phase": ""}], "v1", True),  # they train
        ([{}, {"run": "sft", "phase": "training"}], "v1", True),  # some do
        ([{"model_version": "v2"}], "v1", True),  # nothing is known of that version
    ],
)
def test_what_names_a_run_and_no_phase_is_what_its_processes_do(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int, held: list[Row], told_version: str, both: bool
) -> None:
    rows = [
        spent(start_ms, 0, **({"pid": pid, "model_version": "v1"} | row)) for pid, row in enumerate(held, 1)
    ]
    sink.write_attribution(as_columns(rows))
    run: Row = {"run": "eval-7", "phase": "", "model_version": told_version}
    for sums in (False, True):
        if sums:
            sink.refresh_rollups()
        sink.write_rows(
            "unit",
            [told(start_ms, "engine", 0, 100, model_version="v1"), told(start_ms, "emit", 0, 90, **run)],
        )
        assert counted(sink) == {"engine": 100, **({"emit": 90} if both else {})}


def test_metrics_and_spans_of_two_applications_are_two(sink: ClickHouseSink, start_ms: int) -> None:
    rows = [
        told(start_ms, "span", 0, 10, application="desk"),
        told(start_ms, "client", 0, 9, application="desk"),
    ]
    rows += [told(start_ms, "client", 0, 5, application="shop"), told(start_ms, "gateway", 0, 15)]
    sink.write_rows("unit", rows)
    assert counted(sink) == {"span": 10, "client": 5}


ROWS: st.SearchStrategy[list[Row]] = st.lists(
    st.builds(
        dict,
        source=st.sampled_from(list(AUTHORITY)),
        begin=st.integers(0, 400),
        seconds=st.sampled_from([0, 1, 15, 60, 100, 200]),
        quantity=st.integers(0, 50),
        model=st.sampled_from(["m", "n"]),
        model_version=st.sampled_from(["", "v1", "v2"]),
        pod=st.sampled_from(["", "", "a", "b"]),
        application=st.sampled_from(["", "desk", "shop"]),
        unit=st.sampled_from(["output_tokens", "output_tokens", "observed_ns"]),
        dated=st.booleans(),
    ),
    max_size=12,
)


def minutes_of(row: Row) -> list[int]:
    end = row["begin"] + row["seconds"]
    return list(range(row["begin"] // 60, max(row["begin"] // 60, (end - 1) // 60) + 1))


def expected(rows: Sequence[Row]) -> Fraction:
    """What counts, by the rule as it is written, in fractions."""
    tells = {(row["model"], row["source"]) for row in rows if row["unit"] == "output_tokens"}
    total = Fraction(0)
    for row in rows:
        if row["unit"] != "output_tokens":
            continue
        for minute in minutes_of(row):
            better = any(
                AUTHORITY[other["source"]] > AUTHORITY[row["source"]]
                and minute in minutes_of(other)
                and other["model"] == row["model"]
                and (other["unit"] == "output_tokens" or other["quantity"] > 0)
                and (other["model"], other["source"]) in tells
                and all(
                    "" in (row[name], other[name]) or row[name] == other[name]
                    for name in ("model_version", "pod")
                )
                and (
                    {row["source"], other["source"]} != {"span", "client"}
                    or "" in (row["application"], other["application"])
                    or row["application"] == other["application"]
                )
                for other in rows
            )
            if not better:
                begin, end = row["begin"], row["begin"] + row["seconds"]
                inside = min(end, 60 * minute + 60) - max(begin, 60 * minute)
                total += (
                    Fraction(row["quantity"] * inside, row["seconds"]) if row["seconds"] else row["quantity"]
                )
    return total


def as_text(ms: int) -> str:
    return str(datetime.fromtimestamp(ms / 1000, UTC).replace(tzinfo=None))


def test_no_count_that_reaches_into_a_span_is_left_out_with_its_hour(sink: ClickHouseSink) -> None:
    """Of those named by their time, which lie by hours, and of others; of lengths about an hour."""
    hour, units = 1_780_000_000 // 3600 * 3_600_000, []
    for minutes in (0, 0.001, 59.9, 60, 60.001, 1440):
        for end in {*range(-130, 260, 13), -60, 0, 60, 120, 180}:
            for dated in (True, False):
                row = told(hour, "engine", end - minutes, 1.0, minutes * 60)
                units.append(row | {"event_id": f"{minutes} {end} {row['t'] if dated else ''}"})
    sink.write_rows("unit", units)
    ((by_hours,),) = sink.store.query("SELECT countIf(key_hour != 0) FROM unit").rows
    assert by_hours == len(units) * 4 // 12
    for begin, end in ((0, 60), (0, 1), (59, 60), (59, 61), (30, 90), (60, 180), (-300, 400)):
        since_ns, until_ns = (hour * 1_000_000 + minute * MINUTE_NS for minute in (begin, end))
        expected = Fraction(0)
        for row in units:
            t, period = row["t"], row["period_ns"]
            within = min(t, until_ns) - max(t - period, since_ns)
            if period:
                expected += max(Fraction(0), Fraction(within, period))
            elif since_ns <= t < until_ns:
                expected += 1
        ((counted,),) = sink.store.query(
            "SELECT sum(quantity) FROM counted_unit("
            "unit = 'output_tokens', since = {s:String}, until = {u:String})",
            {"s": as_text(hour + begin * 60_000), "u": as_text(hour + end * 60_000)},
        ).rows
        assert counted == pytest.approx(float(expected), rel=1e-9), (begin, end)


@pytest.mark.parametrize(
    "view", ["counted_unit(unit = 'output_tokens', ", "unit_cost(unit = 'output_tokens', policy = 'equal', "]
)
def test_what_is_far_from_a_span_is_not_read(sink: ClickHouseSink, view: str) -> None:
    sink.store.command(
        "INSERT INTO unit (t, period_ns, unit, quantity, model, authority, event_id)"
        " SELECT toDateTime64(1780000000 + number * 5, 9, 'UTC') AS t, 5000000000, 'output_tokens', 1, 'm',"
        " 4, concat('engine v1 ', toString(toUnixTimestamp64Nano(t))) FROM numbers(200000)"
    )
    sink.store.command("OPTIMIZE TABLE unit FINAL")
    span = "unit = 'output_tokens', since = '2026-06-01 12:00:00', until = '2026-06-01 13:00:00'"
    read = sink.store.query(f"EXPLAIN ESTIMATE SELECT * FROM {view}{span})").dicts()
    assert 720 <= sum(row["rows"] for row in read if row["table"] == "unit") < 40_000


@pytest.mark.long
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_what_counts_is_what_the_rule_says(sink: ClickHouseSink, start_ms: int, rows: list[Row]) -> None:
    sink.store.command("TRUNCATE TABLE unit")
    sink.store.command("TRUNCATE TABLE unit_teller")
    for number, row in enumerate(rows):
        more = {name: row[name] for name in ("model", "model_version", "pod", "application", "unit")}
        made = told(start_ms, row["source"], row["begin"] / 60, row["quantity"], row["seconds"], **more)
        named = f"{number} {made['t']}" if row["dated"] else str(number)
        sink.write_rows("unit", [made | {"event_id": named}])
    assert sum(counted(sink).values()) == pytest.approx(float(expected(rows)))


def spent(start_ms: int, minute: int, **more: Any) -> Row:
    """A minute of a GPU: 3 J and 1 USD."""
    row: Row = {"window_start": start_ms + 60_000 * minute, "pid": 1, "model": "m", "phase": "inference"}
    for policy in ("equal", "memory", "active"):
        row |= {f"gpu_time_{policy}_ns": T_NS, f"idle_energy_{policy}_uj": 2_000_000}
    return row | {"active_time_ns": T_NS // 2, "active_energy_uj": 1_000_000} | more


def unit_cost(sink: ClickHouseSink) -> list[Row]:
    sql = f"SELECT * FROM unit_cost(policy = 'equal', {SPAN}, unit = 'output_tokens') ORDER BY model"
    return sink.store.query(sql).dicts()


@pytest.mark.long
@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_a_minute_without_a_source_is_left_out_of_both_sides(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int, is_rolled_up: bool
) -> None:
    rows = [spent(start_ms, minute) for minute in range(6)]
    rows[3] |= {"active_energy_uj": 7_000_000}  # in the minute that is left out
    priced.write_attribution(as_columns(rows))
    if is_rolled_up:
        priced.refresh_rollups()
    units = [
        row for m in (0, 1, 2, 4, 5) for row in (observed(start_ms, m), told(start_ms, "engine", m, 100))
    ]
    priced.write_rows("unit", units)

    (row,) = unit_cost(priced)
    assert (row["quantity"], row["cost_usd"], row["energy_uj"]) == (500, pytest.approx(6), 24_000_000)
    assert row["coverage_ratio"] == pytest.approx(5 / 6)
    assert row["cost_usd_per_unit"] == pytest.approx(5 / 500)
    assert row["j_per_unit"] == pytest.approx(15 / 500)
    assert row["why_null"] == ""
    for by in ([], ["model"], ["host", "phase", "run"]):
        (row,) = cost_rows(priced.store, by, None, None, "memory", "output_tokens")
        assert (row["cost_usd"], row["coverage_ratio"]) == (pytest.approx(6), pytest.approx(5 / 6))
        assert row["covered_cost_usd"] == pytest.approx(5)
        assert row["cost_usd_per_unit"] == pytest.approx(5 / 500)
        assert row["j_per_unit"] == pytest.approx(15 / 500)
    explained = Evidence(priced.store, {"model": "m"}, None, None, "memory").units("output_tokens")[-1]
    assert (explained["value"], explained["energy_j"]) == ("10000 USD per million", pytest.approx(15))
    assert "in the 83.3 % of their GPU time when units were counted" in explained["meaning"]

    priced.write_rows("unit", [told(start_ms, "span", minute, 90) for minute in range(6)])
    (row,) = unit_cost(priced)
    assert (row["quantity"], row["coverage_ratio"]) == (590, 1)
    assert row["cost_usd_per_unit"] == pytest.approx(6 / 590)


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_what_counts_of_the_gpu_time_goes_by_the_policy(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int, is_rolled_up: bool
) -> None:
    """Of two minutes one is looked at; the policies give them other times and other idle energy."""
    of_minutes = {"equal": ((1, 1), (1, 3)), "memory": ((2, 1), (4, 5)), "active": ((3, 2), (1, 2))}
    rows = [spent(start_ms, minute) for minute in range(2)]
    for policy, minutes in of_minutes.items():
        for row, (times, idle_j) in zip(rows, minutes, strict=True):
            row[f"gpu_time_{policy}_ns"] = times * T_NS
            row[f"idle_energy_{policy}_uj"] = idle_j * 1_000_000
    priced.write_attribution(as_columns(rows))
    if is_rolled_up:
        priced.refresh_rollups()
    priced.write_rows("unit", [observed(start_ms, 0), told(start_ms, "engine", 0, 100)])
    for policy, ((times, idle_j), (times_after, _)) in of_minutes.items():
        sql = f"SELECT * FROM unit_cost(policy = '{policy}', {SPAN}, unit = 'output_tokens')"
        (row,) = priced.store.query(sql).dicts()
        assert row["coverage_ratio"] == pytest.approx(times / (times + times_after))
        assert row["cost_usd_per_unit"] == pytest.approx(times / 100)
        assert row["j_per_unit"] == pytest.approx((1 + idle_j) / 100)
        if is_rolled_up:
            ended = f"since = '2000-01-01', until = fromUnixTimestamp64Milli({start_ms + 120_000})"
            of_minute = f"SELECT gpu_time_ns FROM model_minute(policy = '{policy}', {ended}) ORDER BY minute"
            assert priced.store.query(of_minute).rows == [(times * T_NS,), (times_after * T_NS,)]


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_of_a_minute_that_the_span_cuts_its_part_is_covered_as_the_minute_is(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int, is_rolled_up: bool
) -> None:
    """Asked from 0:30 to 2:30: of the first minute nobody counted, of the last an application did, later."""
    windows = [(0, 20_000), (0, 40_000), (1, 0), (2, 10_000), (2, 50_000)]
    rows = [spent(start_ms, 0, window_start=start_ms + 60_000 * minute + ms) for minute, ms in windows]
    priced.write_attribution(as_columns(rows))
    if is_rolled_up:
        priced.refresh_rollups()
    units = [observed(start_ms, 1), told(start_ms, "engine", 1, 100), told(start_ms, "span", 2.8, 7, 6)]
    priced.write_rows("unit", units)
    since, until = (datetime.fromtimestamp(start_ms / 1000 + seconds, UTC) for seconds in (30, 150))
    (row,) = cost_rows(priced.store, ["model"], since, until, "equal", "output_tokens")
    assert (row["quantity"], row["cost_usd"]) == (100, pytest.approx(3))
    assert row["coverage_ratio"] == pytest.approx(2 / 3)
    assert row["covered_cost_usd"] == pytest.approx(2)


def test_half_a_minute_is_half_left_out(priced: ClickHouseSink, as_columns: AsColumns, start_ms: int) -> None:
    priced.write_attribution(as_columns([spent(start_ms, minute) for minute in range(3)]))
    units = [observed(start_ms, 0), observed(start_ms, 1, 0.5), observed(start_ms, 2, 0.25)]
    priced.write_rows("unit", [*units, told(start_ms, "engine", 0, 100)])
    (row,) = unit_cost(priced)
    assert row["coverage_ratio"] == pytest.approx(2.5 / 3)  # in its last minute it was there to its end
    assert row["cost_usd_per_unit"] == pytest.approx(2.5 / 100)


@pytest.mark.parametrize(("minute", "ratio"), [(0, 1), (10, 0.25), (19, 1)])
def test_the_ends_of_a_span_are_not_those_of_an_engine(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int, minute: int, ratio: float
) -> None:
    """Observed for 15 s of each of twenty minutes: its first and its last are covered whole, no other."""
    priced.write_attribution(as_columns([spent(start_ms, m) for m in range(20)]))
    looked: Row = {"unit": "observed_ns", "pid": 9, "process_start_ns": 5}
    units = [told(start_ms, "engine", m, 15e9, 15, **looked) for m in range(20)]
    priced.write_rows("unit", [*units, *(told(start_ms, "engine", m, 100, 15) for m in range(20))])
    since, until = (datetime.fromtimestamp(start_ms / 1000 + 60 * m, UTC) for m in (minute, minute + 1))
    (row,) = cost_rows(priced.store, ["model"], since, until, "equal", "output_tokens")
    assert (row["quantity"], row["coverage_ratio"]) == (100, pytest.approx(ratio))
    assert row["cost_usd_per_unit"] == pytest.approx(ratio / 100)


def test_of_two_servers_the_one_that_is_not_seen_is_left_out(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    add_prices(priced.store, [Price(gpu_model="NVIDIA L4", price=36)])
    a, b = {"pod": "a"}, {"pod": "b", "gpu": "GPU-2", "gpu_model": "NVIDIA L4"}
    elsewhere = {"host": "i", "pod": "c", "gpu": "GPU-3"}  # at which no engine was ever seen
    rows = [spent(start_ms, minute, **where) for minute in range(2) for where in (a, b, elsewhere)]
    priced.write_attribution(as_columns(rows))
    units = [observed(start_ms, minute, pod="a") for minute in (0, 1)] + [observed(start_ms, -20, pod="b")]
    priced.write_rows(
        "unit", [*units, *(told(start_ms, "engine", minute, 100, pod="a") for minute in (0, 1))]
    )
    (row,) = cost_rows(priced.store, ["model"], None, None, "equal", "output_tokens")
    assert row["quantity"] == 200
    assert row["cost_usd"] == pytest.approx(2 + 20 + 2)
    assert row["cost_usd_per_unit"] == pytest.approx((2 + 2) / 200)
    assert row["coverage_ratio"] == pytest.approx(4 / 6)


def test_two_engines_in_one_place_weigh_the_same(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    priced.write_attribution(as_columns([spent(start_ms, minute) for minute in range(4)]))
    units = [observed(start_ms, minute, pid=8) for minute in range(4)]
    units += [observed(start_ms, minute, pid=9) for minute in (0, 3)]
    priced.write_rows("unit", [*units, told(start_ms, "engine", 0, 100)])
    (row,) = unit_cost(priced)
    assert row["coverage_ratio"] == pytest.approx((1 + 0.5 + 0.5 + 1) / 4)


def test_an_engine_that_two_looked_at_was_observed_once(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    priced.write_attribution(as_columns([spent(start_ms, minute) for minute in range(3)]))
    looked = [observed(start_ms, minute) for minute in range(3)]
    looked.append(observed(start_ms, 1, event_id="by another"))
    priced.write_rows("unit", [*looked, told(start_ms, "engine", 0, 100)])
    (row,) = unit_cost(priced)
    assert row["coverage_ratio"] == pytest.approx(1)
    assert row["cost_usd_per_unit"] == pytest.approx(3 / 100)


def test_an_engine_that_is_away_for_long_is_away_in_each_part_of_that_time(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Of two in one place one was not observed for most of an hour, and came back."""
    priced.write_attribution(as_columns([spent(start_ms, minute) for minute in range(60)]))
    units = [observed(start_ms, minute, pid=8) for minute in range(60)]
    units += [observed(start_ms, minute, pid=9) for minute in (0, 59)]
    priced.write_rows("unit", [*units, *(told(start_ms, "engine", minute, 100) for minute in range(60))])
    for begin, end, ratio in ((0, 60, (2 + 58 / 2) / 60), (25, 35, 0.5), (0, 20, (1 + 19 / 2) / 20)):
        since, until = (datetime.fromtimestamp(start_ms / 1000 + 60 * m, UTC) for m in (begin, end))
        (row,) = cost_rows(priced.store, ["model"], since, until, "equal", "output_tokens")
        assert row["coverage_ratio"] == pytest.approx(ratio)


def test_why_there_is_no_quotient(priced: ClickHouseSink, as_columns: AsColumns, start_ms: int) -> None:
    rows = [spent(start_ms, 0, model=f"{name}", gpu=f"GPU-{name}") for name in ("none", "zero", "away")]
    rows += [spent(start_ms, 0, model="unpriced", gpu="GPU-u", gpu_model="NVIDIA Nothing")]
    priced.write_attribution(as_columns(rows))
    units = [told(start_ms, "engine", 0, 0, model="zero"), told(start_ms, "engine", 0, 5, model="unmatched")]
    units += [told(start_ms, "engine", 0, 5, model="unpriced")]
    units += [told(start_ms, "engine", 30, 5, model="away"), observed(start_ms, 30, model="away")]
    priced.write_rows("unit", units)
    assert {row["model"]: row["why_null"] for row in unit_cost(priced)} == {
        "away": "no GPU time while it was counted",
        "none": "not counted",
        "unmatched": "unmatched: no GPU time was seen",
        "unpriced": "unpriced",
        "zero": "the count is 0",
    }
    for row in unit_cost(priced):
        assert row["cost_usd_per_unit"] is None
        assert (row["j_per_unit"] is None) == (row["model"] != "unpriced")
    lines = cost_rows(priced.store, ["model"], None, None, "equal", "output_tokens")
    unmatched = lines[-1]
    assert (unmatched["model"], unmatched["account"], unmatched["quantity"]) == ("unmatched", "unmatched", 5)
    assert (unmatched["cost_usd"], unmatched["energy_j"]) == (0, 0)  # the total stays right
    assert all(line["cost_usd_per_unit"] is None for line in lines)
    assert sum(line["quantity"] or 0 for line in lines) == 15


def test_training_is_not_measured_by_what_serves(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    training = {"phase": "training", "run": "sft", "gpu": "GPU-2"}
    rows = [spent(start_ms, minute, **more) for minute in range(2) for more in ({}, training)]
    priced.write_attribution(as_columns(rows))
    of_training = told(start_ms, "span", 1, 90, phase="training", run="sft")  # nor serving by what trains
    priced.write_rows("unit", [observed(start_ms, 0), told(start_ms, "engine", 0, 100), of_training])
    serving, trained = cost_rows(priced.store, ["run"], None, None, "equal", "output_tokens")
    assert (serving["coverage_ratio"], trained["coverage_ratio"]) == (pytest.approx(0.5), None)


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_what_names_no_version_is_of_the_only_one_there_is(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int, is_rolled_up: bool
) -> None:
    sft = {"phase": "training", "run": "sft", "gpu": "GPU-2", "model_version": "v8"}
    priced.write_attribution(as_columns([spent(start_ms, 0, model_version="v7"), spent(start_ms, 0, **sft)]))
    priced.write_attribution(as_columns([spent(start_ms, 5, model_version="v9")]))
    if is_rolled_up:
        priced.refresh_rollups()
    rows = [told(start_ms, "span", 0, 10), told(start_ms, "span", 0, 3, run="sft", phase="training")]
    priced.write_rows("unit", [*rows, told(start_ms, "span", 0, 2, model="elsewhere")])
    since = (
        f"since = fromUnixTimestamp64Milli({start_ms}), until = fromUnixTimestamp64Milli({start_ms + 60_000})"
    )
    of = "SELECT model, model_version, sum(quantity) FROM counted_unit(unit = 'output_tokens', "

    def found(span: str) -> set[tuple[str, str, float]]:
        return {(row[0], row[1], row[2]) for row in priced.store.query(f"{of}{span}) GROUP BY ALL").rows}

    others = {("m", "", 3.0), ("elsewhere", "", 2.0)}
    assert found(since) == {("m", "v7", 10.0), *others}
    assert found(SPAN) == {("m", "v7", 10.0), *others}  # v9 held no GPU while these were counted
    assert found(f"since = fromUnixTimestamp64Milli({start_ms + 60_000}), until = '2100-01-01'") == set()


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_a_version_that_is_rolled_back_holds_nothing_while_the_other_does(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int, is_rolled_up: bool
) -> None:
    """v7 for two hours, v8 for three, v7 again; and both within one hour, of which nobody can say."""
    minutes = [
        *((minute, "v7") for minute in (*range(0, 130, 10), *range(320, 470, 10))),
        *((minute, "v8") for minute in (*range(130, 320, 10), 430, 440)),
    ]
    priced.write_attribution(
        as_columns([spent(start_ms, minute, model_version=version) for minute, version in minutes])
    )
    if is_rolled_up:
        priced.refresh_rollups()
    priced.write_rows("unit", [told(start_ms, "span", 60 * hour + 20, 10**hour) for hour in range(8)])
    sql = f"SELECT model_version, sum(quantity) FROM counted_unit(unit = 'output_tokens', {SPAN}) GROUP BY 1"
    assert dict(priced.store.query(sql).rows) == {"v7": 1_100_011, "v8": 11_100, "": 10_000_000}
