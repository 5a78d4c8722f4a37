"""How soon the store answers: each view over ten million rows of attribution, a month of a large fleet."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Final

from benchmarks.contender import Figures, check, run
from benchmarks.fleet import START, fill_hours, fill_windows
from benchmarks.table import Bar, Row
from wattribute.commands.explain import explain_rows
from wattribute.commands.top import top_rows
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.store import Store, open_store

_BAR_S: Final = 1.0
_SPAN: Final = "policy = 'equal', since = {since:String}, until = {until:String}"
_VIEWS: Final[Mapping[str, str]] = {
    "cost by team": f"SELECT team, account, sum(energy_uj), sum(cost_usd) FROM cost({_SPAN}) GROUP BY ALL",
    "cost by model and hour": "SELECT bucket_start, model, model_version, sum(cost_usd)"
    f" FROM cost_over_time({_SPAN}, step = 'hour', tz = 'Europe/Berlin') GROUP BY ALL",
    "unit_cost": f"SELECT * FROM unit_cost({_SPAN}, unit = 'output_tokens')",
    "model_cost": f"SELECT * FROM model_cost({_SPAN})",
    "run_cost": f"SELECT * FROM run_cost({_SPAN})",
    "conservation": "SELECT count() FROM conservation",
    "conservation, the last ten minutes": "SELECT count() FROM conservation WHERE window_start >="
    " parseDateTime64BestEffort({until:String}, 3, 'UTC') - INTERVAL 10 MINUTE",
}
_MONTH: Final[Mapping[str, str]] = {
    "a month by team": f"SELECT team, account, sum(energy_uj), sum(cost_usd) FROM cost({_SPAN}) GROUP BY ALL",
    "a month by team and day": "SELECT bucket_start, team, sum(cost_usd)"
    f" FROM cost_over_time({_SPAN}, step = 'day', tz = 'UTC') GROUP BY ALL",
    "a month by team and day of Berlin": "SELECT bucket_start, team, sum(cost_usd)"
    f" FROM cost_over_time({_SPAN}, step = 'day', tz = 'Europe/Berlin') GROUP BY ALL",
}


def over_windows(gpus: int, seconds: int, repetitions: int) -> Figures:
    """Each view over nearly all the windows, from and until a time within a minute. Checked: the sums are
    those of ``attribution``, and every window is conserved."""
    with tempfile.TemporaryDirectory() as folder:
        sink = ClickHouseSink(open_store(f"chdb://{folder}/store"))
        rows = fill_windows(sink, gpus, seconds)
        since = START + timedelta(seconds=7, milliseconds=250)
        until = START + timedelta(seconds=seconds - 9, milliseconds=-500)
        params = {"since": f"{since:%F %T.%f}", "until": f"{until:%F %T.%f}"}
        store = sink.store
        _check_sums(store, params)
        figures = {
            name: _timed(partial(store.query, sql, params), repetitions) for name, sql in _VIEWS.items()
        }
        ((unconserved,),) = store.query(_VIEWS["conservation"], params).rows
        check(unconserved == 0, f"{unconserved} windows are not conserved")
        reader = store.reader()
        figures["top"] = _timed(partial(top_rows, reader), repetitions)
        about = partial(explain_rows, reader, {"model": "chat-1"}, since, until, "equal")
        figures["explain"] = _timed(about, repetitions)
        reader.close()
        sink.close()
    return {"rows": rows, "figures": figures}


def over_a_month(gpus: int, hours: int, repetitions: int) -> Figures:
    """Whole days from ``attribution_day``, and where days are cut from ``attribution_hour``."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"chdb://{folder}/store")
        sink = ClickHouseSink(store)
        rows = fill_hours(store, gpus, hours)
        params = {"since": f"{START:%F}", "until": f"{START + timedelta(hours=hours):%F %T}"}
        sums = {
            store.query(f"SELECT sum(gpu_time_ns), sum(energy_uj) FROM {call}", params).rows[0]
            for call in (
                f"cost({_SPAN})",
                f"cost_over_time({_SPAN}, step = 'day', tz = 'Europe/Berlin')",
                "(SELECT gpu_time_equal_ns AS gpu_time_ns,"
                " active_energy_uj + idle_energy_equal_uj AS energy_uj FROM attribution_hour FINAL)",
            )
        }
        check(len(sums) == 1, f"the sums differ: {sums}")
        figures = {
            name: _timed(partial(store.query, sql, params), repetitions) for name, sql in _MONTH.items()
        }
        sink.close()
    return {"rows": rows, "figures": figures}


def rows(small: bool) -> list[Row]:
    """The rows of the table."""
    windows, month = (
        ({"gpus": 8, "seconds": 400, "repetitions": 1}, {"gpus": 8, "hours": 48, "repetitions": 1})
        if small
        else (
            {"gpus": 200, "seconds": 12_500, "repetitions": 3},
            {"gpus": 2_000, "hours": 720, "repetitions": 3},
        )
    )
    return [
        *_rows("rows of attribution", run(over_windows, **windows)),
        *_rows("rows of hours", run(over_a_month, **month)),
    ]


def _rows(what: str, figures: Figures) -> list[Row]:
    count = figures["rows"]
    return [
        Row(
            "answers",
            f"{name}, {count / 1e6:.3g} M {what}",
            taken,
            [Bar("s", _BAR_S, at_most=True)],
        )
        for name, taken in figures["figures"].items()
    ]


def _timed(ask: Callable[[], object], repetitions: int) -> dict[str, float]:
    """The median of the repetitions after a first one, and the processor time of all threads."""
    times_s: list[tuple[float, float]] = []
    for _ in range(repetitions + 1):
        begin = time.perf_counter(), time.process_time()
        ask()
        times_s.append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    wall_s, cpu_s = zip(*times_s[1:], strict=True)
    return {"s": statistics.median(wall_s), "cpu-s": statistics.median(cpu_s)}


def _check_sums(store: Store, params: Mapping[str, str]) -> None:
    found = store.query(f"SELECT sum(gpu_time_ns), sum(energy_uj) FROM cost({_SPAN})", params).rows
    due = store.query(
        "SELECT sum(gpu_time_equal_ns), sum(active_energy_uj + idle_energy_equal_uj) FROM attribution FINAL"
        " WHERE window_start >= parseDateTime64BestEffort({since:String}, 3, 'UTC')"
        " AND window_start < parseDateTime64BestEffort({until:String}, 3, 'UTC')",
        params,
    ).rows
    check(found == due, f"cost sums up to {found}, attribution to {due}")
