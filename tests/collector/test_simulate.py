"""The simulated host: its physics against its own truth, and its faces against the real ones."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pynvml
import pytest

from tests.collector.simulated import START_NS, STEADY, host_of, one_gpu, to
from wattribute.collector.clock import HostClock
from wattribute.collector.scenario import load_scenario
from wattribute.collector.simulate import SimulatedHost, VirtualTime
from wattribute.errors import WattributeError
from wattribute.records import Exit, Quality, Run, Unit, as_json, parse

SECOND_NS = 1_000_000_000


@pytest.mark.parametrize("scenario", ["demo", "churn"])
def test_parts_are_the_whole_and_the_counter_shows_it(scenario: str) -> None:
    host = host_of(scenario)
    for second in range(1, 61):
        truth = host.truth(to(host, second))
        for gpu in truth["gpus"]:
            active_uj = sum(process["active_uj"] for process in gpu["processes"])
            assert gpu["idle_uj"] + active_uj == gpu["total_uj"]
            lag_ms = (truth["t"] - gpu["counter_t"]) // 1_000_000
            hidden_uj = gpu["counter_start_uj"] + gpu["total_uj"] - gpu["counter_mj"] * 1_000
            assert 0 <= lag_ms <= 104
            # between 50 W and the power limit
            assert lag_ms * 50_000 <= hidden_uj <= lag_ms * 700_000 + 1_000
    assert sum(len(gpu["processes"]) for gpu in truth["gpus"]) > 5


def test_counter_is_exact_where_power_is_known() -> None:
    host = host_of(one_gpu(idle_w=77.7))
    for seconds in (0.0, 0.3, 1.0, 59.99):
        gpu = host.truth(to(host, seconds))["gpus"][0]
        known_uj = gpu["counter_start_uj"] + (gpu["counter_t"] - START_NS) // 1_000_000 * 77_700
        assert gpu["counter_mj"] == known_uj // 1_000


@pytest.mark.parametrize("scenario", ["demo", "churn"])
def test_the_seed_alone_decides(scenario: str) -> None:
    def readings(seed: int, step_s: float) -> tuple[Any, ...]:
        host = host_of(scenario, seed)
        told: list[Any] = []
        count = round(40 / step_s)
        for tick in range(1, count + 1):
            t = to(host, tick * 40 / count)
            told += [as_json(record) for record in host.outcomes(t)]
        return host.truth(t), told

    rare, often, other = readings(7, 40.0), readings(7, 0.007), readings(8, 40.0)
    assert rare == often
    assert rare[0]["gpus"] != other[0]["gpus"]


def test_a_real_process_holds_the_devices_while_it_lives() -> None:
    """2 s alone, 3 s of the command at 50 W and half of the SMs, 1 s alone; /proc tells whose it is."""
    command = {
        "command": True,
        "pattern": "train",
        "step_s": 3600,
        "sm_percent": 50,
        "watts_per_sm_percent": 1.0,
    }
    host = host_of(one_gpu(command, idle_w=80.0, context_w=20.0))
    assert host.has_command
    pid = os.getpid()
    gpu = host.nvml.nvmlDeviceGetHandleByIndex(0)
    to(host, 2)
    assert host.nvml.nvmlDeviceGetComputeRunningProcesses(gpu) == []
    host.start_command(pid)
    (held,) = host.nvml.nvmlDeviceGetComputeRunningProcesses(gpu)
    assert held.pid == pid
    start_ns = host.processes.start_ns(pid)
    assert start_ns == START_NS + 2 * SECOND_NS
    workload = host.processes.workload(pid, start_ns, START_NS + 3 * SECOND_NS)
    assert workload is not None
    assert (workload.pid, workload.start_ns) == (pid, start_ns)
    assert workload.command.startswith("python")
    to(host, 5)
    host.end_command(pid)
    t = to(host, 6)
    assert [(gone.pid, gone.t) for gone in host.processes.exits(t)] == [(pid, START_NS + 5 * SECOND_NS)]
    assert host.outcomes(t) == []  # what it does it tells itself
    (truth,) = host.truth(t)["gpus"]
    (process,) = truth["processes"]
    assert process["active_uj"] == 50 * 3 * 1_000_000
    assert process["active_ns"] == 3 * SECOND_NS // 2
    assert truth["idle_uj"] == (80 * 6 + 20 * 3) * 1_000_000
    assert truth["total_uj"] == truth["idle_uj"] + process["active_uj"]


def test_reading_changes_nothing() -> None:
    plain, read = host_of("demo"), host_of("demo")
    for tick in range(1, 400):
        to(read, tick * 0.033)
        field_values(read, tick % 4)
    t = to(plain, 13.5)
    to(read, 13.5)
    assert plain.truth(t) == read.truth(t)
    assert [value.value.ullVal for value in field_values(plain)] == [
        value.value.ullVal for value in field_values(read)
    ]


def field_values(host: SimulatedHost, index: int = 0) -> list[Any]:
    gpu = host.nvml.nvmlDeviceGetHandleByIndex(index)
    wanted = [pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, *((field, 0) for field in (186, 185))]
    return list(host.nvml.nvmlDeviceGetFieldValues(gpu, wanted))


def test_publication_and_power_fields() -> None:
    host = host_of(one_gpu({**STEADY, "start_s": 2.0}, idle_w=80.0, context_w=20.0))
    seen: dict[int, tuple[int, int, int]] = {}
    for tick in range(1, 500):
        to(host, tick * 0.01)
        energy, instant, average = field_values(host)
        assert {energy.nvmlReturn, instant.nvmlReturn, average.nvmlReturn} == {pynvml.NVML_SUCCESS}
        assert (energy.valueType, instant.valueType, average.valueType) == (3, 1, 1)
        values = (energy.value.ullVal, instant.value.uiVal, average.value.uiVal)
        assert seen.setdefault(energy.timestamp, values) == values
    times = sorted(seen)
    gaps_us = {later - earlier for earlier, later in itertools.pairwise(times[1:])}
    assert min(gaps_us) >= 99_000
    assert max(gaps_us) <= 104_000
    assert len(gaps_us) > 2
    start_us = START_NS // 1_000
    for t_us, (_, instant_mw, average_mw) in seen.items():
        busy_ms = (
            t_us - start_us
        ) / 1_000 - 2_000  # 80 W before, 80 + 20 + 40 × 5 W after, more or less 20 %
        if busy_ms <= 0:
            assert instant_mw == average_mw == 80_000
        elif busy_ms >= 1_000:
            assert instant_mw == average_mw
            assert 259_000 <= instant_mw <= 341_000
        elif busy_ms >= 25:
            assert average_mw == pytest.approx(80_000 + (instant_mw - 80_000) * busy_ms / 1_000, abs=1)


def test_no_more_than_the_power_limit_and_the_whole_device() -> None:
    tenants = [{**STEADY, "sm_percent": 100, "watts_per_sm_percent": watts} for watts in (6.0, 12.0)]
    host = host_of(one_gpu(*tenants, power_limit_w=700.0, idle_w=80.0, context_w=20.0))
    truth = host.truth(to(host, 20))["gpus"][0]
    assert truth["total_uj"] == pytest.approx(700 * 20e6, rel=1e-4)
    light, heavy = truth["processes"]
    assert light["active_ns"] + heavy["active_ns"] == pytest.approx(20e9, rel=0.01)
    power_ratio = (heavy["active_uj"] / heavy["active_ns"]) / (light["active_uj"] / light["active_ns"])
    assert power_ratio == pytest.approx(2.0, rel=0.01)
    assert host.nvml.nvmlDeviceGetUtilizationRates(host.nvml.nvmlDeviceGetHandleByIndex(0)).gpu in (99, 100)


def test_processes_come_go_and_are_told_apart() -> None:
    host = host_of("churn")
    lists = ("Compute", "Graphics", "MPSCompute")
    started: dict[int, set[int]] = defaultdict(set)
    exits: list[Exit] = []
    seen_in: dict[str, set[str]] = defaultdict(set)
    for tick in range(1, 600):
        t = to(host, tick * 0.1)
        for index in range(3):
            gpu = host.nvml.nvmlDeviceGetHandleByIndex(index)
            for name in lists:
                for process in getattr(host.nvml, f"nvmlDeviceGet{name}RunningProcesses")(gpu):
                    start_ns = host.processes.start_ns(process.pid)
                    assert start_ns is not None
                    workload = host.processes.workload(process.pid, start_ns, t)
                    assert workload is not None
                    assert workload.t == t
                    assert parse(as_json(workload)) == workload
                    seen_in[workload.workload].add(name)
                    started[process.pid].add(start_ns)
        told = host.processes.exits(t)
        assert all(t - 100_000_000 < gone.t <= t for gone in told)
        for gone in told:
            assert host.processes.workload(gone.pid, gone.start_ns, t) is None
        exits += told
    assert host.processes.exits(t) == []
    assert max(len(starts) for starts in started.values()) > 3  # the same pids, other processes
    assert len({(gone.pid, gone.start_ns) for gone in exits}) == len(exits) == 30
    assert seen_in["burst-c"] == {"MPSCompute"}
    assert seen_in["render"] == {"Graphics"}
    assert seen_in["steady"] == {"Compute"}
    assert host.processes.start_ns(1) is None
    to(host, 80)
    assert (
        len(host.processes.exits(host.clock.now_ns())) < 15
    )  # as with pidfds: only those that were looked at


def test_a_run_fails_resumes_from_its_checkpoint_and_finishes() -> None:
    host = host_of("demo")
    outcomes = host.outcomes(to(host, 60.5))
    runs = [record for record in outcomes if isinstance(record, Run) and record.run.endswith("-1")]
    events = [(run.attempt, run.event, run.step) for run in runs]
    assert events == [
        (0, "start", 0),
        (0, "checkpoint", 8),
        (0, "checkpoint", 16),
        (0, "fail", 22),
        (1, "start", 16),
        (1, "checkpoint", 24),
        (1, "checkpoint", 32),
        (1, "checkpoint", 40),
        (1, "finish", 42),
    ]
    assert {run.steps for run in runs} == {42}
    units = [record for record in outcomes if isinstance(record, Unit) and record.run == runs[0].run]
    steps = [unit.quantity for unit in units if unit.unit == "steps"]
    assert sum(steps) == 22 + 26
    assert any(isinstance(record, Run) and record.run.endswith("-sft-2") for record in outcomes)
    qualities = [record for record in outcomes if isinstance(record, Quality)]
    assert [quality.run for quality in qualities if quality.run] == [
        "support-chat-v3-sft-1",
        "support-chat-v3-sft-2",
    ]


def test_units_follow_the_sm_time() -> None:
    host = host_of("demo")
    outcomes = host.outcomes(to(host, 30))
    times = [record.t for record in outcomes]
    assert times == sorted(times)
    assert times[-1] <= host.clock.now_ns()
    units = [record for record in outcomes if isinstance(record, Unit)]
    assert len({unit.event_id for unit in units}) == len(units)
    assert all(parse(as_json(record)) == record for record in outcomes)
    tokens: dict[tuple[int | None, int | None], float] = defaultdict(float)
    for unit in units:
        if unit.unit == "output_tokens":
            assert unit.source == "engine"
            assert unit.phase == "inference"
            tokens[unit.pid, unit.start_ns] += unit.quantity
    rates = {tenant.name: tenant.units.get("output_tokens", 0.0) for tenant in load_scenario("demo").tenants}
    for gpu in host.truth(host.clock.now_ns())["gpus"]:
        for process in gpu["processes"]:
            expected = int(process["active_ns"] / 1e9 * rates[process["tenant"]] + 1e-6)
            assert tokens[process["pid"], process["start_ns"]] == expected


def test_demo_shows_what_it_promises() -> None:
    host = host_of("demo")
    host.truth(to(host, 13.5))  # between the two attempts
    kinds = [len(gpu.residents) for gpu in host.catch_up()]
    assert kinds == [3, 2, 1, 0]
    assert host.host.provider == "nebius"
    assert host.host.pricing == "on_demand"
    tenants = load_scenario("demo").tenants
    served = {(tenant.model, tenant.model_version) for tenant in tenants if tenant.units}
    assert served == set(itertools.product(("support-chat", "code-review"), ("v1", "v2")))
    assert all(tenant.team for tenant in tenants)


def test_truth_is_written(tmp_path: Path) -> None:
    host = host_of("churn")
    to(host, 5)
    path = tmp_path / "truth.json"
    host.write_truth(path)
    assert json.loads(path.read_text()) == host.truth(host.clock.now_ns())
    with pytest.raises(WattributeError, match="cannot write the truth"):
        host.write_truth(tmp_path)


def test_it_runs_by_the_clock_of_the_host() -> None:
    clock = HostClock()
    host = SimulatedHost(load_scenario("demo"), clock, 7, pynvml)
    clock.sleep_until_ns(host.start_ns + 40_000_000)
    assert host.truth(clock.now_ns())["t"] >= host.start_ns + 40_000_000
    virtual = VirtualTime(START_NS)
    virtual.sleep_until_ns(START_NS + SECOND_NS)
    virtual.sleep_until_ns(START_NS)
    assert virtual.now_ns() == START_NS + SECOND_NS
    assert virtual.wall_step_ns() == 0


def test_a_later_start_is_another_boot_of_the_same_host() -> None:
    first = host_of("demo")
    later = SimulatedHost(load_scenario("demo"), VirtualTime(START_NS + SECOND_NS), 7, pynvml)
    assert first.processes.boot_id != later.processes.boot_id
    assert [gpu.uuid for gpu in first.catch_up()] == [gpu.uuid for gpu in later.catch_up()]


def test_threads_may_ask_side_by_side() -> None:
    host, alone = host_of("churn"), host_of("churn")
    failures: list[BaseException] = []

    def read(index: int) -> None:
        try:
            while host.clock.now_ns() < START_NS + 20 * SECOND_NS:
                gpu = host.nvml.nvmlDeviceGetHandleByIndex(index)
                for process in host.nvml.nvmlDeviceGetComputeRunningProcesses(gpu):
                    host.processes.start_ns(process.pid)
        except BaseException as error:  # a thread's exception would be lost
            failures.append(error)

    threads = [threading.Thread(target=read, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for tick in range(1, 401):
        host.truth(to(host, tick * 0.05))
    for thread in threads:
        thread.join()
    assert failures == []
    assert host.truth(host.clock.now_ns()) == alone.truth(to(alone, 20))


@pytest.mark.parametrize("by_s", [5, -5])
def test_a_wall_clock_that_is_set_dates_what_comes_after(by_s: int) -> None:
    """The driver and the ends of processes are dated by it; the simulation and start times are not."""
    host = host_of({**one_gpu({**STEADY, "stop_s": 12.0}), "host": {"name": "h", "clock_set_s": [10, by_s]}})
    to(host, 9)
    assert host.clock.wall_step_ns() == 0
    (process,) = host.truth(host.clock.now_ns())["gpus"][0]["processes"]
    assert host.processes.start_ns(process["pid"]) == START_NS
    gpu = host.nvml.nvmlDeviceGetHandleByIndex(0)
    (before,) = host.nvml.nvmlDeviceGetFieldValues(gpu, [186])
    to(host, 13)
    assert host.clock.wall_step_ns() == by_s * 10**9
    (after,) = host.nvml.nvmlDeviceGetFieldValues(gpu, [186])
    assert after.timestamp - before.timestamp == pytest.approx((4 + by_s) * 1e6, abs=2e5)
    (end,) = host.processes.exits(START_NS + (13 + by_s) * 10**9)
    assert end.t == START_NS + (12 + by_s) * 10**9
    assert host.truth(host.clock.now_ns())["gpus"][0]["processes"][0]["end_ns"] == START_NS + 12 * 10**9
