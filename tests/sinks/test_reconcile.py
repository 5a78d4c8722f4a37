"""Processes + reserved + unheld + residual + unobserved = billed GPU hours × the price in force, on random
fleets.

The other side is worked out in plain Python and fractions, from the same rows, billed times and prices.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.sinks.conftest import AsColumns
from tests.sinks.price_in_force import Terms, price_in_force
from wattribute.sinks.billing import BilledHost
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.prices import Price, add_prices
from wattribute.sinks.store import Store, open_store

MINUTE_MS: Final = 60_000
T0_MS: Final = 1_704_067_200_000  # 2024-01-01: what is billed ends now
MINUTES: Final = 3 * 24 * 60
ACCOUNTS: Final = ("process", "reserved", "unheld", "residual")
POLICIES: Final = ("equal", "memory", "active")
ALL_TIME: Final = ("1970-01-01", "2200-01-01")


@dataclass
class Fleet:
    """What was measured, what is billed, and what it costs."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    declared: list[BilledHost] = field(default_factory=list)
    prices: list[Price] = field(default_factory=list)


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def sql_time(ms: int) -> str:
    return f"{at(ms):%Y-%m-%d %H:%M:%S.%f}"


def parts_of(rng: random.Random, whole: int, count: int) -> list[int]:
    """``whole`` in that many parts, some of them 0."""
    edges = sorted(rng.choices((0, rng.randint(0, whole), rng.randint(0, whole), whole), k=count - 1))
    return [b - a for a, b in itertools.pairwise([0, *edges, whole])]


def prices_of(rng: random.Random, model: str) -> list[Price]:
    """Prices of a model: some for any provider, some for one; changing within hours, with holes and in
    euros."""
    made = []
    for terms in rng.sample(
        [("", "", ""), ("p", "", ""), ("p", "r", ""), ("", "", "spot")], k=rng.randint(0, 4)
    ):
        edges = sorted({T0_MS + MINUTE_MS * rng.randint(-90, MINUTES) for _ in range(rng.randint(2, 5))})
        for begin, end in itertools.pairwise(edges):
            if rng.random() < 0.15:
                continue
            provider, region, category = terms
            made.append(
                Price(
                    gpu_model=model,
                    price=round(rng.uniform(0.1, 9), rng.choice((0, 2, 4))),
                    provider=provider,
                    region=region,
                    category=category,
                    currency="EUR" if rng.random() < 0.1 else "USD",
                    valid_from=at(begin),
                    valid_to=at(end),
                )
            )
    return made


def window(
    rng: random.Random, place: dict[str, Any], start_ms: int, length_ms: int
) -> Iterator[dict[str, Any]]:
    """The rows of one window of one GPU: of one boot, or of two, each split at random under every policy."""
    boots = ["b1", "b2"] if rng.random() < 0.1 else [rng.choice(("b1", "b2"))]
    covered = length_ms * 1_000_000 if rng.random() < 0.8 else rng.randint(1, length_ms * 1_000_000)
    for boot, boot_ns in zip(boots, parts_of(rng, covered, len(boots)), strict=True):
        accounts = rng.sample(("process", "process", *ACCOUNTS), k=rng.randint(1, 4))
        active = parts_of(rng, parts_of(rng, boot_ns, 2)[0], len(accounts))
        idle = boot_ns - sum(active)
        shares = {policy: parts_of(rng, idle, len(accounts)) for policy in POLICIES}
        for number, account in enumerate(accounts):
            yield {
                **place,
                "window_start": start_ms,
                "window_ms": length_ms,
                "boot_id": boot,
                "account": account,
                "pid": number if account == "process" else 0,
                "job": f"job{number}" if account == "reserved" else "",
                "covered_ns": boot_ns,
                "active_time_ns": active[number],
                **{f"gpu_time_{policy}_ns": active[number] + shares[policy][number] for policy in POLICIES},
            }


