"""What is collected: this host's GPUs, or a simulated host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wattribute.collector.clock import Clock, HostClock
from wattribute.collector.health import Health
from wattribute.collector.nvml import Nvml, load_pynvml
from wattribute.collector.proc import ProcTree
from wattribute.collector.reservations import Reservations
from wattribute.collector.residency import Processes
from wattribute.collector.sampler import Sampler
from wattribute.collector.serving import Serving
from wattribute.collector.workers import InlineWorker, ThreadWorker, Worker
from wattribute.errors import UsageError, WattributeError
from wattribute.records import Host, Record
from wattribute.settings import Settings, data_folder, folder_url, load_settings, names_in

if TYPE_CHECKING:
    from wattribute.collector.kubelet import Kubelet
    from wattribute.collector.simulate import SimulatedHost

_IN_A_POD: Final = "https://127.0.0.1:10250/pods"
_DEMO: Final = "demo"
_COMMAND: Final = "run"
_OFFER: Final = "; try 'wattribute up --simulate' with a simulated host"


@dataclass(frozen=True, slots=True)
class Source:
    """A host to be read: its NVML, processes, clock, and its own record. ``simulated`` is the simulated host
    behind them, if it is not a real one."""

    name: str
    nvml: Nvml
    processes: Processes
    clock: Clock
    host: Host
    simulated: SimulatedHost | None = None
    start_worker: Callable[[], Worker] = ThreadWorker
    kubelet: Kubelet | None = None
    reservations: Reservations | None = None

    @property
    def boot_id(self) -> str:
        """The id of the host's boot."""
        return self.processes.boot_id

    def close(self) -> None:
        """Close NVML, and stop watching processes."""
        self.nvml.close()
        if isinstance(self.processes, ProcTree | Serving):
            self.processes.close()
        for background in (self.kubelet, self.reservations):
            if background is not None:
                background.close()

    def complaints(self, health: Health) -> Iterator[str]:
        """What did not answer as it should, one line each. ``health`` is that of its sampler."""
        yield from health.complaints()
        for what, asked in (
            ("the kubelet", self.kubelet),
            ("which pod or job has which GPU", self.reservations),
        ):
            if asked is not None and asked.failures:
                yield f"{what} could not be read {asked.failures:,} times, the last time: {asked.problem}"

    def outcomes(self, now_ns: int) -> Sequence[Record]:
        """The records that there are beside the readings."""
        told: list[Record] = []
        if self.simulated is not None:
            told += self.simulated.outcomes(now_ns)
        if self.reservations is not None:
            told += self.reservations.records(now_ns)
        if isinstance(self.processes, Serving):
            told += self.processes.outcomes(now_ns)
        return told

    def sampler(
        self,
        settings: Settings,
        emit: Callable[[Sequence[Record]], None],
        *outcomes: Callable[[int], Sequence[Record]],
    ) -> Sampler:
        """A sampler of all its GPUs. ``outcomes`` are asked for further records at each flush."""
        asked = [*outcomes, self.outcomes]
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
            start_worker=self.start_worker,
        )

    def scraped(self) -> str:
        """What was read of serving engines, in words; empty where nothing was."""
        scraper = self.processes.scraper if isinstance(self.processes, Serving) else None
        if scraper is None or not scraper.counts.readings:
            return ""
        counts = scraper.counts
        failed = f", {counts.failures:,} of them failed" if counts.failures else ""
        left_out = f", {counts.unusable_samples:,} samples left out" if counts.unusable_samples else ""
        return f"{counts.readings:,} readings of serving engines{failed}{left_out}"

    def shown(self) -> str:
        """The host and its GPUs, in words."""
        names = [gpu.identity.name or "GPU" for gpu in self.nvml.gpus]
        kinds = ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
        nameless = self.nvml.nameless_count
        again = f"start again once 'wattribute doctor' finds {'it' if nameless == 1 else 'them'}"
        left_out = f" (without {nameless} that cannot be read: {again})" if nameless else ""
        return f"{kinds}{left_out} on {self.name}{', SIMULATED' if self.simulated else ''}"


