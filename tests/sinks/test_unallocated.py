"""By calendar, as of a time, under every policy; and who pays for what nobody used."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sinks.conftest import AsColumns
from wattribute.commands.cost import unpriced_notes
from wattribute.commands.reconcile import reconcile
from wattribute.errors import UsageError
from wattribute.sinks.billing import (
    BilledHost,
    add_billed,
    list_billed,
    reconcile_rows,
    remove_billed,
    replaced_gpus,
)
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.comparison import policy_rows
from wattribute.sinks.costs import cost_rows
from wattribute.sinks.prices import END, Price, add_prices
from wattribute.sinks.query_server import serve
from wattribute.sinks.unallocated import FIGURES, charged

HOUR_NS = 3_600_000_000_000
MINUTE_MS = 60_000


def used(start_ms: int, hours: float, account: str = "process", **fields: Any) -> dict[str, Any]:
    """A row that takes so many GPU hours, half of them SM time, the same under every policy."""
    time_ns = int(hours * HOUR_NS)
    row = {"window_start": start_ms, "account": account, "active_time_ns": time_ns // 2}
    row |= {f"gpu_time_{policy}_ns": time_ns for policy in ("equal", "memory", "active")}
    return row | {"active_energy_uj": 3_000_000, "idle_energy_equal_uj": 1_000_000} | fields


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def test_a_day_is_one_of_the_calendar_that_is_asked_for(sink: ClickHouseSink, as_columns: AsColumns) -> None:
    """Summer begins in Berlin on 2026-03-29 at 01:00 UTC."""
    times = ("2026-03-28T22:59Z", "2026-03-28T23:00Z", "2026-03-29T21:59Z", "2026-03-29T22:00Z")
    sink.write_attribution(as_columns([used(ms(text), 2**n, pid=n) for n, text in enumerate(times)]))
    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=1)])
    rows = cost_rows(sink.store, ["day", "model"], None, None, "equal", None, "Europe/Berlin")
    assert [(row["day"].isoformat(), row["cost_usd"]) for row in rows] == [
        ("2026-03-28T00:00:00+01:00", 1),
        ("2026-03-29T00:00:00+01:00", 2 + 4),
        ("2026-03-30T00:00:00+02:00", 8),
    ]
    for step, starts in (
        ("week", ["2026-03-23", "2026-03-30"]),
        ("month", ["2026-03-01"]),
        ("hour", ["2026-03-28T23:00", "2026-03-29T00:00", "2026-03-29T23:00", "2026-03-30T00:00"]),
    ):
        rows = cost_rows(sink.store, [step], None, None, "equal", None, "Europe/Berlin")
        assert [row[step].replace(tzinfo=None) for row in rows] == [datetime.fromisoformat(s) for s in starts]
        assert sum(row["cost_usd"] for row in rows) == 15


def test_as_of_a_time_only_the_prices_that_were_known_count(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    sink.write_attribution(as_columns([used(start_ms, 1, gpu_model="NVIDIA X9")]))
    add_prices(sink.store, [Price(gpu_model="NVIDIA X9", price=2)])
    (now,) = cost_rows(sink.store, ["model"], None, None, "equal")
    (then,) = cost_rows(sink.store, ["model"], None, None, "equal", as_of=datetime(2026, 1, 1, tzinfo=UTC))
    assert (now["cost_usd"], then["cost_usd"]) == (2, None)


@given(
    costs=st.lists(st.floats(0, 1e9), max_size=6),
    nobodys=st.lists(st.floats(0, 1e9), max_size=4),
    unpriced=st.integers(0, 2),
    way=st.sampled_from(("owner", "tenants")),
)
def test_whoever_pays_the_sum_stays(
    costs: list[float], nobodys: list[float], unpriced: int, way: str
) -> None:
    rows = [row_of(f"t{n}", "process", cost) for n, cost in enumerate(costs)]
    rows += [row_of(f"t{n}", "unheld", cost) for n, cost in enumerate(nobodys)]
    rows += [row_of("t0", "residual", None) for _ in range(unpriced)]
    left = charged(rows, ["team"], way)
    for name in FIGURES:
        before, after = (math.fsum(row[name] or 0 for row in each) for each in (rows, left))
        assert after == pytest.approx(before, rel=1e-12, abs=1e-9)
    assert sum(row["cost_usd"] is None for row in left) == unpriced
    stays = [row for row in left if row["account"] == "unheld"]
    if way == "owner":
        assert not stays
    else:
        assert len(stays) == (0 if any(costs) else len(nobodys))
    for row in left:
        if row["cost_usd"] is not None:
            assert row["active_cost_usd"] + row["idle_cost_usd"] == pytest.approx(row["cost_usd"])


def row_of(team: str, account: str, cost: float | None) -> dict[str, Any]:
    half = None if cost is None else cost / 2
    row = {"team": team, "account": account, "active_energy_j": 1.0, "idle_energy_j": 2.0, "energy_j": 3.0}
    return row | {"gpu_hours": 4.0, "active_cost_usd": half, "idle_cost_usd": half, "cost_usd": cost}


def test_in_proportion_to_cost_and_within_each_day() -> None:
    by = ["day", "team"]
    rows = [
        {"day": day, **row_of(team, account, cost)}
        for day, team, account, cost in (
            (1, "a", "process", 30.0),
            (1, "b", "reserved", 10.0),
            (1, "ops", "unheld", 8.0),
            (2, "a", "process", 10.0),
            (2, "ops", "residual", 1.0),
            (3, "ops", "unobserved", 5.0),
            (4, "a", "process", 10.0),
            (4, "b", "process", None),
            (4, "ops", "unheld", 5.0),
        )
    ]
    left = charged(rows, by, "tenants")
    assert [(row["day"], row["team"], row["cost_usd"], row["charged_usd"]) for row in left] == [
        (1, "a", 36, 6),
        (1, "b", 12, 2),
        (2, "a", 11, 1),
        (3, "ops", 5, 0),
        (4, "a", 10, 0),  # all 5 were charged to it
        (4, "b", None, None),
        (4, "ops", 5, 0),
    ]
    assert [row["account"] for row in charged(rows[:3], by, "owner")] == ["process", "reserved", "owner"]
    unpriced = [row_of("ops", "process", None), row_of("ops", "unheld", 8.0)]
    left = charged(unpriced, ["team"], "owner")
    assert [(row["account"], row["cost_usd"]) for row in left] == [("process", None), ("owner", 8)]


def test_what_is_charged_to_a_line_is_in_its_unit_cost(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """3 USD and 4 J are its own, 1 USD and 2 J are charged to it."""
    nobodys = {"active_energy_uj": 0, "idle_energy_equal_uj": 2_000_000}
    rows = [used(start_ms, 3, model="m", phase="inference"), used(start_ms, 1, "unheld", **nobodys)]
    sink.write_attribution(as_columns(rows))
    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=1)])
    told = {"t": start_ms * 10**6, "unit": "output_tokens", "quantity": 100, "model": "m", "position": "1"}
    sink.write_rows("unit", [told | {"phase": "inference"}])
    (row,) = cost_rows(sink.store, ["model"], None, None, "equal", "output_tokens", unallocated="tenants")
    assert (row["cost_usd"], row["charged_usd"], row["energy_j"]) == (4, 1, 6)
    assert row["covered_cost_usd"] == pytest.approx(4)
    assert row["cost_usd_per_unit"] == pytest.approx(0.04)
    assert row["j_per_unit"] == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("by", "way", "line"), [(["model"], "owner", "--by team"), (["team"], "fair", "separate, owner, tenants")]
)
def test_a_way_that_does_not_go_is_refused(sink: ClickHouseSink, by: list[str], way: str, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        cost_rows(sink.store, by, None, None, "equal", unallocated=way)


def test_whose_bill_changes_with_the_policy(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    shares = {"a": (1, 2, 5), "b": (8, 7, 4), "c": (1, 1, 1)}
    rows = [
        used(start_ms, 0, pid=n, team=team)
        | {f"gpu_time_{p}_ns": t * HOUR_NS for p, t in zip(("equal", "memory", "active"), times, strict=True)}
        for n, (team, times) in enumerate(shares.items())
    ]
    sink.write_attribution(as_columns([*rows, used(start_ms, 3, "unheld", team="ops")]))
    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=2)])
    found = policy_rows(sink.store, ["team"], None, None)
    assert [tuple(row.values()) for row in found] == [
        ("a", 2, 4, 10, 8, 4),
        ("b", 16, 14, 8, 8, 1),
        ("c", 2, 2, 2, 0, 0),
    ]


@pytest.mark.long
def test_what_is_billed_of_a_declared_host_and_was_not_seen_is_a_line(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Two GPUs are billed for an hour, at 3.6 USD; of one, one minute was seen."""
    store = sink.store
    minute = used(start_ms, 1 / 60, window_ms=MINUTE_MS, team="search", covered_ns=60 * 10**9)
    sink.write_attribution(as_columns([minute]))
    told = (("sales", "a6", "2026-01-01"), ("ops", "a7", "2026-02-01"), ("", "a7", "2026-03-01"))
    owners = [
        {"host": "h", "owner_team": team, "labels": {"rack": rack}, "valid_from": datetime.fromisoformat(day)}
        for team, rack, day in told
    ]
    sink.write_rows("host", owners)
    add_prices(store, [Price(gpu_model="NVIDIA H200", price=3.6)])
    assert {row["account"] for row in cost_rows(store, ["team"], None, None, "equal")} == {"process"}
    begin = datetime.fromtimestamp(start_ms / 1000, UTC)
    end = begin.replace(hour=begin.hour + 1)
    assert add_billed(store, BilledHost(host="h", gpus=2, billed_from=begin, billed_to=end)) == []
    due = [("ops", "unobserved", 119 / 60), ("search", "process", 1 / 60)]
    rows = sorted(cost_rows(store, ["team"], None, None, "equal"), key=lambda row: row["team"])
    assert [(row["team"], row["account"], row["gpu_hours"]) for row in rows] == [
        (team, account, pytest.approx(hours)) for team, account, hours in due
    ]
    assert rows[0]["cost_usd"] == pytest.approx(3.6 * 119 / 60)
    assert sum(row["cost_usd"] for row in rows) == pytest.approx(7.2, abs=1e-12)
    by_account = {row["account"]: row["gpu_hours"] for row in cost_rows(store, [], None, None, "equal")}
    assert by_account == {account: pytest.approx(hours) for _, account, hours in due}
    by_hour = cost_rows(store, ["hour", "labels.rack", "gpu", "attempt"], None, None, "equal")
    seen = {(row["hour"].hour, row["account"]): row["gpu_hours"] for row in by_hour}
    assert seen == {
        (20, "process"): pytest.approx(1 / 60),
        (20, "unobserved"): pytest.approx(65 / 60),  # 33 minutes of two GPUs, without one
        (21, "unobserved"): pytest.approx(54 / 60),
    }
    assert {row["labels.rack"] for row in by_hour if row["account"] == "unobserved"} == {"a7"}

    (row,) = reconcile_rows(store, "host", None, None, "equal")
    assert row["billed_usd"] == pytest.approx(7.2, abs=1e-12)
    assert abs(row["difference_usd"]) < 1e-12
    assert row["is_declared"]
    (whole,) = cost_rows(store, ["team"], None, None, "equal", unallocated="tenants")
    assert (whole["team"], whole["cost_usd"]) == ("search", pytest.approx(7.2, abs=1e-12))
    nameless = BilledHost(host="ghost", gpus=2, gpu_model="NVIDIA Z9", billed_from=begin, billed_to=end)
    add_billed(store, nameless)
    rows = cost_rows(store, ["host"], None, None, "equal")
    (note,) = unpriced_notes(store, rows, "equal", None, None)
    assert note.startswith("unpriced: 2 GPU hours of NVIDIA Z9 (no provider); wattribute price add")
    remove_billed(store, "ghost")
    remove_billed(store, "h")
    assert list_billed(store) == []


