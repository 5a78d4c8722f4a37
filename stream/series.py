"""A partition's recent past: the arrays that the kernels work on, and which row belongs to whom."""

from __future__ import annotations

import bisect
import mmap
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from wattribute.kernels.series import (
    FOREVER,
    HORIZON_NS,
    I64,
    PROCESS,
    WATTS_PRIOR,
    WATTS_PRIOR_SD,
    Devices,
    Holders,
    Hosts,
    Marks,
)

SLACK_NS: Final = 180_000_000_000
"""How much is kept beyond the horizon: two rounds of the identities that a collector repeats every 60 s, and
the two minutes that the oldest window is learned from."""
_KEPT_SAMPLES: Final = 32  # of a device that has fallen silent: the period is a median of 16 intervals
_KEPT_OFFSETS: Final = 64  # of messages with a counter reset; the last commit lies before some of them
_MOVED_AT_ONCE: Final = 4096
SLICES: Final = 7
"""Compute slices into which MIG cuts most GPUs."""
_FILL: Final = dict.fromkeys(
    ("next_device", "first_holder", "next_holder", "first_device", "counter_mj", "leap_mj"), -1
)


ProcessKey = tuple[str, str, int, int]
"""host, boot, pid and start in ns."""


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """A device of one boot: in another boot of the host it is another device, because its counter began
    anew."""

    host: str
    boot_id: str
    gpu: str


@dataclass(frozen=True, slots=True, order=True)
class HolderKey:
    """A process on a device. Ties are broken in the order of these keys.

    Or, with a pid that no process has: a reservation of the device, 0; a MIG instance, -1."""

    gpu_instance: int
    pid: int
    start_ns: int


