from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from tests.sinks.conftest import AsColumns
from wattribute.errors import StoreError, UsageError
from wattribute.settings import Settings
from wattribute.sinks import rollup
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.contract import Coded, Column, Sink
from wattribute.sinks.evidence import Evidence
from wattribute.sinks.rollup import retention_days, set_retention
from wattribute.sinks.schema import SUMS

SUMMED = ", ".join(f"sum({name})" for name in SUMS)


def rolled(sink: ClickHouseSink) -> list[list[tuple[Any, ...]]]:
    """The sums of the four tables, which must be the same four times."""
    tables = ("attribution", "attribution_minute", "attribution_hour", "attribution_day")
    return [
        sink.store.query(
            f"SELECT host, gpu, account, model, {SUMMED} FROM {table} FINAL GROUP BY ALL ORDER BY ALL"
        ).rows
        for table in tables
    ]


def assert_rolled_up(sink: ClickHouseSink) -> None:
    sink.refresh_rollups()
    windows, *levels = rolled(sink)
    assert windows
    for level in levels:
        assert level == windows


def busy_rows(start_ms: int, count: int = 400, version: int = 1) -> list[dict[str, Any]]:
    """A row every 37 s over two GPUs: several minutes, hours and two days."""
    return [
        {
            "window_start": start_ms + 137_000 * place,
            "gpu": f"GPU-{place % 2}",
            "pid": place % 5,
            "model": f"m{place % 3}",
            "active_energy_uj": 1000 + place,
            "idle_energy_equal_uj": 7 * place,
            "idle_energy_memory_uj": 5 * place,
            "idle_energy_active_uj": 3 * place,
            "active_time_ns": 11 * place,
            "gpu_time_equal_ns": 13 * place,
            "gpu_time_memory_ns": 17 * place,
            "gpu_time_active_ns": 19 * place,
            "error_uj": place,
            "error_ns": 2 * place,
            "version": version,
        }
        for place in range(count)
    ]


def test_every_column_comes_back(sink: ClickHouseSink, as_columns: AsColumns, start_ms: int) -> None:
    texts = "host gpu gpu_model boot_id part cluster container pod namespace job user team application"
    texts += " workload phase model model_version run provider region pricing identity_source"
    row: dict[str, Any] = {name: f"{name} 'é\\" for name in texts.split()}
    row |= {
        "labels": {"z": "1", "a": "it's"},
        "account": "reserved",
        "energy_source": "module",
        "weight_source": "gpm",
    }
    row |= {
        "window_start": start_ms + 250,
        "window_ms": 250,
        "gpu_instance": 3,
        "pid": 2**31,
        "attempt": 2**32 - 1,
    }
    row |= {
        "process_start_ns": 2**63 + 5,
        "memory_bytes": 2**63 + 7,
        "version": 2**63 + 9,
        "covered_ns": 10**9,
    }
    for place, name in enumerate([*SUMS, "device_energy_uj"]):
        row[name] = (1 << 61) + place
    row |= {"flags": 2**31, "segment": 12, "deleted": 0}
    sink.write_attribution(as_columns([row]))

    (stored,) = sink.store.query("SELECT * FROM attribution FINAL").dicts()

    expected = row | {
        "window_start": datetime.fromtimestamp(start_ms / 1000, UTC) + timedelta(milliseconds=250)
    }
    assert stored == expected


