"""What a look-back cannot rebuild of a device: saved on the bus, and restored (docs/bus.md, State)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
import orjson

from wattribute.errors import RecordError
from wattribute.kernels.series import HAS_AVERAGE, HAS_COUNTER, HAS_INSTANT, Devices
from wattribute.records import TIME_MAX_NS, is_plausible
from wattribute.stream.decode import EXCERPT_BYTES
from wattribute.stream.look_back import LookBack
from wattribute.stream.series import SLACK_NS, DeviceKey, Series
from wattribute.stream.tables import Tables

_OFFSET_MAX: Final = (1 << 48) - 1  # docs/bus.md, Versions
_RESETS_MAX: Final = 1 << 31
_SOURCES_MAX: Final = 7
_SAMPLE: Final = ("t", "energy_mj", "power_mw", "power_average_mw")
_ABSENT: Final = -1
_SAMPLE_SERIES: Final = slice(Devices._fields.index("t_ns"), Devices._fields.index("average_mw") + 1)


class Saved(NamedTuple):
    """``origin`` is the partition whose offsets these are; ``next_offset`` is the first that is not included;
    ``last`` is the last sample, as in ``_SAMPLE``."""

    origin: str | None
    device: DeviceKey
    next_offset: int
    resets: int
    reset_offsets: list[int]
    sources: int
    first_ns: int
    last: list[int]


class State:
    """The state of a partition's devices: the number of counter resets ever, the sources that a device was
    ever read from, and the last sample of one that has fallen silent."""

    def __init__(self, origin: str, series: Series, look_back: LookBack) -> None:
        self._origin = origin
        self._series = series
        self._look_back = look_back
        self._saved = np.zeros((0, 3), np.int64)  # of each device: resets, last before a silence, sources
        # For each device that ever fell silent: the offset where that was first seen, and its last sample;
        # for the last silence before the settled offset, and for those since.
        self._silences: dict[int, list[tuple[int, list[int]]]] = {}
        self._restored: dict[DeviceKey, Saved] = {}
        self._restored_to = 0
        self._damaged: list[tuple[str, bytes]] = []  # saved state that is damaged: why, and the message

    def changed(self, next_offset: int, settled_offset: int) -> list[tuple[str, bytes]]:
        """Return what to save before offsets are committed, as (key, message), for devices whose state
        changed since the last call. ``next_offset`` is the first that is not taken in, ``settled_offset`` the
        first that is not in rows."""
        devices, changed = self._series.devices, []
        count = len(self._series.device_keys)
        length, silent_ns = devices.length[:count], np.zeros(count, np.int64)
        self.note_silences(next_offset)
        for row, silences in self._silences.items():
            while len(silences) > 1 and silences[1][0] <= settled_offset:
                del silences[0]
            silent_ns[row] = silences[0][1][0]
        now = np.stack([devices.resets[:count], silent_ns, devices.sources[:count]], axis=1)
        now[length == 0] = 0
        before = np.concatenate([self._saved, np.zeros((count - len(self._saved), 3), np.int64)])
        self._saved = now
        for row in np.flatnonzero((now != before).any(axis=1) & (length > 0)).tolist():
            key = self._series.device_keys[row]
            # Also for a device that is back: where its return is read again, the silence before it is needed.
            seen_offset, last = self._silences.get(row, [(next_offset, self._last_sample(row))])[0]
            saved = {
                "origin": self._origin,
                "host": key.host,
                "boot_id": key.boot_id,
                "gpu": key.gpu,
                "next_offset": seen_offset,
                "resets": int(devices.resets[row]),
                "reset_offsets": devices.showed_offset[row, : devices.showed_length[row]].tolist(),
                "sources": int(devices.sources[row]),
                "first_ns": int(devices.first_ns[row]),
                "last": last,
            }
            changed.append((f"{key.host} {key.boot_id} {key.gpu}", orjson.dumps(saved)))
        return changed

    def note_silences(self, next_offset: int) -> None:
        """Find the devices that have fallen silent before an offset."""
        devices, count = self._series.devices, len(self._series.device_keys)
        length, of_host = devices.length[:count], devices.host[:count]
        last_ns = devices.t_ns[np.arange(count), np.maximum(length - 1, 0)]
        silent = self._series.hosts.now_ns[of_host] - last_ns > SLACK_NS
        silent |= self._look_back.stands_still(self._series.clocks_ns)[of_host]
        for row in np.flatnonzero(silent & (length > 0)).tolist():
            silences = self._silences.setdefault(row, [])
            if not silences or silences[-1][1][0] != last_ns[row]:
                silences.append((next_offset, self._last_sample(row)))

    def forget(self, devices: list[int]) -> None:
        """Forget devices that begin anew because the clock of their host was set back."""
        self._saved[[row for row in devices if row < len(self._saved)]] = -1  # so that whatever comes is news
        for row in devices:
            self._silences.pop(row, None)

    def take_back(self, saved: Iterable[bytes], next_offset: int) -> None:
        """Take what ``changed`` returned, before the first message is taken in. It may be newer than
        ``next_offset``, the first whose rows are still to be written."""
        self._restored_to = next_offset
        for value in saved:
            try:
                found = read_saved(value)
            except RecordError as error:  # if raised, it would end every stream, at each start
                self._damaged.append((str(error), value))
                continue
            # A host that comes here from another partition begins anew: with what that partition knew of it,
            # all time since was a gap, and its energy counted twice (by 27 %).
            if found.origin in (None, self._origin):
                self._restored[found.device] = found

    def give_back(self, tables: Tables) -> None:
        """Once the look-back is over, restore what it could not rebuild of devices. Damaged state becomes
        dead letters."""
        for number, (reason, value) in enumerate(self._damaged, 1):  # a store keeps one per place and reason
            tables.dead(self._restored_to, f"{reason} ({number})", value[:EXCERPT_BYTES])
        self._damaged.clear()
        for key in self._restored.keys() & self._series.device_rows.keys():
            row, saved = self._series.device_rows[key], self._restored.pop(key)
            self._give_resets(row, saved)
            devices = self._series.devices
            n = int(devices.length[row])
            # For a silent device the look-back may have brought late samples.
            is_older = not n or devices.t_ns[row, n - 1] < saved.last[0]
            if saved.next_offset <= self._restored_to:
                if is_older:
                    self._give_last_sample(row, saved)
                if row not in self._silences or self._silences[row][-1][1][0] < saved.last[0]:
                    self._silences[row] = [(saved.next_offset, saved.last)]
            devices.sources[row] |= saved.sources

    def _give_resets(self, row: int, saved: Saved) -> None:
        # Resets after our offset will show again. Compare by offset, not by time, because readings come late.
        showed = [offset for offset in saved.reset_offsets if offset < self._restored_to]
        devices = self._series.devices
        # A stream that did not know yet that the partition was another's may have saved older state.
        seen = devices.showed_offset[row, : devices.showed_length[row]].tolist()
        if saved.reset_offsets or not saved.resets:
            showed += [offset for offset in seen if offset > max(saved.reset_offsets, default=-1)]
        if len(showed) > devices.showed_offset.shape[1]:
            self._series.make_room(len(showed))
            devices = self._series.devices
        devices.resets[row] = saved.resets - len(saved.reset_offsets) + len(showed)
        devices.showed_length[row] = len(showed)
        devices.showed_offset[row, : len(showed)] = showed

    def _give_last_sample(self, row: int, saved: Saved) -> None:
        """Restore the last sample of a device of which the look-back brought nothing newer."""
        devices = self._series.devices
        for series, value in zip(devices[_SAMPLE_SERIES], saved.last, strict=True):
            series[row, 0] = value
        t_ns, energy_mj, power_mw, average_mw = saved.last
        devices.length[row] = 1
        devices.gap_length[row] = devices.reset_length[row] = devices.quiet[row, 0] = 0
        devices.broken[row] = 1  # the look-back, longer than any period, had nothing of it
        devices.first_ns[row] = saved.first_ns
        devices.knot_ns[row], devices.counter_mj[row] = t_ns, energy_mj
        devices.sources[row] = (
            (HAS_COUNTER if energy_mj >= 0 else 0)
            | (HAS_INSTANT if power_mw >= 0 else 0)
            | (HAS_AVERAGE if average_mw >= 0 else 0)
        )

    def _last_sample(self, row: int) -> list[int]:
        devices = self._series.devices
        n = int(devices.length[row])
        return [int(series[row, n - 1]) for series in devices[_SAMPLE_SERIES]]


def read_saved(value: bytes) -> Saved:
    """Parse a message of the topic. Raises RecordError where it is damaged."""
    try:
        obj = orjson.loads(value)
        saved = Saved(
            obj.get("origin"),  # state of an older version lacks it
            DeviceKey(obj["host"], obj["boot_id"], obj["gpu"]),
            obj["next_offset"],
            obj.get("resets", 0),
            obj.get("reset_offsets", []),  # as it lacks this
            obj.get("sources", 0),
            obj["first_ns"],
            obj["last"],
        )
        is_sound = _is_sound(saved)
    except (AttributeError, KeyError, TypeError, ValueError):
        is_sound = False
    if not is_sound:
        raise RecordError("a snapshot of state that cannot be used")
    return saved


def _is_sound(saved: Saved) -> bool:
    names = (saved.device.host, saved.device.boot_id, saved.device.gpu)
    offsets = [saved.next_offset, *saved.reset_offsets]
    numbers = [*offsets, saved.resets, saved.sources, saved.first_ns, *saved.last]
    sample = zip(_SAMPLE, saved.last, strict=True)
    return (
        (saved.origin is None or type(saved.origin) is str)
        and all(type(name) is str for name in names)
        and all(type(number) is int for number in numbers)
        and all(0 <= offset <= _OFFSET_MAX for offset in offsets)
        and len(saved.reset_offsets) <= saved.resets <= _RESETS_MAX
        and 0 <= saved.sources <= _SOURCES_MAX
        and 0 < saved.first_ns <= TIME_MAX_NS
        and all(number == _ABSENT or is_plausible(name, number) for name, number in sample)
    )