class Series:
    """The arrays, and the rows assigned in them."""

    def __init__(self) -> None:
        self.hosts = Hosts(**_empty(Hosts, 8))
        self.devices = Devices(**_empty(Devices, 16, 2048))
        self.holders = Holders(**_empty(Holders, 32, 256))
        self.host_rows: dict[str, int] = {}
        self.device_keys: list[DeviceKey] = []
        self.device_rows: dict[DeviceKey, int] = {}
        self.holder_keys: list[tuple[int, HolderKey]] = []
        self.holder_rows: dict[tuple[int, HolderKey], int] = {}
        self.processes = _processes(32)
        """What rows say about a process, by its row in holders; the last entry is nobody."""
        self._members: list[list[tuple[HolderKey, int]]] = []  # of each device, sorted
        self._rows_of: dict[ProcessKey, list[int]] = {}  # of a process, on all its devices
        self._free: list[int] = []

    @property
    def clocks_ns(self) -> I64:
        """Where the clock of each host stands."""
        return self.hosts.now_ns[: len(self.host_rows)]

    def host_row(self, host: str) -> int:
        """The row of a host, made at its first mention."""
        row = self.host_rows.get(host)
        if row is None:
            row = self.host_rows[host] = len(self.host_rows)
            if row >= len(self.hosts.now_ns):
                self.hosts = _taller(self.hosts, 2 * row)
        return row

    def device_row(self, key: DeviceKey) -> int:
        """The row of a device, made at its first mention."""
        row = self.device_rows.get(key)
        if row is None:
            row = self.device_rows[key] = len(self.device_keys)
            self.device_keys.append(key)
            self._members.append([])
            if row >= len(self.devices.host):
                self.devices = _taller(self.devices, 2 * row)
            host = self.host_row(key.host)
            self.devices.host[row] = host
            self.devices.slices[row] = SLICES
            self.devices.next_device[row] = self.hosts.first_device[host]
            self.hosts.first_device[host] = row
        return row

    def holder_row(self, device: int, key: HolderKey) -> int:
        """The row of a process on a device, made at its first mention."""
        row = self.holder_rows.get((device, key))
        if row is None:
            row = self._free.pop() if self._free else len(self.holder_keys)
            if row == len(self.holder_keys):
                self.holder_keys.append((device, key))
            self.holder_keys[row] = (device, key)
            self.holder_rows[device, key] = row
            if row >= len(self.holders.device):
                self.holders = _taller(self.holders, 2 * row)
                processes, self.processes = self.processes, _processes(2 * row)
                self.processes[:row] = processes[:row]
            self.processes[row] = (key.gpu_instance, max(key.pid, 0), key.start_ns)
            self.holders.device[row] = device
            self.holders.gpu_instance[row] = key.gpu_instance
            self.holders.exit_ns[row] = FOREVER
            self.holders.account[row] = PROCESS
            self.holders.watts[row], self.holders.watts_sd[row] = WATTS_PRIOR, WATTS_PRIOR_SD
            self.holders.reach_from_ns[row], self.holders.reach_to_ns[row] = FOREVER, 0
            bisect.insort(self._members[device], (key, row))
            self._rows_of.setdefault(self._process(device, key), []).append(row)
            self._link(device)
        return row

    def holders_of(self, process: ProcessKey) -> list[int]:
        """Rows of one process on all devices of its boot."""
        return self._rows_of.get(process, [])

    def devices_of(self, process: ProcessKey) -> list[int]:
        """The devices on which a process has a row, ascending."""
        return sorted({self.holder_keys[row][0] for row in self.holders_of(process)})

    def holders_on(self, device: int) -> list[int]:
        """Rows of all that may hold a device."""
        return [row for _, row in self._members[device]]

    def make_room(self, rows: int) -> None:
        """Drop what lies beyond the horizon, and make room for ``rows`` more in every series."""
        n = len(self.device_keys)
        oldest_ns = self.hosts.now_ns[self.devices.host[:n]] - HORIZON_NS - SLACK_NS
        for d in np.flatnonzero((self.devices.t_ns[:n, 0] < oldest_ns) & (self.devices.length[:n] > 0)):
            self._trim_device(int(d))
        # A late row may make two gaps of an interval that was no gap, because the median has fallen since.
        lengths = ("length", "gap_length", "reset_length", "showed_length")
        self.devices = _wider(self.devices, 2 * rows + 2, *lengths)
        self.holders = _wider(self.holders, rows + 1, "seen_length", "used_length")

    def _trim_device(self, d: int) -> None:
        devices, holders = self.devices, self.holders
        n = int(devices.length[d])
        if n <= _KEPT_SAMPLES:
            return
        now_ns = int(devices.t_ns[d, n - 1])
        cut_ns = min(now_ns - HORIZON_NS - SLACK_NS, int(devices.t_ns[d, n - _KEPT_SAMPLES]))
        _shift(
            devices.length, d, cut_ns,
            devices.t_ns, devices.energy_mj, devices.power_mw, devices.average_mw, devices.quiet,
        )  # fmt: skip
        _shift(devices.gap_length, d, cut_ns, devices.gap_to_ns, devices.gap_from_ns)
        _shift(
            devices.reset_length, d, cut_ns,
            devices.reset_to_ns, devices.reset_from_ns, devices.reset_repeated_ns,
        )  # fmt: skip
        for _, h in self._members[d]:
            period_ns = int(holders.seen_period_ns[h, : holders.seen_length[h]].max(initial=0))
            before_ns = cut_ns - 4 * period_ns  # earlier records may still continue a hold
            _shift(
                holders.seen_length, h, before_ns,
                holders.seen_ns, holders.seen_period_ns, holders.seen_memory_bytes,
            )  # fmt: skip
            _shift(
                holders.used_length, h, before_ns, holders.used_ns, holders.used_from_ns, holders.used_percent
            )

    def forget_offsets(self, before: int) -> None:
        """Drop the offsets of counter resets that no restart asks for."""
        devices = self.devices
        for d in np.flatnonzero(devices.showed_length > _KEPT_OFFSETS):
            kept_from = devices.showed_offset[d, devices.showed_length[d] - _KEPT_OFFSETS]
            _shift(devices.showed_length, int(d), min(before, int(kept_from)), devices.showed_offset)

    def forget(self) -> tuple[list[int], list[ProcessKey]]:
        """Free the rows of processes that have nothing left on a device. Return those devices, and the
        processes that have nothing left on any. A process of which nothing has been taken in yet is not among
        these: it is still to come. Call this only between batches: rows that a message about to be taken in
        names must not move."""
        gone = [
            (row, device, key)
            for (device, key), row in self.holder_rows.items()
            if self.holders.seen_length[row] == 0 and self._is_past(device, row)
        ]
        processes = []
        for row, device, key in gone:
            self._members[device].remove((key, row))
            del self.holder_rows[device, key]
            self._free.append(row)
            process = self._process(device, key)
            self._rows_of[process].remove(row)
            if not self._rows_of[process]:
                del self._rows_of[process]
                if self.holders.reach_to_ns[row]:
                    processes.append(process)
            self.holders.used_length[row] = self.holders.silent[row] = 0
            self._link(device)
        return [device for _, device, _ in gone], processes

    def begin_anew(self, host: int) -> list[int]:
        """Forget the readings of a host whose clock was set back; return the rows of its devices."""
        devices, holders = self.devices, self.holders
        rows = [row for row in range(len(self.device_keys)) if devices.host[row] == host]
        self.hosts.now_ns[host] = self.hosts.ahead_ns[host] = self.hosts.ended_ns[host] = 0
        for length in (devices.length, devices.gap_length, devices.reset_length):
            length[rows] = 0
        devices.counter_mj[rows] = devices.leap_mj[rows] = -1
        devices.broken[rows] = devices.sources[rows] = 0
        devices.repeated_from_ns[rows] = devices.repeated_to_ns[rows] = 0
        members = [row for device in rows for _, row in self._members[device]]
        holders.seen_length[members] = holders.used_length[members] = holders.silent[members] = 0
        return rows

    def _is_past(self, device: int, row: int) -> bool:
        """Whether no future window can have a row of this holder. Where a clock was set back one can, until
        the device has been read again: that may be hours later, and writes all windows before it."""
        reach_ns, n = int(self.holders.reach_to_ns[row]), int(self.devices.length[device])
        newest_ns = int(self.devices.t_ns[device, n - 1]) if n else 0
        return reach_ns == 0 or reach_ns < newest_ns - HORIZON_NS

    def _process(self, device: int, key: HolderKey) -> ProcessKey:
        own = self.device_keys[device]
        return (own.host, own.boot_id, key.pid, key.start_ns)

    def _link(self, device: int) -> None:
        following = -1
        for _, row in reversed(self._members[device]):
            self.holders.next_holder[row] = following
            following = row
        self.devices.first_holder[device] = following