def test_codes_may_repeat_values_and_share_arrays(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    rows = [{"window_start": start_ms + 1000 * place} for place in range(6)]
    columns = as_columns(rows)
    codes = np.array([0, 1, 2, 2, 1, 0], dtype=np.int32)
    columns["model"] = Coded(codes, ["a", "b", "a"])
    columns["team"] = Coded(codes, ["x", "y", "z"])
    sink.write_attribution(columns)

    stored = sink.store.query("SELECT model, team FROM attribution FINAL ORDER BY window_start").rows
    assert stored == [("a", "x"), ("b", "y"), ("a", "z"), ("a", "z"), ("b", "y"), ("a", "x")]


def test_integers_may_be_narrower_than_the_table(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    columns = as_columns([{"window_start": start_ms + 1000 * place} for place in range(2)])
    narrow = columns | {
        "active_energy_uj": np.array([0, (1 << 31) - 1], np.int32),
        "idle_energy_equal_uj": np.array([-(1 << 31), 1], np.int32),
        "covered_ns": np.array([1, (1 << 32) - 1], np.uint32),
        "nothing_due": np.array([3, 0], np.uint8),  # the rows it stands for have no energy
    }
    wide = {**as_columns([{"window_start": start_ms + 2000}]), "active_energy_uj": np.array([1 << 31])}
    sink.write_attribution(narrow)
    sink.write_attribution(wide)

    names = "active_energy_uj, idle_energy_equal_uj, covered_ns"
    stored = sink.store.query(f"SELECT {names} FROM attribution FINAL ORDER BY window_start").rows
    assert stored == [(0, -(1 << 31), 1), ((1 << 31) - 1, 1, (1 << 32) - 1), (1 << 31, 0, 0)]


def test_what_is_announced_is_noted_before_any_of_it_is_written(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    batches = [as_columns([{"window_start": start_ms + 60_000 * minute}]) for minute in range(3)]
    sink.announce(batches)
    assert sink.store.query("SELECT count() FROM dirty_bucket FINAL").rows == [(3,)]
    sink.write_attribution(batches[0])
    sink.refresh_rollups()  # takes all the notes: what comes after it notes its own again
    assert sink.store.query("SELECT count() FROM dirty_bucket FINAL").rows == [(0,)]
    for columns in batches[1:]:
        sink.write_attribution(columns)
    assert sink.store.query("SELECT count() FROM dirty_bucket FINAL").rows == [(2,)]
    assert sink.store.query("SELECT count() FROM attribution FINAL").rows == [(3,)]
    assert_rolled_up(sink)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"model": None}, "model"),
        ({"model": Coded(np.array([5], dtype=np.int32), ["a"])}, "model has a code outside"),
        ({"model": Coded(np.array([-1], dtype=np.int32), ["a"])}, "model has a code outside"),
        ({"pid": np.array([-1])}, "pid"),
        ({"pid": np.array([1, 2], dtype=np.uint32)}, "cannot store rows"),
        ({"colour": np.array([1])}, "colour"),
    ],
)
def test_columns_that_do_not_fit_are_refused(
    sink: ClickHouseSink, as_columns: AsColumns, change: dict[str, Column | None], line: str
) -> None:
    columns: dict[str, Any] = as_columns([{}]) | change
    with pytest.raises(StoreError, match=line):
        sink.write_attribution({name: column for name, column in columns.items() if column is not None})
    assert sink.store.query("SELECT count() FROM attribution").rows == [(0,)]


def test_no_rows_are_no_error(sink: ClickHouseSink, as_columns: AsColumns) -> None:
    contract: Sink = sink
    contract.write_attribution(as_columns([]))
    contract.write_rows("gap", [])
    contract.refresh_rollups()
    assert sink.store.query("SELECT count() FROM attribution").rows == [(0,)]


def test_writing_again_changes_nothing(sink: ClickHouseSink, as_columns: AsColumns, start_ms: int) -> None:
    columns = as_columns(busy_rows(start_ms))
    everything = "SELECT * FROM {} FINAL ORDER BY ALL"
    tables = ("attribution", "attribution_minute", "attribution_hour", "attribution_day")
    sink.write_attribution(columns)
    assert_rolled_up(sink)
    before = [sink.store.query(everything.format(table)).rows for table in tables]
    sink.write_attribution(columns)
    assert_rolled_up(sink)
    assert [sink.store.query(everything.format(table)).rows for table in tables] == before


def test_an_older_version_does_not_win(sink: ClickHouseSink, as_columns: AsColumns) -> None:
    sink.write_attribution(as_columns([{"model": "new", "version": 5}]))
    sink.write_attribution(as_columns([{"model": "old", "version": 4}]))
    assert sink.store.query("SELECT model FROM attribution FINAL").rows == [("new",)]


