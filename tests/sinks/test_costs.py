from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.sinks.conftest import AsColumns
from wattribute.errors import StoreError, UsageError
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.costs import cost_rows
from wattribute.sinks.evidence import Evidence, window_at
from wattribute.sinks.prices import Price, add_prices
from wattribute.sinks.reading import Reader

# At 3.6 USD per GPU-hour 10¹² ns cost 1 USD.
T_NS = 10**12
SERVER: dict[str, Any] = {
    "pid": 1,
    "model": "a",
    "model_version": "v1",
    "team": "search",
    "labels": {"precision": "fp8"},
    "active_energy_uj": 1_000_000,
    "idle_energy_equal_uj": 2_000_000,
    "idle_energy_memory_uj": 3_000_000,
    "idle_energy_active_uj": 5_000_000,
    "active_time_ns": T_NS,
    "gpu_time_equal_ns": 2 * T_NS,
    "gpu_time_memory_ns": 3 * T_NS,
    "gpu_time_active_ns": 5 * T_NS,
}
TRAINER = SERVER | {"pid": 2, "model": "b", "run": "r1", "model_version": "", "labels": {}}
TRAINER |= {
    "idle_energy_equal_uj": 8_000_000,
    "idle_energy_memory_uj": 7_000_000,
    "idle_energy_active_uj": 5_000_000,
}
TRAINER |= {"gpu_time_equal_ns": 8 * T_NS, "gpu_time_memory_ns": 7 * T_NS, "gpu_time_active_ns": 5 * T_NS}
UNHELD: dict[str, Any] = {"account": "unheld", "team": "search"}
UNHELD |= {f"idle_energy_{policy}_uj": 4_000_000 for policy in ("equal", "memory", "active")}
UNHELD |= {f"gpu_time_{policy}_ns": T_NS // 2 for policy in ("equal", "memory", "active")}


def split(row: dict[str, Any]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    values = tuple(row.values())
    return values[:3], values[3:]


def at(start_ms: int, minutes: int) -> datetime:
    return datetime.fromtimestamp(start_ms / 1000 + 60 * minutes, UTC)


@pytest.mark.parametrize(
    ("policy", "server", "trainer"),
    [("equal", (2, 2.0), (8, 8.0)), ("memory", (3, 3.0), (7, 7.0)), ("active", (5, 5.0), (5, 5.0))],
)
def test_figures_worked_out_by_hand(
    sink: ClickHouseSink,
    as_columns: AsColumns,
    policy: str,
    server: tuple[float, float],
    trainer: tuple[float, float],
) -> None:
    sink.write_attribution(as_columns([SERVER, TRAINER, UNHELD]))
    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=3.6)])

    rows = cost_rows(sink.store, ["model", "run"], None, None, policy)

    idle, a, b = rows
    assert list(idle) == (
        [
            "model",
            "run",
            "account",
            "active_energy_j",
            "idle_energy_j",
            "energy_j",
            "gpu_hours",
            "active_cost_usd",
            "idle_cost_usd",
            "cost_usd",
        ]
    )
    names, figures = split(idle)
    assert names == ("", "", "unheld")
    assert figures == pytest.approx((0, 4, 4, 500 / 3600, 0, 0.5, 0.5), rel=1e-12)
    for row, name, run, (idle_j, usd) in ((a, "a", "", server), (b, "b", "r1", trainer)):
        names, figures = split(row)
        assert names == (name, run, "process")
        assert figures == pytest.approx(
            (1, idle_j, 1 + idle_j, usd * 1000 / 3600, 1, usd - 1, usd), rel=1e-12
        )


def test_all_the_parts_are_the_whole_however_asked(sink: ClickHouseSink, as_columns: AsColumns) -> None:
    sink.write_attribution(as_columns([SERVER, TRAINER, UNHELD]))
    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=3.6)])
    for by in (
        [],
        ["host"],
        ["gpu", "gpu_instance"],
        ["labels.precision"],
        ["team", "account"],
        ["user", "attempt"],
    ):
        rows = cost_rows(sink.store, by, None, None, "memory")
        assert sum(row["cost_usd"] for row in rows) == pytest.approx(10.5, rel=1e-12)
        assert sum(row["energy_j"] for row in rows) == pytest.approx(16, rel=1e-12)
    assert cost_rows(sink.store, ["labels.precision"], None, None, "equal")[-1]["labels.precision"] == "fp8"


