"""Turn a partition's messages into its attribution rows: decode, take in, attribute.

Everything here is a function of the messages alone, in their order. How they are cut into batches and when
rows are asked for only changes how often a window is written before it is final.

The states of a window, in order:

    marked       a message affects it; the mark carries the message's offset
    due          marked, and asked for: it is attributed now
    provisional  over by its host's clock, but messages that affect it may still be on their way
    final        10 s past its end, or its collector has ended
    restated     marked and written again although it was final: something came after that
    forgotten    an hour back: what still comes for it is counted, and changes nothing
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wattribute.kernels import messages as k
from wattribute.kernels.attribute import attribute
from wattribute.kernels.ingest import ingest
from wattribute.kernels.marks import take_due
from wattribute.kernels.result import ROW_COLUMNS
from wattribute.kernels.series import FOREVER, HORIZON_NS, LATENESS_NS, Drops, Due, Marks
from wattribute.sinks.contract import Column
from wattribute.stream.decode import Decoder, Pending
from wattribute.stream.fleet import FleetWatts
from wattribute.stream.identity import Identities
from wattribute.stream.learning import Learning
from wattribute.stream.look_back import LookBack
from wattribute.stream.rows import Rows
from wattribute.stream.series import Series, new_marks
from wattribute.stream.state import State
from wattribute.stream.tables import Tables

ALGORITHM: Final = 11
"""Goes up when the same messages give other rows."""
_MARKS: Final = 1 << 16
_ROWS: Final = 1 << 15
_NO_FAULT: Final = (k.DUPLICATE, k.REPEATED)
_DROPS_LISTED: Final = 4096
_MARK_SERIES: Final = slice(Marks._fields.index("device"), None)


def version_base(generation: int) -> int:
    """The upper bits of a row's version; the lower 48 are the offset of the last message that affects the
    row."""
    return (ALGORITHM << 56) | (generation << 48)


class Engine:
    """The state of one partition.

    ``processes_known``: false where the input says nothing about processes; then what nobody holds is
    residual. ``origin`` names the partition in dead letters; ``window_ns`` is the length of windows;
    ``generation`` goes up when the topic is made anew; ``idle_watts`` are idle levels by GPU model.
    """

    def __init__(
        self, origin: str, window_ns: int = 1_000_000_000, generation: int = 0,
        idle_watts: Mapping[str, float] | None = None, processes_known: bool = True,
        fleet: FleetWatts | None = None,
    ) -> None:  # fmt: skip
        self.window_ns = window_ns
        self.processes_known = processes_known
        self.base = version_base(generation)
        self.series = Series()
        self.identities = Identities()
        self.tables = Tables(origin, self.base)
        self.decoder = Decoder(
            self.series, self.identities, self.tables, self._settle, self._begin_anew, fleet or FleetWatts()
        )
        self._rows = Rows(self.series, self.identities, idle_watts or {}, window_ns, self.base)
        self.sample_count = 0
        self.duplicate_count = 0
        self._marks = new_marks(_MARKS, len(self.series.devices.host))
        self._learning = Learning()
        self._out = np.empty((ROW_COLUMNS, _ROWS), np.int64)
        self._final = np.zeros(0, np.int64)  # of each device the last window written as final
        self.next_offset = 0
        self._written: list[dict[str, Column]] = []
        self._quiet = False
        self._look_back = LookBack()
        self._state = State(origin, self.series, self._look_back)

    def take(self, offsets: Sequence[int], values: Sequence[bytes], quiet: bool = False) -> None:
        """Take messages in. ``quiet``: only to rebuild the state, before any others; an earlier run has
        written their rows."""
        if not offsets:
            return
        if self._look_back.note(offsets[0], self.series.clocks_ns):
            self._look_back.let_go(self.settled_offset)
            # Before the next commit, more may be taken than a look-back covers.
            self._state.note_silences(self.next_offset)
        self.next_offset = offsets[-1] + 1
        self._quiet = quiet
        self._take_in(self.decoder.decode(offsets, values))
        if quiet:
            self._forget_marks()
            self.tables.take()

    def _take_in(self, pending: Pending) -> None:
        if not self._quiet:
            self._state.give_back(self.tables)
        self._ingest(pending)

    def _settle(self, pending: Pending) -> None:
        """Take messages in before a new identity is noted, and attribute windows too far back for it to
        change: smaller batches would have written those already."""
        self._take_in(pending)
        pending.clear()
        n = int(self._marks.made[0])
        of_host = self.series.devices.host[self._marks.device[:n]]
        oldest_ns = self.series.hosts.now_ns[of_host] - HORIZON_NS
        if not self._quiet and (self._marks.first[:n] < oldest_ns // self.window_ns).any():
            self._attribute(provisional=False)

    def _begin_anew(self, host_row: int) -> None:
        """Attribute all windows, and then forget the readings of a host whose clock was set back."""
        if not self._quiet:
            self._attribute()
        devices = self.series.begin_anew(host_row)
        self._learning.forget(devices)
        self._final[[row for row in devices if row < len(self._final)]] = -1
        self._state.forget(devices)

    def state(self) -> list[tuple[str, bytes]]:
        """Return what a look-back cannot rebuild, by device, as (key, message), where it changed since the
        last call."""
        if self._quiet:
            return []
        self.series.forget_offsets(self.look_back_offset)
        return self._state.changed(self.next_offset, self.settled_offset)

    def restore(self, saved: Iterable[bytes], next_offset: int) -> None:
        """Take back what ``state`` returned, before the first message is taken. It may be newer than
        ``next_offset``, the first that will not be taken quietly."""
        self._state.take_back(saved, next_offset)

    @property
    def look_back_offset(self) -> int:
        """The offset from which a restart must read to rebuild the present state."""
        return self._look_back.offset

    def rows(
        self, ended: bool = False, restate: bool = True, provisional: bool = True
    ) -> list[dict[str, Column]]:
        """Attribution rows of all windows that changed since the last call, as columns of the table.

        ``ended``: no more messages will come; the windows still open are final. Without ``restate``, windows
        that were already final wait for a later call; without ``provisional``, so do those that are not final
        yet."""
        self._attribute(ended, restate, provisional)
        devices, gone = self.series.forget()
        if devices:
            self._learning.forget(devices)
            self.decoder.forget_headers()
            self.identities.forget(gone)
        written, self._written = self._written, []
        return written

    def end(self, offset: int) -> None:
        """Mark all windows that are not final: the input ended at ``offset``."""
        batch = Pending()
        for row in range(len(self.series.device_keys)):
            host = int(self.series.devices.host[row])
            open_ns = int(self.series.hosts.now_ns[host]) - LATENESS_NS - self.window_ns
            batch.add_events(host, offset, [(k.TOUCH, row, open_ns, 0)])
        self._ingest(batch)

    def _ingest(self, pending: Pending) -> None:
        batch = self.decoder.batch(pending)
        is_samples = batch.messages[:, k.KIND] == k.SAMPLES_MESSAGE
        taken = int(batch.messages[is_samples, k.DEVICE_ROWS].sum())
        drops = Drops(
            np.zeros(len(k.REASONS), np.int64),
            np.zeros(1, np.int64),
            np.zeros(1, np.int64),
            np.empty((_DROPS_LISTED, 3), np.int64),
        )
        first, stuck, settled = 0, -1, -1
        while True:
            series = self.series
            if len(self._marks.latest) < len(series.devices.host):
                self._renew_marks()
            first = ingest(
                batch, first, settled, self.window_ns,
                series.hosts, series.devices, series.holders, self._marks, drops,
            )  # fmt: skip
            if first < 0:  # devices may forget their readings, so attribute them first
                first = settled = -1 - first
                if self._quiet:
                    self._forget_marks()
                else:
                    self._attribute()
                continue
            if first == len(batch.messages):
                break
            # No room: attribute what is marked. That frees marks, and then the past can be dropped.
            self._renew_marks(more=first == stuck)
            stuck = first
            message = batch.messages[first].tolist()
            rows = message[k.DEVICE_ROWS] + message[k.PROCESS_ROWS]
            if message[k.KIND] == k.EVENTS_MESSAGE:
                rows = message[k.EVENT_END] - message[k.EVENT_FIRST]
            series.make_room(rows)
        if not self._quiet:
            self.sample_count += taken - int(drops.total.sum() - drops.of_processes[0])
            self._report(drops, batch.messages)

    def _renew_marks(self, more: bool = False) -> None:
        """Attribute what is marked, and make room for marks; for more than before, if ``more``."""
        if self._quiet:
            self._forget_marks()
        else:
            self._attribute(provisional=False)
        devices, holders = len(self.series.devices.host), len(self.series.holders.silent)
        made = int(self._marks.made[0])
        size = max(len(self._marks.device) * (2 if more else 1), made + _MARKS + 5 * (devices + holders))
        waiting, self._marks = self._marks, new_marks(size, devices)
        self._marks.made[0] = made
        for old, new in zip(waiting[_MARK_SERIES], self._marks[_MARK_SERIES], strict=True):
            new[:made] = old[:made]

    def _attribute(self, ended: bool = False, restate: bool = True, provisional: bool = True) -> None:
        n_devices = len(self.series.device_keys)
        self._learning.changed(self._marks.changed[:n_devices])
        due = self._due(n_devices, restate, provisional)
        if not len(due.first):
            return
        series = self.series
        watts, of = self._learning.watts(
            series.hosts, series.devices, series.holders, due,
            *self._rows.idle_levels(), self.window_ns, ended,
        )  # fmt: skip
        first, window, rows = 0, 0, -1
        while first < n_devices:
            if rows == 0:  # not even one window fits
                self._out = np.empty((ROW_COLUMNS, 2 * self._out.shape[1]), np.int64)
            rows, first, window = attribute(
                series.hosts, series.devices, series.holders, due, watts, of,
                self.window_ns, first, window, self.processes_known, ended, self._out,
            )  # fmt: skip
            if rows:
                self._written.append(self._rows.columns(self._out[:, :rows]))

    def _due(self, n_devices: int, restate: bool, provisional: bool) -> Due:
        """Return the marks to act on. Windows that are to wait stay marked."""
        was_final = np.concatenate([self._final, np.full(n_devices - len(self._final), -1)])
        hosts, of_device = self.series.hosts, self.series.devices.host[:n_devices]
        now_ns = hosts.now_ns[of_device]
        over = hosts.ended_ns[of_device] == now_ns  # then all is final, even the window that its clock is in
        now_ns = np.where(over, now_ns + LATENESS_NS + self.window_ns, now_ns)
        self._final = np.maximum(was_final, (now_ns - LATENESS_NS) // self.window_ns - 1)
        least = np.full(n_devices, -FOREVER) if restate else was_final + 1
        most = np.full(n_devices, FOREVER) if provisional else self._final
        marks, made = self._marks, int(self._marks.made[0])
        # A mark leaves two only where windows before and after those due are to wait.
        left = made if restate or provisional else 2 * made
        self._marks = new_marks(max(len(marks.device), left), len(marks.latest))
        due = Due(np.zeros(n_devices + 1, np.int64), *(np.empty(made, np.int64) for _ in range(3)))
        count = take_due(marks, least, most, self._marks, due)
        return Due(due.bounds, due.first[:count], due.last[:count], due.offset[:count])

    @property
    def settled_offset(self) -> int:
        """The rows handed out contain all messages before this offset."""
        made = int(self._marks.made[0])
        return int(self._marks.offset[:made].min()) if made else self.next_offset

    def _forget_marks(self) -> None:
        self._marks.made[0] = 0
        self._marks.latest[:] = -1

    def _report(self, drops: Drops, messages: NDArray[np.int64]) -> None:
        """Write dead letters for the readings that the kernel could not use; duplicates are only counted."""
        if not drops.total.any():
            return
        where = drops.where[: drops.listed[0]]
        unlisted = drops.total.copy()
        hosts = list(self.series.host_rows)
        for message, reason in np.unique(where[:, :2], axis=0).tolist():
            times = where[(where[:, :2] == (message, reason)).all(axis=1), 2]
            count = len(times)
            unlisted[reason] -= count
            offset = int(messages[message, k.OFFSET])
            if reason in (k.TOO_LATE, k.REPEATED):
                host, what = hosts[int(messages[message, k.HOST])], f"{count} readings {k.REASONS[reason]}"
                self.tables.uncounted(offset, host, int(times.min()), int(times.max()), what)
            if reason not in _NO_FAULT:
                self.tables.dead(offset, f"{count} readings: {k.REASONS[reason]}", b"", count)
        for reason, count in enumerate(unlisted.tolist()):
            if count and reason not in _NO_FAULT:
                offset = int(messages[-1, k.OFFSET])
                self.tables.dead(offset, f"{count} more readings: {k.REASONS[reason]}", b"", count)
        self.duplicate_count += int(drops.total[k.DUPLICATE])
