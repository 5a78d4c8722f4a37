"""The simulated face against pynvml itself: names, shapes, exceptions, and what each call promises."""

from __future__ import annotations

import inspect
from collections import defaultdict
from typing import Any

import pynvml
import pytest

from tests.collector.simulated import START_NS, STEADY, host_of, one_gpu, to
from wattribute.collector.scenario import load_scenario
from wattribute.collector.simulate import SimulatedHost, VirtualTime
from wattribute.collector.simulate_nvml import SimulatedNvml

FACE = [name for name in dir(SimulatedNvml) if name.startswith("nvml")]


def test_face_is_pynvmls() -> None:
    for name in FACE:
        ours = list(inspect.signature(getattr(SimulatedNvml, name)).parameters)[1:]
        theirs = inspect.signature(inspect.unwrap(getattr(pynvml, name))).parameters
        assert ours == list(theirs), name
    nvml = host_of("demo").nvml
    for name in ("NVMLError", "NVML_ERROR_GPU_IS_LOST", "c_nvmlFieldValue_t", "NVML_FI_DEV_POWER_INSTANT"):
        assert getattr(nvml, name) is getattr(pynvml, name)
    with pytest.raises(AttributeError):
        nvml.nvmlDeviceGetNoSuchThing  # noqa: B018


def test_answers_have_pynvmls_shapes() -> None:
    host = host_of("demo")
    to(host, 10)
    nvml = host.nvml
    gpu = nvml.nvmlDeviceGetHandleByIndex(2)
    assert nvml.nvmlDeviceGetHandleByUUID(nvml.nvmlDeviceGetUUID(gpu).encode()) is gpu
    assert nvml.nvmlDeviceGetUUID(gpu).startswith("GPU-")
    assert nvml.nvmlDeviceGetName(gpu) == "NVIDIA H200"
    assert nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) == 700_000
    assert nvml.nvmlDeviceGetMigMode(gpu) == [0, 0]
    memory = nvml.nvmlDeviceGetMemoryInfo(gpu)
    assert memory.used + memory.free == memory.total
    processes = nvml.nvmlDeviceGetComputeRunningProcesses(gpu)
    assert memory.used > sum(process.usedGpuMemory for process in processes) == 122 << 30
    assert {process.gpuInstanceId for process in processes} == {0xFFFFFFFF}
    assert nvml.nvmlDeviceGetGraphicsRunningProcesses(gpu) == []
    assert nvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM) == 1_980
    assert nvml.nvmlDeviceGetClockInfo(nvml.nvmlDeviceGetHandleByIndex(3), pynvml.NVML_CLOCK_SM) == 345
    temperatures = [
        nvml.nvmlDeviceGetTemperature(nvml.nvmlDeviceGetHandleByIndex(index), pynvml.NVML_TEMPERATURE_GPU)
        for index in (2, 3)
    ]
    assert 90 > temperatures[0] > temperatures[1] > 25
    wanted = [pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, (pynvml.NVML_FI_DEV_POWER_AVERAGE, 0)]
    [energy, average] = nvml.nvmlDeviceGetFieldValues(gpu, wanted)
    assert energy.value.ullVal == nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
    assert average.value.uiVal == nvml.nvmlDeviceGetPowerUsage(gpu)
    [hbm, unknown] = nvml.nvmlDeviceGetFieldValues(gpu, [(185, pynvml.NVML_POWER_SCOPE_MEMORY), 1])
    assert hbm.nvmlReturn == unknown.nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED


def test_errors_are_pynvmls() -> None:
    host = SimulatedHost(load_scenario("demo"), VirtualTime(START_NS), 7, pynvml)
    nvml = host.nvml
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        nvml.nvmlDeviceGetCount()
    nvml.nvmlInit()
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        nvml.nvmlDeviceGetHandleByIndex(4)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        nvml.nvmlDeviceGetUUID("GPU 0")
    with pytest.raises(pynvml.NVMLError_NotFound):
        nvml.nvmlDeviceGetHandleByUUID(b"GPU-0")
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):  # and never a call of the real library
        nvml.nvmlDeviceGetFanSpeed(gpu)
    with pytest.raises(pynvml.NVMLError_NotFound):
        nvml.nvmlDeviceGetProcessUtilization(gpu, host.clock.now_ns() // 1_000)
    nvml.nvmlShutdown()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        nvml.nvmlShutdown()


def test_devices_that_lack_a_reading() -> None:
    host = host_of(one_gpu(STEADY, scope="module", energy_counter=False, power_average=False))
    to(host, 3)
    gpu = host.nvml.nvmlDeviceGetHandleByIndex(0)
    wanted = [(pynvml.NVML_FI_DEV_ENERGY, 0), (186, 0), (186, 1), (185, 1)]
    values = host.nvml.nvmlDeviceGetFieldValues(gpu, wanted)
    assert [value.nvmlReturn for value in values] == [3, 3, 0, 3]  # 3 is NOT_SUPPORTED
    assert host.nvml.nvmlDeviceGetPowerUsage(gpu) == values[2].value.uiVal > 200_000
    with pytest.raises(pynvml.NVMLError_NotSupported):
        host.nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)


