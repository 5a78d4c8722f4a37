"""A device's energy counter and power: which of NVML's sources it has, and how each is to be read."""

from __future__ import annotations

from typing import Final, NamedTuple

from wattribute.collector.nvml_calls import DeviceCalls
from wattribute.collector.nvml_fields import FieldValue, FieldValues

_POWER: Final = frozenset({"power_mw", "power_average_mw"})
_ASKED: Final = {
    name: f"nvmlDeviceGetFieldValues({name})" for name in ("energy_mj", "power_mw", "power_average_mw")
}
_POWER_MAX_MW: Final = 10_000_000  # above 10 kW is sensor garbage; polarsignals drops the same
_ENERGY_MAX_MJ: Final = (1 << 62) // 1000  # the same in µJ must fit 63 bits


class Power(NamedTuple):
    """The counter since the driver was loaded, power now, and its mean over 1 s."""

    energy_mj: int | None
    power_mw: int | None
    power_average_mw: int | None


class PowerReader:
    """Reads energy and power of one device. Probes on creation; raises GpuError as every call does.

    ``scope`` is ``module`` where the device tells them for its whole module only.
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
        """What the device says now; nothing is smoothed: a counter that has not been updated is repeated."""
        energy_mj = power_mw = average_mw = None
        if self._fields:
            # One call: what one driver call feeds is fetched once (nvml.h 10216), so they are of one moment.
            values = self._call("nvmlDeviceGetFieldValues", function=self._ask)
            if values is not None:
                for name, value in zip(self._fields, values, strict=True):
                    if name == "energy_mj":
                        energy_mj = self._field(name, value)
                    elif name == "power_mw":
                        power_mw = self._field(name, value)
                    else:
                        average_mw = self._field(name, value)
        if self._counter_apart:
            name = "nvmlDeviceGetTotalEnergyConsumption"  # Volta and newer, and not on many vGPUs
            energy_mj = self._sane(name, self._call(name), _ENERGY_MAX_MJ)
        if self._power_apart:
            name = "nvmlDeviceGetPowerUsage"
            usage_mw = self._sane(name, self._call(name), _POWER_MAX_MW)
            power_mw, average_mw = (None, usage_mw) if self._usage_is_average else (usage_mw, None)
        return Power(energy_mj, power_mw, average_mw)

    def asked_in_vain(self) -> bool:
        """After a reading of nothing: whether the device has a source that should have told something."""
        return bool(self._fields) or not (
            self._call.absent("nvmlDeviceGetTotalEnergyConsumption")
            and self._call.absent("nvmlDeviceGetPowerUsage")
        )

    def _probe_fields(self) -> str:
        of_gpu = self._answering_fields(self._call.binding.NVML_POWER_SCOPE_GPU)
        if _POWER.isdisjoint(of_gpu):
            # Grace Hopper: the GPU scope fails, and the energy counter is the whole module's even where it
            # answers in the GPU scope (zeus nvidia.py, zeus PR 172). So the label covers both.
            of_module = self._answering_fields(self._call.binding.NVML_POWER_SCOPE_MODULE)
            if not _POWER.isdisjoint(of_module):
                self._fields = of_gpu | of_module
                return "module"
        # Without power in either, the energy field's own scope tells nothing: old drivers ignore it.
        self._fields = of_gpu
        return ""

    def _answering_fields(self, scope: int) -> dict[str, tuple[int, int]]:
        # The scope is explicit: power fields need it (nvml.h 2709), and 0 and 1 are the ones on which the
        # header agrees with itself. Numbers come from the binding: some fields were renumbered within 13.0.
        binding = self._call.binding
        fields = {
            "energy_mj": (binding.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, scope),
            "power_mw": (binding.NVML_FI_DEV_POWER_INSTANT, scope),
            "power_average_mw": (binding.NVML_FI_DEV_POWER_AVERAGE, scope),  # not on Turing
        }
        ask = FieldValues(binding, list(fields.values()))
        values = self._call("nvmlDeviceGetFieldValues", function=ask)
        if values is None:
            return {}
        answers = {name: self._field(name, value) for name, value in zip(fields, values, strict=True)}
        return {name: field for name, field in fields.items() if answers[name] is not None}

    def _field(self, name: str, value: FieldValue) -> int | None:
        call = _ASKED[name]
        if not self._call.answered(call, value.code, "by this field's own return code"):
            return None
        number = value.number
        if number is None or not 0 <= number <= (_ENERGY_MAX_MJ if name == "energy_mj" else _POWER_MAX_MW):
            self._call.implausible(call)
            return None
        return int(number)

    def _sane(self, call: str, value: int | None, most: int) -> int | None:
        if value is None or 0 <= value <= most:
            return value
        self._call.implausible(call)
        return None

    def _probe_usage(self) -> bool:
        """Whether nvmlDeviceGetPowerUsage is a 1 s average: on Ampere except GA100, and newer; instantaneous
        on GA100 and older (nvml.h 6538). A device that does not say counts as newer."""
        architecture = self._call("nvmlDeviceGetArchitecture")
        ampere = self._call.binding.NVML_DEVICE_ARCH_AMPERE
        if architecture is None or architecture > ampere:
            return True
        if architecture < ampere:
            return False
        # of Ampere, GA100 alone has compute capability 8.0
        return tuple(self._call("nvmlDeviceGetCudaComputeCapability") or ()) != (8, 0)