@pytest.mark.parametrize(
    ("zone", "step", "begin", "end", "hours"),
    [
        ("America/Santiago", "day", "2024-09-07T04:00Z", "2024-09-10T03:00Z", [24, 23, 24]),
        ("Africa/Cairo", "day", "2024-04-24T22:00Z", "2024-04-27T21:00Z", [24, 23, 24]),
        ("America/Asuncion", "month", "2023-09-01T04:00Z", "2023-11-01T03:00Z", [720, 743]),
        ("Australia/Lord_Howe", "day", "2024-04-05T13:00Z", "2024-04-08T13:30Z", [24, 24.5, 24]),
        ("Australia/Lord_Howe", "hour", "2024-04-08T13:30Z", "2024-04-08T16:30Z", [1, 1, 1]),
    ],
)
def test_a_day_without_midnight_is_a_day_of_its_own(
    sink: ClickHouseSink, zone: str, step: str, begin: str, end: str, hours: list[float]
) -> None:
    """Clocks go forward there at midnight, or by half an hour."""
    first, last = datetime.fromisoformat(begin), datetime.fromisoformat(end)
    for host, since in {"h": first, "early": first.replace(day=1)}.items():
        billed = BilledHost(host=host, gpus=1, gpu_model="NVIDIA H200", billed_from=since, billed_to=last)
        add_billed(sink.store, billed)
    rows = cost_rows(sink.store, [step, "host"], None, None, "equal", None, zone)
    found = [(row[step].isoformat(), row["gpu_hours"]) for row in rows if row["host"] == "h"]
    assert [amount for _, amount in found] == hours, found


