"""Power of a sensor that measures for a part of the time only, averaged while the load is steady.

An A100 or H100 measures for 25 ms of every 100 (Yang, Adamek, Armour, arXiv 2312.02741). A load that switches
on and off at about that pace is seen mostly on for seconds, and mostly off for the next ones. Utilization is
measured throughout, so it stays at half: that tells such a load from one whose power does change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from wattribute.collector.trace import Line
from wattribute.records import Device

# Of a square wave beside a power meter (docs/accuracy.md) windows of 1 s are 28 % off; with the mean of 5 s
# 4 %, of 10 s 3 %. But the longer, the more of what does change is levelled.
_LENGTH_NS: Final = 10_000_000_000
_STEADY_PERCENT: Final = 5.0
# A GPU that works always, or never, does not switch: what changes then is how much it draws.
_SWITCHES_PERCENT: Final = 5.0, 95.0
_WAITING_MOST: Final = 100_000  # lines, as where thousands that cannot be used follow a reading


@dataclass(slots=True)
class _Stretch:
    """Readings of a GPU over a time of steady load."""

    gpu: str
    begin_ns: int
    total_mw: int = 0
    count: int = 0
    percents: tuple[float, float] = (100.0, 0.0)
    """The least and the most utilization."""


def averaged(lines: Iterator[Line]) -> Iterator[Line]:
    """Pass on the items of a log, in order. While a GPU's utilization is between 5 and 95 % and stays within
    5 points, each reading of power becomes their mean, over 10 s at most: the energy stays the same."""
    waiting: deque[tuple[Line, _Stretch | None]] = deque()
    open_: dict[str, _Stretch] = {}
    now_ns = 0
    for line in lines:
        stretch = None
        if isinstance(device := line.record, Device):
            now_ns = device.t
            stretch = _stretch_of(device, open_)
        waiting.append((line, stretch))
        while waiting:
            stretch = waiting[0][1]
            if stretch is not None and open_.get(stretch.gpu) is stretch:
                # The log goes on without this GPU, as where several were put together.
                if abs(now_ns - stretch.begin_ns) <= _LENGTH_NS and len(waiting) <= _WAITING_MOST:
                    break
                del open_[stretch.gpu]
            yield _levelled(*waiting.popleft())
    for item in waiting:
        yield _levelled(*item)


def _stretch_of(device: Device, open_: dict[str, _Stretch]) -> _Stretch | None:
    """The stretch that a reading belongs to, with the reading added; None where the load is not steady."""
    stretch = open_.pop(device.gpu, None)
    percent, power_mw = device.sm_percent, device.power_mw
    least, most = _SWITCHES_PERCENT
    if percent is None or power_mw is None or not least <= percent <= most:
        return None
    if stretch is not None:
        least, most = min(stretch.percents[0], percent), max(stretch.percents[1], percent)
        if most - least > _STEADY_PERCENT or not 0 < device.t - stretch.begin_ns < _LENGTH_NS:
            stretch = None
    if stretch is None:
        stretch, least, most = _Stretch(device.gpu, device.t), percent, percent
    stretch.total_mw += power_mw
    stretch.count += 1
    stretch.percents = least, most
    open_[device.gpu] = stretch
    return stretch


def _levelled(line: Line, stretch: _Stretch | None) -> Line:
    if stretch is None or not isinstance(device := line.record, Device):
        return line
    return line._replace(record=replace(device, power_mw=round(stretch.total_mw / stretch.count)))