def _processes(rows: int) -> Any:
    processes = np.zeros(rows + 1, [("gpu_instance", np.int16), ("pid", np.uint32), ("start_ns", np.uint64)])
    processes[-1]["gpu_instance"] = -1
    return processes


def new_marks(size: int, devices: int) -> Marks:
    """Room for ``size`` marks of ``devices`` devices."""
    # Nothing is read beyond the marks made: to fill that took 1 % of the consumer's time.
    return Marks(
        made=np.zeros(1, np.int64),
        latest=np.full(devices, -1, np.int64),
        changed=np.full(devices, FOREVER),
        device=np.empty(size, np.int32),
        first=np.empty(size, np.int64),
        last=np.empty(size, np.int64),
        offset=np.empty(size, np.int64),
    )


def _shift(length: Any, row: int, cut: int, ordered_by: Any, *others: Any) -> None:
    """Drop the entries of a series whose time, or offset, lies before ``cut``."""
    n = int(length[row])
    dropped = int(np.searchsorted(ordered_by[row, :n], cut))
    if dropped:
        for series in (ordered_by, *others):
            # In pieces that do not overlap, so that each is moved once; that is a MB, mostly in two pieces.
            step = max(dropped, _MOVED_AT_ONCE)
            for at in range(dropped, n, step):
                piece = series[row, at : min(at + step, n)]
                series[row, at - dropped : at - dropped + len(piece)] = piece
        length[row] = n - dropped


