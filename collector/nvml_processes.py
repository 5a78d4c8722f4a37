"""Which processes are on a device, and what each used: NVML's process lists and utilisation samples, checked.

A list or a sample that cannot be true is dropped and counted; the rest can be attributed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from wattribute.collector.nvml_calls import DeviceCalls
from wattribute.records import NO_INSTANCE, is_plausible

_NVML_NO_INSTANCE: Final = 0xFFFFFFFF
_INSTANCE_MAX: Final = 64
_PID_MAX: Final = 1 << 22  # Linux PID_MAX_LIMIT
_UNIX_SLACK_NS: Final = 300_000_000_000
_AHEAD_MAX_NS: Final = 1_000_000_000
_BUFFER_NS: Final = 100_000_000_000  # the driver keeps about 100 samples, of 1/6 s to 1 s each
# nvml.h: a utilisation sample covers between 1/6 s and 1 s, by product
_SAMPLE_MAX_NS: Final = 1_000_000_000
_LATE_MAX_NS: Final = 10_000_000_000  # seen: entries that were 8 s old (NVIDIA/go-nvml issue 51)


@dataclass(frozen=True, slots=True)
class Resident:
    """A process that holds a context on the device, or on one of its MIG instances."""

    pid: int
    gpu_instance: int
    memory_used_bytes: int | None


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process used of the device over (t - period_ns, t]."""

    pid: int
    t: int
    period_ns: int
    sm_percent: float
    memory_percent: float | None


def running(call: DeviceCalls, memory_bytes: int | None) -> list[Resident] | None:
    """The processes on a device of ``memory_bytes``, each once per MIG instance. None where no list answers,
    or where one fails that has answered before.

    The compute list alone is not enough: MPS and graphics clients have lists of their own, and a process may
    be in two lists with the same memory. With MIG on, the device's lists need privilege.
    """
    found: dict[tuple[int, int], Resident] = {}
    answered = False
    for kind in ("Compute", "Graphics", "MPSCompute"):
        name = f"nvmlDeviceGet{kind}RunningProcesses"
        entries = call(name, empty=[])
        if entries is None:
            if call.present(name):  # a passing failure: the processes in that list are unknown, not gone
                return None
            continue
        answered = True
        if not all(_plausible(entry, memory_bytes) for entry in entries):
            # Some 535 drivers fill the list with a longer struct than the binding reads: from the second
            # entry on, PIDs are scrambled (nvitop 75 and 88). The older call still uses the older struct.
            call.implausible(name)
            name = f"{name}_v2"
            entries = call(name, empty=[])
            if entries is None and call.present(name):
                return None
        for entry in entries or ():
            if not _plausible(entry, memory_bytes):
                call.implausible(name)
                continue
            instance = NO_INSTANCE if entry.gpuInstanceId == _NVML_NO_INSTANCE else entry.gpuInstanceId
            key = (entry.pid, instance)
            memory = entry.usedGpuMemory
            if key in found and found[key].memory_used_bytes is not None:
                memory = max(memory or 0, found[key].memory_used_bytes or 0)
            found[key] = Resident(entry.pid, instance, memory)
    return list(found.values()) if answered else None


def _plausible(entry: Any, memory_bytes: int | None) -> bool:
    memory = entry.usedGpuMemory
    if memory is not None and not is_plausible("memory_used_bytes", memory):
        return False
    if memory is not None and memory_bytes is not None and memory > memory_bytes:
        return False
    instance = int(entry.gpuInstanceId)
    return 0 < int(entry.pid) <= _PID_MAX and (instance == _NVML_NO_INSTANCE or instance < _INSTANCE_MAX)


def after_the_clock_was_set(before: ProcessSamples, t: int) -> ProcessSamples:
    """Start the samples again at ``t``, after the wall clock was set since the last reading.

    If the clock was set back, the buffer holds samples of times that will come again: nothing is read until
    the clock has passed them. If they will have left the buffer by then, they are only skipped."""
    comes_again = t < before.read_ns <= t + _BUFFER_NS
    return ProcessSamples(quiet_until_ns=before.read_ns if comes_again else 0)


