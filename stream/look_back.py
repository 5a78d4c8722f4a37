"""How far back a restart must read to rebuild the state that a partition's engine has now."""

from __future__ import annotations

import bisect
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wattribute.kernels.series import HORIZON_NS, I64
from wattribute.stream.series import SLACK_NS

_LOOK_BACK_NS: Final = HORIZON_NS + SLACK_NS + 600_000_000_000
_GONE_NS: Final = 86_400_000_000_000
_MARK_EVERY_NS: Final = 60_000_000_000
_NOT_YET: Final = -1


class LookBack:
    """Marks: offsets, each with the clocks of all hosts before the message there; about one a minute, and one
    where a host is new. A restart begins at the first mark kept. A mark is no longer needed once each host's
    own clock, if it moves at all, has moved on by the look-back."""

    def __init__(self) -> None:
        self._offsets: list[int] = []
        self._then_ns = np.zeros((0, 0), np.int64)  # by [mark, host]; _NOT_YET for a host that came later

    @property
    def offset(self) -> int:
        """The offset from which a restart must read."""
        return self._offsets[0] if self._offsets else 0

    def note(self, offset: int, now_ns: I64) -> bool:
        """Note that the message at ``offset`` is about to be taken in, and each host's clock before it
        (hosts,). Return whether that made a mark."""
        if self._offsets:
            moved_ns = self._moved_ns(slice(-1, None), now_ns)
            if not ((moved_ns >= _MARK_EVERY_NS) | (moved_ns < 0)).any():
                return False
        self._add(offset, now_ns)
        return True

    def let_go(self, settled_offset: int) -> None:
        """Drop the marks that are not needed by a restart that begins to write at ``settled_offset``; waiting
        windows hold that offset back."""
        place = bisect.bisect_right(self._offsets, settled_offset) - 1
        if place < 0:
            return
        then_ns = self._then_ns[place]
        moved_ns = self._moved_ns(slice(place + 1), then_ns)
        far_enough = moved_ns >= _LOOK_BACK_NS
        # A host whose clock stands still is gone once another's clock is ahead of it by the look-back; it is
        # not gone while another sends what it kept for an hour. If its own clock was days ahead, it is gone
        # once another's has moved on by a day.
        gone = then_ns.max(initial=0) - then_ns >= _LOOK_BACK_NS
        gone = (moved_ns == 0) & (gone | (moved_ns >= _GONE_NS).any(axis=1, keepdims=True))
        may_begin = far_enough.any(axis=1) & (far_enough | gone | (moved_ns < 0)).all(axis=1)
        for first in np.flatnonzero(may_begin)[-1:]:
            del self._offsets[:first]
            self._then_ns = self._then_ns[first:]

    def stands_still(self, now_ns: I64) -> NDArray[np.bool_]:
        """For each host, whether its clock has stood still, up to ``now_ns``, for two minutes of
        another's."""
        moved_ns = self._moved_ns(slice(None), now_ns)
        is_long = moved_ns.max(axis=1, initial=0, keepdims=True) >= 2 * _MARK_EVERY_NS
        stands: NDArray[np.bool_] = ((moved_ns == 0) & is_long).any(axis=0)
        return stands

    def _add(self, offset: int, now_ns: I64) -> None:
        count, hosts = self._then_ns.shape
        then_ns = np.full((count + 1, len(now_ns)), _NOT_YET, np.int64)
        then_ns[:count, :hosts] = self._then_ns
        then_ns[count] = now_ns
        self._offsets.append(offset)
        self._then_ns = then_ns

    def _moved_ns(self, marks: slice, now_ns: I64) -> I64:
        """How far each host's clock has moved since some of the marks, [mark, host]; -1 for a host that came
        later, or whose clock was set back: all that is known about it comes after the mark."""
        then_ns = self._then_ns[marks]
        moved_ns = np.full((len(then_ns), len(now_ns)), -1, np.int64)
        hosts = then_ns.shape[1]
        known = (then_ns > 0) | ((then_ns == 0) & (now_ns[:hosts] == 0))
        np.maximum(now_ns[:hosts] - then_ns, -1, out=moved_ns[:, :hosts], where=known)
        return moved_ns
