"""A simulated GPU host: devices and tenants from a scenario, with the truth about every microjoule.

``SimulatedHost`` offers what a collector reads on a real host: ``nvml`` with pynvml's interface,
``processes`` in place of /proc, and ``outcomes``, which applications would report. It runs by the sampler's
``HostClock`` in real time, or by ``VirtualTime``, minutes in seconds. ``truth`` is what no collector can see:
which process caused which energy.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from uuid import UUID

import orjson

from wattribute.collector.clock import Clock
from wattribute.collector.proc import ProcTree
from wattribute.collector.scenario import Scenario
from wattribute.collector.simulate_gpu import SimulatedGpu, random_stream
from wattribute.collector.simulate_nvml import SimulatedNvml
from wattribute.collector.simulate_tenants import STEP_NS, Tenants
from wattribute.errors import WattributeError
from wattribute.records import Exit, Host, Record, Workload


class VirtualTime:
    """Time that moves only by sleeping, and then at once: ten minutes can be recorded in seconds."""

    def __init__(self, start_ns: int) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        """Where the last sleep ended."""
        return self._now_ns

    def sleep_until_ns(self, t: int) -> None:
        """Jump to ``t``, but never back."""
        self._now_ns = max(self._now_ns, t)

    def wall_step_ns(self) -> int:
        """Always 0."""
        return 0


class _SetClock:
    """A clock whose wall clock is set once."""

    def __init__(self, clock: Clock, at_ns: int, by_ns: int) -> None:
        self._clock, self._at_ns, self._by_ns = clock, at_ns, by_ns
        self.now_ns, self.sleep_until_ns = clock.now_ns, clock.sleep_until_ns

    def wall_step_ns(self) -> int:
        """The step of the underlying clock, plus the simulated one."""
        return self._clock.wall_step_ns() + (self._by_ns if self.now_ns() >= self._at_ns else 0)


class SimulatedProcesses:
    """Takes the place of /proc: which processes are alive, since when, and to whom they belong."""

    def __init__(self, host: SimulatedHost, boot_id: str) -> None:
        self.boot_id = boot_id
        self._host = host
        self._watched: set[tuple[int, int]] = set()

    def start_ns(self, pid: int) -> int | None:
        """Unix time at which the process with this pid started; None where no such process exists."""
        with self._host.at(None) as tenants:
            life = tenants.alive.get(pid)
            if life is None:
                return None
            self._watched.add((pid, life.start_ns))
            return life.start_ns

    def workload(self, pid: int, start_ns: int, t: int) -> Workload | None:
        """The process's workload, as a record of time ``t``; None where it has ended."""
        with self._host.at(None) as tenants:
            life = tenants.alive.get(pid)
            if life is None or life.start_ns != start_ns:
                return None
            return self._real(pid, start_ns, t) if life.plan.command else life.workload(t)

    def _real(self, pid: int, start_ns: int, t: int) -> Workload | None:
        """The workload of a real process; its start is when it came to the simulated devices."""
        tree = ProcTree()
        began_ns = tree.living_since_ns(pid)
        found = None if began_ns is None else tree.workload(pid, began_ns, t)
        return None if found is None else replace(found, start_ns=start_ns)

    def exits(self, now_ns: int) -> list[Exit]:
        """The ends up to ``now_ns`` of processes for which ``start_ns`` was called, each once, in order of
        time. As with a pidfd, the end of a process that was never looked up is not reported."""
        now_ns = self._host.unset_ns(now_ns)
        with self._host.at(now_ns) as tenants:
            seen = [
                gone for gone in _taken(tenants.exits, now_ns) if (gone.pid, gone.start_ns) in self._watched
            ]
            self._watched.difference_update((gone.pid, gone.start_ns) for gone in seen)
            return [replace(gone, t=self._host.wall_ns(gone.t)) for gone in seen]


