"""Read the GPUs of this machine through NVML. This is the only file that imports pynvml.

Each device is read in two ways. ``read_fast`` reads the energy counter, power and utilisation: it takes
microseconds, fast enough for 100 Hz. ``read_slow`` reads memory, temperature, clock, the processes and what
they used: one process list was measured at 4.5 ms, under a lock of the whole driver (MangoHud PR 2104).

A device is identified by its UUID: its index may change at the next boot. An absent value is None, never 0.
"""

from __future__ import annotations

import importlib
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from wattribute.collector.nvml_calls import (
    DRIVER_GONE,
    DRIVER_NOT_LOADED,
    LIB_RM_VERSION_MISMATCH,
    LIBRARY_NOT_FOUND,
    NO_PERMISSION,
    UNKNOWN,
    DeviceCalls,
    GpuError,
)
from wattribute.collector.nvml_gpm import InstanceActivity
from wattribute.collector.nvml_power import PowerReader
from wattribute.collector.nvml_processes import (
    ProcessSamples,
    Resident,
    Sample,
    after_the_clock_was_set,
    running,
)
from wattribute.errors import WattributeError
from wattribute.records import Device, Gpu, Instance

Now = Callable[[], int]
"""The time, in Unix ns."""


@dataclass(frozen=True, slots=True)
class SlowReading:
    """The result of ``read_slow`` at ``t``. ``residents`` is None where no process list could be read."""

    t: int
    memory_used_bytes: int | None
    temperature_c: int | None
    sm_clock_mhz: int | None
    residents: tuple[Resident, ...] | None
    samples: tuple[Sample, ...]
    instances: tuple[Instance, ...]


class Nvml:
    """The devices of this machine, as found on creation.

    ``binding`` is the module pynvml (the default) or an object with the same functions. ``errors`` counts
    every failed reading by (call, NVML code). Raises WattributeError where NVML does not start or has no
    readable device.
    """

    def __init__(self, binding: Any = None) -> None:
        self.binding: Any = load_pynvml() if binding is None else binding
        self.errors: Counter[tuple[str, int]] = Counter()
        # Devices that gave no UUID at the start: they are never read. Devices that NVML counts but may not
        # access, as in a job that has one GPU of eight, are not among them: they belong to others.
        self.nameless_count = 0
        self.session = 0  # grows with each restart: a handle is valid only within its session
        self._counting = threading.Lock()
        self._reopening = threading.Lock()
        try:
            self.binding.nvmlInit()
        except self.binding.NVMLError as error:
            raise WattributeError(_why_not(error)) from error
        self.gpus: tuple[GpuReader, ...] = tuple(self._discover())
        if not self.gpus:
            self.close()
            raise WattributeError(
                f"NVML shows no GPU that can be read ({self.shown_errors() or 'it counts none'}): "
                "check `nvidia-smi -L`, and if this is a container, give it access to the GPUs"
            )

    def reopen(self, gpu: GpuReader) -> None:
        """Bring back a device that was out: find it again by its UUID and probe its calls again.

        NVML itself is restarted where the driver went away or no device answers, but not because one of
        several fails: a restart would invalidate the handles of those that work. Raises GpuError while the
        device does not come back.
        """
        with self._reopening:
            all_out = all(other.calls.failed_code for other in self.gpus)
            if gpu.session == self.session and (gpu.calls.failed_code in DRIVER_GONE or all_out):
                self._restart(gpu)
        name = "nvmlDeviceGetHandleByUUID"
        try:
            handle = self.binding.nvmlDeviceGetHandleByUUID(gpu.uuid.encode())
        except self.binding.NVMLError as error:
            self.count(name, error.value)
            raise GpuError(gpu.uuid, name, error.value, str(error)) from error
        gpu.take(handle)
        gpu.probe()

    def close(self) -> None:
        """Shut NVML down."""
        try:
            self.binding.nvmlShutdown()
        except self.binding.NVMLError as error:
            self.count("nvmlShutdown", error.value)

    def count(self, call: str, code: int) -> None:
        """Count a failed reading. Can be called from any thread."""
        with self._counting:
            self.errors[call, code] += 1

    def shown_errors(self) -> str:
        """The failed readings in words, the most frequent first."""
        return ", ".join(f"{call}: NVML {code} ({n} times)" for (call, code), n in self.errors.most_common())

    def _restart(self, gpu: GpuReader) -> None:
        self.close()  # fails after a driver reload; the failure is counted
        try:
            self.binding.nvmlInit()
        except self.binding.NVMLError as error:
            self.count("nvmlInit", error.value)
            raise GpuError(gpu.uuid, "nvmlInit", error.value, str(error)) from error
        self.session += 1

    def _discover(self) -> list[GpuReader]:
        found: list[GpuReader] = []
        try:
            count = self.binding.nvmlDeviceGetCount()
        except self.binding.NVMLError as error:
            self.count("nvmlDeviceGetCount", error.value)
            count = 0
        for index in range(count):
            call = "nvmlDeviceGetHandleByIndex"
            try:
                handle = self.binding.nvmlDeviceGetHandleByIndex(index)
                call = "nvmlDeviceGetUUID"
                found.append(GpuReader(self, self.binding.nvmlDeviceGetUUID(handle), index, handle))
                found[-1].probe()
            except self.binding.NVMLError as error:  # a lost device must not hide the others
                self.count(call, error.value)
                self.nameless_count += error.value != NO_PERMISSION
            except GpuError:
                continue  # the failure is counted; the UUID is known, so `reopen` may bring the device back
        return found


