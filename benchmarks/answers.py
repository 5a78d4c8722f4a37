"""How soon the store answers: every view and command over ten million rows of attribution, and a month of a
large fleet.

Database time is the total of the statements of an answer, each from sending it to receiving the last row.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from benchmarks.contender import Figures, check, run
from benchmarks.fleet import START, fill_hours, fill_outcomes, fill_windows
from benchmarks.table import Bar, Row
from wattribute.commands.explain import explain_rows
from wattribute.commands.top import top_rows
from wattribute.sinks.billing import BilledHost, add_billed, reconcile_rows
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.comparison import policy_rows
from wattribute.sinks.costs import attempt_rows, cost_rows, run_rows
from wattribute.sinks.models import model_rows, quality_rows, renamed_rows, version_rows
from wattribute.sinks.store import Readable, Result, Store, open_store
from wattribute.sinks.tariffs import Tariff, add_tariffs

_BAR_S: Final = 1.0
_CORES: Final = 2
_SPAN: Final = "policy = 'equal', since = {since:String}, until = {until:String}"
_WHEN: Final = "since = {since:String}, until = {until:String}"
_STEP: Final = "step = 'hour', tz = 'Europe/Berlin'"
_NOW: Final = "as_of = '2026-07-01'"
_VIEWS: Final[Mapping[str, str]] = {
    "priced_usage": f"priced_usage({_SPAN}, {_STEP}, {_NOW})",
    "cost": f"cost({_SPAN})",
    "cost_over_time": f"cost_over_time({_SPAN}, {_STEP})",
    "cost_as_of": f"cost_as_of({_SPAN}, {_NOW})",
    "cost_by_policy": f"cost_by_policy({_WHEN}, {_STEP}, {_NOW})",
    "unit_cost": f"unit_cost({_SPAN}, unit = 'output_tokens')",
    "counted_unit": f"counted_unit({_WHEN}, unit = 'output_tokens')",
    "lesser_unit": f"lesser_unit({_WHEN}, unit = 'output_tokens')",
    "unit_coverage": f"unit_coverage({_SPAN}, unit = 'output_tokens')",
    "covered_cost": f"covered_cost({_SPAN}, unit = 'output_tokens')",
    "model_cost": f"model_cost({_SPAN})",
    "model_watts": f"model_watts({_WHEN})",
    "model_minute": f"model_minute({_SPAN})",
    "model_throughput": f"model_throughput({_SPAN})",
    "model_quality": f"model_quality({_WHEN})",
    "amortised_training": f"amortised_training({_SPAN})",
    "renamed_model": f"renamed_model({_WHEN})",
    "run_cost": f"run_cost({_SPAN})",
    "attempt_cost": f"attempt_cost({_SPAN})",
    "attempt_progress": "attempt_progress",
    "attempt": "attempt",
    "billed": f"billed({_WHEN}, step = 'all', tz = 'UTC', {_NOW})",
    "reconcile": f"reconcile({_SPAN})",
    "price_book": "price_book",
    "price_edge": "price_edge",
    "tariff_book": "tariff_book",
    "conservation": "conservation",
    "conservation of the last ten minutes": "conservation WHERE window_start >="
    " parseDateTime64BestEffort({until:String}, 3, 'UTC') - INTERVAL 10 MINUTE",
}
_MONTH: Final[Mapping[str, str]] = {
    "a month by team": f"SELECT team, account, sum(energy_uj), sum(cost_usd) FROM cost({_SPAN}) GROUP BY ALL",
    "a month by team and day": "SELECT bucket_start, team, sum(cost_usd)"
    f" FROM cost_over_time({_SPAN}, step = 'day', tz = 'UTC') GROUP BY ALL",
    "a month by team and day of Berlin": "SELECT bucket_start, team, sum(cost_usd)"
    f" FROM cost_over_time({_SPAN}, step = 'day', tz = 'Europe/Berlin') GROUP BY ALL",
}


class _Clocked:
    """A store, and the seconds that its answers took."""

    def __init__(self, store: Readable) -> None:
        self._store = store
        self.taken_s = 0.0

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> Result:
        begin_s = time.perf_counter()
        try:
            return self._store.query(sql, params)
        finally:
            self.taken_s += time.perf_counter() - begin_s

    def close(self) -> None:
        self._store.close()


def answers(since: datetime, until: datetime) -> dict[str, Callable[[Readable], object]]:
    """Every view and command, by name, as queries to a store with the rows of ``benchmarks.fleet``."""
    params = {"since": f"{since:%F %T.%f}", "until": f"{until:%F %T.%f}"}
    span = (since, until, "equal")
    versions = [("chat-1", "v1"), ("code-2", "v0")]
    asked: dict[str, Callable[[Readable], object]] = {
        f"view {name}": partial(_all_of, view, params) for name, view in _VIEWS.items()
    }

    def cost(by: Sequence[str] = ("team",), **options: Any) -> Callable[[Readable], object]:
        policy = options.pop("policy", "equal")
        return lambda store: cost_rows(store, by, since, until, policy, **options)

    def models(store: Readable) -> None:
        found = model_rows(store, *span)
        quality_rows(store, [(row["model"], row["model_version"]) for row in found], since, until)
        renamed_rows(store, since, until)

    def compare(store: Readable) -> None:
        version_rows(store, versions, *span)
        quality_rows(store, versions, since, until)

    asked |= {
        "cost --by team": cost(),
        "cost --by model,model_version --unit output_tokens": cost(
            ("model", "model_version"), unit="output_tokens"
        ),
        "cost --by team,hour --tz Europe/Berlin": cost(("team", "hour"), policy="memory", tz="Europe/Berlin"),
        "cost --by gpu,labels.team --as-of": cost(
            ("gpu", "labels.team"), policy="active", as_of=datetime(2026, 5, 1, tzinfo=UTC)
        ),
        "cost --unallocated owner": cost(unallocated="owner"),
        "cost --compare-policies": lambda store: policy_rows(store, ["team"], since, until),
        "runs": lambda store: run_rows(store, *span),
        "run, at its end": lambda store: (
            run_rows(store, None, None, "equal", "run-3-82420"),
            attempt_rows(store, "run-3-82420", "equal"),
        ),
        "models": models,
        "compare": compare,
        "reconcile --by host": lambda store: reconcile_rows(store, "host", *span),
        "explain --model": lambda store: explain_rows(store, {"model": "chat-1"}, *span),
        "explain --model --unit": lambda store: explain_rows(
            store, {"model": "chat-1"}, *span, unit="output_tokens"
        ),
        "top": top_rows,
    }
    return asked


def over_windows(gpus: int, seconds: int, repetitions: int) -> Figures:
    """Time each view and command over nearly all windows; the span begins and ends within a minute. Check
    that the sums are those of ``attribution``, and that every window is conserved."""
    _on_two_cores()
    with tempfile.TemporaryDirectory() as folder:
        sink = ClickHouseSink(open_store(f"chdb://{folder}/store"))
        rows = fill_windows(sink, gpus, seconds)
        fill_outcomes(sink.store, gpus, seconds)
        declare_host(sink.store)
        since = START + timedelta(seconds=7, milliseconds=250)
        until = START + timedelta(seconds=seconds - 9, milliseconds=-500)
        _check_sums(sink.store, since, until)
        reader = sink.store.reader()
        asked = answers(since, until)
        figures = {name: timed(ask, reader, repetitions) for name, ask in asked.items()}
        by_day = Tariff(price_per_kwh=0.3, time_zone="Europe/Berlin", from_hour=6, to_hour=22)
        add_tariffs(sink.store, [by_day])
        figures |= {
            f"{name}, a tariff by hour": timed(asked[name], reader, repetitions)
            for name in ("view cost", "view amortised_training", "models")
        }
        ((unconserved,),) = reader.query("SELECT count() FROM conservation").rows
        check(unconserved == 0, f"{unconserved} windows are not conserved")
        reader.close()
        sink.close()
    return {"rows": rows, "figures": figures}


def declare_host(store: Store) -> None:
    """Declare that a host is billed, so that ``cost`` also queries its unobserved time."""
    add_billed(store, BilledHost(host="node-0000", gpu_model="NVIDIA H200", billed_from=START))


def over_a_month(gpus: int, hours: int, repetitions: int) -> Figures:
    """Time a month: whole days come from ``attribution_day``, cut days from ``attribution_hour``."""
    _on_two_cores()
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
        reader = store.reader()
        figures = {
            name: timed(partial(_asked, sql, params), reader, repetitions) for name, sql in _MONTH.items()
        }
        reader.close()
        sink.close()
    return {"rows": rows, "figures": figures}


def rows(small: bool) -> list[Row]:
    """The rows of the table."""
    windows, month = (
        ({"gpus": 8, "seconds": 400, "repetitions": 0}, {"gpus": 8, "hours": 48, "repetitions": 0})
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


def timed(ask: Callable[[Readable], object], store: Readable, repetitions: int) -> dict[str, float]:
    """Database time and processor time of all threads: the median of the repetitions after a first one, or
    the first one if there are none."""
    times_s: list[tuple[float, float]] = []
    for _ in range(repetitions + 1):
        clocked, begin_s = _Clocked(store), time.process_time()
        ask(clocked)
        times_s.append((clocked.taken_s, time.process_time() - begin_s))
    taken_s, cpu_s = zip(*(times_s[1:] or times_s), strict=True)
    return {"s": statistics.median(taken_s), "cpu-s": statistics.median(cpu_s)}


def _on_two_cores() -> None:
    """Keep this process, which only times answers, on two cores. Call it before the engine starts threads."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:_CORES])


def _asked(sql: str, params: Mapping[str, str], store: Readable) -> object:
    return store.query(sql, params)


def _all_of(view: str, params: Mapping[str, str], store: Readable) -> object:
    """Compute every column of every row, and fetch only their number. Values are written into the view's
    call, as people do: for a call with parameters the store inserts the text of the view."""
    for name, value in params.items():
        view = view.replace(f"{{{name}:String}}", f"'{value}'")
    return _asked(f"SELECT count(), sum(ignore(*)) FROM {view}", {}, store)


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


def _check_sums(store: Store, since: datetime, until: datetime) -> None:
    params = {"since": f"{since:%F %T.%f}", "until": f"{until:%F %T.%f}"}
    found = store.query(f"SELECT sum(gpu_time_ns), sum(energy_uj) FROM cost({_SPAN})", params).rows
    due = store.query(
        "SELECT sum(gpu_time_equal_ns), sum(active_energy_uj + idle_energy_equal_uj) FROM attribution FINAL"
        " WHERE window_start >= parseDateTime64BestEffort({since:String}, 3, 'UTC')"
        " AND window_start < parseDateTime64BestEffort({until:String}, 3, 'UTC')",
        params,
    ).rows
    check(found == due, f"cost sums up to {found}, attribution to {due}")
