"""What the stream does while the store or the bus is away: it waits, and informs the operator."""

from __future__ import annotations

import logging
import random
import time
from typing import Final

_LOG: Final = logging.getLogger(__name__)
_PAUSE_MIN_S: Final = 0.5
_PAUSE_MAX_S: Final = 30.0
_TELL_S: Final = 60.0


class Outage:
    """One outage, from the first step that failed to the first that works."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._told_s: float | None = None
        self._pause_s = _PAUSE_MIN_S

    def failed(self, error: Exception) -> float:
        """Log the outage, at once and then every minute. Return how many seconds to wait before the next try:
        twice as many each time, up to 30, less a random part, so that not all streams come back at once."""
        now_s = time.monotonic()
        if self._told_s is None or now_s - self._told_s >= _TELL_S:
            how = ", nothing is lost" if self._told_s is None else f" for {now_s - self._began_s:.0f} s now"
            _LOG.warning("waiting%s: %s", how, error)
            self._told_s = now_s
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _PAUSE_MAX_S)
        return pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    def ended(self) -> None:
        """Log that the outage is over."""
        lasted_s = time.monotonic() - self._began_s
        _LOG.warning("the outage is over after %.0f s: going on where the stream stopped", lasted_s)
