"""Record a simulated host as a collector does, with the true energy of each of its processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from wattribute.collector.nvml import Nvml, load_pynvml
from wattribute.collector.sampler import Sampler
from wattribute.collector.simulate import SimulatedHost, VirtualTime
from wattribute.collector.workers import InlineWorker
from wattribute.records import TRACE_VERSION, Record, Trace
from wattribute.verify.scenarios import Trial

START_NS: Final = 1_767_225_600_000_000_000  # 2026-01-01, a whole second
FAST_HZ: Final = 10.0
_S: Final = 1_000_000_000

ProcessKey = tuple[int, int]
"""The pid, and the start in Unix ns."""


class Flush(NamedTuple):
    """Records that a sampler emitted together, and the epoch of its clock at that time."""

    clock_epoch: int
    records: Sequence[Record]


@dataclass(slots=True)
class Recording:
    """What was emitted, in order; and the truth at each whole second since the start: the energy of each
    process above idle up to then, in µJ, and the energy of the device. ``lives``: from when to when each
    process lived. ``wall_ns`` gives the wall clock at a time of the simulation."""

    trace: Trace
    wall_ns: Callable[[int], int]
    flushes: list[Flush] = field(default_factory=list)
    active_uj: list[dict[ProcessKey, int]] = field(default_factory=list)
    device_uj: list[int] = field(default_factory=list)
    lives: dict[ProcessKey, tuple[int, int | None]] = field(default_factory=dict)

    @property
    def records(self) -> list[Record]:
        """All records, as in a trace file."""
        return [self.trace, *(record for flush in self.flushes for record in flush.records)]

    def alive(self, second: int) -> set[ProcessKey]:
        """The processes that lived in a second since the start, or in a part of it."""
        from_ns = START_NS + second * _S
        return {
            key
            for key, (began_ns, ended_ns) in self.lives.items()
            if began_ns < from_ns + _S and (ended_ns is None or from_ns < ended_ns)
        }

    def walls(self) -> list[int]:
        """What the wall clock showed at each of those seconds."""
        return [self.wall_ns(START_NS + second * _S) for second in range(len(self.device_uj))]

    def seconds(self) -> dict[int, list[int]]:
        """For each window of one second, by its start: the seconds since the start that it covers, which are
        two where the clock was set back."""
        found: dict[int, list[int]] = {}
        for second, wall in enumerate(self.walls()):
            found.setdefault(wall, []).append(second)
        return found


def record(trial: Trial, seed: int, duration_s: int, alone: bool = False) -> Recording:
    """Record a trial in virtual time; the same seed gives the same recording. ``alone``: each tenant has a
    GPU of its own."""
    clock = VirtualTime(START_NS)
    host = SimulatedHost(trial.alone if alone else trial.scenario, clock, seed, load_pynvml())
    recording = Recording(
        Trace(version=TRACE_VERSION, host=host.name, boot_id=host.processes.boot_id), host.wall_ns
    )

    def note(_: int) -> list[Record]:
        """Called by the sampler each second."""
        while len(recording.device_uj) <= (clock.now_ns() - START_NS) // _S:
            truth = host.truth(START_NS + len(recording.device_uj) * _S)["gpus"]
            recording.active_uj.append(
                {
                    (process["pid"], process["start_ns"]): process["active_uj"]
                    for gpu in truth
                    for process in gpu["processes"]
                }
            )
            recording.device_uj.append(sum(gpu["total_uj"] for gpu in truth))
        return []

    def emit(records: Sequence[Record]) -> None:
        recording.flushes.append(Flush(sampler.epoch, records))

    nvml = Nvml(host.nvml)
    sampler = Sampler(
        nvml, host.processes, host.clock, host.host, emit,
        fast_hz=FAST_HZ, slow_s=trial.process_period_s, outcomes=note, start_worker=InlineWorker,
    )  # fmt: skip
    try:
        sampler.run(threading.Event(), duration_s)
    finally:
        nvml.close()
    clock.sleep_until_ns(START_NS + duration_s * _S)
    note(clock.now_ns())
    for gpu in host.truth(clock.now_ns())["gpus"]:
        for process in gpu["processes"]:
            recording.lives[process["pid"], process["start_ns"]] = process["start_ns"], process["end_ns"]
    return recording
