"""NVML through NVIDIA's own binding, against a fake libnvidia-ml.so.1 with the traps of the real one."""

from __future__ import annotations

from dataclasses import replace

import pynvml
import pytest

from tests.collector.readings import (
    GIB,
    NOT_SUPPORTED,
    UNKNOWN,
    T,
    fast,
    now,
)
from tests.fake_nvml.library import AVERAGE, ENERGY, GPU_SCOPE, INSTANT, MODULE_SCOPE, FakeNvml
from wattribute.collector.nvml import Nvml
from wattribute.collector.nvml_calls import IMPLAUSIBLE
from wattribute.records import Device, Gpu, as_json, parse
from wattribute.wire import Encoder


def test_devices_are_known_by_uuid(fake: FakeNvml) -> None:
    nvml = Nvml()
    assert [gpu.identity for gpu in nvml.gpus] == [
        Gpu(
            t=0,
            gpu=f"GPU-fake-{index}",
            name="NVIDIA Fake",
            index=index,
            memory_bytes=150 * GIB,
            power_limit_mw=700_000,
        )
        for index in range(2)
    ]
    nvml.close()


def test_fast_reading(fake: FakeNvml) -> None:
    gpu = Nvml().gpus[0]
    fake.set(0, energy_mj=1 << 40, instant_mw=301_250, average_mw=298_000, sm=71, mem=40)
    before = fake.get(0, "calls")
    assert fast(gpu) == Device(
        t=T,
        gpu="GPU-fake-0",
        energy_mj=1 << 40,
        power_mw=301_250,
        power_average_mw=298_000,
        sm_percent=71.0,
        memory_percent=40.0,
    )
    # energy and both powers in one call, utilisation in another: nothing else belongs in the fast lane
    assert fake.get(0, "calls") - before == 2


def test_time_is_taken_after_energy_and_before_the_rest(fake: FakeNvml) -> None:
    gpu = Nvml().gpus[0]
    start = fake.get(0, "calls")
    assert gpu.read_fast(lambda: fake.get(0, "calls") - start).t == 1


def test_counter_reset_and_standstill_are_passed_on(fake: FakeNvml) -> None:
    gpu = Nvml().gpus[0]
    seen = []
    for energy_mj in (5_000, 5_000, 12, 0):
        fake.set(0, energy_mj=energy_mj)
        seen.append(fast(gpu).energy_mj)
    assert seen == [5_000, 5_000, 12, 0]


def test_what_is_absent_is_none_and_asked_once(fake: FakeNvml) -> None:
    for call in ("FieldValues", "TotalEnergyConsumption", "PowerUsage"):
        fake.fail(0, f"nvmlDeviceGet{call}", NOT_SUPPORTED)
    nvml = Nvml()
    for _ in range(3):
        device = fast(nvml.gpus[0])
        assert (device.energy_mj, device.power_mw, device.power_average_mw) == (None, None, None)
        assert device.sm_percent == 50.0
    assert nvml.errors == {
        ("nvmlDeviceGetFieldValues", NOT_SUPPORTED): 1,
        ("nvmlDeviceGetTotalEnergyConsumption", NOT_SUPPORTED): 1,
        ("nvmlDeviceGetPowerUsage", NOT_SUPPORTED): 1,
    }


def test_pre_volta_has_power_and_no_counter(fake: FakeNvml) -> None:
    fake.set(0, architecture=4, major=6, usage_mw=123_000)  # Pascal
    fake.fail(0, "nvmlDeviceGetTotalEnergyConsumption", NOT_SUPPORTED)
    for field in (ENERGY, INSTANT, AVERAGE):
        fake.fail_field(0, field, GPU_SCOPE, NOT_SUPPORTED)
    device = fast(Nvml().gpus[0])
    assert (device.energy_mj, device.power_mw, device.power_average_mw) == (None, 123_000, None)


@pytest.mark.parametrize(
    ("architecture", "major", "minor", "is_average"),
    [
        pytest.param(6, 7, 5, False, id="Turing"),
        pytest.param(7, 8, 0, False, id="GA100"),
        pytest.param(7, 8, 6, True, id="GA102"),
        pytest.param(9, 9, 0, True, id="Hopper"),
    ],
)
def test_power_usage_is_an_average_on_newer_devices(
    fake: FakeNvml, architecture: int, major: int, minor: int, is_average: bool
) -> None:
    fake.set(0, architecture=architecture, major=major, minor=minor, usage_mw=200_000)
    fake.fail(0, "nvmlDeviceGetFieldValues", NOT_SUPPORTED)
    device = fast(Nvml().gpus[0])
    assert device.energy_mj == 1_000_000  # from the call of its own
    assert (device.power_mw, device.power_average_mw) == ((None, 200_000) if is_average else (200_000, None))


