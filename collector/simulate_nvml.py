"""The interface of the pynvml module over simulated devices.

Functions have the parameters, results, exceptions and structs of pynvml's functions of the same name;
constants, structs and exception classes are the real module's. A function that is not simulated raises
FUNCTION_NOT_FOUND, as an old driver does. Nothing in this module ever reaches a real driver.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, Final, Protocol

from wattribute.collector.simulate_gpu import STEP_MS, SimulatedGpu, UtilizationSample
from wattribute.collector.simulate_mig import MigDevice, SimulatedMig, instance_number

_NO_INSTANCE: Final = 0xFFFF_FFFF  # gpuInstanceId of a process where MIG is off
_LATENCY_US: Final = 15
_GARBAGE: Final = 2_147_483_632  # NVML's blank value, as nvtop issue 110 and DCGM issue 83 saw it
_CLOCKS_IDLE_MHZ: Final = {"NVML_CLOCK_GRAPHICS": 345, "NVML_CLOCK_SM": 345, "NVML_CLOCK_MEM": 3_201}
_CLOCKS_BUSY_MHZ: Final = {"NVML_CLOCK_GRAPHICS": 1_980, "NVML_CLOCK_SM": 1_980, "NVML_CLOCK_MEM": 3_201}


class SimulatedDevices(Protocol):
    """The devices behind the interface, moved on to the current time by each call."""

    @property
    def start_ns(self) -> int:
        """Unix time of the simulation's first moment."""

    def wall_ns(self, t_ns: int) -> int:
        """The time on the wall clock, by which the driver dates, at a time of the simulation."""

    def catch_up(self) -> tuple[SimulatedGpu, ...]:
        """The devices as they are now."""


