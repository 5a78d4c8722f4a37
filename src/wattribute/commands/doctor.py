"""``wattribute doctor``: what is wrong on this machine, and what to do about it."""

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from wattribute.collector.clock import HostClock
from wattribute.collector.kubelet import UNCHECKED
from wattribute.collector.nvml import Nvml
from wattribute.collector.nvml_calls import GpuError
from wattribute.collector.pod_resources import list_given
from wattribute.collector.proc import ProcTree
from wattribute.commands.ends import check_bus, why_not_made
from wattribute.commands.options import BusOption, ConfigOption, FormatOption, SimulateOption, StoreOption
from wattribute.commands.output import Format, Grid, write_grid, write_rows
from wattribute.commands.source import open_kubelet
from wattribute.errors import WattributeError, unusable
from wattribute.settings import Settings, load_settings

_STYLES: Final = {"ok": "green", "weak": "yellow", "broken": "bold red"}
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES: Final = 256  # more than struct timex needs; zeros: set nothing
_FIRST_PID_NAMESPACE: Final = 0xEFFFFFFC  # inode of the host's own namespace, in every Linux since 3.8
_CLOCK_S: Final = 0.2
_CLOCK_STEP_NS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """What was checked, what was found, and what to do about it."""

    part: str
    state: Literal["ok", "weak", "broken"]
    finding: str
    advice: str = ""


def doctor(
    simulate: SimulateOption = False,
    shape: FormatOption = Format.table,
    store: StoreOption = None,
    bus: BusOption = None,
    config: ConfigOption = None,
) -> None:
    """Check NVML, permissions, kubelet, clocks, bus and store, and say what to do about each finding.

    The exit status is 1 where something is broken. What is weak works, with less information.
    """
    settings = load_settings({"store": store, "bus": bus}, config)
    checks: Sequence[tuple[str, Callable[[], Iterator[Finding]], bool]] = (
        ("NVML", _nvml, not simulate),
        ("engines", lambda: _engines(settings), not simulate and settings.scrape_s > 0),
        ("permissions", _permissions, True),
        ("kubelet", lambda: _kubelet(settings), not simulate),
        ("clocks", _clocks, True),
        ("bus", lambda: _bus(settings), True),
        ("store", lambda: _store(settings), True),
    )
    findings = [finding for part, check, due in checks if due for finding in _found(part, check)]
    if shape is Format.table:
        cells = [[item.part, item.state, item.finding, item.advice] for item in findings]
        styles = [_STYLES[item.state] for item in findings]
        write_grid(Grid(("part", "state", "finding", "what to do"), cells, styles=styles))
    else:
        write_rows([asdict(item) for item in findings], shape)
    broken = [item.part for item in findings if item.state == "broken"]
    if broken:
        raise WattributeError(f"broken: {', '.join(dict.fromkeys(broken))}; each finding says what to do")


