"""The processes of this host with what their engines say: real processes, a real server, a real /proc."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.collector.engine_server import engine_server, exposition
from wattribute.collector import serving as module
from wattribute.collector.clock import HostClock
from wattribute.collector.proc import ProcTree
from wattribute.collector.serving import Serving
from wattribute.endpoints import Endpoint
from wattribute.records import Record, Unit, Workload

PROC = Path("/proc")
_PATIENCE_S = 60.0


APART = ("unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
"""Runs what follows in a network namespace of its own."""


@contextmanager
def engine(page: Path, port: int = 0, within: tuple[str, ...] = ()) -> Iterator[tuple[int, int, int]]:
    """A serving engine in a process: its pid, its port, and the pid of the worker."""
    script = Path(__file__).with_name("engine_process.py")
    command = [*within, sys.executable, str(script), str(page), str(port), "--model", "/models/opt"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline().split()
        if within and not said:
            pytest.skip(f"{' '.join(within[:2])} is not permitted here")
        number, worker = map(int, said)
        try:
            yield process.pid, number, worker
        finally:
            process.terminate()  # it ends its worker


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SETTLE_S", 0.05)
    monkeypatch.setattr(module, "_LOOK_S", 0.1)


@contextmanager
def serving(configured: tuple[Endpoint, ...] = ()) -> Iterator[Serving]:
    made = Serving(ProcTree(PROC), PROC, "node-1", 0.1, configured, HostClock().now_ns)
    try:
        yield made
    finally:
        made.close()


def until(done: Callable[[], bool]) -> None:
    end_s = time.monotonic() + _PATIENCE_S
    while not done():
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.02)


def counted(page: Path, value: int) -> None:
    """The engine has given out so many tokens."""
    new = page.with_suffix(".new")
    new.write_text(f'vllm:generation_tokens_total{{engine="0",model_name="chat"}} {value}\n')
    new.replace(page)


def test_a_worker_bears_the_model_of_its_server_from_when_it_was_first_seen(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.write_text("still loading\n")
    with engine(page) as (api, _, worker), serving() as processes:
        start_ns = processes.start_ns(worker)
        assert start_ns is not None
        first_ns = HostClock().now_ns()
        before = processes.workload(worker, start_ns, first_ns)
        assert before is not None
        assert (before.model, before.identity_source) in (("", "process"), ("", "container"), ("", "slurm"))
        counted(page, 100)
        found: list[Workload] = []

        def heard() -> bool:
            told = processes.outcomes(HostClock().now_ns())
            found.extend(record for record in told if isinstance(record, Workload))
            return bool(found)

        until(heard)
        (named,) = found
        assert (named.pid, named.start_ns, named.t) == (worker, start_ns, first_ns)
        assert (named.model, named.identity_source, named.phase) == ("chat", "engine", "inference")
        assert dict(named.labels) | {"engine": "vllm", "model_path": "/models/opt"} == dict(named.labels)
        later = processes.workload(worker, start_ns, 10**18)
        assert later is not None
        assert (later.t, later.model, later.identity_source) == (10**18, "chat", "engine")

        counted(page, 142)
        units: dict[str, float] = {}

        def came_out() -> bool:
            for record in processes.outcomes(HostClock().now_ns()):
                if isinstance(record, Unit):
                    assert (record.pid, record.model) == (api, "chat")
                    units[record.unit] = units.get(record.unit, 0.0) + record.quantity
            return units.get("output_tokens", 0.0) >= 42

        until(came_out)
        assert units["output_tokens"] == 42


def test_a_server_that_comes_and_goes_under_watch_is_counted_wholly(tmp_path: Path) -> None:
    """One after the other on the same port, each from 0 to 5000: whatever was read of them adds up."""
    page = tmp_path / "page"
    counted(page, 0)
    with serving() as processes:
        total, port = 0.0, 0
        time.sleep(1.1)  # /proc tells start times to within a second of when the host began
        for _ in range(2):
            with engine(page, port) as (_, port, worker):
                assert processes.start_ns(worker) is not None
                counted(page, 5000)
                here = 0.0

                def came_out() -> bool:
                    nonlocal here
                    for record in processes.outcomes(HostClock().now_ns()):
                        if isinstance(record, Unit) and record.unit == "output_tokens":
                            here += record.quantity
                    return here >= 5000

                until(came_out)
                total += here
            counted(page, 0)
        assert total == 10_000


@pytest.mark.skipif(not shutil.which("unshare") or not shutil.which("ip"), reason="no unshare, or no ip")
def test_an_engine_in_a_network_namespace_of_its_own_is_found_and_read(tmp_path: Path) -> None:
    """As in a container or a pod."""
    page = tmp_path / "page"
    counted(page, 1)
    with engine(page, within=APART) as (api, port, worker), serving() as processes:
        assert processes.start_ns(worker) is not None
        units: list[Unit] = []

        def came_out() -> bool:
            told = processes.outcomes(HostClock().now_ns())
            units.extend(record for record in told if isinstance(record, Unit))
            return bool(units)

        until(came_out)
        assert {(unit.pid, unit.model) for unit in units} == {(api, "chat")}
        assert processes.scraper is not None
        (target,) = processes.scraper.targets.values()
        assert (target.address.port, target.address.namespace) == (port, f"/proc/{api}/ns/net")


def test_endpoints_of_the_settings_are_read_without_a_process_on_a_gpu() -> None:
    with engine_server(exposition("vllm")) as server, serving((Endpoint(url=server.url),)) as processes:
        told: list[Record] = []

        def came_out() -> bool:
            told.extend(processes.outcomes(HostClock().now_ns()))
            return bool(told)

        until(came_out)
        assert {record.unit for record in told if isinstance(record, Unit)} == {"observed_ns"}


def test_after_a_step_of_the_clock_units_are_of_the_new_time(tmp_path: Path) -> None:
    """And as long as before: it is no hour in which they came out."""
    page, hour_ns = tmp_path / "page", 3_600_000_000_000
    counted(page, 1)
    with engine(page) as (_, _, worker), serving() as processes:
        units: list[Unit] = []
        step_ns = 0

        def came_out() -> bool:
            assert processes.start_ns(worker) is not None
            told = processes.outcomes(HostClock().now_ns() + step_ns)
            units.extend(record for record in told if isinstance(record, Unit))
            return bool(units)

        until(came_out)
        before, step_ns = units[-1], hour_ns
        units.clear()
        until(came_out)
        assert units[0].t - before.t > hour_ns
        assert all((unit.period_ns or 0) < hour_ns / 10 for unit in units)


def test_whatever_goes_wrong_in_its_thread_the_sampling_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from wattribute.collector.scraper import Scraper

    def fails(*_: object) -> None:
        raise ValueError("s")

    monkeypatch.setattr(Scraper, "look", fails)
    with serving((Endpoint(url="http://127.0.0.1:9"),)) as processes:
        processes.outcomes(HostClock().now_ns())
        until(lambda: bool(caplog.messages))
        assert processes.outcomes(HostClock().now_ns()) == []
    assert caplog.messages == [
        "serving engines are no longer read; report this bug in wattribute: ValueError('s')"
    ]


def test_nothing_is_loaded_while_nobody_is_on_a_gpu() -> None:
    code = (
        "import sys; from pathlib import Path; from wattribute.collector.proc import ProcTree\n"
        "from wattribute.collector.serving import Serving\n"
        "s = Serving(ProcTree(), Path('/proc'), 'h', 5, (), lambda: 1); s.outcomes(1); s.close()\n"
        "print([name for name in ('prometheus_client', 'http.client', 'ssl') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