def test_a_price_change_within_the_span(sink: ClickHouseSink, as_columns: AsColumns, start_ms: int) -> None:
    later = [SERVER | {"window_start": start_ms + 60_000 * minute} for minute in range(4)]
    sink.write_attribution(as_columns(later))
    change = at(start_ms, 2)
    before = Price(gpu_model="NVIDIA H200", price=3.6, valid_to=change)
    add_prices(sink.store, [before, Price(gpu_model="NVIDIA H200", price=7.2, valid_from=change)])

    (row,) = cost_rows(sink.store, ["model"], None, None, "equal")
    assert row["cost_usd"] == pytest.approx(2 * 2 + 2 * 4, rel=1e-12)
    (row,) = cost_rows(sink.store, ["model"], at(start_ms, 1), at(start_ms, 3), "equal")
    assert row["cost_usd"] == pytest.approx(2 + 4, rel=1e-12)
    (row,) = cost_rows(sink.store, ["model"], at(start_ms, 2).isoformat(), None, "equal")
    assert row["cost_usd"] == pytest.approx(4 + 4, rel=1e-12)


def test_between_two_prices_there_is_none(sink: ClickHouseSink, as_columns: AsColumns, start_ms: int) -> None:
    used = [SERVER | {"window_start": start_ms + 60_000 * n, "gpu_model": "NVIDIA X9"} for n in range(4)]
    sink.write_attribution(as_columns(used))
    before = Price(gpu_model="NVIDIA X9", price=3.6, valid_to=at(start_ms, 1))
    add_prices(sink.store, [before, Price(gpu_model="NVIDIA X9", price=7.2, valid_from=at(start_ms, 3))])

    rows = [cost_rows(sink.store, [], at(start_ms, n), at(start_ms, n + 1), "equal") for n in range(4)]
    assert [row["cost_usd"] for (row,) in rows] == [pytest.approx(2), None, None, pytest.approx(4)]
    (row,) = cost_rows(sink.store, [], None, None, "equal")
    assert row["cost_usd"] is None


def test_days_are_named_by_the_rules_by_which_they_are_cut(
    sink: ClickHouseSink, as_columns: AsColumns
) -> None:
    """Vancouver keeps summer time from November 2026 on: not all that an operating system knows says so."""
    at = datetime(2026, 11, 28, 20, tzinfo=UTC)
    sink.write_attribution(as_columns([SERVER | {"window_start": round(at.timestamp() * 1000)}]))
    for by, shown in (("day", "%F %H:%M"), ("month", "%F %H:%M")):
        (row,) = cost_rows(sink.store, [by], None, None, "equal", tz="America/Vancouver")
        told = sink.store.query(
            f"SELECT formatDateTime(toDateTime(bucket_start, 'America/Vancouver'), '%F %H:%i')"
            f" FROM cost_over_time(policy = 'equal', since = '2026-11-01', until = '2026-12-01',"
            f" step = '{by}', tz = 'America/Vancouver')"
        ).rows
        assert [(f"{row[by]:{shown}}",)] == told
        assert row[by].hour == 0


def test_what_has_no_price_is_null_and_stays_visible(sink: ClickHouseSink, as_columns: AsColumns) -> None:
    other = SERVER | {"gpu": "GPU-2", "gpu_model": "NVIDIA L4"}
    sink.write_attribution(as_columns([SERVER, other, TRAINER]))
    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=3.6)])

    a, b = cost_rows(sink.store, ["model"], None, None, "equal")
    assert (a["cost_usd"], a["active_cost_usd"], a["idle_cost_usd"]) == (None, None, None)
    assert a["energy_j"] == 6
    assert b["cost_usd"] == 8
    by_gpu = cost_rows(sink.store, ["gpu_model"], None, None, "equal")
    assert [(row["gpu_model"], row["cost_usd"]) for row in by_gpu] == [
        ("NVIDIA H200", 10),
        ("NVIDIA L4", None),
    ]


