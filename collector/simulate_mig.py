"""NVML's view of the MIG instances of simulated devices: which exist, and by GPM how busy each is.

A GPM sample is opaque to callers. In this module it is two numbers: the step at which it was taken, and the
SM time of the instance up to then, in permille of the instance × steps.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import POINTER, c_longlong, cast
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from wattribute.collector.scenario import MIG_SLICES
from wattribute.collector.simulate_gpu import STEP_MS, WHOLE_SM, SimulatedGpu

_GPM_LEAST_MS: Final = 100  # between two samples (nvml.h, nvmlGpmMetricsGet)


def instance_number(place: int) -> int:
    """NVML's number of the GPU instance that a scenario lists at ``place``; 0 means the whole GPU."""
    return place + 1


@dataclass(frozen=True, slots=True)
class MigDevice:
    """The handle of an instance: opaque to callers."""

    gpu: SimulatedGpu
    place: int

    @property
    def slices(self) -> int:
        """How many of the GPU's compute slices the instance has."""
        return self.gpu.plan.instances[self.place]

    @property
    def uuid(self) -> str:
        """MIG-…"""
        return f"MIG-{self.gpu.uuid.removeprefix('GPU-')}-{self.place}"

    @property
    def name(self) -> str:
        """The name of the GPU, with the profile of the instance."""
        memory_gib = self.gpu.plan.memory_gib * self.slices // MIG_SLICES
        return f"{self.gpu.plan.name} MIG {self.slices}g.{memory_gib:.0f}gb"


class SimulatedMig:
    """pynvml's calls for MIG and GPM, under the same names. ``gpu`` returns the device of a handle or raises
    NVML's error for it; ``error`` makes an NVMLError from the name of its code."""

    def __init__(
        self, pynvml: ModuleType, gpu: Callable[[object], SimulatedGpu], error: Callable[[str], Exception]
    ) -> None:
        self._pynvml = pynvml
        self._gpu = gpu
        self._error = error

    def nvmlDeviceGetMigMode(self, device: object) -> list[int]:  # noqa: N802 - the names are pynvml's
        """[current, pending]."""
        mode = int(bool(self._gpu(device).plan.instances))
        return [mode, mode]

    def nvmlDeviceGetMaxMigDeviceCount(self, device: object) -> int:  # noqa: N802
        """How many MIG devices are possible."""
        self._gpu(device)
        return MIG_SLICES

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: object, index: int) -> MigDevice:  # noqa: N802
        """A handle; NotFound at an index that is not used."""
        gpu = self._gpu(device)
        if index >= len(gpu.plan.instances):
            raise self._error("NVML_ERROR_NOT_FOUND")
        return MigDevice(gpu, index)

    def nvmlDeviceGetGpuInstanceId(self, device: object) -> int:  # noqa: N802
        """The number by which processes name their instance."""
        return instance_number(self._instance(device).place)

    def nvmlDeviceGetAttributes(self, device: object) -> Any:  # noqa: N802
        """The attributes of a MIG device; only its compute slices are set."""
        return self._pynvml.c_nvmlDeviceAttributes(gpuInstanceSliceCount=self._instance(device).slices)

    def nvmlGpmQueryDeviceSupport(self, device: object) -> Any:  # noqa: N802
        """Always supported, as on Hopper and later."""
        self._gpu(device)
        return self._pynvml.c_nvmlGpmSupport_t(isSupportedDevice=1)

    def nvmlGpmSampleAlloc(self) -> Any:  # noqa: N802
        """Memory for a sample."""
        return cast((c_longlong * 2)(), self._pynvml.c_nvmlGpmSample_t)

    def nvmlGpmMigSampleGet(self, device: object, gpuInstanceId: int, gpmSample: Any) -> Any:  # noqa: N802, N803
        """Fill a sample; InvalidArgument where there is no such instance."""
        gpu = self._gpu(device)
        if not 1 <= gpuInstanceId <= len(gpu.plan.instances):
            raise self._error("NVML_ERROR_INVALID_ARGUMENT")
        place = gpuInstanceId - instance_number(0)
        numbers = cast(gpmSample, POINTER(c_longlong))
        numbers[0] = gpu.step
        numbers[1] = gpu.instance_permille_steps[place] * MIG_SLICES // gpu.plan.instances[place]
        return gpmSample

    def nvmlGpmMetricsGet(self, metricsGet: Any) -> Any:  # noqa: N802, N803
        """SM utilisation between two samples, in percent of the instance."""
        before, after = (
            cast(sample, POINTER(c_longlong)) for sample in (metricsGet.sample1, metricsGet.sample2)
        )
        steps = after[0] - before[0]
        for metric in metricsGet.metrics[: metricsGet.numMetrics]:
            if metric.metricId != self._pynvml.NVML_GPM_METRIC_SM_UTIL or steps * STEP_MS <= _GPM_LEAST_MS:
                metric.nvmlReturn = self._pynvml.NVML_ERROR_INVALID_ARGUMENT
            else:
                metric.value = 100.0 * (after[1] - before[1]) / steps / WHOLE_SM
        return metricsGet

    def _instance(self, handle: object) -> MigDevice:
        if not isinstance(handle, MigDevice):
            raise self._error("NVML_ERROR_INVALID_ARGUMENT")
        self._gpu(handle.gpu)
        return handle
