"""Fit watts per percent, idle level and shift to the sums of stretches, by ridge regression."""

import math

from wattribute.kernels.jit import part
from wattribute.kernels.learn_scratch import (
    AT_IDLE,
    AT_OTHERS,
    AT_OWN,
    NOISE_W2,
    SHIFTS,
    SHIFTS_NS,
    UNSHIFTED,
    LearnScratch,
)
from wattribute.kernels.series import F64, IDLE_HIGH, IDLE_LOW, WATTS_PRIOR, WATTS_PRIOR_SD, Holders, Watts

_FIXED_SD_W = 1e-3  # for an idle level that is configured: it is not learned
# A process that works draws something: at least this part of its prior, or the standard deviation of the
# fitted watts where that is less. (With the quarter alone, all processes on an L4, which draws 72 W at most,
# had 1 W a percent, and 30 % went to the wrong process.)
_LEAST = 0.25
# A shift is accepted if it leaves at most this part of the variance unexplained; with few seconds of data the
# limit is lower. (Of 64 devices with four processes, chance gave one a shift in its first seconds, and so 100
# ms without SM time.)
_BETTER, _CHANCE_S = 0.9, 3.0
# It must also explain this much more, in squares over the noise: of constant power any shift explains little.
_PROOF = 10.0


@part
def _decompose(a: F64, n: int) -> None:
    """Cholesky decomposition of the first n rows of ``a`` in place: the lower triangle L such that L Lᵀ was
    ``a``. On its diagonal are the reciprocals, because a division takes as long as ten products."""
    for i in range(n):
        for j in range(i + 1):
            total = a[i, j]
            for k in range(j):
                total -= a[i, k] * a[j, k]
            a[i, j] = 1.0 / math.sqrt(total) if i == j else total * a[j, j]


@part
def _solve_forward(lower: F64, n: int, b: F64) -> None:
    """Solve L y = b for each column of ``b``, in place."""
    for i in range(n):
        for k in range(i):
            for s in range(SHIFTS):
                b[i, s] -= lower[i, k] * b[k, s]
        for s in range(SHIFTS):
            b[i, s] *= lower[i, i]


@part
def _solve_back(lower: F64, n: int, y: F64, s: int, x: F64) -> None:
    """Solve Lᵀ x = y, for column s of ``y``."""
    for i in range(n - 1, -1, -1):
        total = y[i, s]
        for k in range(i + 1, n):
            total -= lower[k, i] * x[k]
        x[i] = total * lower[i, i]


@part
def _variance(lower: F64, n: int, i: int, x: F64) -> float:
    """Return the i-th diagonal element of (L Lᵀ)⁻¹: the sum of squares of the i-th column of L⁻¹."""
    total = 0.0
    for j in range(i, n):
        entry = 1.0 if j == i else 0.0
        for k in range(i, j):
            entry -= lower[j, k] * x[k]
        x[j] = entry * lower[j, j]
        total += x[j] ** 2
    return total


@part
def _between(best: int, squares: F64) -> tuple[int, int, float]:
    """Refine the best shift to the minimum of a parabola through what it and its two neighbours leave
    unexplained. Return (that shift, the neighbour on its side, how far it lies towards that, as a ratio). No
    shift stays no shift."""
    if best in (0, UNSHIFTED, SHIFTS - 1):
        return SHIFTS_NS[best], best, 0.0
    below_ns, above_ns = SHIFTS_NS[best] - SHIFTS_NS[best - 1], SHIFTS_NS[best + 1] - SHIFTS_NS[best]
    below = (squares[best - 1] - squares[best]) / below_ns
    above = (squares[best + 1] - squares[best]) / above_ns
    if below < 0.0 or above < 0.0 or below + above == 0.0:
        return SHIFTS_NS[best], best, 0.0
    off_ns = (below * above_ns - above * below_ns) / (2.0 * (below + above))
    if off_ns >= 0.0:
        return SHIFTS_NS[best] + int(off_ns), best + 1, off_ns / above_ns
    return SHIFTS_NS[best] + int(off_ns), best - 1, -off_ns / below_ns


