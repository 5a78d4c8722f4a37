"""A GPU that MIG cuts into instances: split to those first, and within each as a whole device is."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stream import host as made_host
from tests.stream import reference
from tests.stream.host import GPU, SECOND_NS, START_NS, Made, messages, stream, table
from tests.stream.test_engine import check_as_reference, check_conserved
from wattribute.records import Device, Gpu, Instance, Process, Record, Reservation
from wattribute.stream.engine import Engine
from wattribute.stream.instances import slices_of

SIZES = {1: 3, 2: 2, 5: 1}
Row = Mapping[str, Any]


def at(second: float) -> int:
    return START_NS + int(second * SECOND_NS)


def make(seed: int, seconds: int, processes: int, gpu: str, tells_activity: bool) -> Made:
    """A device whose instances come and go, most told each second, with processes in them, and some that name
    one that is not there."""
    rng = random.Random(seed)
    made = made_host.make(seed, seconds, processes)
    made.flushes[0][0] = Gpu(t=START_NS, gpu=GPU, name=gpu)
    made.history.slices = 4 if "A30" in gpu else 7
    made.history.idle_mw = 60_000 if "A30" in gpu else 77_700
    for number, size in SIZES.items():
        second, last = rng.choice([0, 0, rng.randrange(seconds)]), seconds
        if rng.random() < 0.5:
            last = rng.randrange(second, seconds) + 1
        records: list[tuple[int, float | None]] = []
        while second < last:
            percent = float(rng.choice([0, 20, 60, 90])) if tells_activity and rng.random() < 0.9 else None
            t = at(second + 0.93)
            records.append((t, percent))
            told = rng.random() < 0.5  # else its profile tells as much
            made.flushes[second].append(
                Instance(
                    t=t,
                    gpu=GPU,
                    gpu_instance=number,
                    slices=size if told else None,
                    profile="" if told else f"{size}g.18gb",
                    sm_percent=percent,
                )
            )
            second += rng.choice([1, 1, 1, 2])
        end = at(seconds + 1000)
        if last < seconds and records:
            end = at(last + 0.5)
            made.flushes[last].insert(0, Instance(t=end, gpu=GPU, gpu_instance=number, slices=0))
        made.history.lives.append(reference.Life(number, size, records[0][0] - SECOND_NS, end, records))
    for number in range(processes):
        instance = rng.choice([*SIZES, -1, 9])
        made.history.instance_of[f"p{number}"] = instance
        for flush in made.flushes:
            for place, record in enumerate(flush):
                if isinstance(record, Process) and record.pid == 100 + number:
                    flush[place] = Process(
                        t=record.t, gpu=GPU, pid=record.pid, start_ns=7, period_ns=SECOND_NS,
                        gpu_instance=instance, sm_percent=record.sm_percent,
                        memory_used_bytes=record.memory_used_bytes,
                    )  # fmt: skip
    return made


cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1 << 30),
        "seconds": st.integers(3, 24),
        "processes": st.integers(0, 5),
        "gpu": st.sampled_from(["NVIDIA H200", "NVIDIA A30"]),
        "tells_activity": st.booleans(),
    }
)


@settings(max_examples=40)
@given(case=cases)
def test_rows_are_what_the_reference_says(case: dict[str, Any]) -> None:
    made = make(**case)
    rows = table(stream(Engine("test"), messages(made.flushes), [7]))
    check_as_reference(made, rows, name_of, roundings=2)


@settings(max_examples=20)
@given(case=cases, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_how_messages_are_cut_into_batches_changes_nothing(case: dict[str, Any], sizes: list[int]) -> None:
    sent = messages(make(**case).flushes)
    whole = table(stream(Engine("test"), sent, [len(sent)]))
    assert table(stream(Engine("test"), sent, sizes)) == whole


def name_of(row: Row) -> str:
    if row["account"] == "process":
        return f"p{row['pid'] - 100}"
    assert (row["pid"], row["process_start_ns"]) == (0, 0)
    return str(row["account"]) + (f" {row['gpu_instance']}" if row["gpu_instance"] >= 0 else "")


def engine() -> Engine:
    """One that is told the idle level, so that it does not learn it."""
    return Engine("t", idle_watts={"NVIDIA H200": 77.7})


def flushes(seconds: int, *records: Record) -> list[list[Record]]:
    """A flush a second of an H200 that draws 277.7 W, 77.7 of them idle, with those records each second."""
    made: list[list[Record]] = [
        [Device(t=at(s + k / 10), gpu=GPU, energy_mj=s * 277_700 + k * 27_770) for k in range(10)]
        for s in range(seconds)
    ]
    made[0].insert(0, Gpu(t=START_NS, gpu=GPU, name="NVIDIA H200"))
    for second, flush in enumerate(made):
        flush += [_moved(record, second) for record in records]
    return made


def _moved(record: Record, second: int) -> Record:
    values = {name: getattr(record, name) for name in record.__slots__}
    return type(record)(**{**values, "t": record.t + second * SECOND_NS})


def instance(number: int, slices: int, percent: float | None = None) -> Instance:
    return Instance(t=at(0.99), gpu=GPU, gpu_instance=number, slices=slices, sm_percent=percent)


def process(pid: int, number: int) -> Process:
    return Process(t=at(0.99), gpu=GPU, pid=pid, start_ns=7, period_ns=SECOND_NS, gpu_instance=number)


def second_of(made: list[list[Record]], second: int) -> dict[str, tuple[int, int, int, str]]:
    """Of one second's rows active and idle energy in mJ, GPU time in ms, and what the split rests on."""
    rows = table(stream(engine(), messages(made), [4]))
    check_conserved(rows)
    return in_second(rows, second)


