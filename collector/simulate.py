"""A simulated GPU host: devices and tenants as a scenario says, with the truth about every microjoule.

``SimulatedHost`` offers what a collector reads on a real one: ``nvml`` with pynvml's face, ``processes`` in
place of /proc, and what applications would report: ``outcomes``. It runs by the sampler's ``HostClock`` in
real time, or by ``VirtualTime``, minutes in seconds. ``truth`` tells what none of them can see: which
process caused which energy.
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
        """Jump to ``t``; never back."""
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
        """As that of the clock, and what it was set by."""
        return self._clock.wall_step_ns() + (self._by_ns if self.now_ns() >= self._at_ns else 0)


class SimulatedProcesses:
    """In place of /proc: which processes are alive, since when, and whose they are."""

    def __init__(self, host: SimulatedHost, boot_id: str) -> None:
        self.boot_id = boot_id
        self._host = host
        self._watched: set[tuple[int, int]] = set()

    def start_ns(self, pid: int) -> int | None:
        """Unix time at which the process with this pid started; None where there is none now."""
        with self._host.at(None) as tenants:
            life = tenants.alive.get(pid)
            if life is None:
                return None
            self._watched.add((pid, life.start_ns))
            return life.start_ns

    def workload(self, pid: int, start_ns: int, t: int) -> Workload | None:
        """Whose the process is, as a record of time ``t``; None where it has gone."""
        with self._host.at(None) as tenants:
            life = tenants.alive.get(pid)
            if life is None or life.start_ns != start_ns:
                return None
            return self._real(pid, start_ns, t) if life.plan.command else life.workload(t)

    def _real(self, pid: int, start_ns: int, t: int) -> Workload | None:
        """Whose a process of this machine is; it has begun when it came to the simulated devices."""
        tree = ProcTree()
        began_ns = tree.living_since_ns(pid)
        found = None if began_ns is None else tree.workload(pid, began_ns, t)
        return None if found is None else replace(found, start_ns=start_ns)

    def exits(self, now_ns: int) -> list[Exit]:
        """The ends up to ``now_ns`` of processes that ``start_ns`` was asked for, each told once, in order of
        time. As with a pidfd, nobody learns of the end of a process that was never looked at."""
        now_ns = self._host.unset_ns(now_ns)
        with self._host.at(now_ns) as tenants:
            seen = [
                gone for gone in _taken(tenants.exits, now_ns) if (gone.pid, gone.start_ns) in self._watched
            ]
            self._watched.difference_update((gone.pid, gone.start_ns) for gone in seen)
            return [replace(gone, t=self._host.wall_ns(gone.t)) for gone in seen]


class SimulatedHost:
    """One host that runs ``scenario`` from the clock's present on; the same seed gives the same host.

    ``pynvml`` is that module, for its constants, structs and exceptions; no function of it is called.
    State moves in steps of 10 ms up to the time asked for, and a time asked for later is never earlier.
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
        self.start_ns = clock.now_ns() // STEP_NS * STEP_NS  # as /proc tells start times: to 10 ms
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
        # A simulation that is started again is a new boot: its counters begin anew.
        self.processes = SimulatedProcesses(self, str(_uuid(seed, plan.name, "boot", self.start_ns)))
        self.nvml = SimulatedNvml(pynvml, self)

    def catch_up(self) -> tuple[SimulatedGpu, ...]:
        """The devices as they are by the clock."""
        with self.at(None):
            return self._gpus

    @contextmanager
    def at(self, now_ns: int | None) -> Iterator[Tenants]:
        """Move on to ``now_ns`` (None: by the clock) and stay there for the length of a with statement."""
        with self._lock:
            t_ns = self.clock.now_ns() if now_ns is None else now_ns
            self._tenants.advance((t_ns - self.start_ns) // STEP_NS)
            yield self._tenants

    def wall_ns(self, t_ns: int) -> int:
        """What the wall clock showed at a time of the simulation."""
        return t_ns + (self._clock_set_by_ns if t_ns >= self._clock_set_at_ns else 0)

    def unset_ns(self, wall_ns: int) -> int:
        """The time of the simulation that is meant by a time of the sampler's clock. Where that was set, the
        same may be meant twice, and what is asked for is the present."""
        return wall_ns if self._clock_set_by_ns == 0 else self.clock.now_ns()

    def start_command(self, pid: int) -> None:
        """A process of this machine takes the place of the scenario's command, from now on."""
        with self.at(None) as tenants:
            tenants.start_command(pid)

    def end_command(self, pid: int) -> None:
        """It has ended."""
        with self.at(None) as tenants:
            tenants.end_command(pid)

    def outcomes(self, now_ns: int) -> list[Record]:
        """Unit, Run and Quality records up to ``now_ns`` that were not given before, in order of time."""
        now_ns = self.unset_ns(now_ns)
        with self.at(now_ns) as tenants:
            return [replace(record, t=self.wall_ns(record.t)) for record in _taken(tenants.outcomes, now_ns)]

    def truth(self, now_ns: int) -> dict[str, Any]:
        """The true energy since the start, in whole µJ: for each device idle_uj + Σ active_uj == total_uj,
        and counter_start_uj + total_uj is what its counter shows, save publication lag, the mJ floor and the
        faults that its plan names."""
        with self.at(now_ns) as tenants:
            return {
                "host": self.name,
                "boot_id": self.processes.boot_id,
                "start_ns": self.start_ns,
                "t": self.start_ns + tenants.step * STEP_NS,
                "gpus": [self._gpu_truth(gpu) for gpu in self._gpus],
            }

    def write_truth(self, path: Path) -> None:
        """Write ``truth`` by the clock as JSON. Raises WattributeError where the path cannot be written."""
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