@pytest.mark.parametrize("buckets_at_once", [5_000, 100])
def test_deleted_rows_vanish_everywhere(
    sink: ClickHouseSink,
    as_columns: AsColumns,
    start_ms: int,
    monkeypatch: pytest.MonkeyPatch,
    buckets_at_once: int,
) -> None:
    monkeypatch.setattr(rollup, "_CHUNK", buckets_at_once)
    rows = busy_rows(start_ms)
    sink.write_attribution(as_columns(rows))
    sink.refresh_rollups()
    gone = [row | {"deleted": 1, "version": 2} for row in rows if row["model"] == "m1"]
    sink.write_attribution(as_columns(gone))
    assert_rolled_up(sink)
    assert {row[3] for row in rolled(sink)[3]} == {"m0", "m2"}


def test_rollups_follow_late_restatements_and_late_identity(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    rows = busy_rows(start_ms, version=10)
    sink.write_attribution(as_columns(rows))
    assert_rolled_up(sink)
    late = [row | {"active_energy_uj": 1, "version": 11} for row in rows[10:20]]
    # of another model now: its sums must leave the old model, though no row of that carries a newer version
    late += [row | {"model": "known later", "version": 12} for row in rows[100:300]]
    sink.write_attribution(as_columns(late))
    assert_rolled_up(sink)
    assert any(row[3] == "known later" for row in rolled(sink)[3])


def test_rollups_follow_a_restatement_of_a_version_below_the_bucket_s(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    first: dict[str, Any] = {"version": 10}
    second = {"version": 20, "window_start": start_ms + 1000, "active_energy_uj": 5}
    sink.write_attribution(as_columns([first, second]))
    assert_rolled_up(sink)
    sink.write_attribution(as_columns([first | {"version": 15, "active_energy_uj": 100}]))
    assert_rolled_up(sink)
    assert sink.store.query("SELECT sum(active_energy_uj) FROM attribution_day FINAL").rows == [(105,)]


def test_a_sink_takes_over_what_another_left(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    sink.write_attribution(as_columns(busy_rows(start_ms)))
    assert sink.store.query("SELECT count() FROM attribution_minute").rows == [(0,)]
    successor = ClickHouseSink(sink.store)
    assert_rolled_up(successor)
    assert sink.store.query("SELECT count() FROM dirty_bucket FINAL").rows == [(0,)]


def test_refresh_leaves_buckets_past_the_retention_alone(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    long_ago: dict[str, Any] = {"window_start": 946_684_800_000, "active_energy_uj": 50}
    sink.write_attribution(as_columns([long_ago]))
    sink.refresh_rollups()
    set_retention(sink.store, 30)
    assert retention_days(sink.store) == 30
    sink.write_attribution(as_columns([long_ago | {"pid": 9, "active_energy_uj": 1}]))
    sink.refresh_rollups()
    assert sink.rollups.past_retention == 1
    assert sink.store.query("SELECT sum(active_energy_uj) FROM attribution_day FINAL").rows == [(50,)]
    set_retention(sink.store, 0)
    assert retention_days(sink.store) == 0


def test_the_longest_retention_keeps_the_windows_of_today(
    sink: ClickHouseSink, as_columns: AsColumns
) -> None:
    (setting,) = (each for each in fields(Settings) if each.name == "retention_days")
    sink.write_attribution(as_columns([{"window_start": int(datetime.now(UTC).timestamp()) * 1000}]))
    set_retention(sink.store, setting.metadata["most"])
    sink.store.command("OPTIMIZE TABLE attribution FINAL")
    assert sink.store.query("SELECT count() FROM attribution").rows == [(1,)]
    set_retention(sink.store, 0)


def test_explain_says_what_its_windows_do_not_hold_any_more(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Of two seconds, one long ago, the money of both stands beside the energy of one."""
    rows = [
        {"window_start": moment, "active_energy_uj": 5_000_000, "gpu_time_equal_ns": 10**9, "model": "m"}
        for moment in (946_684_800_000, start_ms)
    ]
    sink.write_attribution(as_columns(rows))
    sink.refresh_rollups()
    figure = Evidence(sink.store, {"model": "m"}, None, None, "equal").figure()
    assert "retention_days" not in {row["about"] for row in figure}
    set_retention(sink.store, 20_000)
    sink.store.command("DELETE FROM attribution WHERE window_start < '2001-01-01'")
    of_both = Evidence(sink.store, {"model": "m"}, None, None, "equal").figure()
    (gone,) = (row for row in of_both if row["about"] == "retention_days")
    assert (gone["energy_j"], gone["gpu_hours"]) == (pytest.approx(5), pytest.approx(1 / 3600))
    with pytest.raises(UsageError, match="windows older than 20000 days"):
        Evidence(sink.store, {"model": "m"}, None, "2001-01-01", "equal").figure()
    set_retention(sink.store, 0)


def test_small_tables_take_what_is_given_once(sink: ClickHouseSink) -> None:
    unit = {
        "t": 1_780_000_000_123_456_789,
        "unit": "requests",
        "model": "m",
        "quantity": 2.5,
        "event_id": "e",
        "host": "a",
    }
    by_position = unit | {"event_id": "", "position": "1 7"}
    for host in ("a", "b"):  # an event that a second host reports is the same event
        sink.write_rows(
            "unit", [unit | {"host": host}, by_position, by_position | {"period_ns": 5, "position": "1 8"}]
        )
    rows = sink.store.query(
        "SELECT toUnixTimestamp64Nano(t), quantity, period_ns, position FROM unit FINAL ORDER BY position"
    ).rows
    assert rows == [
        (1_780_000_000_123_456_789, 2.5, 0, ""),
        (1_780_000_000_123_456_789, 2.5, 0, "1 7"),
        (1_780_000_000_123_456_789, 2.5, 5, "1 8"),
    ]
    sink.write_rows("process", [{"host": "h", "pid": 1, "labels": {"b": "2", "a": "1"}}])
    assert sink.store.query("SELECT pid, labels, boot_id FROM process FINAL").rows == [
        (1, {"a": "1", "b": "2"}, "")
    ]
    with pytest.raises(StoreError, match="no column colour"):
        sink.write_rows("gap", [{"colour": "red"}])
    with pytest.raises(StoreError, match="no table nothing"):
        sink.write_rows("nothing", [{"colour": "red"}])
    with pytest.raises(StoreError, match="column pid"):
        sink.write_rows("process", [{"host": "h", "pid": -1}])


def test_every_small_table_can_be_written_twice(sink: ClickHouseSink) -> None:
    t = 1_780_000_000_000_000_000
    rows: dict[str, dict[str, Any]] = {
        "quality": {
            "t": t,
            "model": "m",
            "metric": "mmlu",
            "value": 0.6,
            "sample_count": None,
            "higher_is_better": True,
        },
        "run_event": {"run": "r", "attempt": 1, "t": t, "event": "start", "step": None},
        "lineage": {"model": "m", "model_version": "v", "run": "r"},
        "host": {"host": "h", "provider": "p"},
        "tariff": {"provider": "p", "price_per_kwh": 0.1},
        "budget": {
            "budget_id": "b",
            "scope": {"team": "t"},
            "amount_usd": 5.0,
            "valid_from": 0,
            "valid_to": 60,
        },
        "gap": {"host": "h", "gpu": "g", "gap_start": t, "gap_end": t + 1, "reason": "lost"},
        "dead": {"origin": "file", "position": 7, "t": t, "reason": "not JSON", "excerpt": "{"},
    }
    for _ in range(2):
        for table, row in rows.items():
            sink.write_rows(table, [row])
    for table in rows:
        assert sink.store.query(f"SELECT count() FROM {table} FINAL").rows == [(1,)], table


def test_attempts_of_a_run(sink: ClickHouseSink) -> None:
    second = 1_000_000_000
    events = [
        {"run": "r", "attempt": 0, "t": second, "event": "start", "step": 0, "steps": 10},
        {"run": "r", "attempt": 0, "t": 5 * second, "event": "checkpoint", "step": 4, "steps": 10},
        {"run": "r", "attempt": 0, "t": 6 * second, "event": "fail", "step": 5, "steps": 10},
        {"run": "r", "attempt": 1, "t": 9 * second, "event": "start", "step": 4, "steps": 10},
    ]
    sink.write_rows("run_event", events)
    rows = sink.store.query("SELECT * FROM attempt ORDER BY attempt").rows
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert rows[0] == ("r", 0, epoch + timedelta(seconds=1), epoch + timedelta(seconds=6), "failed", 0)
    assert rows[1] == ("r", 1, epoch + timedelta(seconds=9), None, "running", 4)
