"""Parsed headers of samples messages, as the kernels take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wattribute.kernels import headers as h
from wattribute.kernels import messages as k
from wattribute.wire import DEVICE_COLUMNS, PROCESS_COLUMNS

_DEVICE_WANTED: Final = ("t", "energy_mj", "gpu", "power_mw", "power_average_mw", "sm_percent")
_PROCESS_WANTED: Final = ("t", "period_ns", "memory_used_bytes", "process", "sm_percent")

_BEGUN: Final = -1  # instead of an epoch: the collector has started anew


class Headers:
    """What each header says: its host, the rows of its gpus and processes, and where its columns are."""

    def __init__(self) -> None:
        self._latest: dict[int, int] = {}  # epoch by row of hosts
        self._epochs = np.zeros(8, np.int64)  # the same for the kernel; 0: no collector yet
        self.forget()

    def __len__(self) -> int:
        return len(self.layouts)

    def forget(self) -> None:
        """Forget all headers."""
        self.layouts: list[list[int]] = []
        self.device_ids: list[int] = []
        self.holder_ids: list[int] = []
        self._words = 0
        self._text = np.zeros(1 << 10, np.int64)
        self._places = np.zeros((8, h.PLACE_COLUMNS), np.int64)
        self._slots = np.full(32, -1, np.int32)

    def add(
        self, text: bytes, host_row: int, device_rows: Sequence[int], holder_rows: Sequence[int],
        device_names: Sequence[str], process_names: Sequence[str],
    ) -> None:  # fmt: skip
        """Add a header, of a multiple of 8 bytes: the rows of its gpus and processes, and its columns."""
        devices = _widths(device_names, DEVICE_COLUMNS)
        processes = _widths(process_names, PROCESS_COLUMNS)
        layout = [len(self.device_ids), len(device_rows), len(self.holder_ids), len(holder_rows)]
        layout += _places(device_names, DEVICE_COLUMNS, _DEVICE_WANTED) + devices
        layout += _places(process_names, PROCESS_COLUMNS, _PROCESS_WANTED)
        words, place = np.frombuffer(text, "<i8"), len(self.layouts)
        self.layouts.append(layout)
        self.device_ids += device_rows
        self.holder_ids += holder_rows
        self._text = _longer(self._text, self._words + len(words))
        self._text[self._words : self._words + len(words)] = words
        self._places = _longer(self._places, place + 1)
        self._epochs = _longer(self._epochs, host_row + 1)  # it is read even where no epoch was noted
        self._places[place] = [self._words, len(words), host_row, place, *devices, *processes]
        self._words += len(words)
        if 2 * (place + 1) > len(self._slots):
            self._slots = np.full(2 * len(self._slots), -1, np.int32)
            for earlier in range(place):
                h.note(self._known(), earlier)
        h.note(self._known(), place)

    def recognise(
        self, joined: bytes, sizes: NDArray[np.int64], offsets: Sequence[int]
    ) -> tuple[NDArray[np.int64], bool]:
        """Recognise messages that follow each other in ``joined``, with ``sizes`` in bytes, multiples of 8.
        Return their rows for ``ingest`` (messages, 7), and whether all are clear samples; where not, KIND
        says why (``kernels.headers``)."""
        found = np.empty((len(sizes), 7), np.int64)
        given = np.array(offsets, np.int64)
        unclear = h.recognise(np.frombuffer(joined, "<i8"), sizes // 8, given, self._known(), found)
        return found, not unclear

    def note_epoch(self, host_row: int, epoch: int) -> bool:
        """Note an epoch; return whether the collector of a host has started anew. Messages of an older epoch
        are merely late, and those of epoch 0 are from no collector."""
        before = self._latest.get(host_row, 0)
        if epoch <= before:
            return False
        self._latest[host_row] = epoch
        self._epochs = _longer(self._epochs, host_row + 1)  # the host may have sent no header yet
        self._epochs[host_row] = _BEGUN if before else epoch
        return before > 0

    def has_begun(self, host_row: int, epoch: int) -> bool:
        """Whether a host's collector has started anew with this epoch, and ``go_on`` was not called since.
        Until then none of its messages is clear. A message of an older epoch does not tell where the clock
        stands now."""
        has_begun = host_row < len(self._epochs) and self._epochs[host_row] == _BEGUN
        return bool(has_begun and epoch == self._latest[host_row])

    def go_on(self, host_row: int) -> None:
        """Recognise messages of the latest epoch again."""
        self._epochs[host_row] = self._latest[host_row]

    def _known(self) -> h.Known:
        return h.Known(self._text, self._places, self._slots, self._epochs)


def _longer(array: NDArray[Any], length: int) -> NDArray[Any]:
    if len(array) >= length:
        return array
    longer = np.zeros((2 * length, *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer


def _widths(names: Sequence[str], known: Mapping[str, str]) -> list[int]:
    """How many of the columns have 8 bytes, and how many have 4."""
    wide = sum(known[name] == "q" for name in names)
    return [wide, len(names) - wide]


def _places(names: Sequence[str], known: Mapping[str, str], wanted: Sequence[str]) -> list[int]:
    """For each column wanted, the wide and narrow columns before it (``kernels.messages``); -1 = absent."""
    wide = [name for name in names if known[name] == "q"]
    narrow = [name for name in names if known[name] != "q"]
    return [
        -1
        if name not in names
        else wide.index(name)
        if name in wide
        else (narrow.index(name) << k.NARROW_SHIFT) | len(wide)
        for name in wanted
    ]
