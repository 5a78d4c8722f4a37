"""``cost`` from sums of days, hours and minutes is the plain sum over ``attribution``, to the last digit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sinks.conftest import AsColumns
from wattribute.errors import StoreError
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.prices import Price, add_prices
from wattribute.sinks.rollup import Rollups
from wattribute.sinks.store import open_store

START = datetime(2026, 3, 27, 20, tzinfo=UTC)  # the clocks of Berlin change on the 29th
DAYS = 4
H200, L4 = "NVIDIA H200", "NVIDIA L4"


def ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def rows_of(moments: Sequence[int]) -> list[dict[str, Any]]:
    """At each moment, in ms from START, windows of two GPUs with two holders."""
    rows = []
    for number, (moment, gpu) in enumerate(itertools.product(moments, ("GPU-1", "GPU-2"))):
        for pid, team in ((1, "a"), (2, "b")):
            figure = 1 + number * 7 + pid
            row = {"window_start": ms(START) + moment, "gpu": gpu, "pid": pid, "team": team}
            row |= {"gpu_model": H200 if gpu == "GPU-1" else L4, "labels": {"tier": team}}
            row |= {name: figure + 10**9 * place for place, name in enumerate(FIGURES)}
            rows.append(row)
    return rows


FIGURES = (
    "active_energy_uj", "idle_energy_equal_uj", "idle_energy_memory_uj", "idle_energy_active_uj",
    "active_time_ns", "gpu_time_equal_ns", "gpu_time_memory_ns", "gpu_time_active_ns", "error_uj", "error_ns",
)  # fmt: skip


class Store:
    """What was stored, in the store and in Python."""

    def __init__(self, sink: ClickHouseSink, as_columns: AsColumns) -> None:
        self.sink, self.as_columns = sink, as_columns
        self.rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.version = 0

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        self.version += 1
        stamped = [row | {"version": self.version} for row in rows]
        self.sink.write_attribution(self.as_columns(stamped))
        self.rows |= {(row["window_start"], row["gpu"], row["pid"]): row for row in stamped}

    def expected(
        self, since: datetime, until: datetime, policy: str
    ) -> dict[tuple[Any, ...], tuple[int, ...]]:
        """Sums by team and GPU."""
        sums: dict[tuple[Any, ...], tuple[int, ...]] = {}
        for row in self.rows.values():
            if ms(since) <= row["window_start"] < ms(until) and not row.get("deleted"):
                key = (row["team"], row["gpu"])
                active, idle = row["active_energy_uj"], row[f"idle_energy_{policy}_uj"]
                figures = (active, idle, row["active_time_ns"], row[f"gpu_time_{policy}_ns"], row["error_uj"])
                sums[key] = tuple(a + b for a, b in zip(sums.get(key, (0,) * 5), figures, strict=True))
        return sums

    def found(self, call: str, params: Mapping[str, str]) -> dict[tuple[Any, ...], tuple[int, ...]]:
        rows = self.sink.store.query(
            "SELECT team, gpu, sum(active_energy_uj), sum(idle_energy_uj), sum(active_time_ns),"
            f" sum(gpu_time_ns), sum(error_uj) FROM {call} GROUP BY team, gpu",
            params,
        ).rows
        return {row[:2]: row[2:] for row in rows}


TABLES = ("attribution", "attribution_minute", "attribution_hour", "attribution_day")
COST = "cost(policy = {policy:String}, since = {since:String}, until = {until:String})"
OVER_TIME = (
    "cost_over_time(policy = {policy:String}, since = {since:String}, until = {until:String},"
    " step = {step:String}, tz = {tz:String})"
)


@pytest.fixture(scope="module")
def new_store(folder: Any, engine: Any, as_columns: AsColumns) -> Iterator[Callable[[], Store]]:
    """The same store, emptied."""
    sink = ClickHouseSink(open_store(f"chdb://{folder}?database=sums"))

    def new() -> Store:
        sink.rollups.close()
        sink.rollups = Rollups(sink.store)
        for table in (*TABLES, "dirty_bucket", "price", "price_history", "tariff"):
            sink.store.command(f"TRUNCATE TABLE {table}")
        return Store(sink, as_columns)

    yield new
    sink.close()


moment = st.integers(0, DAYS * 86_400_000 - 1)
minute = st.integers(0, DAYS * 1440).map(lambda m: START + timedelta(minutes=m))


def edge_near(whole_s: int) -> st.SearchStrategy[datetime]:
    """Times on, just before and just after whole units of time."""
    return st.builds(
        lambda n, off: START.replace(hour=0) + timedelta(seconds=n * whole_s, milliseconds=off),
        st.integers(0, DAYS * 86_400 // whole_s + 1),
        st.sampled_from([0, 0, -1, 1, 500]),
    )


span = st.lists(st.one_of(edge_near(86_400), edge_near(3_600), edge_near(60)), min_size=2, max_size=2)


@pytest.mark.long
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moments=st.lists(moment, min_size=1, max_size=25),
    again=st.lists(moment, max_size=4),
    behind=st.lists(moment, max_size=4),
    changes=st.lists(
        st.one_of(minute, edge_near(86_400).map(lambda t: t.replace(microsecond=0))), max_size=3
    ),
    spans=st.lists(span, min_size=2, max_size=4),
    policy=st.sampled_from(["equal", "memory", "active"]),
    step=st.sampled_from(["hour", "day", "week", "month"]),
    tz=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"]),
)
def test_any_span_adds_up(
    new_store: Callable[[], Store],
    moments: list[int],
    again: list[int],
    behind: list[int],
    changes: list[datetime],
    spans: list[list[datetime]],
    policy: str,
    step: str,
    tz: str,
) -> None:
    store = new_store()
    store.write(rows_of(moments))
    changed = sorted({change.replace(second=0) for change in changes})
    begins = [datetime(1970, 1, 1, tzinfo=UTC), *changed]
    ends = [*changed, datetime(2106, 2, 7, 6, 28, tzinfo=UTC)]
    prices = [
        Price(gpu_model=H200, price=float(1 + n), valid_from=begin, valid_to=end)
        for n, (begin, end) in enumerate(zip(begins, ends, strict=True))
    ]
    add_prices(store.sink.store, prices)
    store.sink.refresh_rollups()
    if again:  # restated, and some of it deleted, after the sums were made
        store.write([row | {"active_energy_uj": 5, "deleted": row["pid"] - 1} for row in rows_of(again)])
        store.sink.refresh_rollups()
    if behind:
        store.write(rows_of(behind))

    for since, until in (sorted(edges) for edges in spans):
        params = {"policy": policy, "since": f"{since:%F %T.%f}", "until": f"{until:%F %T.%f}"}
        due = store.expected(since, until, policy)
        assert store.found(COST, params) == due
        assert store.found(OVER_TIME, params | {"step": step, "tz": tz}) == due
        found = store.sink.store.query(f"SELECT sum(cost_usd) FROM {COST} WHERE gpu = 'GPU-1'", params).rows[
            0
        ][0]
        money = sum(
            price.price * row[f"gpu_time_{policy}_ns"] / 3.6e12
            for row in store.rows.values()
            for price in prices
            if ms(since) <= row["window_start"] < ms(until)
            and row["gpu"] == "GPU-1"
            and not row.get("deleted")
            and ms(price.valid_from) <= row["window_start"] < ms(price.valid_to)
        )
        assert (found or 0) == pytest.approx(money, rel=1e-12)


@pytest.mark.parametrize(
    "tz", ["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe"]
)
def test_buckets_are_those_of_the_calendar(new_store: Callable[[], Store], tz: str) -> None:
    store = new_store()
    store.write(rows_of([n * 1_800_000 for n in range(DAYS * 48)]))
    store.sink.refresh_rollups()
    zone = ZoneInfo(tz)
    since, until = START + timedelta(minutes=10), START + timedelta(days=3, hours=7)
    params = {"policy": "equal", "since": f"{since:%F %T}", "until": f"{until:%F %T}", "tz": tz}
    for step in ("hour", "day", "week", "month"):
        due: dict[datetime, int] = {}
        for row in store.rows.values():
            at = datetime.fromtimestamp(row["window_start"] / 1000, UTC)
            if since <= at < until:
                begin = bucket_of(at.astimezone(zone), step)
                due[begin] = due.get(begin, 0) + row["gpu_time_equal_ns"]
        found = store.sink.store.query(
            f"SELECT bucket_start, sum(gpu_time_ns) FROM {OVER_TIME} GROUP BY 1", params | {"step": step}
        ).rows
        assert dict(found) == due, step


def test_a_day_whose_clocks_change_by_half_an_hour_ends_at_midnight(new_store: Callable[[], Store]) -> None:
    """On 2026-04-05, at 13:30 UTC, within an hour that has a sum."""
    store = new_store()
    first = ms(datetime(2026, 4, 4, tzinfo=UTC)) - ms(START)
    store.write(rows_of([first + n * 1_800_000 for n in range(144)]))
    store.sink.refresh_rollups()
    due: dict[datetime, int] = {}
    for row in store.rows.values():
        at = datetime.fromtimestamp(row["window_start"] / 1000, ZoneInfo("Australia/Lord_Howe"))
        due[bucket_of(at, "day")] = due.get(bucket_of(at, "day"), 0) + row["gpu_time_equal_ns"]
    of_days = {"since": "1970-01-01", "until": "2200-01-01", "step": "day", "tz": "Australia/Lord_Howe"}
    found = store.sink.store.query(
        f"SELECT bucket_start, sum(gpu_time_ns) FROM {OVER_TIME} GROUP BY 1", {"policy": "equal"} | of_days
    ).rows
    assert dict(found) == due


def bucket_of(at: datetime, step: str) -> datetime:
    begin = at.replace(minute=0, second=0, microsecond=0)
    if step == "hour":
        return begin.astimezone(UTC)
    begin = begin.replace(hour=0, fold=0)
    if step == "week":
        begin -= timedelta(days=begin.weekday())
    return (begin.replace(day=1) if step == "month" else begin).astimezone(UTC)


def test_minutes_answer_where_the_rows_are_gone(new_store: Callable[[], Store]) -> None:
    store = new_store()
    store.write(rows_of([60_000 * n for n in range(200)]))
    store.sink.refresh_rollups()
    store.sink.store.command("TRUNCATE TABLE attribution")
    since, until = START + timedelta(minutes=3), START + timedelta(minutes=197)
    params = {"policy": "memory", "since": f"{since:%F %T}", "until": f"{until:%F %T}"}
    assert store.found(COST, params) == store.expected(since, until, "memory")


def test_while_sums_are_made_nothing_counts_twice(
    new_store: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refresh that stops after the minutes, after the hours, and one that does not."""
    store = new_store()
    store.write(rows_of([600_000 * n for n in range(300)]))
    params = {"policy": "equal", "since": "2026-03-27", "until": "2026-04-02"}
    due = store.expected(START, START + timedelta(days=9), "equal")
    for stop in (1, 2, 3):
        with monkeypatch.context() as patch:
            beside = store.sink.store.beside()
            count = itertools.count(1)
            run = beside.command

            def halting(sql: str, given: Any = None) -> None:
                if next(count) > stop:  # noqa: B023
                    raise StoreError("stopped")
                run(sql, given)  # noqa: B023

            patch.setattr(beside, "command", halting)
            patch.setattr(store.sink.store, "beside", lambda: beside)  # noqa: B023
            rollups = Rollups(store.sink.store)
            rollups._due = {  # what a refresh that begins would find
                (host, gpu, int(start.timestamp()), writer, version)
                for host, gpu, start, writer, version in store.sink.store.query(
                    "SELECT host, gpu, bucket_start, writer, version FROM dirty_bucket FINAL"
                ).rows
            }
            if stop < 3:
                with pytest.raises(StoreError, match="stopped"):
                    rollups.refresh()
            else:
                rollups.refresh()
            assert store.found(COST, params) == due, stop
            rollups.close()


def test_a_step_or_a_time_zone_that_there_is_not(new_store: Callable[[], Store]) -> None:
    store = new_store()
    params = {"policy": "equal", "since": "2026-03-27", "until": "2026-04-02"}
    # The view's own SQL, in which nobody asked, is not part of the line.
    with pytest.raises(
        StoreError, match=r"unknown step: it is one of hour, day, week, month, all\. \(FUNCTION"
    ):
        store.found(OVER_TIME, params | {"step": "fortnight", "tz": "UTC"})
    with pytest.raises(StoreError, match=r"Cannot load time zone Europe/Atlantis\. \(BAD_ARGUMENTS\)"):
        store.found(OVER_TIME, params | {"step": "day", "tz": "Europe/Atlantis"})