def in_second(rows: Mapping[Any, Row], second: int) -> dict[str, tuple[int, int, int, str]]:
    return {
        name_of(row): (
            row["active_energy_uj"] // 1000,
            row["idle_energy_equal_uj"] // 1000,
            round(row["gpu_time_equal_ns"] / 1e6),
            row["weight_source"],
        )
        for row in rows.values()
        if row["window_start"] * 1_000_000 == at(second)
    }


def test_time_and_idle_energy_go_by_slices_and_active_energy_by_activity() -> None:
    """3 slices at 80 % and 2 at 30 %: 240 to 60, so 160 J to 40 of the 200 that are active. So early nothing
    is learned, and watts are those of the prior: as many for each slice."""
    made = flushes(2, instance(1, 3, 80.0), instance(2, 2, 30.0), process(100, 1), process(101, 2))
    found = second_of(made, 0)
    assert found == {
        "p0": (160_000, 33_300, 429, "gpm"),
        "p1": (40_000, 22_200, 286, "gpm"),
        "unheld": (0, 22_200, 286, "none"),
    }


def test_what_nobody_holds_of_an_instance_is_unheld_there_and_all_of_it_idle() -> None:
    found = second_of(flushes(5, instance(1, 3, 90.0), instance(2, 4, 0.0), process(100, 1)), 2)
    assert found == {"p0": (200_000, 33_300, 429, "gpm"), "unheld 2": (0, 44_400, 571, "none")}


def test_a_pod_that_is_given_an_instance_pays_for_it_while_nothing_runs_there() -> None:
    made = flushes(5, instance(1, 3, 90.0), instance(2, 4, 0.0), process(100, 1))
    for flush, second in zip(made, range(5), strict=True):
        flush.append(Reservation(t=at(second), gpu=GPU, gpu_instance=2, pod="a"))
        flush.append(Reservation(t=at(second), gpu=GPU, gpu_instance=1, pod="b"))
    rows = table(stream(engine(), messages(made), [4])).values()
    reserved = [r for r in rows if r["account"] == "reserved" and r["window_start"] * 1_000_000 == at(2)]
    assert [(r["pod"], r["gpu_instance"], r["idle_energy_equal_uj"] // 1000) for r in reserved] == [
        ("a", 2, 44_400)
    ]


@pytest.mark.parametrize("held", [1, 2])
def test_without_activity_it_is_the_only_holders_or_residual(held: int) -> None:
    """As on an A100, which has no GPM."""
    processes = [process(100 + k, 1 + k) for k in range(held)]
    found = second_of(flushes(5, instance(1, 3), instance(2, 4), *processes), 2)
    if held == 1:
        assert found["p0"] == (200_000, 33_300, 429, "exclusive")
    else:
        assert found["p0"] == (0, 33_300, 429, "exclusive")
        assert found["residual"] == (200_000, 0, 0, "none")


def test_an_instance_of_unknown_size_is_a_dead_letter() -> None:
    own = engine()
    made = flushes(2, Instance(t=at(0.5), gpu=GPU, gpu_instance=1), instance(2, 7, 50.0), process(100, 2))
    rows = table(stream(own, messages(made), [4]))
    assert own.tables.dropped == 2
    assert {row["account"] for row in rows.values()} == {"process"}


@pytest.mark.parametrize(("seconds", "lapsed"), [(290, False), (310, True)])
def test_an_instance_that_is_not_told_again_for_three_minutes_ended_when_it_was(
    seconds: int, lapsed: bool
) -> None:
    made = flushes(seconds, process(100, 1))
    for second in (0, 60, 120):
        made[second].append(_moved(instance(1, 3, 50.0), second))
    rows = table(stream(engine(), messages(made), [50]))
    time_ms = {s: in_second(rows, s)["p0"][2] for s in (30, 119, 122, 270)}
    assert time_ms == {30: 429, 119: 429, 122: 1000 if lapsed else 429, 270: 1000 if lapsed else 429}


def test_an_instance_from_the_far_future_does_not_shut_out_those_that_follow() -> None:
    own, slices = engine(), instance(1, 3, 50.0)
    made = flushes(6, slices, process(100, 1))
    plain = table(stream(engine(), messages(made), [4]))
    made[2].insert(0, _moved(slices, 2 * 86_400))
    assert in_second(table(stream(own, messages(made), [4])), 4) == in_second(plain, 4)
    assert own.tables.dropped == 1


@pytest.mark.parametrize(
    ("gpu_model", "slices"),
    [
        ("NVIDIA A30", 4),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 4),
        ("NVIDIA A100-SXM4-40GB", 7),
        ("NVIDIA H200", 7),
        ("", 7),
    ],
)
def test_into_how_many_slices_mig_cuts_a_gpu(gpu_model: str, slices: int) -> None:
    assert slices_of(gpu_model) == slices


