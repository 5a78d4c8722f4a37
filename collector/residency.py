"""Turns readings of NVML and /proc into records of which process held which device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from wattribute.collector.nvml import SlowReading
from wattribute.records import Exit, Process, Record, Workload

REPEAT_NS: Final = 60_000_000_000
"""Identities of live processes are repeated this often, so no reader needs to look back further."""
# Reading a process's identity takes 170 µs, or 750 with cold caches: 0.24 % of a core with 32 processes every
# 10 s. One that has not changed is read again after 10 s, then at longer and longer intervals.
_REREAD_NS: Final = 10_000_000_000


class Processes(Protocol):
    """The identities of this host's processes. Called from one thread."""

    @property
    def boot_id(self) -> str:
        """The boot that PIDs and start times belong to."""

    def start_ns(self, pid: int) -> int | None:
        """When the process started; None if no process has that pid."""

    def workload(self, pid: int, start_ns: int, t: int) -> Workload | None:
        """To whom it belongs, as known at ``t``; None if it has ended, or if the answer is not ready yet."""

    def exits(self, now_ns: int) -> Sequence[Exit | Workload]:
        """The processes asked for above that ended since the last call. Before its exit comes a process's
        workload, where it was not returned yet."""


@dataclass(slots=True)
class _Live:
    """A process that was seen on a device."""

    seen_ns: int
    read_ns: int | None = None
    wait_ns: int = _REREAD_NS
    workload: Workload | None = None
    held: dict[tuple[str, int], Process] = field(default_factory=dict)  # by device: its last record there


class Residency:
    """Gives each process its identity (pid and start time) and follows it until it ends.

    ``unidentified`` counts residents and samples for which no process of this host was found: it ended at
    once, or NVML and /proc are in different PID namespaces.
    """

    def __init__(self, processes: Processes, slow_ns: int) -> None:
        self.unidentified = 0
        self._processes = processes
        self._slow_ns = slow_ns
        self._live: dict[tuple[int, int], _Live] = {}
        # By gpu: the start time of each pid at the last two readings, for samples that come after its end.
        self._past: dict[str, deque[dict[int, int]]] = {}
        self._read_ns: dict[str, int] = {}
        self._shift_ns = 0  # the readings' clock minus the clock of start times, which is never set

    def records(self, gpu: str, reading: SlowReading) -> list[Record]:
        """The records that a slow reading gives of the processes on ``gpu``.

        A resident gives a record without ``sm_percent`` that covers the time since the previous reading: it
        says that the process held the device. SM time comes in records of their own, over the period that the
        driver gives: samples lag by seconds, so the use up to now is not known yet, and time without a record
        of use counts as no use.
        """
        if reading.residents is None:
            return []
        past = self._past.setdefault(gpu, deque(maxlen=2))
        before = {pid: start_ns for starts in past for pid, start_ns in starts.items()}
        since_ns = reading.t - self._read_ns.get(gpu, reading.t - self._slow_ns)
        now: dict[int, int] = {}
        workloads: list[Record] = []
        held: list[Record] = []
        for resident in reading.residents:
            start_ns = self._processes.start_ns(resident.pid)
            if start_ns is None:
                self.unidentified += resident.pid not in before
                continue
            now[resident.pid] = start_ns
            workloads.extend(self._workload(resident.pid, start_ns, reading.t))
            # Nobody saw when a new resident began to hold the device: take one regular period at most, and no
            # time before the process began.
            period_ns = since_ns if before.get(resident.pid) == start_ns else min(since_ns, self._slow_ns)
            last = Process(
                t=reading.t,
                period_ns=self._since_start_ns(period_ns, reading.t, start_ns),
                gpu=gpu,
                pid=resident.pid,
                start_ns=start_ns,
                gpu_instance=resident.gpu_instance,
                memory_used_bytes=resident.memory_used_bytes,
            )
            held.append(last)
            self._live[resident.pid, start_ns].held[gpu, resident.gpu_instance] = last
        past.append(now)
        self._read_ns[gpu] = reading.t
        return [*workloads, *self._used(gpu, reading, now, before), *held]

    def exits(self, now_ns: int) -> Sequence[Record]:
        """The processes that ended since the last call, and the records of them that were still due."""
        ended = self._processes.exits(now_ns)
        records: list[Record] = []
        for end in ended:
            if isinstance(end, Exit) and (live := self._live.pop((end.pid, end.start_ns), None)) is not None:
                records.extend(self._until(live, end))
            records.append(end)
        return records

    def _until(self, live: _Live, end: Exit) -> Iterator[Process]:
        """Records that a process held its devices until its end, for one that was seen there only once. Its
        record covers only the short time since its start, and after a silence of more than three times that a
        reader takes it to have left."""
        for last in live.held.values():
            silence_ns = end.t - last.t
            if last.period_ns is not None and 3 * last.period_ns < silence_ns <= 3 * self._slow_ns:
                yield replace(last, t=end.t, period_ns=silence_ns)

    def repeat(self, now_ns: int) -> list[Record]:
        """The workload records of all processes that are still on a device."""
        self._live = {key: live for key, live in self._live.items() if now_ns - live.seen_ns < REPEAT_NS}
        return [replace(live.workload, t=now_ns) for live in self._live.values() if live.workload is not None]

    def shift(self, step_ns: int) -> None:
        """Move all remembered times to the new clock, after the clock was set by ``step_ns``."""
        self._shift_ns += step_ns
        self._read_ns = {gpu: t + step_ns for gpu, t in self._read_ns.items()}
        for live in self._live.values():
            live.seen_ns += step_ns
            # No record covers the time since the step yet.
            live.held = {at: replace(it, t=it.t + step_ns, period_ns=1) for at, it in live.held.items()}
            live.read_ns = None if live.read_ns is None else live.read_ns + step_ns

    def _used(
        self, gpu: str, reading: SlowReading, now: dict[int, int], before: dict[int, int]
    ) -> list[Record]:
        used: list[Record] = []
        for sample in reading.samples:
            start_ns, old_ns = now.get(sample.pid), before.get(sample.pid)
            if start_ns is None or (old_ns is not None and sample.t <= start_ns + self._shift_ns):
                start_ns = old_ns  # the process has ended, or its pid has a new owner by now
            if start_ns is None:
                self.unidentified += 1
                continue
            used.append(
                Process(
                    t=sample.t,
                    period_ns=self._since_start_ns(sample.period_ns, sample.t, start_ns),
                    gpu=gpu,
                    pid=sample.pid,
                    start_ns=start_ns,
                    sm_percent=sample.sm_percent,
                    memory_percent=sample.memory_percent,
                )
            )
        return used

    def _since_start_ns(self, period_ns: int, t: int, start_ns: int) -> int:
        """``period_ns`` up to ``t``, cut to the start of the process (known to 10 ms at best)."""
        return max(1, min(period_ns, t - start_ns - self._shift_ns))

    def _workload(self, pid: int, start_ns: int, t: int) -> list[Record]:
        """The process's workload record, where it is new or has changed."""
        live = self._live.setdefault((pid, start_ns), _Live(t))
        live.seen_ns = t
        if live.read_ns is not None and t - live.read_ns < live.wait_ns:
            return []
        workload = self._processes.workload(pid, start_ns, t)
        if workload is None:
            return []
        live.read_ns = t
        if live.workload is not None and replace(live.workload, t=workload.t) == workload:
            live.wait_ns = min(2 * live.wait_ns, REPEAT_NS)
            return []
        live.workload, live.wait_ns = workload, _REREAD_NS
        return [workload]
