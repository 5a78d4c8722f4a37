"""What a collector records of a simulated host, and what each of its processes truly used."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Final

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


@dataclass(slots=True)
class Recording:
    """Records in the order in which they were emitted; and the truth at each whole second since the start: of
    each process the energy above idle up to then, in µJ, and that of the device."""

    records: list[Record]
    active_uj: list[dict[ProcessKey, int]] = field(default_factory=list)
    device_uj: list[int] = field(default_factory=list)


def record(trial: Trial, seed: int, duration_s: int) -> Recording:
    """Record a trial for so long, in virtual time; the same for the same seed."""
    return _record(trial.scenario, trial.process_period_s, seed, duration_s)


def record_alone(trial: Trial, seed: int, duration_s: int) -> list[Record]:
    """What is recorded where each tenant of a trial has a GPU of its own."""
    return _record(trial.alone, trial.process_period_s, seed, duration_s).records


def _record(scenario: Scenario, process_period_s: float, seed: int, duration_s: int) -> Recording:
    clock = VirtualTime(START_NS)
    host = SimulatedHost(scenario, clock, seed, load_pynvml())
    recording = Recording([Trace(version=TRACE_VERSION, host=host.name, boot_id=host.processes.boot_id)])

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

    nvml = Nvml(host.nvml)
    try:
        Sampler(
            nvml, host.processes, clock, host.host, recording.records.extend,
            fast_hz=FAST_HZ, slow_s=process_period_s, outcomes=note, start_worker=inline_worker,
        ).run(threading.Event(), duration_s)  # fmt: skip
    finally:
        nvml.close()
    note(START_NS + duration_s * 1_000_000_000)
    return recording
