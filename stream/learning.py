"""What is learned of devices as windows come due (kernels/learn.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wattribute.kernels import learn as k
from wattribute.kernels.series import (
    BLOCK_NS,
    BLOCKS,
    FEATURES,
    I64,
    LATENESS_NS,
    WATTS_HOLDERS,
    Devices,
    Holders,
    Hosts,
    Learned,
    Marks,
    Watts,
)


class Learning:
    """The moments of each device, by its row; and what follows of them."""

    def __init__(self) -> None:
        self._learned = _room(0)

    def watts(
        self,
        hosts: Hosts,
        devices: Devices,
        holders: Holders,
        marks: Marks,
        order: I64,
        bounds: I64,
        idle_mw: I64,
        window_ns: int,
        ended: bool,
    ) -> Watts:
        """What each process draws, for every block that a marked window rests on. ``order``, ``bounds``: the
        marks by device; ``idle_mw`` (devices): the prior of the idle level."""
        count = len(bounds) - 1
        if len(self._learned.block) < count:
            before, self._learned = self._learned, _room(2 * count)
            self._learned.block[: len(before.block)] = before.block
            self._learned.named[: len(before.block)] = before.named
            self._learned.moments[: len(before.block)] = before.moments
        first_block, begin = _blocks(devices, marks, order, bounds, window_ns)
        rows = int(begin[-1])
        out = Watts(
            first_block,
            begin,
            known=np.zeros(rows, np.int64),
            shift_ns=np.zeros(rows, np.int64),
            idle_mw=np.repeat(idle_mw[:count], np.diff(begin)),
            idle_sd_w=np.full(rows, k.IDLE_SD_W),
            noise_w=np.zeros(rows),
            holder=np.empty((rows, WATTS_HOLDERS), np.int64),
            watts=np.empty((rows, WATTS_HOLDERS)),
            sd=np.empty((rows, WATTS_HOLDERS)),
        )
        k.learn(hosts, devices, holders, marks, order, bounds, idle_mw, window_ns, ended, self._learned, out)
        return out

    def changed(self, marks: Marks, window_ns: int) -> None:
        """Forget what marks just made concern: before any of them waits, for others may rest on the same."""
        k.forget_blocks(marks, window_ns, self._learned)

    def forget(self, devices: Sequence[int]) -> None:
        """Forget the moments of devices: their readings, or the rows of their processes, are others from now
        on."""
        known = [device for device in devices if device < len(self._learned.block)]
        self._learned.block[known] = -1


def _room(devices: int) -> Learned:
    # Memory is taken as it is written to: a device that nobody shares takes but its block numbers.
    return Learned(
        np.full((devices, BLOCKS), -1, np.int64),
        np.zeros((devices, BLOCKS, FEATURES), np.int32),
        np.zeros((devices, BLOCKS, k.MOMENTS)),
    )


def _blocks(devices: Devices, marks: Marks, order: I64, bounds: I64, window_ns: int) -> tuple[I64, I64]:
    """Of each device, the first block that a marked window may rest on, and where its rows begin."""
    count = len(bounds) - 1
    marked = np.flatnonzero(np.diff(bounds) > 0)
    first_block, rows = np.zeros(count, np.int64), np.zeros(count, np.int64)
    first = np.minimum.reduceat(marks.first[order], bounds[marked])
    last = np.maximum.reduceat(marks.last[order], bounds[marked])
    length = devices.length[marked]
    oldest_ns = devices.t_ns[marked, 0]
    newest_ns = devices.t_ns[marked, np.maximum(length - 1, 0)]
    first = np.maximum(first, oldest_ns // window_ns)
    last = np.minimum(last, newest_ns // window_ns)
    first_block[marked] = ((first + 1) * window_ns - LATENESS_NS) // BLOCK_NS - 1  # see learn.block_of
    rows[marked] = np.where(
        length > 0, np.maximum(((last + 1) * window_ns - 1) // BLOCK_NS - first_block[marked] + 1, 0), 0
    )
    return first_block, np.concatenate([[0], np.cumsum(rows)])
