"""A device's energy counter and power: which of NVML's sources it supports, and how to read each."""

from __future__ import annotations

from typing import Final, NamedTuple

from wattribute.collector.nvml_calls import DeviceCalls
from wattribute.collector.nvml_fields import FieldValue, FieldValues
from wattribute.records import is_plausible

_POWER: Final = frozenset({"power_mw", "power_average_mw"})
_ASKED: Final = {
    name: f"nvmlDeviceGetFieldValues({name})" for name in ("energy_mj", "power_mw", "power_average_mw")
}


class Power(NamedTuple):
    """The energy counter since the driver was loaded, the power now, and the mean power over 1 s."""

    energy_mj: int | None = None
    power_mw: int | None = None
    power_average_mw: int | None = None


class PowerReader:
    """Reads energy and power of one device. Probes on creation; raises GpuError as every call does.

    ``scope`` is ``module`` where the device reports them for its whole module only.
    """

    def __init__(self, call: DeviceCalls) -> None:
        self._call = call
        self._fields: dict[str, tuple[int, int]] = {}
        self.scope = self._probe_fields()
        self._ask = FieldValues(call.binding, list(self._fields.values()))
        self._counter_apart = "energy_mj" not in self._fields
        self._power_apart = _POWER.isdisjoint(self._fields)
        self._usage_is_average = self._power_apart and self._probe_usage()

    def read(self) -> Power:
        """Read the device. Nothing is smoothed: a counter that was not updated gives the same value again."""
        told: dict[str, int | None] = {}
        if self._fields:
            # One call for all: NVML fetches fields of the same driver call once (nvml.h 10216), so the values
            # are of the same moment.
            values = self._call("nvmlDeviceGetFieldValues", function=self._ask)
            if values is not None:
                pairs = zip(self._fields, values, strict=True)
                told = {name: self._field(name, value) for name, value in pairs}
        if self._counter_apart:
            name = "nvmlDeviceGetTotalEnergyConsumption"  # Volta and newer, and not on many vGPUs
            told["energy_mj"] = self._call.sane(name, "energy_mj", self._call(name))
        if self._power_apart:
            name = "nvmlDeviceGetPowerUsage"
            field = "power_average_mw" if self._usage_is_average else "power_mw"
            told[field] = self._call.sane(name, field, self._call(name))
        return Power(**told)

    def asked_in_vain(self) -> bool:
        """After a reading without values: whether the device has a source that should have given one."""
        return bool(self._fields) or not (
            self._call.absent("nvmlDeviceGetTotalEnergyConsumption")
            and self._call.absent("nvmlDeviceGetPowerUsage")
        )

    def _probe_fields(self) -> str:
        of_gpu = self._answering_fields(self._call.binding.NVML_POWER_SCOPE_GPU)
        if _POWER.isdisjoint(of_gpu):
            # Grace Hopper: power fails in the GPU scope, and the energy counter is the whole module's even
            # where it answers in the GPU scope (zeus nvidia.py, zeus PR 172). So "module" covers both.
            of_module = self._answering_fields(self._call.binding.NVML_POWER_SCOPE_MODULE)
            if not _POWER.isdisjoint(of_module):
                self._fields = of_gpu | of_module
                return "module"
        # Without power in either scope, that of the energy field proves nothing: old drivers ignore it.
        self._fields = of_gpu
        return ""

    def _answering_fields(self, scope: int) -> dict[str, tuple[int, int]]:
        # The scope is explicit: power fields need it (nvml.h 2709), and the header is consistent about 0 and
        # 1 only. Field numbers come from the binding: some were renumbered within 13.0.
        binding = self._call.binding
        fields = {
            "energy_mj": (binding.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, scope),
            "power_mw": (binding.NVML_FI_DEV_POWER_INSTANT, scope),
            "power_average_mw": (binding.NVML_FI_DEV_POWER_AVERAGE, scope),  # absent on Turing
        }
        ask = FieldValues(binding, list(fields.values()))
        values = self._call("nvmlDeviceGetFieldValues", function=ask)
        if values is None:
            return {}
        answers = {name: self._field(name, value) for name, value in zip(fields, values, strict=True)}
        return {name: field for name, field in fields.items() if answers[name] is not None}

    def _field(self, name: str, value: FieldValue) -> int | None:
        call = _ASKED[name]
        if not self._call.answered(call, value.code, "the field's own return code says so"):
            return None
        number = value.number
        if number is None or not is_plausible(name, number):
            self._call.implausible(call)
            return None
        return int(number)

    def _probe_usage(self) -> bool:
        """Whether nvmlDeviceGetPowerUsage is a 1 s average. It is on Ampere (except GA100) and newer, and
        instantaneous on GA100 and older (nvml.h 6538). A device without an architecture counts as newer."""
        architecture = self._call("nvmlDeviceGetArchitecture")
        ampere = self._call.binding.NVML_DEVICE_ARCH_AMPERE
        if architecture is None or architecture > ampere:
            return True
        if architecture < ampere:
            return False
        # within Ampere, only GA100 has compute capability 8.0
        return tuple(self._call("nvmlDeviceGetCudaComputeCapability") or ()) != (8, 0)
