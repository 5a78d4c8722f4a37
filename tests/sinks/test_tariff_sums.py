"""What random use costs with random prices and tariffs, held against a reckoning in plain Python, row by row:
by the clock of each tariff, over changes to and from summer time, whatever sums the store has."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest

from tests.sinks.conftest import AsColumns
from tests.sinks.price_in_force import price_in_force
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.prices import BEGINNING, END, Price, add_prices
from wattribute.sinks.tariffs import Tariff, add_tariffs

Rows = list[dict[str, Any]]

ZONES = ("UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "America/New_York", "Asia/Kolkata")
STARTS = ("2026-03-27", "2026-10-23", "2026-03-06", "2026-10-30")  # clocks change in the days after
DAYS = 4
MONEY = (
    "sum(active_cost_usd), sum(idle_cost_usd), sum(cost_usd), sum(energy_cost_usd), countIf(cost_usd IS NULL)"
)


class Due(NamedTuple):
    """Active, idle, all and energy's money in USD, and whether any of it has no price."""

    usd: list[Fraction]
    unpriced: bool


def some_rows(drawn: random.Random, start: datetime) -> Rows:
    """Windows anywhere, and beside the edges of quarters, hours and days."""
    found = {}
    for pid in range(1, 61):
        step_s = drawn.choice([1, 900, 1800, 3600, 86_400])
        at = start + timedelta(seconds=step_s * drawn.randrange(DAYS * 86_400 // step_s))
        at += timedelta(seconds=drawn.choice([0, 0, -1, 1]))
        row: dict[str, Any] = {
            "window_start": round(at.timestamp() * 1000),
            "pid": pid,
            "account": drawn.choice(["process", "process", "reserved", "unheld"]),
            "gpu_model": drawn.choice("AB"),
            "provider": drawn.choice(["", "p", "q"]),
            "region": drawn.choice(["", "x", "y"]),
            "pricing": drawn.choice(["", "spot", "owned"]),
            "model": drawn.choice("mn"),
            "active_energy_uj": drawn.randrange(4 * 10**12),
            "active_time_ns": drawn.randrange(10**9),
        }
        for policy in ("equal", "memory", "active"):
            row[f"idle_energy_{policy}_uj"] = drawn.randrange(10**12)
            row[f"gpu_time_{policy}_ns"] = row["active_time_ns"] + drawn.randrange(10**9)
        found[row["window_start"], row["account"], pid] = row
    return list(found.values())


def spans(drawn: random.Random, start: datetime) -> Iterator[tuple[datetime, datetime]]:
    """One after the other, changing at any minute."""
    cuts = {
        start + timedelta(minutes=drawn.choice([1, 15, 60]) * drawn.randrange(1, DAYS * 24)) for _ in range(2)
    }
    yield from pairwise([BEGINNING, *sorted(cuts)[: drawn.randrange(3)], END])


def some_prices(drawn: random.Random, start: datetime) -> list[Price]:
    places = [(p, r, c) for p in ("", "p") for r in ("", "x") for c in ("", "owned")]
    return [
        Price(
            gpu_model=model, price=round(drawn.uniform(0, 5), 3), provider=provider, region=region,
            category=category, currency=drawn.choice(["USD"] * 7 + ["EUR"]), valid_from=begin, valid_to=end,
            includes_energy=drawn.random() < 0.25,
        )
        for model in "AB"
        for provider, region, category in [("", "", ""), *drawn.sample(places[1:], 2)]
        for begin, end in spans(drawn, start)
    ]  # fmt: skip


def some_tariffs(drawn: random.Random, start: datetime) -> list[Tariff]:
    """Of some places, each in a time zone of its own: by day and by night, on some days or on all."""
    found = []
    places = [("", ""), ("p", ""), ("q", ""), ("", "x"), ("p", "x")]
    for provider, region in drawn.sample(places, 3):
        zone = drawn.choice(ZONES)
        for begin, end in spans(drawn, start):
            hour, other = drawn.sample(range(1, 24), 2)
            days = tuple(sorted(drawn.sample(range(7), drawn.choice([5, 7, 7]))))
            found += [
                Tariff(
                    price_per_kwh=round(drawn.uniform(0, 1), 3), provider=provider, region=region,
                    currency=drawn.choice(["USD"] * 9 + ["EUR"]), node_power_ratio=1.5, pue_ratio=1.2,
                    time_zone=zone, from_hour=since, to_hour=until, days=days, valid_from=begin, valid_to=end,
                )
                for since, until in ((hour, other), (other, hour))
            ]  # fmt: skip
    return found


def holds(tariff: Tariff, at: datetime) -> bool:
    """By the clock on its wall."""
    there = at.astimezone(ZoneInfo(tariff.time_zone))
    if not tariff.valid_from <= at < tariff.valid_to:
        return False
    if tariff.from_hour < tariff.to_hour:
        return tariff.from_hour <= there.hour < tariff.to_hour and there.weekday() in tariff.days
    begun = there.date() if there.hour >= tariff.from_hour else there.date() - timedelta(days=1)
    return (there.hour >= tariff.from_hour or there.hour < tariff.to_hour) and begun.weekday() in tariff.days


def per_unit(
    row: Mapping[str, Any], prices: Sequence[Price], tariffs: Sequence[Tariff]
) -> tuple[Fraction, Fraction] | None:
    """USD per ns and per µJ for a row; None where it has no price in USD."""
    at = at_of(row)
    price = price_in_force(prices, row["gpu_model"], (row["provider"], row["region"], row["pricing"]), at)
    if price is None or price.currency != "USD":
        return None
    per_hour = Fraction(price.price)
    if price.includes_energy:
        return per_hour / (3600 * 10**9), Fraction(0)
    tariff = max(
        (
            tariff
            for tariff in tariffs
            if holds(tariff, at)
            and tariff.provider in ("", row["provider"])
            and tariff.region in ("", row["region"])
        ),
        key=lambda t: (t.provider != "", t.region != ""),
        default=None,
    )
    if tariff is None or tariff.currency != "USD":
        return None
    per_kwh = Fraction(tariff.price_per_kwh) * Fraction(tariff.node_power_ratio) * Fraction(tariff.pue_ratio)
    return per_hour / (3600 * 10**9), per_kwh / (3600 * 10**9)


def at_of(row: Mapping[str, Any]) -> datetime:
    return datetime.fromtimestamp(row["window_start"] // 1000, UTC)


def reckoned(
    rows: Rows, prices: Sequence[Price], tariffs: Sequence[Tariff], policy: str,
    key: Callable[[Mapping[str, Any]], Hashable],
) -> dict[Hashable, Due]:  # fmt: skip
    found: defaultdict[Hashable, Due] = defaultdict(lambda: Due([Fraction(0)] * 4, False))
    for row in rows:
        usd, unpriced = found[key(row)]
        costs = per_unit(row, prices, tariffs)
        if costs is None:
            found[key(row)] = Due(usd, True)
            continue
        per_ns, per_uj = costs
        active_ns, active_uj = row["active_time_ns"], row["active_energy_uj"]
        idle_ns, idle_uj = row[f"gpu_time_{policy}_ns"] - active_ns, row[f"idle_energy_{policy}_uj"]
        active, idle = per_ns * active_ns + per_uj * active_uj, per_ns * idle_ns + per_uj * idle_uj
        parts = [active, idle, active + idle, per_uj * (active_uj + idle_uj)]
        found[key(row)] = Due([a + b for a, b in zip(usd, parts, strict=True)], unpriced)
    return dict(found)


def check(found: Sequence[tuple[Any, ...]], due: dict[Hashable, Due]) -> None:
    assert {row[:-5] for row in found} == set(due)
    for *key, active, idle, cost, energy, unpriced in found:
        usd, is_unpriced = due[tuple(key)]
        assert (unpriced > 0) == is_unpriced, key
        if not is_unpriced:
            assert (active, idle, cost, energy) == pytest.approx([float(of) for of in usd], rel=1e-9), key


def day_of(row: Mapping[str, Any], zone: ZoneInfo) -> datetime:
    """When its day began there, in UTC: none of the zones changes its clocks at midnight."""
    day: date = at_of(row).astimezone(zone).date()
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 12))]
)
def test_what_random_use_costs(sink: ClickHouseSink, as_columns: AsColumns, seed: int) -> None:
    drawn = random.Random(seed)
    start = datetime.fromisoformat(STARTS[seed % len(STARTS)]).replace(tzinfo=UTC)
    rows, prices, tariffs = some_rows(drawn, start), some_prices(drawn, start), some_tariffs(drawn, start)
    summed = drawn.randrange(30, len(rows))
    sink.write_attribution(as_columns(rows[:summed]))
    sink.refresh_rollups()
    sink.write_attribution(as_columns(rows[summed:]))
    add_prices(sink.store, prices)
    add_tariffs(sink.store, tariffs)
    policy, zone = drawn.choice(["equal", "memory", "active"]), ZoneInfo(drawn.choice(ZONES))

    ask = f"SELECT account, model, {MONEY} FROM cost(policy = {{policy:String}}, {{span}}) GROUP BY 1, 2"
    edges = [start + timedelta(seconds=drawn.choice([1, 60, 900]) * drawn.randrange(300)) for _ in range(2)]
    for since, until in ((BEGINNING, END), (min(edges), max(edges) + timedelta(days=2))):
        span = f"since = '{since:%F %T}', until = '{until:%F %T}'"
        found = sink.store.query(ask.replace("{span}", span), {"policy": policy}).rows
        within = [row for row in rows if since <= at_of(row) < until]
        check(found, reckoned(within, prices, tariffs, policy, lambda row: (row["account"], row["model"])))
    by_day = sink.store.query(
        f"SELECT bucket_start, model, {MONEY} FROM cost_over_time(policy = {{policy:String}},"
        " since = '1970-01-01', until = '2200-01-01', step = 'day', tz = {tz:String}) GROUP BY 1, 2",
        {"policy": policy, "tz": zone.key},
    ).rows
    check(by_day, reckoned(rows, prices, tariffs, policy, lambda row: (day_of(row, zone), row["model"])))
