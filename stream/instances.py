"""MIG instances: to the kernels, holders whose records tell their slices and how busy they were."""

from __future__ import annotations

import re
from typing import Final

from wattribute.errors import RecordError
from wattribute.kernels import ingest as k
from wattribute.kernels.series import INSTANCE, WATTS_PRIOR, WATTS_PRIOR_SD
from wattribute.records import Instance
from wattribute.stream.series import SLICES, HolderKey, Series

_NO_PROCESS: Final = -1  # in place of a pid
_LAPSES_NS: Final = 180_000_000_000  # it is told again every 60 s
_BEFORE_NS: Final = 1_000_000_000  # instances are read once a second: one that is new was there since
# Of GPUs that MIG cuts into fewer (NVIDIA's MIG user guide, supported profiles), by a word of their name.
_SLICES: Final = {"A30": 4, "6000": 4}


def slices_of(gpu_model: str) -> int:
    """Into how many compute slices MIG cuts a GPU, by the name that NVML gives it."""
    return next((_SLICES[word] for word in re.split(r"[ -]", gpu_model) if word in _SLICES), SLICES)


class Instances:
    """When each instance was told last."""

    def __init__(self, series: Series) -> None:
        self._series = series
        self._told_ns: dict[tuple[int, int], int] = {}

    def note(self, device: int, record: Instance) -> list[tuple[int, int, int, int]]:
        """What a record means to the kernel: events. One of 0 slices ends the instance. Raises RecordError
        where nothing tells its size."""
        slices = record.slices
        if slices is None:
            profile = re.match(r"(\d)g\.", record.profile)
            if profile is None:
                raise RecordError("an instance without slices, and without a profile like 3g.71gb")
            slices = int(profile[1])
        place = (device, record.gpu_instance)
        told_ns = self._told_ns.get(place)
        if told_ns is None and slices == 0:
            return []
        row = self._row(device, record.gpu_instance, slices)
        if slices == 0:
            del self._told_ns[place]
            return [(k.MIG_INSTANCE, row, record.t, 1 << k.TOLD_EDGE)]
        self._told_ns[place] = max(record.t, told_ns or 0)
        activity = 0 if record.sm_percent is None else 1 + round(record.sm_percent * 1e6)
        told = (1 + slices) << k.TOLD_SLICES
        events = [(k.MIG_INSTANCE, row, record.t, told | activity)]
        if told_ns is None or record.t - told_ns > _LAPSES_NS:
            events.insert(0, (k.MIG_INSTANCE, row, record.t - _BEFORE_NS, told | 1 << k.TOLD_EDGE))
        return events

    def begin_anew(self, host_row: int) -> None:
        """Forget what was told of a host whose clock was set back: what it tells from now on is newer."""
        hosts = self._series.devices.host
        self._told_ns = {place: t for place, t in self._told_ns.items() if hosts[place[0]] != host_row}

    def _row(self, device: int, gpu_instance: int, slices: int) -> int:
        series, key = self._series, HolderKey(gpu_instance, _NO_PROCESS, 0)
        is_new = (device, key) not in series.holder_rows
        row = series.holder_row(device, key)
        if is_new:
            series.holders.account[row] = INSTANCE
            part = slices / int(series.devices.slices[device])
            series.holders.watts[row], series.holders.watts_sd[row] = (
                WATTS_PRIOR * part,
                WATTS_PRIOR_SD * part,
            )
        return row
