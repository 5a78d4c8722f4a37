"""The path to a server: a small HTTP front, in this process, before the same engine."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.httputil import ResponseSource

from tests.clickhouse_shim import ClickHouseShim, Fault
from tests.sinks.conftest import AsColumns
from wattribute.errors import StoreAwayError, StoreError
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.costs import cost_rows
from wattribute.sinks.prices import Price, add_prices
from wattribute.sinks.query_server import open_store_for_reading
from wattribute.sinks.store import _ANALYSIS, _READING, open_store


@pytest.fixture
def shim(engine: Any, folder: Path) -> Iterator[ClickHouseShim]:
    made = ClickHouseShim(folder)
    yield made
    made.close()


@pytest.fixture
def server_url(shim: ClickHouseShim, _numbers: Iterator[int]) -> str:
    return shim.url(f"http{next(_numbers)}")


def test_the_same_sink_and_the_same_figures(
    shim: ClickHouseShim, server_url: str, as_columns: AsColumns, start_ms: int
) -> None:
    sink = ClickHouseSink(open_store(server_url))
    rows = [
        {
            "window_start": start_ms + 1000 * n,
            "model": "é",
            "gpu_time_memory_ns": 10**12,
            "labels": {"a": "b"},
        }
        for n in range(120)
    ]
    sink.write_attribution(as_columns(rows))
    sink.refresh_rollups()
    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=3.6)])
    sink.close()
    reader = open_store_for_reading(server_url)
    (row,) = cost_rows(reader, ["model"], None, None, "memory", "requests")
    assert (row["model"], row["cost_usd"]) == ("é", pytest.approx(120))
    assert reader.query("SELECT sum(window_count) FROM attribution_day FINAL").rows == [(120,)]
    reader.close()
    assert ("async_insert", "0") in shim.settings_seen
    assert ("readonly", "1") in shim.settings_seen


def test_an_insert_whose_answer_was_lost_may_be_repeated(
    shim: ClickHouseShim, server_url: str, as_columns: AsColumns
) -> None:
    sink = ClickHouseSink(open_store(server_url))
    columns = as_columns([{"active_energy_uj": 5}])
    shim.fault = lambda sql: Fault(done=True) if "INTO attribution " in sql else None
    with pytest.raises(StoreAwayError):
        sink.write_attribution(columns)
    assert shim.rows == 1
    shim.fault = lambda sql: None
    sink.write_attribution(columns)
    sink.refresh_rollups()
    assert sink.store.query("SELECT sum(active_energy_uj) FROM attribution FINAL").rows == [(5,)]
    assert sink.store.query("SELECT sum(active_energy_uj) FROM attribution_day FINAL").rows == [(5,)]
    sink.close()


def test_an_older_server_lacks_some_of_what_spares_it_time(
    shim: ClickHouseShim, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """query_plan_remove_unused_columns came with 25.12: without it the store answers all the same."""
    monkeypatch.setitem(_ANALYSIS, "a_setting_of_days_to_come", 0)
    monkeypatch.setitem(_READING, "a_setting_of_days_to_come", 0)
    open_store(server_url).close()
    reader = open_store_for_reading(server_url)
    assert reader.query("SELECT 1").rows == [(1,)]
    reader.close()
    assert ("query_plan_remove_unused_columns", "0") in shim.settings_seen
    assert "a_setting_of_days_to_come" not in dict(shim.settings_seen)


@pytest.mark.parametrize("readonly", [1, 2])
def test_who_may_only_read_by_a_profile_of_the_server_reads(
    shim: ClickHouseShim, server_url: str, as_columns: AsColumns, readonly: int
) -> None:
    sink = ClickHouseSink(open_store(server_url))
    sink.write_attribution(as_columns([{"active_energy_uj": 5}]))
    sink.close()
    shim.run(f"SET readonly = {readonly}")
    shim.settings_seen.clear()
    with closing(open_store_for_reading(server_url)) as reader:
        assert reader.query("SELECT sum(active_energy_uj) FROM attribution FINAL").rows == [(5,)]
    assert "readonly" not in dict(shim.settings_seen)
    assert ("max_execution_time" in dict(shim.settings_seen)) == (readonly == 2)


def test_what_an_answer_means_is_not_left_to_a_profile(shim: ClickHouseShim, server_url: str) -> None:
    open_store(server_url).close()
    shim.run("SET join_use_nulls = 1, readonly = 1")
    with pytest.raises(StoreError, match="Setting join_use_nulls is readonly"):
        open_store_for_reading(server_url)


def test_who_writes_to_a_database_that_is_there_need_not_be_allowed_to_make_one(
    shim: ClickHouseShim, server_url: str
) -> None:
    open_store(server_url).close()
    shim.fault = lambda sql: Fault(status=403, code=497) if sql.startswith("CREATE DATABASE") else None
    open_store(server_url).close()


def test_a_server_that_is_too_old_is_told_in_a_line(
    shim: ClickHouseShim, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wattribute.sinks.store._OLDEST", (999, 1))
    with pytest.raises(StoreError, match=r"is ClickHouse [\d.]+: wattribute needs 999\.1 or newer"):
        open_store(server_url)


def test_a_long_answer_that_is_cut_is_an_outage(shim: ClickHouseShim, server_url: str) -> None:
    with closing(open_store(server_url)) as store:
        shim.fault = lambda sql: Fault(done=True, halfway=True)
        with pytest.raises(StoreAwayError, match=r"error from the store .*: the connection was cut"):
            store.query("SELECT number FROM numbers(500000)")


@pytest.mark.parametrize("away", ["cut", "refused"])
def test_an_answer_without_rows_is_let_go_of_at_once(
    shim: ClickHouseShim, server_url: str, away: str
) -> None:
    """Where the client had to ask twice, too: what the garbage collector takes apart prints a traceback."""
    store = open_store(server_url)

    def fault(sql: str) -> Fault | None:
        shim.fault = lambda sql: None
        return Fault()

    gc.disable()
    try:
        if away == "refused":
            shim.refuse()
            with pytest.raises(StoreAwayError):
                store.query("SELECT 1 WHERE 0")
            shim.accept()
        else:
            shim.fault = fault
        assert store.query("SELECT 1 WHERE 0").rows == []
        assert not [one for one in gc.get_objects() if isinstance(one, ResponseSource)]
    finally:
        gc.enable()
        store.close()


@pytest.mark.parametrize(
    "fault",
    [
        Fault(),
        Fault(silent=True),
        Fault(status=502),
        Fault(status=503),
        *(Fault(status=500, code=code) for code in (159, 202, 209, 241, 242, 252, 319, 999)),
    ],
    ids=str,
)
def test_what_may_pass_is_told_apart(
    shim: ClickHouseShim, server_url: str, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    if fault.silent:
        monkeypatch.setattr("wattribute.sinks.store.ANSWER_S", 2)
    with closing(open_store(server_url)) as store:
        shim.fault = lambda sql: fault
        with pytest.raises(StoreAwayError) as away:
            store.query("SELECT 1")
        assert "\n" not in str(away.value)
        shim.fault = lambda sql: None
        assert store.query("SELECT 1").rows == [(1,)]


def test_what_does_not_pass_is_told_apart(shim: ClickHouseShim, server_url: str) -> None:
    with closing(open_store(server_url)) as store:
        for sql in ("SELECT 1 FROM nowhere", "SELECT nothing", "SELEC 1"):
            with pytest.raises(StoreError) as refused:
                store.query(sql)
            assert not isinstance(refused.value, StoreAwayError), sql
        for fault in (Fault(status=403, code=516), Fault(status=500, code=497), Fault(status=404)):
            shim.fault = lambda sql, fault=fault: fault  # type: ignore[misc]
            with pytest.raises(StoreError) as refused:
                store.query("SELECT 1")
            assert not isinstance(refused.value, StoreAwayError), fault


def test_a_server_that_comes_back_is_found_again(shim: ClickHouseShim, server_url: str) -> None:
    with closing(open_store(server_url)) as store:
        shim.refuse()
        with pytest.raises(StoreAwayError, match="Connection refused: check the address"):
            store.query("SELECT 1")
        with pytest.raises(StoreAwayError, match="cannot open the store"):
            store.beside()
        shim.accept()
        assert store.query("SELECT 1").rows == [(1,)]