def test_an_instance_below_0_is_the_gpu_and_no_instance() -> None:
    own = engine()
    rows = table(stream(own, messages(flushes(3, instance(-1, 3, 50.0))), [4]))
    check_conserved(rows)
    assert own.tables.dropped == 3
    assert {row["account"] for row in rows.values()} == {"unheld"}


def test_what_is_told_again_after_the_end_of_an_instance_changes_nothing() -> None:
    made = flushes(30, process(100, 1))
    for second in (*range(10), *range(20, 30)):
        made[second].append(_moved(instance(1, 3, 50.0), second))
    made[10].append(Instance(t=at(10.5), gpu=GPU, gpu_instance=1, slices=0))
    plain = table(stream(engine(), messages(made), [4]))
    made[12].append(_moved(instance(1, 3, 50.0), 9))
    made[13].append(Instance(t=at(10.4), gpu=GPU, gpu_instance=1, slices=0))
    again = table(stream(engine(), messages(made), [4]))
    assert {k: (r["idle_energy_equal_uj"], r["weight_source"]) for k, r in again.items()} == {
        k: (r["idle_energy_equal_uj"], r["weight_source"]) for k, r in plain.items()
    }


def test_an_instance_that_is_told_to_end_hours_later_ends_nothing() -> None:
    made = flushes(4, process(100, 1))
    late: list[list[Record]] = [
        [Device(t=at(9000 + k), gpu=GPU, energy_mj=9000 * 277_700 + k * 277_700)] for k in range(8)
    ]
    made[0].append(instance(1, 3, 50.0))
    late[3].append(Instance(t=at(9003), gpu=GPU, gpu_instance=1, slices=0))
    late[5] += [
        Instance(t=at(9005 + k / 2), gpu=GPU, gpu_instance=1, slices=3, sm_percent=50.0) for k in (0, 1)
    ]
    for sizes in ([1], [100]):
        rows = table(stream(engine(), messages([*made, *late]), sizes))
        check_conserved(rows)


def test_what_an_instance_did_is_not_told_of_the_time_in_which_it_was_not_there() -> None:
    """2 W per percent, off for half a minute: learned watts are the same afterwards."""
    made: list[list[Record]] = [[Gpu(t=START_NS, gpu=GPU, name="NVIDIA H200")]]
    energy = 0
    for second in range(90):
        there, busy = not 20 <= second < 50, 80.0 if second % 7 < 4 else 20.0
        flush: list[Record] = []
        for tick in range(10):
            flush.append(Device(t=at(second + tick / 10), gpu=GPU, energy_mj=energy))
            energy += int(7_770 + (2 * busy * 100 if there else 0))
        told: dict[str, Any] = {"t": at(second + 0.999), "gpu": GPU, "gpu_instance": 1}
        if there:
            flush.append(Instance(**told, slices=3, sm_percent=None if second == 50 else busy))
            flush.append(Process(**told, pid=100, start_ns=7, period_ns=SECOND_NS))
        elif second == 20:
            flush.append(Instance(**told, slices=0))
        made.append(flush)
    rows = table(stream(Engine("t"), messages(made), [5]))
    held = [
        row for row in rows.values() if row["account"] == "process" and row["window_start"] * 10**6 >= at(62)
    ]
    found_j = sum(row["active_energy_uj"] for row in held) / 1e6
    true_j = sum(2 * (80.0 if second % 7 < 4 else 20.0) for second in range(62, 90))
    assert found_j == pytest.approx(true_j, rel=0.1)


def test_a_reservation_of_an_instance_that_is_not_told_is_of_the_gpu() -> None:
    made = flushes(4)
    made[0].append(Reservation(t=at(0.5), gpu=GPU, gpu_instance=1, pod="a"))
    rows = table(stream(engine(), messages(made), [4])).values()
    accounts = {(r["account"], r["gpu_instance"]) for r in rows if r["window_start"] * 1_000_000 == at(2)}
    assert accounts == {("reserved", 1)}


def test_who_names_no_instance_has_nothing_where_no_slices_are_left() -> None:
    found = second_of(flushes(5, instance(1, 7), process(100, 1), process(101, -1)), 2)
    assert found["p0"] == (200_000, 77_700, 1000, "exclusive")
    assert "residual" not in found


def test_an_instance_that_comes_back_larger_begins_with_what_its_size_may_draw() -> None:
    own = engine()
    made = flushes(6)
    made[0].append(instance(1, 1))
    made[2].append(Instance(t=at(2.5), gpu=GPU, gpu_instance=1, slices=0))
    made[4].append(_moved(instance(1, 4), 4))
    stream(own, messages(made), [1])
    assert own.series.holders.watts[0] == pytest.approx(4.0 * 4 / 7)
