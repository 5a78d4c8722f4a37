"""The load processes of `wattribute verify --gpu`, with the fake libcuda.so.1."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from tests.fake_cuda.library import built
from wattribute.verify.gpu_load import plan_line
from wattribute.verify.gpu_plan import Stretch

_PATIENCE_S = 60.0
_S = 1_000_000_000


@contextmanager
def started(
    *command: str, libraries: Path | None = None, fake: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that finds the fake with these settings, or what is in ``libraries``."""
    environment = {**os.environ, **(fake or {}), "LD_LIBRARY_PATH": str(libraries or built())}
    process = subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


class Running:
    """A load that has said how long an iteration of it takes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate(timeout=_PATIENCE_S)
        self.iteration_s: float = orjson.loads(line)["iteration_s"]

    def follow(self, begin_ns: int, *stretches: Stretch) -> None:
        """Give it its plan."""
        assert self.process.stdin is not None
        self.process.stdin.write(plan_line(begin_ns, stretches[-1].to_s, stretches))
        self.process.stdin.flush()

    def due(self, *stretches: Stretch) -> int:
        """Iterations that a plan asks for."""
        return sum(
            len(range(round(from_s * 1e6), round(to_s * 1e6), round(period_s * 1e6)))
            * max(1, round(on_s / self.iteration_s))
            for from_s, to_s, period_s, on_s in stretches
        )

    def done(self) -> tuple[list[int], int]:
        """Iterations in each second, and those left out, when it has ended without a word of trouble."""
        said, trouble = self.process.communicate(timeout=_PATIENCE_S)
        assert (trouble, self.process.returncode) == (b"", 0)
        *seconds, last = map(orjson.loads, said.splitlines())
        assert [line["second"] for line in seconds] == [*range(len(seconds))]
        return [line["iterations"] for line in seconds], last["left_out"]


@contextmanager
def running(name: str, fake: Mapping[str, str] | None = None) -> Iterator[Running]:
    with started("-m", "wattribute.verify.gpu_load", name, fake=fake) as process:
        yield Running(process)


def test_loads_do_what_their_plan_says() -> None:
    plan = (Stretch(0.0, 1.0, 0.02, 0.005), Stretch(1.5, 2.4, 0.3, 0.1))
    with running("matmul") as matmul, running("copy") as copy, running("decode") as decode:
        for load in (matmul, copy, decode):
            load.follow(time.monotonic_ns(), *plan)
        for load in (matmul, copy, decode):
            seconds, left_out = load.done()
            assert len(seconds) == 3
            assert seconds[0] <= load.due(plan[0])
            assert sum(seconds) + left_out == load.due(*plan)
            assert sum(seconds) > load.due(*plan) / 4


def test_late_work_is_done_at_once() -> None:
    plan = Stretch(0.0, 3.0, 1.0, 0.1)
    with running("matmul") as load:
        load.follow(time.monotonic_ns() - 3 * _S // 2, plan)
        seconds, left_out = load.done()
        assert seconds[0] == 0  # it was over before the plan came
        assert (sum(seconds), left_out) == (load.due(plan), 0)


def test_what_a_stretch_has_no_time_for_is_left_out(tmp_path: Path) -> None:
    plan = Stretch(0.0, 1.0, 0.02, 0.018)
    slow = tmp_path / "slow"
    with running("copy", {"FAKE_CUDA_SLOW": str(slow)}) as load:
        slow.touch()
        load.follow(time.monotonic_ns(), plan)
        seconds, left_out = load.done()
        assert sum(seconds) + left_out == load.due(plan)
        assert left_out > 0
        assert sum(seconds) > 0


def test_a_long_burst_counts_in_each_of_its_seconds() -> None:
    plan = Stretch(0.0, 2.0, 2.0, 1.9)
    with running("decode") as load:
        load.follow(time.monotonic_ns(), plan)
        seconds, left_out = load.done()
        assert sum(seconds) + left_out == load.due(plan)
        assert 0 < seconds[0] < load.due(plan)


@pytest.mark.parametrize(
    ("name", "fake", "why"),
    [
        ("nothing", {}, "there is no load 'nothing': choose from matmul, copy, decode"),
        (
            "copy",
            {"FAKE_CUDA_FAIL": "cuInit=100"},
            "cuInit failed: CUDA_ERROR_NO_DEVICE: CUDA sees no GPU here",
        ),
        ("copy", {"FAKE_CUDA_CAPABILITY": "75"}, "compute capability is 7.5: an A100 or newer is needed"),
        (
            "copy",
            {"FAKE_CUDA_FAIL": "cuDevicePrimaryCtxRetain=46"},
            "CUDA_ERROR_DEVICE_UNAVAILABLE: another process has the GPU for itself",
        ),
        (
            "copy",
            {"FAKE_CUDA_FREE_MIB": "512"},
            "2.0 GiB of the GPU's memory are needed, but 0.5 of 80.0 are free",
        ),
        (
            "copy",
            {"FAKE_CUDA_FAIL": "cuMemAlloc_v2=2"},
            "CUDA_ERROR_OUT_OF_MEMORY: too little memory is free",
        ),
        (
            "copy",
            {"FAKE_CUDA_FAIL": "cuModuleLoadDataEx=218"},
            "CUDA_ERROR_INVALID_PTX (ptxas fatal : not what the fake reads)",
        ),
        ("copy", {"FAKE_CUDA_FAIL": "cuLaunchKernel=719"}, "cuLaunchKernel failed: error 719: nvidia-smi"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(name: str, fake: dict[str, str], why: str) -> None:
    with started("-m", "wattribute.verify.gpu_load", name, fake=fake) as process:
        refused(process, why)


def test_no_driver(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").touch()  # the linker cannot load it, and does not look for a real one then
    with started("-m", "wattribute.verify.gpu_load", "copy", libraries=tmp_path) as process:
        refused(process, "there is no CUDA driver (libcuda.so.1)")


def test_an_old_driver(tmp_path: Path) -> None:
    fake = (built() / "libcuda.so.1").read_bytes()
    (tmp_path / "libcuda.so.1").write_bytes(
        fake.replace(b"cuDevicePrimaryCtxSetFlags_v2", b"cuDevicePrimaryCtxSetFlags_v0")
    )
    with started("-m", "wattribute.verify.gpu_load", "copy", libraries=tmp_path) as process:
        refused(process, "the CUDA driver has no cuDevicePrimaryCtxSetFlags_v2: it is older than 450")


def refused(process: subprocess.Popen[bytes], why: str) -> None:
    """Assert that a load ended with one line, and this in it."""
    said, trouble = process.communicate(timeout=_PATIENCE_S)
    assert (said, process.returncode) == (b"", 1)
    assert re.fullmatch(f".*{re.escape(why)}.*\n", trouble.decode())


_MISUSE = """
from ctypes import c_uint32, c_uint64
from wattribute.errors import WattributeError
from wattribute.verify.cuda import Gpu
gpu = Gpu()
text = b".version 7.0 .entry copy( .entry matmul("
four = lambda address: (c_uint64(address), c_uint32(0), c_uint32(0), c_uint32(1))
try:
    {}