def test_a_price_in_another_currency_is_named_and_not_summed(
    sink: ClickHouseSink, as_columns: AsColumns
) -> None:
    sink.write_attribution(as_columns([SERVER]))
    (remark,) = add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=3.6, currency="EUR")])
    assert "only USD is summed" in remark
    rows = sink.store.query(
        "SELECT cost_usd, currency FROM cost(policy = 'equal', since = '2000-01-01', until = '2100-01-01')"
    ).rows
    assert rows == [(None, "EUR")]


@pytest.mark.parametrize(
    ("prices", "expected"),
    [
        ([], 3.5),  # bundled: nebius, eu-north1, on_demand
        ([{"price": 3.6}], 3.6),  # a bare price of one's own wins over a bundled one that fits better
        ([{"price": 3.6}, {"price": 1.8, "provider": "nebius"}], 1.8),
        (
            [
                {"price": 1.8, "provider": "nebius"},
                {"price": 9, "region": "eu-north1", "category": "on_demand"},
            ],
            1.8,
        ),
        ([{"price": 3.6, "category": "on_demand"}, {"price": 1.8, "region": "eu-north1"}], 1.8),
        ([{"price": 3.6, "provider": "lambda"}, {"price": 9, "category": "spot"}], 3.5),  # neither fits
    ],
)
def test_the_most_specific_price_wins(
    sink: ClickHouseSink, as_columns: AsColumns, prices: list[dict[str, Any]], expected: float
) -> None:
    place = {"provider": "nebius", "region": "eu-north1", "pricing": "on_demand"}
    sink.write_attribution(as_columns([SERVER | place]))
    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", **price) for price in prices])
    (row,) = cost_rows(sink.store, [], None, None, "equal")
    assert row["cost_usd"] == pytest.approx(2 * expected / 3.6, rel=1e-12)


def unit(start_ms: int, seconds: float, **fields: Any) -> dict[str, Any]:
    t = start_ms * 1_000_000 + int(seconds * 1e9)
    row = {"t": t, "unit": "output_tokens", "model": "a", "model_version": "v1", "quantity": 100, "host": "h"}
    return row | {"position": f"1 {t}", "authority": 3} | fields


def test_cost_of_a_unit(sink: ClickHouseSink, as_columns: AsColumns, start_ms: int) -> None:
    sink.write_attribution(as_columns([SERVER, TRAINER, UNHELD]))
    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=3.6)])
    sink.write_rows("unit", [unit(start_ms, second) for second in range(10)])
    sink.write_rows("unit", [unit(start_ms, 3, source="gateway", authority=1, event_id="g", quantity=9e9)])
    sink.write_rows("unit", [unit(start_ms, 3, unit="requests", event_id="r", quantity=3)])
    sink.write_rows("unit", [unit(start_ms, 3, model="not seen", event_id="n", quantity=5)])

    rows = cost_rows(sink.store, ["model"], None, None, "equal", "output_tokens")

    idle, a, b, unseen = rows
    assert a["quantity"] == 1000
    assert a["cost_usd_per_unit"] == pytest.approx(0.002, rel=1e-12)
    assert a["cost_usd_per_million"] == pytest.approx(2000, rel=1e-12)
    assert a["j_per_unit"] == pytest.approx(0.003, rel=1e-12)
    for row in (idle, b):
        assert [
            row[name] for name in ("quantity", "cost_usd_per_unit", "cost_usd_per_million", "j_per_unit")
        ] == [None] * 4
    assert (unseen["model"], unseen["quantity"], unseen["cost_usd"]) == ("not seen", 5, 0)
    assert unseen.keys() == a.keys()
    view = sink.store.query(
        "SELECT model, run, quantity, cost_usd_per_unit, j_per_unit FROM unit_cost(policy = 'equal',"
        " since = '2026-01-01', until = '2027-01-01', unit = 'output_tokens') ORDER BY model"
    ).rows
    assert view[0] == ("a", "", 1000, pytest.approx(0.002), pytest.approx(0.003))
    assert view[1] == ("b", "r1", None, None, None)


