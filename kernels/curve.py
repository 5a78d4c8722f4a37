"""The cumulative energy of a device over some seconds, as a curve that can be read at any instant."""

import math

from wattribute.kernels.find import first_after
from wattribute.kernels.jit import part
from wattribute.kernels.learn_scratch import SHIFTS, SHIFTS_NS, LearnScratch
from wattribute.kernels.series import (
    AVERAGE_SHIFT_NS,
    DATED_NS,
    F64,
    FOREVER,
    HAS_COUNTER,
    HAS_INSTANT,
    I32,
    I64,
    Devices,
)

SHORTEST_NS, LONGEST_NS = 50_000_000, 60_000_000_000  # the mean power over other stretches says little
_STEADY_NS = 1_000_000_000  # changes further apart, or across a reset, do not help to date each other
_DATED_CHANGES = 30  # to each side: with 101 ms between changes, 61 are read with every delay equally often


@part
def _is_same(energy_mj: I64, d: int, i: int) -> bool:
    """Whether samples i - 1 and i have the same counter reading, or one of them has none."""
    return bool(energy_mj[d, i] < 0 or energy_mj[d, i - 1] < 0 or energy_mj[d, i] == energy_mj[d, i - 1])


@part
def _draw_changes(devices: Devices, d: int, first: int, to_ns: int, work: LearnScratch) -> int:
    """Draw the curve of a counter from sample ``first`` on; return its number of points.

    A point is a change of the counter. It is read up to a sampler period after it happened, now sooner, now
    later, while counters change at a steady pace. So a change is dated at the mean reading time of the
    changes around it in its run, but moved by at most half the time since the reading before."""
    t_ns, energy_mj = devices.t_ns, devices.energy_mj
    read_ns, sum_ns, curve_ns, curve_j = work.read_ns, work.sum_ns, work.curve_ns, work.curve_j
    while first > 0 and t_ns[d, first] > to_ns - LONGEST_NS and _is_same(energy_mj, d, first):
        first -= 1  # back to where the counter reached this value
    n = 0
    before_ns, mj = 0, -1
    i = first
    enough_ns = to_ns + DATED_NS
    while i < devices.length[d] and t_ns[d, i] <= enough_ns:
        if energy_mj[d, i] >= 0:
            if energy_mj[d, i] != mj:
                mj = energy_mj[d, i]
                read_ns[n], curve_j[n] = t_ns[d, i], mj / 1e3
                curve_ns[n] = (t_ns[d, i] - before_ns) // 2 if n > 0 else 0
                n += 1
            before_ns = t_ns[d, i]
        i += 1
        if i < devices.length[d] and t_ns[d, i] > enough_ns and n > 0 and read_ns[n - 1] <= to_ns:
            enough_ns = min(t_ns[d, i], to_ns + LONGEST_NS)  # the counter changes rarely
    off_s2 = 0.0
    newest_ns = -FOREVER
    begin = 0
    while begin < n:  # a run: the counter changed at a steady pace
        end = begin + 1
        while end < n and read_ns[end] - read_ns[end - 1] <= _STEADY_NS and curve_j[end] > curve_j[end - 1]:
            end += 1
        first_ns, total_ns = read_ns[begin], 0
        for k in range(begin, end):
            sum_ns[k] = total_ns
            total_ns += read_ns[k] - first_ns
        sum_ns[end] = total_ns
        for k in range(begin, end):
            reach = min(_DATED_CHANGES, k - begin, end - 1 - k)
            around_ns = sum_ns[k + reach + 1] - sum_ns[k - reach]
            dated_ns = first_ns + around_ns // (2 * reach + 1)
            dated_ns = min(max(dated_ns, read_ns[k] - curve_ns[k]), read_ns[k] + curve_ns[k])
            newest_ns = max(dated_ns, newest_ns)
            curve_ns[k] = newest_ns
            off_s2 += ((read_ns[k] - newest_ns) / 1e9) ** 2
        begin = end
    work.late_s2[0] = off_s2 / max(n, 1)
    return n


@part
def _draw_power(
    t_ns: I64, power_mw: I32, n: int, d: int, first: int, to_ns: int, shift_ns: int, work: LearnScratch
) -> int:
    """Draw the curve of integrated power from sample ``first`` on, NaN from the first missing reading on;
    return its number of points. ``shift_ns``: how long before its own time the middle of the span lies that a
    reading covers."""
    count = 0
    total_j = 0.0
    i = first
    while i < n and (i == first or t_ns[d, i - 1] - shift_ns <= to_ns):
        if power_mw[d, i] < 0:
            total_j = math.nan
        elif i > first:
            total_j += (power_mw[d, i] + power_mw[d, i - 1]) * (t_ns[d, i] - t_ns[d, i - 1]) / 2e12
        work.curve_ns[count], work.curve_j[count] = t_ns[d, i] - shift_ns, total_j
        count += 1
        i += 1
    return count


@part
def draw_curve(devices: Devices, d: int, from_ns: int, to_ns: int, work: LearnScratch) -> int:
    """Draw the cumulative energy of a device in J, as points around the given span; return how many."""
    n = devices.length[d]
    before_ns = from_ns - (DATED_NS if devices.sources[d] & HAS_COUNTER else 0)
    first = work.near[0] = max(first_after(devices.t_ns, d, n, before_ns, work.near[0]) - 1, 0)
    if devices.sources[d] & HAS_COUNTER:
        return _draw_changes(devices, d, first, to_ns, work)
    work.late_s2[0] = 0.0
    if devices.sources[d] & HAS_INSTANT:
        return _draw_power(devices.t_ns, devices.power_mw, n, d, first, to_ns, 0, work)
    return _draw_power(devices.t_ns, devices.average_mw, n, d, first, to_ns, AVERAGE_SHIFT_NS, work)


@part
def read_curve(n: int, instant_ns: int, work: LearnScratch, joules: F64) -> None:
    """Read the curve of n points at an instant minus each shift, NaN where the curve does not reach."""
    curve_ns, curve_j = work.curve_ns, work.curve_j
    first_ns, last_ns = curve_ns[0], curve_ns[n - 1]
    pace = (n - 1) / max(last_ns - first_ns, 1)
    for s in range(SHIFTS):
        at_ns = instant_ns - SHIFTS_NS[s]
        joules[s] = math.nan
        if first_ns <= at_ns < last_ns:
            i = int((at_ns - first_ns) * pace)  # points come at a steady pace
            while curve_ns[i] > at_ns:
                i -= 1
            while curve_ns[i + 1] <= at_ns:
                i += 1
            share = (at_ns - curve_ns[i]) / (curve_ns[i + 1] - curve_ns[i])
            joules[s] = curve_j[i] + share * (curve_j[i + 1] - curve_j[i])
