"""A host for the sampler's tests on which time passes only as they say: clock, processes, NVML's binding."""

# ruff: noqa: N802, N815 - the names are pynvml's

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar

import pynvml

from wattribute.collector.nvml import Nvml
from wattribute.collector.sampler import Sampler
from wattribute.collector.workers import InlineWorker
from wattribute.records import Device, Exit, Host, Process, Record, Workload

S = 1_000_000_000
MS = 1_000_000
START = 1_790_000_000 * S
BORN = START - 100 * S  # when the stand-in's processes start
LOST = 15


R = TypeVar("R", bound=Record)


class VirtualClock:
    """``events`` happen, in order of time, as sleep or a slow call passes them."""

    def __init__(self) -> None:
        self.t = START
        self.step = 0
        self.events: list[tuple[int, Callable[[], None]]] = []

    def now_ns(self) -> int:
        return self.t

    def sleep_until_ns(self, t: int) -> None:
        self.t = max(self.t, t)
        while self.events and self.events[0][0] <= self.t:
            self.events.pop(0)[1]()

    def wall_step_ns(self) -> int:
        return self.step

    def at(self, seconds: float, event: Callable[[], None]) -> None:
        self.events.append((START + round(seconds * S), event))
        self.events.sort(key=lambda item: item[0])


class StandInProcesses:
    """Every pid lives, except those in ``gone``; ``ended`` are told at the next question."""

    boot_id = "boot"

    def __init__(self) -> None:
        self.gone: set[int] = set()
        self.ended: list[Exit] = []
        self.starts: dict[int, int] = {}
        self.model = "a"
        self.asked = 0

    def start_ns(self, pid: int) -> int | None:
        return None if pid in self.gone else self.starts.get(pid, BORN)

    def workload(self, pid: int, start_ns: int, t: int) -> Workload | None:
        self.asked += 1
        return None if pid in self.gone else Workload(t=t, pid=pid, start_ns=start_ns, model=self.model)

    def exits(self, now_ns: int) -> list[Exit]:
        ended, self.ended = self.ended, []
        return ended


class StandInNvml:
    """The part of pynvml that a device without MIG needs. A handle is the device's number."""

    NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, NVML_FI_DEV_POWER_INSTANT, NVML_FI_DEV_POWER_AVERAGE = 83, 186, 185
    NVML_POWER_SCOPE_GPU, NVML_POWER_SCOPE_MODULE = 0, 1
    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM = 0, 1

    c_nvmlFieldValue_t = pynvml.c_nvmlFieldValue_t

    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            super().__init__(f"error {value}")
            self.value = value

    def __init__(self, clock: VirtualClock, gpus: int) -> None:
        self.clock = clock
        self.count = gpus
        self.nvmlLib = SimpleNamespace(nvmlDeviceGetFieldValues=self._fill)
        self.code: dict[int, int] = {}  # by device: fails with
        self.fast_ns: dict[int, int] = {}  # by device: how long a fast reading takes
        self.hang: dict[int, threading.Event] = {}  # by device: a process list that returns when it is set
        self.pids: dict[int, list[int]] = {}
        self.samples: dict[int, list[SimpleNamespace]] = {}

    def sample(self, gpu: int, pid: int, t: int, sm: int) -> None:
        entry = SimpleNamespace(pid=pid, timeStamp=t // 1000, smUtil=sm, memUtil=0)
        self.samples.setdefault(gpu, []).append(entry)

    def _answer(self, gpu: int) -> None:
        if self.code.get(gpu):
            raise self.NVMLError(self.code[gpu])

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> int:
        gpu = int(uuid.removeprefix(b"GPU-"))
        self._answer(gpu)
        return gpu

    def nvmlDeviceGetUUID(self, gpu: int) -> str:
        return f"GPU-{gpu}"

    def nvmlDeviceGetName(self, gpu: int) -> str:
        self._answer(gpu)
        return "Stand-in"

    def _fill(self, gpu: int, _count: int, values: Any) -> int:
        if self.code.get(gpu):
            return self.code[gpu]
        self.clock.t += self.fast_ns.get(gpu, 0)
        number = {83: self.clock.t // MS, 186: 300_000, 185: 290_000}
        for value in values:
            value.nvmlReturn, value.valueType, value.value.ullVal = 0, 3, number[value.fieldId]
        return 0

    def nvmlDeviceGetUtilizationRates(self, gpu: int) -> Any:
        self._answer(gpu)
        return SimpleNamespace(gpu=50, memory=20)

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> Any:
        self._answer(gpu)
        return SimpleNamespace(total=1 << 37, used=1 << 33)

    def nvmlDeviceGetTemperature(self, gpu: int, sensor: int) -> int:
        return 60

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: int) -> list[Any]:
        if gpu in self.hang:
            self.hang[gpu].wait()
        self._answer(gpu)
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=1 << 30, gpuInstanceId=0xFFFFFFFF)
            for pid in self.pids.get(gpu, [])
        ]

    def nvmlDeviceGetProcessUtilization(self, gpu: int, from_us: int) -> list[Any]:
        newer = [entry for entry in self.samples.get(gpu, []) if entry.timeStamp > from_us]
        if not newer:
            raise self.NVMLError(6)
        return newer


class LateWorker:
    """Does its tasks when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def submit(self, task: Callable[[], None] | None) -> None:
        if task is not None:
            self.waiting.append(task)

    def leave(self) -> None:
        raise AssertionError("no task was at hand")

    def finish(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()


class Emitted:
    """What the sampler gave, flush by flush."""

    def __init__(self) -> None:
        self.flushes: list[Sequence[Record]] = []

    def __call__(self, records: Sequence[Record]) -> None:
        self.flushes.append(records)

    def of(self, kind: type[R]) -> list[R]:
        return [record for records in self.flushes for record in records if isinstance(record, kind)]


@dataclass
class Bench:
    """A sampler over the stand-in host."""

    gpus: int = 1
    clock: VirtualClock = field(default_factory=VirtualClock)
    processes: StandInProcesses = field(default_factory=StandInProcesses)
    emitted: Emitted = field(default_factory=Emitted)

    def __post_init__(self) -> None:
        self.binding = StandInNvml(self.clock, self.gpus)

    def sampler(self, **options: Any) -> Sampler:
        options = {"start_worker": InlineWorker, **options}
        return Sampler(
            Nvml(self.binding),
            self.processes,
            self.clock,
            Host(t=0, provider="here"),
            self.emitted,
            **options,
        )

    def devices(self, gpu: int) -> list[Device]:
        return [device for device in self.emitted.of(Device) if device.gpu == f"GPU-{gpu}"]

    def held(self) -> list[Process]:
        return [record for record in self.emitted.of(Process) if record.sm_percent is None]

    def used(self) -> list[Process]:
        return [record for record in self.emitted.of(Process) if record.sm_percent is not None]


def never() -> threading.Event:
    """Nobody stops the sampler."""
    return threading.Event()
