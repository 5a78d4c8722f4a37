"""A load on a GPU that works to a plan: ``python -m wattribute.verify.gpu_load matmul`` (or copy, decode).

One process with one CUDA context, on the first GPU of ``CUDA_VISIBLE_DEVICES``. It reads and writes lines of
JSON:

    → {"iteration_s": 0.000501}                 how long one iteration takes while nobody else uses the GPU
    ← {"begin_ns": 81273…, "end_s": 40, "stretches": [[0, 30, 0.02, 0.01]]}     the plan: plan_line
    → {"second": 0, "iterations": 1000}         what was finished in a second of the plan, once it is over
    → {"left_out": 0}                           iterations that were not begun when their stretch ended

If it fails, it says why in one line on standard error, and exits with status 1. If its parent is gone, or a
signal comes, it ends silently.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from ctypes import c_uint32, c_uint64
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from wattribute.errors import WattributeError
from wattribute.verify.cuda import Gpu
from wattribute.verify.gpu_plan import COPY, DECODE, MATMUL, Stretch

_S: Final = 1_000_000_000
_MS: Final = 1_000_000

PTX: Final = Path(__file__).with_name("loads.ptx")
_ITERATION_S: Final = 0.0005
_WARM_UP_NS: Final = 300 * _MS
_MEASURED_NS: Final = 500 * _MS

# Launch this much before waiting for it: so what was finished is known to 20 ms, and decode's 640 launches
# fit the driver's queue of 1024. A process that launches more spins until there is room.
_PART_S: Final = 0.02

# Two numbers in bf16, 1.2 and -0.9: memory of zeros takes less power to read than a model does.
_WORD: Final = 0x3F9A_BF65


class _Kernel(NamedTuple):
    """How a kernel of loads.ptx is launched: blocks per multiprocessor, launches per iteration, units of
    memory, and their bytes."""

    blocks_ratio: float
    launches: int
    units: int
    memory_bytes: int


KERNELS: Final[Mapping[str, _Kernel]] = {
    # Enough warps to keep the tensor cores busy; memory for the results of 1024 multiprocessors.
    MATMUL: _Kernel(2.0, 1, 1, 1 << 26),
    # As many threads as these GPUs can hold at a time; a GiB, more than any cache holds, and its copy.
    COPY: _Kernel(6.0, 1, 1 << 26, 2 << 30),
    # Few blocks and small launches: the GPU reports itself busy, and most of it does not work.
    DECODE: _Kernel(0.25, 16, 1 << 19, (1 << 30) + (4 << 19)),
}
"""The kernel of each load, by name."""


def plan_line(begin_ns: int, end_s: float, stretches: Sequence[Stretch]) -> bytes:
    """The line that gives a load its plan, from ``begin_ns`` (time.monotonic_ns) on, for ``end_s``."""
    stretched = [[*stretch] for stretch in stretches]
    return orjson.dumps({"begin_ns": begin_ns, "end_s": end_s, "stretches": stretched}) + b"\n"


class Load:
    """A load on a GPU. ``iteration_s``: how long one iteration takes, as measured now. Raises WattributeError
    like ``Gpu``."""

    def __init__(self, gpu: Gpu, name: str) -> None:
        kernel = KERNELS[name]
        self._gpu = gpu
        self._function = gpu.kernel(PTX.read_bytes(), name)
        self._memory = c_uint64(gpu.allocate(kernel.memory_bytes, _WORD))
        self._mask = c_uint32(kernel.units - 1)
        self._blocks = max(1, int(kernel.blocks_ratio * gpu.multiprocessors))
        self._launches = kernel.launches
        self._turn = 0
        self._trips = 1
        self.iteration_s = self._calibrated()

    def work(self, iterations: int) -> None:
        """Do some iterations, and wait for them."""
        for _ in range(iterations * self._launches):
            self._gpu.launch(
                self._function,
                self._blocks,
                *(self._memory, self._mask, c_uint32(self._turn), c_uint32(self._trips)),
            )
            self._turn += 1
        self._gpu.wait()

    def _calibrated(self) -> float:
        """Make an iteration as long as it should be, then measure how long it is, in seconds."""
        iterations = round(_PART_S / _ITERATION_S)
        begin_ns = time.monotonic_ns()
        while (from_ns := time.monotonic_ns()) < begin_ns + _WARM_UP_NS:
            self.work(iterations)
            took_s = (time.monotonic_ns() - from_ns) / _S
            self._trips = max(1, round(self._trips * _PART_S / took_s))
        done, begin_ns = 0, time.monotonic_ns()
        while (took_ns := time.monotonic_ns() - begin_ns) < _MEASURED_NS:
            self.work(iterations)
            done += iterations
        return took_ns / _S / done


class _Seconds:
    """Reports what was finished in each second since ``begin_ns``, once that second is over."""

    def __init__(self, begin_ns: int) -> None:
        self._begin_ns = begin_ns
        self._second = 0
        self._iterations = 0

    def finished(self, iterations: int) -> None:
        """Count iterations that have just ended."""
        self.pass_until(time.monotonic_ns())
        self._iterations += iterations

    def pass_until(self, now_ns: int) -> None:
        """Report the seconds that are over."""
        while now_ns >= self._begin_ns + (self._second + 1) * _S:
            self._say()

    def end(self, end_ns: int) -> None:
        """Report the rest of a plan that ends at ``end_ns``, or later if its last work does."""
        self.pass_until(end_ns)
        if self._iterations or self._begin_ns + self._second * _S < end_ns:
            self._say()

    def _say(self) -> None:
        _say({"second": self._second, "iterations": self._iterations})
        self._second += 1
        self._iterations = 0


def follow(load: Load, begin_ns: int, end_s: float, stretches: Sequence[Stretch]) -> None:
    """Work to a plan, and report what was done. It begins at ``begin_ns`` (time.monotonic_ns), and ends
    ``end_s`` later."""
    seconds, left_out = _Seconds(begin_ns), 0
    part = max(1, int(_PART_S / load.iteration_s))
    for stretch in stretches:
        due = max(1, round(stretch.on_s / load.iteration_s))
        from_ns, to_ns = (begin_ns + round(at_s * _S) for at_s in (stretch.from_s, stretch.to_s))
        for at_ns in range(from_ns, to_ns, round(stretch.period_s * _S)):
            _sleep_until(at_ns, seconds)
            left = due
            while left and time.monotonic_ns() < to_ns:
                iterations = min(left, part)
                load.work(iterations)
                seconds.finished(iterations)
                left -= iterations
            left_out += left
    end_ns = begin_ns + round(end_s * _S)  # the CUDA context stays until then, whether or not it works
    _sleep_until(end_ns, seconds)
    seconds.end(end_ns)
    _say({"left_out": left_out})


def _sleep_until(at_ns: int, seconds: _Seconds) -> None:
    """Sleep to a tenth of a millisecond without burning a core, and report the seconds that pass."""
    while (left_ns := at_ns - time.monotonic_ns()) > 0:
        time.sleep(max(min(left_ns, 100 * _MS) - _MS, _MS // 10) / _S)
        seconds.pass_until(time.monotonic_ns())


def _say(what: Mapping[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(what) + b"\n")
    sys.stdout.buffer.flush()


def _run(name: str) -> None:
    if name not in KERNELS:
        raise WattributeError(f"there is no load {name!r}: choose from {', '.join(KERNELS)}")
    gpu = Gpu()
    load = Load(gpu, name)
    _say({"iteration_s": load.iteration_s})
    line = sys.stdin.buffer.readline()
    if line.endswith(b"\n"):  # else the parent is gone
        plan = orjson.loads(line)
        follow(load, plan["begin_ns"], plan["end_s"], [Stretch(*stretch) for stretch in plan["stretches"]])
    gpu.close()


def main() -> None:
    """Run the load that the command line names."""
    # No traceback on Ctrl-C, which reaches every process of a terminal, or on a pipe whose reader is gone. A
    # parent with chDB has blocked SIGPIPE, and that is inherited.
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPIPE])
    try:
        _run(" ".join(sys.argv[1:]))
    except WattributeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