def test_an_unknown_architecture_counts_as_average(fake: FakeNvml) -> None:
    fake.fail(0, "nvmlDeviceGetFieldValues", NOT_SUPPORTED)
    fake.fail(0, "nvmlDeviceGetArchitecture", NOT_SUPPORTED)
    assert fast(Nvml().gpus[0]).power_mw is None


def test_each_field_has_its_own_return_code(fake: FakeNvml) -> None:
    fake.fail_field(0, AVERAGE, GPU_SCOPE, NOT_SUPPORTED)  # as on Turing
    nvml = Nvml()
    fake.fail_field(0, ENERGY, GPU_SCOPE, UNKNOWN)  # and this one fails later
    device = fast(nvml.gpus[0])
    assert (device.energy_mj, device.power_mw, device.power_average_mw) == (None, 300_000, None)
    assert nvml.errors["nvmlDeviceGetFieldValues(energy_mj)", UNKNOWN] == 1
    assert nvml.gpus[0].identity.scope == ""


@pytest.mark.parametrize("energy_in_gpu_scope", [False, True])
def test_grace_hopper_falls_back_to_the_module_and_says_so(fake: FakeNvml, energy_in_gpu_scope: bool) -> None:
    for field in (ENERGY, INSTANT, AVERAGE):
        fake.fail_field(0, field, GPU_SCOPE, NOT_SUPPORTED)
        fake.fail_field(0, field, MODULE_SCOPE, 0)
    if energy_in_gpu_scope:  # it is the module's counter all the same
        fake.fail_field(0, ENERGY, GPU_SCOPE, 0)
    here, other = Nvml().gpus
    assert (here.identity.scope, other.identity.scope) == ("module", "")
    device = fast(here)
    assert (device.energy_mj, device.power_mw, device.power_average_mw) == (1_000_000, 300_000, 290_000)


def test_a_value_is_read_as_its_type_says(fake: FakeNvml) -> None:
    gpu = Nvml().gpus[0]
    fake.set(0, energy_type=1, energy_mj=77)  # 32 bits; the other half of the union is garbage
    assert fast(gpu).energy_mj == 77
    fake.set(0, energy_type=4)
    assert fast(gpu).energy_mj == 77


def test_a_library_without_field_values_is_an_old_driver(
    fake: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    Nvml().close()
    library = pynvml.nvmlLib

    class Old:
        def __getattr__(self, name: str) -> object:
            if name == "nvmlDeviceGetFieldValues":
                raise AttributeError(name)
            return getattr(library, name)

    monkeypatch.setattr(pynvml, "nvmlLib", Old())
    nvml = Nvml()
    for _ in range(2):
        assert fast(nvml.gpus[0]).energy_mj == 1_000_000  # from the call of its own
    assert nvml.errors == {("nvmlDeviceGetFieldValues", 13): 2}  # asked once of each device


def test_garbage_readings_are_dropped_and_counted(fake: FakeNvml) -> None:
    nvml = Nvml()
    gpu = nvml.gpus[0]
    fake.set(0, sm=2_147_483_632, instant_mw=4_294_967_295, energy_mj=-1, energy_type=3)
    device = fast(gpu)
    assert (device.sm_percent, device.power_mw, device.energy_mj) == (None, None, None)
    assert device.power_average_mw == 290_000
    fake.set(0, energy_type=9)
    assert fast(gpu).energy_mj is None
    assert nvml.errors["nvmlDeviceGetFieldValues(energy_mj)", IMPLAUSIBLE] == 2
    assert nvml.errors["nvmlDeviceGetUtilizationRates", IMPLAUSIBLE] == 2


@pytest.mark.parametrize(
    "garbage",
    [
        {"temperature": 511},
        {"clock": 0xFFFFFFFF},
        {"used": -1},
        {"total": -1, "used": 0},
        {"limit_mw": 0xFFFFFFFF},
    ],
    ids=str,
)
def test_a_garbage_reading_costs_no_other_of_its_record(fake: FakeNvml, garbage: dict[str, int]) -> None:
    fake.set(0, **garbage)
    nvml = Nvml()
    gpu = nvml.gpus[0]
    slow = gpu.read_slow(now)
    device = replace(
        fast(gpu),
        memory_used_bytes=slow.memory_used_bytes,
        temperature_c=slow.temperature_c,
        sm_clock_mhz=slow.sm_clock_mhz,
    )
    Encoder("h", "b", 1).encode([device])
    assert parse(as_json(device)) == device
    identity = replace(gpu.identity, t=device.t)
    assert parse(as_json(identity)) == identity
    assert sum(count for (_, code), count in nvml.errors.items() if code == IMPLAUSIBLE) == 1
