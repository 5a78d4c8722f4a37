"""The scenario of a simulated host: a TOML file with its devices, and with who uses them when.

    [host]      name, provider, region, pricing, cluster, team, labels, repeat_s, pid_range
    [[gpu]]     one kind of device, ``count`` times: idle_w, context_w, power_limit_w, memory_gib, …
    [[tenant]]  one process at a time: gpus, pattern, watts_per_sm_percent, sm_percent, start_s, stop_s, …
    [[quality]] an evaluation: at_s, model, model_version or run, metric, value

The timetable [0, repeat_s) repeats, each time with new processes. A tenant without ``stop_s`` starts once
and never ends. The tenant that is the ``command`` is a real process, started by ``wattribute run``: it holds
its GPUs while that process lives, and its identity comes from /proc. The classes below list every key, with
its default and limits.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from wattribute.errors import UsageError, meant

BUNDLED: Final = Path(__file__).with_name("scenarios")

_ROOT_KEYS: Final = ("host", "gpu", "tenant", "quality")
_DAY_S: Final = 86_400.0
MIG_SLICES: Final = 7
"""The number of compute slices into which MIG divides a simulated device."""


def _number(default: Any, least: float, most: float) -> Any:
    return field(default=default, metadata={"least": least, "most": most})


def _choice(default: str, *choices: str) -> Any:
    return field(default=default, metadata={"choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """[host]: where the machine is and how its timetable runs."""

    name: str
    provider: str = ""
    region: str = ""
    pricing: str = ""
    cluster: str = ""
    team: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()  # bundled scenarios that `wattribute up` shows with it, a host each
    repeat_s: float | None = _number(None, 1, _DAY_S)
    # A narrow range makes pids be reused quickly; the default is that of a large Linux host.
    pid_range: tuple[int, int] = _number((2_000, 4_194_304), 1, 4_194_304)
    unit_period_s: float = _number(1.0, 0.01, 3_600)
    # A fault: when the wall clock is set, and by how many seconds; (0, 0): never.
    clock_set_s: tuple[int, int] = _number((0, 0), -3_600, 86_400)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlan:
    """[[gpu]]: the device's levels and what its driver shows. Defaults: an H200 SXM on driver 590."""

    name: str = "NVIDIA H200"
    count: int = _number(1, 1, 64)
    memory_gib: float = _number(140.4, 1, 4_096)
    idle_w: float = _number(77.7, 0, 5_000)
    context_w: float = _number(38.0, 0, 5_000)  # in addition to idle_w while a process is resident
    power_limit_w: float = _number(700.0, 1, 10_000)
    leakage_w_per_c: float = _number(0.0, 0, 10)  # in addition to idle_w for each degree above 28 °C
    # Tenants together draw less than alone: the power P above idle is divided by 1 + this ratio × P / 600 W.
    contention_ratio: float = _number(0.0, 0, 2)
    noise_ratio: float = _number(0.02, 0, 0.2)
    energy_counter: bool = True  # false: NOT_SUPPORTED, as before Volta and on many vGPUs
    power_average: bool = True  # false: no 1 s average, and PowerUsage is instantaneous (A100)
    scope: str = _choice("", "", "module")  # module: power fields answer for the whole module only (GH200)
    utilization_period_ms: int = _number(1_000, 10, 60_000)
    # How long after the end of its period a utilisation sample becomes readable, drawn for each sample.
    utilization_lag_ms: tuple[int, int] = _number((100, 1_000), 0, 60_000)
    utilization_shift_ms: int = _number(0, -5_000, 5_000)  # how much too late the samples are dated
    instances: tuple[int, ...] = _number((), 1, 7)  # MIG: the compute slices of each instance; empty: off
    # Faults of real devices, off by default.
    counter_reset_s: float | None = _number(None, 1, _DAY_S)  # the counter restarts at 0, as on driver reload
    counter_idle_ratio: float = _number(1.0, 0, 1)  # part of the energy that it counts while nobody works
    garbage_ratio: float = _number(0.0, 0, 1)  # part of utilisation answers with an entry of 2147483632 %
    lost_s: tuple[int, int] = _number((0, 0), 0, 86_400)  # from when to when no call on the device succeeds


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantPlan:
    """[[tenant]]: a process on one or more devices, how it works and to whom it belongs."""

    name: str
    gpus: tuple[int, ...] = _number(MISSING, 0, 63)
    command: bool = False  # the command that `wattribute run` starts, not a simulated process
    pattern: str = _choice("serve", "serve", "train", "idle", "timetable")
    start_s: float = _number(0.0, 0, _DAY_S)
    stop_s: float | None = _number(None, 0, _DAY_S)
    # train: the first attempt fails at fail_s, the second starts at restart_s from the last checkpoint.
    fail_s: float | None = _number(None, 0, _DAY_S)
    restart_s: float | None = _number(None, 0, _DAY_S)
    watts_per_sm_percent: float = _number(4.0, 0, 100)
    drift_ratio: float = _number(0.0, 0, 0.9)  # how far the watts swing, as kernels and inputs change
    drift_s: float = _number(300.0, 1, _DAY_S)  # the period of the swing
    sm_percent: float = _number(50.0, 0, 100)  # while it works; several tenants share 100
    memory_per_sm_ratio: float = _number(0.5, 0, 1)  # memory utilisation ÷ SM utilisation
    memory_gib: float = _number(16.0, 0, 4_096)
    busy_s: float = _number(1.5, 0.01, 3_600)  # serve: mean length of a burst, and of the pause after it
    pause_s: float = _number(0.5, 0.01, 3_600)
    works_s: tuple[float, ...] = _number((), 0, _DAY_S)  # timetable: from, to, from, to, … after its start
    # serve: tenants with the same `alike` have alike_ratio of their load at the same times.
    alike: str = ""
    alike_ratio: float = _number(0.0, 0, 1)
    step_s: float = _number(0.5, 0.02, 3_600)  # train: one step, its last fifth at a quarter of sm_percent
    checkpoint_s: float = _number(5.0, 0.02, _DAY_S)
    instance: int | None = _number(None, 0, 6)  # with MIG: the index of the GPU's instance
    process_list: str = _choice("compute", "compute", "graphics", "mps", "none")  # none: never listed
    units: Mapping[str, float] = field(default_factory=dict)  # units per second of SM time at 100 %
    namespace: str = ""
    job: str = ""
    user: str = ""
    team: str = ""
    application: str = ""
    workload: str = ""
    phase: str = ""
    model: str = ""
    model_version: str = ""
    run: str = ""  # repeated timetables number it: run-1, run-2, …
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityPlan:
    """[[quality]]: an evaluation that comes out at ``at_s`` of every repetition."""

    at_s: float = _number(MISSING, 0, _DAY_S)
    model: str = ""
    model_version: str = ""
    run: str = ""
    metric: str
    value: float = _number(MISSING, -1e300, 1e300)
    higher_is_better: bool = True
    sample_count: int | None = _number(None, 1, 1 << 62)
    dataset: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A checked scenario; ``gpus`` has one entry for each device."""

    host: HostPlan
    gpus: tuple[GpuPlan, ...]
    tenants: tuple[TenantPlan, ...]
    qualities: tuple[QualityPlan, ...]


def load_scenario(name: str) -> Scenario:
    """The scenario in the TOML file ``name``, or the bundled one of that name (demo, churn).

    Raises UsageError, one line that names file and key and says what is wrong.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = BUNDLED / f"{name}.toml"
        if not path.is_file():
            known = ", ".join(sorted(item.stem for item in BUNDLED.glob("*.toml")))
            raise UsageError(
                f"no bundled scenario {name!r}; there are {known}; or use the path of a .toml file"
            )
    try:
        return parse_scenario(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise UsageError(f"{path}: cannot read the scenario: {error.strerror}") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from error


def parse_scenario(table: Mapping[str, Any]) -> Scenario:
    """The scenario in a TOML document. Raises UsageError, which names the key and what is wrong with it."""
    for key in table:
        if key not in _ROOT_KEYS:
            raise UsageError(_unknown(key, _ROOT_KEYS))
    if not isinstance(table.get("host"), dict):
        raise UsageError("the section [host] is missing")
    kinds = _section(GpuPlan, table, "gpu")
    scenario = Scenario(
        host=_read(HostPlan, table["host"], "host"),
        gpus=tuple(plan for plan in kinds for _ in range(plan.count)),
        tenants=tuple(_section(TenantPlan, table, "tenant")),
        qualities=tuple(_section(QualityPlan, table, "quality")),
    )
    _check(scenario)
    return scenario


_Plan = TypeVar("_Plan", HostPlan, GpuPlan, TenantPlan, QualityPlan)


def _section(cls: type[_Plan], table: Mapping[str, Any], key: str) -> list[_Plan]:
    entries = table.get(key, [])
    if not isinstance(entries, list):
        raise UsageError(f"{key} is not a list of tables: write [[{key}]]")
    return [_read(cls, entry, f"{key} {number}") for number, entry in enumerate(entries, 1)]


def _read(cls: type[_Plan], table: Any, where: str) -> _Plan:
    if not isinstance(table, dict):
        raise UsageError(f"{where} is not a table")
    if isinstance(table.get("name"), str):
        where = f"{where} ({table['name']})"
    known = {item.name: item for item in fields(cls)}
    for key in table:
        if key not in known:
            raise UsageError(f"{where}: {_unknown(key, known)}")
    for item in known.values():
        if item.default is MISSING and item.default_factory is MISSING and item.name not in table:
            raise UsageError(f"{where}: {item.name} is missing")
    return cls(**{key: _value(known[key], value, f"{where}: {key}") for key, value in table.items()})


def _value(item: Field[Any], value: Any, where: str) -> Any:
    kind = str(item.type).removesuffix(" | None")
    if kind.startswith("tuple"):
        of = kind.removeprefix("tuple[").partition(",")[0].rstrip("]")
        if not isinstance(value, list) or not value or (kind == "tuple[int, int]" and len(value) != 2):
            entries = f"{'two ' if '...' not in kind else ''}{'texts' if of == 'str' else 'numbers'}"
            raise UsageError(f"{where}: {value!r} is not a list of {entries}")
        return tuple(_scalar(of, item, entry, where) for entry in value)
    if kind.startswith("Mapping"):
        if not isinstance(value, dict):
            raise UsageError(f"{where}: {value!r} is not a table")
        of = "float" if "float" in kind else "str"
        return {key: _scalar(of, item, entry, f"{where}.{key}") for key, entry in value.items()}
    return _scalar(kind, item, value, where)


def _scalar(kind: str, item: Field[Any], value: Any, where: str) -> Any:
    named = {"str": "a text", "bool": "true or false", "int": "a whole number", "float": "a number"}
    types = {"str": (str,), "bool": (bool,), "int": (int,), "float": (int, float)}
    if type(value) not in types[kind]:  # not isinstance: a bool is an int, but no number may be a bool
        raise UsageError(f"{where}: {value!r} is not {named[kind]}")
    if kind in {"int", "float"}:
        least, most = item.metadata.get("least", 0), item.metadata.get("most", 1e18)
        if not least <= value <= most:  # NaN fails this too
            raise UsageError(f"{where}: {value} is outside {least:g} to {most:g}")
    choices = item.metadata.get("choices")
    if choices and value not in choices:
        raise UsageError(f"{where}: {value!r} is none of {', '.join(map(repr, choices))}")
    return float(value) if kind == "float" else value


def _unknown(key: str, known: Any) -> str:
    return f"unknown key {key!r}; {meant(key, known)}"


def _check(scenario: Scenario) -> None:
    """Check that the values fit together."""
    host = scenario.host
    if not scenario.gpus:
        raise UsageError("the scenario has no [[gpu]]: add one")
    needed = max((len(_present(scenario, tenant)) for tenant in scenario.tenants), default=0)
    if host.pid_range[1] - host.pid_range[0] + 1 < needed:
        raise UsageError(f"host: pid_range has fewer than {needed} pids, but so many run at a time")
    if sum(tenant.command for tenant in scenario.tenants) > 1:
        raise UsageError("several tenants have command = true: only one may")
    for number, gpu in enumerate(scenario.gpus):
        if sum(gpu.instances) > MIG_SLICES:
            raise UsageError(
                f"gpu {number}: the instances have {sum(gpu.instances)} slices, but a device has {MIG_SLICES}"
            )
    for number, tenant in enumerate(scenario.tenants, 1):
        _check_tenant(scenario, tenant, f"tenant {number} ({tenant.name})")
    for number, quality in enumerate(scenario.qualities, 1):
        if host.repeat_s is not None and quality.at_s >= host.repeat_s:
            raise UsageError(
                f"quality {number}: at_s {quality.at_s:g} is not before repeat_s {host.repeat_s:g}"
            )


def _check_tenant(scenario: Scenario, tenant: TenantPlan, where: str) -> None:
    end = scenario.host.repeat_s
    for gpu in tenant.gpus:
        if gpu >= len(scenario.gpus):
            raise UsageError(f"{where}: gpus: there is no device {gpu}; the last is {len(scenario.gpus) - 1}")
        _check_memory(scenario, tenant, gpu, where)
        instances = scenario.gpus[gpu].instances
        if (tenant.instance is None) != (not instances) or (tenant.instance or 0) >= max(1, len(instances)):
            raise UsageError(f"{where}: instance: device {gpu} has {len(instances)}, counted from 0")
    if end is not None and tenant.start_s >= end:
        raise UsageError(f"{where}: start_s {tenant.start_s:g} is not before repeat_s {end:g}")
    if tenant.stop_s is not None and end is not None and tenant.stop_s > end:
        raise UsageError(f"{where}: stop_s {tenant.stop_s:g} is after repeat_s {end:g}")
    if (tenant.fail_s is None) != (tenant.restart_s is None):
        raise UsageError(f"{where}: fail_s and restart_s go together")
    if tenant.fail_s is not None and not (tenant.run and tenant.stop_s is not None):
        raise UsageError(f"{where}: fail_s needs run and stop_s")
    if (tenant.alike_ratio > 0) != bool(tenant.alike) or (tenant.alike and tenant.pattern != "serve"):
        raise UsageError(f"{where}: alike and alike_ratio go together, and need pattern = 'serve'")
    _check_timetable(tenant, where)
    if tenant.run and tenant.pattern != "train":
        raise UsageError(f"{where}: run needs pattern = 'train', not {tenant.pattern!r}")
    times = [tenant.start_s, tenant.fail_s, tenant.restart_s, tenant.stop_s]
    if tenant.command and (tenant.start_s or tenant.stop_s is not None or tenant.run or tenant.units):
        raise UsageError(f"{where}: a command cannot have start_s, stop_s, run or units: it sets them itself")
    known = [time for time in times if time is not None]
    if any(later - earlier < 0.01 for earlier, later in itertools.pairwise(known)):
        raise UsageError(f"{where}: start_s, fail_s, restart_s, stop_s must rise by at least 0.01")


def _check_timetable(tenant: TenantPlan, where: str) -> None:
    if (tenant.pattern == "timetable") != bool(tenant.works_s) or len(tenant.works_s) % 2:
        raise UsageError(f"{where}: works_s, pairs of from and to, and pattern = 'timetable' go together")
    if any(later <= earlier for earlier, later in itertools.pairwise(tenant.works_s)):
        raise UsageError(f"{where}: works_s must rise")


def _check_memory(scenario: Scenario, tenant: TenantPlan, gpu: int, where: str) -> None:
    """The tenants that are on a device when this one starts must fit into its memory."""
    held = sum(other.memory_gib for other in _present(scenario, tenant) if gpu in other.gpus)
    room = scenario.gpus[gpu].memory_gib - 1  # the driver keeps a little under 1 GiB for itself
    if held > room:
        raise UsageError(f"{where}: memory_gib: tenants hold {held:g} of {room:g} GiB on device {gpu}")


def _present(scenario: Scenario, tenant: TenantPlan) -> list[TenantPlan]:
    """The tenants that may be present when ``tenant`` starts, itself included, and all without an end."""
    return [
        other
        for other in scenario.tenants
        if other.stop_s is None or other.start_s <= tenant.start_s < other.stop_s
    ]