class ProcessSamples:
    """Per-process utilisation of one device, each period of time once.

    The request asks NVML for samples newer than the last seen timestamp, in NVML's own µs. The answer has one
    entry per process, averaged over that period. Common readers pass 0, seconds or "now - 1 s" instead: that
    gives an average over the whole buffer, or loses samples.

    A sample that is ahead of the host's clock at the first reading may be from before the clock was set back.
    It is skipped: asking only for samples newer than it gave no SM time any more. If newer samples are ahead
    at a later reading, the driver's clock is ahead, and they count.
    """

    def __init__(self, quiet_until_ns: int = 0) -> None:
        self.read_ns = 0
        """When the samples were last read."""
        self._quiet_until_ns = quiet_until_ns
        self._stale_us = 0  # the newest sample that was ahead at the first reading
        # Both calls are tried: on RTX PRO Blackwell the first answers 0 % under load (HAMi-core PR 218), and
        # the second exists only since driver 550.
        self._calls = ["nvmlDeviceGetProcessUtilization", "nvmlDeviceGetProcessesUtilizationInfo"]
        self._from_us = 0  # the request asks for samples newer than this; 0 asks for the whole buffer
        self._heard_us = 0  # the newest sample so far
        self._heard_ns = 0  # when it was read; 0 before the first reading
        self._late_ns = _SAMPLE_MAX_NS  # the greatest age at which a sample became readable
        # Who was running at the last two readings: a last sample comes up to 1 s after its process has gone.
        self._past: deque[set[int]] = deque(maxlen=2)

    def read(self, call: DeviceCalls, t: int, pids: set[int]) -> list[Sample]:
        """The samples that came since the last call, read at ``t`` while ``pids`` are running. The first call
        gives none: it only learns where the driver's buffer ends."""
        self.read_ns = t
        if t < self._quiet_until_ns:
            return []
        known = set().union(*self._past)
        newest = self._newest(call, pids | known, t)
        if newest is None:
            return []
        found: list[Sample] = []
        if newest and self._heard_ns:
            for pid, entry in newest.items():
                memory = float(entry.memUtil) if entry.memUtil <= 100 else None
                found.append(self._sample(pid, entry.timeStamp, t, float(entry.smUtil), memory))
            # NVML leaves out processes at 0 %. They get a 0 up to the newest sample: no later answer brings
            # an earlier sample. Not beyond it: samples lag by 0.1 to 9 s, and a 0 up to now would take the
            # place of samples that are still to come.
            end_us = max(entry.timeStamp for entry in newest.values())
            idle = sorted((pids & known) - newest.keys())
            found.extend(self._sample(pid, end_us, t, 0.0, None) for pid in idle)
        self._advance(newest, t)
        self._past.append(pids)
        return found

    def _sample(self, pid: int, timestamp_us: int, t: int, sm: float, memory: float | None) -> Sample:
        """A sample covers what was asked for: the time since the last seen timestamp. At the first reading
        the buffer may hold much older samples, so the time since that reading bounds the period too."""
        longest_ns = t - self._heard_ns + self._late_ns
        period_ns = min((timestamp_us - self._from_us) * 1000, longest_ns)
        return Sample(pid, _unix_ns(timestamp_us, t), period_ns, sm, memory)

    def _advance(self, newest: dict[int, Any], t: int) -> None:
        """Continue from the newest sample. While no samples come, it grows old, and the next answer would be
        an average over the idle time: so advance with the host's clock, behind it by the greatest delay."""
        if newest:
            self._heard_us = self._from_us = max(entry.timeStamp for entry in newest.values())
            if self._heard_ns:  # samples of the first reading may be of any age
                self._late_ns = min(max(self._late_ns, t - _unix_ns(self._heard_us, t)), _LATE_MAX_NS)
            self._heard_ns = t
        elif self._heard_us:
            quiet_us = (t - self._heard_ns - self._late_ns) // 1000
            self._from_us = max(self._from_us, self._heard_us + quiet_us)
        else:
            self._heard_ns = t

    def _newest(self, call: DeviceCalls, pids: set[int], t: int) -> dict[int, Any] | None:
        """The newest credible entry of each process; None where no call is supported (MIG, vGPU)."""
        best: dict[int, Any] | None = None
        for name in tuple(self._calls):
            entries = call(name, self._from_us, empty=[])
            if entries is None:
                continue
            newest = self._credible(call, name, entries, pids, t)
            best = best or newest
            if any(entry.smUtil for entry in newest.values()):
                self._calls.sort(key=lambda other: other != name)  # next time, try this call first
                return newest
        return best

    def _credible(
        self, call: DeviceCalls, name: str, entries: Iterable[Any], pids: set[int], t: int
    ) -> dict[int, Any]:
        """Filter entries as nvtop does. The buffer holds zombies, shares of 2147483632 % (NVML's blank
        value), duplicates and, for a while, entries from before the wall clock was set far back."""
        newest: dict[int, Any] = {}
        is_first = not self._heard_ns
        for entry in entries:
            if entry.timeStamp * 1000 > t + _AHEAD_MAX_NS and (is_first or entry.timeStamp <= self._stale_us):
                self._stale_us = max(self._stale_us, entry.timeStamp)
                continue
            if entry.pid not in pids or entry.smUtil > 100 or entry.timeStamp <= self._from_us:
                call.implausible(name)
            elif entry.pid not in newest or entry.timeStamp > newest[entry.pid].timeStamp:
                newest[entry.pid] = entry
        return newest


def _unix_ns(timestamp_us: int, t: int) -> int:
    """The driver's timestamp on the host's clock. It was Unix time where it was seen, but nothing guarantees
    that: a timestamp that is minutes off, or over a second ahead, is replaced by the time of reading. One
    that is less ahead is kept, because the stream learns how late samples are dated, and cutting single ones
    to the time of reading would leave holes between them."""
    ns = timestamp_us * 1000
    return ns if -_UNIX_SLACK_NS < ns - t <= _AHEAD_MAX_NS else t
