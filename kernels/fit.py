"""Watts per percent, idle level and shift, fitted to sums of stretches by ridge regression."""

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

_FIXED_SD_W = 1e-3  # of an idle level that is known: it is not learned
# A process that works draws something: so much of the prior, or where that is less what its watts are unsure
# by. An L4 draws 72 W at most: there all had the quarter, 1 W a percent, and 30 % went to the wrong process.
_LEAST = 0.25
# A shift is believed where it leaves so much of the variance at most, and of few seconds less yet: of 64
# devices with four processes chance gave one a shift in its first seconds, and so 100 ms of no SM time.
_BETTER, _CHANCE_S = 0.9, 3.0
# And where it explains so much more, in squares over the noise: of constant power any shift explains little.
_PROOF = 10.0


@part
def _decompose(a: F64, n: int) -> None:
    """Cholesky: the lower triangle L of the first n rows of ``a``, in place, such that L Lᵀ was ``a``; the
    reciprocals of its diagonal in that place, for to divide takes as long as ten products."""
    for i in range(n):
        for j in range(i + 1):
            total = a[i, j]
            for k in range(j):
                total -= a[i, k] * a[j, k]
            a[i, j] = 1.0 / math.sqrt(total) if i == j else total * a[j, j]


@part
def _solve_forward(lower: F64, n: int, b: F64) -> None:
    """The y of L y = b for each column of ``b``, in its place."""
    for i in range(n):
        for k in range(i):
            for s in range(SHIFTS):
                b[i, s] -= lower[i, k] * b[k, s]
        for s in range(SHIFTS):
            b[i, s] *= lower[i, i]


@part
def _solve_back(lower: F64, n: int, y: F64, s: int, x: F64) -> None:
    """The x of Lᵀ x = y, of a column s of ``y``."""
    for i in range(n - 1, -1, -1):
        total = y[i, s]
        for k in range(i + 1, n):
            total -= lower[k, i] * x[k]
        x[i] = total * lower[i, i]


@part
def _variance(lower: F64, n: int, i: int, x: F64) -> float:
    """The i-th of the diagonal of (L Lᵀ)⁻¹: the squares of the i-th column of L⁻¹."""
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
    """The shift at which a parabola through what the best and those beside it leave unexplained is least, and
    between the best and which other that lies, at what share of the way. None at all stays that."""
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
    """Add to the sums of those in the first n places what is likely before anything is seen; Σ prior² /
    variance of that.

    The idle level, and watts that something is known of, are their prior ± its deviation. Of processes that
    nothing is known of the mean, by SM time, is the prior ± its deviation, and each of them the mean ± that:
    what the readings do not tell apart is split by SM time. With priors of their own, of constant 650 W the
    busier of two took too much: 60 and 20 % had 4.4 to 1. All is in units of the prior, of which instances
    have parts."""
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
    """Watts of those in the first n places, idle level, shift, and how sure they are, into row ``row``."""
    second, first, squares, x = work.second, work.first, work.squares, work.x
    weight = second[AT_IDLE, AT_IDLE]  # of all stretches, in seconds over the noise
    idle_w = idle_mw / 1e3
    spent = _add_prior(holders, n, idle_w, max(idle_sd_w, _FIXED_SD_W), work)
    _decompose(second, n)
    _solve_forward(second, n, first)
    for s in range(SHIFTS):  # what is left unexplained: Σ power² - |L⁻¹ b|²
        squares[s] += spent
        for i in range(n):
            squares[s] -= first[i, s] ** 2
    best = UNSHIFTED
    spare_s = max(weight * NOISE_W2 - (n - AT_OWN), 1.0)  # of what was seen, beyond a second for each process
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
    noise = max(least, 0.0) / max(work.stretches[0], 1e-9)  # how much larger than taken
    out.shift_ns[row] = shift_ns
    out.noise_w[row] = math.sqrt(noise * NOISE_W2)
    # Energy that is dated late moves SM time to a later window with it.
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
        # Of those that share a figure each is off from it as any process is from the mean of all.
        out.sd[row, i - 1] = math.hypot(sd, WATTS_PRIOR_SD) if i == AT_OTHERS else sd
    out.known[row] = n - 1