def fleet_of(seed: int) -> Fleet:
    """A few hosts over three days, that join and leave, boot anew, are not seen for a while and change
    terms."""
    rng = random.Random(seed)
    fleet = Fleet()
    tag = f"{rng.getrandbits(64):x}"
    models = [f"{tag} m{number}" for number in range(rng.randint(1, 2))]
    fleet.prices = [price for model in models for price in prices_of(rng, model)]
    for number in range(rng.randint(1, 3)):
        host = f"{tag} h{number} ' ; -- ü"
        length_ms = rng.choice((10_000, 30_000, 60_000))
        joins, leaves = sorted(rng.sample(range(0, MINUTES, 7), k=2))
        many = [("p", "r", "on_demand"), ("p", "q", "spot"), ("", "", ""), ("p", "r", "spot")]
        terms = rng.choices(rng.sample(many, k=2), k=rng.randint(1, 5))  # they come back
        is_declared = rng.random() < 0.5
        if is_declared:
            terms = terms[:1]
        changes = [joins, *sorted(rng.sample(range(joins, leaves), k=min(len(terms) - 1, leaves - joins)))]
        for model in models[: rng.randint(1, 2)]:
            gpus = rng.randint(1, 3)
            for gpu in range(gpus):
                for minute in sorted(
                    rng.sample(range(joins, leaves), k=min(leaves - joins, rng.randint(1, 12)))
                ):
                    at_ms = T0_MS + minute * MINUTE_MS + rng.randrange(0, MINUTE_MS, length_ms)
                    held = terms[sum(change <= minute for change in changes) - 1]
                    place = {"host": host, "gpu": f"{host} {model} {gpu}", "gpu_model": model}
                    place |= dict(zip(("provider", "region", "pricing"), held, strict=True))
                    fleet.rows += window(rng, place, at_ms, length_ms)
            if is_declared:
                edges = [joins - rng.randint(0, 500), leaves + 1 + rng.randint(0, 500)]
                spans = [edges] if rng.random() < 0.5 else [[edges[0], joins], [joins, edges[1]]]
                for begin, end in spans:
                    if begin < end:
                        fleet.declared.append(
                            BilledHost(
                                host=host,
                                gpu_model=model,
                                gpus=gpus + rng.randint(0, 2),
                                **dict(zip(("provider", "region", "pricing"), terms[0], strict=True)),
                                billed_from=at(T0_MS + begin * MINUTE_MS),
                                billed_to=at(T0_MS + end * MINUTE_MS),
                            )
                        )
    return fleet


def usd_per_hour(prices: Sequence[Price], gpu_model: str, terms: Terms, moment: datetime) -> Fraction | None:
    """What a GPU-hour costs; None, if not USD."""
    best = price_in_force(prices, gpu_model, terms, moment)
    return Fraction(best.price) if best is not None and best.currency == "USD" else None