def test_a_unit_counts_by_its_overlap(sink: ClickHouseSink, as_columns: AsColumns, start_ms: int) -> None:
    sink.write_attribution(as_columns([SERVER]))
    sink.write_rows(
        "unit", [unit(start_ms, 60 + 10, period_ns=40 * 10**9)]
    )  # 30 s before the minute, 10 s after it
    before = cost_rows(sink.store, [], None, at(start_ms, 1), "equal", "output_tokens")
    after = cost_rows(sink.store, [], at(start_ms, 1), None, "equal", "output_tokens")
    assert [row["quantity"] for row in before] == [75]
    assert [row["quantity"] for row in after] == [25]


def test_zero_units_give_no_quotient(sink: ClickHouseSink, as_columns: AsColumns, start_ms: int) -> None:
    sink.write_attribution(as_columns([SERVER]))
    sink.write_rows("unit", [unit(start_ms, 1, quantity=0)])
    (row,) = cost_rows(sink.store, ["model"], None, None, "equal", "output_tokens")
    assert row["quantity"] == 0
    assert row["j_per_unit"] is None


@pytest.mark.parametrize(
    ("by", "policy", "unit_name", "line"),
    [
        (["modle"], "equal", None, "did you mean model"),
        (["model; DROP TABLE price"], "equal", None, "not known"),
        (["1"], "equal", None, "not known"),
        (["labels"], "equal", None, "labels.<name>"),
        (["model"], "fair", None, "equal, memory, active"),
        (["gpu"], "equal", "output_tokens", "units have no column gpu"),
        (["model"], "equal", "input_tokens,cached_tokens", "one unit at a time"),
        (["model"], "equal", "", "--unit is empty"),
    ],
)
def test_wrong_questions(
    sink: ClickHouseSink, by: list[str], policy: str, unit_name: str | None, line: str
) -> None:
    with pytest.raises(UsageError, match=line):
        cost_rows(sink.store, by, None, None, policy, unit_name)


def test_hostile_values_stay_values(sink: ClickHouseSink, as_columns: AsColumns) -> None:
    evil = "x') OR 1=1; DROP TABLE attribution; --\\"
    sink.write_attribution(as_columns([SERVER | {"labels": {evil: evil}, "model": evil}]))
    (row,) = cost_rows(sink.store, [f"labels.{evil}", "model"], None, None, "equal")
    assert (row[f"labels.{evil}"], row["model"]) == (evil, evil)
    with pytest.raises(StoreError):
        cost_rows(sink.store, [], evil, None, "equal")
    assert [r["quantity"] for r in cost_rows(sink.store, ["model"], None, None, "equal", evil)] == [None]


def test_the_views_refuse_an_unknown_policy_and_a_missing_parameter(sink: ClickHouseSink) -> None:
    with pytest.raises(StoreError, match="unknown policy"):
        sink.store.query("SELECT * FROM cost(policy = 'fair', since = '2000-01-01', until = '2100-01-01')")
    with pytest.raises(StoreError, match="unknown policy"):
        sink.store.query(
            "SELECT count() FROM unit_cost("
            "policy = '', since = '2026-01-01', until = '2027-01-01', unit = 'x')"
        )
    with pytest.raises(StoreError, match="policy"):
        sink.store.query("SELECT * FROM cost(since = '2000-01-01', until = '2100-01-01')")


def test_cost_can_be_asked_through_a_reader(sink: ClickHouseSink, as_columns: AsColumns) -> None:
    sink.write_attribution(as_columns([SERVER]))
    reader = Reader(sink.store)
    assert cost_rows(reader, ["model"], None, None, "equal", "output_tokens")[0]["energy_j"] == 3
    reader.close()


