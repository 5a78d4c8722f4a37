"""A trace straight into the engine: what a collector would have sent of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.stream import host as made_host
from wattribute.collector.trace import Line
from wattribute.records import Device, Gap, Process, Record, Trace
from wattribute.sinks.contract import Column
from wattribute.stream.engine import Engine
from wattribute.stream.replay import replay

SECOND_NS = made_host.SECOND_NS
START_NS = made_host.START_NS


class _Written:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.columns: list[Mapping[str, Column]] = []

    def announce(self, batches: Sequence[Mapping[str, Column]]) -> None: ...

    def write_attribution(self, columns: Mapping[str, Column]) -> None:
        self.columns.append(columns)

    def write_rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def refresh_rollups(self) -> None: ...

    def close(self) -> None: ...


def replayed(records: Iterable[Record]) -> tuple[dict[int, str], dict[int, float]]:
    """By second from the start: who has its energy, and how many joules."""
    lines = [
        Line(n, record) for n, record in enumerate([Trace(version=1, host="h", boot_id="b"), *records], 1)
    ]
    written = _Written()
    done = replay(lines, Engine("test"), written)
    assert (done.dropped, done.duplicates) == (0, 0)
    accounts: dict[int, str] = {}
    joules: dict[int, float] = {}
    for begin, rows in made_host.windows(made_host.table(written.columns)).items():
        at_s = (begin - START_NS) // SECOND_NS
        accounts[at_s] = " ".join(sorted(row["account"] for row in rows))
        joules[at_s] = rows[0]["device_energy_uj"] / 1e6
    return accounts, joules


def second(number: int, clock_s: int) -> list[Record]:
    """A second at 300 W, held by one process, as a clock shows it."""
    t = START_NS + clock_s * SECOND_NS
    return [
        Device(t=t, gpu="g", energy_mj=10**6 + 300_000 * number),
        Process(t=t, gpu="g", pid=9, start_ns=7, period_ns=SECOND_NS),
    ]


def test_a_clock_that_was_set_back_costs_no_energy() -> None:
    """Two hours ahead for a minute, then right: the gap that the collector records ends after it is told."""
    records = [record for n in range(60) for record in second(n, 7200 + n)]
    now, ahead = START_NS + 60 * SECOND_NS, START_NS + 7260 * SECOND_NS
    records += [Gap(t=now, from_ns=now, to_ns=ahead, reason="the wall clock was set by -7200.000 s")]
    records += [record for n in range(60, 120) for record in second(n, n)]
    accounts, joules = replayed(records)
    assert {at: joules[at] for at in joules if joules[at]} == dict.fromkeys(
        [*range(60, 119), *range(7200, 7259)], 300.0
    )
    assert {accounts[at] for at in range(60, 119)} == {"process"}


def test_a_clock_is_set_back_in_the_second_part_of_a_recording_too() -> None:
    parts: list[list[Record]] = []
    for part in range(2):
        begin, end = START_NS + (80 * part + 20) * SECOND_NS, START_NS + (80 * part + 40) * SECOND_NS
        first = [record for n in range(40) for record in second(60 * part + n, 80 * part + n)]
        gap = Gap(t=begin, from_ns=begin, to_ns=end, reason="the wall clock was set by -20.000 s")
        then = [record for n in range(40, 60) for record in second(60 * part + n, 80 * part + n - 20)]
        parts.append([*first, gap, *then, *second(60 * part + 60, 80 * part + 41)])
    again = Trace(version=1, host="h", boot_id="b")
    assert replayed([*parts[0], again, *parts[1]]) == replayed([*parts[0], *parts[1]])


def test_readings_that_come_late_are_no_clock_that_was_set_back() -> None:
    """Of two GPUs the readings stand one after the other, and a gap was told when it began."""
    gap = Gap(t=START_NS, from_ns=START_NS, to_ns=START_NS + 1)
    other = [Device(t=START_NS + n * SECOND_NS, gpu="g2", energy_mj=300_000 * n) for n in range(100)]
    one = [record for n in range(100) for record in second(n, n)]
    accounts, _ = replayed([*other, *one[:2], gap, *one[2:]])
    assert [accounts[at] for at in range(1, 99)] == ["process unheld"] * 98


def test_a_gap_in_the_first_second_is_of_the_gpus_before_it() -> None:
    records = [record for n in range(10) for record in second(n, n)]
    gap = Gap(t=START_NS, from_ns=START_NS + 2 * SECOND_NS, to_ns=START_NS + 4 * SECOND_NS)
    accounts, _ = replayed([*records[:2], gap, *records[2:]])
    assert [accounts[at] for at in range(6)] == ["process"] * 2 + ["residual"] * 2 + ["process"] * 2


def test_a_gap_that_names_its_gpu_may_be_told_before_the_first_reading() -> None:
    records = [record for n in range(10) for record in second(n, n)]
    gap = Gap(t=START_NS, from_ns=START_NS + 2 * SECOND_NS, to_ns=START_NS + 4 * SECOND_NS, gpu="g")
    accounts, _ = replayed([gap, *records])
    assert [accounts[at] for at in range(6)] == ["process"] * 2 + ["residual"] * 2 + ["process"] * 2