def test_the_bill_of_what_has_no_price_is_unknown_not_nothing(
    sink: ClickHouseSink, as_columns: AsColumns, capsys: pytest.CaptureFixture[str]
) -> None:
    """An hour each of a GPU that costs nothing, of one that is priced in EUR, and of one at 3.6 USD."""
    models = ("NVIDIA H100", "NVIDIA H200", "NVIDIA B200")
    hour = ms("2024-05-28T20:00Z")
    hours = [used(hour, 1, window_ms=3_600_000, gpu_model=model, gpu=model) for model in models]
    sink.write_attribution(as_columns(hours))
    prices = [Price(gpu_model=models[0], price=0), Price(gpu_model=models[1], price=2, currency="EUR")]
    add_prices(sink.store, [*prices, Price(gpu_model=models[2], price=3.6)])
    rows = {row["gpu_model"]: row for row in reconcile_rows(sink.store, "gpu_model", None, None, "equal")}
    assert [rows[model]["billed_usd"] for model in models] == [0, None, pytest.approx(3.6)]
    assert [rows[model]["process_usd"] for model in models] == [0, None, pytest.approx(3.6)]
    assert (rows[models[1]]["parts_usd"], rows[models[1]]["reserved_usd"]) == (None, 0)
    assert (rows[models[1]]["difference_usd"], rows[models[1]]["unpriced_gpu_hours"]) == (None, 1)
    (host,) = reconcile_rows(sink.store, "host", None, None, "equal")
    assert (host["billed_usd"], host["billed_gpu_hours"]) == (None, 3)
    server = serve(sink.store)
    assert server is not None
    try:
        reconcile(by="gpu_model", invoice=10, store=sink.store.url)
    finally:
        server.close()
    *lines, _, unpriced, invoice = capsys.readouterr().out.splitlines()
    shown = {line[:11].strip(): line.split() for line in lines}
    assert shown["NVIDIA H200"][-3:] == ["unpriced", "unpriced", "-"]
    assert shown["NVIDIA H100"][-3:] == ["0.000", "0.000", "-"]
    assert shown["total"][-4:] == ["+", "unpriced", "unpriced", "-"]
    assert unpriced.startswith("unpriced: 1 of the GPU hours billed;")
    assert invoice == "invoice 10.00 USD: not compared: 1 of the GPU hours have no price"