def load_host_settings(options: Mapping[str, object], config: Path | None, simulate: bool) -> Settings:
    """The settings; a simulated host has a store of its own: never mix made-up joules with real ones."""
    settings = load_settings(options, config)
    if simulate and "store" not in settings.origins:
        apart = {"store": folder_url("chdb", data_folder() / "simulated" / "store")}
        settings = load_settings({**options, **apart}, config)
    return settings


def open_source(
    settings: Settings, simulate: bool, scenario: str | None, seed: int, virtual_start_ns: int | None = None
) -> Source:
    """The host to collect from. From ``virtual_start_ns`` on a simulated one runs as fast as it can.

    Raises UsageError; WattributeError where there is no GPU."""
    if not simulate:
        if scenario is not None or virtual_start_ns is not None:
            raise UsageError("--scenario and --virtual-time need --simulate")
        return _real(settings)
    made = _simulated(scenario or _DEMO, seed, virtual_start_ns)
    name = settings.host if "host" in settings.origins else made.name
    return replace(made, name=name, host=_described(made.host, settings))


def open_hosts(settings: Settings, simulate: bool, scenario: str | None, seed: int) -> list[Source]:
    """The host to collect from, and any other hosts that its scenario has beside it.

    Raises UsageError; WattributeError where there is no GPU."""
    hosts = [open_source(settings, simulate, scenario, seed)]
    if simulate:
        from wattribute.collector.scenario import load_scenario

        beside = load_scenario(scenario or _DEMO).host.beside
        hosts += (_simulated(name, seed, None) for name in beside)
    return hosts


def open_command_host(settings: Settings, simulate: bool, scenario: str | None, seed: int) -> Source:
    """Open the host that a command of ours runs on. A simulated one needs a tenant for the command."""
    source = open_source(settings, simulate, (scenario or _COMMAND) if simulate else scenario, seed)
    if source.simulated is not None and not source.simulated.has_command:
        source.close()
        raise UsageError(f"scenario {scenario!r} has no place for a command: set command = true for a tenant")
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
        clock=made.clock,
        host=made.host,
        simulated=made,
        start_worker=ThreadWorker if virtual_start_ns is None else InlineWorker,
    )


def _real(settings: Settings) -> Source:
    try:
        nvml = Nvml()
    except WattributeError as error:
        raise WattributeError(f"no GPU to read on this machine: {error}{_OFFER}") from error
    clock = HostClock()
    host = _described(Host(t=clock.now_ns()), settings)
    kubelet = open_kubelet(settings)
    root = Path("/proc")
    socket = None if settings.pod_resources == "off" else Path(settings.pod_resources)
    reservations = Reservations(nvml.gpus, root, socket, kubelet, settings.rules)
    for background in (kubelet, reservations):
        if background is not None:
            background.start()
    tree = ProcTree(root, kubelet, settings.rules)
    processes: ProcTree | Serving = tree
    if settings.scrape_s:
        processes = Serving(tree, root, settings.host, settings.scrape_s, settings.endpoints, clock.now_ns)
    return Source(settings.host, nvml, processes, clock, host, kubelet=kubelet, reservations=reservations)


def open_kubelet(settings: Settings) -> Kubelet | None:
    """The kubelet of this node; None if the settings name none and this is not a pod."""
    url = settings.kubelet or (_IN_A_POD if Path(settings.kubelet_token).is_file() else "off")
    if url == "off":
        return None
    from wattribute.collector.kubelet import Kubelet  # here, because few need what it loads: http, ssl

    labels = names_in(settings.kubelet_labels)
    return Kubelet(url, settings.kubelet_token, settings.kubelet_ca, labels)


def _described(host: Host, settings: Settings) -> Host:
    """The host with what the settings say about it."""
    said = {name: getattr(settings, name) for name in ("provider", "region", "pricing", "cluster", "team")}
    return replace(
        host,
        labels={**host.labels, **settings.labels},
        **{name: value for name, value in said.items() if value},
    )
