"""Who and where: what is known of hosts, devices and processes, and since when.

Identity that arrives late is applied to the windows it belongs to: what was first known of a process
holds for the time before it too.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from wattribute.records import Gpu, Host, Record, Workload
from wattribute.sinks.contract import Coded, CodedLabels, Column
from wattribute.stream.series import DeviceKey, HolderKey, Series

ProcessKey = tuple[str, str, int, int]
"""host, boot_id, pid, start_ns"""

_WORKLOAD_COLUMNS: Final = (
    "container", "pod", "namespace", "job", "user", "application", "workload", "phase", "model",
    "model_version", "run", "identity_source",
)  # fmt: skip
_HOST_COLUMNS: Final = ("provider", "region", "pricing")
_EITHER_COLUMNS: Final = ("cluster", "team")  # the workload's, else the host's, so that somebody owns it
_MOST_CODES: Final = 200_000

T = TypeVar("T", bound=Record)


@dataclass(slots=True)
class Timeline(Generic[T]):
    """Versions of one thing, by the time from which each holds; the first holds for the time before too."""

    since_ns: list[int] = field(default_factory=list)
    versions: list[T] = field(default_factory=list)

    def note(self, record: T) -> int | None:
        """Add what a record says to what was known at its time; since when that changes anything.

        What the record leaves empty stays as it was."""
        at = bisect.bisect_right(self.since_ns, record.t)
        if not self.versions:
            self.since_ns.append(record.t)
            self.versions.append(record)
            return 0
        known = self.versions[max(at - 1, 0)]
        merged = replace(
            record, **{f.name: _said(getattr(record, f.name), getattr(known, f.name)) for f in fields(record)}
        )
        if replace(merged, t=known.t) == known:
            return None
        self.since_ns.insert(at, record.t)
        self.versions.insert(at, merged)
        return record.t if at else 0

    def at(self, t_ns: int) -> T:
        """The version in force at a time."""
        return self.versions[max(bisect.bisect_right(self.since_ns, t_ns) - 1, 0)]


class Identities:
    """What is known, and the identity columns of rows."""

    def __init__(self) -> None:
        self.hosts: dict[str, Timeline[Host]] = {}
        self._gpus: dict[DeviceKey, Gpu] = {}
        self.workloads: dict[ProcessKey, Timeline[Workload]] = {}
        self._codes: dict[tuple[int, int], int] = {}
        self._kept: list[object] = []  # what the ids in _codes belong to
        self._texts: dict[str, list[str]] = {}
        self._attempts: list[int] = []
        self._labels: list[Mapping[str, str]] = []
        self._clear()

    def note_gpu(self, key: DeviceKey, gpu: Gpu) -> bool:
        """Keep what a device is; whether that is news."""
        known = self._gpus.get(key)
        if known is not None and not gpu.name:
            return False
        self._gpus[key] = gpu
        return known is None or (known.name, known.scope) != (gpu.name, gpu.scope)

    def gpu_model(self, key: DeviceKey) -> str:
        """The device's model as NVML names it; empty while not known."""
        gpu = self._gpus.get(key)
        return gpu.name if gpu else ""

    def covers_module(self, key: DeviceKey) -> bool:
        """Whether the device's power and energy are those of a whole module, as on Grace Hopper."""
        gpu = self._gpus.get(key)
        return gpu is not None and gpu.scope == "module"

    def forget(self, processes: Iterable[ProcessKey]) -> None:
        """Let go of processes that are beyond the horizon."""
        for process in processes:
            self.workloads.pop(process, None)

    def _clear(self) -> None:
        self._codes, self._kept, self._attempts, self._labels = {}, [], [], []
        self._texts = {name: [] for name in (*_WORKLOAD_COLUMNS, *_HOST_COLUMNS, *_EITHER_COLUMNS)}

    def columns(
        self,
        series: Series,
        devices: NDArray[np.int64],
        holders: NDArray[np.int64],
        ends_ns: NDArray[np.int64],
    ) -> dict[str, Column]:
        """Identity columns of rows of a device, a holder (negative: nobody) and a window's end."""
        if len(self._codes) > _MOST_CODES:
            self._clear()
        pairs, inverse = np.unique((devices << 32) | (holders + 2), return_inverse=True)
        codes = np.empty(len(devices), np.int32)
        simple = np.empty(len(pairs), np.int32)
        for k, pair in enumerate(pairs.tolist()):
            device, holder = pair >> 32, (pair & 0xFFFFFFFF) - 2
            key = series.device_keys[device]
            host = self.hosts.get(key.host)
            workload = self._workload(key, series.holder_keys[holder][1]) if holder >= 0 else None
            if (host is None or len(host.versions) == 1) and (
                workload is None or len(workload.versions) == 1
            ):
                simple[k] = self._code(
                    host.versions[0] if host else None, workload.versions[0] if workload else None
                )
            else:
                simple[k] = -1
        codes = simple[inverse]
        for row in np.flatnonzero(codes < 0).tolist():
            key = series.device_keys[devices[row]]
            host = self.hosts.get(key.host)
            holder = int(holders[row])
            workload = self._workload(key, series.holder_keys[holder][1]) if holder >= 0 else None
            t = int(ends_ns[row]) - 1
            codes[row] = self._code(host.at(t) if host else None, workload.at(t) if workload else None)
        columns: dict[str, Column] = {name: Coded(codes, texts) for name, texts in self._texts.items()}
        columns["labels"] = CodedLabels(codes, self._labels)
        columns["attempt"] = np.array(self._attempts, np.uint32)[codes]
        return columns

    def _workload(self, device: DeviceKey, holder: HolderKey) -> Timeline[Workload] | None:
        return self.workloads.get((device.host, device.boot_id, holder.pid, holder.start_ns))

    def _code(self, host: Host | None, workload: Workload | None) -> int:
        code = self._codes.get((id(host), id(workload)))
        if code is None:
            code = self._codes[id(host), id(workload)] = len(self._attempts)
            self._kept += [host, workload]
            for name in _WORKLOAD_COLUMNS:
                self._texts[name].append(_text(workload, name))
            for name in _HOST_COLUMNS:
                self._texts[name].append(_text(host, name))
            for name in _EITHER_COLUMNS:
                text = _text(workload, name) or _text(host, name)
                self._texts[name].append(text or (host.labels.get(name, "") if host else ""))
            self._labels.append({**(host.labels if host else {}), **(workload.labels if workload else {})})
            self._attempts.append((workload.attempt or 0) if workload else 0)
        return code


def _said(value: Any, known: Any) -> Any:
    """What a record says, unless it leaves it open."""
    return known if value is None or value in ("", {}) else value


def _text(record: Any, name: str) -> str:
    return getattr(record, name) if record is not None else ""
