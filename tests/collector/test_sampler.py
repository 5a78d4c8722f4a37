"""The sampler on a host where time passes only as the tests say."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from itertools import pairwise

import pytest

from tests.collector.stand_in import LOST, MS, START, Bench, Emitted, LateWorker, S, StandInProcesses, never
from tests.fake_nvml.library import FakeNvml
from wattribute.collector.clock import HostClock
from wattribute.collector.nvml import Nvml
from wattribute.collector.sampler import Sampler
from wattribute.collector.workers import InlineWorker, ThreadWorker, Worker
from wattribute.errors import UsageError
from wattribute.records import Device, Gap, Gpu, Host, Instance, Process, Record, Unit, Workload


def test_ticks_are_absolute_deadlines() -> None:
    bench = Bench()
    sampler = bench.sampler()
    bench.binding.fast_ns[0] = 30 * MS  # a tick's own work does not delay the next
    health = sampler.run(never(), duration_s=2)
    times = [(device.t - START) // MS for device in bench.devices(0)]
    assert times == [tick * 100 + 30 for tick in range(20)]
    assert (health.missed_ticks, health.readings) == (0, 20)


def test_missed_ticks_are_skipped_and_counted() -> None:
    bench = Bench()
    bench.clock.at(0.5, lambda: setattr(bench.clock, "t", bench.clock.t + 230 * MS))  # the host was busy
    health = bench.sampler().run(never(), duration_s=1)
    times = [(device.t - START) // MS for device in bench.devices(0)]
    assert times == [0, 100, 200, 300, 400, 730, 800, 900]
    assert health.missed_ticks == 2
    assert health.late_percentile_ns(50) == 0
    assert health.late_percentile_ns(99) == 230 * MS


@pytest.mark.parametrize("fast_hz", [0, 0.5, 101, float("nan")])
def test_a_rate_out_of_range_is_refused(fast_hz: float) -> None:
    with pytest.raises(UsageError, match="choose 1 to 100"):
        Bench().sampler(fast_hz=fast_hz)


def test_flushes_and_identities() -> None:
    bench = Bench(gpus=2)
    bench.binding.pids[0] = [100]
    health = bench.sampler(fast_hz=1).run(never(), duration_s=130)
    assert [type(record) for record in bench.emitted.flushes[0][:3]] == [Host, Gpu, Gpu]
    assert [(host.t - START) // S for host in bench.emitted.of(Host)] == [0, 60, 120]
    assert [(gpu.t - START) // S for gpu in bench.emitted.of(Gpu) if gpu.gpu == "GPU-1"] == [0, 60, 120]
    workloads = bench.emitted.of(Workload)
    assert [(workload.t - START) // S for workload in workloads] == [0, 60, 120]
    assert len(bench.emitted.flushes) == 130
    assert health.records == sum(map(len, bench.emitted.flushes))
    # the reader of a stream knows whose a process is before it sees what it held
    first = [type(record) for record in bench.emitted.flushes[0] if isinstance(record, Workload | Process)]
    assert first[:2] == [Workload, Process]


def test_slow_readings_join_the_next_device_record() -> None:
    bench = Bench()
    bench.sampler().run(never(), duration_s=2)
    with_memory = [
        (device.t - START) // MS for device in bench.devices(0) if device.memory_used_bytes is not None
    ]
    assert with_memory == [100, 1100]
    assert bench.devices(0)[1].temperature_c == 60
    assert bench.devices(0)[1].sm_clock_mhz is None  # this device has no such call


def test_mig_instances_are_told_while_they_are_there(fake: FakeNvml) -> None:
    """Each second where their activity is known, else when they change and each minute; and when one goes."""
    fake.set(0, mig=1, gpm=1)
    fake.instance(0, 1, 3, "NVIDIA H200 MIG 3g.71gb")
    fake.instance(0, 2, 4, "NVIDIA H200 MIG 4g.71gb")
    clock = Bench().clock

    def busy() -> None:
        now_ms = (clock.t - START) / MS
        fake.activity(0, 1, now_ms / 2, now_ms)
        fake.activity(0, 2, 0.0, now_ms)

    def one_left() -> None:
        fake.clear(0)
        fake.instance(0, 1, 3, "NVIDIA H200 MIG 3g.71gb")

    for second in range(1, 100):
        clock.at(second - 0.05, busy)
    clock.at(3.5, one_left)
    clock.at(5.5, lambda: fake.set(0, gpm=0))
    emitted = Emitted()
    sampler = Sampler(Nvml(), StandInProcesses(), clock, Host(t=0), emitted, start_worker=InlineWorker)
    sampler.run(never(), duration_s=70)
    told = [((i.t - START) // S, i.gpu_instance, i.slices, i.sm_percent) for i in emitted.of(Instance)]
    assert told == [
        (0, 1, 3, None), (0, 2, 4, None), (1, 1, 3, 50.0), (1, 2, 4, 0.0), (2, 1, 3, 50.0), (2, 2, 4, 0.0),
        (3, 1, 3, 50.0), (3, 2, 4, 0.0), (4, 2, 0, None), (4, 1, 3, 50.0), (5, 1, 3, 50.0), (60, 1, 3, None),
    ]  # fmt: skip


def test_outcomes_are_asked_at_each_flush() -> None:
    bench = Bench()

    def outcomes(now_ns: int) -> Sequence[Record]:
        return [Unit(t=now_ns, unit="requests", quantity=1)]

    bench.sampler(outcomes=outcomes).run(never(), duration_s=3)
    assert [(unit.t - START) // MS for unit in bench.emitted.of(Unit)] == [1000, 2000, 2900]


def test_stop_ends_with_a_last_flush() -> None:
    bench = Bench()
    stop = threading.Event()
    bench.clock.at(0.3, stop.set)
    bench.sampler().run(stop)
    assert len(bench.devices(0)) == 4
    assert len(bench.emitted.flushes) == 1


def test_a_lost_gpu_stops_no_other_and_comes_back() -> None:
    bench = Bench(gpus=3)
    bench.clock.at(1.05, lambda: bench.binding.code.update({1: LOST}))
    bench.clock.at(5.55, bench.binding.code.clear)
    health = bench.sampler().run(never(), duration_s=12)
    assert len(bench.devices(0)) == len(bench.devices(2)) == 120
    assert next(health.complaints()).startswith("a GPU stopped answering, 1 times")
    times = [device.t - START for device in bench.devices(1)]
    assert times[:11] == [tick * 100 * MS for tick in range(11)]
    # tried 1, 2 and 4 s after the previous failure; then it is back
    back = times[11]
    assert 8 * S < back < 9 * S
    assert times[12:] == [t for t in range(0, 12 * S, 100 * MS) if t > back]
    (gap,) = bench.emitted.of(Gap)
    assert (gap.gpu, gap.from_ns - START, gap.to_ns - START) == ("GPU-1", S, back)
    assert "NVML 15" in gap.reason
    assert [gpu.t - START for gpu in bench.emitted.of(Gpu) if gpu.gpu == "GPU-1"] == [0, back]


def test_a_gpu_that_stays_away_leaves_a_gap_at_the_end() -> None:
    bench = Bench(gpus=2)
    bench.clock.at(1.05, lambda: bench.binding.code.update({1: LOST}))
    bench.sampler().run(never(), duration_s=3)
    (gap,) = bench.emitted.of(Gap)
    assert (gap.from_ns - START, gap.to_ns - START) == (S, 2_900 * MS)


def test_a_gpu_that_is_out_at_the_start_comes_in_later() -> None:
    bench = Bench(gpus=2)
    bench.binding.code[1] = LOST
    bench.clock.at(0.5, bench.binding.code.clear)
    bench.sampler().run(never(), duration_s=3)
    assert len(bench.devices(0)) == 30
    assert bench.devices(1)[0].t - START == S
    assert bench.emitted.of(Gpu)[-1].name == "Stand-in"


def test_a_slow_gpu_delays_the_others_once() -> None:
    bench = Bench(gpus=2)
    bench.clock.at(1.05, lambda: bench.binding.fast_ns.update({0: 2 * S}))
    bench.clock.at(3.15, bench.binding.fast_ns.clear)
    health = bench.sampler().run(never(), duration_s=8)
    assert health.missed_ticks == 20
    times = [device.t - START for device in bench.devices(1)]
    assert max(after - before for before, after in pairwise(times)) == 2 * S + 100 * MS
    (gap,) = bench.emitted.of(Gap)
    assert "GPU-0 answered after 2000 ms" in gap.reason


def test_a_slow_library_is_noticed_in_real_time(fake: FakeNvml) -> None:
    nvml, emitted = Nvml(), Emitted()
    fake.set(0, delay_us=150_000)  # and a fast reading is two calls
    sampler = Sampler(nvml, StandInProcesses(), HostClock(), Host(t=0), emitted, start_worker=InlineWorker)
    sampler.run(never(), duration_s=0.5)
    (gap,) = [gap for gap in emitted.of(Gap) if gap.gpu == "GPU-fake-0"]
    assert "answered after" in gap.reason
    assert [device.energy_mj for device in emitted.of(Device) if device.gpu == "GPU-fake-0"] == [1_000_000]
    assert len([device for device in emitted.of(Device) if device.gpu == "GPU-fake-1"]) > 1


def test_hanging_process_lists_delay_nobody_else() -> None:
    """With real threads and real time: the slow lane of two devices hangs in the driver, then goes on."""
    bench = Bench(gpus=3)
    bench.binding.pids.update({0: [100], 1: [200], 2: [300]})
    release = bench.binding.hang[0] = bench.binding.hang[2] = threading.Event()
    ended = threading.Event()
    workers: list[Worker] = []
    while_hanging: list[int] = []
    seen: set[int] = set()
    read: set[str] = set()

    def start_worker() -> Worker:
        workers.append(ThreadWorker())
        return workers[-1]

    def emit(records: Sequence[Record]) -> None:
        pids = [record.pid for record in records if isinstance(record, Process)]
        seen.update(pids)
        if release.is_set():
            if seen == {100, 200, 300}:
                ended.set()
            return
        while_hanging.extend(pids)
        read.update(record.gpu for record in records if isinstance(record, Device))
        if len(while_hanging) >= 5:
            release.set()

    options = {"fast_hz": 100, "slow_s": 0.05, "flush_s": 0.05, "start_worker": start_worker}
    sampler = Sampler(Nvml(bench.binding), bench.processes, HostClock(), Host(t=0), emit, **options)  # type: ignore[arg-type]
    health = sampler.run(ended, duration_s=30)
    assert ended.is_set()
    assert health.lists_left_out > 0
    assert set(while_hanging) == {200}
    assert read == {"GPU-0", "GPU-1", "GPU-2"}
    # one shared, and one for each that hung; on a very busy machine the third may have seemed to hang as well
    assert 3 <= len(workers) <= 4


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_a_clock_that_is_set_begins_a_new_epoch(step_s: int) -> None:
    bench = Bench()
    bench.binding.pids[0] = [100]
    bench.clock.at(1.95, lambda: setattr(bench.clock, "step", step_s * S))
    sampler = bench.sampler()
    epochs = {}

    def emit(records: Sequence[Record]) -> None:
        bench.emitted(records)
        epochs[len(bench.emitted.flushes)] = sampler.epoch

    sampler._emit = emit
    sampler.run(never(), duration_s=4)
    shift = step_s * S
    assert [device.t - START for device in bench.devices(0)] == [
        t + (shift if t >= 2 * S else 0) for t in range(0, 4 * S, 100 * MS)
    ]
    (gap,) = bench.emitted.of(Gap)
    before, after = START + 2 * S, START + 2 * S + shift
    assert (gap.t, gap.from_ns, gap.to_ns) == (after, min(before, after), max(before, after))
    assert gap.reason == f"the wall clock was set by {step_s:+d}.000 s"
    assert [host.t for host in bench.emitted.of(Host)] == [START, after]
    assert [w.t for w in bench.emitted.of(Workload)] == [START, after]
    # read once more before the step, at once after it, and at the end
    assert [p.period_ns for p in bench.held()] == [S, S, S, 1, S, 900 * MS]
    assert [p.t for p in bench.held()][2:4] == [before, after]
    assert list(epochs.values()) == [START, START, after, after, after]


def test_a_step_between_two_flushes_is_seen_before_anything_is_read() -> None:
    """A host that was suspended: what its GPU used meanwhile is in the first reading after it."""
    bench = Bench()
    bench.clock.at(1.35, lambda: setattr(bench.clock, "step", 600 * S))
    bench.sampler().run(never(), duration_s=2)
    times = [device.t - START for device in bench.devices(0)]
    assert times == [t + (600 * S if t >= 1400 * MS else 0) for t in range(0, 2 * S, 100 * MS)]
    (gap,) = bench.emitted.of(Gap)
    assert (gap.from_ns - START, gap.to_ns - START) == (1400 * MS, 601_400 * MS)


def test_samples_are_followed_over_a_step_back() -> None:
    """The driver's timestamps are wall clock: after a step back they are older than the last seen one."""
    bench = Bench()
    bench.binding.pids[0] = [100]
    bench.binding.sample(0, 100, START - 200 * MS, 10)

    def set_back() -> None:
        bench.clock.step = -3600 * S
        bench.binding.samples[0].clear()

    after = START - 3600 * S
    bench.clock.at(1.95, set_back)
    for second in (2, 3, 4):  # the reading at 2 s learns anew where the buffer ends
        t = after + second * S - 100 * MS
        bench.clock.at(second - 0.05, lambda t=t: bench.binding.sample(0, 100, t, 70))  # type: ignore[misc]
    bench.sampler().run(never(), duration_s=5)
    used = [(p.t - after, p.period_ns, p.sm_percent) for p in bench.emitted.of(Process) if p.sm_percent]
    assert used == [(2_900 * MS, S, 70.0), (3_900 * MS, S, 70.0)]


