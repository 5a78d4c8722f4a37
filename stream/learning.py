"""What is learned about devices, as windows come due (kernels/learn.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wattribute.kernels.learn import learn
from wattribute.kernels.learn_scratch import PLACES, SHIFTS
from wattribute.kernels.series import (
    F64,
    FITS,
    FOREVER,
    I64,
    WATTS_HOLDERS,
    Devices,
    Due,
    Holders,
    Hosts,
    Learned,
    Watts,
    WattsOf,
)

_NEVER = -FOREVER  # instead of the number of a minute or a block; before 1970 these are negative


class Learning:
    """What was learned about each device, by its row."""

    def __init__(self) -> None:
        self._learned = _room(0)
        self._idle_mw = np.zeros(0, np.int64)  # the priors that the fits in ``fits`` used

    def watts(
        self,
        hosts: Hosts,
        devices: Devices,
        holders: Holders,
        due: Due,
        idle_mw: I64,
        idle_sd_w: F64,
        window_ns: int,
        ended: bool,
    ) -> tuple[Watts, WattsOf]:
        """Return what each process draws, for every block that a due window uses, and which of these each
        window uses. ``idle_mw``, ``idle_sd_w`` (devices): the prior of the idle level, and its standard
        deviation, 0 where it is not learned."""
        count = len(due.bounds) - 1
        if len(self._learned.block) < count:
            before, self._learned = self._learned, _room(2 * count)
            for old, new in zip(_arrays(before), _arrays(self._learned), strict=True):
                new[: len(old)] = old
        known = min(count, len(self._idle_mw))
        self._learned.fitted[:known][self._idle_mw[:known] != idle_mw[:known]] = _NEVER
        self._idle_mw = idle_mw[:count].copy()
        of = _windows(devices, due, window_ns, idle_mw, idle_sd_w)
        out = _rows(len(of.row) + count)
        learn(hosts, devices, holders, due, window_ns, ended, self._learned, out, of)
        return out, of

    def changed(self, first_block: I64) -> None:
        """Forget what was learned from blocks whose readings changed: for each device those from
        ``first_block`` (devices) on. That is then reset. Call this before any window is left waiting, because
        others may use the same blocks."""
        count = min(len(first_block), len(self._learned.block))
        changed = first_block[:count, None]
        self._learned.minute[:count][self._learned.block[:count] >= changed] = _NEVER
        self._learned.fitted[:count][self._learned.fitted[:count] >= changed] = _NEVER
        first_block[:] = FOREVER

    def forget(self, devices: Sequence[int]) -> None:
        """Forget what was learned about devices whose readings, or whose processes' rows, change from now
        on."""
        known = [device for device in devices if device < len(self._learned.block)]
        self._learned.minute[known] = self._learned.fitted[known] = _NEVER


def _room(devices: int) -> Learned:
    # Memory is taken only when written to: a device that nobody shares takes just the numbers of its blocks.
    return Learned(
        minute=np.full((devices, 2), _NEVER, np.int64),
        block=np.zeros((devices, 2), np.int64),
        names=np.zeros((devices, 2), np.int64),
        holder=np.empty((devices, 2, PLACES), np.int64),
        second=np.empty((devices, 2, PLACES, PLACES)),
        first=np.empty((devices, 2, PLACES, SHIFTS)),
        squares=np.empty((devices, 2, SHIFTS)),
        late_s2=np.empty((devices, 2)),
        stretches=np.empty((devices, 2)),
        fitted=np.full((devices, FITS), _NEVER, np.int64),
        fits=_rows(devices * FITS),
    )


def _rows(count: int) -> Watts:
    return Watts(
        known=np.empty(count, np.int64),
        shift_ns=np.empty(count, np.int64),
        idle_mw=np.empty(count, np.int64),
        idle_sd_w=np.empty(count),
        noise_w=np.empty(count),
        late_s=np.empty(count),
        holder=np.empty((count, WATTS_HOLDERS), np.int64),
        watts=np.empty((count, WATTS_HOLDERS)),
        sd=np.empty((count, WATTS_HOLDERS)),
    )


def _arrays(learned: Learned) -> list[NDArray[Any]]:
    return [*learned[:-1], *learned.fits]


def _windows(devices: Devices, due: Due, window_ns: int, idle_mw: I64, idle_sd_w: F64) -> WattsOf:
    """Make room for the row of each window, by device, from its first to its last that is due and has
    samples."""
    count = len(due.bounds) - 1
    marked = np.flatnonzero(np.diff(due.bounds))
    length = devices.length[marked]
    oldest = devices.t_ns[marked, 0] // window_ns
    newest = devices.t_ns[marked, length - 1] // window_ns
    first = np.maximum(np.minimum.reduceat(due.first, due.bounds[marked]), oldest)
    last = np.minimum(np.maximum.reduceat(due.last, due.bounds[marked]), newest)
    first_window, windows = np.zeros(count, np.int64), np.zeros(count, np.int64)
    first_window[marked] = first
    windows[marked] = np.where(length > 0, np.maximum(last - first + 1, 0), 0)
    begin = np.concatenate([[0], np.cumsum(windows)])
    row = np.empty(begin[-1], np.int64)
    return WattsOf(first_window, begin, row, idle_mw[:count], idle_sd_w[:count])
