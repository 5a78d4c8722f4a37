"""Make rows of the table ``attribution``, as columns, from the integers of the kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wattribute.kernels import result as r
from wattribute.sinks.contract import Coded, Column
from wattribute.stream.identity import Identities
from wattribute.stream.idle import idle_level
from wattribute.stream.series import Series

ACCOUNTS: Final = ("process", "reserved", "unheld", "residual")
ENERGY_SOURCES: Final = ("", "counter", "instant", "average", "module", "none")
WEIGHT_SOURCES: Final = ("", "exclusive", "accounting", "utilization", "gpm", "memory", "equal", "none")
_COUNTS: Final[Mapping[str, int]] = {
    "device_energy_uj": r.DEVICE_ENERGY,
    "active_energy_uj": r.ACTIVE_ENERGY,
    "idle_energy_equal_uj": r.IDLE_EQUAL,
    "idle_energy_memory_uj": r.IDLE_MEMORY,
    "idle_energy_active_uj": r.IDLE_ACTIVE,
    "active_time_ns": r.ACTIVE_TIME,
    "gpu_time_equal_ns": r.TIME_EQUAL,
    "gpu_time_memory_ns": r.TIME_MEMORY,
    "gpu_time_active_ns": r.TIME_ACTIVE,
    "error_uj": r.ERROR_ENERGY,
    "error_ns": r.ERROR_TIME,
}


class _Devices(NamedTuple):
    """What rows say about their device, and its idle level before any is learned, by its row."""

    host: list[str]
    gpu: list[str]
    boot_id: list[str]
    gpu_model: list[str]
    of_module: NDArray[np.bool_]
    idle_mw: NDArray[np.int64]
    idle_sd_w: NDArray[np.float64]


class Rows:
    """Makes columns from the kernel's rows. ``base``: the upper bits of every version."""

    def __init__(
        self,
        series: Series,
        identities: Identities,
        idle_watts: Mapping[str, float],
        window_ns: int,
        base: int,
    ) -> None:
        self._series = series
        self._identities = identities
        self._idle_watts = idle_watts
        self._window_ns = window_ns
        self._base = base
        self._devices = _Devices([], [], [], [], np.zeros(0, np.bool_), np.zeros(0, np.int64), np.zeros(0))
        self._devices_as_of = (0, 0)

    def idle_levels(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The prior of each device's idle level in mW, and its standard deviation in W."""
        return self._known()[-2:]

    def columns(self, out: NDArray[np.int64]) -> dict[str, Column]:
        """Return the table's columns for the kernel's rows (23, n), which may be overwritten afterwards."""
        series = self._series
        device, holder = out[r.ROW_DEVICE], out[r.ROW_HOLDER]
        ends_ns = (out[r.ROW_WINDOW] + 1) * self._window_ns
        device_codes = device.astype(np.int32)
        known = self._known()
        held = holder >= 0
        process = series.processes[np.where(held, holder, -1)]  # the last entry is nobody
        # A process, a reservation, a MIG instance; or unheld and residual of the device, which the kernel
        # numbers -1 and -2.
        account = np.where(held, series.holders.account[holder], 1 - holder).astype(np.int32)
        source = out[r.ENERGY_SOURCE]
        of_module = known.of_module[device] & (source != r.FROM_NONE)
        count = out.shape[1]
        none = np.zeros(count, np.int32)
        columns: dict[str, Column] = {
            "window_start": out[r.ROW_WINDOW] * (self._window_ns // 1_000_000),
            "window_ms": np.full(count, self._window_ns // 1_000_000, np.uint32),
            "host": Coded(device_codes, known.host),
            "gpu": Coded(device_codes, known.gpu),
            "boot_id": Coded(device_codes, known.boot_id),
            "gpu_model": Coded(device_codes, known.gpu_model),
            "gpu_instance": process["gpu_instance"],
            "account": Coded(account, ACCOUNTS),
            "pid": process["pid"],
            "process_start_ns": process["start_ns"],
            "part": Coded(none, [""]),
            "energy_source": Coded(
                np.where(of_module, r.FROM_MODULE, source).astype(np.int32), ENERGY_SOURCES
            ),
            "weight_source": Coded(out[r.WEIGHT_SOURCE].astype(np.int32), WEIGHT_SOURCES),
            "memory_bytes": out[r.MEMORY].astype(np.uint64),
            "covered_ns": _copied(out[r.COVERED], np.uint32, np.uint64),
            "flags": out[r.FLAGS].astype(np.uint32),
            "segment": out[r.SEGMENT].astype(np.uint32),
            "version": (out[r.ROW_OFFSET] | self._base).view(np.uint64),
            "deleted": out[r.DELETED].astype(np.uint8),
            "nothing_due": out[r.NOTHING_DUE].astype(np.uint8),
        }
        columns |= {name: _copied(out[row], np.int32, np.int64) for name, row in _COUNTS.items()}
        columns |= self._identities.columns(series, device, holder, ends_ns)
        return columns

    def _known(self) -> _Devices:
        """Return what rows say about their device, by its row; rebuilt when a device is new or more is known
        of one."""
        as_of = (len(self._series.device_keys), self._identities.gpus_learned)
        if as_of != self._devices_as_of:
            keys = self._series.device_keys
            models = [self._identities.gpu_model(key) for key in keys]
            levels = {model: idle_level(model, self._idle_watts) for model in set(models)}
            self._devices = _Devices(
                [key.host for key in keys],
                [key.gpu for key in keys],
                [key.boot_id for key in keys],
                models,
                np.array([self._identities.covers_module(key) for key in keys], np.bool_),
                np.array([levels[model][0] for model in models], np.int64),
                np.array([levels[model][1] for model in models], np.float64),
            )
            self._devices_as_of = as_of
        return self._devices


def _copied(counts: NDArray[np.int64], narrow: type[np.integer[Any]], wide: type[np.integer[Any]]) -> Column:
    """Return a copy, in 32 bits where all fit: 2 s and 2 kJ do, and a row goes to the store with 98 bytes,
    not 142. Counts of 0 or more fit if the OR of all does, which takes half the time of comparing them."""
    return counts.astype(narrow if 0 <= np.bitwise_or.reduce(counts) < 1 << 31 else wide)
