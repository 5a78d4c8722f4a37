"""Figures about the sampling itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Health:
    """Counters of the sampling itself."""

    missed_ticks: int = 0
    readings: int = 0
    records: int = 0
    outages: int = 0  # how often a GPU stopped answering
    lists_left_out: int = 0  # process lists skipped: the last one was still being read, or the clock was set
    unidentified: int = 0  # entries of process lists for which no process was found
    late_ns: deque[int] = field(default_factory=lambda: deque(maxlen=1024))

    def late_percentile_ns(self, percent: float) -> int:
        """How late ticks were: this percentile of the last 1024."""
        ordered = sorted(self.late_ns)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0

    def complaints(self) -> Iterator[str]:
        """What went wrong, one line each."""
        if self.outages:
            yield f"a GPU stopped answering, {self.outages:,} times in all: the table gap says which and why"
        if self.lists_left_out:
            yield f"{self.lists_left_out:,} lists of a GPU's processes were skipped: NVML took too long"
        if self.unidentified:
            yield (
                f"{self.unidentified:,} entries of lists of a GPU's processes match no process in /proc:"
                " the process had ended, or is in another PID namespace; run `wattribute doctor` to find out"
            )
