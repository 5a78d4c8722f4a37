"""What processes draw per percent of SM time (docs/attribution.md, "What is learned"), in plain Python with
numpy's least squares: slow and obvious. For a device that at most 15 processes share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

SECOND_NS = 1_000_000_000
BLOCK_NS, MINUTE, ALONE, BLOCKS_AHEAD = 3 * SECOND_NS, 20, 5, 1
AHEAD_NS = 600_000_000  # energy must be known so far beyond an SM reading
DATED_NS, DATED_CHANGES = 3 * SECOND_NS, 30
FORGET_S, NOISE_W2 = 20.0, 10.0
WATTS, WATTS_SD, IDLE_SD_W = 4.0, 3.0, 40.0
PROOF = 10.0
SHIFTS_MS = (-100, -50, 0, 50, 100, 200, 300, 400, 500, 600, 800, 1000)

Readings = Sequence[tuple[int, int | None]]
Uses = dict[str, list[tuple[int, int, float]]]
"""Of each process, SM percent over (from, to]."""
Joules = Callable[[int, int], float | None]
"""The energy between two instants; None where it is not known."""
Draw = Callable[[int, int], Joules]
"""That, from readings around the time given."""


@dataclass
class Learned:
    """``idle_w``: None where the prior holds."""

    idle_w: float | None = None
    shift_ns: int = 0
    watts: dict[str, float] = field(default_factory=dict)


def by_counter(readings: Readings) -> Draw:
    """From a counter in mJ, interpolated between its changes, each at the date that those around it give."""

    def draw(begin: int, end: int) -> Joules:
        changes: list[tuple[int, int, int]] = []  # when it was read, half the time since the reading before
        before = mj = None
        for t, reading in _since_change(readings, begin - DATED_NS, end - 60 * SECOND_NS):
            if t > end + DATED_NS and ((changes and changes[-1][0] > end) or t > end + 60 * SECOND_NS):
                break
            if reading is not None and reading != mj:
                changes.append((t, 0 if before is None else (t - before) // 2, reading))
                mj = reading
            before = before if reading is None else t
        dates: list[int] = []
        for k, (t, half, _) in enumerate(changes):
            low = high = k
            while low > 0 and _steady(changes[low - 1], changes[low]):
                low -= 1
            while high + 1 < len(changes) and _steady(changes[high], changes[high + 1]):
                high += 1
            reach = min(DATED_CHANGES, k - low, high - k)
            around = [read - changes[low][0] for read, _, _ in changes[k - reach : k + reach + 1]]
            date = changes[low][0] + sum(around) // len(around)
            dates.append(max([min(max(date, t - half), t + half), *dates[-1:]]))
        return _between(dates, [reading / 1e3 for _, _, reading in changes])

    return draw


def _steady(before: tuple[int, int, int], after: tuple[int, int, int]) -> bool:
    return after[0] - before[0] <= SECOND_NS and after[2] > before[2]


def _since_change(readings: Readings, begin: int, least: int) -> Readings:
    """From the reading at ``begin`` on, and before it from where the counter came to that figure."""
    first = len(readings) - len(_from(readings, begin))
    while first > 0 and readings[first][0] > least:
        one, other = readings[first - 1][1], readings[first][1]
        if one is not None and other is not None and one != other:
            break
        first -= 1
    return readings[first:]


def by_power(readings: Readings) -> Draw:
    """From power in mW, by trapezoids."""

    def draw(begin: int, end: int) -> Joules:
        own = _from(readings, begin)
        total, totals = 0.0, []
        for k, (t, mw) in enumerate(own):
            if mw is None:
                total = math.nan
            elif k:
                total += (mw + (own[k - 1][1] or 0)) * (t - own[k - 1][0]) / 2e12
            totals.append(total)
        return _between([t for t, _ in own], totals)

    return draw


def _from(readings: Readings, begin: int) -> Readings:
    before = [k for k, (t, _) in enumerate(readings) if t <= begin]
    return readings[max([0, *before[-1:]]) :]


def _between(times: Sequence[int], values: Sequence[float]) -> Joules:
    since = [t - times[0] for t in times]

    def joules(begin: int, end: int) -> float | None:
        if len(times) < 2 or begin < times[0] or end >= times[-1]:
            return None
        at = np.interp([begin - times[0], end - times[0]], since, values)
        return None if np.isnan(at).any() else float(at[1] - at[0])

    return joules


def learn(
    draw: Draw,
    covered: tuple[int, int],
    broken: Sequence[tuple[int, int]],
    used: Uses,
    idle_w: float,
    block: int,
    priors: Mapping[str, tuple[float, float]],
) -> Learned:
    """What is learned up to the end of a block. ``covered``: from the first to the last sample; ``broken``:
    gaps, and falls of the counter; ``idle_w``, ``priors``: of the idle level, and of those that differ,
    with their standard deviation."""
    if _alone(used, block):
        block -= block % ALONE
    rows: list[dict[str, float]] = []
    powers, weights, left = [], [], []
    for k in range((block // MINUTE - 1) * MINUTE, block + 1):
        own = stretches(used, k)
        if not own or (k % ALONE and _alone(used, min(block, (k // MINUTE + 1) * MINUTE - 1))):
            continue
        first = max(own[0][0], k * BLOCK_NS - 60 * SECOND_NS)
        joules = draw(first - SECOND_NS, (k + 1) * BLOCK_NS + AHEAD_NS)
        for begin, end in own:
            if not SECOND_NS // 20 <= end - begin <= 60 * SECOND_NS:
                continue
            if any(spans[0][0] < end and spans[0][1] > begin for spans in used.values() if spans):
                continue
            if covered[0] > begin - SECOND_NS or covered[1] < end + AHEAD_NS:
                continue
            if any(a < end + AHEAD_NS and b > begin - SECOND_NS for a, b in broken):
                continue
            energies = [joules(begin - ms * 1_000_000, end - ms * 1_000_000) for ms in SHIFTS_MS]
            if None in energies:
                continue
            rows.append({name: mean(spans, begin, end) for name, spans in used.items()})
            powers.append([(energy or 0.0) / (end - begin) * 1e9 for energy in energies])
            left.append(math.exp(-(block - k) * 3 / FORGET_S))
            weights.append((end - begin) / 1e9 / NOISE_W2 * left[-1])
    names = [name for name in used if any(row[name] > 0 for row in rows)]
    if not rows:
        return Learned()
    loads = np.array([[*(row[name] for name in names), 1.0] for row in rows])
    prior = np.array([*(priors.get(name, (WATTS, WATTS_SD)) for name in names), (idle_w, IDLE_SD_W)])
    roots = np.sqrt(np.array(weights))
    return fit(names, loads, np.array(powers), roots, sum(left), prior[:, 0], prior[:, 1])


def _alone(used: Uses, block: int) -> bool:
    """Whether one process at most was seen from the begin of a block's minute to its end: then every fifth
    block counts."""
    start, stop = block // MINUTE * MINUTE * BLOCK_NS, (block + 1) * BLOCK_NS
    return sum(any(a < stop for a, _, _ in _first(spans, start)) for spans in used.values()) <= 1


def stretches(used: Uses, block: int) -> list[tuple[int, int]]:
    """Between two ends of records, of those that end in a block."""
    start, stop = block * BLOCK_NS, (block + 1) * BLOCK_NS
    own = [
        spans for spans in used.values() if any(b > start and a < stop for a, b, _ in _first(spans, start))
    ]
    before = max((b for spans in own for _, b, _ in spans if b <= start), default=0)
    found = []
    for end in sorted({b for spans in own for _, b, _ in spans if start < b <= stop}):
        found.append((max(before, min(a for spans in own for a, b, _ in spans if b == end)), end))
        before = end
    return found


def _first(spans: list[tuple[int, int, float]], start: int) -> list[tuple[int, int, float]]:
    return [span for span in spans if span[1] > start][:1]


def mean(spans: list[tuple[int, int, float]], begin: int, end: int) -> float:
    """The mean SM percent between two instants."""
    return sum(p * max(0, min(b, end) - max(a, begin)) for a, b, p in spans) / (end - begin)


def fit(
    names: list[str],
    loads: np.ndarray,
    powers: np.ndarray,
    roots: np.ndarray,
    stretches: float,
    prior: np.ndarray,
    sd: np.ndarray,
) -> Learned:
    """Ridge regression for each shift, and the shift that leaves least unexplained: where a parabola through
    three of them is least, with what a line between two of them says of the power there."""
    spread = np.diag(1 / sd)
    target = prior / sd
    unknown = [k for k in range(len(names)) if sd[k] >= WATTS_SD / WATTS * prior[k]]
    if unknown:
        load = np.zeros(len(prior))
        load[unknown] = (loads * roots[:, None] ** 2).sum(axis=0)[unknown]
        mean = load / (load @ prior)
        for k in unknown:
            spread[k] -= prior[k] / sd[k] * mean
            target[k] = 0.0
        spread = np.vstack([spread, mean * WATTS / WATTS_SD])
        target = np.append(target, WATTS / WATTS_SD)
    a = np.vstack([loads * roots[:, None], spread])
    found = []
    for shift in range(len(SHIFTS_MS)):
        b = np.concatenate([powers[:, shift] * roots, target])
        x = np.linalg.lstsq(a, b, rcond=None)[0]
        found.append((float(((a @ x - b) ** 2).sum()), x))
    best = SHIFTS_MS.index(0)
    spare_s = max(float((roots**2).sum()) * NOISE_W2 - len(names), 1.0)
    unshifted = found[best][0]
    limit = min(min(0.9, spare_s / (spare_s + 3)) * unshifted, unshifted - PROOF)
    for shift, (left, _) in enumerate(found):
        if left < limit:
            best, limit = shift, left
    x, shift_ns = found[best][1], SHIFTS_MS[best] * 1_000_000
    if 0 < best < len(SHIFTS_MS) - 1 and shift_ns:
        three = [found[k][0] for k in (best - 1, best, best + 1)]
        at = [(SHIFTS_MS[k] - SHIFTS_MS[best]) * 1_000_000 for k in (best - 1, best, best + 1)]
        if three[1] <= three[0] and three[1] <= three[2] and three[0] + three[2] > 2 * three[1]:
            curve = ((three[2] - three[1]) / at[2] - (three[0] - three[1]) / at[0]) / (at[2] - at[0])
            off_ns = at[2] / 2 - (three[2] - three[1]) / at[2] / (2 * curve)
            other = 1 if off_ns >= 0 else -1
            x = x + off_ns / at[1 + other] * (found[best + other][1] - x)
            shift_ns += int(off_ns)
    noise = max(found[best][0] / stretches, 1.0)
    unsure = np.sqrt(np.diag(np.linalg.inv(a.T @ a)) * noise)
    least = np.minimum(prior / 4, unsure)
    return Learned(
        min(max(float(x[-1]), 0.2 * float(prior[-1])), 1.6 * float(prior[-1])),
        shift_ns,
        {name: max(float(w), float(low)) for name, w, low in zip(names, x, least, strict=False)},
    )
