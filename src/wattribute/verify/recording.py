"""What a collector records of a simulated host, and what each of its processes truly used."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from wattribute.collector.nvml import Nvml, load_pynvml
from wattribute.collector.sampler import Sampler
from wattribute.collector.scenario import Scenario
from wattribute.collector.simulate import SimulatedHost, VirtualTime
from wattribute.collector.workers import inline_worker
from wattribute.records import TRACE_VERSION, Record, Trace
from wattribute.verify.scenarios import Trial

START_NS: Final = 1_767_225_600_000_000_000  # 2026-01-01, a whole second
FAST_HZ: Final = 10.0

ProcessKey = tuple[int, int]
"""PID, and start in Unix ns."""


class Flush(NamedTuple):
    """Records that a sampler emitted together, and the epoch of its clock then."""

    clock_epoch: int
    records: Sequence[Record]


@dataclass(slots=True)
class Recording:
    """What was emitted, in order; and the truth at each whole second since the start: of each process the
    energy above idle up to then, in µJ, and that of the device."""

    trace: Trace
    flushes: list[Flush] = field(default_factory=list)
    active_uj: list[dict[ProcessKey, int]] = field(default_factory=list)
    device_uj: list[int] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        """As in a trace file."""
        return [self.trace, *(record for flush in self.flushes for record in flush.records)]


def record(trial: Trial, seed: int, duration_s: int) -> Recording:
    """Record a trial for so long, in virtual time; the same for the same seed."""
    return _record(trial.scenario, trial.process_period_s, seed, duration_s)


def record_alone(trial: Trial, seed: int, duration_s: int) -> list[Record]:
    """What is recorded where each tenant of a trial has a GPU of its own."""
    return _record(trial.alone, trial.process_period_s, seed, duration_s).records


def _record(scenario: Scenario, process_period_s: float, seed: int, duration_s: int) -> Recording:
    clock = VirtualTime(START_NS)
    host = SimulatedHost(scenario, clock, seed, load_pynvml())
    recording = Recording(Trace(version=TRACE_VERSION, host=host.name, boot_id=host.processes.boot_id))

    def note(now_ns: int) -> list[Record]:
        """Called by the sampler each second."""
        while len(recording.device_uj) <= (now_ns - START_NS) // 1_000_000_000:
            truth = host.truth(START_NS + len(recording.device_uj) * 1_000_000_000)["gpus"]
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
        nvml, host.processes, clock, host.host, emit,
        fast_hz=FAST_HZ, slow_s=process_period_s, outcomes=note, start_worker=inline_worker,
    )  # fmt: skip
    try:
        sampler.run(threading.Event(), duration_s)
    finally:
        nvml.close()
    note(START_NS + duration_s * 1_000_000_000)
    return recording