class SimulatedHost:
    """One host that runs ``scenario`` from the clock's current time on; the same seed gives the same host.

    ``pynvml`` is that module, for its constants, structs and exceptions; none of its functions is called.
    State moves in steps of 10 ms up to the requested time, and never back.
    """

    def __init__(self, scenario: Scenario, clock: Clock, seed: int, pynvml: ModuleType) -> None:
        plan = scenario.host
        self.name = plan.name
        self.has_command = any(tenant.command for tenant in scenario.tenants)
        """Whether the scenario has a place for a real process."""
        self._clock_set_at_ns = clock.now_ns() + plan.clock_set_s[0] * 1_000_000_000
        self._clock_set_by_ns = plan.clock_set_s[1] * 1_000_000_000
        self.clock = (
            _SetClock(clock, self._clock_set_at_ns, self._clock_set_by_ns) if any(plan.clock_set_s) else clock
        )
        self.start_ns = clock.now_ns() // STEP_NS * STEP_NS  # to 10 ms, like the start times of /proc
        self.host = Host(
            t=self.start_ns,
            provider=plan.provider,
            region=plan.region,
            pricing=plan.pricing,
            cluster=plan.cluster,
            team=plan.team,
            labels=dict(plan.labels),
        )
        self._lock = threading.Lock()
        self._gpus = tuple(
            SimulatedGpu(
                gpu, f"GPU-{_uuid(seed, plan.name, 'gpu', index)}", index, random_stream(seed, "gpu", index)
            )
            for index, gpu in enumerate(scenario.gpus)
        )
        self._tenants = Tenants(scenario, self._gpus, self.start_ns, seed)
        # A simulation that is started again is a new boot: its counters restart.
        self.processes = SimulatedProcesses(self, str(_uuid(seed, plan.name, "boot", self.start_ns)))
        self.nvml = SimulatedNvml(pynvml, self)

    def catch_up(self) -> tuple[SimulatedGpu, ...]:
        """The devices, moved on to the clock's time."""
        with self.at(None):
            return self._gpus

    @contextmanager
    def at(self, now_ns: int | None) -> Iterator[Tenants]:
        """Move on to ``now_ns`` (None: the clock's time) and stay there within the with statement."""
        with self._lock:
            t_ns = self.clock.now_ns() if now_ns is None else now_ns
            self._tenants.advance((t_ns - self.start_ns) // STEP_NS)
            yield self._tenants

    def wall_ns(self, t_ns: int) -> int:
        """The time on the wall clock at a time of the simulation."""
        return t_ns + (self._clock_set_by_ns if t_ns >= self._clock_set_at_ns else 0)

    def unset_ns(self, wall_ns: int) -> int:
        """The time of the simulation at a time of the sampler's clock. If the scenario sets that clock, a
        time on it may be ambiguous, and callers always mean the present."""
        return wall_ns if self._clock_set_by_ns == 0 else self.clock.now_ns()

    def start_command(self, pid: int) -> None:
        """Let a real process take the place of the scenario's command, from now on."""
        with self.at(None) as tenants:
            tenants.start_command(pid)

    def end_command(self, pid: int) -> None:
        """Remove the command, after its process has ended."""
        with self.at(None) as tenants:
            tenants.end_command(pid)

    def outcomes(self, now_ns: int) -> list[Record]:
        """Unit, Run and Quality records since the last call, up to ``now_ns``, in order of time."""
        now_ns = self.unset_ns(now_ns)
        with self.at(now_ns) as tenants:
            return [replace(record, t=self.wall_ns(record.t)) for record in _taken(tenants.outcomes, now_ns)]

    def truth(self, now_ns: int) -> dict[str, Any]:
        """The true energy since the start, in whole µJ. For each device idle_uj + Σ active_uj == total_uj,
        and its counter shows counter_start_uj + total_uj, apart from publication lag, rounding down to mJ and
        the faults in its plan."""
        with self.at(now_ns) as tenants:
            return {
                "host": self.name,
                "boot_id": self.processes.boot_id,
                "start_ns": self.start_ns,
                "t": self.start_ns + tenants.step * STEP_NS,
                "gpus": [self._gpu_truth(gpu) for gpu in self._gpus],
            }

    def write_truth(self, path: Path) -> None:
        """Write the current ``truth`` as JSON. Raises WattributeError where the path cannot be written."""
        try:
            path.write_bytes(
                orjson.dumps(self.truth(self.clock.now_ns()), option=orjson.OPT_INDENT_2) + b"\n"
            )
        except OSError as error:
            raise WattributeError(
                f"{path}: cannot write the truth of the simulation: {error.strerror}"
            ) from error

    def _gpu_truth(self, gpu: SimulatedGpu) -> dict[str, Any]:
        residents = [resident for resident, device in self._tenants.residents if device is gpu]
        return {
            "gpu": gpu.uuid,
            "index": gpu.index,
            "idle_uj": gpu.idle_uj,
            "total_uj": gpu.energy_uj - gpu.energy_start_uj,
            "counter_start_uj": gpu.energy_start_uj,
            "counter_mj": gpu.readings.energy_mj,
            "counter_t": self.start_ns + gpu.readings.t_ms * 1_000_000,
            "processes": [
                {
                    "tenant": resident.plan.name,
                    "pid": resident.pid,
                    "start_ns": resident.start_ns,
                    "end_ns": resident.end_ns,
                    "active_uj": resident.active_uj,
                    "active_ns": resident.active_ns,
                }
                for resident in residents
            ],
        }


_R = TypeVar("_R", bound=Record)


def _taken(waiting: deque[_R], now_ns: int) -> Iterator[_R]:
    while waiting and waiting[0].t <= now_ns:
        yield waiting.popleft()


def _uuid(seed: int, *what: object) -> UUID:
    return UUID(int=random_stream(seed, *what).getrandbits(128), version=4)
