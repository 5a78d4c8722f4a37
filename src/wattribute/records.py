"""The records of the trace (docs/trace.md): what was read on a host, one object for each fact.

A record is a frozen dataclass. ``parse`` makes one from a JSON object and refuses an unusable object;
``as_json`` does the reverse. Times are integer nanoseconds of Unix time; ``None`` means absent, which is not
zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Final

from wattribute.errors import RecordError, has_controls

TRACE_VERSION: Final = 1
NO_INSTANCE: Final = -1
"""``gpu_instance`` of a device that is not split by MIG."""

TIME_MAX_NS: Final = 4_102_444_800_000_000_000
"""The year 2100: a later time comes from a broken clock."""
PERIOD_MAX_NS: Final = 86_400_000_000_000
"""The longest time that one record may cover."""
_COUNT_MAX: Final = 1 << 62
_POWER_MAX_MW: Final = 10_000_000  # 10 kW; readings above are sensor garbage (polarsignals filters the same)
_TEXT_MAX: Final = 1024
NAME_MAX: Final = 256
"""The collector takes at most so many characters of a name from outside."""
LABELS_MAX: Final = 64
"""A record has at most so many labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One fact of one host at time ``t``."""

    kind: ClassVar[str]
    t: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace(Record):
    """The first line of a trace; it may recur with a new boot. It has no time: ``t`` is 0."""

    kind = "trace"
    t: int = 0
    version: int
    host: str
    boot_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host(Record):
    """Where the host is, what it is charged as, and whose it is."""

    kind = "host"
    provider: str = ""
    region: str = ""
    pricing: str = ""
    cluster: str = ""
    team: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu(Record):
    """A device. ``scope`` is ``module`` where its power and energy cover a whole module (Grace Hopper)."""

    kind = "gpu"
    gpu: str
    name: str = ""
    index: int | None = None
    memory_bytes: int | None = None
    power_limit_mw: int | None = None
    scope: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device(Record):
    """A device's readings. ``energy_mj`` is NVML's cumulative counter, ``power_mw`` POWER_INSTANT,
    ``power_average_mw`` the 1 s average."""

    kind = "device"
    gpu: str
    energy_mj: int | None = None
    power_mw: int | None = None
    power_average_mw: int | None = None
    sm_percent: float | None = None
    memory_percent: float | None = None
    memory_used_bytes: int | None = None
    temperature_c: int | None = None
    sm_clock_mhz: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance(Record):
    """A MIG instance and its activity over the time since its previous record."""

    kind = "instance"
    gpu: str
    gpu_instance: int
    profile: str = ""
    slices: int | None = None
    sm_percent: float | None = None

    def size(self) -> int:
        """The number of slices; where absent, that of the profile. Raises RecordError if there is neither."""
        if self.slices is not None:
            return self.slices
        profile = re.match(r"([1-9])g\.", self.profile)
        if profile is None:
            raise RecordError("an instance has neither slices nor a profile like 3g.71gb")
        return int(profile[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Process(Record):
    """A process resident on a device. ``sm_percent`` holds for (t - period_ns, t]; without ``period_ns``,
    since the previous record of the process. A process is (host, boot, pid, start_ns), never a pid alone."""

    kind = "process"
    gpu: str
    pid: int
    start_ns: int
    period_ns: int | None = None
    gpu_instance: int = NO_INSTANCE
    sm_percent: float | None = None
    memory_percent: float | None = None
    memory_used_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit(Record):
    """A process ended at ``t``, exactly."""

    kind = "exit"
    pid: int
    start_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class End(Record):
    """The host's collector ended in order: all that it has read was sent before this."""

    kind = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Whose(Record):
    """Whose something is. A field that is empty is not known."""

    cluster: str = ""
    container: str = ""
    pod: str = ""
    namespace: str = ""
    job: str = ""
    user: str = ""
    team: str = ""
    application: str = ""
    workload: str = ""
    phase: str = ""
    model: str = ""
    model_version: str = ""
    run: str = ""
    attempt: int | None = None
    identity_source: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload(Whose):
    """Whose a process is. A field that is empty leaves the earlier value as it is."""

    kind = "workload"
    pid: int
    start_ns: int
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation(Whose):
    """The pod or job that a GPU is given to as of ``t``, whether or not a process runs on it; with neither,
    nobody.

    The record is repeated every 60 s and when it changes. If it is not repeated for 180 s, the reservation
    ended with the last one."""

    kind = "reservation"
    gpu: str
    gpu_instance: int = NO_INSTANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Record):
    """An event in the life of a run: ``event`` is start, checkpoint, finish or fail."""

    kind = "run"
    run: str
    attempt: int = 0
    event: str
    step: int | None = None
    steps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit(Record):
    """``quantity`` of an outcome (output_tokens, requests, steps, …) that happened in (t - period_ns, t]."""

    kind = "unit"
    unit: str
    quantity: float
    period_ns: int | None = None
    source: str = ""
    pid: int | None = None
    start_ns: int | None = None
    pod: str = ""
    application: str = ""
    phase: str = ""
    part: str = ""
    model: str = ""
    model_version: str = ""
    run: str = ""
    attempt: int | None = None
    event_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality(Record):
    """An evaluation of a model version or run: how good it was."""

    kind = "quality"
    model: str = ""
    model_version: str = ""
    run: str = ""
    metric: str
    value: float
    higher_is_better: bool = True
    sample_count: int | None = None
    dataset: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap(Record):
    """A span in which nothing was recorded, and why."""

    kind = "gap"
    from_ns: int
    to_ns: int
    reason: str = ""
    gpu: str = ""