class GpuReader:
    """One device. ``read_fast`` and ``read_slow`` may run at the same time, in two threads."""

    def __init__(self, nvml: Nvml, uuid: str, index: int, handle: Any) -> None:
        self.uuid = uuid
        self.identity = Gpu(t=0, gpu=uuid, index=index)
        self.file_number: int | None = index  # N of /dev/nvidiaN; NVML's own order may differ
        self.mig_uuids: dict[str, int] = {}  # at the last slow reading: MIG device UUID -> GPU instance
        self._nvml = nvml
        self.take(handle)

    def take(self, handle: Any) -> None:
        """Use a handle of the current NVML session and forget what was known of the device."""
        nvml = self._nvml
        self.session = session = nvml.session
        self.calls = DeviceCalls(nvml.binding, self.uuid, handle, lambda: nvml.session == session, nvml.count)
        self._power: PowerReader | None = None
        self._samples = ProcessSamples()
        self._activity = InstanceActivity(self.calls)
        self._mig = False

    def probe(self) -> None:
        """Find out what the device is and which calls it supports. Raises GpuError."""
        name = self.calls("nvmlDeviceGetName")
        memory = self.calls("nvmlDeviceGetMemoryInfo")
        limit_mw = self._asked("nvmlDeviceGetEnforcedPowerLimit", "power_limit_mw")
        index = self._asked("nvmlDeviceGetIndex", "index")  # may differ after a reload with other devices
        index = self.identity.index if index is None else index
        file_number = self.calls("nvmlDeviceGetMinorNumber")
        self.file_number = index if file_number is None else file_number
        self._power = PowerReader(self.calls)
        self.identity = Gpu(
            t=0,
            gpu=self.uuid,
            name=name or "",
            index=index,
            memory_bytes=memory and self.calls.sane("nvmlDeviceGetMemoryInfo", "memory_bytes", memory.total),
            power_limit_mw=limit_mw,
            scope=self._power.scope,
        )

    def read_fast(self, now_ns: Now) -> Device:
        """Read energy, power and utilisation; ``t`` is right after energy and power. Raises GpuError."""
        if self._power is None:
            raise GpuError(self.uuid, "probe", self.calls.failed_code, "the device has not answered yet")
        power = self._power.read()
        t = now_ns()
        rates = self.calls(name := "nvmlDeviceGetUtilizationRates")
        if rates is None and power == (None, None, None) and self._power.asked_in_vain():
            # otherwise a record without any reading would claim that the device was observed
            raise self.calls.out("read_fast", UNKNOWN, "no reading of the device succeeded")
        return Device(
            t=t,
            gpu=self.uuid,
            energy_mj=power.energy_mj,
            power_mw=power.power_mw,
            power_average_mw=power.power_average_mw,
            sm_percent=rates and self.calls.sane(name, "sm_percent", float(rates.gpu)),
            memory_percent=rates and self.calls.sane(name, "memory_percent", float(rates.memory)),
        )

    def read_slow(self, now_ns: Now, fresh: bool = False) -> SlowReading:
        """Read memory, temperature, clock, the processes and what they used since the last call.

        ``fresh`` forgets the last seen timestamp: use it after the wall clock was set. Raises GpuError.
        """
        self._follow_mig_mode()
        memory = self.calls("nvmlDeviceGetMemoryInfo")  # None where memory is shared with the CPU (GB10)
        sensor, clock = self.calls.binding.NVML_TEMPERATURE_GPU, self.calls.binding.NVML_CLOCK_SM
        temperature_c = self._asked("nvmlDeviceGetTemperature", "temperature_c", sensor)
        clock_mhz = self._asked("nvmlDeviceGetClockInfo", "sm_clock_mhz", clock)
        residents = running(self.calls, self.identity.memory_bytes)
        t = now_ns()
        if fresh:
            self._samples = after_the_clock_was_set(self._samples, t)
        samples: list[Sample] = []
        if residents is not None:
            samples = self._samples.read(self.calls, t, {resident.pid for resident in residents})
        return SlowReading(
            t=t,
            memory_used_bytes=memory
            and self.calls.sane("nvmlDeviceGetMemoryInfo", "memory_used_bytes", memory.used),
            temperature_c=temperature_c,
            sm_clock_mhz=clock_mhz,
            residents=None if residents is None else tuple(residents),
            samples=tuple(samples),
            instances=tuple(self._instances(t)),
        )

    def _asked(self, call: str, field: str, *args: Any) -> int | None:
        return self.calls.sane(call, field, self.calls(call, *args))

    def _follow_mig_mode(self) -> None:
        """Probe the calls again where MIG was switched on or off: per-process utilisation depends on it."""
        mode = self.calls("nvmlDeviceGetMigMode")
        if mode is not None and (mode[0] == 1) != self._mig:
            self._mig = not self._mig
            self.calls.probe_anew()

    def _instances(self, t: int) -> list[Instance]:
        """The MIG instances, and how busy each was. NVML has no power per instance, and the device's power is
        not given to each of them."""
        found: dict[int, Instance] = {}
        uuids: dict[str, int] = {}
        for place in range(self.calls("nvmlDeviceGetMaxMigDeviceCount") or 0) if self._mig else ():
            handle = self.calls(
                "nvmlDeviceGetMigDeviceHandleByIndex", place, empty=0
            )  # not every index is used
            number = self.calls("nvmlDeviceGetGpuInstanceId", handle=handle) if handle else None
            if number is None:
                continue
            uuids[self.calls("nvmlDeviceGetUUID", handle=handle) or ""] = number
            if number in found:  # several compute instances may share a GPU instance
                continue
            attributes = self.calls("nvmlDeviceGetAttributes", handle=handle)
            name = self.calls("nvmlDeviceGetName", handle=handle) or ""
            found[number] = Instance(
                t=t,
                gpu=self.uuid,
                gpu_instance=number,
                # "NVIDIA H200 MIG 3g.71gb", or "… MIG 1c.3g.71gb" for a compute instance inside it
                profile=re.sub(r"^\d+c\.", "", name.rpartition("MIG ")[2]),
                slices=attributes
                and self.calls.sane("nvmlDeviceGetAttributes", "slices", attributes.gpuInstanceSliceCount),
            )
        uuids = {uuid: number for uuid, number in uuids.items() if uuid}
        if uuids != self.mig_uuids:
            self.calls.forget_absent()  # a call on an instance that was just removed fails as if unsupported
        self.mig_uuids = uuids
        of = {number: frozenset(u for u, n in uuids.items() if n == number) for number in found}
        busy = self._activity.read(t, of)
        return [replace(instance, sm_percent=busy.get(number)) for number, instance in found.items()]


def load_pynvml() -> Any:
    """NVIDIA's binding, imported on use: a simulated host does not need its 5.6 MB."""
    module = importlib.import_module("pynvml")
    # An old package on PyPI has the same name. It is a directory; NVIDIA's is one file.
    if hasattr(module, "__path__") or not hasattr(module, "nvmlDeviceGetProcessesUtilizationInfo"):
        raise WattributeError(
            f"the module pynvml at {module.__file__} is not NVIDIA's, or is too old: "
            "run `pip uninstall -y pynvml`, then `pip install --force-reinstall nvidia-ml-py`"
        )
    return module


def _why_not(error: Any) -> str:
    what = {
        DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded; run `modprobe nvidia`, or check "
        "`dmesg | grep NVRM`",
        LIBRARY_NOT_FOUND: "there is no NVML (libnvidia-ml.so.1 cannot be loaded); install the NVIDIA "
        "driver, or if this is a container, give it access to the GPUs",
        LIB_RM_VERSION_MISMATCH: "the NVIDIA library and the loaded driver differ in version; reload the "
        "driver, or reboot",
    }
    return what.get(error.value, f"NVML does not start: {error} (NVML {error.value}); check `nvidia-smi`")