# The matrices, by the name of the array that says how much of each row is valid.
_SERIES: Final = {
    "length": ("t_ns", "energy_mj", "power_mw", "average_mw", "quiet"),
    "gap_length": ("gap_from_ns", "gap_to_ns"),
    "reset_length": ("reset_from_ns", "reset_to_ns", "reset_repeated_ns"),
    "showed_length": ("showed_offset",),
    "seen_length": ("seen_ns", "seen_period_ns", "seen_memory_bytes"),
    "used_length": ("used_ns", "used_from_ns", "used_percent"),
}
_LENGTH_OF: Final = {name: length for length, names in _SERIES.items() for name in names}
_DTYPES: Final[dict[str, type[np.generic]]] = {
    **dict.fromkeys(
        (
            *("host", "next_device", "first_holder", "device", "next_holder", "first_device"),
            *("ahead_device", "slices", "gpu_instance"),
        ),
        np.int32,
    ),
    **dict.fromkeys(("power_mw", "average_mw"), np.int32),
    **dict.fromkeys(("broken", "sources", "silent", "account", "quiet"), np.uint8),
    **dict.fromkeys(("watts", "watts_sd"), np.float64),
    "used_percent": np.float32,
}


def _empty(kind: Any, rows: int, columns: int = 0) -> dict[str, Any]:
    """Return arrays for the fields of a struct of arrays, filled with zero, or with the field's value for
    nothing."""
    arrays = {}
    for name in kind._fields:
        dtype = _DTYPES.get(name, np.int64)
        if name in _LENGTH_OF:
            arrays[name] = _matrix(rows, columns, dtype)
        else:
            arrays[name] = np.full(rows, _FILL.get(name, 0), dtype)
    return arrays


def _taller(arrays: Any, rows: int) -> Any:
    """Return the arrays with ``rows`` rows."""
    grown = _empty(type(arrays), rows)
    for name, old in arrays._asdict().items():
        if name in _LENGTH_OF:
            grown[name] = _copied(old, (rows, old.shape[1]), getattr(arrays, _LENGTH_OF[name]))
        else:
            grown[name][: len(old)] = old
    return type(arrays)(**grown)


def _wider(arrays: Any, rows: int, *lengths: str) -> Any:
    """Return the arrays with room for ``rows`` more in every series of those lengths."""
    for length in lengths:
        # A quarter more than is full now: room for a few rows would be full a few messages later, and each
        # time all series are moved (which took 3 us a message of 80 samples).
        needed = int(getattr(arrays, length).max()) * 5 // 4 + rows
        old = {name: getattr(arrays, name) for name in _SERIES[length]}
        height, width = old[_SERIES[length][0]].shape
        if needed > width:
            shape = (height, max(2 * width, needed))
            wider = {name: _copied(series, shape, getattr(arrays, length)) for name, series in old.items()}
            arrays = arrays._replace(**wider)
    return arrays


def _copied(old: Any, shape: tuple[int, int], lengths: Any) -> Any:
    """Copy a matrix into a larger one. Beyond a series' length nothing is read, so nothing is written
    there."""
    new = _matrix(*shape, old.dtype)
    used = int(lengths.max())
    new[: len(old), :used] = old[:, :used]
    return new


def _matrix(rows: int, columns: int, dtype: Any) -> Any:
    """Return zeros that take memory only when they are written to. numpy asks for huge pages, which take 2
    MiB where 4 KiB are written: to grow a matrix of 1024 series cost 6 times as much memory and time."""
    if not rows * columns:
        return np.zeros((rows, columns), dtype)
    room = mmap.mmap(-1, rows * columns * np.dtype(dtype).itemsize, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(room, dtype).reshape(rows, columns)
