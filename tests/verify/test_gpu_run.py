"""`wattribute verify --gpu`, with stand-ins for the driver's two libraries and real processes as loads."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.fake_cuda.library import built
from tests.fake_nvml.library import FakeNvml, loaded
from wattribute.collector.trace import read_trace
from wattribute.commands.verify_gpu import record_plan
from wattribute.errors import WattributeError
from wattribute.records import Run, Unit, Workload
from wattribute.verify.gpu_plan import LOADS, UNIT
from wattribute.verify.gpu_report import report

SECONDS = 20  # short: that it runs is shown here, and what it tells in test_gpu_report
WATTS = 300


def children() -> list[int]:
    """Processes that this one has started and that are there."""
    pids: list[int] = []
    for listed in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended since
            pids += map(int, listed.read_text().split())
    return pids


def children_that_load() -> list[int]:
    """Of those, the loads."""
    return [pid for pid in children() if "gpu_load" in Path(f"/proc/{pid}/cmdline").read_text()]


@contextmanager
def driven(fake: FakeNvml) -> Iterator[None]:
    """A device that draws the same all along, with our children as the processes on it."""
    end, begun = threading.Event(), time.monotonic()
    before = set(children())

    def drive() -> None:
        while not end.wait(0.05):
            fake.set(0, energy_mj=1_000_000 + round(1000 * WATTS * (time.monotonic() - begun)))
            pids = [pid for pid in children() if pid not in before]
            fake.clear(0)
            for pid in pids:
                fake.process(0, pid, 1 << 30)
                fake.sample(0, pid, time.time_ns() // 1000, 30)

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(built()))
    with loaded(1) as fake, driven(fake):
        yield fake


@pytest.mark.long
def test_three_processes_share_a_gpu_as_planned_and_are_recorded(gpu: FakeNvml, tmp_path: Path) -> None:
    trace = tmp_path / "t.ndjson.gz"
    record_plan(trace, 0, SECONDS, overwrite=False)

    records = [line.record for line in read_trace(trace)]
    assert [(r.event, r.steps) for r in records if isinstance(r, Run)] == [
        ("start", SECONDS),
        ("finish", SECONDS),
    ]
    whose = {r.model: (r.pid, r.identity_source) for r in records if isinstance(r, Workload)}
    assert set(whose) == set(LOADS)
    assert len({pid for pid, _ in whose.values()}) == 3
    told = [r for r in records if isinstance(r, Unit) and r.unit == UNIT]
    assert {r.model for r in told} == set(LOADS)
    # The stand-in draws the same whatever they do.
    with pytest.raises(WattributeError, match="the mixes do not show what each load draws"):
        report([r for r in records if r is not None])


def test_a_gpu_that_somebody_is_on_is_left_alone(gpu: FakeNvml, tmp_path: Path) -> None:
    gpu.process(0, 4711, 1 << 30)
    with pytest.raises(
        WattributeError, match="in use by process 4711: this needs a GPU that nobody else uses"
    ):
        record_plan(tmp_path / "t.ndjson", 0, SECONDS, overwrite=False)
    assert not (tmp_path / "t.ndjson").exists()


def test_a_gpu_that_is_cut_into_instances_is_refused(gpu: FakeNvml, tmp_path: Path) -> None:
    gpu.set(0, mig=1)
    with pytest.raises(WattributeError, match="divided into MIG instances: this needs a whole GPU"):
        record_plan(tmp_path / "t.ndjson", 0, SECONDS, overwrite=False)


def test_a_load_that_cannot_begin_says_why(
    gpu: FakeNvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_FAIL", "cuDeviceGet=101")
    with pytest.raises(WattributeError, match=r"the load matmul failed: .*CUDA sees no GPU here"):
        record_plan(tmp_path / "t.ndjson", 0, SECONDS, overwrite=False)
    assert not children_that_load()
    assert not (tmp_path / "t.ndjson").exists()


def test_a_gpu_whose_processes_have_other_pids_here_is_found_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(built()))
    with (
        loaded(1),
        pytest.raises(
            WattributeError, match="NVML does not list matmul and copy and decode by the pid seen by us"
        ),
    ):
        record_plan(tmp_path / "t.ndjson", 0, SECONDS, overwrite=False)


def test_who_ends_it_is_told_that_nothing_comes_of_it(gpu: FakeNvml, tmp_path: Path) -> None:
    ending = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGTERM))
    ending.start()
    with pytest.raises(WattributeError, match="stopped before the end"):
        record_plan(tmp_path / "t.ndjson", 0, SECONDS, overwrite=False)
    ending.join()
    assert not children_that_load()
