"""The kernel against numpy and polars on the same work, with the same result.

The work: cut the windows of 1 s at the edges of the process records; interpolate the energy of each piece
from the counter; take off the idle part; split active energy by SM time, and idle energy and idle time under
three policies, in integers by largest remainder; sum by device, window and process. The result: 11 integers
of each, equal in all contenders to the last bit. The kernel writes 11 more, and rows for unheld and residual
energy.

The peers are given what the kernel has to find out: each device has the same processes throughout, a record
of each at the same time in every second, a counter that always rises, and no gap."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from benchmarks.contender import Figures, check, compared, rounds_of, timed_s
from benchmarks.kernel import IDLE_MW, attribution
from benchmarks.synthetic import I64, SECOND_NS, START_NS, Readings, counter_uj, readings
from benchmarks.table import Bar, Row
from wattribute.kernels import result as r

_BAR: Final = 10.0
_FULL: Final = ((100, 1, 32, 1000), (100, 4, 32, 1000), (10, 4, 32, 1000))
_SMALL: Final = ((100, 1, 2, 20), (10, 4, 2, 20))
_ROUNDS: Final = 3
# The result (11, devices, seconds, processes) consists of these rows of the kernel.
_RESULT: Final = slice(r.DEVICE_ENERGY, r.MEMORY + 1)


def by_kernel(hz: int, processes: int, devices: int, seconds: int, repetitions: int) -> Figures:
    """The kernel, with which the others are compared."""
    made = readings(devices, hz, seconds, processes)
    ready = attribution(made, learns=False)  # split by SM time, like the others
    (took_s,) = timed_s([ready.call], repetitions)
    rows = ready.out[:, : ready.call()].reshape(r.ROW_COLUMNS, devices, seconds, processes)
    return _figures(made, rows[_RESULT], took_s)


def by_numpy(hz: int, processes: int, devices: int, seconds: int, repetitions: int) -> Figures:
    """numpy, on whole arrays at a time."""
    return _timed(readings(devices, hz, seconds, processes), _attributed, repetitions)


def by_polars(hz: int, processes: int, devices: int, seconds: int, repetitions: int) -> Figures:
    """polars, lazy frames in one thread: an as-of join of cuts with samples, window functions, a grouping."""
    from benchmarks.peers_polars import frames, split_by_polars  # noqa: PLC0415 - polars may be absent

    made = readings(devices, hz, seconds, processes)
    given = frames(made)
    return _timed(made, lambda made: split_by_polars(made, given), repetitions)


_CONTENDERS: Final = {"kernel": by_kernel, "numpy": by_numpy, "polars": by_polars}


def rows(small: bool) -> list[Row]:
    """The rows of the table."""
    found = []
    for hz, processes, devices, seconds in _SMALL if small else _FULL:
        size = {"hz": hz, "processes": processes, "devices": devices, "seconds": seconds}
        size["repetitions"] = 1 if small else 3
        rounds = rounds_of(_CONTENDERS, 1 if small else _ROUNDS, **size)
        for one in rounds:
            check(len({figures["result"] for figures in one.values()}) == 1, "the contenders' results differ")
        shown = f"{hz} Hz, {processes} process{'es' if processes > 1 else ''} a GPU"
        bars = [Bar("times polars", _BAR)] if hz == 100 else []
        found.append(Row("same work", shown, compared(rounds), bars))
    return found


def _attributed(made: Readings) -> I64:
    cut = [_pieces(made, d) for d in range(made.devices)]
    energy_uj, length_ns, begins = (np.concatenate([piece[k] for piece in cut]) for k in (0, 1, 3))
    record = np.concatenate([piece[2] for piece in cut], axis=1)
    device = np.repeat(np.arange(made.devices), [len(piece[0]) for piece in cut])
    of_process = np.arange(made.processes)[:, None]
    used = made.sm_percent[device, of_process, record].astype(np.float64)
    held = made.memory_bytes[device, of_process, record].astype(np.float64)
    starts = np.flatnonzero(begins)

    def summed(column: Any) -> Any:
        return np.add.reduceat(column, starts, axis=-1)

    idle_uj = np.minimum(energy_uj, IDLE_MW * length_ns // 1_000_000)
    used_ns = (used * length_ns / 100.0).astype(np.int64)
    scaled = used_ns.sum(axis=0) > length_ns
    if scaled.any():
        used_ns = np.where(scaled, _apportioned(length_ns, used), used_ns)
    idle_ns = length_ns - used_ns.sum(axis=0)
    memory_bytes = summed(held * length_ns) / summed(length_ns)
    policies = (np.ones_like(used), held, used)
    columns = [summed(energy_uj), summed(length_ns), summed(_apportioned(energy_uj - idle_uj, used))]
    columns += [summed(_apportioned(idle_uj, weights)) for weights in policies]
    columns += [summed(used_ns)]
    columns += [summed(used_ns + _apportioned(idle_ns, weights)) for weights in policies]
    columns += [memory_bytes.astype(np.int64)]
    shape = (made.processes, made.windows)
    result = np.stack([np.broadcast_to(column, shape) for column in columns])
    return result.reshape(-1, made.processes, made.devices, made.seconds).transpose(0, 2, 3, 1)


def _pieces(made: Readings, d: int) -> tuple[I64, I64, I64, Any]:
    """The pieces of a device, cut at the edges of windows and records: energy, length, the record of each
    process that covers it (the first at or after its end), and whether it begins a window."""
    edges_ns = START_NS + np.arange(made.seconds + 1) * SECOND_NS
    cuts_ns = np.unique(np.concatenate([edges_ns, made.record_ns().reshape(-1)]))
    cuts_ns = cuts_ns[cuts_ns <= edges_ns[-1]]
    record = [np.searchsorted(made.record_ns(), cuts_ns[1:]) for _ in range(made.processes)]
    covered_ns = np.maximum(cuts_ns, made.t_ns[d, 0])  # from the first sample on
    energy_uj = np.diff(counter_uj(made, d, covered_ns))
    return energy_uj, np.diff(covered_ns), np.stack(record), np.isin(cuts_ns[:-1], edges_ns)


def _apportioned(total: I64, weights: Any) -> I64:
    """Split totals (…) by weights (processes, …) by largest remainder; equal remainders go in order."""
    if len(weights) == 1:
        return total[None]
    exact = total * (weights / weights.sum(axis=0))
    parts: I64 = exact.astype(np.int64)
    left = total - parts.sum(axis=0)
    order = np.argsort(parts - exact, axis=0, kind="stable")
    ranks = np.argsort(order, axis=0)
    parts += ranks < left
    return parts


def _timed(made: Readings, task: Callable[[Readings], I64], repetitions: int) -> Figures:
    found: list[I64] = []
    (took_s,) = timed_s([lambda: found.append(task(made))], repetitions)
    return _figures(made, found[-1], took_s)


def _figures(made: Readings, result: I64, took_s: float) -> Figures:
    """The rate of a contender, and a hash of its result."""
    check(result.shape == (11, made.devices, made.seconds, made.processes), f"a result of {result.shape}")
    return {
        "M samples/s": made.t_ns.size / took_s / 1e6,
        "result": hashlib.sha256(np.ascontiguousarray(result).tobytes()).hexdigest(),
    }
