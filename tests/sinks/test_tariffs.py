from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.sinks.conftest import AsColumns
from wattribute.commands.cost import unpriced_notes
from wattribute.commands.tariff import add, list_, remove
from wattribute.errors import UsageError
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.evidence import Evidence
from wattribute.sinks.prices import Price, add_prices
from wattribute.sinks.query_server import add_tariffs_to, serve
from wattribute.sinks.tariffs import Tariff, add_tariffs, list_tariffs, parse_days, tariff_of

KWH_UJ = 3_600_000_000_000
HOUR_NS = 3_600_000_000_000
H200 = "NVIDIA H200"
OWNED = Price(gpu_model=H200, price=0.9, category="owned", includes_energy=False)
MONEY = (
    "SELECT sum(energy_cost_usd), sum(cost_usd), sum(active_cost_usd), sum(idle_cost_usd) FROM"
    " cost(policy = 'equal', since = {since:String}, until = {until:String})"
)


def window(at: datetime, **fields: Any) -> dict[str, Any]:
    """Half an hour of SM time and half of idle time, 3 kWh active and 1 kWh idle."""
    row = {"window_start": round(at.timestamp() * 1000), "pricing": "owned", "model": "a"}
    row |= {"active_energy_uj": 3 * KWH_UJ, "active_time_ns": HOUR_NS // 2}
    for policy in ("equal", "memory", "active"):
        row |= {f"idle_energy_{policy}_uj": KWH_UJ, f"gpu_time_{policy}_ns": HOUR_NS}
    return row | fields


def money(sink: ClickHouseSink, since: str = "2026-01-01", until: str = "2027-01-01") -> tuple[Any, ...]:
    return sink.store.query(MONEY, {"since": since, "until": until}).rows[0]


def explained(sink: ClickHouseSink) -> list[tuple[str, str]]:
    """The prices and tariffs that ``explain`` names."""
    rows = Evidence(sink.store, {"model": "a"}, None, None, "equal").prices()
    return [(row["about"], row["value"]) for row in rows]


@pytest.mark.parametrize("summed", [[], [2], [0, 1, 2, 3, 4]])
def test_a_gpu_of_one_s_own_costs_capital_and_electricity_by_the_hour_of_the_day(
    sink: ClickHouseSink, as_columns: AsColumns, summed: list[int]
) -> None:
    """By hand: capital 0.9 USD an hour. Electricity 0.30 USD a kWh by day and 0.10 by night, in Berlin, where
    a node takes 1.5 times and the site 1.2 times as much: 0.54 and 0.18. Each window has 4 kWh and one GPU
    hour. 27 March 2026 is winter time (day begins at 5:00 UTC), 30 March summer time (at 4:00 UTC)."""
    hours = [
        datetime(2026, 3, 27, 4, 30, tzinfo=UTC),  # 5:30: night
        datetime(2026, 3, 27, 5, 30, tzinfo=UTC),  # 6:30: day
        datetime(2026, 3, 30, 4, 30, tzinfo=UTC),  # 6:30: day
        datetime(2026, 3, 30, 20, 30, tzinfo=UTC),  # 22:30: night
        datetime(2026, 3, 29, 10, 30, tzinfo=UTC),  # a Sunday: night all day
    ]
    windows = [window(at) for at in hours]
    if summed:
        sink.write_attribution(as_columns([windows[place] for place in summed]))
        sink.refresh_rollups()
    if others := [row for place, row in enumerate(windows) if place not in summed]:
        sink.write_attribution(as_columns(others))
    add_prices(sink.store, [OWNED])
    both: dict[str, Any] = {"node_power_ratio": 1.5, "pue_ratio": 1.2, "time_zone": "Europe/Berlin"}
    remarks = add_tariffs(
        sink.store,
        [
            Tariff(price_per_kwh=0.30, from_hour=6, to_hour=22, days=(0, 1, 2, 3, 4, 5), **both),
            Tariff(price_per_kwh=0.10, from_hour=6, to_hour=22, days=(6,), **both),
            Tariff(price_per_kwh=0.10, from_hour=22, to_hour=6, **both),
        ],
    )
    assert remarks == []
    energy = 4 * (0.54 * 2 + 0.18 * 3)
    assert money(sink) == pytest.approx(
        (
            energy,
            5 * 0.9 + energy,
            5 * 0.45 + 3 * (0.54 * 2 + 0.18 * 3),
            5 * 0.45 + 0.54 * 2 + 0.18 * 3,
        )
    )
    assert money(sink, "1970-01-01", "2200-01-01") == money(sink)
    assert money(sink, "2026-03-27", "2026-03-27 05:00:00")[0] == pytest.approx(4 * 0.18)
    by_day = sink.store.query(
        "SELECT sum(energy_cost_usd) FROM cost_over_time(policy = 'equal', since = '2026-03-01',"
        " until = '2026-04-01', step = 'day', tz = 'Europe/Berlin')"
        " GROUP BY bucket_start ORDER BY bucket_start"
    ).rows
    assert [usd for (usd,) in by_day] == pytest.approx([4 * 0.72, 4 * 0.18, 4 * 0.72])


@pytest.mark.parametrize("days", [(6,), (2,), (0, 5)])
@pytest.mark.parametrize(("from_hour", "to_hour"), [(22, 6), (0, 24), (22, 24), (0, 3), (23, 22)])
def test_a_night_belongs_to_the_day_on_which_it_begins(
    sink: ClickHouseSink, days: tuple[int, ...], from_hour: int, to_hour: int
) -> None:
    told = Tariff(price_per_kwh=0.5, from_hour=from_hour, to_hour=to_hour, days=days)
    length = to_hour - from_hour if to_hour > from_hour else to_hour + 24 - from_hour
    due = {(24 * day + from_hour + hour) % 168 for day in days for hour in range(length)}
    assert told.week_hours() == due
    add_tariffs(sink.store, [told])
    ((since_thursday,),) = sink.store.query("SELECT week_hours FROM tariff_book").rows
    assert {(hour + 3 * 24) % 168 for hour in since_thursday} == due


def test_what_a_figure_may_be_off_costs_electricity_too(sink: ClickHouseSink, as_columns: AsColumns) -> None:
    at = datetime(2026, 3, 27, 4, 30, tzinfo=UTC)
    sink.write_attribution(as_columns([window(at, error_ns=HOUR_NS // 10, error_uj=KWH_UJ // 4)]))
    add_prices(sink.store, [OWNED])
    add_tariffs(sink.store, [Tariff(price_per_kwh=0.20)])
    found = sink.store.query(
        "SELECT error_usd FROM model_cost(policy = 'equal', since = '2026-01-01', until = '2027-01-01')"
    ).rows
    assert found == [(pytest.approx(0.9 / 10 + 0.20 / 4),)]


def test_capital_is_paid_for_each_hour_whether_in_use_or_not(
    sink: ClickHouseSink, as_columns: AsColumns
) -> None:
    """By hand: 35,040 USD over 4 years of 8760 hours are 1 USD an hour."""
    from wattribute.sinks.prices import price_of

    texts = {"gpu_model": H200, "category": "owned", "capital_per_gpu": "35040", "life_years": "4"}
    price = price_of(texts)
    assert (price.price, price.includes_energy) == (1.0, False)
    begin = datetime(2026, 6, 1, tzinfo=UTC)
    idle = {"account": "unheld", "active_energy_uj": 0, "active_time_ns": 0}
    sink.write_attribution(as_columns([window(begin), window(begin + timedelta(hours=1), **idle)]))
    (remark,) = add_prices(sink.store, [price])
    assert "tariff" in remark
    assert money(sink) == (None, None, None, None)  # what electricity costs is not known, so nothing is
    add_tariffs(sink.store, [Tariff(price_per_kwh=0)])
    assert money(sink) == pytest.approx((0, 2, 0.5, 1.5))


def test_the_tariff_of_the_place_counts_and_only_where_the_price_asks_for_one(
    sink: ClickHouseSink, as_columns: AsColumns
) -> None:
    at = datetime(2026, 6, 1, 12, tzinfo=UTC)
    here: dict[str, Any] = {"provider": "own", "region": "fi"}
    sink.write_attribution(as_columns([window(at, **here)]))
    add_prices(sink.store, [OWNED])
    assert explained(sink) == [("price", "0.9 USD/h"), ("tariff", "none")]
    add_tariffs(sink.store, [Tariff(price_per_kwh=0.5)])
    assert money(sink)[0] == pytest.approx(2)
    assert explained(sink) == [("price", "0.9 USD/h"), ("tariff", "0.5 USD/kWh")]
    add_tariffs(sink.store, [Tariff(price_per_kwh=0.25, provider="own")])
    assert money(sink)[0] == pytest.approx(1)
    add_tariffs(sink.store, [Tariff(price_per_kwh=9, region="fi")])
    assert money(sink)[0] == pytest.approx(1)
    (remark,) = add_tariffs(sink.store, [Tariff(price_per_kwh=0.1, currency="EUR", **here)])
    assert "only USD" in remark
    assert money(sink) == (None, None, None, None)
    assert explained(sink) == [("price", "0.9 USD/h"), ("tariff", "in EUR, not summed")]
    (note,) = unpriced_notes(sink.store, [{"cost_usd": None}], "equal", None, None)
    assert "no tariff in USD applies: wattribute price tariff add" in note
    add_prices(sink.store, [Price(gpu_model=H200, price=3.0, category="owned", provider="own")])
    assert money(sink) == pytest.approx((0, 3, 1.5, 1.5))
    assert explained(sink) == [("price", "3 USD/h")]
    euros = Price(gpu_model=H200, price=3.0, category="owned", provider="own", currency="EUR")
    add_prices(sink.store, [euros])
    (note,) = unpriced_notes(sink.store, [{"cost_usd": None}], "equal", None, None)
    assert "its price is in EUR, and only USD is summed" in note


def test_what_was_known_at_a_time_stays_known(sink: ClickHouseSink, as_columns: AsColumns) -> None:
    sink.write_attribution(as_columns([window(datetime(2026, 6, 1, 12, tzinfo=UTC))]))
    before = datetime.now(UTC)
    for amount in (0.9, 1.9):
        add_prices(sink.store, [Price(gpu_model=H200, price=amount, category="owned", includes_energy=False)])
        add_tariffs(sink.store, [Tariff(price_per_kwh=amount)])
    told = sorted(
        row[0]
        for row in sink.store.query(
            "SELECT known_from FROM price_book WHERE origin = 'user' UNION ALL"
            " SELECT known_from FROM tariff_book"
        ).rows
    )
    due: dict[datetime, tuple[float | None, float | None]] = {
        before: (None, None),
        told[0]: (0.9, None),
        told[1]: (0.9, 0.9 * 5),
        told[2]: (1.9, 1.9 + 0.9 * 4),
        told[3]: (1.9, 1.9 * 5),
        datetime(2200, 1, 1, tzinfo=UTC): (1.9, 1.9 * 5),
        datetime(9999, 12, 31, tzinfo=UTC): (1.9, 1.9 * 5),
    }
    for as_of, (price, cost) in due.items():
        ((found_price, found),) = sink.store.query(
            "SELECT sum(price_per_gpu_hour_usd), sum(cost_usd) FROM cost_as_of(policy = 'equal',"
            " since = '2026-01-01', until = '2027-01-01', as_of = {as_of:String})",
            {"as_of": f"{as_of:%F %T.%f}"[:-3]},
        ).rows
        assert (found_price, found) == (price, None if cost is None else pytest.approx(cost)), as_of
    # the table of prices itself shows the last alone
    assert sink.store.query("SELECT effective_price FROM price FINAL WHERE origin = 'user'").rows == [(1.9,)]


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"price_per_kwh": -0.1}, "from 0 to 1,000,000,000"),
        ({"price_per_kwh": float("nan")}, "from 0 to 1,000,000,000"),
        ({"pue_ratio": 0.9}, "the PUE is 0.9: it must be from 1 to 100"),
        ({"node_power_ratio": float("inf")}, "the node power ratio"),
        ({"currency": "EURO"}, "did you mean EUR"),
        ({"from_hour": 22, "to_hour": 22}, "not 22 to 22"),
        ({"to_hour": 25}, "1 to 24"),
        ({"days": ()}, "at least one day"),
        ({"time_zone": "Europe/Atlantis"}, "'Europe/Atlantis' is not known"),
        ({"time_zone": "../etc/passwd"}, "is not known"),
        ({"valid_from": datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)}, "whole minute"),
        ({"valid_to": datetime(1970, 1, 1, tzinfo=UTC)}, "before it begins"),
    ],
)
def test_a_tariff_that_makes_no_sense_is_refused(wrong: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError, match=line):
        Tariff(**{"price_per_kwh": 0.2} | wrong)


