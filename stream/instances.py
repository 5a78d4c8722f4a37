"""MIG instances: for the kernels, holders whose records give their slices and how busy they were."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from wattribute.errors import RecordError
from wattribute.kernels import messages as k
from wattribute.kernels.series import INSTANCE, INSTANCE_NS, WATTS_PRIOR, WATTS_PRIOR_SD
from wattribute.records import Instance
from wattribute.stream.series import SLICES, HolderKey, Series

_NO_PROCESS: Final = -1  # instead of a pid
_LAPSES_NS: Final = 3 * INSTANCE_NS
_FAR_NS: Final = 86_400_000_000_000
_BEFORE_NS: Final = 1_000_000_000  # instances are read once a second: a new one may be this old
# GPUs that MIG cuts into fewer (NVIDIA's MIG user guide, supported profiles), by a word of their name.
_SLICES: Final = {"A30": 4, "6000": 4}


def slices_of(gpu_model: str) -> int:
    """Return into how many compute slices MIG cuts a GPU, by the name that NVML gives it."""
    return next((_SLICES[word] for word in re.split(r"[ -]", gpu_model) if word in _SLICES), SLICES)


class _Told(NamedTuple):
    t: int
    slices: int  # 0: it ended


_NEVER: Final = _Told(0, 0)


class Instances:
    """The latest record of each instance."""

    def __init__(self, series: Series) -> None:
        self._series = series
        self._told: dict[tuple[int, int], _Told] = {}

    def goes_on(self, device: int, record: Instance) -> bool:
        """Whether a record repeats what was said about an instance before, as nearly all do. Before any other
        record is noted, all messages before it must be taken in."""
        before = self._told.get((device, record.gpu_instance), _NEVER)
        return 0 < record.t - before.t <= _LAPSES_NS and before.slices > 0 and record.size() == before.slices

    def note(self, device: int, record: Instance) -> list[tuple[int, int, int, int]]:
        """Return the kernel events of a record. A record of 0 slices ends the instance. There are none for a
        record that comes after a later one that ended it. Raises RecordError for one that is far ahead of its
        host's clock."""
        slices = record.size()
        place = (device, record.gpu_instance)
        before = self._told.get(place, _NEVER)
        if not self.goes_on(device, record):
            now_ns = int(self._series.hosts.now_ns[self._series.devices.host[device]])
            if 0 < now_ns < record.t - _FAR_NS:  # if believed, all that follow would be too late
                raise RecordError("an instance record more than a day ahead of its host's clock")
        is_late, is_there = record.t <= before.t, before.slices > 0 and record.t - before.t <= _LAPSES_NS
        if (is_late and before.slices == 0) or (slices == 0 and (is_late or not is_there)):
            return []
        if not is_late:
            self._told[place] = _Told(record.t, slices)
        row = self._series.holder_row(device, HolderKey(record.gpu_instance, _NO_PROCESS, 0))
        if slices == 0:
            return [(k.MIG_INSTANCE, row, record.t, 1 << k.TOLD_EDGE)]
        self._series.holders.account[row] = INSTANCE
        told = (1 + slices) << k.TOLD_SLICES
        events = [] if is_late else self._size_up(device, row, slices)
        if not is_late and not is_there:
            events.append((k.MIG_INSTANCE, row, record.t - _BEFORE_NS, told | 1 << k.TOLD_EDGE))
        activity = 0 if record.sm_percent is None else 1 + round(record.sm_percent * 1e6)
        return [*events, (k.MIG_INSTANCE, row, record.t, told | activity)]

    def size_up(self, device: int) -> list[tuple[int, int, int, int]]:
        """Return events for a device of which it is only now known into how many slices it is cut."""
        events: list[tuple[int, int, int, int]] = []
        for (of, number), told in self._told.items():
            row = self._series.holder_rows.get((device, HolderKey(number, _NO_PROCESS, 0)))
            if of == device and row is not None and told.slices:
                events += self._size_up(device, row, told.slices)
        return events

    def begin_anew(self, host_row: int) -> None:
        """Forget the records of a host whose clock was set back: its records from now on are newer."""
        hosts = self._series.devices.host
        self._told = {place: told for place, told in self._told.items() if hosts[place[0]] != host_row}

    def _size_up(self, device: int, row: int, slices: int) -> list[tuple[int, int, int, int]]:
        """Set an instance's watts to its part of what a device may draw; return an event, if that is news."""
        holders, part = self._series.holders, slices / int(self._series.devices.slices[device])
        prior = WATTS_PRIOR * part, WATTS_PRIOR_SD * part
        if prior == (holders.watts[row], holders.watts_sd[row]):
            return []
        holders.watts[row], holders.watts_sd[row] = prior
        return [(k.PRIOR, row, 0, 0)]
