"""Run the plan on a real GPU: start the loads, sample all the while, and pass on the records of both."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, Any, Final, cast

import orjson

from wattribute.collector.clock import Clock
from wattribute.collector.nvml import GpuReader
from wattribute.collector.nvml_calls import GpuError
from wattribute.collector.nvml_processes import running
from wattribute.collector.sampler import Sampler
from wattribute.errors import WattributeError
from wattribute.records import Record, Run, Unit
from wattribute.verify.gpu_load import plan_line
from wattribute.verify.gpu_plan import LOADS, UNIT, Plan
from wattribute.verify.gpu_report import RUN

_S: Final = 1_000_000_000
_AHEAD_NS: Final = 2 * _S  # the plan begins so long after it is sent, so that it reaches all loads in time
_AFTER_S: Final = 3.0  # a driver reports SM time up to 1 s late, and samples are taken once a second
_BEGIN_S: Final = 60.0  # for a load to start: a CUDA context takes 0.1 to 3 s, and its kernels are compiled
_END_S: Final = 20.0  # a load that is late finishes what it began

_STOPPED: Final = "stopped before the end of the plan: there is no result"

MakeSampler = Callable[[Callable[[int], Sequence[Record]]], Sampler]
"""Makes a sampler. It is given a function to call for further records at each flush."""


def check_unused(gpu: GpuReader) -> None:
    """Raise WattributeError if processes are on the GPU, or MIG divides it: it could not be measured."""
    pids = ", ".join(map(str, sorted(_pids(gpu))))
    if pids:
        raise WattributeError(
            f"GPU {gpu.uuid} is in use by process {pids}: this needs a GPU that nobody else uses"
        )


def _pids(gpu: GpuReader) -> set[int]:
    """The processes on a GPU."""
    try:
        mig_mode = gpu.calls("nvmlDeviceGetMigMode")
        residents = running(gpu.calls, gpu.identity.memory_bytes)
    except GpuError as error:
        raise WattributeError(f"GPU {gpu.uuid} cannot be read: {error}") from error
    if mig_mode is not None and mig_mode[0] == 1:
        raise WattributeError(f"GPU {gpu.uuid} is divided into MIG instances: this needs a whole GPU")
    if residents is None:
        raise WattributeError(f"GPU {gpu.uuid} does not list its processes, so it may not be free")
    return {resident.pid for resident in residents}


def run_plan(
    plan: Plan,
    seconds: int,
    gpu: GpuReader,
    clock: Clock,
    make_sampler: MakeSampler,
    stop: threading.Event,
    tell: Callable[[str], None],
) -> dict[str, float]:
    """Run the plan on a GPU, and sample it. ``tell`` prints the progress; ``stop`` ends it. Returns the
    iterations that each load left out for lack of time.

    Raises WattributeError if a load fails, or if it is stopped."""
    queued: queue.SimpleQueue[Record] = queue.SimpleQueue()
    end = threading.Event()
    sampler = make_sampler(lambda _: _taken(queued))
    with ThreadPoolExecutor(1) as pool:
        sampling = pool.submit(sampler.run, end)
        try:
            tell(f"nobody is on {gpu.identity.name}: {plan.nobody_s:.0f} s")
            _wait(plan.nobody_s, stop, sampling)
            with _loads(gpu.uuid, queued, tell, stop) as loads:
                pids = {name: load.process.pid for name, load in loads.items()}
                listed = _pids(gpu)
                if absent := [name for name, pid in pids.items() if pid not in listed]:
                    raise WattributeError(
                        f"NVML does not list {' and '.join(absent)} by the pid seen by us: in a container,"
                        " share the host's pid namespace (--pid=host, hostPID)"
                    )
                # Begin with a whole second, as windows do.
                begin_ns = (clock.now_ns() + _AHEAD_NS) // _S * _S + _S
                queued.put(Run(t=begin_ns, run=RUN, event="start", steps=seconds))
                for load in loads.values():
                    load.begin(plan, begin_ns, clock)
                told = ""
                for step in plan.steps:
                    _wait((begin_ns - clock.now_ns()) / _S + step.from_s, stop, sampling)
                    if str(step) != told:
                        told = str(step)
                        tell(f"{step.from_s:3.0f} of {plan.end_s:.0f} s: {told}")
                    for load in loads.values():
                        load.check()
                    if others := _pids(gpu) - {*pids.values()}:
                        raise WattributeError(f"process {min(others)} came to the GPU: there is no result")
                _wait((begin_ns - clock.now_ns()) / _S + plan.end_s, stop, sampling)
                left_out = {name: load.answer("left_out", _END_S, stop) for name, load in loads.items()}
                _wait(_AFTER_S, stop, sampling)
            queued.put(Run(t=clock.now_ns(), run=RUN, event="finish", steps=seconds))
        finally:
            end.set()
    sampling.result()
    return left_out


def _taken(queued: queue.SimpleQueue[Record]) -> list[Record]:
    records = []
    while not queued.empty():
        records.append(queued.get())
    return records


def _wait(seconds: float, stop: threading.Event, sampling: Future[Any]) -> None:
    until = time.monotonic() + seconds
    while (left_s := until - time.monotonic()) > 0:
        if stop.wait(min(left_s, 0.5)):
            raise WattributeError(_STOPPED)
        if sampling.done():
            sampling.result()  # raises its error


class _Load:
    """A load, in a process of its own (``gpu_load``). Records of what it did go into ``told``."""

    def __init__(self, name: str, gpu: str, told: queue.SimpleQueue[Record]) -> None:
        self._name, self._told, self._begin_ns = name, told, 0
        self._said: queue.SimpleQueue[dict[str, float]] = queue.SimpleQueue()
        # The model shows in the recording which process is which load. Ctrl-C must reach only us, and -P
        # keeps out modules in the current folder.
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu, "WATTRIBUTE_MODEL": name}
        self.process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-P", "-m", "wattribute.verify.gpu_load", name], env=env,
            start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in cast(IO[bytes], self.process.stdout):
            said = orjson.loads(line)
            if "iterations" not in said:
                self._said.put(said)
            elif said["iterations"]:
                self._told.put(
                    Unit(
                        t=self._begin_ns + (said["second"] + 1) * _S, unit=UNIT, quantity=said["iterations"],
                        period_ns=_S, source=RUN, model=self._name,
                    )
                )  # fmt: skip

    def answer(self, what: str, within_s: float, stop: threading.Event) -> float:
        """Wait for a figure that the load reports. Raises WattributeError if it fails, or is stopped."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            if stop.is_set():
                raise WattributeError(_STOPPED)
            has_ended = self.process.poll() is not None
            try:
                return self._said.get(timeout=0.2)[what]
            except queue.Empty:
                if has_ended:
                    break
        raise self._failed()

    def begin(self, plan: Plan, begin_ns: int, clock: Clock) -> None:
        """Send the load its plan, which begins at Unix ns ``begin_ns``."""
        self._begin_ns = begin_ns
        monotonic_ns = time.monotonic_ns() + begin_ns - clock.now_ns()
        line = plan_line(monotonic_ns, plan.end_s, plan.stretches[self._name])
        try:
            cast(IO[bytes], self.process.stdin).write(line)
            cast(IO[bytes], self.process.stdin).flush()
        except BrokenPipeError as error:
            raise self._failed() from error

    def check(self) -> None:
        """Raise WattributeError if the load has ended."""
        if self.process.poll() is not None:
            raise self._failed()

    def end(self) -> None:
        """Wait for the end of the load, which was asked for."""
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._reader.join()
        with self.process:  # closes the pipes
            pass

    def _failed(self) -> WattributeError:
        status = self.process.poll()
        self.process.kill()
        said = cast(IO[bytes], self.process.stderr).read().decode(errors="replace").splitlines()
        why = (
            said[-1] if said else "it does not answer" if status is None else f"it ended with status {status}"
        )
        return WattributeError(f"the load {self._name} failed: {why}")


@contextmanager
def _loads(
    gpu: str, told: queue.SimpleQueue[Record], tell: Callable[[str], None], stop: threading.Event
) -> Iterator[dict[str, _Load]]:
    """All loads, which end with the with statement. They start one after the other, because each measures how
    fast it is alone."""
    loads: dict[str, _Load] = {}
    try:
        for name in LOADS:
            loads[name] = _Load(name, gpu, told)
            iteration_s = loads[name].answer("iteration_s", _BEGIN_S, stop)
            tell(f"{name}: an iteration takes {1000 * iteration_s:.3f} ms alone")
        yield loads
    finally:
        for load in loads.values():
            load.process.terminate()
        for load in loads.values():
            load.end()