def test_overlaps_are_refused_and_hours_without_a_tariff_pointed_out(sink: ClickHouseSink) -> None:
    (remark,) = add_tariffs(sink.store, [Tariff(price_per_kwh=0.3, from_hour=6, to_hour=22)])
    assert remark.startswith("56 of 168 hours of the week have no tariff for any place")
    with pytest.raises(UsageError, match="overlaps the one from 6 to 22"):
        add_tariffs(sink.store, [Tariff(price_per_kwh=0.1, from_hour=21, to_hour=6)])
    with pytest.raises(UsageError, match="one time zone"):
        add_tariffs(sink.store, [Tariff(price_per_kwh=0.1, from_hour=22, to_hour=6, time_zone="Asia/Tokyo")])
    assert add_tariffs(sink.store, [Tariff(price_per_kwh=0.1, from_hour=22, to_hour=6)]) == []
    june = datetime(2026, 6, 1, tzinfo=UTC)
    add_tariffs(sink.store, [Tariff(price_per_kwh=0.3, from_hour=6, to_hour=22, valid_to=june)])
    add_tariffs(sink.store, [Tariff(price_per_kwh=0.4, from_hour=6, to_hour=22, valid_from=june)])
    listed = [(row["price_per_kwh"], row["from_hour"], row["valid_to"]) for row in list_tariffs(sink.store)]
    assert len(listed) == 3
    assert (0.3, 6, june) in listed
    # what begins as another ends holds beside none of its hours
    add_tariffs(
        sink.store, [Tariff(price_per_kwh=0.1, region="fi", from_hour=22, to_hour=6, valid_from=june)]
    )
    day = Tariff(price_per_kwh=0.3, region="fi", from_hour=6, to_hour=22, valid_to=june)
    (remark,) = add_tariffs(sink.store, [day])
    assert remark.startswith("56 of 168 hours of the week have no tariff for fi")