def test_what_was_measured_and_is_not_billed_is_the_difference(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    hour = 60 * MINUTE_MS
    minutes = [
        used(start_ms + n * hour, 1 / 60, window_ms=MINUTE_MS, gpu=f"GPU-{gpu}", covered_ns=60 * 10**9)
        for n in range(2)
        for gpu in range(2)
    ]
    sink.write_attribution(as_columns(minutes))
    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=60)])
    begin = datetime.fromtimestamp(start_ms / 1000, UTC)
    end = datetime.fromtimestamp(start_ms / 1000 + 60, UTC)
    remarks = add_billed(sink.store, BilledHost(host="h", billed_from=begin, billed_to=end, gpus=1))
    assert remarks == ["2 NVIDIA H200 were seen on h, more than the 1 that are billed"]
    (row,) = reconcile_rows(sink.store, "host", None, None, "memory")
    assert (row["process_usd"], row["billed_usd"]) == pytest.approx((4, 1))
    assert (row["difference_usd"], row["difference_ratio"]) == pytest.approx((-3, -3))
    assert row["difference_gpu_hours"] == pytest.approx(-3 / 60)
    # billed as what it was not seen as: both rows are of a declared host
    spot = BilledHost(host="h", billed_from=begin, billed_to=end, gpus=1, pricing="spot")
    add_billed(sink.store, spot)
    rows = reconcile_rows(sink.store, "pricing", None, None, "memory")
    assert {(row["pricing"], row["is_declared"]) for row in rows} == {("", True), ("spot", True)}


