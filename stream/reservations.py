"""Reservations: whom a device is given to, whether or not a process runs on it.

For the kernels a reservation is a holder that holds where no process does, from its record on for as long as
it is reported again in time. In rows it takes the place of a process, with pid 0 and a start made from the
owner's name.
"""

from __future__ import annotations

from dataclasses import fields
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from wattribute.errors import RecordError
from wattribute.kernels import messages as k
from wattribute.records import Reservation, Whose, Workload
from wattribute.stream.identity import Identities
from wattribute.stream.series import HolderKey, Series

_PERIOD_NS: Final = 60_000_000_000  # it is reported again this often, and lapses after three times as long
_FAR_NS: Final = 86_400_000_000_000
_AT_ONCE_NS: Final = 1  # the period of the first and last record: it does not hold before and after
_OWNER: Final = ("cluster", "namespace", "pod", "container", "job")
_SHARED: Final = [f.name for f in fields(Whose) if f.name != "t"]


class _Given(NamedTuple):
    owner: HolderKey | None
    told_ns: int


_NOT_TOLD: Final = _Given(None, 0)


class Reservations:
    """The latest record of each device and MIG instance."""

    def __init__(self, series: Series, identities: Identities) -> None:
        self._series = series
        self._identities = identities
        self._of: dict[tuple[int, int], _Given] = {}

    def note(self, device: int, record: Reservation) -> list[tuple[int, int, int, int]]:
        """Return the kernel events of a record; none if a later one has come before."""
        now_ns = int(self._series.hosts.now_ns[self._series.devices.host[device]])
        if 0 < now_ns < record.t - _FAR_NS:  # if believed, it would shut out all that follow
            raise RecordError("a reservation more than a day ahead of its host's clock")
        place = (device, record.gpu_instance)
        before = self._of.get(place, _NOT_TOLD)
        if 0 < now_ns < before.told_ns - _FAR_NS:
            before = _NOT_TOLD  # it came when the host had no clock yet
        if record.t <= before.told_ns:
            return []
        owner = _key(record) if record.pod or record.job else None
        self._of[place] = _Given(owner, record.t)
        goes_on = owner == before.owner and record.t - before.told_ns <= 3 * _PERIOD_NS
        events: list[tuple[int, int, int, int]] = []
        if before.owner is not None and not goes_on and record.t - before.told_ns <= 3 * _PERIOD_NS:
            row = self._series.holder_row(device, before.owner)
            events.append((k.GIVEN, row, record.t, _AT_ONCE_NS))
        if owner is not None:
            row = self._series.holder_row(device, owner)
            told_ns = record.t
            if not goes_on:  # a record covers its period: this one covers the time from record.t on
                told_ns += _AT_ONCE_NS
                events.append((k.GIVEN, row, told_ns, _AT_ONCE_NS))
                told_ns += _AT_ONCE_NS
            events.append((k.GIVEN, row, told_ns, _PERIOD_NS))
            events += self._note_owner(device, owner, record)
        return events

    def begin_anew(self, host_row: int) -> None:
        """Forget the records of a host whose clock was set back: its records from now on are newer."""
        hosts = self._series.devices.host
        self._of = {place: given for place, given in self._of.items() if hosts[place[0]] != host_row}

    def _note_owner(
        self, device: int, owner: HolderKey, record: Reservation
    ) -> list[tuple[int, int, int, int]]:
        """Note what the owner is; where that is news, return events for all that is reserved for it."""
        key = self._series.device_keys[device]
        said: dict[str, Any] = {name: getattr(record, name) for name in _SHARED}
        workload = Workload(t=record.t, pid=owner.pid, start_ns=owner.start_ns, **said)
        process = (key.host, key.boot_id, owner.pid, owner.start_ns)
        since_ns = self._identities.note_workload(self._series, process, workload)
        if since_ns is None:
            return []
        return [(k.TOUCH, held, since_ns, 0) for held in self._series.devices_of(process)]


def _key(record: Reservation) -> HolderKey:
    """Return the same key for the same owner, whenever it is reported."""
    name = "\0".join(getattr(record, field) for field in _OWNER).encode()
    return HolderKey(record.gpu_instance, 0, int.from_bytes(blake2b(name, digest_size=7).digest()))
