"""Figures about the sampling itself."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Health:
    """How the sampling itself is doing."""

    missed_ticks: int = 0
    readings: int = 0
    records: int = 0
    late_ns: deque[int] = field(default_factory=lambda: deque(maxlen=1024))

    def late_percentile_ns(self, percent: float) -> int:
        """By how much ticks came late, over the last 1024 of them."""
        ordered = sorted(self.late_ns)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0