KINDS: Final[dict[str, type[Record]]] = {
    cls.kind: cls
    for cls in (
        *(Trace, Host, Gpu, Device, Instance, Process, Exit, Workload, Reservation),
        *(Run, Unit, Quality, Gap, End),
    )
}

# Whole numbers: field -> (least, greatest) value that a sane reading can have.
_INTEGERS: Final[dict[str, tuple[int, int]]] = {
    "t": (1, TIME_MAX_NS),
    "from_ns": (1, TIME_MAX_NS),
    "to_ns": (1, TIME_MAX_NS),
    "start_ns": (0, TIME_MAX_NS),
    "period_ns": (1, PERIOD_MAX_NS),
    "version": (1, 1 << 31),
    "pid": (0, (1 << 31) - 1),
    "index": (0, 1 << 15),
    "gpu_instance": (NO_INSTANCE, (1 << 15) - 1),
    "slices": (0, 64),
    "energy_mj": (0, _COUNT_MAX // 1000),  # in µJ it must still fit 63 bits
    "power_mw": (0, _POWER_MAX_MW),
    "power_average_mw": (0, _POWER_MAX_MW),
    "power_limit_mw": (0, _POWER_MAX_MW),
    "memory_bytes": (0, _COUNT_MAX),
    "memory_used_bytes": (0, _COUNT_MAX),
    "temperature_c": (-100, 200),
    "sm_clock_mhz": (0, 100_000),
    "attempt": (0, (1 << 32) - 1),
    "step": (0, _COUNT_MAX),
    "steps": (0, _COUNT_MAX),
    "sample_count": (0, _COUNT_MAX),
}
# NVML's own blank value shows up as a utilisation of 2147483632 (NVIDIA/DCGM issue 83): garbage.
_NUMBERS: Final[dict[str, tuple[float, float]]] = {
    "sm_percent": (0.0, 100.0),
    "memory_percent": (0.0, 100.0),
    "quantity": (0.0, 1e18),
    "value": (-1e300, 1e300),
}
_EVENTS: Final = ("start", "checkpoint", "finish", "fail")


def parse(obj: object) -> Record:
    """The record in a JSON object. Unknown keys are ignored; null means absent.

    Raises RecordError, which names the field and what is wrong with it.
    """
    if not isinstance(obj, dict):
        raise RecordError("not a JSON object")
    kind = obj.get("kind")
    cls = KINDS.get(kind) if isinstance(kind, str) else None  # a list cannot be looked up
    if cls is None:
        raise RecordError(f"unknown kind {shown(obj.get('kind'))}")
    values: dict[str, Any] = {}
    for item in fields(cls):
        value = obj.get(item.name)
        is_needed = item.default is MISSING and item.default_factory is MISSING
        if is_needed and (value is None or value == ""):  # a GPU named "" would be another GPU
            raise RecordError(f"{cls.kind} without {item.name}")
        if value is None:
            continue
        values[item.name] = _checked(item.name, value)
    record = cls(**values)
    if isinstance(record, Instance):
        record.size()
        if record.gpu_instance < 0:
            raise RecordError(f"gpu_instance {record.gpu_instance} means the whole GPU, not an instance")
    if isinstance(record, Run) and record.event not in _EVENTS:
        raise RecordError(f"run event {shown(record.event)} is none of {', '.join(_EVENTS)}")
    if isinstance(record, Unit) and "," in record.unit:  # views take several names separated by commas
        raise RecordError(f"unit {shown(record.unit)} has a comma in its name")
    if isinstance(record, Gap) and record.to_ns < record.from_ns:
        raise RecordError("gap ends before it begins")
    if isinstance(record, Trace) and record.version != TRACE_VERSION:
        raise RecordError(f"trace version {record.version}; this program reads version {TRACE_VERSION}")
    return record


def as_json(record: Record) -> dict[str, Any]:
    """The record as a JSON object, without absent and empty fields."""
    obj: dict[str, Any] = {"kind": record.kind}
    for item in fields(record):
        value = getattr(record, item.name)
        if item.default is not MISSING and value == item.default:
            continue
        if item.default_factory is not MISSING and not value:
            continue
        obj[item.name] = value
    return obj


def is_plausible(name: str, value: float) -> bool:
    """Whether a sane reading can have this value in the field ``name``."""
    least, greatest = _INTEGERS.get(name) or _NUMBERS[name]
    return least <= value <= greatest


def _checked(name: str, value: Any) -> Any:
    if name in _INTEGERS:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int:  # bool is an int, and no reading is a bool
            raise RecordError(f"{name} is {shown(value)}, not a whole number")
        least, greatest = _INTEGERS[name]
        if not least <= value <= greatest:
            raise RecordError(f"{name} {value} is outside {least} to {greatest}")
        return value
    if name in _NUMBERS:
        if type(value) not in (int, float):
            raise RecordError(f"{name} is {shown(value)}, not a number")
        low, high = _NUMBERS[name]
        if not low <= value <= high:  # NaN fails this too
            raise RecordError(f"{name} {value} is outside {low:g} to {high:g}")
        return float(value)
    if name == "higher_is_better":
        if type(value) is not bool:
            raise RecordError(f"{name} is {shown(value)}, not true or false")
        return value
    if name == "labels":
        return _labels(value)
    if not isinstance(value, str):
        raise RecordError(f"{name} is {shown(value)}, not a text")
    return _text(name, value)


def _text(name: str, value: str) -> str:
    if len(value) > _TEXT_MAX:
        raise RecordError(f"{name} is {len(value)} characters long; {_TEXT_MAX} at most")
    if has_controls(value):
        raise RecordError(f"{name} holds control characters")
    return value


def _labels(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > LABELS_MAX:
        raise RecordError(f"labels must be an object of at most {LABELS_MAX} texts")
    for key, text in value.items():
        if not isinstance(text, str):
            raise RecordError(f"label {shown(key)} is {shown(text)}, not a text")
        _text("a label's name", key)
        _text(f"label {key}", text)
    return dict(value)


def clean(text: str, most: int = NAME_MAX) -> str:
    """A text from outside in a form that a record takes: no control characters, not too long."""
    return "".join(c if c.isprintable() else " " for c in text[:most]).strip()


def shown(value: object) -> str:
    """A value from outside, shortened to be shown in a message."""
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"  # repr() fails on a deeply nested one
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
