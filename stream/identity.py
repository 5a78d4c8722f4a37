"""Identity: what is known about hosts, devices and processes, and since when.

Identity that arrives late is applied to the windows it belongs to: what was first known about a process
applies to the time before it too.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import zip_longest
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from wattribute.kernels.series import HORIZON_NS
from wattribute.records import Gpu, Host, Record, Workload
from wattribute.sinks.contract import Coded, CodedLabels, Column
from wattribute.stream.series import SLACK_NS, DeviceKey, ProcessKey, Series

_WORKLOAD_COLUMNS: Final = (
    "container", "pod", "namespace", "job", "user", "application", "workload", "phase", "model",
    "model_version", "run", "identity_source",
)  # fmt: skip
_HOST_COLUMNS: Final = ("provider", "region", "pricing")
_EITHER_COLUMNS: Final = ("cluster", "team")  # the workload's, else the host's, so that somebody owns it
_MOST_CODES: Final = 200_000
_UNKNOWN, _BY_TIME = -1, -2  # instead of a code: not looked up yet; not the same at all times

T = TypeVar("T", bound=Record)


@dataclass(slots=True)
class Timeline(Generic[T]):
    """What records said about one thing, and which version was in force since when; the first applies to the
    time before too.

    All records are kept: a late one applies up to the next that says otherwise, which may have brought no
    news when it came."""

    since_ns: list[int] = field(default_factory=list)
    versions: list[T] = field(default_factory=list)
    _said_ns: array[int] = field(default_factory=lambda: array("q"))
    _said: list[T] = field(default_factory=list)

    def note(self, record: T) -> int | None:
        """Add what a record says to what was known at its time; return from when on that changes anything,
        else None.

        What the record leaves empty stays as it was."""
        at = bisect.bisect_right(self._said_ns, record.t)
        if at and self._said_ns[at - 1] == record.t:  # more about the same moment, perhaps found out later
            known = self._said[at - 1]
            self._said[at - 1] = _merged(known, record)
            return None if self._said[at - 1] == known else self._renew()
        repeats = self.repeats(record)
        if at == 0 and self.versions:  # what it leaves open stays as the first one said for the time before
            record = _merged(self.versions[0], record)
        self._said_ns.insert(at, record.t)
        self._said.insert(at, self._said[at - 1] if repeats else record)
        self._forget_repeats()
        return None if repeats else self._renew()

    def repeats(self, record: T) -> bool:
        """Whether a record says the same as the record before it."""
        at = bisect.bisect_right(self._said_ns, record.t)
        return at > 0 and replace(record, t=self._said[at - 1].t) == self._said[at - 1]

    def at(self, t_ns: int) -> T:
        """The version in force at a time."""
        return self.versions[max(bisect.bisect_right(self.since_ns, t_ns) - 1, 0)]

    def _renew(self) -> int | None:
        """Rebuild the versions from the records; return from when on they differ, None if they do not."""
        old, self.since_ns, self.versions = (self.since_ns, self.versions), [], []
        for t, record in zip(self._said_ns, self._said, strict=True):
            merged = _merged(self.versions[-1], record) if self.versions else record
            if not self.versions or replace(merged, t=self.versions[-1].t) != self.versions[-1]:
                self.since_ns.append(t)
                self.versions.append(merged)
        changed_ns: int | None = None
        for place, (was, now) in enumerate(
            zip_longest(zip(*old, strict=True), zip(self.since_ns, self.versions, strict=True))
        ):
            if was == now:
                self.versions[place] = was[1]  # the old object, whose code is known
            elif changed_ns is None:
                changed_ns = min(known[0] for known in (was, now) if known) if place else 0
        return changed_ns

    def _forget_repeats(self) -> None:
        """Of repeats too old for anything to come between them, keep only the first and the last."""
        said = self._said
        old = bisect.bisect_left(self._said_ns, self._said_ns[-1] - HORIZON_NS - SLACK_NS)
        while old >= 3 and said[old - 1] is said[old - 2] is said[old - 3]:
            del self._said_ns[old - 2], said[old - 2]
            old -= 1


class _Texts:
    """A column's text by code, each text kept once: the dictionaries that are written stay short."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}
        self._of_code = array("i")

    def add(self, text: str) -> None:
        """Add the text of the next code."""
        place = self._places.setdefault(text, len(self.texts))
        if place == len(self.texts):
            self.texts.append(text)
        self._of_code.append(place)

    def of(self, codes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the index in ``texts`` for every code."""
        return np.frombuffer(self._of_code, np.int32)[codes]


class Identities:
    """What is known about identity, and the identity columns of rows.

    Each combination of a host's and a workload's version has a code. The code of every holder, and of every
    device without one, is kept until its identity changes: 5000 processes are rows 20 times a second.
    """

    def __init__(self) -> None:
        self._hosts: dict[str, Timeline[Host]] = {}
        self._gpus: dict[DeviceKey, Gpu] = {}
        self.gpus_learned = 0
        """How often a device's model or scope was news."""
        self._of_holder: NDArray[np.int32] = np.zeros(0, np.int32)
        self._of_device: NDArray[np.int32] = np.zeros(0, np.int32)
        self._workloads: dict[ProcessKey, Timeline[Workload]] = {}
        self._clear()

    def is_news(self, host: str, boot_id: str, record: Record) -> bool:
        """Whether a record may change what is known. A record that repeats the last one does not."""
        if isinstance(record, Workload):
            workload = self._workloads.get((host, boot_id, record.pid, record.start_ns))
            return workload is None or not workload.repeats(record)
        if isinstance(record, Host):
            known = self._hosts.get(host)
            return known is None or not known.repeats(record)
        if isinstance(record, Gpu):
            gpu = self._gpus.get(DeviceKey(host, boot_id, record.gpu))
            return gpu is None or (gpu.name, gpu.scope) != (record.name, record.scope)
        return False

    def note_gpu(self, key: DeviceKey, gpu: Gpu) -> bool:
        """Note what a device is; return whether that is news."""
        known = self._gpus.get(key)
        if known is not None and not gpu.name:
            return False
        self._gpus[key] = gpu
        news = known is None or (known.name, known.scope) != (gpu.name, gpu.scope)
        self.gpus_learned += news
        return news

    def note_host(self, host: str, record: Host) -> int | None:
        """Note what a host is; return from when on that changes anything, else None."""
        since_ns = self._hosts.setdefault(host, Timeline()).note(record)
        if since_ns is not None:
            self._forget_codes()
        return since_ns

    def note_workload(self, series: Series, key: ProcessKey, record: Workload) -> int | None:
        """Note what a process is; return from when on that changes anything, on every device that it holds,
        else None."""
        since_ns = self._workloads.setdefault(key, Timeline()).note(record)
        if since_ns is not None:
            for row in series.holders_of(key):
                if row < len(self._of_holder):
                    self._of_holder[row] = _UNKNOWN
        return since_ns

    def model(self, key: ProcessKey) -> tuple[str, str]:
        """The latest known model and version of a process; empty while not known."""
        workload = self._workloads.get(key)
        return (workload.versions[-1].model, workload.versions[-1].model_version) if workload else ("", "")

    def gpu_model(self, key: DeviceKey) -> str:
        """The device's model as NVML names it; empty while not known."""
        gpu = self._gpus.get(key)
        return gpu.name if gpu else ""

    def covers_module(self, key: DeviceKey) -> bool:
        """Whether the device's power and energy are those of a whole module, as on Grace Hopper."""
        gpu = self._gpus.get(key)
        return gpu is not None and gpu.scope == "module"

    def forget(self, processes: Iterable[ProcessKey]) -> None:
        """Forget processes that are beyond the horizon; others may get their rows."""
        for process in processes:
            self._workloads.pop(process, None)
        self._forget_codes()

    def columns(
        self,
        series: Series,
        devices: NDArray[np.int64],
        holders: NDArray[np.int64],
        ends_ns: NDArray[np.int64],
    ) -> dict[str, Column]:
        """Return identity columns of rows, by their device, holder (negative: nobody) and the end of their
        window."""
        if len(self._attempts) > _MOST_CODES:
            self._clear()
        self._of_device = _lengthened(self._of_device, len(series.device_keys))
        self._of_holder = _lengthened(self._of_holder, len(series.holder_keys))
        codes = self._known(devices, holders)
        unknown = codes == _UNKNOWN
        if unknown.any():
            self._look_up(series, devices[unknown], holders[unknown])
            codes = self._known(devices, holders)
        for row in np.flatnonzero(codes == _BY_TIME).tolist():
            host, workload = self._of(series, int(devices[row]), int(holders[row]))
            t = int(ends_ns[row]) - 1
            codes[row] = self._code(host.at(t) if host else None, workload.at(t) if workload else None)
        same = np.zeros(len(codes), np.int32)  # shared by the columns that have one text: most are empty
        columns: dict[str, Column] = {
            name: Coded(column.of(codes) if len(column.texts) > 1 else same, column.texts)
            for name, column in self._texts.items()
        }
        columns["labels"] = CodedLabels(np.frombuffer(self._labels_of_code, np.int32)[codes], self._labels)
        columns["attempt"] = np.frombuffer(self._attempts, np.uint32)[codes]
        return columns

    def _known(self, devices: NDArray[np.int64], holders: NDArray[np.int64]) -> NDArray[np.int32]:
        if not len(self._of_holder):
            return self._of_device[devices]
        return np.where(holders >= 0, self._of_holder[np.maximum(holders, 0)], self._of_device[devices])

    def _look_up(self, series: Series, devices: NDArray[np.int64], holders: NDArray[np.int64]) -> None:
        """Find the codes of devices and holders that have none."""
        for pair in np.unique((devices << 32) | (np.maximum(holders, -1) + 1)).tolist():
            device, holder = pair >> 32, (pair & 0xFFFFFFFF) - 1
            host, workload = self._of(series, device, holder)
            if any(timeline is not None and len(timeline.versions) > 1 for timeline in (host, workload)):
                code = _BY_TIME
            else:
                code = self._code(
                    host.versions[0] if host else None, workload.versions[0] if workload else None
                )
            if holder >= 0:
                self._of_holder[holder] = code
            else:
                self._of_device[device] = code

    def _of(
        self, series: Series, device: int, holder: int
    ) -> tuple[Timeline[Host] | None, Timeline[Workload] | None]:
        key = series.device_keys[device]
        if holder < 0:
            return self._hosts.get(key.host), None
        process = series.holder_keys[holder][1]
        workload = self._workloads.get((key.host, key.boot_id, process.pid, process.start_ns))
        return self._hosts.get(key.host), workload

    def _clear(self) -> None:
        self._codes: dict[tuple[int, int], int] = {}
        self._kept: list[object] = []  # the objects whose ids are in _codes
        self._attempts = array("I")
        self._labels: list[Mapping[str, str]] = []
        self._label_places: dict[tuple[tuple[str, str], ...], int] = {}
        self._labels_of_code = array("i")
        self._texts = {name: _Texts() for name in (*_WORKLOAD_COLUMNS, *_HOST_COLUMNS, *_EITHER_COLUMNS)}
        self._forget_codes()

    def _forget_codes(self) -> None:
        self._of_holder = self._of_device = np.zeros(0, np.int32)

    def _code(self, host: Host | None, workload: Workload | None) -> int:
        code = self._codes.get((id(host), id(workload)))
        if code is None:
            code = self._codes[id(host), id(workload)] = len(self._attempts)
            self._kept += [host, workload]
            for name in _WORKLOAD_COLUMNS:
                self._texts[name].add(_text(workload, name))
            for name in _HOST_COLUMNS:
                self._texts[name].add(_text(host, name))
            for name in _EITHER_COLUMNS:
                text = _text(workload, name) or _text(host, name)
                self._texts[name].add(text or (host.labels.get(name, "") if host else ""))
            labels = {**(host.labels if host else {}), **(workload.labels if workload else {})}
            place = self._label_places.setdefault(tuple(sorted(labels.items())), len(self._labels))
            if place == len(self._labels):
                self._labels.append(labels)
            self._labels_of_code.append(place)
            self._attempts.append((workload.attempt or 0) if workload else 0)
        return code


def _lengthened(codes: NDArray[np.int32], length: int) -> NDArray[np.int32]:
    if len(codes) >= length:
        return codes
    longer = np.full(2 * length, _UNKNOWN, np.int32)
    longer[: len(codes)] = codes
    return longer


def _merged(known: T, record: T) -> T:
    """Return a record, with what it leaves open as it was known."""
    names = (f.name for f in fields(record))
    return replace(record, **{name: _said(getattr(record, name), getattr(known, name)) for name in names})


def _said(value: Any, known: Any) -> Any:
    """Return what a record says, or what was known where it leaves that open."""
    return known if value is None or value in ("", {}) else value


def _text(record: Any, name: str) -> str:
    return getattr(record, name) if record is not None else ""
