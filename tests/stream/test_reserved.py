"""A GPU that is given to somebody: what no process of it uses is reserved for whom it is given to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.stream.host import GPU, SECOND_NS, START_NS, messages, stream, table
from wattribute.records import Device, Exit, Process, Record, Reservation, Workload
from wattribute.stream.engine import Engine
from wattribute.wire import Encoder

Row = Mapping[str, Any]


def readings(seconds: int) -> list[list[Record]]:
    """A flush a second of a device read at 10 Hz, 100 W."""
    return [
        [
            Device(t=at(second + tick / 10), gpu=GPU, energy_mj=1 + second * 100_000 + tick * 10_000)
            for tick in range(10)
        ]
        for second in range(seconds)
    ]


def at(second: float) -> int:
    return START_NS + int(second * SECOND_NS)


def given(second: float, pod: str = "", **more: Any) -> Reservation:
    return Reservation(t=at(second), gpu=GPU, pod=pod, namespace="ml" if pod else "", **more)


def held(flushes: list[list[Record]], *records: Record) -> dict[int, dict[str, int]]:
    """Of each second the time in ms by account, of reserved ones by pod; the same however it is cut."""
    for record in records:
        flushes[(record.t - START_NS) // SECOND_NS].append(record)
    sent = messages(flushes)
    rows = table(stream(Engine("t"), sent, [len(sent)]))
    for sizes in ([1], [3, 1, 7]):
        assert table(stream(Engine("t"), sent, sizes)) == rows
    return by_second(rows.values())


def by_second(rows: Iterable[Row]) -> dict[int, dict[str, int]]:
    found: dict[int, dict[str, int]] = {}
    for row in rows:
        who = row["pod"] if row["account"] == "reserved" else row["account"]
        of_second = found.setdefault((row["window_start"] * 1_000_000 - START_NS) // SECOND_NS, {})
        assert who not in of_second, "two rows of one"
        of_second[who] = row["gpu_time_equal_ns"] // 1_000_000
        assert row["account"] != "reserved" or (row["pid"], row["active_energy_uj"]) == (0, 0)
    return found


def test_it_is_reserved_where_no_process_runs() -> None:
    process = [
        Process(t=at(second), gpu=GPU, pid=7, start_ns=at(1), period_ns=SECOND_NS, sm_percent=50.0)
        for second in range(11, 21)
    ]
    found = held(readings(40), given(5.25, "a"), given(30.5), *process, Exit(t=at(20), pid=7, start_ns=at(1)))
    assert found[4] == {"unheld": 1000}
    assert found[5] == {"unheld": 250, "a": 750}
    assert found[9] == {"a": 1000}
    assert all(found[second] == {"process": 1000} for second in range(10, 20))
    assert found[20] == found[29] == {"a": 1000}
    assert found[30] == {"a": 500, "unheld": 500}
    assert found[31] == {"unheld": 1000}


def test_it_passes_from_one_to_the_next_and_back() -> None:
    found = held(readings(30), given(2, "a"), given(8.5, "b"), given(12, "a"), given(20))
    assert found[8] == {"a": 500, "b": 500}
    assert found[10] == {"b": 1000}
    assert found[12] == found[19] == {"a": 1000}
    assert found[21] == {"unheld": 1000}


@pytest.mark.parametrize(("told_again_s", "is_held"), [(179, True), (180, True), (181, False)])
def test_what_is_not_told_again_lapses(told_again_s: int, is_held: bool) -> None:
    found = held(readings(220), given(5, "a"), given(5 + told_again_s, "a"), given(200))
    assert found[100] == ({"a": 1000} if is_held else {"unheld": 1000})
    assert found[190] == {"a": 1000}
    assert found[210] == {"unheld": 1000}


def test_whose_it_is_stands_on_the_row() -> None:
    flushes = readings(20)
    told = [given(2, "a"), given(9, "a", team="search", labels={"tier": "gold"}), given(15)]
    for record in told:
        flushes[(record.t - START_NS) // SECOND_NS].append(record)
    rows = table(stream(Engine("t"), messages(flushes), [1])).values()
    reserved = [row for row in rows if row["account"] == "reserved"]
    for row in reserved:
        since_9 = row["window_start"] * 1_000_000 >= at(9)
        team = "search" if since_9 else ""
        assert (row["pod"], row["namespace"], row["team"]) == ("a", "ml", team)
    assert {row["weight_source"] for row in reserved} == {"none"}
    assert len({row["process_start_ns"] for row in reserved}) == 1


@pytest.mark.parametrize("sizes", [[1], [3, 1, 7], [99]])
@pytest.mark.parametrize("late_s", [0, 6])
def test_what_is_told_of_a_pod_stands_on_all_gpus_that_are_given_to_it(sizes: list[int], late_s: int) -> None:
    """With a record for each of them, of which the first is news."""
    flushes: list[list[Record]] = []
    for second, read in enumerate(readings(20)):
        told = [given(1, "a")] if second == 1 else [given(5, "a", team="x")] if second == 5 + late_s else []
        records: list[Device | Reservation] = [
            *(record for record in read if isinstance(record, Device)),
            *told,
        ]
        flushes.append([replace(record, gpu=gpu) for gpu in (GPU, "g2") for record in records])
    rows = table(stream(Engine("t"), messages(flushes), sizes)).values()
    teams = {
        (row["gpu"], (row["window_start"] * 1_000_000 - START_NS) // SECOND_NS): row["team"]
        for row in rows
        if row["account"] == "reserved"
    }
    assert teams == {
        (gpu, second): "x" if second >= 5 else "" for gpu in (GPU, "g2") for second in range(1, 20)
    }


def test_a_mig_instance_and_what_was_told_before_change_nothing() -> None:
    found = held(readings(20), given(5, "a"), given(9, "b", gpu_instance=3), given(12))
    assert found[8] == found[10] == {"a": 1000}
    late = messages([*readings(20), [given(3, "a")]])
    late += [(len(late), value) for _, value in messages([[given(2, "b")]])]
    assert by_second(table(stream(Engine("t"), late, [5])).values())[18] == {"a": 1000}


def test_a_workload_of_the_pod_is_its_own() -> None:
    flushes = readings(12)
    flushes[3] += [
        given(3, "a"),
        Workload(t=at(3), pid=7, start_ns=at(1), pod="a", model="chat"),
        Process(t=at(3), gpu=GPU, pid=7, start_ns=at(1), period_ns=SECOND_NS, sm_percent=10.0),
    ]
    rows = table(stream(Engine("t"), messages(flushes), [4])).values()
    assert {row["model"] for row in rows if row["account"] == "process"} == {"chat"}
    assert {row["model"] for row in rows if row["account"] == "reserved"} == {""}


@pytest.mark.parametrize("size", [1, 1000])
def test_a_process_that_gets_the_row_of_a_reservation_is_a_process(size: int) -> None:
    tens = range(0, 9000, 10)
    flushes: list[list[Record]] = [
        [Device(t=at(ten + tick), gpu=GPU, energy_mj=1 + (ten + tick) * 100_000) for tick in range(10)]
        for ten in tens
    ]
    flushes[1] += [given(12, "a"), given(15)]
    flushes[-2] += [  # after more than the horizon, and after room was made: nothing is known of "a" any more
        Process(t=at(8980 + tick), gpu=GPU, pid=7, start_ns=at(1), period_ns=SECOND_NS) for tick in range(10)
    ]
    engine = Engine("t", window_ns=10 * SECOND_NS)
    rows = table(stream(engine, messages(flushes), [size])).values()
    assert {row["account"] for row in rows if row["pid"] == 7} == {"process"}


def test_a_reservation_from_the_far_future_does_not_shut_out_those_that_follow() -> None:
    flushes = readings(20)
    flushes[0].insert(0, given(10**8, "b"))  # before the host has a clock
    flushes[3] += [given(10**8, "b")]
    flushes[5] += [given(5, "a")]
    engine = Engine("t")
    found = by_second(table(stream(engine, messages(flushes), [1])).values())
    assert found[9] == {"a": 1000}
    assert engine.tables.dropped >= 1


def test_it_is_told_anew_where_the_clock_was_set_back() -> None:
    flushes = readings(300)
    for second in (5, 60, 120, 180, 240):
        flushes[second].append(given(second, "a"))
    set_back = [[replace(record, t=record.t - 3600 * SECOND_NS) for record in flush] for flush in flushes]
    values = [
        value
        for epoch, part in ((1, flushes), (2, set_back))
        for flush in part
        for _, _, value in Encoder("host-1", "boot-1", epoch).encode(flush)
    ]
    for size in (1, 1000):
        found = by_second(table(stream(Engine("t"), list(enumerate(values)), [size])).values())
        assert found[100] == found[100 - 3600] == {"a": 1000}
