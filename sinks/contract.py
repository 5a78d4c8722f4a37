"""The contract of a sink, and the columns that it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Coded:
    """A text column by code: the text of row i is ``values[codes[i]]``. ``values`` may repeat a text."""

    codes: NDArray[np.int32]
    values: Sequence[str]

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True, slots=True)
class CodedLabels:
    """A label column by code: the map of row i is ``values[codes[i]]``."""

    codes: NDArray[np.int32]
    values: Sequence[Mapping[str, str]]

    def __len__(self) -> int:
        return len(self.codes)


Column = NDArray[Any] | Coded | CodedLabels


class Sink(Protocol):
    """Stores results. A write is durable when the call returns. Writing the same rows again changes nothing,
    because every table is keyed and versioned. A failed write raises StoreError and may be repeated."""

    def announce(self, batches: Sequence[Mapping[str, Column]]) -> None:
        """Announce what ``write_attribution`` is about to store: the sink may prepare for all of it at once,
        which can be cheaper. This call is optional."""

    def write_attribution(self, columns: Mapping[str, Column]) -> None:
        """Store attribution rows: one column for every column of the table ``attribution``, all of equal
        length (``window_start`` in integer milliseconds; 64-bit integers may come as 32-bit), and
        ``nothing_due``. Its bits stand for rows of the same window that are to be deleted: 1 for the account
        unheld, 2 for residual. Also notes which rollup buckets the rows touch."""

    def write_rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store rows of one of the small tables. Missing columns take their default."""

    def refresh_rollups(self) -> None:
        """Recompute the minute, hour and day buckets touched since the last call. May run in another thread
        during a write."""

    def close(self) -> None:
        """Close the store."""
