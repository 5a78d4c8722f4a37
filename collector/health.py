"""Figures about the sampling itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Health:
    """How the sampling itself is doing."""

    missed_ticks: int = 0
    readings: int = 0
    records: int = 0
    outages: int = 0  # a GPU that had answered did not
    lists_left_out: int = 0  # of processes: one was on its way still, or the clock was set meanwhile
    unidentified: int = 0  # entries of such lists of which no process is found
    late_ns: deque[int] = field(default_factory=lambda: deque(maxlen=1024))

    def late_percentile_ns(self, percent: float) -> int:
        """By how much ticks came late, over the last 1024 of them."""
        ordered = sorted(self.late_ns)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0

    def complaints(self) -> Iterator[str]:
        """What was not as it should be, in a line each."""
        if self.outages:
            yield f"a GPU stopped answering, {self.outages:,} times in all: the table gap says which and why"
        if self.lists_left_out:
            yield f"{self.lists_left_out:,} lists of a GPU's processes were left out: NVML took too long"
        if self.unidentified:
            yield (
                f"{self.unidentified:,} entries of lists of a GPU's processes are of none that /proc shows:"
                " it had ended, or is in another PID namespace, of which wattribute doctor tells"
            )