@part
def _add_prior(holders: Holders, n: int, idle_w: float, idle_sd_w: float, work: LearnScratch) -> float:
    """Add the priors to the sums of the first n places; return Σ prior² / variance.

    The idle level, and watts of which something is known, are their prior ± its deviation. Of processes of
    which nothing is known, the mean by SM time is the prior ± its deviation, and each is the mean ± that: so
    what the readings do not tell apart is split by SM time. With independent priors the busier of two took
    too much: of a constant 650 W, processes with 60 and 20 % had 4.4 to 1. All is in units of the prior,
    because instances have parts of it."""
    second, first, mean, pull = work.second, work.first, work.x, work.pull
    total = squared = spent = 0.0
    for i in range(n):
        prior, sd = WATTS_PRIOR, WATTS_PRIOR_SD
        if i == AT_IDLE:
            prior, sd = idle_w, idle_sd_w
        elif i >= AT_OWN:
            prior, sd = holders.watts[work.who[i]], holders.watts_sd[work.who[i]]
        mean[i] = pull[i] = 0.0
        if i != AT_IDLE and second[i, AT_IDLE] > 0.0 and sd >= WATTS_PRIOR_SD / WATTS_PRIOR * prior:
            mean[i], pull[i] = second[i, AT_IDLE], prior / sd**2
            total, squared = total + prior * mean[i], squared + (prior / sd) ** 2
        else:
            spent += (prior / sd) ** 2
            for s in range(SHIFTS):
                first[i, s] += prior / sd**2
        second[i, i] += 1.0 / sd**2
    if total == 0.0:
        return spent
    certain = (WATTS_PRIOR / WATTS_PRIOR_SD) ** 2
    for i in range(n):
        mean[i] /= total
        for j in range(i + 1):
            second[i, j] += (squared + certain) * mean[i] * mean[j] - mean[i] * pull[j] - pull[i] * mean[j]
        for s in range(SHIFTS):
            first[i, s] += certain * mean[i]
    return spent + certain


@part
def fit(
    holders: Holders, n: int, idle_mw: int, idle_sd_w: float, work: LearnScratch, out: Watts, row: int
) -> None:
    """Fit watts of the first n places, idle level and shift; write them with their uncertainty into row
    ``row``."""
    second, first, squares, x = work.second, work.first, work.squares, work.x
    weight = second[AT_IDLE, AT_IDLE]  # of all stretches: seconds / noise variance
    idle_w = idle_mw / 1e3
    spent = _add_prior(holders, n, idle_w, max(idle_sd_w, _FIXED_SD_W), work)
    _decompose(second, n)
    _solve_forward(second, n, first)
    for s in range(SHIFTS):  # what is left unexplained: Σ power² - |L⁻¹ b|²
        squares[s] += spent
        for i in range(n):
            squares[s] -= first[i, s] ** 2
    best = UNSHIFTED
    spare_s = max(weight * NOISE_W2 - (n - AT_OWN), 1.0)  # seconds of data, less one for each process
    better = min(_BETTER, spare_s / (spare_s + _CHANCE_S))
    limit = min(better * squares[UNSHIFTED], squares[UNSHIFTED] - _PROOF)
    for s in range(SHIFTS):
        if weight > 0.0 and squares[s] < limit:
            best, limit = s, squares[s]
    shift_ns, beside, share = _between(best, squares)
    for i in range(n):
        first[i, best] += share * (first[i, beside] - first[i, best])
    _solve_back(second, n, first, best, x)
    least = squares[best]
    noise = max(least, 0.0) / max(work.stretches[0], 1e-9)  # how much larger than assumed
    out.shift_ns[row] = shift_ns
    out.noise_w[row] = math.sqrt(noise * NOISE_W2)
    # Energy that is dated late (a negative shift) takes SM time into a later window with it.
    out.late_s[row] = math.sqrt(work.late_s2[0] / max(weight, 1e-9) + (min(shift_ns, 0) / 1e9) ** 2)
    out.idle_mw[row] = idle_mw
    if idle_sd_w > 0.0:
        out.idle_mw[row] = int(min(max(x[AT_IDLE], IDLE_LOW * idle_w), IDLE_HIGH * idle_w) * 1000.0)
    for i in range(n):
        sd = math.sqrt(_variance(second, n, i, work.pull) * max(noise, 1.0))
        if i == AT_IDLE:
            out.idle_sd_w[row] = sd
            continue
        prior = holders.watts[work.who[i]] if i >= AT_OWN else WATTS_PRIOR
        out.holder[row, i - 1] = work.who[i]
        out.watts[row, i - 1] = max(x[i], min(_LEAST * prior, sd))
        # Each process that shares a figure differs from it as any process does from the mean of all.
        out.sd[row, i - 1] = math.hypot(sd, WATTS_PRIOR_SD) if i == AT_OTHERS else sd
    out.known[row] = n - 1