def utilization(host: SimulatedHost, index: int, last_seen_us: int) -> list[Any]:
    try:
        gpu = host.nvml.nvmlDeviceGetHandleByIndex(index)
        found: list[Any] = host.nvml.nvmlDeviceGetProcessUtilization(gpu, last_seen_us)
        return found
    except pynvml.NVMLError_NotFound:
        return []


def test_utilization_obeys_last_seen_and_adds_up_to_the_truth() -> None:
    host = host_of("demo")
    last_us = 0
    sm_s: dict[int, float] = defaultdict(float)
    lags_ms = set()
    for tick in range(1, 6001):
        to(host, tick * 0.01)
        entries = utilization(host, 0, last_us)
        for entry in entries:
            assert last_us < entry.timeStamp < host.clock.now_ns() // 1_000
            assert entry.smUtil <= 100
            sm_s[entry.pid] += entry.smUtil / 100  # a sample period is 1 s, and none is missed at 100 Hz
            lags_ms.add(host.clock.now_ns() // 1_000_000 - entry.timeStamp // 1_000)
        if entries:
            last_us = max(entry.timeStamp for entry in entries)
            assert utilization(host, 0, last_us) == []
    assert min(lags_ms) >= 100
    assert max(lags_ms) <= 1_010
    assert len(lags_ms) > 20
    for process in host.truth(host.clock.now_ns())["gpus"][0]["processes"]:
        assert sm_s[process["pid"]] == pytest.approx(process["active_ns"] / 1e9, abs=60 * 0.005 + 2)


def test_utilization_since_long_ago_is_the_mean() -> None:
    host = host_of(one_gpu({**STEADY, "start_s": 6.0}, utilization_lag_ms=[100, 100]))
    to(host, 5.5)
    assert utilization(host, 0, 0) == []
    to(host, 15.5)
    gpu = host.nvml.nvmlDeviceGetHandleByIndex(0)
    newest_us = utilization(host, 0, 0)[0].timeStamp
    [last] = utilization(host, 0, newest_us - 1)
    [mean] = host.nvml.nvmlDeviceGetProcessesUtilizationInfo(gpu, 0)
    assert isinstance(mean, pynvml.c_nvmlProcessUtilizationInfo_v1_t)
    assert mean.pid == last.pid
    assert 30 <= last.smUtil <= 50
    assert last.smUtil * 0.85 <= mean.smUtil <= last.smUtil  # the first period began before the process
    assert mean.memUtil == pytest.approx(mean.smUtil / 2, abs=1)


def test_instances_tell_what_their_tenants_do() -> None:
    """2 of 7 slices busy by 20 % of the whole GPU are 70 % busy; there is no utilisation of processes."""
    steady = {**STEADY, "sm_percent": 20}
    tenants = ({**steady, "instance": 0}, {**steady, "instance": 1, "pattern": "idle"})
    host = host_of(one_gpu(*tenants, {**steady, "instance": 2}, instances=[2, 3, 1]))
    to(host, 1)
    nvml = host.nvml
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    assert nvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
    instances = [nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, place) for place in range(3)]
    with pytest.raises(pynvml.NVMLError_NotFound):
        nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 3)
    numbers = [nvml.nvmlDeviceGetGpuInstanceId(instance) for instance in instances]
    assert [nvml.nvmlDeviceGetAttributes(instance).gpuInstanceSliceCount for instance in instances] == [
        2,
        3,
        1,
    ]
    assert nvml.nvmlDeviceGetName(instances[1]) == "NVIDIA H200 MIG 3g.60gb"
    assert len({nvml.nvmlDeviceGetUUID(handle) for handle in (gpu, *instances)}) == 4
    listed = nvml.nvmlDeviceGetComputeRunningProcesses(gpu)
    assert [process.gpuInstanceId for process in listed] == numbers
    for call in (
        nvml.nvmlDeviceGetUtilizationRates,
        lambda gpu: nvml.nvmlDeviceGetProcessUtilization(gpu, 0),
    ):
        with pytest.raises(pynvml.NVMLError_NotSupported):
            call(gpu)
    pairs = [[nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()] for _ in instances]
    for place, second in ((0, 1.0), (1, 3.0)):
        to(host, second)
        for number, pair in zip(numbers, pairs, strict=True):
            nvml.nvmlGpmMigSampleGet(gpu, number, pair[place])
    found = [between(nvml, *pair) for pair in pairs]
    assert found == pytest.approx([70, 0, 100], abs=15)
    assert found[2] <= 100


def between(nvml: SimulatedNvml, before: Any, after: Any) -> float:
    request = pynvml.c_nvmlGpmMetricsGet_t(version=1, numMetrics=1, sample1=before, sample2=after)
    request.metrics[0].metricId = pynvml.NVML_GPM_METRIC_SM_UTIL
    nvml.nvmlGpmMetricsGet(request)
    assert request.metrics[0].nvmlReturn == 0
    return float(request.metrics[0].value)


def test_a_process_that_is_not_listed_draws_power_all_the_same() -> None:
    host = host_of(one_gpu({**STEADY, "process_list": "none"}))
    to(host, 5)
    gpu = host.nvml.nvmlDeviceGetHandleByIndex(0)
    assert host.nvml.nvmlDeviceGetComputeRunningProcesses(gpu) == []
    assert utilization(host, 0, 0) == []
    assert host.nvml.nvmlDeviceGetPowerUsage(gpu) > 200_000
