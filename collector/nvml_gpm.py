"""How busy each MIG instance was, by GPM (Hopper and later): per-process utilisation does not exist with MIG.

A GPM sample has the counters at an instant; two samples give the activity of the time between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from wattribute.collector.nvml_calls import DeviceCalls

_SM_UTIL: Final = 2  # NVML_GPM_METRIC_SM_UTIL: per cent of the instance's multiprocessors that were busy
_LEAST_NS: Final = 200_000_000  # two samples must be more than 100 ms apart (nvml.h, nvmlGpmMetricsGet)
_MOST_NS: Final = 60_000_000_000  # over a longer time the mean says little


@dataclass(slots=True)
class _Taken:
    """The latest sample of an instance, and the UUIDs that identify the instance."""

    sample: Any
    t: int
    uuids: frozenset[str]


class InstanceActivity:
    """The activity of a device's MIG instances, each between one reading and the next."""

    def __init__(self, calls: DeviceCalls) -> None:
        self._calls = calls
        self._taken: dict[int, _Taken] = {}
        self._room: list[Any] = []  # samples that NVML allocated and that are free
        self._request: Any = None

    def read(self, t: int, instances: dict[int, frozenset[str]]) -> dict[int, float]:
        """SM per cent of each instance since its previous reading, by its number. ``instances`` maps a number
        to the UUIDs of its MIG devices: they show when a new instance has an old number."""
        for number in self._taken.keys() - instances.keys():
            self._room.append(self._taken.pop(number).sample)
        support = self._calls("nvmlGpmQueryDeviceSupport") if instances else None
        if support is None or not support.isSupportedDevice:
            return {}
        found: dict[int, float] = {}
        for number, uuids in instances.items():
            before = self._taken.get(number)
            if before is not None and 0 <= t - before.t < _LEAST_NS:
                continue
            sample = self._room.pop() if self._room else self._allocated()
            if sample is None or self._calls("nvmlGpmMigSampleGet", number, sample) is None:
                self._room += [sample] * (sample is not None)
                continue
            self._taken[number] = _Taken(sample, t, uuids)
            if before is None:
                continue
            if before.uuids == uuids and 0 <= t - before.t <= _MOST_NS:  # below 0: the clock was set back
                percent = self._between(before.sample, sample)
                found |= {} if percent is None else {number: percent}
            self._room.append(before.sample)
        return found

    def _allocated(self) -> Any:
        binding = self._calls.binding
        return self._calls("nvmlGpmSampleAlloc", function=lambda _: binding.nvmlGpmSampleAlloc())

    def _between(self, before: Any, after: Any) -> float | None:
        binding = self._calls.binding
        if self._request is None:  # 19 KB
            self._request = binding.c_nvmlGpmMetricsGet_t()
        request = self._request
        request.version, request.numMetrics = binding.NVML_GPM_METRICS_GET_VERSION, 1
        request.sample1, request.sample2 = before, after
        metric = request.metrics[0]
        metric.metricId, metric.nvmlReturn = _SM_UTIL, 0
        name = "nvmlGpmMetricsGet"
        if self._calls(name, function=lambda _: binding.nvmlGpmMetricsGet(request)) is None:
            return None
        if not self._calls.answered(name, metric.nvmlReturn, "a metric failed"):
            return None
        if not math.isfinite(metric.value) or metric.value < 0.0:
            self._calls.implausible(name)
            return None
        return min(float(metric.value), 100.0)  # 130 was seen (NVIDIA/DCGM issue 152)
