"""What is collected: this host's GPUs, or a simulated host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from wattribute.settings import Settings, data_folder, load_settings

if TYPE_CHECKING:
    from wattribute.collector.simulate import SimulatedHost

_DEMO: Final = "demo"
_COMMAND: Final = "run"
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

    def outcomes(self, now_ns: int) -> list[Record]:
        """What the applications of a simulated host report; those of a real one do that by themselves."""
        return self.simulated.outcomes(now_ns) if self.simulated else []

    def sampler(
        self,
        settings: Settings,
        emit: Callable[[Sequence[Record]], None],
        outcomes: Callable[[int], list[Record]] | None = None,
    ) -> Sampler:
        """A sampler of all its GPUs; ``outcomes`` are asked for in place of its own."""
        return Sampler(
            self.nvml,
            self.processes,
            self.clock,
            self.host,
            emit,
            fast_hz=settings.fast_hz,
            slow_s=settings.slow_s,
            flush_s=settings.flush_s,
            outcomes=outcomes or self.outcomes,
            start_worker=inline_worker if self.inline else thread_worker,
        )

    def shown(self) -> str:
        """In words."""
        names = [gpu.identity.name or "GPU" for gpu in self.nvml.gpus]
        kinds = ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
        return f"{kinds} on {self.name}{', SIMULATED' if self.simulated else ''}"


def load_host_settings(options: Mapping[str, object], config: Path | None, simulate: bool) -> Settings:
    """The settings; a simulated host has a store of its own: made-up joules must not lie among real ones."""
    settings = load_settings(options, config)
    if simulate and "store" not in settings.origins:
        apart = {"store": f"chdb://{data_folder() / 'simulated' / 'store'}"}
        settings = load_settings({**options, **apart}, config)
    return settings


def open_source(
    settings: Settings, simulate: bool, scenario: str | None, seed: int, virtual_start_ns: int | None = None
) -> Source:
    """The host to collect from. ``virtual_start_ns`` lets a simulated one run as fast as it goes, from then.

    Raises UsageError; WattributeError where there is no GPU."""
    if not simulate:
        if scenario is not None or virtual_start_ns is not None:
            raise UsageError("--scenario and --virtual-time need --simulate")
        return _real(settings)
    made = _simulated(scenario or _DEMO, seed, virtual_start_ns)
    name = settings.host if "host" in settings.origins else made.name
    return replace(made, name=name, host=_described(made.host, settings))


def open_hosts(settings: Settings, simulate: bool, scenario: str | None, seed: int) -> list[Source]:
    """The host to collect from and, of a scenario that has others beside it, those too.

    Raises UsageError; WattributeError where there is no GPU."""
    hosts = [open_source(settings, simulate, scenario, seed)]
    if simulate:
        from wattribute.collector.scenario import load_scenario

        beside = load_scenario(scenario or _DEMO).host.beside
        hosts += (_simulated(name, seed, None) for name in beside)
    return hosts


def open_command_host(settings: Settings, simulate: bool, scenario: str | None, seed: int) -> Source:
    """As ``open_source``: the host that a command of ours runs on. A simulated one needs a place for it."""
    source = open_source(settings, simulate, (scenario or _COMMAND) if simulate else scenario, seed)
    if source.simulated is not None and not source.simulated.has_command:
        source.close()
        raise UsageError(f"scenario {scenario!r} has no place for a command: give a tenant command = true")
    return source


def _simulated(scenario: str, seed: int, virtual_start_ns: int | None) -> Source:
    from wattribute.collector.scenario import load_scenario
    from wattribute.collector.simulate import SimulatedHost, VirtualTime

    clock: Clock = HostClock() if virtual_start_ns is None else VirtualTime(virtual_start_ns)
    made = SimulatedHost(load_scenario(scenario), clock, seed, load_pynvml())
    return Source(
        name=made.name,
        nvml=Nvml(made.nvml),
        processes=made.processes,
        clock=clock,
        host=made.host,
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