@pytest.mark.parametrize("ahead_s", [50, 3600])
def test_samples_of_before_a_step_back_that_nobody_saw_are_passed_over(ahead_s: int) -> None:
    """The collector begins just after it, and the driver's buffer holds what lies ahead."""
    bench = Bench()
    bench.binding.pids[0] = [100]
    bench.binding.sample(0, 100, START + ahead_s * S, 10)
    for second in (1, 2, 3):
        t = START + second * S - 100 * MS
        bench.clock.at(second - 0.05, lambda t=t: bench.binding.sample(0, 100, t, 70))  # type: ignore[misc]
    bench.sampler().run(never(), duration_s=4)
    assert [(p.t - START, p.sm_percent) for p in bench.used()] == [
        (900 * MS, 70.0),
        (1_900 * MS, 70.0),
        (2_900 * MS, 70.0),
    ]


def test_a_slow_reading_that_a_step_overtakes_is_dropped() -> None:
    bench = Bench()
    bench.binding.pids[0] = [100]
    late = LateWorker()
    bench.clock.at(1.95, lambda: setattr(bench.clock, "step", 3600 * S))
    for second in (0.5, 2.5, 3.5):  # the reading that was due at 1 s is still on its way at 2 s
        bench.clock.at(second, late.finish)
    bench.sampler(start_worker=lambda: late).run(never(), duration_s=5)
    assert [(p.t - START) // (100 * MS) for p in bench.held()] == [5, 36_035]


def test_a_drift_of_the_wall_clock_is_none() -> None:
    bench = Bench()
    bench.clock.at(1, lambda: setattr(bench.clock, "step", 499 * MS))
    bench.sampler().run(never(), duration_s=3)
    assert bench.emitted.of(Gap) == []


def test_an_unexpected_fault_of_the_slow_lane_is_raised() -> None:
    bench = Bench()
    sampler = bench.sampler()

    def broken(gpu: int, sensor: int) -> None:
        raise ZeroDivisionError

    bench.binding.nvmlDeviceGetTemperature = broken  # type: ignore[method-assign,assignment]
    with pytest.raises(ZeroDivisionError):
        sampler.run(never(), duration_s=3)


def test_host_clock_runs_on_monotonic_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = HostClock()
    assert abs(clock.wall_step_ns()) < S
    before = clock.now_ns()
    clock.sleep_until_ns(before + 2 * MS)
    assert clock.now_ns() >= before + 2 * MS
    clock.sleep_until_ns(before)  # passed: at once
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 3600 * S)
    assert 3599 * S < clock.wall_step_ns() < 3601 * S
    assert clock.now_ns() - before < 60 * S
