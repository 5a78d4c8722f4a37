"""What the sampler tells of processes: who they are, what they held and used, and their end."""

from __future__ import annotations

import pytest

from tests.collector.stand_in import BORN, MS, START, Bench, S, never
from wattribute.records import Exit, Process, Workload


def test_residents_hold_since_the_previous_reading() -> None:
    bench = Bench()
    bench.binding.pids[0] = [100]
    bench.processes.starts[200] = START + 1_600 * MS
    bench.clock.at(1.7, lambda: bench.binding.pids[0].append(200))
    bench.sampler().run(never(), duration_s=4)
    held = [(p.pid, (p.t - START) // MS, p.period_ns, p.memory_used_bytes) for p in bench.held()]
    assert held == [
        (100, 0, S, 1 << 30),
        (100, 1000, S, 1 << 30),
        (100, 2000, S, 1 << 30),
        (200, 2000, 400 * MS, 1 << 30),  # not from before it began
        (100, 3000, S, 1 << 30),
        (200, 3000, S, 1 << 30),
        (100, 3900, 900 * MS, 1 << 30),  # the last, at the end
        (200, 3900, 900 * MS, 1 << 30),
    ]
    assert {p.start_ns for p in bench.held() if p.pid == 100} == {BORN}


def test_use_is_told_at_the_samples_own_time() -> None:
    bench = Bench()
    bench.binding.pids[0] = [100, 200]
    bench.binding.sample(0, 100, START - 200 * MS, 10)
    bench.clock.at(1, lambda: bench.binding.sample(0, 100, START + 800 * MS, 60))
    bench.clock.at(3, lambda: bench.binding.sample(0, 100, START + 2_700 * MS, 70))
    bench.sampler().run(never(), duration_s=4)
    used = [(p.pid, (p.t - START) // MS, p.period_ns, p.sm_percent) for p in bench.used()]
    assert used == [
        (100, 800, S, 60.0),
        (200, 800, S, 0.0),
        (100, 2700, 1_900 * MS, 70.0),
        (200, 2700, 1_900 * MS, 0.0),
    ]
    assert all(p.memory_used_bytes is None for p in bench.used())


def test_the_last_sample_of_a_process_that_ended_is_kept() -> None:
    bench = Bench()
    bench.binding.pids[0] = [100]
    bench.binding.sample(0, 100, START - 200 * MS, 10)

    def end() -> None:
        bench.binding.pids[0].clear()
        bench.processes.gone.add(100)
        bench.processes.ended.append(Exit(t=START + 700 * MS, pid=100, start_ns=BORN))
        bench.binding.sample(0, 100, START + 600 * MS, 80)

    bench.clock.at(0.7, end)
    bench.sampler().run(never(), duration_s=70)
    assert [(p.t - START, p.start_ns, p.sm_percent) for p in bench.used()] == [(600 * MS, BORN, 80.0)]
    assert bench.emitted.of(Exit) == [Exit(t=START + 700 * MS, pid=100, start_ns=BORN)]
    assert len(bench.emitted.of(Workload)) == 1  # it is not repeated at 60 s


@pytest.mark.parametrize("flush_s", [1.0, 2.0])
def test_a_newcomer_that_ends_before_the_next_reading_held_until_then(flush_s: float) -> None:
    """Also where its end is told of after that reading."""
    bench = Bench()
    bench.binding.pids[0] = [100]
    bench.processes.starts[200] = START + 1_860 * MS

    def end() -> None:
        bench.binding.pids[0].clear()
        for pid, start_ns in ((100, BORN), (200, bench.processes.starts[200])):
            bench.processes.gone.add(pid)
            bench.processes.ended.append(Exit(t=bench.clock.t, pid=pid, start_ns=start_ns))

    bench.clock.at(1.9, lambda: bench.binding.pids[0].append(200))
    bench.clock.at(2.9, end)
    bench.sampler(flush_s=flush_s).run(never(), duration_s=5)
    held = [(p.pid, (p.t - START) // MS, (p.period_ns or 0) // MS) for p in bench.held()]
    assert held == [
        (100, 0, 1000),
        (100, 1000, 1000),
        (100, 2000, 1000),
        (200, 2000, 140),
        (200, 2900, 900),  # of the other its regular record says so
    ]


@pytest.mark.parametrize("step_s", [-3600, 600])
def test_who_ends_before_the_first_reading_after_a_step_of_the_clock_held_until_then(step_s: int) -> None:
    bench = Bench()
    bench.binding.pids[0] = [100]
    step_ms = step_s * 1000

    def end() -> None:
        bench.binding.pids[0].clear()
        bench.processes.gone.add(100)
        bench.processes.ended.append(Exit(t=START + (3_700 + step_ms) * MS, pid=100, start_ns=BORN))

    bench.clock.at(3.35, lambda: setattr(bench.clock, "step", step_s * S))
    bench.clock.at(3.7, end)
    bench.sampler().run(never(), duration_s=6)
    held = [((p.t - START) // MS, (p.period_ns or 0) // MS) for p in bench.held()]
    assert held[3:] == [(3000, 1000), (3400, 400), (3700 + step_ms, 300)]


def test_a_reused_pid_is_another_process() -> None:
    bench = Bench()
    bench.binding.pids[0] = [100]
    bench.binding.sample(0, 100, START - 200 * MS, 10)

    def reuse() -> None:
        bench.processes.starts[100] = START + 700 * MS
        bench.binding.sample(0, 100, START + 600 * MS, 80)  # the old one's

    bench.clock.at(0.7, reuse)
    bench.clock.at(1.9, lambda: bench.binding.sample(0, 100, START + 1_800 * MS, 50))
    bench.sampler().run(never(), duration_s=3)
    assert [(p.start_ns - START, p.sm_percent, p.period_ns) for p in bench.used()] == [
        (BORN - START, 80.0, 800 * MS),
        (700 * MS, 50.0, 1_100 * MS),
    ]
    assert [w.start_ns - START for w in bench.emitted.of(Workload)] == [BORN - START, 700 * MS]


def test_a_process_that_cannot_be_found_is_counted() -> None:
    bench = Bench()
    bench.binding.pids[0] = [100]
    bench.processes.gone.add(100)  # as in another PID namespace
    health = bench.sampler().run(never(), duration_s=3)
    assert bench.emitted.of(Process) == []
    assert health.unidentified == 4  # at three readings, and at the last one
    assert [line[:9] for line in health.complaints()] == ["4 entries"]


def test_a_workload_is_told_again_when_it_changes() -> None:
    bench = Bench()
    bench.binding.pids[0] = [100]
    bench.clock.at(5, lambda: setattr(bench.processes, "model", "b"))
    bench.sampler().run(never(), duration_s=50)
    assert [(w.t - START, w.model) for w in bench.emitted.of(Workload)] == [(0, "a"), (10 * S, "b")]
    assert bench.processes.asked == 4  # /proc is not read each second: at 0, 10, 20, 40 s
