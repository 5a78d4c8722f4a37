"""What is collected: this host's GPUs, or a simulated host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wattribute.collector.clock import Clock, HostClock
from wattribute.collector.nvml import Nvml, load_pynvml
from wattribute.collector.proc import ProcTree
from wattribute.collector.residency import Processes
from wattribute.collector.sampler import Sampler
from wattribute.collector.workers import inline_worker, thread_worker
from wattribute.errors import UsageError, WattributeError
from wattribute.records import Host, Record
from wattribute.settings import Settings

if TYPE_CHECKING:
    from wattribute.collector.simulate import SimulatedHost

_OFFER: Final = "; 'wattribute up --simulate' shows it on a simulated host"


@dataclass(frozen=True, slots=True)
class Source:
    """A host to be read: its NVML, processes, clock, and what it is. ``simulated`` is the host behind all
    that where it is not real."""

    name: str
    nvml: Nvml
    processes: Processes
    clock: Clock
    host: Host
    simulated: SimulatedHost | None = None
    inline: bool = False

    @property
    def boot_id(self) -> str:
        """Of the host."""
        return self.processes.boot_id

    def close(self) -> None:
        """Let go of NVML and of the processes that are watched."""
        self.nvml.close()
        if isinstance(self.processes, ProcTree):
            self.processes.close()

    def sampler(
        self,
        settings: Settings,
        emit: Callable[[Sequence[Record]], None],
        *outcomes: Callable[[int], Sequence[Record]],
    ) -> Sampler:
        """A sampler of all its GPUs. ``outcomes`` are asked for further records at each flush."""
        asked = [*outcomes, *([self.simulated.outcomes] if self.simulated else [])]
        return Sampler(
            self.nvml,
            self.processes,
            self.clock,
            self.host,
            emit,
            fast_hz=settings.fast_hz,
            slow_s=settings.slow_s,
            flush_s=settings.flush_s,
            outcomes=lambda now_ns: [record for outcome in asked for record in outcome(now_ns)],
            start_worker=inline_worker if self.inline else thread_worker,
        )

    def shown(self) -> str:
        """In words."""
        names = [gpu.identity.name or "GPU" for gpu in self.nvml.gpus]
        kinds = ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
        return f"{kinds} on {self.name}{', SIMULATED' if self.simulated else ''}"


def open_source(
    settings: Settings, simulate: bool, scenario: str | None, seed: int, virtual_start_ns: int | None = None
) -> Source:
    """The host to collect from. ``virtual_start_ns`` lets a simulated one run as fast as it goes, from then.

    Raises UsageError; WattributeError where there is no GPU."""
    if not simulate:
        if scenario is not None or virtual_start_ns is not None:
            raise UsageError("--scenario and --virtual-time need --simulate")
        return _real(settings)
    from wattribute.collector.scenario import load_scenario
    from wattribute.collector.simulate import SimulatedHost, VirtualTime

    clock: Clock = HostClock() if virtual_start_ns is None else VirtualTime(virtual_start_ns)
    made = SimulatedHost(load_scenario(scenario or "demo"), clock, seed, load_pynvml())
    return Source(
        name=settings.host if "host" in settings.origins else made.name,
        nvml=Nvml(made.nvml),
        processes=made.processes,
        clock=clock,
        host=_described(made.host, settings),
        simulated=made,
        inline=virtual_start_ns is not None,
    )


def _real(settings: Settings) -> Source:
    try:
        nvml = Nvml()
    except WattributeError as error:
        raise WattributeError(f"no GPU to read on this machine: {error}{_OFFER}") from error
    clock = HostClock()
    host = _described(Host(t=clock.now_ns()), settings)
    return Source(settings.host, nvml, ProcTree(Path("/proc")), clock, host)


def _described(host: Host, settings: Settings) -> Host:
    """The host with what the settings say of it."""
    said = {name: getattr(settings, name) for name in ("provider", "region", "pricing", "cluster", "team")}
    return replace(
        host,
        labels={**host.labels, **settings.labels},
        **{name: value for name, value in said.items() if value},
    )