class SimulatedNvml:
    """Takes the place of the pynvml module. A handle is the simulated device itself, opaque to callers."""

    def __init__(self, pynvml: ModuleType, devices: SimulatedDevices) -> None:
        self._pynvml = pynvml
        self._devices = devices
        self._mig = SimulatedMig(pynvml, self._gpu, self._error)
        self._initialised = 0
        # The underlying library, with the only function that the collector calls without the binding.
        self.nvmlLib = SimpleNamespace(nvmlDeviceGetFieldValues=self._fill_all)

    def __getattr__(self, name: str) -> Any:
        if hasattr(SimulatedMig, name):
            return getattr(self._mig, name)
        value = getattr(self._pynvml, name)
        return self._absent if name.startswith("nvml") and callable(value) else value

    def nvmlInit(self) -> None:  # noqa: N802 - the names are pynvml's
        """Counts the calls, as NVML does: as many shutdowns end the session."""
        self._initialised += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        """End one init; raises Uninitialized without an init before it."""
        self._gpus()
        self._initialised -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """How many devices the host has."""
        return len(self._gpus())

    def nvmlDeviceGetHandleByIndex(self, index: int) -> SimulatedGpu:  # noqa: N802
        """A handle; InvalidArgument where there is no such device."""
        gpus = self._gpus()
        if not 0 <= index < len(gpus):
            raise self._error("NVML_ERROR_INVALID_ARGUMENT")
        return gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> SimulatedGpu:  # noqa: N802
        """A handle; NotFound where there is no such device."""
        for gpu in self._gpus():
            if gpu.uuid.encode() == uuid:
                return gpu
        raise self._error("NVML_ERROR_NOT_FOUND")

    def nvmlDeviceGetUUID(self, handle: object) -> str:  # noqa: N802
        """GPU-… or MIG-…"""
        return handle.uuid if isinstance(handle, MigDevice) else self._gpu(handle).uuid

    def nvmlDeviceGetName(self, handle: object) -> str:  # noqa: N802
        """The product name, with the profile of a MIG instance."""
        return handle.name if isinstance(handle, MigDevice) else self._gpu(handle).plan.name

    def nvmlDeviceGetMemoryInfo(self, handle: object, version: int | None = None) -> Any:  # noqa: ARG002, N802
        """total, free, used in bytes, as without a version: used includes what the driver reserved."""
        gpu = self._gpu(handle)
        total, used = gpu.memory_total_bytes, gpu.memory_used_bytes
        return self._pynvml.c_nvmlMemory_t(total=total, free=total - used, used=used)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: object) -> int:  # noqa: N802
        """The power limit in mW."""
        return round(self._gpu(handle).plan.power_limit_w * 1_000)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:  # noqa: N802
        """mJ since the driver was loaded, as last published."""
        gpu = self._gpu(handle)
        if not gpu.plan.energy_counter:
            raise self._error("NVML_ERROR_NOT_SUPPORTED")
        return gpu.readings.energy_mj

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int:  # noqa: N802
        """mW: on Hopper the 1 s average, on A100 instantaneous (nvml.h 6538)."""
        gpu = self._gpu(handle)
        return gpu.readings.average_mw if gpu.plan.power_average else gpu.readings.instant_mw

    def nvmlDeviceGetFieldValues(self, handle: object, fieldIds: list[Any]) -> Any:  # noqa: N802, N803
        """An array of c_nvmlFieldValue_t, each with its own nvmlReturn."""
        gpu = self._gpu(handle)
        values = (self._pynvml.c_nvmlFieldValue_t * len(fieldIds))()
        for value, wanted in zip(values, fieldIds, strict=True):
            value.fieldId, value.scopeId = wanted if isinstance(wanted, tuple | list) else (wanted, 0)
            self._fill(gpu, value)
        return values

    def nvmlDeviceGetUtilizationRates(self, handle: object) -> Any:  # noqa: N802
        """gpu and memory in percent of time; not with MIG."""
        readings = self._without_mig(handle).readings
        return self._pynvml.c_nvmlUtilization_t(gpu=readings.sm_percent, memory=readings.memory_percent)

    def nvmlDeviceGetTemperature(self, handle: object, sensor: int) -> int:  # noqa: N802
        """°C of the one sensor there is."""
        gpu = self._gpu(handle)
        if sensor != self._pynvml.NVML_TEMPERATURE_GPU:
            raise self._error("NVML_ERROR_INVALID_ARGUMENT")
        return gpu.readings.temperature_c

    def nvmlDeviceGetClockInfo(self, handle: object, type: int) -> int:  # noqa: A002, N802
        """MHz: the boost clocks while a context exists, which keeps them up even when it is idle."""
        clocks = _CLOCKS_BUSY_MHZ if self._gpu(handle).residents else _CLOCKS_IDLE_MHZ
        for name, clock_mhz in clocks.items():
            if type == getattr(self._pynvml, name):
                return clock_mhz
        raise self._error("NVML_ERROR_NOT_SUPPORTED")

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[Any]:  # noqa: N802
        """pid, usedGpuMemory, gpuInstanceId, computeInstanceId of each compute process."""
        return self._processes(handle, "compute")

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: object) -> list[Any]:  # noqa: N802
        """The graphics processes."""
        return self._processes(handle, "graphics")

    def nvmlDeviceGetMPSComputeRunningProcesses(self, handle: object) -> list[Any]:  # noqa: N802
        """The clients of MPS, which have a list of their own."""
        return self._processes(handle, "mps")

    def nvmlDeviceGetProcessUtilization(self, handle: object, timeStamp: int) -> list[Any]:  # noqa: N802, N803
        """One entry for each process that worked since ``timeStamp`` (Unix µs); NotFound where none did."""
        return self._utilization(handle, timeStamp, self._pynvml.c_nvmlProcessUtilizationSample_t)

    def nvmlDeviceGetProcessesUtilizationInfo(self, handle: object, timeStamp: int) -> list[Any]:  # noqa: N802, N803
        """The same, in the newer struct."""
        return self._utilization(handle, timeStamp, self._pynvml.c_nvmlProcessUtilizationInfo_v1_t)

    def _gpus(self) -> tuple[SimulatedGpu, ...]:
        if not self._initialised:
            raise self._error("NVML_ERROR_UNINITIALIZED")
        return self._devices.catch_up()

    def _gpu(self, handle: object) -> SimulatedGpu:
        self._gpus()
        if not isinstance(handle, SimulatedGpu):
            raise self._error("NVML_ERROR_INVALID_ARGUMENT")
        if handle.is_lost:
            raise self._error("NVML_ERROR_GPU_IS_LOST")
        return handle

    def _without_mig(self, handle: object) -> SimulatedGpu:
        gpu = self._gpu(handle)
        if gpu.plan.instances:
            raise self._error("NVML_ERROR_NOT_SUPPORTED")
        return gpu

    def _error(self, name: str) -> Exception:
        error: Exception = self._pynvml.NVMLError(getattr(self._pynvml, name))
        return error

    def _absent(self, *_: object) -> None:
        raise self._error("NVML_ERROR_FUNCTION_NOT_FOUND")

    def _unix_us(self, t_ms: int) -> int:
        return self._devices.wall_ns(self._devices.start_ns + t_ms * 1_000_000) // 1_000

    def _fill_all(self, handle: object, _count: int, values: Any) -> int:
        try:
            gpu = self._gpu(handle)
        except self._pynvml.NVMLError as error:
            return int(error.value)
        for value in values:
            self._fill(gpu, value)
        return 0

    def _fill(self, gpu: SimulatedGpu, value: Any) -> None:
        nvml, readings = self._pynvml, gpu.readings
        value.timestamp = self._unix_us(readings.t_ms)
        value.latencyUsec = _LATENCY_US
        value.nvmlReturn = nvml.NVML_SUCCESS
        power_scope = (
            nvml.NVML_POWER_SCOPE_MODULE if gpu.plan.scope == "module" else nvml.NVML_POWER_SCOPE_GPU
        )
        powers = {nvml.NVML_FI_DEV_POWER_INSTANT: readings.instant_mw}
        if gpu.plan.power_average:
            powers[nvml.NVML_FI_DEV_POWER_AVERAGE] = readings.average_mw
        energies = (nvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, nvml.NVML_FI_DEV_ENERGY)
        if value.fieldId in energies and gpu.plan.energy_counter:
            value.valueType = nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
            value.value.ullVal = readings.energy_mj
        elif value.fieldId in powers and value.scopeId == power_scope:
            value.valueType = nvml.NVML_VALUE_TYPE_UNSIGNED_INT
            value.value.uiVal = powers[value.fieldId]
        else:
            value.nvmlReturn = nvml.NVML_ERROR_NOT_SUPPORTED

    def _processes(self, handle: object, process_list: str) -> list[Any]:
        found = []
        for resident in self._gpu(handle).residents:
            if resident.plan.process_list != process_list:
                continue
            place = resident.plan.instance
            entry = self._pynvml.c_nvmlProcessInfo_v3_t(
                pid=resident.pid,
                usedGpuMemory=resident.memory_bytes,
                gpuInstanceId=_NO_INSTANCE if place is None else instance_number(place),
                computeInstanceId=_NO_INSTANCE if place is None else 0,
            )
            found.append(self._pynvml.nvmlStructToFriendlyObject(entry))
        return found

    def _utilization(self, handle: object, last_seen_us: int, struct: Callable[..., Any]) -> list[Any]:
        """Means over the samples since ``last_seen_us``; 0: over the whole buffer (nvml.h 8487), which also
        contains processes that have ended."""
        gpu = self._without_mig(handle)
        now_ms = gpu.step * STEP_MS
        by_pid: dict[int, list[UtilizationSample]] = {}
        for sample in tuple(gpu.samples):
            if sample.visible_ms <= now_ms and self._unix_us(sample.t_ms) > last_seen_us:
                by_pid.setdefault(sample.pid, []).append(sample)
        entries = []
        for pid, samples in by_pid.items():
            sm_percent = round(sum(sample.sm_permille for sample in samples) / len(samples) / 10)
            memory_percent = round(sum(sample.memory_permille for sample in samples) / len(samples) / 10)
            if sm_percent:
                newest_us = max(self._unix_us(sample.t_ms) for sample in samples)
                entries.append(
                    struct(pid=pid, timeStamp=newest_us, smUtil=sm_percent, memUtil=memory_percent)
                )
        if not entries:
            raise self._error("NVML_ERROR_NOT_FOUND")
        if gpu.draw_garbage():
            entries.append(struct(pid=entries[0].pid, timeStamp=entries[0].timeStamp, smUtil=_GARBAGE))
        return entries
