"""The collector's clock."""

from __future__ import annotations

import time
from typing import Final, Protocol

STEP_NS: Final = 500_000_000
"""A greater step of the wall clock begins a new epoch (docs/bus.md, Messages); a smaller one is ignored."""
_S: Final = 1_000_000_000


class Clock(Protocol):
    """Unix time that never jumps: the wall clock at the start plus the monotonic clock since then."""

    def now_ns(self) -> int:
        """The time."""

    def sleep_until_ns(self, t: int) -> None:
        """Return at ``t``, or at once if ``t`` has passed."""

    def wall_step_ns(self) -> int:
        """How far the wall clock has moved away from ``now_ns``."""


class HostClock:
    """The clock of this host."""

    def __init__(self) -> None:
        self._wall_minus_monotonic_ns = time.time_ns() - time.monotonic_ns()

    def now_ns(self) -> int:
        """Unix ns, unaffected by later changes of the wall clock."""
        return self._wall_minus_monotonic_ns + time.monotonic_ns()

    def sleep_until_ns(self, t: int) -> None:
        """Sleep until ``now_ns`` reaches ``t``."""
        left_ns = t - self.now_ns()
        if left_ns > 0:
            time.sleep(left_ns / _S)

    def wall_step_ns(self) -> int:
        """By how much the wall clock was set, or the host was suspended, since the start."""
        return time.time_ns() - self.now_ns()
