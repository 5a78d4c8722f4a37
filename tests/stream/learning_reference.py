"""What processes draw per percent of SM time (docs/attribution.md, "What is learned"), in plain Python with
numpy's least squares: slow and obvious. For a device that at most 7 processes share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

SECOND_NS = 1_000_000_000
BLOCK_NS, BLOCKS = 5 * SECOND_NS, 24
AHEAD_NS = 600_000_000  # energy must be known so far beyond an SM reading
FORGET_S, NOISE_W2 = 40.0, 10.0
WATTS, WATTS_SD, IDLE_SD_W = 4.0, 3.0, 40.0
SHIFTS_MS = (0, -50, 50, -100, 100, 200, 300, 400, 500, 600, 800, 1000)

Uses = dict[str, list[tuple[int, int, float]]]
"""Of each process, SM percent over (from, to]."""
Joules = Callable[[int, int], float | None]
"""The energy between two instants; None where it is not known."""


@dataclass
class Learned:
    """``idle_w``: None where the prior holds."""

    idle_w: float | None = None
    shift_ns: int = 0
    watts: dict[str, float] = field(default_factory=dict)


def by_counter(readings: Sequence[tuple[int, int | None]]) -> Joules:
    """From a counter in mJ, interpolated between its changes."""
    knots: list[tuple[int, int]] = []
    for t, mj in readings:
        if mj is not None and (not knots or mj != knots[-1][1]):
            knots.append((t, mj))
    times, values = [t for t, _ in knots], [mj / 1e3 for _, mj in knots]

    def joules(begin: int, end: int) -> float | None:
        if not times or begin < times[0] or end >= times[-1]:
            return None
        return float(np.interp(end, times, values) - np.interp(begin, times, values))

    return joules


def by_power(readings: Sequence[tuple[int, int | None]]) -> Joules:
    """From power in mW, by trapezoids."""

    def joules(begin: int, end: int) -> float | None:
        total = 0.0
        for (t0, p0), (t1, p1) in pairwise(readings):
            a, b = max(begin, t0), min(end, t1)
            if a < b:
                if p0 is None or p1 is None:
                    return None
                total += (p0 + (p1 - p0) * ((a + b) / 2 - t0) / (t1 - t0)) * (b - a) / 1e12
        return total

    return joules


def learn(
    joules: Joules,
    covered: tuple[int, int],
    broken: Sequence[tuple[int, int]],
    used: Uses,
    idle_w: float,
    block: int,
) -> Learned:
    """What is learned up to the end of a block. ``covered``: from the first to the last sample; ``broken``:
    gaps, and falls of the counter; ``idle_w``: the prior."""
    start, stop = (block - BLOCKS + 1) * BLOCK_NS, (block + 1) * BLOCK_NS
    names = [
        name for name, spans in used.items() if any(p > 0 and b > start and a < stop for a, b, p in spans)
    ]
    if len(names) < 2:
        return Learned()
    loads, powers, weights = [], [], []
    for k in range(block - BLOCKS + 1, block + 1):
        for begin, end in stretches(used, k):
            if covered[0] > begin - SECOND_NS or covered[1] < end + AHEAD_NS:
                continue
            if any(a < end + AHEAD_NS and b > begin - SECOND_NS for a, b in broken):
                continue
            energies = [joules(begin - ms * 1_000_000, end - ms * 1_000_000) for ms in SHIFTS_MS]
            if None in energies:
                continue
            loads.append([*(mean(used[name], begin, end) for name in names), 1.0])
            powers.append([(energy or 0.0) / (end - begin) * 1e9 for energy in energies])
            weights.append((end - begin) / 1e9 / NOISE_W2 * math.exp(-(block - k) * 5 / FORGET_S))
    return fit(names, np.array(loads), np.array(powers), np.sqrt(np.array(weights)), idle_w)


def stretches(used: Uses, block: int) -> list[tuple[int, int]]:
    """Between two ends of records, of those that end in a block."""
    start, stop = block * BLOCK_NS, (block + 1) * BLOCK_NS
    own = [
        spans for spans in used.values() if any(b > start and a < stop for a, b, _ in _first(spans, start))
    ]
    before = max((b for spans in own for _, b, _ in spans if b <= start), default=0)
    found = []
    for end in sorted({b for spans in own for _, b, _ in spans if start < b <= stop}):
        begin = max(before, min(a for spans in own for a, b, _ in spans if b == end))
        before = end
        if SECOND_NS // 20 <= end - begin <= 60 * SECOND_NS:
            found.append((begin, end))
    return found


def _first(spans: list[tuple[int, int, float]], start: int) -> list[tuple[int, int, float]]:
    return [span for span in spans if span[1] > start][:1]


def mean(spans: list[tuple[int, int, float]], begin: int, end: int) -> float:
    """The mean SM percent between two instants."""
    return sum(p * max(0, min(b, end) - max(a, begin)) for a, b, p in spans) / (end - begin)


def fit(names: list[str], loads: np.ndarray, powers: np.ndarray, roots: np.ndarray, idle_w: float) -> Learned:
    """Ridge regression for each shift, and the shift that leaves least unexplained."""
    prior = np.array([*[WATTS] * len(names), idle_w])
    spread = np.diag([*[1 / WATTS_SD] * len(names), 1 / IDLE_SD_W])
    a = np.vstack([loads.reshape(-1, len(prior)) * roots[:, None], spread])
    found = []
    for shift in range(len(SHIFTS_MS)):
        b = np.concatenate([powers.reshape(-1, len(SHIFTS_MS))[:, shift] * roots, spread @ prior])
        x = np.linalg.lstsq(a, b, rcond=None)[0]
        found.append((float(((a @ x - b) ** 2).sum()), x))
    best = 0
    for shift in range(1, len(SHIFTS_MS)):
        if len(roots) and found[shift][0] < found[best][0] * (0.9 if best == 0 else 1):
            best = shift
    x = found[best][1]
    return Learned(
        min(max(float(x[-1]), 0.6 * idle_w), 1.6 * idle_w),
        SHIFTS_MS[best] * 1_000_000,
        {name: max(float(watts), WATTS / 4) for name, watts in zip(names, x, strict=False)},
    )
