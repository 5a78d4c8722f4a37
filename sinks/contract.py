"""What a sink promises, and the columns it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Coded:
    """A text column by code: row i holds ``values[codes[i]]``. ``values`` may repeat a text."""

    codes: NDArray[np.int32]
    values: Sequence[str]


@dataclass(frozen=True, slots=True)
class CodedLabels:
    """A label column by code: row i holds the map ``values[codes[i]]``."""

    codes: NDArray[np.int32]
    values: Sequence[Mapping[str, str]]


Column = NDArray[Any] | Coded | CodedLabels


class Sink(Protocol):
    """Where results rest. A write is durable when the call returns; writing the same rows again changes
    nothing, because every table is keyed and versioned. A failed write raises StoreError and may be
    repeated."""

    def announce(self, batches: Sequence[Mapping[str, Column]]) -> None:
        """Say what is about to be written with ``write_attribution``: what the sink has to do before may take
        less for all together. Nothing has to be said."""

    def write_attribution(self, columns: Mapping[str, Column]) -> None:
        """Store attribution rows: one equally long column for every name of the table ``attribution``
        (``window_start`` in integer milliseconds; integers of 64 bits may come as 32), and ``nothing_due``:
        its bits stand for rows of the same window that are to be deleted, 1 of the account unheld, 2
        residual. Also notes which rollup buckets they touch."""

    def write_rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store rows of one of the small tables. Missing columns take their default."""

    def refresh_rollups(self) -> None:
        """Recompute the minute, hour and day buckets touched since the last call. May run in another thread
        beside a write."""

    def close(self) -> None:
        """Let go of the store."""