def expected(fleet: Fleet, policy: str, since_ms: int, until_ms: int) -> dict[str, dict[str, Fraction]]:
    """By host: USD of every account, of what was billed, and the billed GPU hours without a price."""
    money: dict[str, dict[str, Fraction]] = defaultdict(lambda: defaultdict(Fraction))
    by_device: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in fleet.rows:
        by_device[row["host"], row["gpu_model"]].append(row)
    for (host, model), rows in by_device.items():
        prices = [price for price in fleet.prices if price.gpu_model == model]
        terms_at = sorted({(r["window_start"], (r["provider"], r["region"], r["pricing"])) for r in rows})
        covered: dict[int, Fraction] = defaultdict(Fraction)
        counted = set()
        for row in rows:
            if not since_ms <= row["window_start"] < until_ms:
                continue
            device = (row["gpu"], row["window_start"], row["boot_id"])
            if device not in counted:  # of the whole device, and on each of its rows
                counted.add(device)
                covered[row["window_start"]] += row["covered_ns"]
            price = usd_per_hour(
                prices, model, (row["provider"], row["region"], row["pricing"]), at(row["window_start"])
            )
            if price is not None:
                money[host][row["account"]] += (
                    price * row[f"gpu_time_{policy}_ns"] / Fraction(3_600_000_000_000)
                )
        first, length = min(r["window_start"] for r in rows), rows[0]["window_ms"]
        last = max(r["window_start"] for r in rows) + length
        spans = [
            (int(d.billed_from.timestamp() * 1000), int(d.billed_to.timestamp() * 1000), d.gpus)
            for d in fleet.declared
            if (d.host, d.gpu_model) == (host, model)
        ] or [(first, last, len({r["gpu"] for r in rows}))]
        edges = {moment for price in prices for moment in (price.valid_from, price.valid_to)}
        cuts = {int(edge.timestamp() * 1000) for edge in edges} | {moment for moment, _ in terms_at}
        for billed_from, billed_to, gpus in spans:
            # a window counts where it begins
            begin, end = (
                max(billed_from, -(-since_ms // length) * length),
                min(billed_to, -(-until_ms // length) * length),
            )
            if begin >= end:
                continue
            for a, b in itertools.pairwise(sorted({begin, end, *(cut for cut in cuts if begin < cut < end)})):
                before = [terms for moment, terms in terms_at if moment <= a]
                price = usd_per_hour(prices, model, before[-1] if before else terms_at[0][1], at(a))
                billed = Fraction((b - a) * 1_000_000 * gpus)
                unseen = billed - sum(ns for moment, ns in covered.items() if a <= moment < b)
                assert unseen >= 0
                if price is None:
                    money[host]["unpriced_hours"] += billed / 3_600_000_000_000
                else:
                    money[host]["unobserved"] += price * unseen / 3_600_000_000_000
                    money[host]["billed"] += price * billed / 3_600_000_000_000
    return money


@pytest.fixture(scope="module")
def shared(folder: Path, engine: Any) -> Iterator[ClickHouseSink]:
    """One store for all fleets: their hosts, models and prices have names of their own."""
    made = ClickHouseSink(open_store(f"chdb://{folder}?database=fleets"))
    yield made
    made.close()


@pytest.mark.long
@settings(max_examples=2, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(seed=st.integers(0, 1 << 40), begin=st.integers(0, MINUTES), length=st.integers(1, MINUTES))
def test_the_parts_are_the_billed_hours_at_the_price_in_force(
    shared: ClickHouseSink, as_columns: AsColumns, seed: int, begin: int, length: int
) -> None:
    fleets = [fleet_of(seed + number) for number in range(6)]
    rows = [row for fleet in fleets for row in fleet.rows]
    random.Random(seed).shuffle(rows)
    # of most there are sums, of some that came late not yet
    shared.write_attribution(as_columns(rows[: len(rows) * 3 // 4]))
    shared.refresh_rollups()
    shared.write_attribution(as_columns(rows[len(rows) * 3 // 4 :]))
    add_prices(shared.store, [price for fleet in fleets for price in fleet.prices])
    declared = [asdict(billed) for fleet in fleets for billed in fleet.declared]
    shared.store.insert_rows("billed_host", [row | {"version": 1, "deleted": 0} for row in declared])
    middle = T0_MS + begin * MINUTE_MS + 7_777  # within a window
    spans = [(0, middle), (middle, middle + length * MINUTE_MS), *[(0, 7_258_118_400_000)] * 3]
    for policy, (since_ms, until_ms) in zip(itertools.cycle(POLICIES), spans, strict=False):
        due: dict[str, dict[str, Fraction]] = {}
        for fleet in fleets:
            due |= expected(fleet, policy, since_ms, until_ms)
        found = reconciled(shared.store, policy, since_ms, until_ms)
        assert found.keys() >= {host for host, parts in due.items() if any(parts.values())}
        for host, parts in due.items():
            for name in (*ACCOUNTS, "unobserved", "billed", "unpriced_hours"):
                assert found[host][name] == pytest.approx(float(parts[name]), abs=1e-9, rel=1e-12), (
                    host,
                    name,
                )
            ours = sum(found[host][name] for name in (*ACCOUNTS, "unobserved"))
            assert ours == pytest.approx(float(parts["billed"]), abs=1e-9)


def reconciled(store: Store, policy: str, since_ms: int, until_ms: int) -> dict[str, dict[str, float]]:
    """What the view says, by host, as ``expected`` does."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    rows = store.query(
        "SELECT * FROM reconcile(policy = {policy:String}, since = {since:String}, until = {until:String})",
        {"policy": policy, "since": sql_time(since_ms), "until": sql_time(until_ms)},
    ).dicts()
    for row in rows:
        assert row["difference_ns"] == 0
        ours = found[row["host"]]
        if row["price_per_gpu_hour_usd"] is None:
            assert row["billed_usd"] is None
            ours["unpriced_hours"] += row["billed_ns"] / 3.6e12
            continue
        for name in (*ACCOUNTS, "unobserved", "billed"):
            ours[name] += row[f"{name}_usd"]
    return found


def test_the_end_of_a_price_that_was_told_later_is_the_end_of_the_bill(
    shared: ClickHouseSink, as_columns: AsColumns
) -> None:
    rows = [
        {"window_start": T0_MS + minute * MINUTE_MS, "window_ms": MINUTE_MS, "host": "over", "gpu": "over"}
        | {"gpu_model": "over", "gpu_time_equal_ns": MINUTE_MS * 10**6}
        for minute in range(60)
    ]
    shared.write_attribution(as_columns(rows))
    price = Price(gpu_model="over", price=3.6)
    add_prices(shared.store, [price])
    add_prices(shared.store, [replace(price, valid_to=at(T0_MS + 20 * MINUTE_MS))])
    found = shared.store.query(
        "SELECT price_per_gpu_hour_usd, billed_ns / 6e10 FROM reconcile(policy = 'equal',"
        " since = '1970-01-01', until = '2200-01-01') WHERE host = 'over' ORDER BY ALL"
    ).rows
    assert found == [(3.6, 20), (None, 40)]


def test_what_is_billed_without_an_end_is_billed_up_to_now(shared: ClickHouseSink) -> None:
    begin = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=5)
    declared = BilledHost(host="open", gpu_model="open", gpus=8, billed_from=begin)
    shared.store.insert_rows("billed_host", [asdict(declared) | {"version": 1, "deleted": 0}])
    before = datetime.now(UTC)
    ((billed_ns,),) = shared.store.query(
        "SELECT sum(billed_ns) FROM billed(since = '1970-01-01', until = '2200-01-01', step = 'all',"
        " tz = 'UTC', as_of = '2200-01-01') WHERE host = 'open'"
    ).rows
    billed_to = begin + timedelta(microseconds=billed_ns // 8 // 1000)
    assert before.replace(microsecond=0) <= billed_to <= datetime.now(UTC)


def test_where_windows_are_gone_a_host_that_was_spot_for_a_while_is_the_bill(
    shared: ClickHouseSink, as_columns: AsColumns
) -> None:
    """Two hours of a day, as spot for a while that begins within a minute: all of it was seen."""
    rows = [
        {"window_start": T0_MS + third * 20_000, "window_ms": 20_000, "host": "gone", "gpu": "gone"}
        | {"gpu_model": "gone", "gpu_time_equal_ns": 20_000 * 10**6}
        | {"pricing": "spot" if 91 <= third < 270 else "on_demand"}
        for third in range(360)
    ]
    shared.write_attribution(as_columns(rows))
    shared.refresh_rollups()
    shared.store.command("TRUNCATE TABLE attribution")
    found = shared.store.query(
        "SELECT pricing, process_ns, unobserved_ns, billed_ns FROM reconcile(policy = 'equal',"
        " since = '1970-01-01', until = '2200-01-01') WHERE host = 'gone' ORDER BY pricing"
    ).rows
    on_demand_ns, spot_ns = 181 * 20_000_000_000, 179 * 20_000_000_000
    assert found == [("on_demand", on_demand_ns, 0, on_demand_ns), ("spot", spot_ns, 0, spot_ns)]