def test_what_was_measured_at_no_price_and_is_billed_at_one_is_pointed_out(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A host that is declared as owned, and does not say so itself: the table had no line on what to do."""
    sink.write_attribution(as_columns([used(start_ms, 1 / 60, window_ms=MINUTE_MS)]))
    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=60, category="owned")])
    begin = datetime.fromtimestamp(start_ms / 1000, UTC)
    owned = BilledHost(host="h", billed_from=begin, billed_to=begin + timedelta(minutes=1), pricing="owned")
    add_billed(sink.store, replace(owned, gpus=1))
    server = serve(sink.store)
    assert server is not None
    try:
        reconcile(store=sink.store.url)
    finally:
        server.close()
    assert (
        "h: what was measured has no price, and what is billed has one: compare provider, region and pricing"
        " ('wattribute reconcile --by pricing')"
    ) in capsys.readouterr().out


def test_what_is_billed_of_many_gpus_is_not_cut_to_64_bits(sink: ClickHouseSink) -> None:
    """9.2e18 ns are 2,562,047 GPU hours: 1024 GPUs, the most of a host, have them in 104 days."""
    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=2)])
    begin, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC)
    for host in ("a", "b"):
        billed = BilledHost(host=host, gpus=1024, gpu_model="NVIDIA H200", billed_from=begin, billed_to=end)
        add_billed(sink.store, billed)
    (row,) = reconcile_rows(sink.store, "gpu_model", None, None, "equal")
    hours = 2 * 1024 * 120 * 24
    assert (row["billed_gpu_hours"], row["unobserved_gpu_hours"]) == (hours, hours)
    assert (row["billed_usd"], row["difference_gpu_hours"]) == (2 * hours, 0)
    (line,) = cost_rows(sink.store, ["host"], begin, begin + timedelta(days=110), "equal")[:1]
    assert line["gpu_hours"] == 1024 * 110 * 24


def test_a_gpu_that_took_the_place_of_another_is_pointed_out(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both are billed from the first to the last window, as nobody said otherwise."""
    minutes = [
        used(start_ms + n * MINUTE_MS, 1 / 60, host=host, gpu=gpu, window_ms=MINUTE_MS, covered_ns=60 * 10**9)
        for host, gpu, seen in (
            ("swapped", "GPU-old", range(10)),
            ("swapped", "GPU-new", range(10, 20)),
            ("both", "GPU-1", range(10)),
            ("both", "GPU-2", range(9, 20)),
        )
        for n in seen
    ]
    sink.write_attribution(as_columns(minutes))
    assert replaced_gpus(sink.store, None, None) == [("swapped", "NVIDIA H200", 2)]
    begin = datetime.fromtimestamp(start_ms / 1000, UTC)
    end = begin + timedelta(minutes=20)
    assert replaced_gpus(sink.store, end, None) == []
    assert replaced_gpus(sink.store, None, begin) == []
    server = serve(sink.store)
    assert server is not None
    try:
        reconcile(store=sink.store.url)
        assert "declare with 'wattribute host add swapped' how many" in capsys.readouterr().out
    finally:
        server.close()
    add_billed(sink.store, BilledHost(host="swapped", billed_from=begin, billed_to=end, gpus=1))
    assert replaced_gpus(sink.store, None, None) == []


def test_what_is_declared_has_to_make_sense(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    store, begin = sink.store, datetime(2026, 5, 1, tzinfo=UTC)
    sink.write_attribution(
        as_columns(
            [
                used(start_ms, 1, gpu=f"G{n}", gpu_model=f"NVIDIA X{n}", host="two", pricing="spot")
                for n in (1, 2)
            ]
        )
    )
    wrongs: list[tuple[dict[str, Any], str]] = [
        ({"host": ""}, "needs its name"),
        ({"host": "new"}, "was not seen yet"),
        ({"host": "two"}, "has NVIDIA X1 and NVIDIA X2: say which"),
        ({"host": "new", "gpu_model": "NVIDIA X1"}, "how many are billed"),
        ({"host": "new", "gpu_model": "NVIDIA X1", "gpus": -1}, "1 to 1024"),
        ({"host": "two", "gpu_model": "NVIDIA X1", "billed_to": begin}, "before it begins"),
        ({"host": "two", "billed_from": begin.replace(second=1)}, "a whole minute"),
    ]
    for wrong, line in wrongs:
        with pytest.raises(UsageError, match=line):
            add_billed(store, BilledHost(**{"billed_from": begin, **wrong}))
    add_billed(store, BilledHost(host="two", gpu_model="NVIDIA X1", billed_from=begin))
    (row,) = list_billed(store)
    assert (row["gpus"], row["pricing"], row["billed_to"]) == (1, "spot", None)
    with pytest.raises(UsageError, match="both would count"):
        add_billed(store, BilledHost(host="two", gpu_model="NVIDIA X1", billed_from=begin.replace(day=2)))
    add_billed(store, BilledHost(host="two", gpu_model="NVIDIA X1", billed_from=begin, gpus=4))
    assert [row["gpus"] for row in list_billed(store)] == [4]
    june = begin.replace(month=6)
    until_june = BilledHost(host="two", gpu_model="NVIDIA X1", billed_from=begin, billed_to=june, gpus=4)
    add_billed(store, until_june)
    add_billed(store, replace(until_june, billed_from=june, billed_to=END, gpus=2))
    assert [row["gpus"] for row in list_billed(store)] == [4, 2]
    with pytest.raises(UsageError, match="nothing is declared for host 'tow'"):
        remove_billed(store, "tow")
    with pytest.raises(UsageError, match="did you mean provider"):
        reconcile_rows(store, "providers", None, None, "equal")
    with pytest.raises(UsageError, match="equal, memory, active"):
        reconcile_rows(store, "host", None, None, "fair")
