"""Devices and drivers that go away and come back, and hosts without them, by the fake libnvidia-ml.so.1."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from tests.collector.readings import (
    LOST,
    NO_PERMISSION,
    NOT_SUPPORTED,
    TIMEOUT,
    UNKNOWN,
    fast,
)
from tests.fake_nvml.library import AVERAGE, GPU_SCOPE, FakeNvml, built
from wattribute.collector.nvml import GpuReader, Nvml
from wattribute.collector.nvml_calls import GpuError
from wattribute.errors import WattributeError


def test_a_lost_gpu_comes_back_and_is_probed_anew(fake: FakeNvml) -> None:
    nvml = Nvml()
    lost, other = nvml.gpus
    fake.fail(0, "*", LOST)
    with pytest.raises(GpuError, match=r"GPU-fake-0.*NVML 15") as raised:
        fast(lost)
    assert raised.value.code == LOST
    assert fast(other).energy_mj == 2_000_000
    with pytest.raises(GpuError):
        nvml.reopen(lost)
    fake.fail(0, "*", 0)
    fake.fail_field(0, AVERAGE, GPU_SCOPE, NOT_SUPPORTED)
    nvml.reopen(lost)
    assert fast(lost).power_average_mw is None
    assert fast(other).power_average_mw == 290_000
    assert nvml.session == 0  # the other one's handle was left alone
    assert nvml.errors["nvmlDeviceGetHandleByUUID", LOST] == 1


@pytest.mark.parametrize("code", [TIMEOUT, UNKNOWN])
def test_a_device_that_tells_nothing_is_out(fake: FakeNvml, code: int) -> None:
    nvml = Nvml()
    fake.fail(0, "*", code)
    with pytest.raises(GpuError):
        fast(nvml.gpus[0])


def test_one_failing_call_leaves_the_rest(fake: FakeNvml) -> None:
    nvml = Nvml()
    fake.fail(0, "nvmlDeviceGetUtilizationRates", UNKNOWN)
    for _ in range(3):
        device = fast(nvml.gpus[0])
        assert (device.sm_percent, device.energy_mj) == (None, 1_000_000)
    assert nvml.errors["nvmlDeviceGetUtilizationRates", UNKNOWN] == 3
    fake.fail(0, "nvmlDeviceGetUtilizationRates", 0)
    assert fast(nvml.gpus[0]).sm_percent == 50.0  # it is not taken for absent


def reload_driver(fake: FakeNvml, reader: GpuReader) -> None:
    """Between two readings; the one in between fails."""
    fake.driver(False)
    with pytest.raises(GpuError):
        fast(reader)
    fake.driver(True)


def test_driver_reload(fake: FakeNvml) -> None:
    nvml = Nvml()
    fake.driver(False)
    for gpu in nvml.gpus:
        with pytest.raises(GpuError):
            fast(gpu)
    with pytest.raises(GpuError, match="nvmlInit"):
        nvml.reopen(nvml.gpus[0])
    fake.driver(True)
    fake.set(0, energy_mj=3)  # it starts from 0
    nvml.reopen(nvml.gpus[0])
    assert nvml.session == 1
    assert fast(nvml.gpus[0]).energy_mj == 3
    nvml.reopen(nvml.gpus[1])
    assert nvml.session == 1  # once is enough
    assert [fast(gpu).gpu for gpu in nvml.gpus] == ["GPU-fake-0", "GPU-fake-1"]


def test_a_driver_that_is_loaded_again_may_number_the_devices_otherwise(fake: FakeNvml) -> None:
    nvml = Nvml()
    reload_driver(fake, nvml.gpus[1])
    fake.set(1, index=0, file_number=0)  # the first one has fallen off the bus
    nvml.reopen(nvml.gpus[1])
    assert (nvml.gpus[1].identity.index, nvml.gpus[1].file_number) == (0, 0)


def test_a_stale_handle_does_not_make_calls_look_absent(fake: FakeNvml) -> None:
    nvml = Nvml()
    reload_driver(fake, nvml.gpus[0])
    nvml.reopen(nvml.gpus[0])
    with pytest.raises(GpuError, match="restarted"):  # this one has not read meanwhile
        fast(nvml.gpus[1])
    nvml.reopen(nvml.gpus[1])
    assert fast(nvml.gpus[1]).energy_mj == 2_000_000


def test_a_gpu_that_is_lost_at_the_start_hides_no_other(fake: FakeNvml) -> None:
    fake.fail(0, "nvmlDeviceGetName", LOST)
    fake.fail(1, "nvmlDeviceGetHandleByIndex_v2", LOST)
    nvml = Nvml()
    assert [gpu.uuid for gpu in nvml.gpus] == ["GPU-fake-0"]
    assert nvml.errors["nvmlDeviceGetHandleByIndex", LOST] == 1
    assert nvml.nameless_count == 1
    with pytest.raises(GpuError, match="not answered yet"):
        fast(nvml.gpus[0])
    fake.fail(0, "nvmlDeviceGetName", 0)
    nvml.reopen(nvml.gpus[0])
    assert fast(nvml.gpus[0]).energy_mj == 1_000_000


def test_a_gpu_that_nvml_may_not_talk_to_is_not_lost(fake: FakeNvml) -> None:
    fake.fail(1, "nvmlDeviceGetHandleByIndex_v2", NO_PERMISSION)
    nvml = Nvml()
    assert [gpu.uuid for gpu in nvml.gpus] == ["GPU-fake-0"]
    assert nvml.nameless_count == 0


def test_no_gpu_and_no_driver_are_said_in_one_line(fake: FakeNvml) -> None:
    for gpu in range(2):
        fake.fail(gpu, "nvmlDeviceGetHandleByIndex_v2", NO_PERMISSION)
    with pytest.raises(WattributeError, match=r"no GPU that can be read .*HandleByIndex: NVML 4 \(2 times\)"):
        Nvml()
    fake.driver(False)
    with pytest.raises(WattributeError, match="driver is not loaded"):
        Nvml()


def test_the_wrong_pynvml_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: Any = ModuleType("pynvml")
    wrong.__path__ = []
    wrong.__file__ = "/somewhere/pynvml/__init__.py"
    monkeypatch.setitem(sys.modules, "pynvml", wrong)
    with pytest.raises(WattributeError, match=r"/somewhere/pynvml.*is not NVIDIA's.*nvidia-ml-py"):
        Nvml()


READ_ALL = """
import time
from wattribute.collector.nvml import Nvml
nvml = Nvml()
print([gpu.read_fast(time.time_ns).energy_mj for gpu in nvml.gpus])
"""


def test_found_by_the_dynamic_linker() -> None:
    """As on a real host: a process of its own, and only LD_LIBRARY_PATH says where the library is."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(built())}
    start = "import ctypes; ctypes.CDLL('libnvidia-ml.so.1').fake_reset(3)\n"
    done = subprocess.run(
        [sys.executable, "-c", start + READ_ALL], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[1000000, 2000000, 3000000]"


def test_no_library_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "CDLL", missing)
    with pytest.raises(WattributeError, match=r"there is no NVML .*libnvidia-ml\.so\.1.*driver"):
        Nvml()
