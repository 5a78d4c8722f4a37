"""What `wattribute collect` uses of a host: processor time and memory, with 8 GPUs at 10 Hz."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.contender import Figures, check
from benchmarks.table import Bar, Row
from wattribute.bus import SAMPLES
from wattribute.collector.local_log import LocalLog
from wattribute.wire import MAGIC, PREFIX

_GPUS: Final = 8
_PROCESSES: Final = 4
# Importing, probing and the first readings of every process are not the steady state: what does not change is
# read ever more rarely, in the end every 2 minutes. The processor time until then is reported separately.
_START_S, _SETTLE_S = 4.0, 70.0
_CPU: Final = "% of a core"
_BARS: Final = (Bar(_CPU, 1.0, at_most=True), Bar("MiB resident", 64.0, at_most=True))
_WHAT: Final = "collect: 8 GPUs at 10 Hz, 4 processes each, to a local log"


def rows(small: bool) -> list[Row]:
    """The row of the table."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return [Row("collector", _WHAT, bars=_BARS, skipped="no C compiler (cc) to build the fake NVML")]
    with tempfile.TemporaryDirectory() as folder:
        _build(compiler, Path(folder))
        return [
            Row(
                "collector",
                _WHAT,
                _measure(Path(folder), *((1.0, 2.0) if small else (_SETTLE_S, 30.0))),
                _BARS,
            )
        ]


def _build(compiler: str, folder: Path) -> None:
    name = "libnvidia-ml.so.1"
    flags = ["-std=gnu11", "-O1", "-shared", "-fPIC", "-pthread", f"-Wl,-soname,{name}"]
    source = Path(__file__).with_name("eight_gpus.c")
    subprocess.run([compiler, *flags, "-o", str(folder / name), str(source)], check=True)


def _measure(folder: Path, settle_s: float, span_s: float) -> Figures:
    """Measure the command from outside, over ``settle_s`` and then ``span_s`` of its steady state."""
    with _sleepers(_GPUS * _PROCESSES) as pids:
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(folder),  # where NVIDIA's binding finds the fake
            "FAKE_PIDS": ",".join(map(str, pids)),
        }
        duration_s = _START_S + settle_s + span_s + 1.0
        collect = [sys.executable, "-m", "wattribute", "collect", "--bus", f"local://{folder}/bus"]
        with subprocess.Popen(
            [*collect, "--duration", f"{duration_s:g}s"], cwd=folder, env=environment, stderr=subprocess.PIPE
        ) as process:
            time.sleep(_START_S)
            first_percent = _cpu_percent(process, settle_s)
            percent = _cpu_percent(process, span_s)
            resident_mib, peak_mib = _memory_mib(process.pid, "VmRSS"), _memory_mib(process.pid, "VmHWM")
            _, said = process.communicate(timeout=30.0)
    check(process.returncode == 0, said.decode())
    samples = _samples(folder / "bus")
    check(samples >= 0.9 * _GPUS * 10 * span_s, f"only {samples} samples in {duration_s:g} s")
    return {
        _CPU: percent,
        f"% in the first {settle_s:g} s": first_percent,
        "MiB resident": resident_mib,
        "MiB at the most": peak_mib,
    }


@contextmanager
def _sleepers(count: int) -> Iterator[list[int]]:
    """Processes that the collector finds in /proc."""
    processes = [subprocess.Popen(["sleep", "300"]) for _ in range(count)]
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _cpu_percent(process: subprocess.Popen[bytes], span_s: float) -> float:
    """Processor time in percent of one core, over the next ``span_s``."""
    begin_ns, begin_s = _cpu_ns(process.pid), time.monotonic()
    time.sleep(span_s)
    if process.poll() is not None:
        check(False, f"collect has ended: {process.communicate()[1].decode()}")
    return (_cpu_ns(process.pid) - begin_ns) / (time.monotonic() - begin_s) / 1e7


def _cpu_ns(pid: int) -> int:
    """Processor time of all threads, to the ns: /proc/PID/stat counts in steps of 10 ms."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def _memory_mib(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def _samples(bus: Path) -> int:
    """The number of device samples in a local log."""
    log = LocalLog(bus)
    values = [message.value for message in log.read(SAMPLES, 0, 1_000_000)]
    log.close()
    return sum(PREFIX.unpack_from(value)[4] for value in values if value[:4] == MAGIC)
