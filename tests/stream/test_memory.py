"""What the engine keeps of the past: room for it, and whose it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.stream import host as made_host
from wattribute.records import Device, Exit, Gap, Process, Record, Workload
from wattribute.stream.engine import Engine

SECOND_NS = made_host.SECOND_NS
START_NS = made_host.START_NS


def device(t: int, gpu: str = "A", energy_mj: int | None = None) -> Device:
    return Device(t=t, gpu=gpu, energy_mj=energy_mj, power_mw=100_000)


def process(t: int, gpu: str = "A", pid: int = 7) -> Process:
    return Process(t=t, gpu=gpu, pid=pid, start_ns=5, period_ns=SECOND_NS, sm_percent=50.0)


def test_a_process_that_leaves_one_of_its_gpus_stays_who_it_is() -> None:
    """Of its only reading on B nothing is left, for it came too late."""
    flushes: list[list[Record]] = []
    for i in range(30):
        t = START_NS + i * SECOND_NS
        flush: list[Record] = [device(t, gpu, 1_000_000 + i * 300_000) for gpu in "AB"]
        flush.append(process(t))
        if i in (0, 12):
            flush.append(Workload(t=t, pid=7, start_ns=5, model="m1" if i == 0 else "m2"))
        if i == 20:
            flush.append(process(t - 4000 * SECOND_NS, "B"))
        flushes.append(flush)
    for size in (1, 100):
        rows = made_host.table(made_host.stream(Engine("test"), made_host.messages(flushes), [size]))
        models = [rows[key]["model"] for key in sorted(rows) if rows[key]["account"] == "process"]
        assert models == ["m1"] * 12 + ["m2"] * 17


@pytest.mark.parametrize("size", [2, 3, 4, 100])
def test_a_second_exit_counts_however_the_messages_are_cut(size: int) -> None:
    flushes: list[list[Record]] = []
    for i in range(30):
        t = START_NS + i * SECOND_NS
        flush: list[Record] = [device(t, energy_mj=1_000_000 + i * 300_000)]
        if i in (12, 22):
            flush = [Exit(t=START_NS + (8 if i == 12 else 18) * SECOND_NS, pid=7, start_ns=5)]
        elif i == 23:  # a header that names the process anew
            flush += [process(t, pid=8), process(START_NS + 11 * SECOND_NS)]
        else:
            flush += [process(t)] if i <= 20 else [process(t, pid=8)]
        flushes.append(flush)
    sent = made_host.messages(flushes)
    one_by_one = made_host.table(made_host.stream(Engine("test"), sent, [1]))
    assert made_host.table(made_host.stream(Engine("test"), sent, [size])) == one_by_one


@pytest.mark.parametrize("late", [3, 4])
def test_late_readings_that_make_two_gaps_each_find_room(late: int) -> None:
    """One more gap than there is room for would be written over another device's first."""

    def take(engine: Engine, records: Sequence[Record]) -> None:
        sent = made_host.messages([records])
        engine.take([offset for offset, _ in sent], [value for _, value in sent])

    def gaps_of(engine: Engine, row: int) -> list[Any]:
        devices = engine.series.devices
        return list(devices.gap_from_ns[row, : devices.gap_length[row]] - START_NS)

    engine = Engine("test")
    for i in range(60):
        t = START_NS + i * 20 * SECOND_NS
        take(engine, [device(t), device(t, "B")])
    middle_ns = START_NS + 200 * SECOND_NS
    take(engine, [device(middle_ns - k * SECOND_NS // 20) for k in range(1, 17)])  # the median falls
    now_ns = START_NS + 1180 * SECOND_NS
    room = engine.series.devices.gap_from_ns.shape[1]
    for gpu, count in (("A", room - 2 - late), ("B", 5)):
        take(
            engine,
            [Gap(t=now_ns, gpu=gpu, from_ns=START_NS + k + 1, to_ns=START_NS + k + 2) for k in range(count)],
        )
    before, beside = len(gaps_of(engine, 0)), gaps_of(engine, 1)
    take(engine, [device(middle_ns + (k * 20 + 10) * SECOND_NS) for k in range(late)])
    assert len(gaps_of(engine, 0)) == before + 2 * late
    assert gaps_of(engine, 1) == beside