def test_tariffs_go_through_the_owner(sink: ClickHouseSink) -> None:
    server = serve(sink.store)
    assert server is not None
    try:
        told = Tariff(price_per_kwh=0.3, from_hour=6, to_hour=22, days=(0, 4), time_zone="Europe/Berlin")
        assert add_tariffs_to(sink.store.url, [told])
        (row,) = list_tariffs(sink.store)
        assert tariff_of({"price_per_kwh": "0.3", "days": "mon,fri"}).days == row["days"] == (0, 4)
        assert (row["tariff_id"], row["time_zone"]) == (told.tariff_id, "Europe/Berlin")
    finally:
        server.close()


def test_a_tariff_begins_by_the_clock_of_its_time_zone(
    sink: ClickHouseSink, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(sink.store)
    assert server is not None
    begins: dict[str, Any] = {"tz": "Europe/Berlin", "valid_from": "2026-07-01", "store": sink.store.url}
    try:
        add(0.3, **begins)
        (row,) = list_tariffs(sink.store)
        assert row["valid_from"] == datetime(2026, 6, 30, 22, tzinfo=UTC)
        list_(store=sink.store.url)
        assert "2026-07-01 00:00" in capsys.readouterr().out
        remove(**begins)
    finally:
        server.close()
    assert list_tariffs(sink.store) == []


def test_a_tariff_that_is_taken_back_is_gone_and_was_known(sink: ClickHouseSink) -> None:
    night: dict[str, Any] = {"from_hour": 22, "to_hour": 6}
    add_tariffs(sink.store, [Tariff(price_per_kwh=0.3, from_hour=6, to_hour=22)])
    add_tariffs(sink.store, [Tariff(price_per_kwh=0.1, **night)])
    server = serve(sink.store)
    assert server is not None
    try:
        remove(**night, store=sink.store.url)
        with pytest.raises(UsageError, match="there is no tariff with this provider"):
            remove(**night, store=sink.store.url)
    finally:
        server.close()
    assert [row["price_per_kwh"] for row in list_tariffs(sink.store)] == [0.3]
    assert len(sink.store.query("SELECT 1 FROM tariff_book").rows) == 2
    assert add_tariffs(sink.store, [Tariff(price_per_kwh=0.2, **night)]) == []


def test_days() -> None:
    assert parse_days("mon-fri,Sunday") == (0, 1, 2, 3, 4, 6)
    assert parse_days("sat-mon") == (0, 5, 6)
    with pytest.raises(UsageError, match="mon-fri"):
        parse_days("workdays")