def _found(part: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except WattributeError as error:
        what, _, advice = str(error).partition("; ")
        yield Finding(part, "broken", what, advice)
    except OSError as error:
        yield Finding(part, "broken", unusable(error), "let this user use it, or choose another")


def _nvml() -> Iterator[Finding]:
    with closing(Nvml()) as nvml:
        if nvml.nameless_count:
            lost = f"GPUs that cannot be read: {nvml.nameless_count} ({nvml.shown_errors()})"
            yield Finding("NVML", "broken", lost, "see `dmesg | grep -i nvrm`; it may need a reset")
        for gpu in nvml.gpus:
            shown = f"{gpu.identity.name or 'a GPU'} {gpu.uuid}"
            try:
                device, slow = gpu.read_fast(time.time_ns), gpu.read_slow(time.time_ns)
            except GpuError as error:
                yield Finding("NVML", "broken", str(error), "see `dmesg | grep -i nvrm`; it may need a reset")
                continue
            if device.energy_mj is None and device.power_mw is None:
                power = "neither energy counter nor instant power: energy comes from the 1 s average"
                yield Finding("NVML", "weak", f"{shown}: {power}", "its energy is off by several per cent")
            elif device.energy_mj is None:
                lack = f"{shown}: no energy counter: its energy is integrated from power"
                yield Finding("NVML", "weak", lack, "raise --fast-hz")
            else:
                yield Finding("NVML", "ok", f"{shown}: energy counter, power, utilisation")
            if slow.residents is None:
                advice = "in a container, share the host's pid namespace (--pid=host, hostPID)"
                yield Finding("NVML", "broken", f"{shown}: its processes cannot be listed", advice)


def _engines(settings: Settings) -> Iterator[Finding]:
    """The serving engines of the processes on the GPUs, and those of the settings."""
    from wattribute.collector.scraper import Scraper, shown

    with closing(ProcTree()) as tree:
        pids = _pids_on_gpus()
        on_gpus = [(pid, start_ns) for pid in sorted(pids) if (start_ns := tree.start_ns(pid)) is not None]
        scraper = Scraper(
            Path("/proc"), tree.living_since_ns, settings.host, time.time_ns(), 1, settings.endpoints
        )
        with _unlogged(Scraper.__module__):  # what a collector would log becomes a finding
            scraper.look(time.time_ns(), on_gpus)
            scraper.read(time.time_ns, {})
    for target, text in zip(scraper.targets.values(), shown(scraper), strict=True):
        if target.problem:
            yield Finding("engines", "broken", f"{text}: {target.problem}", "see docs/units.md, Endpoints")
        else:
            yield Finding("engines", "ok", text)
    for problem in sorted(scraper.problems):
        yield Finding("engines", "weak", problem, "see docs/units.md")
    if count := scraper.counts.unusable_samples:
        unusable = f"samples left out because they are NaN, negative or repeated: {count}"
        yield Finding("engines", "weak", unusable, "see docs/units.md")
    if not scraper.targets and not scraper.problems:
        advice = "if one of them is a serving engine, see docs/units.md"
        yield Finding("engines", "ok", f"no serving engine among {len(on_gpus)} processes on GPUs", advice)


@contextmanager
def _unlogged(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def _pids_on_gpus() -> set[int]:
    """The processes on all GPUs. A GPU that cannot be read adds none: the check of NVML reports it."""
    pids: set[int] = set()
    with suppress(WattributeError), closing(Nvml()) as nvml:
        for gpu in nvml.gpus:
            with suppress(GpuError):
                pids |= {resident.pid for resident in gpu.read_slow(time.time_ns).residents or ()}
    return pids


def _permissions() -> Iterator[Finding]:
    if ProcTree().living_since_ns(os.getpid()) is None:
        yield Finding("permissions", "broken", "/proc does not show this process", "mount the host's /proc")
        return
    if Path("/proc/self/ns/pid").stat().st_ino != _FIRST_PID_NAMESPACE:
        shown = "this is a pid namespace of its own: processes outside it are invisible"
        advice = "set hostPID: true in Kubernetes, --pid=host in Docker: NVML reports the host's pids"
        yield Finding("permissions", "weak", shown, advice)
    if _hides_processes():
        shown = "/proc is mounted with hidepid: processes of other users are invisible"
        yield Finding(
            "permissions", "weak", shown, "run the collector as root, or in the group of that mount"
        )
    pids = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    closed = [pid for pid in pids if not os.access(f"/proc/{pid}/environ", os.R_OK)]
    if closed:
        shown = f"the environment of {len(closed)} processes of other users cannot be read by this user"
        advice = "their model and run stay unknown: run the collector as root, or with CAP_SYS_PTRACE"
        yield Finding("permissions", "weak", shown, advice)
    else:
        yield Finding("permissions", "ok", "every process's environment can be read")


def _hides_processes() -> bool:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    options = [mount[3] for mount in mounts if mount[1:3] == ["/proc", "proc"]][-1:]
    hides = any("hidepid=" in each and "hidepid=0" not in each for each in options)
    return hides and os.geteuid() != 0


def _kubelet(settings: Settings) -> Iterator[Finding]:
    socket = Path(settings.pod_resources)
    kubelet = open_kubelet(settings)
    if kubelet is None and not socket.exists():
        yield Finding("kubelet", "ok", "there is none: this is not a Kubernetes node, or kubelet is 'off'")
        return
    if kubelet is None:
        shown = "it is not asked for its pods: only their uid is known, not their names and labels"
        yield Finding("kubelet", "weak", shown, "set kubelet, as 'wattribute check-config' explains")
    elif not kubelet.refresh():
        what, _, advice = kubelet.problem.partition("; ")
        yield Finding("kubelet", "weak", what, advice)
    else:
        unusable = f", {kubelet.unusable} more cannot be read" if kubelet.unusable else ""
        yield Finding("kubelet", "ok", f"it lists {kubelet.pod_count} pods{unusable}")
        if settings.kubelet_ca == UNCHECKED:
            shown = "its certificate is not checked: whoever answers at its address gets the token"
            yield Finding("kubelet", "weak", shown, "set kubelet_ca to the file of its certificate authority")
    if settings.pod_resources == "off":
        return
    try:
        given = list_given(socket) if socket.exists() else None
    except WattributeError as error:
        what, _, advice = str(error).partition("; ")
        yield Finding("kubelet", "weak", what, advice)
        return
    if given is None:
        shown = f"there is no {socket}: a GPU that is assigned to a pod but not used counts as unheld"
        yield Finding("kubelet", "weak", shown, f"mount the node's {socket.parent} there, read-only")
    else:
        pods = {(each.namespace, each.pod) for each in given if each.resource.startswith("nvidia.com/")}
        yield Finding("kubelet", "ok", f"it lists which pod has which GPU: {len(pods)} pods have one or more")


def _clocks() -> Iterator[Finding]:
    clock = HostClock()
    time.sleep(_CLOCK_S)
    step_ns = clock.wall_step_ns()
    if abs(step_ns) > _CLOCK_STEP_NS:
        shown = f"the wall clock moved by {step_ns / 1e6:+.1f} ms against the monotonic one in {_CLOCK_S:g} s"
        yield Finding("clocks", "weak", shown, "let NTP slew it rather than set it")
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    state = ctypes.CDLL(None).adjtimex(timex)
    if state == _TIME_ERROR:
        yield Finding(
            "clocks", "weak", "the wall clock is not synchronised", "run chrony or systemd-timesyncd"
        )
    else:
        yield Finding("clocks", "ok", "the kernel does not report the wall clock as unsynchronised")


def _bus(settings: Settings) -> Iterator[Finding]:
    yield Finding("bus", "ok", check_bus(settings))


def _store(settings: Settings) -> Iterator[Finding]:
    from wattribute.sinks.folder import folder_of, has_store, is_another_s
    from wattribute.sinks.migrate import missing
    from wattribute.sinks.query_server import open_store_for_reading
    from wattribute.sinks.refusal import GO_ON
    from wattribute.sinks.store import LEFT_OUT, damaged_tables

    folder = folder_of(settings.store)
    if folder is not None and not has_store(folder):
        if reason := f"{folder} holds other files" if is_another_s(folder) else why_not_made(folder):
            yield Finding("store", "broken", reason, "choose another --store")
        else:
            yield Finding(
                "store", "ok", f"there is none in {folder} yet", "'wattribute up' or 'replay' creates it"
            )
        return
    with closing(open_store_for_reading(settings.store)) as store:
        version = store.query("SELECT version()").rows[0][0]
        tables = store.query("EXISTS TABLE attribution").rows[0][0]
        if not tables:
            yield Finding("store", "weak", f"{settings.store} has no tables yet", "wattribute migrate")
            return
        rows, newest = store.query("SELECT count(), max(window_start) FROM attribution FINAL").rows[0]
        shown = f"{settings.store} answers (ClickHouse {version}): {rows:,} rows"
        yield Finding("store", "ok", shown + (f", the newest of {newest:%Y-%m-%dT%H:%M:%SZ}" if rows else ""))
        if missing(store, settings.store):
            found = "an older wattribute made its tables: some commands fail on them"
            yield Finding("store", "weak", found, "wattribute migrate")
        if folder is not None and (damaged := damaged_tables(store)):
            yield Finding("store", "broken", LEFT_OUT.format(damaged), GO_ON)
        (wrong,) = store.query("SELECT count() FROM conservation").rows[0]
        if wrong:
            advice = "please report it, with the rows of SELECT * FROM conservation"
            yield Finding("store", "broken", f"{wrong} windows do not add up", advice)
        (dead,) = store.query("SELECT count() FROM dead FINAL").rows[0]
        if dead:
            yield Finding(
                "store", "weak", f"{dead:,} dead letters", "SELECT * FROM dead FINAL shows the reasons"
            )
