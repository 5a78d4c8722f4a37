"""The attribution kernel, compared with a copy of the bytes it works on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.contender import Figures, check, run, timed_s
from benchmarks.synthetic import I64, SECOND_NS, START_NS, Readings, readings
from benchmarks.table import Bar, Row
from wattribute.kernels import result as r
from wattribute.kernels.attribute import attribute
from wattribute.kernels.series import FOREVER, HAS_COUNTER, Due
from wattribute.stream.learning import Learning
from wattribute.stream.series import DeviceKey, HolderKey, Series

IDLE_MW: Final = 77_700
_IDLE_SD_W: Final = 40.0
_BAR: Final = 0.5
_OF_MEMCPY: Final = "of memcpy"
_LEARNING_BAR: Final = 0.25
# hz, processes of a device, devices, seconds, learning: more bytes than the last-level cache of most machines
_FULL: Final = (
    *((100, 1, 64, 3000, False), (100, 4, 64, 3000, False)),
    *((10, 1, 64, 8000, False), (10, 4, 64, 5000, False), (10, 4, 64, 5000, True)),
)
_SMALL: Final = ((100, 1, 4, 20, False), (10, 4, 4, 20, True))


@dataclass(frozen=True, slots=True)
class Attribution:
    """A call of the kernel, ready to be repeated: it fills ``out`` and returns its number of rows."""

    call: Callable[[], int]
    out: I64


def attribution(made: Readings, learns: bool) -> Attribution:
    """The kernels on ``made``, with all windows due, and the arrays that an engine would have. Unless it
    ``learns`` what each process draws in the same call, active energy is split by SM time."""
    series = Series()
    for device in range(made.devices):
        series.device_row(DeviceKey("host", "boot", f"GPU-{device}"))
        for number in range(made.processes):
            series.holder_row(device, HolderKey(-1, 100 + number, 7))
    rows, holder_rows = len(series.devices.host), len(series.holders.device)
    n, count = made.t_ns.shape[1], made.seconds + 1
    devices = series.devices._replace(
        t_ns=made.t_ns,
        energy_mj=made.energy_mj,
        power_mw=made.power_mw,
        average_mw=np.full((made.devices, n), -1, np.int32),
        quiet=np.zeros((made.devices, n), np.uint8),
        length=np.full(rows, n),
        first_ns=np.concatenate([made.t_ns[:, 0], np.zeros(rows - made.devices, np.int64)]),
        sources=np.full(rows, HAS_COUNTER, np.uint8),
    )
    seen_ns = np.tile(made.record_ns(), (made.devices * made.processes, 1))
    holders = series.holders._replace(
        seen_ns=seen_ns,
        seen_period_ns=np.full_like(seen_ns, SECOND_NS),
        seen_memory_bytes=made.memory_bytes.reshape(-1, count),
        seen_length=np.full(holder_rows, count),
        used_ns=seen_ns.copy(),
        used_from_ns=seen_ns - SECOND_NS,
        used_percent=made.sm_percent.reshape(-1, count).copy(),
        used_length=np.full(holder_rows, count),
        reach_from_ns=np.zeros(holder_rows, np.int64),
        reach_to_ns=np.full(holder_rows, FOREVER),
    )
    hosts = series.hosts
    hosts.now_ns[0] = made.t_ns[:, -1].max()
    first = np.full(made.devices, START_NS // SECOND_NS)
    due = Due(np.arange(made.devices + 1), first, first + made.seconds - 1, np.zeros(made.devices, np.int64))
    idle = np.full(made.devices, IDLE_MW), np.full(made.devices, _IDLE_SD_W)
    out = np.empty((r.ROW_COLUMNS, made.windows * (made.processes + 2) + made.processes), np.int64)

    nobody_works = holders._replace(used_length=np.zeros(holder_rows, np.int64))
    prior = Learning().watts(hosts, devices, nobody_works, due, *idle, SECOND_NS, False)

    def call() -> int:
        watts, of = prior
        if learns:  # each time from nothing
            watts, of = Learning().watts(hosts, devices, holders, due, *idle, SECOND_NS, False)
        count, first, _ = attribute(
            hosts, devices, holders, due, watts, of, SECOND_NS, 0, 0, True, False, out
        )
        check(first == made.devices, f"the kernel stopped at device {first}")
        return count

    return Attribution(call, out)


def in_bytes(made: Readings) -> int:
    """The bytes that the kernel reads: times and counter of samples, and the records of processes (5 columns
    of 8 bytes and one of 4). It does not read power if there is a counter."""
    return made.t_ns.nbytes + made.energy_mj.nbytes + made.sm_percent.size * (5 * 8 + 4)


def against_memcpy(
    hz: int, processes: int, devices: int, seconds: int, learns: bool, repetitions: int
) -> Figures:
    """Time kernel and copy in turn, in one process: the copy is the yardstick, not a contender."""
    made = readings(devices, hz, seconds, processes)
    kernel = attribution(made, learns)
    rows = kernel.call()
    _check_conserved(made, kernel.out[:, :rows])
    source = np.ones(in_bytes(made) + rows * 8 * r.ROW_COLUMNS, np.uint8)
    target = np.empty_like(source)
    kernel_s, copy_s = timed_s([kernel.call, lambda: np.copyto(target, source)], repetitions)
    samples = made.devices * made.t_ns.shape[1]
    return {
        "M samples/s": samples / kernel_s / 1e6,
        "M rows/s": rows / kernel_s / 1e6,
        _OF_MEMCPY: copy_s / kernel_s,
        "GB/s memcpy": source.nbytes / copy_s / 1e9,
        "MB in and out": source.nbytes / 1e6,
    }


def rows(small: bool) -> list[Row]:
    """The rows of the table."""
    found = []
    for hz, processes, devices, seconds, learns in _SMALL if small else _FULL:
        figures = run(
            against_memcpy,
            hz=hz,
            processes=processes,
            devices=devices,
            seconds=seconds,
            learns=learns,
            repetitions=1 if small else 7,
        )
        shown = f"{hz} Hz, {processes} process{'es' if processes > 1 else ''} a GPU"
        shown += ", learning" if learns else ""
        bars = [Bar(_OF_MEMCPY, _LEARNING_BAR)] if learns else [Bar(_OF_MEMCPY, _BAR)] if hz == 100 else []
        found.append(Row("kernel", shown, figures, bars))
    return found


def _check_conserved(made: Readings, out: I64) -> None:
    """Check that every window has its rows, the parts add up to it, and windows add up to the counter."""
    each = made.processes
    check(out.shape[1] == made.windows * each, f"{out.shape[1]} rows of {made.windows} windows")
    parts = out.reshape(r.ROW_COLUMNS, made.devices, made.seconds, each)
    for idle in (r.IDLE_EQUAL, r.IDLE_MEMORY, r.IDLE_ACTIVE):
        split_uj = (parts[r.ACTIVE_ENERGY] + parts[idle]).sum(axis=2)
        check(bool((split_uj == parts[r.DEVICE_ENERGY, :, :, 0]).all()), "energies do not add up")
    for used in (r.TIME_EQUAL, r.TIME_MEMORY, r.TIME_ACTIVE):
        check(
            bool((parts[used].sum(axis=2) == parts[r.COVERED, :, :, 0]).all()),
            "times do not add up",
        )
    counter_uj = (made.energy_mj[:, -1] - made.energy_mj[:, 0]) * 1000
    last_step_uj = (made.energy_mj[:, -1] - made.energy_mj[:, -2]) * 1000
    windows_uj = parts[r.DEVICE_ENERGY, :, :, 0].sum(axis=1)
    beyond_uj = counter_uj - windows_uj  # by the last sample, which is up to 1 ms beyond the last window
    check(
        bool(((beyond_uj >= 0) & (beyond_uj <= last_step_uj)).all()),
        "windows do not add up to the counter",
    )
