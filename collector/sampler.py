"""The sampler reads all GPUs of the host on schedule and hands the records on.

It has two lanes. The fast lane is the calling thread: at each tick it reads power and energy of every device.
One thread serves all, because 8 threads for 8 GPUs would run 8 timer loops, and an empty loop takes 0.08 % of
a core at 10 Hz, where the whole budget is 1 %. The slow lane is a second thread, which reads memory, clock
and processes once a second. A process list takes 4.5 ms, or seconds on a failing device, and no tick waits
for it. The slow lane reads the devices in a row: the first reading after a pause finds cold caches and takes
240 µs, the next one 80. A device that is still being read when its next reading is due would delay the
others: it keeps that thread for itself from then on, and the others get a new one.

A device that fails or answers slowly leaves the fast lane at once, so it delays the others only once; the
slow lane retries it until it answers in time. A call that never returns would stop the fast lane: the kernel
then blocks the thread, and nothing in this process can free it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from wattribute.collector.clock import STEP_NS, Clock
from wattribute.collector.health import Health
from wattribute.collector.nvml import GpuReader, Nvml, SlowReading
from wattribute.collector.nvml_calls import GpuError
from wattribute.collector.residency import REPEAT_NS, Processes, Residency
from wattribute.collector.workers import ThreadWorker, Worker
from wattribute.errors import UsageError
from wattribute.records import Device, Gap, Host, Instance, Record

_S: Final = 1_000_000_000
# A CUDA context that starts holds the driver's lock for some 100 ms, which slows all devices: no fault.
_SLOW_ANSWER_NS: Final = 250_000_000
_RETRY_NS: Final = _S  # wait before the first try to bring a device back; it doubles each time
_RETRY_MAX_NS: Final = 60 * _S


@dataclass(slots=True)
class _Lane:
    """The state of one device between its fast and slow readings."""

    gpu: GpuReader
    worker: Worker
    due_ns: int  # when the slow lane's next task is due: a reading, or while the device is out a retry
    read_ns: int
    busy: bool = False  # a task is queued or running
    begun: bool = False  # that task is running
    out: str = ""  # why the device is out; empty while it is being read
    wait_ns: int = _RETRY_NS
    fresh: bool = False
    slow: SlowReading | None = None  # to be merged into the next device record
    instances: tuple[Instance, ...] = ()
    tells_activity: bool = False


@dataclass(frozen=True, slots=True)
class _Back:
    """A device answered again, after ``took_ns``."""

    device: Device
    took_ns: int


class Sampler:
    """Samples until its stop event is set. ``emit`` gets the records of each flush, in the calling thread.

    ``fast_hz`` is 1 to 100. ``outcomes`` is called at each flush for further records. Times are comparable
    from ``epoch`` (Unix ns) on; it changes between two calls of ``emit`` when the wall clock was set.
    """

    def __init__(
        self,
        nvml: Nvml,
        processes: Processes,
        clock: Clock,
        host: Host,
        emit: Callable[[Sequence[Record]], None],
        *,
        fast_hz: float = 10.0,
        slow_s: float = 1.0,
        flush_s: float = 1.0,
        outcomes: Callable[[int], Sequence[Record]] | None = None,
        start_worker: Callable[[], Worker] = ThreadWorker,
    ) -> None:
        if not 1 <= fast_hz <= 100:
            raise UsageError(f"the sampling rate is {fast_hz:g} Hz: choose 1 to 100")
        if slow_s <= 0 or flush_s <= 0:
            raise UsageError("the periods of slow readings and of flushes must be longer than 0 s")
        self.health = Health()
        self._nvml, self._clock, self._host, self._emit, self._outcomes = nvml, clock, host, emit, outcomes
        self._tick_ns, self._slow_ns, self._flush_ns = (
            round(_S / fast_hz),
            round(slow_s * _S),
            round(flush_s * _S),
        )
        self._start_worker = start_worker
        self._residency = Residency(processes, self._slow_ns)
        self._answers: queue.SimpleQueue[tuple[_Lane, int, SlowReading | _Back | Exception]]
        self._answers = queue.SimpleQueue()
        self._buffer: list[Record] = []
        self._stepped_ns = 0
        self.epoch = self._now()

    def run(self, stop: threading.Event, duration_s: float | None = None) -> Health:
        """Sample until ``stop`` is set or ``duration_s`` has passed, then flush a last time."""
        begin = self._now()
        self.epoch = begin
        end = self._clock.now_ns() + round(duration_s * _S) if duration_s is not None else None
        self._workers = [self._start_worker()]
        self._lanes = [_Lane(gpu, self._workers[0], begin, begin) for gpu in self._nvml.gpus]
        self._deadline, self._flush_due, self._repeat_due = begin, begin + self._flush_ns, begin
        try:
            while not stop.is_set() and (end is None or self._deadline - self._stepped_ns < end):
                self._clock.sleep_until_ns(self._deadline - self._stepped_ns)
                self._tick()
        finally:
            for worker in self._workers:
                worker.submit(None)
        self._take_answers()
        for lane in self._lanes:
            self._read_last(lane)
        now = self._now()
        for lane in self._lanes:
            if lane.out:
                self._buffer.append(self._gap(lane, now))
        self._flush(now)
        return self.health

    def _now(self) -> int:
        return self._clock.now_ns() + self._stepped_ns

    def _tick(self) -> None:
        self._look_at_wall_clock()
        now = self._now()
        self.health.late_ns.append(max(0, now - self._deadline))
        if now >= self._repeat_due:
            self._repeat(now)
        self._take_answers()
        before = self._now()
        for lane in self._lanes:
            if not lane.out:
                before = self._read(lane, before)
        if now >= self._flush_due:
            self._take_answers()
            self._flush(now)
            self._flush_due += ((now - self._flush_due) // self._flush_ns + 1) * self._flush_ns
            now = self._now()
        for lane in self._lanes:  # last, so that the slow lane does not wake while this thread works
            if now >= lane.due_ns:
                self._dispatch(lane, now)
        # Deadlines are absolute, so lateness does not add up; missed ticks are skipped and counted.
        missed = max(0, self._now() - self._deadline) // self._tick_ns
        self.health.missed_ticks += missed
        self._deadline += (missed + 1) * self._tick_ns

    def _read(self, lane: _Lane, before: int) -> int:
        """Take a fast reading that begins at ``before``; return the time after it."""
        try:
            self._keep(lane, lane.gpu.read_fast(self._now))
        except GpuError as error:
            self._bench(lane, str(error))
            return self._now()
        after = self._now()
        if after - before > _SLOW_ANSWER_NS:
            self._bench(lane, f"GPU {lane.gpu.uuid} answered after {(after - before) // 1_000_000} ms")
        return after

    def _keep(self, lane: _Lane, device: Device) -> None:
        if lane.slow is not None:
            device = replace(
                device,
                memory_used_bytes=lane.slow.memory_used_bytes,
                temperature_c=lane.slow.temperature_c,
                sm_clock_mhz=lane.slow.sm_clock_mhz,
            )
            lane.slow = None
        lane.read_ns = device.t
        self._buffer.append(device)
        self.health.readings += 1

    def _bench(self, lane: _Lane, why: str) -> None:
        if not lane.out:
            lane.out, lane.wait_ns = why, _RETRY_NS
            self.health.outages += 1
        else:
            lane.wait_ns = min(2 * lane.wait_ns, _RETRY_MAX_NS)
        lane.due_ns = self._now() + lane.wait_ns
        lane.slow = None

    def _dispatch(self, lane: _Lane, now: int) -> None:
        lane.due_ns += ((now - lane.due_ns) // self._slow_ns + 1) * self._slow_ns
        if lane.busy:
            self.health.lists_left_out += 1
            if lane.begun and lane.worker is self._workers[0]:
                lane.worker.leave()
                lane.worker = self._start_worker()
                self._workers.append(lane.worker)
            return
        lane.busy, lane.begun = True, False
        fresh, lane.fresh = lane.fresh, False
        epoch = self.epoch

        def read() -> SlowReading:
            return lane.gpu.read_slow(self._now, fresh)

        def bring_back() -> _Back:
            self._nvml.reopen(lane.gpu)
            before = self._now()
            return _Back(lane.gpu.read_fast(self._now), self._now() - before)

        task: Callable[[], SlowReading | _Back] = bring_back if lane.out else read

        def answer() -> None:
            lane.begun = True
            try:
                self._answers.put((lane, epoch, task()))
            except Exception as error:  # raised again in the sampler's own thread
                self._answers.put((lane, epoch, error))

        lane.worker.submit(answer)

    def _read_last(self, lane: _Lane) -> None:
        """Read what the processes used since the last slow reading, before the end or a step of the clock.
        Otherwise all SM time of the last second or two (a sixth of a run of 10 s) would be missing."""
        if lane.out or lane.busy:
            return
        try:
            self._take_slow(lane, lane.gpu.read_slow(self._now, lane.fresh))
        except GpuError as error:
            self._bench(lane, str(error))

    def _take_answers(self) -> None:
        while not self._answers.empty():
            lane, epoch, answer = self._answers.get()
            lane.busy = False
            if isinstance(answer, GpuError):
                self._bench(lane, str(answer))
            elif isinstance(answer, Exception):
                raise answer
            elif epoch != self.epoch:
                self.health.lists_left_out += 1  # its times are from before the clock was set
            elif isinstance(answer, SlowReading):
                self._take_slow(lane, answer)
            elif answer.took_ns > _SLOW_ANSWER_NS:
                self._bench(lane, lane.out)
            else:
                self._buffer.append(self._gap(lane, answer.device.t))
                self._buffer.append(replace(lane.gpu.identity, t=answer.device.t))
                lane.out, lane.due_ns = "", answer.device.t
                self._keep(lane, answer.device)

    def _take_slow(self, lane: _Lane, reading: SlowReading) -> None:
        lane.slow = reading
        left = {instance.gpu_instance for instance in reading.instances}
        gone = [i for i in lane.instances if i.gpu_instance not in left]
        self._buffer.extend(replace(i, t=reading.t, profile="", slices=0) for i in gone)
        known = [replace(instance, t=0, sm_percent=None) for instance in reading.instances]
        # an instance's activity covers the time since its previous record
        lane.tells_activity = any(i.sm_percent is not None for i in reading.instances)
        if known != list(lane.instances) or lane.tells_activity:
            self._buffer.extend(reading.instances)
        lane.instances = tuple(known)
        self._buffer.extend(self._residency.records(lane.gpu.uuid, reading))

    def _gap(self, lane: _Lane, to_ns: int) -> Gap:
        return Gap(t=to_ns, from_ns=min(lane.read_ns, to_ns), to_ns=to_ns, reason=lane.out, gpu=lane.gpu.uuid)

    def _repeat(self, now: int) -> None:
        """Repeat all identities, at the start of each epoch and every 60 s, for readers that start later."""
        self._buffer.append(replace(self._host, t=now))
        for lane in self._lanes:
            self._buffer.append(replace(lane.gpu.identity, t=now))
            # With activity, instance records come each second; one in between would cut the time it covers.
            if not lane.tells_activity:
                self._buffer.extend(replace(instance, t=now) for instance in lane.instances)
        self._buffer.extend(self._residency.repeat(now))
        self._repeat_due = now + REPEAT_NS

    def _flush(self, now: int) -> None:
        self._buffer.extend(self._residency.exits(now))
        if self._outcomes is not None:
            self._buffer.extend(self._outcomes(now))
        self.health.records += len(self._buffer)
        self.health.unidentified = self._residency.unidentified
        records, self._buffer = self._buffer, []
        if records:
            self._emit(records)

    def _look_at_wall_clock(self) -> None:
        """Check for a step of the wall clock. This runs before each tick, not only at flushes: otherwise the
        energy used while the host was suspended would be dated before the step and charged to a process."""
        step_ns = self._clock.wall_step_ns() - self._stepped_ns
        if abs(step_ns) <= STEP_NS:
            return
        self._take_answers()  # so that no answer from before the step is left
        for lane in self._lanes:
            self._read_last(lane)
        self._flush(self._now())
        self._follow_wall_clock(step_ns)

    def _follow_wall_clock(self, step_ns: int) -> None:
        """Begin a new epoch after the wall clock was set: move all planned and remembered times along."""
        old = self._now()
        self._stepped_ns += step_ns
        now = old + step_ns
        self.epoch = now
        self._deadline += step_ns
        self._flush_due += step_ns
        self._residency.shift(step_ns)
        for lane in self._lanes:
            lane.due_ns += step_ns
            lane.read_ns += step_ns
            lane.fresh = True  # the driver's timestamps follow the wall clock
        reason = f"the wall clock was set by {step_ns / _S:+.3f} s"
        self._buffer.append(Gap(t=now, from_ns=min(old, now), to_ns=max(old, now), reason=reason))
        self._repeat(now)
