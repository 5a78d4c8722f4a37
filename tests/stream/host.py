"""A made-up host for the tests: its readings as messages, as history, and the rows that come out."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.stream.reference import History, Sample, Seen
from wattribute.records import Device, Exit, Gap, Gpu, Process, Record, Workload
from wattribute.sinks.contract import Column
from wattribute.stream.engine import Engine
from wattribute.verify.memory_sink import KEY, rows_of
from wattribute.wire import Encoder

SECOND_NS = 1_000_000_000
START_NS = 1_780_000_000 * SECOND_NS
GPU = "GPU-test"
Message = tuple[int, bytes]


@dataclass
class Made:
    """Messages of one device, by second, and what the reference is told of the same."""

    flushes: list[list[Record]] = field(default_factory=list)
    history: History = field(default_factory=lambda: History([], {}))


def make(
    seed: int,
    seconds: int,
    processes: int,
    *,
    counter: bool = True,
    resets: bool = False,
    holes: bool = False,
    absent: bool = False,
) -> Made:
    """A device read at 10 Hz, jittering, for ``seconds``, with processes that come and go.

    ``resets``: the counter falls now and then; ``holes``: seconds without samples;
    ``absent``: samples without a reading of the counter among those that have one."""
    rng = random.Random(seed)
    made = Made()
    lives = []
    for number in range(processes):
        begin = rng.choice([0.0, rng.uniform(0, seconds * 0.7)])
        lives.append((f"p{number}", 100 + number, begin, begin + rng.uniform(1, seconds), rng.random() < 0.7))
    energy = rng.randrange(10**9)
    hole = rng.uniform(3, seconds) if holes else seconds * 2.0
    busy: float | None = 0.0  # as the device says itself: it stays so for seconds
    for second in range(seconds):
        busy = rng.choice([busy, busy, None, 0.0, 40.0])
        flush: list[Record] = [Gpu(t=START_NS, gpu=GPU, name="NVIDIA H200")] if second == 0 else []
        for tick in range(10):
            t_s = second + tick / 10 + rng.uniform(0, 0.02)
            if hole <= t_s < hole + 3.7:
                continue
            energy = 0 if resets and rng.random() < 0.01 else energy + rng.choice([0, 20_000, 35_000, 60_000])
            power = rng.choice([None, 200_000, 350_000, 600_000]) if counter else rng.randrange(700_000)
            t = START_NS + int(t_s * SECOND_NS)
            # At both ends it is read: what power says there is another test's.
            inner = 0.5 < t_s < seconds - 0.5
            reading = energy if counter and not (absent and inner and rng.random() < 0.3) else None
            says = 1.0 if rng.random() < 0.02 else busy
            made.history.samples.append(Sample(t, reading, power, says))
            flush.append(Device(t=t, gpu=GPU, energy_mj=reading, power_mw=power, sm_percent=says))
        for name, pid, begin, end, exits in lives:
            t_s = second + 0.95
            if begin <= t_s <= min(end, seconds):
                t = START_NS + int(t_s * SECOND_NS)
                sm = float(rng.choice([0, 5, 50, 100])) if rng.random() < 0.8 else None
                memory = rng.randrange(10**10) if rng.random() < 0.8 else None
                made.history.processes.setdefault(name, []).append(Seen(t, SECOND_NS, sm, memory))
                flush.append(
                    Process(
                        t=t,
                        gpu=GPU,
                        pid=pid,
                        start_ns=7,
                        period_ns=SECOND_NS,
                        sm_percent=sm,
                        memory_used_bytes=memory,
                    )
                )
            if exits and second < end <= second + 1 and name in made.history.processes:
                t = START_NS + int(end * SECOND_NS)
                made.history.exits[name] = t
                flush.append(Exit(t=t, pid=pid, start_ns=7))
        made.flushes.append(flush)
    made.history.now = made.history.samples[-1].t
    return made


def messages(flushes: Iterable[Sequence[Record]]) -> list[Message]:
    """The flushes of a host as numbered messages."""
    encoder = Encoder("host-1", "boot-1", epoch=1)
    values = [value for flush in flushes for _, _, value in encoder.encode(flush)]
    return list(enumerate(values))


def stream(
    engine: Engine, sent: Sequence[Message], sizes: Iterable[int], *, end: bool = True
) -> list[Mapping[str, Column]]:
    """Feed messages in batches of the sizes given, over and over; what the engine writes."""
    written: list[Mapping[str, Column]] = []
    sizes = list(sizes)
    at = turn = 0
    while at < len(sent):
        batch = sent[at : at + sizes[turn % len(sizes)]]
        engine.take([offset for offset, _ in batch], [value for _, value in batch])
        written += engine.rows()
        at, turn = at + len(batch), turn + 1
    if end:
        engine.end(sent[-1][0])
        written += engine.rows(ended=True)
    return written


def table(written: Iterable[Mapping[str, Column]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What the store would show: of each key the row of the greatest version, unless deleted."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for columns in written:
        for row in rows_of(columns):
            key = tuple(row[name] for name in KEY)
            if key not in rows or rows[key]["version"] <= row["version"]:
                rows[key] = row
    return {key: row for key, row in rows.items() if not row["deleted"]}


def windows(rows: Mapping[tuple[Any, ...], Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    """Rows by the start of their window in ns."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows.values():
        found.setdefault(row["window_start"] * 1_000_000, []).append(row)
    return found


__all__ = ["Gap", "Workload", "make", "messages", "rows_of", "stream", "table", "windows"]
