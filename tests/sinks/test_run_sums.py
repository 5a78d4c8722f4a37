"""What attempts cost from sums of days, hours and minutes is what it is window by window, on random runs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from tests.sinks.conftest import AsColumns
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.prices import Price, add_prices
from wattribute.sinks.store import open_store
from wattribute.sinks.view_texts import part

T0_MS: Final = 1_704_067_200_000  # 2024-01-01
LENGTH_MS: Final = 2 * 86_400_000
POLICIES: Final = ("equal", "memory", "active")
SPAN: Final = "policy = {policy:String}, since = {since:String}, until = {until:String}"


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


class Runs:
    """Attempts of two runs on GPUs of two models, one after the other, with gaps; and what is told of
    them."""

    def __init__(self, seed: int) -> None:
        self._rng = rng = random.Random(seed)
        self._tag = f"{rng.getrandbits(64):x}"
        self.rows: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.moments: list[int] = []
        for number in range(2):
            edges = sorted(T0_MS + rng.randrange(LENGTH_MS) for _ in range(rng.randint(2, 5)))
            for attempt, (begin, end) in enumerate(itertools.pairwise(edges)):
                self._attempt(f"{self._tag} r{number} '; -- ü", attempt, begin, end)
        self.prices = [*self._prices("m0", ""), *self._prices("m1", ""), self._prices("m0", "spot")[1]]

    def _attempt(self, run: str, attempt: int, begin: int, end: int) -> None:
        rng = self._rng
        told = sorted(rng.randint(begin, end) for _ in range(rng.randint(0, 3)))
        step: int | None = rng.randint(0, 9) if rng.random() < 0.8 else None
        self._event(run, attempt, begin, "start", step)
        for moment in told:
            self._event(run, attempt, moment, "checkpoint", rng.randint(0, 30))
        if rng.random() < 0.6:
            self._event(run, attempt, end, rng.choice(("finish", "fail")), rng.randint(0, 30))
        self.moments += [begin, end, *told]
        length_ms = rng.choice((1_000, 7_000, 60_000))
        near = [moment + rng.randint(-200_000, 200_000) for moment in (begin, end, *told, *told)]
        far = [rng.randint(begin, end) for _ in range(8)]
        for moment in {moment // length_ms * length_ms for moment in (begin, *told, *near, *far)}:
            for gpu in range(2):
                row = {"window_start": moment, "window_ms": length_ms, "run": run, "attempt": attempt}
                row |= {"gpu": f"{self._tag} {gpu}", "gpu_model": f"{self._tag} m{gpu}", "pid": 1}
                row |= {"host": self._tag, "pricing": rng.choice(("spot", "on_demand"))}
                row |= {"account": "reserved" if rng.random() < 0.1 else "process"}
                row |= {f"gpu_time_{policy}_ns": rng.randint(0, length_ms * 10**6) for policy in POLICIES}
                row |= {f"idle_energy_{policy}_uj": rng.randint(0, 10**9) for policy in POLICIES}
                self.rows.append(row | {"active_energy_uj": rng.randint(0, 10**9)})

    def _event(self, run: str, attempt: int, moment: int, event: str, step: int | None) -> None:
        told = {"run": run, "attempt": attempt, "t": moment * 1_000_000, "event": event}
        self.events.append(told | {"step": step, "steps": 40})

    def _prices(self, model: str, category: str) -> list[Price]:
        """That change within hours, and rarely leave a day without one."""
        rng = self._rng
        last = LENGTH_MS // 60_000 + 100
        edges = [-100, *sorted(rng.sample(range(last), 2)), last if rng.random() < 0.9 else last - 1_440]
        return [
            Price(
                gpu_model=f"{self._tag} {model}",
                price=rng.uniform(0.1, 9),
                category=category,
                valid_from=at(T0_MS + 60_000 * begin),
                valid_to=at(T0_MS + 60_000 * max(end, begin + 1)),
            )
            for begin, end in itertools.pairwise(edges)
        ]


@pytest.fixture(scope="module")
def shared(folder: Path, engine: Any) -> Iterator[ClickHouseSink]:
    """One store for all: runs, GPUs and prices have names of their own."""
    made = ClickHouseSink(open_store(f"chdb://{folder}?database=runs"))
    plain = Path(__file__).with_name("attempt_cost_by_windows.sql").read_text(encoding="utf-8")
    for name in ("rates", "priced"):
        plain = plain.replace(f"{{{{{name}}}}}", part(name))
    made.store.command(plain)
    yield made
    made.close()


@pytest.mark.long
@settings(max_examples=2, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@example(seed=383289710)  # an edge between the minutes of an hour
@given(seed=st.integers(0, 1 << 40))
def test_from_sums_is_by_windows(shared: ClickHouseSink, as_columns: AsColumns, seed: int) -> None:
    runs = [Runs(seed + number) for number in range(5)]
    rng = random.Random(seed)
    rows = [row for each in runs for row in each.rows]
    rng.shuffle(rows)
    shared.write_attribution(as_columns(rows[: len(rows) * 3 // 4]))
    shared.write_rows("run_event", [event for each in runs for event in each.events])
    for each in runs:
        add_prices(shared.store, each.prices)
    shared.refresh_rollups()
    shared.write_attribution(as_columns(rows[len(rows) * 3 // 4 :]))  # behind
    moments = [moment for each in runs for moment in each.moments]
    for policy in POLICIES:
        since, until = sorted(rng.sample(moments, 2))
        if policy == "active":
            since, until = 0, 7_258_118_400_000
        params = {"policy": policy} | {
            name: f"{at(ms):%F %T.%f}" for name, ms in (("since", since), ("until", until))
        }
        due, found = (
            shared.store.query(f"SELECT * FROM {view}({SPAN}) ORDER BY run, attempt", params).dicts()
            for view in ("attempt_cost_by_windows", "attempt_cost")
        )
        assert [(row["run"], row["attempt"]) for row in found] == [(r["run"], r["attempt"]) for r in due]
        for mine, theirs in zip(found, due, strict=True):
            for name, value in theirs.items():
                about = pytest.approx(value, rel=1e-9, abs=1e-9) if isinstance(value, float) else value
                assert mine[name] == about, (name, mine, theirs)
        assert any(row["wasted_usd"] for row in found) or policy != "active"
    last = (
        "SELECT run, attempt, min(first_at), max(last_at) FROM {} WHERE run != '' GROUP BY ALL ORDER BY ALL"
    )
    windows = (
        "(SELECT run, attempt, window_start AS first_at,"
        " window_start + toIntervalMillisecond(window_ms) AS last_at FROM attribution FINAL)"
    )
    assert shared.store.query(last.format("measured")).rows == shared.store.query(last.format(windows)).rows


def test_where_windows_are_gone_minutes_tell_what_was_in_vain(
    shared: ClickHouseSink, as_columns: AsColumns
) -> None:
    """Of a day and an hour in which it came to its checkpoint, the part after it is not the same part."""
    minutes = [*range(0, 90, 10), *range(90, 120)]  # it idles up to its checkpoint
    rows = [
        {"window_start": T0_MS + minute * 60_000, "window_ms": 1_000, "run": "gone", "attempt": attempt}
        | {"host": "gone", "gpu": "gone", "gpu_model": "gone", "pid": 1, "gpu_time_equal_ns": 10**9}
        for attempt, begin in ((1, 0), (2, 600))
        for minute in (begin + minute for minute in minutes)
    ]
    told = ((1, 0, "start", 0), (1, 90, "checkpoint", 5), (1, 120, "fail", 9), (2, 600, "start", 5))
    events = [
        {"run": "gone", "attempt": attempt, "t": (T0_MS + minute * 60_000) * 1_000_000}
        | {"event": event, "step": step, "steps": 40}
        for attempt, minute, event, step in told
    ]
    shared.write_attribution(as_columns(rows))
    shared.write_rows("run_event", events)
    add_prices(shared.store, [Price(gpu_model="gone", price=3600)])
    shared.refresh_rollups()
    shared.store.command("TRUNCATE TABLE attribution")
    wasted = shared.store.query(
        f"SELECT wasted_usd FROM attempt_cost({SPAN}) WHERE run = 'gone' AND attempt = 1",
        {"policy": "equal", "since": "1970-01-01", "until": "2200-01-01"},
    ).rows
    assert wasted == [(pytest.approx(30),)]


def test_a_minute_counts_whole_where_some_of_its_windows_are_gone(
    shared: ClickHouseSink, as_columns: AsColumns
) -> None:
    """It came to its checkpoint in the middle of that minute."""
    rows = [
        {"window_start": T0_MS + second * 1_000, "run": "half", "attempt": attempt, "pid": attempt}
        | {"host": "half", "gpu": "half", "gpu_model": "half", "gpu_time_equal_ns": 10**9}
        for second in range(60)
        for attempt in (1 + (second >= 40),)
    ]
    told = ((1, 0, "start", 0), (1, 20, "checkpoint", 5), (1, 40, "fail", 9), (2, 40, "start", 5))
    events = [
        {"run": "half", "attempt": attempt, "t": (T0_MS + second * 1_000) * 1_000_000}
        | {"event": event, "step": step, "steps": 40}
        for attempt, second, event, step in told
    ]
    shared.write_attribution(as_columns(rows))
    shared.write_rows("run_event", events)
    add_prices(shared.store, [Price(gpu_model="half", price=3600)])
    shared.refresh_rollups()
    gone = f"host = 'half' AND toUnixTimestamp(window_start) < {T0_MS // 1000 + 30}"
    shared.store.command(f"DELETE FROM attribution WHERE {gone}")
    found = shared.store.query(
        f"SELECT cost_usd FROM attempt_cost({SPAN}) WHERE run = 'half' ORDER BY attempt",
        {"policy": "equal", "since": "1970-01-01", "until": "2200-01-01"},
    ).rows
    assert found == [(pytest.approx(40),), (pytest.approx(20),)]