@pytest.mark.parametrize(
    "column", ["device_energy_uj", "covered_ns", "gpu_time_memory_ns", "idle_energy_active_uj"]
)
def test_conservation_finds_a_planted_error(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int, column: str
) -> None:
    whole = {"device_energy_uj": 16_000_000, "covered_ns": 21 * T_NS // 2}
    rows = [
        row | whole | {"window_start": start_ms + 1000 * n}
        for n in range(3)
        for row in (SERVER, TRAINER, UNHELD)
    ]
    sink.write_attribution(as_columns(rows))
    assert sink.store.query("SELECT * FROM conservation").rows == []
    wrong = rows[4] | {"version": 2}
    sink.write_attribution(as_columns([wrong | {column: wrong[column] + 1}]))
    found = sink.store.query("SELECT window_start FROM conservation").rows
    assert found == [(datetime.fromtimestamp(start_ms / 1000 + 1, UTC),)]


def test_to_ask_conservation_of_a_while_reads_no_more(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """The condition reaches the table's key through the view: of ten million rows it took 1.6 s otherwise."""
    sink.write_attribution(as_columns([{"window_start": start_ms}]))
    reader = sink.store.reader()
    plan = reader.query(
        "EXPLAIN indexes = 1 SELECT * FROM conservation WHERE window_start >= toDateTime64('2026-06-01', 3)"
    )
    reader.close()
    text = "\n".join(line for (line,) in plan.rows)
    minute = r"toStartOfMinute\(window_start\)"
    assert re.search(rf"PrimaryKey\W+Keys:\W+{minute}\W+Condition: \({minute} in ", text), text


def test_conservation_tells_two_boots_within_one_window_apart(
    sink: ClickHouseSink, as_columns: AsColumns
) -> None:
    whole = {"device_energy_uj": 4_000_000, "covered_ns": T_NS // 2}
    before, after = ({**UNHELD, **whole, "boot_id": boot} for boot in ("before", "after"))
    sink.write_attribution(as_columns([before, after]))
    assert sink.store.query("SELECT * FROM conservation").rows == []

    # Of one boot nothing is given out any more: taken together, 4 J would be the whole of "4 J".
    lost = dict.fromkeys((name for name in UNHELD if name.endswith(("_uj", "_ns"))), 0)
    sink.write_attribution(as_columns([after | lost | {"version": 2}]))
    assert sink.store.query("SELECT boot_id FROM conservation").rows == [("after",)]


def test_the_one_window_of_explain_is_as_long_as_those_of_the_store(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    sink.write_attribution(as_columns([SERVER | {"window_start": start_ms, "window_ms": 5_000}]))
    asked = datetime.fromtimestamp(start_ms / 1000 + 3.25, UTC)
    begin, end = window_at(sink.store, asked)
    assert (begin, end) == (at(start_ms, 0), at(start_ms, 0) + timedelta(seconds=5))
    assert Evidence(sink.store, {}, begin, end, "equal").figure()[0]["rows"] == 1


def test_what_sm_time_alone_would_give_of_a_long_window_is_not_cut_to_64_bits(
    sink: ClickHouseSink, as_columns: AsColumns
) -> None:
    shared = {"window_ms": 60_000, "weight_source": "utilization"}
    busy = SERVER | shared | {"active_energy_uj": 20_000_000_000, "active_time_ns": 30 * 10**9}
    other = TRAINER | shared | {"active_energy_uj": 4_000_000_000, "active_time_ns": 10 * 10**9}
    sink.write_attribution(as_columns([busy, other]))
    first, second = (row["meaning"] for row in Evidence(sink.store, {}, None, None, "equal").split())
    assert first.endswith("by SM time alone it would be 1.8e+04 J, in equal parts 1.2e+04 J")
    assert second.endswith("by SM time alone it would be 6000 J, in equal parts 1.2e+04 J")


def test_a_log_that_an_option_made_a_process_is_one(sink: ClickHouseSink, as_columns: AsColumns) -> None:
    sink.write_attribution(as_columns([SERVER | {"pid": 0}, UNHELD]))
    assert "processes: 1;" in Evidence(sink.store, {}, None, None, "equal").figure()[0]["meaning"]