except WattributeError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("misuse", "error"),
    [
        ("gpu.kernel(text, 'decode')", "cuModuleGetFunction failed: CUDA_ERROR_NOT_FOUND"),
        ("gpu.launch(None, 1, *four(1))", "cuLaunchKernel failed: CUDA_ERROR_INVALID_HANDLE"),
        (
            "gpu.launch(gpu.kernel(text, 'copy'), 0, *four(1))",
            "cuLaunchKernel failed: CUDA_ERROR_INVALID_VALUE",
        ),
        (
            "gpu.launch(gpu.kernel(text, 'copy'), 1, *four(gpu.allocate(16, 0))); gpu.wait()",
            "cuCtxSynchronize failed: CUDA_ERROR_ILLEGAL_ADDRESS",
        ),
        ("gpu.close(); gpu.wait()", "cuCtxSynchronize failed: CUDA_ERROR_INVALID_CONTEXT"),
    ],
)
def test_what_the_driver_refuses_is_raised(misuse: str, error: str) -> None:
    with started("-c", _MISUSE.format(misuse)) as process:
        said, trouble = process.communicate(timeout=_PATIENCE_S)
        assert (trouble, process.returncode) == (b"", 0)
        assert said.decode().startswith(error)


@pytest.mark.parametrize("written", [b"", b'{"begin_ns": 1'])
def test_a_parent_that_is_gone_before_the_plan_ends_it(written: bytes) -> None:
    with running("matmul") as load:
        assert load.process.communicate(written, timeout=_PATIENCE_S) == (b"", b"")
        assert load.process.returncode == 0


def test_a_parent_that_is_gone_later_ends_it() -> None:
    with running("matmul") as load:
        assert load.process.stdout is not None and load.process.stderr is not None
        load.process.stdout.close()
        load.follow(time.monotonic_ns(), Stretch(0.0, 1000.0, 1000.0, 0.001))
        assert load.process.stderr.read() == b""
        assert load.process.wait(_PATIENCE_S) == -signal.SIGPIPE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_without_a_word(number: signal.Signals) -> None:
    with running("matmul") as load:
        load.follow(time.monotonic_ns(), Stretch(0.0, 1000.0, 1000.0, 1000.0))
        assert load.process.stdout is not None
        assert load.process.stdout.readline()  # it is at work
        load.process.send_signal(number)
        _, trouble = load.process.communicate(timeout=_PATIENCE_S)
        assert (trouble, load.process.returncode) == (b"", -number)
