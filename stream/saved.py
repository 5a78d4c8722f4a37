"""What a look-back cannot rebuild of a device, as it was put by on the bus (docs/bus.md, State)."""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson

from wattribute.errors import RecordError
from wattribute.records import TIME_MAX_NS, is_plausible
from wattribute.stream.series import DeviceKey

_OFFSET_MAX: Final = (1 << 48) - 1  # docs/bus.md, Versions
_RESETS_MAX: Final = 1 << 31
_SOURCES_MAX: Final = 7
_SAMPLE: Final = ("t", "energy_mj", "power_mw", "power_average_mw")
_ABSENT: Final = -1


class Saved(NamedTuple):
    """``next_offset`` is the first that is not in it; ``last`` is the last sample, as in ``_SAMPLE``."""

    device: DeviceKey
    next_offset: int
    resets: int
    reset_offsets: list[int]
    sources: int
    first_ns: int
    last: list[int]


def read_saved(value: bytes) -> Saved:
    """A message of the topic. Raises RecordError where it is damaged."""
    try:
        obj = orjson.loads(value)
        saved = Saved(
            DeviceKey(obj["host"], obj["boot_id"], obj["gpu"]),
            obj["next_offset"],
            obj.get("resets", 0),
            obj.get("reset_offsets", []),  # state of an older version lacks it
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
        all(type(name) is str for name in names)
        and all(type(number) is int for number in numbers)
        and all(0 <= offset <= _OFFSET_MAX for offset in offsets)
        and len(saved.reset_offsets) <= saved.resets <= _RESETS_MAX
        and 0 <= saved.sources <= _SOURCES_MAX
        and 0 < saved.first_ns <= TIME_MAX_NS
        and all(number == _ABSENT or is_plausible(name, number) for name, number in sample)
    )
