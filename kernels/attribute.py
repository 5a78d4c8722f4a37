"""Attribution (docs/attribution.md): the energy and time of each window, to whoever caused them.

For each device, over the windows that are due:

    plan     which windows, and the offset of the newest message that bears on each
    cut      the instants at which anything changes: window edges, holders, SM records, gaps
    measure  the device's cumulative energy at each cut, in integer µJ, so that windows telescope
    split    each piece between two cuts to its holders, by largest remainder, so that parts add up: what is
             above the idle level by watts × SM time, with the watts that were learned (learn.py). Where MIG
             cuts the device, to its instances first, and then within each

Integers throughout; floats only weigh. No fastmath: reassociation would break conservation.
"""

import math

import numpy as np

from wattribute.kernels.jit import allocating_part, kernel, part, prefetch
from wattribute.kernels.series import (
    AVERAGE_SHIFT_NS,
    BLOCK_NS,
    DEVICES,
    DUE,
    F64,
    FOREVER,
    HAS_AVERAGE,
    HAS_INSTANT,
    HOLDERS,
    HOSTS,
    I32,
    I64,
    IDLE_QUIET,
    INSTANCE,
    LATENESS_NS,
    RESERVED,
    WATTS,
    WATTS_OF,
    WATTS_PRIOR_SD,
    Devices,
    Due,
    Holders,
    Hosts,
    Scratch,
    Watts,
    WattsOf,
    types,
)

# Rows of the result ``out``, a column of the table each.
ROW_DEVICE, ROW_HOLDER, ROW_WINDOW, ROW_OFFSET = range(4)
DEVICE_ENERGY, COVERED, ACTIVE_ENERGY, IDLE_EQUAL, IDLE_MEMORY, IDLE_ACTIVE = range(4, 10)
ACTIVE_TIME, TIME_EQUAL, TIME_MEMORY, TIME_ACTIVE, MEMORY, ERROR_ENERGY, ERROR_TIME = range(10, 17)
ENERGY_SOURCE, WEIGHT_SOURCE, FLAGS, SEGMENT, DELETED, NOTHING_DUE = range(17, 23)
ROW_COLUMNS = 23

UNHELD, RESIDUAL = -1, -2  # in ROW_HOLDER
# NOTHING_DUE stands on the last row of a window: the accounts whose row is to be deleted. In most windows
# that is both, and as rows they were two of three, and a third of all that a stream spent.
NO_UNHELD, NO_RESIDUAL = 1, 2

# energy_source and weight_source, in the order of the table's enums
FROM_COUNTER, FROM_INSTANT, FROM_AVERAGE, FROM_MODULE, FROM_NONE = range(1, 6)
BY_EXCLUSIVE, BY_ACCOUNTING, BY_UTILIZATION, BY_GPM, BY_MEMORY, BY_EQUAL, BY_NONE = range(1, 8)

# flags
PROVISIONAL, GAP, RESET, NO_ENERGY, SCALED, NO_SM, PARTIAL, DISPUTED = 1, 2, 4, 8, 16, 32, 64, 128
REPEATED = 256

# Accumulators of a holder within a window; unheld and residual are the last two.
_ACTIVE, _IDLE, _USED, _TIME = 0, 1, 4, 5  # idle and time: three policies each
_ERROR_UJ, _ERROR_NS, _HELD, _CONTESTED, _SM, _BETWEEN = 8, 9, 10, 11, 12, 13
_PARTS = 14
_POLICIES = 3  # equal, memory, active
_EQUAL, _BY_MEMORY, _BY_SM, _BY_WATTS = range(4)  # rows of shares: those of the policies, of active energy

# Rows of what is known of the MIG instances that a piece is split to: which member it is, its compute slices,
# the first of those present after its own; what it gets. And its activity, how unsure its watts are, its
# weight.
_MEMBER, _SLICES, _END, _LENGTH_NS, _IDLE_UJ, _ACTIVE_UJ = range(6)
_PERCENT, _UNSURE, _WEIGHT = range(3)

_NO_SHARE = -3.0  # in place of a rest, and below any: who has no share of a total gets no unit of it either
_SDS_OF_95 = 2.0  # standard deviations to each side hold 95 % of a normal distribution
_POWER_HOLDS_NS = 600_000_000_000  # a power reading says nothing of 10 min later
# Half-widths of the 95 % band. Counter: it is cut to whole mJ, at both edges. Power readings: twice the rms
# error of the energy over 1 s (28 % instant, from the A100 logs of "Part-time Power
# Measurements", arXiv 2312.02741; 3.2 % average, simulated).
_COUNTER_ERROR_UJ = 1000
_INSTANT_ERROR, _AVERAGE_ERROR = 0.56, 0.064

# The counter is held against power over two blocks, which are over when their windows are final. In
# simulation the two are up to 3 % apart. Power at an instant is off by up to 16 % over 5 s (the A100 logs):
# so it must be seen often, and be further off than that.
_HELD_AGAINST_NS = 2 * BLOCK_NS
_INSTANTS_LEAST, _AVERAGES_LEAST = 24, 5
_INSTANTS_AGREE, _AVERAGES_AGREE = 0.25, 0.1
_LOOKED_AT = 60  # readings of power, at most: at 100 Hz all of them took as long as the split

# Cuts between asking for the samples beside one and looking at them: 4 to 16 did equally well.
_AHEAD = 8

_i64 = types.Array(types.int64, 1, "C")
_i64_2 = types.Array(types.int64, 2, "C")


@part
def _product_over(a: int, b: int, c: int) -> int:
    """floor(a * b / c) for 0 <= b <= c, c > 0, a >= 0, exactly, where a * b passes 63 bits too.

    µJ × ns overflows within seconds: 700 J × 10 s is 7e18 of 9.2e18. Then by bits: at most 63 steps.
    """
    if float(a) * float(b) < 9.0e18:
        return a * b // c
    quotient, remainder = a // c * b, 0
    rest = a % c
    extra = 0
    for bit in range(62, -1, -1):  # extra * c + remainder == rest * (the bits of b so far)
        extra *= 2
        if remainder >= c - remainder:
            remainder -= c - remainder
            extra += 1
        else:
            remainder *= 2
        if (b >> bit) & 1:
            if remainder >= c - rest:
                remainder -= c - rest
                extra += 1
            else:
                remainder += rest
    return quotient + extra


@part
def _to_ratios(weights: F64, n: int) -> None:
    """Turn the first n weights (sum > 0) into their shares of the whole: several quantities are split by the
    same."""
    whole = 0.0
    for k in range(n):
        whole += weights[0, k]
    for k in range(n):
        weights[0, k] /= whole


@part
def _apportion(total: int, ratios: F64, row: int, n: int, parts: I64, rests: F64) -> None:
    """Split ``total`` by n ratios (sum 1), of that row, by largest remainder; equal remainders in order.
    ``rests`` is room for them.

    To whom a unit goes is as good as random: found without a branch, a window of four processes came from
    1228 ns to 1063."""
    left = total
    for k in range(n):
        share = total * ratios[row, k]
        parts[k] = int(share)
        rests[k] = share - parts[k] if ratios[row, k] > 0.0 else _NO_SHARE
        left -= parts[k]
    while left > 0:
        best, most = 0, -2.0
        for k in range(n):
            best = k if rests[k] > most else best
            most = max(most, rests[k])
        parts[best] += 1
        rests[best] -= 1.0
        left -= 1
    while left < 0:  # rounding in the products gave a unit too much
        best, least = 0, 2.0
        for k in range(n):
            if rests[k] < least and parts[k] > 0:
                best, least = k, rests[k]
        parts[best] -= 1
        rests[best] += 1.0
        left += 1


@part
def _continues(holders: Holders, h: int, j: int) -> bool:
    """Whether record j carries on the hold of record j - 1: it came within 3 periods."""
    if j == 0:
        return False
    period_ns = holders.seen_period_ns[h, j - 1]
    if period_ns <= 0:
        period_ns = holders.seen_period_ns[h, j]
    return bool(holders.seen_ns[h, j] - holders.seen_ns[h, j - 1] <= 3 * period_ns)


@part
def _expected_by(holders: Holders, h: int) -> int:
    """When the record after the last is overdue: 3 periods."""
    last = holders.seen_length[h] - 1
    return int(holders.seen_ns[h, last] + 3 * holders.seen_period_ns[h, last])


@part
def _hold_from(holders: Holders, h: int, j: int) -> int:
    """When the hold that record j begins does begin: its period before it, not before the record before."""
    from_ns = holders.seen_ns[h, j] - holders.seen_period_ns[h, j]
    if j > 0:
        from_ns = max(from_ns, holders.seen_ns[h, j - 1])
    return int(from_ns)


@part
def _plan(due: Due, d: int, low: int, windows: I64, offsets: I64) -> int:
    """The windows that the marks of device d name, ascending from ``low`` on, with the newest offset of each;
    how many."""
    offsets[:] = -1
    high = low + offsets.shape[0] - 1
    for i in range(due.bounds[d], due.bounds[d + 1]):
        for w in range(max(due.first[i], low), min(due.last[i], high) + 1):
            offsets[w - low] = max(offsets[w - low], due.offset[i])
    n = 0
    for k in range(offsets.shape[0]):
        if offsets[k] >= 0:
            windows[n] = low + k
            offsets[n] = offsets[k]
            n += 1
    return n


@part
def _add_cut(cuts_ns: I64, begin: int, n: int, edge_ns: int, to_ns: int) -> int:
    """Insert an instant into cuts_ns[begin:n], ascending and once, if it lies between cuts_ns[begin] and
    ``to_ns``; the new n."""
    if edge_ns <= cuts_ns[begin] or edge_ns >= to_ns:
        return n
    k = n
    while cuts_ns[k - 1] > edge_ns:
        k -= 1
    if cuts_ns[k - 1] == edge_ns:
        return n
    for m in range(n, k, -1):
        cuts_ns[m] = cuts_ns[m - 1]
    cuts_ns[k] = edge_ns
    return n + 1


@part
def _may_hold(holders: Holders, h: int, from_ns: int, to_ns: int) -> bool:
    """Whether holder h could ever have been taken to hold the device in the window: then it has a row."""
    return bool(holders.reach_from_ns[h] < to_ns and holders.reach_to_ns[h] > from_ns)


@part
def _cut_holder(
    holders: Holders,
    h: int,
    seen: int,
    used: int,
    now_ns: int,
    shift_ns: int,
    cuts_ns: I64,
    begin: int,
    n: int,
    to_ns: int,
) -> int:
    """Cut a window where holder h begins, ends or has an edge of an SM record; the new n.

    ``seen``, ``used``: its first records that reach into the window; ``shift_ns``: how late those of SM time
    are dated."""
    n = _add_cut(cuts_ns, begin, n, holders.exit_ns[h], to_ns)
    count = holders.seen_length[h]
    j = seen
    while j < count:
        if not _continues(holders, h, j):
            n = _add_cut(cuts_ns, begin, n, _hold_from(holders, h, j), to_ns)
            if j > 0:
                n = _add_cut(cuts_ns, begin, n, holders.seen_ns[h, j - 1], to_ns)
        if holders.seen_ns[h, j] >= to_ns:
            break
        j += 1
    if j == count and count > 0 and min(now_ns, holders.exit_ns[h]) > _expected_by(holders, h):
        n = _add_cut(cuts_ns, begin, n, holders.seen_ns[h, count - 1], to_ns)
    for j in range(used, holders.used_length[h]):
        n = _add_cut(cuts_ns, begin, n, holders.used_from_ns[h, j] - shift_ns, to_ns)
        n = _add_cut(cuts_ns, begin, n, holders.used_ns[h, j] - shift_ns, to_ns)
        if holders.used_ns[h, j] - shift_ns >= to_ns:
            break
    return n


@part
def _cut(
    devices: Devices,
    holders: Holders,
    watts: Watts,
    of: WattsOf,
    d: int,
    now_ns: int,
    windows: I64,
    window_ns: int,
    work: Scratch,
) -> int:
    """All cuts of the windows, into ``work.cuts_ns`` and ``work.first_cut``; how many."""
    first_ns = devices.first_ns[d]
    last_ns = devices.t_ns[d, devices.length[d] - 1]
    cuts_ns = work.cuts_ns
    n = gap = 0
    for k in range(windows.shape[0]):
        from_ns = windows[k] * window_ns
        to_ns = from_ns + window_ns
        shift_ns = watts.shift_ns[of.row[of.begin[d] + windows[k] - of.first_window[d]]]
        begin = work.first_cut[k] = n
        cuts_ns[n] = from_ns
        n += 1
        n = _add_cut(cuts_ns, begin, n, first_ns, to_ns)
        n = _add_cut(cuts_ns, begin, n, last_ns, to_ns)
        while gap < devices.gap_length[d] and devices.gap_to_ns[d, gap] <= from_ns:
            gap += 1
        for g in range(gap, devices.gap_length[d]):
            if devices.gap_from_ns[d, g] >= to_ns:
                break
            n = _add_cut(cuts_ns, begin, n, devices.gap_from_ns[d, g], to_ns)
            n = _add_cut(cuts_ns, begin, n, devices.gap_to_ns[d, g], to_ns)
        for m in range(work.members.shape[0]):
            h, seen, used = work.members[m], work.seen[m], work.used[m]
            if not _may_hold(holders, h, from_ns, to_ns):
                continue  # it is a member for the sake of other windows, of which nothing may depend
            while seen < holders.seen_length[h] and holders.seen_ns[h, seen] <= from_ns:
                seen += 1
            while used > 0 and holders.used_ns[h, used - 1] - shift_ns > from_ns:
                used -= 1  # the window before was shifted further
            while used < holders.used_length[h] and holders.used_ns[h, used] - shift_ns <= from_ns:
                used += 1
            work.seen[m], work.used[m] = seen, used
            n = _cut_holder(holders, h, seen, used, now_ns, shift_ns, cuts_ns, begin, n, to_ns)
        cuts_ns[n] = to_ns
        n += 1
    work.first_cut[windows.shape[0]] = n
    return n


@part
def _trapezoid_uj(from_mw: int, to_mw: int, length_ns: int) -> int:
    """Energy of power that goes evenly from one reading to the next. 700 W for 2 h, multiplied first and
    divided then, would pass 63 bits."""
    twice_mw = from_mw + to_mw
    return twice_mw * (length_ns // 2_000_000) + twice_mw * (length_ns % 2_000_000) // 2_000_000


@part
def _rise_uj(from_mw: int, to_mw: int, part_ns: int, length_ns: int) -> int:
    """Energy of the first part of power that rises evenly, or stays; it never falls with that part, rounding
    included."""
    if part_ns == length_ns:
        return _trapezoid_uj(from_mw, to_mw, length_ns)
    above_uj = _product_over(_trapezoid_uj(0, to_mw - from_mw, part_ns), part_ns, length_ns)
    return _trapezoid_uj(from_mw, from_mw, part_ns) + above_uj


@part
def _ramp_uj(from_mw: int, to_mw: int, part_ns: int, length_ns: int) -> int:
    """Energy of the first part of power that goes evenly from one reading to the next."""
    if to_mw >= from_mw:
        return _rise_uj(from_mw, to_mw, part_ns, length_ns)
    whole_uj = _trapezoid_uj(from_mw, to_mw, length_ns)
    return whole_uj - _rise_uj(to_mw, from_mw, length_ns - part_ns, length_ns)


@part
def _bridge_uj(t_ns: I64, power_mw: I32, d: int, begin: int, end: int) -> int:
    """Integrated power between two samples, by trapezoids; 0 where no power was read, or not for 10 min."""
    total = 0
    k = begin
    for i in range(begin + 1, end + 1):
        if power_mw[d, i] >= 0 and power_mw[d, k] >= 0:
            if t_ns[d, i] - t_ns[d, k] <= _POWER_HOLDS_NS:
                total += _trapezoid_uj(power_mw[d, k], power_mw[d, i], t_ns[d, i] - t_ns[d, k])
            k = i
        elif power_mw[d, k] < 0:
            k = i
    return total


@part
def _knot_at(energy_mj: I64, d: int, i: int) -> int:
    """The sample, at or before i, in which the counter came to the reading that it had at i."""
    while i > 0 and energy_mj[d, i] < 0:
        i -= 1
    knot = i
    while i > 0 and (energy_mj[d, i] < 0 or energy_mj[d, i] == energy_mj[d, knot]):
        if energy_mj[d, i] >= 0:
            knot = i
        i -= 1
    return i if energy_mj[d, i] == energy_mj[d, knot] else knot


@part
def _find(t_ns: I64, d: int, n: int, i: int, instant_ns: int, per_ns: float) -> int:
    """The last of n samples at or before an instant, which is not before sample i.

    Samples come at a steady pace, ``per_ns`` of them a nanosecond: begin where it should be, and step from
    there, ever further. Reads a cache line or two where a scan of 100 Hz reads 13 a second."""
    i = min(i + int((instant_ns - t_ns[d, i]) * per_ns), n - 1)
    step = 1
    while t_ns[d, i] > instant_ns:
        i = max(i - step, 0)
        step *= 2
    step = 1
    while i + step < n and t_ns[d, i + step] <= instant_ns:
        i += step
        step *= 2
    while step > 1:
        step //= 2
        if i + step < n and t_ns[d, i + step] <= instant_ns:
            i += step
    return i


@part
def _pace(t_ns: I64, d: int, n: int) -> float:
    """Samples a nanosecond."""
    return float((n - 1) / max(t_ns[d, n - 1] - t_ns[d, 0], 1))


@part
def _measure_counter(devices: Devices, d: int, start: int, n_cuts: int, work: Scratch) -> None:
    """Cumulative energy at each cut from the counter, interpolated between its own changes: a reading that
    has not changed means that the counter was not updated, not that nothing was used (NVML refreshes it
    every 20 to 100 ms by model). Where it fell it began anew: the break is bridged with power. What it gained
    while time came twice is left out, for ``_repeated_uj``.

    Only the samples beside a cut are looked at: that resets are listed when samples are taken in makes
    what lies between them known (at 100 Hz 4 times as fast as going through them all)."""
    t_ns, energy_mj, n = devices.t_ns, devices.energy_mj, devices.length[d]
    i = start  # the first sample that has a reading
    reset = fallen_uj = 0
    pace = _pace(t_ns, d, n)
    for c in range(n_cuts):
        cut_ns = work.cuts_ns[c]
        if c > 0 and cut_ns == work.cuts_ns[c - 1]:  # a window begins where the one before it ends
            work.energy_uj[c] = work.energy_uj[c - 1]
            continue
        ahead = i + int((work.cuts_ns[min(c + _AHEAD, n_cuts - 1)] - t_ns[d, i]) * pace)
        prefetch(t_ns, (d, ahead))
        prefetch(energy_mj, (d, ahead))
        if cut_ns > t_ns[d, i]:
            i = _find(t_ns, d, n, i, cut_ns, pace)
        k = _knot_at(energy_mj, d, i)
        while reset < devices.reset_length[d] and devices.reset_to_ns[d, reset] <= t_ns[d, k]:
            if devices.reset_to_ns[d, reset] > t_ns[d, start]:  # else it lies before what is kept
                after = _find(t_ns, d, n, start, devices.reset_to_ns[d, reset], pace)
                before = _knot_at(energy_mj, d, _before(energy_mj, d, after))
                fallen_uj += energy_mj[d, before] * 1000 - energy_mj[d, after] * 1000
                if devices.reset_repeated_ns[d, reset] == 0:
                    fallen_uj += _bridge_uj(t_ns, devices.power_mw, d, before, after)
            reset += 1
        following = i + 1
        while following < n and (energy_mj[d, following] < 0 or energy_mj[d, following] == energy_mj[d, k]):
            following += 1
        total_uj = energy_mj[d, k] * 1000 + fallen_uj
        if following < n and cut_ns > t_ns[d, k]:
            gain = (energy_mj[d, following] - energy_mj[d, k]) * 1000
            broken = reset < devices.reset_length[d] and devices.reset_to_ns[d, reset] <= t_ns[d, following]
            if broken and devices.reset_repeated_ns[d, reset] > 0:
                gain = 0
            elif broken or gain < 0:
                gain = _bridge_uj(t_ns, devices.power_mw, d, k, following)
            total_uj += _product_over(gain, cut_ns - t_ns[d, k], t_ns[d, following] - t_ns[d, k])
        work.energy_uj[c] = total_uj


@part
def _repeated_uj(devices: Devices, d: int, from_ns: int, to_ns: int) -> int:
    """What the device used while the time [from, to) came again, for its clock was set back; -1 where it did
    not. Spread evenly over all that came again: to whom it is due is not known."""
    t_ns, energy_mj, n = devices.t_ns, devices.energy_mj, devices.length[d]
    total_uj = -1
    for r in range(devices.reset_length[d]):
        begin_ns = devices.reset_repeated_ns[d, r]
        end_ns = max(devices.reset_from_ns[d, r], begin_ns + 1)  # of a device read once no more comes again
        if begin_ns == 0 or begin_ns >= to_ns or end_ns <= from_ns or devices.reset_to_ns[d, r] <= t_ns[d, 0]:
            continue
        after = _find(t_ns, d, n, 0, devices.reset_to_ns[d, r], _pace(t_ns, d, n))
        gain_uj = (energy_mj[d, after] - energy_mj[d, _before(energy_mj, d, after)]) * 1000
        length_ns = end_ns - begin_ns
        until_uj = _product_over(gain_uj, min(to_ns, end_ns) - begin_ns, length_ns)
        total_uj = max(total_uj, 0) + until_uj
        total_uj -= _product_over(gain_uj, max(from_ns, begin_ns) - begin_ns, length_ns)
    return total_uj


@part
def _before(energy_mj: I64, d: int, i: int) -> int:
    """The last sample before i that has a reading."""
    i -= 1
    while i > 0 and energy_mj[d, i] < 0:
        i -= 1
    return i


@part
def _measure_power(
    devices: Devices, d: int, power_mw: I32, shift_ns: int, n_cuts: int, work: Scratch
) -> None:
    """Cumulative energy at each cut from power readings, by trapezoids, and the time of which it is not
    known; a gap holds no energy.

    ``shift_ns``: how long before its time a reading speaks (0.5 s for the 1 s average): for so long the value
    of the last one holds. Of samples after it, which lack power, nothing is known."""
    t_ns, n, cuts_ns = devices.t_ns, devices.length[d], work.cuts_ns
    k = 0
    if cuts_ns[0] + shift_ns > t_ns[d, 0]:
        k = _find(t_ns, d, n, 0, cuts_ns[0] + shift_ns, _pace(t_ns, d, n))
    while k > 0 and power_mw[d, k] < 0:
        k -= 1
    while k < n - 1 and power_mw[d, k] < 0:
        k += 1
    knot_ns = t_ns[d, k] - shift_ns
    total = c = gap = 0
    unknown_ns = max(knot_ns - cuts_ns[0], 0)
    while c < n_cuts and cuts_ns[c] <= knot_ns:
        work.energy_uj[c] = 0
        work.unknown_ns[c] = cuts_ns[c] - cuts_ns[0]
        c += 1
    for i in range(k + 1, n + 1):
        if c == n_cuts:
            return
        is_known = power_mw[d, k] >= 0
        if i < n:
            if power_mw[d, i] < 0:
                continue
            t = t_ns[d, i] - shift_ns
            from_mw, to_mw = power_mw[d, k], power_mw[d, i]
            while gap < devices.gap_length[d] and devices.gap_to_ns[d, gap] <= t_ns[d, k]:
                gap += 1
            if gap < devices.gap_length[d] and devices.gap_from_ns[d, gap] < t_ns[d, i]:
                is_known = False
        else:
            t = t_ns[d, k]
            from_mw = to_mw = power_mw[d, k]
        is_known = is_known and t - knot_ns <= _POWER_HOLDS_NS
        gain = _trapezoid_uj(from_mw, to_mw, t - knot_ns) if is_known else 0
        while c < n_cuts and cuts_ns[c] <= t:
            part_ns = cuts_ns[c] - knot_ns
            ramp_uj = _ramp_uj(from_mw, to_mw, part_ns, max(t - knot_ns, 1)) if is_known else 0
            work.energy_uj[c] = total + ramp_uj
            work.unknown_ns[c] = unknown_ns if is_known else unknown_ns + cuts_ns[c] - knot_ns
            c += 1
        total += gain
        if not is_known:
            unknown_ns += t - knot_ns
        k, knot_ns = i, t
    while c < n_cuts:
        work.energy_uj[c] = total
        work.unknown_ns[c] = unknown_ns + min(cuts_ns[c], t_ns[d, n - 1]) - knot_ns
        c += 1


@part
def _integrate_after(devices: Devices, d: int, power_mw: I32, last: int, n_cuts: int, work: Scratch) -> None:
    """Add integrated power to the energy of cuts after the counter's last reading, sample ``last``."""
    t_ns, n, cuts_ns = devices.t_ns, devices.length[d], work.cuts_ns
    total = unknown_ns = c = 0
    k = last
    while c < n_cuts and cuts_ns[c] <= t_ns[d, last]:
        c += 1
    for i in range(last + 1, n):
        if power_mw[d, i] < 0 and i < n - 1:
            continue
        length_ns = t_ns[d, i] - t_ns[d, k]
        is_known = power_mw[d, i] >= 0 and length_ns <= _POWER_HOLDS_NS
        to_mw = power_mw[d, i]
        from_mw = power_mw[d, k] if power_mw[d, k] >= 0 else to_mw
        gain = _trapezoid_uj(from_mw, to_mw, length_ns) if is_known else 0
        while c < n_cuts and cuts_ns[c] <= t_ns[d, i]:
            part_ns = cuts_ns[c] - t_ns[d, k]
            work.energy_uj[c] += total + (_ramp_uj(from_mw, to_mw, part_ns, length_ns) if is_known else 0)
            work.unknown_ns[c] = unknown_ns if is_known else unknown_ns + cuts_ns[c] - t_ns[d, k]
            c += 1
        total += gain
        if not is_known:
            unknown_ns += length_ns
        k = i
    while c < n_cuts:
        work.energy_uj[c] += total
        work.unknown_ns[c] = unknown_ns
        c += 1


@part
def _integrate_before(
    devices: Devices, d: int, power_mw: I32, start: int, n_cuts: int, work: Scratch
) -> None:
    """Take integrated power from the energy of cuts before the counter's first reading, sample ``start``."""
    t_ns, cuts_ns = devices.t_ns, work.cuts_ns
    total = unknown_ns = 0
    k, c = start, n_cuts - 1
    while c >= 0 and cuts_ns[c] >= t_ns[d, start]:
        c -= 1
    for i in range(start - 1, -1, -1):
        if power_mw[d, i] < 0 and i > 0:
            continue
        length_ns = t_ns[d, k] - t_ns[d, i]
        is_known = power_mw[d, i] >= 0 and length_ns <= _POWER_HOLDS_NS
        to_mw = power_mw[d, i]
        from_mw = power_mw[d, k] if power_mw[d, k] >= 0 else to_mw
        gain = _trapezoid_uj(from_mw, to_mw, length_ns) if is_known else 0
        while c >= 0 and cuts_ns[c] >= t_ns[d, i]:
            part_ns = t_ns[d, k] - cuts_ns[c]
            work.energy_uj[c] -= total + (_ramp_uj(from_mw, to_mw, part_ns, length_ns) if is_known else 0)
            work.unknown_ns[c] = -unknown_ns if is_known else cuts_ns[c] - t_ns[d, k] - unknown_ns
            c -= 1
        total += gain
        if not is_known:
            unknown_ns += length_ns
        k = i
    while c >= 0:
        work.energy_uj[c] -= total
        work.unknown_ns[c] = -unknown_ns
        c -= 1


@part
def _lack_beside(devices: Devices, d: int, start: int, last: int, n_cuts: int, work: Scratch) -> None:
    """Of a device without power: nothing tells what was used before and after the counter was read."""
    for c in range(n_cuts):
        before_ns = min(work.cuts_ns[c] - devices.t_ns[d, start], 0)
        work.unknown_ns[c] = before_ns + max(work.cuts_ns[c] - devices.t_ns[d, last], 0)


@part
def _measure(devices: Devices, d: int, n_cuts: int, work: Scratch) -> tuple[int, int, int, int, bool]:
    """Cumulative energy at each cut, into ``work``; (the source it was read from, the time from which and
    to which the counter was read, the source beside that time, whether ``work.unknown_ns`` tells of more)."""
    n, sources = devices.length[d], devices.sources[d]
    beside = FROM_NONE
    if sources & HAS_INSTANT:
        beside = FROM_INSTANT
    elif sources & HAS_AVERAGE:
        beside = FROM_AVERAGE
    power_mw = devices.power_mw if beside == FROM_INSTANT else devices.average_mw
    start, last = 0, n - 1
    while start < n - 1 and devices.energy_mj[d, start] < 0:
        start += 1
    while last > start and devices.energy_mj[d, last] < 0:
        last -= 1
    if devices.energy_mj[d, start] >= 0:
        _measure_counter(devices, d, start, n_cuts, work)
        is_partial = start > 0 or last < n - 1
        if is_partial:
            _lack_beside(devices, d, start, last, n_cuts, work)
        if beside != FROM_NONE and last < n - 1:
            _integrate_after(devices, d, power_mw, last, n_cuts, work)
        if beside != FROM_NONE and start > 0:
            _integrate_before(devices, d, power_mw, start, n_cuts, work)
        return FROM_COUNTER, devices.t_ns[d, start], devices.t_ns[d, last], beside, is_partial
    if beside != FROM_NONE:
        shift_ns = 0 if beside == FROM_INSTANT else AVERAGE_SHIFT_NS
        _measure_power(devices, d, power_mw, shift_ns, n_cuts, work)
    else:
        for c in range(n_cuts):
            work.energy_uj[c] = 0
            work.unknown_ns[c] = work.cuts_ns[c] - work.cuts_ns[0]
    return beside, 0, 0, beside, True


@part
def _dispute(devices: Devices, d: int, from_ns: int, to_ns: int) -> float:
    """How far what power says of a time is from what the counter says of it, as a part of that; 0 where they
    agree, or too little tells. A counter was seen to miss 43 % of what an idle GPU drew (Zeus, issue 181)."""
    for g in range(devices.gap_length[d]):
        if devices.gap_from_ns[d, g] < to_ns and devices.gap_to_ns[d, g] > from_ns:
            return 0.0
    for r in range(devices.reset_length[d]):
        if devices.reset_from_ns[d, r] < to_ns and devices.reset_to_ns[d, r] > from_ns:
            return 0.0
    power_mw, shift_ns = devices.power_mw, 0
    least, agree = _INSTANTS_LEAST, _INSTANTS_AGREE
    if devices.sources[d] & HAS_AVERAGE:
        power_mw, shift_ns = devices.average_mw, AVERAGE_SHIFT_NS
        least, agree = _AVERAGES_LEAST, _AVERAGES_AGREE
    t_ns, n = devices.t_ns, devices.length[d]
    first_ns, pace = t_ns[d, 0], _pace(t_ns, d, n)
    begin = _find(t_ns, d, n, 0, max(from_ns, first_ns) + shift_ns, pace)
    end = _find(t_ns, d, n, begin, max(to_ns + shift_ns, t_ns[d, begin]), pace)
    if end - begin < least:
        return 0.0
    power_mj, k = 0.0, begin
    step = max((end - begin) // _LOOKED_AT, 1)
    for i in range(begin + step, end + 1, step):
        if min(power_mw[d, k], power_mw[d, i]) < 0:
            return 0.0
        power_mj += (power_mw[d, k] + power_mw[d, i]) * (t_ns[d, i] - t_ns[d, k]) / 2e9
        k = i
    low = _find(t_ns, d, n, 0, max(t_ns[d, begin] - shift_ns, first_ns), pace)
    high = _find(t_ns, d, n, low, t_ns[d, k] - shift_ns, pace)
    if min(devices.energy_mj[d, low], devices.energy_mj[d, high]) < 0:
        return 0.0
    counter_mj = devices.energy_mj[d, high] - devices.energy_mj[d, low]
    off_mj = abs(counter_mj - power_mj)
    return off_mj / max(counter_mj, 1) if off_mj > agree * max(counter_mj, power_mj) else 0.0


@part
def _holds(holders: Holders, h: int, k: int, now_ns: int, from_ns: int, to_ns: int) -> bool:
    """Whether holder h holds its device over the piece; k = its first record at or after the piece's end."""
    n = holders.seen_length[h]
    if n == 0 or holders.exit_ns[h] < to_ns:
        return False
    if k < n:
        return _continues(holders, h, k) or _hold_from(holders, h, k) <= from_ns
    return bool(min(now_ns, holders.exit_ns[h]) <= _expected_by(holders, h))


@part
def _memory_at(holders: Holders, h: int, k: int) -> int:
    """Memory held: of the first record that knows it from k on, for that speaks of the time before it;
    else of the last that did."""
    n = holders.seen_length[h]
    if k < n and holders.seen_memory_bytes[h, k] >= 0:
        return int(holders.seen_memory_bytes[h, k])
    for j in range(min(k, n - 1), -1, -1):
        if holders.seen_memory_bytes[h, j] >= 0:
            return int(holders.seen_memory_bytes[h, j])
    return 0


@part
def _error_uj(
    watts: Watts, row: int, share: float, own: float, spread: float, drawn: float, active_uj: int,
    energy_uj: int, length_ns: int, edges: int,
) -> int:  # fmt: skip
    """Half-width of the 95 % band of a share of a piece. ``own``, ``spread``: variance of the watts drawn, of
    this one and of all, of ``drawn`` in all; ``edges``: how many of the window's the piece lies at.

    Of a share w x / Σ w x the uncertainty of all w x, which are as was learned or as is drawn, whichever is
    more: where one did not work in the part of its record that this is, little is drawn, and it gets some of
    that. Of the idle level, its share; what the sum leaves unexplained is one's or another's; and as the
    counter is read late, some energy at each edge of the window is that of the next."""
    variance = max(0.0, own - 2.0 * share * own + share**2 * spread)
    variance *= max(active_uj / drawn, length_ns / 1e3) ** 2
    variance += (watts.idle_sd_w[row] * share * length_ns / 1e3) ** 2
    variance += (watts.noise_w[row] * length_ns / 1e3) ** 2 * share * (1.0 - share)
    late_ns = min(watts.late_s[row] * 1e9, length_ns)
    variance += 0.5 * (edges * share * energy_uj * late_ns / max(length_ns, 1)) ** 2
    return int(min(_SDS_OF_95 * math.sqrt(variance), 1e15))


@part
def _share_out(work: Scratch, begin: int, n: int, by: int, total: int, what: int) -> None:
    """Split a total by those shares to the n present from ``begin`` on, into that column of ``work.sums``."""
    if total == 0:
        return
    _apportion(total, work.shares, by, n, work.parts, work.rests)
    for k in range(n):
        work.sums[work.present[begin + k], what] += work.parts[k]


@part
def _split_shared(
    watts: Watts, row: int, work: Scratch, begin: int, end: int, active_uj: int, idle_uj: int, length_ns: int,
    edges: int,
) -> int:  # fmt: skip
    """Split a piece over several of those present, from ``begin`` to ``end``, into ``work.sums``: idle energy
    by policy, active by watts × SM time. The flags it raises."""
    flags, n = 0, end - begin
    sums, parts, shares, present = work.sums, work.parts, work.shares, work.present
    used_ns = 0
    sm_sum = memory_sum = drawn = spread = 0.0  # the last two: Σ watts, and the variance of that
    for k in range(n):
        percent = work.sm_percent[begin + k]
        sm_sum += percent
        memory_sum += work.memory_bytes[begin + k]
        shares[_BY_WATTS, k] = percent * work.watts[present[begin + k]]
        drawn += shares[_BY_WATTS, k]
        spread += percent**2 * work.unsure[begin + k]
        parts[k] = int(percent * length_ns / 100.0)
        used_ns += parts[k]
    for k in range(n):
        shares[_EQUAL, k] = shares[_BY_MEMORY, k] = shares[_BY_SM, k] = 1.0 / n
        if memory_sum > 0.0:
            shares[_BY_MEMORY, k] = work.memory_bytes[begin + k] / memory_sum
        if sm_sum > 0.0:
            shares[_BY_SM, k] = work.sm_percent[begin + k] / sm_sum
            shares[_BY_WATTS, k] /= drawn
    if used_ns > length_ns:
        flags |= SCALED
        _apportion(length_ns, shares, _BY_SM, n, parts, work.rests)
        used_ns = length_ns
    for k in range(n):
        m = present[begin + k]
        sums[m, _USED] += parts[k]
        for policy in range(_POLICIES):
            sums[m, _TIME + policy] += parts[k]
        sums[m, _CONTESTED] += length_ns
        sums[m, _ERROR_NS] += length_ns // 100  # SM time comes in whole percent
        if work.sm_percent[begin + k] > 0.0:
            sums[m, _SM] = 1
    for policy in range(_POLICIES):
        _share_out(work, begin, n, policy, idle_uj, _IDLE + policy)
        _share_out(work, begin, n, policy, length_ns - used_ns, _TIME + policy)
    if sm_sum <= 0.0:
        if active_uj == 0:
            return flags
        # What is left is as unsure as the idle level; on a new GPU that was 40 W, and rows said +- 1 mJ.
        unsure_uj = int(_SDS_OF_95 * watts.idle_sd_w[row] * length_ns / 1e3)
        sums[sums.shape[0] - 1, _ACTIVE] += active_uj
        sums[sums.shape[0] - 1, _ERROR_UJ] += unsure_uj
        for k in range(n):
            sums[present[begin + k], _ERROR_UJ] += unsure_uj // n
        return flags | NO_SM
    _share_out(work, begin, n, _BY_WATTS, active_uj, _ACTIVE)
    for k in range(n):
        own = work.sm_percent[begin + k] ** 2 * work.unsure[begin + k]
        sums[present[begin + k], _ERROR_UJ] += _error_uj(
            watts, row, shares[_BY_WATTS, k], own, spread, drawn, active_uj, active_uj + idle_uj, length_ns,
            edges,
        )  # fmt: skip
    return flags


@part
def _split_held(
    watts: Watts, row: int, work: Scratch, begin: int, end: int, nobody: int, active_uj: int, idle_uj: int,
    length_ns: int, edges: int,
) -> int:  # fmt: skip
    """Split a piece to whom it is held by: those present from ``begin`` to ``end``. Nobody works where nobody
    holds it, so all of it is idle; one holder has it all. The flags it raises."""
    if begin == end:
        _give(work.sums, nobody, 0, active_uj + idle_uj, 0, length_ns)
        return 0
    if begin + 1 == end:
        used_ns = min(int(work.sm_percent[begin] * length_ns / 100.0), length_ns)
        _give(work.sums, work.present[begin], active_uj, idle_uj, used_ns, length_ns)
        return 0
    return _split_shared(watts, row, work, begin, end, active_uj, idle_uj, length_ns, edges)


@part
def _group(holders: Holders, work: Scratch, n: int, count: int) -> None:
    """Order those n present by the instances that they name, those that name none of them last, and note
    where each instance's end."""
    present, at = work.present, 0
    for g in range(count):
        number = holders.gpu_instance[work.members[work.instances[_MEMBER, g]]]
        for k in range(at, n):
            if holders.gpu_instance[work.members[present[k]]] == number:
                own = present[k], work.sm_percent[k], work.unsure[k], work.memory_bytes[k]
                for j in range(k, at, -1):
                    present[j], work.sm_percent[j] = present[j - 1], work.sm_percent[j - 1]
                    work.unsure[j], work.memory_bytes[j] = work.unsure[j - 1], work.memory_bytes[j - 1]
                present[at], work.sm_percent[at], work.unsure[at], work.memory_bytes[at] = own
                at += 1
        work.instances[_END, g] = at
    work.instances[_END, count] = n


@part
def _weigh_instances(work: Scratch, count: int, slices: int) -> tuple[float, float]:
    """How active each instance was, in watts: what it was seen to do, else its processes; (Σ watts, the
    variance of that)."""
    instances, activity = work.instances, work.activity
    drawn = spread = 0.0
    begin = 0
    for g in range(count + 1):
        end = instances[_END, g]
        weight = variance = 0.0
        if g < count and activity[_PERCENT, g] >= 0.0:
            weight = activity[_PERCENT, g] * work.watts[instances[_MEMBER, g]]
            variance = activity[_PERCENT, g] ** 2 * activity[_UNSURE, g]
        else:  # its processes tell of their time on its part of the device
            part_of_device = instances[_SLICES, g] / slices
            for k in range(begin, end):
                weight += work.sm_percent[k] * work.watts[work.present[k]] * part_of_device
                variance += (work.sm_percent[k] * part_of_device) ** 2 * work.unsure[k]
        activity[_WEIGHT, g], activity[_UNSURE, g] = weight, variance
        drawn += weight
        spread += variance
        begin = end
    return drawn, spread


@part
def _give_instances(work: Scratch, groups: int, what: int, total: int) -> None:
    """Split a total to MIG instances by the first of ``work.shares``, into that row of ``work.instances``."""
    _apportion(total, work.shares, 0, groups, work.parts, work.rests)
    for g in range(groups):
        work.instances[what, g] = work.parts[g]


@part
def _is_held(instances: I64, g: int) -> bool:
    """Whether anybody holds an instance; where no slices are in none, nobody can hold those."""
    return bool(instances[_SLICES, g] > 0 and instances[_END, g] > (instances[_END, g - 1] if g > 0 else 0))


@part
def _portion(
    holders: Holders, work: Scratch, n: int, count: int, slices: int, active_uj: int, idle_uj: int,
    length_ns: int,
) -> tuple[float, float, int]:  # fmt: skip
    """What each of ``count`` MIG instances gets of a piece, into ``work``; (Σ watts that all draw, the
    variance of that, flags).

    Time and idle energy by compute slices: those of the device's ``slices`` that are in no instance come
    last. Active energy by how active each was, and how many watts that draws; where nothing tells, it is of
    the only one that is held, or else residual."""
    flags, groups = 0, count + 1
    instances, activity, shares = work.instances, work.activity, work.shares
    taken = held = 0
    for g in range(count):
        taken += instances[_SLICES, g]
    instances[_SLICES, count] = max(slices - taken, 0)
    _group(holders, work, n, count)
    for g in range(groups):
        shares[0, g] = instances[_SLICES, g]
        held += _is_held(instances, g)
    _to_ratios(shares, groups)
    _give_instances(work, groups, _LENGTH_NS, length_ns)
    _give_instances(work, groups, _IDLE_UJ, idle_uj)
    drawn, spread = _weigh_instances(work, count, max(slices, taken))
    if drawn <= 0.0 and held > 1:
        work.sums[work.sums.shape[0] - 1, _ACTIVE] += active_uj
        active_uj, flags = 0, NO_SM
    if drawn > 0.0 or held == 1:
        for g in range(groups):
            own = 1.0 if _is_held(instances, g) else 0.0
            shares[0, g] = activity[_WEIGHT, g] if drawn > 0.0 else own
        _to_ratios(shares, groups)
    _give_instances(work, groups, _ACTIVE_UJ, active_uj)
    return drawn, spread, flags


@part
def _split_piece(
    holders: Holders, watts: Watts, row: int, work: Scratch, n: int, givens: int, count: int, slices: int,
    unheld: int, active_uj: int, idle_uj: int, length_ns: int, edges: int,
) -> int:  # fmt: skip
    """Split a piece to ``count`` MIG instances and what is in none, and within each to those of the n present
    that hold it; the flags it raises. A device that MIG does not cut is in none."""
    instances, activity = work.instances, work.activity
    drawn = spread = 0.0
    flags = 0
    if count > 0:
        drawn, spread, flags = _portion(holders, work, n, count, slices, active_uj, idle_uj, length_ns)
    else:
        instances[_END, 0], instances[_LENGTH_NS, 0] = n, length_ns
        instances[_IDLE_UJ, 0], instances[_ACTIVE_UJ, 0] = idle_uj, active_uj
    begin = 0
    for g in range(count + 1):
        end, nobody = instances[_END, g], unheld
        for k in range(givens):  # the device comes first; of an instance that is not told it is all
            number = holders.gpu_instance[work.members[work.given[k]]]
            is_own = g < count and number == holders.gpu_instance[work.members[instances[_MEMBER, g]]]
            if number < 0 or is_own or (count == 0 and nobody == unheld):
                nobody = work.given[k]
        if g < count:
            if nobody == unheld:
                nobody = instances[_MEMBER, g]
            if end == begin + 1 and activity[_PERCENT, g] >= 0.0:  # what was done there is its own
                work.sm_percent[begin] = activity[_PERCENT, g]
        flags |= _split_held(
            watts, row, work, begin, end, nobody, instances[_ACTIVE_UJ, g], instances[_IDLE_UJ, g],
            instances[_LENGTH_NS, g], edges,
        )  # fmt: skip
        if drawn > 0.0:
            share, own = activity[_WEIGHT, g] / drawn, activity[_UNSURE, g]
            error_uj = _error_uj(
                watts, row, share, own, spread, drawn, active_uj, active_uj + idle_uj, length_ns, edges
            )
            if begin == end:
                work.sums[nobody, _ERROR_UJ] += error_uj
            for k in range(begin, end):  # which of them pays for it is not known
                work.sums[work.present[k], _ERROR_UJ] += error_uj
                told = g < count and activity[_PERCENT, g] >= 0.0
                work.sums[work.present[k], _BETWEEN] = BY_GPM if told else BY_UTILIZATION
        begin = end
    return flags


@part
def _unevenness(holders: Holders, h: int, k: int, start_ns: int, end_ns: int, told_ns: int) -> float:
    """How far SM time in the part of record k of holder h that lies in a window may be off from the mean of
    the record: the variance, in squares of that. A record that begins at ``told_ns`` or later is not asked.

    Where a process goes at one instant from what it did in the record before to what it does in the one
    after, its variance within this one is the product of the steps from its mean to theirs, and where it did
    all at one instant not much more than the mean's square. In a part f of the record the sum is off by
    f (1 - f) of that. Both edges of a window cut records: half each, for these errors have nothing to do with
    each other, and those of pieces are added up."""
    begin_ns, until_ns = holders.used_from_ns[h, k], holders.used_ns[h, k]
    percent = float(holders.used_percent[h, k])
    cut = (begin_ns < start_ns) + (until_ns > end_ns)
    if cut == 0 or percent <= 0.0:
        return 0.0
    before = after = 0.0  # drivers tell nothing of who does nothing
    if k > 0 and holders.used_ns[h, k - 1] >= begin_ns:
        before = holders.used_percent[h, k - 1]
    if k + 1 < holders.used_length[h] and holders.used_from_ns[h, k + 1] <= min(until_ns, told_ns - 1):
        after = holders.used_percent[h, k + 1]
    inside_ns = min(until_ns, end_ns) - max(begin_ns, start_ns)
    most = percent * percent
    variance = min(abs(before - percent) * abs(after - percent), most)
    return float(0.5 * cut * variance * (until_ns - begin_ns - inside_ns) / (most * inside_ns))


@part
def _find_present(
    holders: Holders, work: Scratch, now_ns: int, shift_ns: int, start_ns: int, end_ns: int, told_ns: int,
    from_ns: int, to_ns: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Which processes hold the device over a piece of the window [start, end), with SM percent, memory and
    how unsure their watts are; to whom it is given; and its MIG instances, all into ``work``; how many there
    are of each."""
    n = givens = count = 0
    for m in range(work.members.shape[0]):
        h, seen, used = work.members[m], work.seen[m], work.used[m]
        while seen < holders.seen_length[h] and holders.seen_ns[h, seen] < to_ns:
            seen += 1
        while used > 0 and holders.used_ns[h, used - 1] - shift_ns >= to_ns:
            used -= 1  # the piece before was shifted further
        while used < holders.used_length[h] and holders.used_ns[h, used] - shift_ns < to_ns:
            used += 1
        work.seen[m], work.used[m] = seen, used
        if not _holds(holders, h, seen, now_ns, from_ns, to_ns):
            continue
        if holders.account[h] == RESERVED:
            work.given[givens] = m
            givens += 1
            continue
        known = used < holders.used_length[h] and holders.used_from_ns[h, used] - shift_ns <= from_ns
        unsure = work.watts_sd[m] ** 2
        if known:
            uneven = _unevenness(holders, h, used, start_ns + shift_ns, end_ns + shift_ns, told_ns)
            unsure += work.watts[m] ** 2 * uneven
        if holders.account[h] == INSTANCE:
            work.instances[_MEMBER, count] = m
            work.instances[_SLICES, count] = _memory_at(holders, h, seen)
            work.activity[_PERCENT, count] = holders.used_percent[h, used] if known else -1.0
            work.activity[_UNSURE, count] = unsure
            count += 1
            continue
        work.sm_percent[n] = holders.used_percent[h, used] if known else 0.0
        work.unsure[n] = unsure
        work.memory_bytes[n] = _memory_at(holders, h, seen)
        work.present[n] = m
        work.sums[m, _HELD] += to_ns - from_ns
        work.held_bytes_ns[m] += work.memory_bytes[n] * (to_ns - from_ns)
        n += 1
    return n, givens, count


@part
def _give(sums: I64, row: int, active_uj: int, idle_uj: int, used_ns: int, length_ns: int) -> None:
    """A piece to one account alone, the same under every policy."""
    sums[row, _ACTIVE] += active_uj
    sums[row, _USED] += used_ns
    for policy in range(_POLICIES):
        sums[row, _IDLE + policy] += idle_uj
        sums[row, _TIME + policy] += length_ns


@part
def _is_quiet(devices: Devices, d: int, n: int, from_ns: int, to_ns: int, work: Scratch) -> bool:
    """Whether the n processes on a device did nothing over a piece: none has SM time, and each reading of the
    device up to the first after it says that nothing ran."""
    for k in range(n):
        if work.sm_percent[k] > 0.0:
            return False
    t_ns, length = devices.t_ns, devices.length[d]
    i = _find(t_ns, d, length, 0, from_ns, _pace(t_ns, d, length)) + 1
    while i < length and t_ns[d, i] < to_ns and devices.quiet[d, i]:
        i += 1
    return bool(i < length and devices.quiet[d, i])


@part
def _split_window(
    devices: Devices,
    holders: Holders,
    watts: Watts,
    d: int,
    row: int,
    quiet_mw: int,
    now_ns: int,
    told_ns: int,
    k: int,
    gap: int,
    processes_known: bool,
    lacks_energy: bool,
    work: Scratch,
) -> tuple[int, int, int, int]:
    """Split the pieces of the k-th window into ``work.sums``, which is cleared first, by row ``row`` of
    ``watts``; (covered ns, energy µJ, flags, the gap to go on with). ``quiet_mw``: what the idle level may
    be at most where nothing runs: then it is what the device draws. ``told_ns``: a record of SM time that
    begins later came too late for the window, or may."""
    sums = work.sums
    idle_mw, shift_ns = watts.idle_mw[row], watts.shift_ns[row]
    start_ns, end_ns = work.cuts_ns[work.first_cut[k]], work.cuts_ns[work.first_cut[k + 1] - 1]
    residual = sums.shape[0] - 1
    unheld = residual - 1 if processes_known else residual
    for m in range(sums.shape[0]):
        for column in range(_PARTS):
            sums[m, column] = 0
    for m in range(work.held_bytes_ns.shape[0]):
        work.held_bytes_ns[m] = 0.0
    first_ns, last_ns = devices.first_ns[d], devices.t_ns[d, devices.length[d] - 1]
    covered_ns = total_uj = flags = 0
    for c in range(work.first_cut[k], work.first_cut[k + 1] - 1):
        from_ns, to_ns = work.cuts_ns[c], work.cuts_ns[c + 1]
        if from_ns < first_ns or to_ns > last_ns:
            flags |= PARTIAL
            continue
        length_ns = to_ns - from_ns
        energy_uj = work.energy_uj[c + 1] - work.energy_uj[c]
        idle_uj = min(energy_uj, idle_mw * length_ns // 1_000_000)
        covered_ns += length_ns
        total_uj += energy_uj
        if lacks_energy and work.unknown_ns[c + 1] > work.unknown_ns[c]:
            flags |= NO_ENERGY
        while gap < devices.gap_length[d] and devices.gap_to_ns[d, gap] <= from_ns:
            gap += 1
        if gap < devices.gap_length[d] and devices.gap_from_ns[d, gap] < to_ns:
            flags |= GAP
            _give(sums, residual, energy_uj, 0, 0, length_ns)
            continue
        n, givens, count = _find_present(
            holders, work, now_ns, shift_ns, start_ns, end_ns, told_ns, from_ns, to_ns
        )
        if n > 0 and count == 0 and _is_quiet(devices, d, n, from_ns, to_ns, work):
            idle_uj = min(energy_uj, max(quiet_mw, idle_mw) * length_ns // 1_000_000)
        edges = (c == work.first_cut[k]) + (c + 2 == work.first_cut[k + 1])
        flags |= _split_piece(
            holders, watts, row, work, n, givens, count, devices.slices[d],
            unheld, energy_uj - idle_uj, idle_uj, length_ns, edges,
        )  # fmt: skip
    repeated_uj = _repeated_uj(devices, d, start_ns, end_ns)
    if covered_ns > 0 and repeated_uj >= 0:
        sums[residual, _ACTIVE] += repeated_uj
        total_uj += repeated_uj
        flags |= REPEATED
    return covered_ns, total_uj, flags, gap


@part
def _is_due(sums: I64, m: int) -> bool:
    """Whether the accumulators ``sums[m]`` hold anything, under any policy."""
    due = sums[m, _ACTIVE] > 0
    for policy in range(_POLICIES):
        due = due or sums[m, _IDLE + policy] > 0 or sums[m, _TIME + policy] > 0
    return bool(due)


@part
def _write_row(
    out: I64, row: int, holder: int, sums: I64, m: int, memory_bytes: int, source: int, dispute: float
) -> None:
    """One row of the result from the accumulators ``sums[m]``; deleted where nothing is due."""
    due = _is_due(sums, m)
    out[ROW_HOLDER, row] = holder
    out[ACTIVE_ENERGY, row] = sums[m, _ACTIVE]
    out[ACTIVE_TIME, row] = sums[m, _USED]
    for policy in range(_POLICIES):
        out[IDLE_EQUAL + policy, row] = sums[m, _IDLE + policy]
        out[TIME_EQUAL + policy, row] = sums[m, _TIME + policy]
    out[MEMORY, row] = memory_bytes
    energy_uj = sums[m, _ACTIVE] + sums[m, _IDLE]
    error_uj = sums[m, _ERROR_UJ]
    if source == FROM_COUNTER:
        error_uj += _COUNTER_ERROR_UJ + int(dispute * energy_uj)
    elif source == FROM_INSTANT:
        error_uj += int(_INSTANT_ERROR * energy_uj)
    elif source == FROM_AVERAGE:
        error_uj += int(_AVERAGE_ERROR * energy_uj)
    out[ERROR_ENERGY, row] = min(error_uj, energy_uj) if due else 0
    out[ERROR_TIME, row] = sums[m, _ERROR_NS]
    out[WEIGHT_SOURCE, row] = BY_NONE
    if holder >= 0 and due and sums[m, _HELD] > 0:  # else nobody worked: it was but given to somebody
        out[WEIGHT_SOURCE, row] = BY_EXCLUSIVE
        if sums[m, _CONTESTED] > 0:
            out[WEIGHT_SOURCE, row] = BY_UTILIZATION if sums[m, _SM] > 0 else BY_EQUAL
        elif sums[m, _BETWEEN] > 0:
            out[WEIGHT_SOURCE, row] = sums[m, _BETWEEN]
    out[DELETED, row] = 0 if due else 1


@part
def _write_rows(
    holders: Holders, work: Scratch, from_ns: int, to_ns: int, source: int, dispute: float, out: I64, row: int
) -> tuple[int, int]:
    """Rows of a window: of all that may hold the device, and of unheld and residual where anything is due;
    (the row after the last, which of those two have none)."""
    n, nothing_due = work.members.shape[0], 0
    for m in range(n):
        if _may_hold(holders, work.members[m], from_ns, to_ns):
            memory_bytes = int(work.held_bytes_ns[m] / max(work.sums[m, _HELD], 1))
            _write_row(out, row, work.members[m], work.sums, m, memory_bytes, source, dispute)
            row += 1
    if not _is_due(work.sums, n):
        nothing_due |= NO_UNHELD
    else:
        _write_row(out, row, UNHELD, work.sums, n, 0, source, dispute)
        row += 1
    if not _is_due(work.sums, n + 1):
        nothing_due |= NO_RESIDUAL
    else:
        _write_row(out, row, RESIDUAL, work.sums, n + 1, 0, source, dispute)
        row += 1
    return row, nothing_due


@allocating_part
def _scratch(devices: Devices, holders: Holders, d: int, from_ns: int, to_ns: int, windows: int) -> Scratch:
    """Room for windows of device d within [from, to), and the processes that may hold it there."""
    members = np.empty(holders.silent.shape[0], np.int64)
    # In each window both its edges, those of coverage, of gaps, and six of a holder besides its records.
    n, cuts, instances = 0, windows * (4 + 2 * devices.gap_length[d]), 0
    h = devices.first_holder[d]
    while h >= 0:
        if _may_hold(holders, h, from_ns, to_ns):
            members[n] = h
            n += 1
            instances += holders.account[h] == INSTANCE
            cuts += windows * 8 + 4 * (holders.seen_length[h] + holders.used_length[h])
        h = holders.next_holder[h]
    return Scratch(
        members[:n].copy(),
        np.empty(n, np.int64),
        np.empty(n, np.int64),
        np.empty(n),
        np.empty(n),
        np.empty(n + 1, np.int64),
        np.empty(n + 1),
        np.empty(n + 1),
        np.empty(n + 1),
        np.empty((_POLICIES + 1, n + 1)),
        np.empty(n + 1),
        np.empty(n + 1, np.int64),
        np.zeros((n + 2, _PARTS), np.int64),
        np.empty(n + 1),
        np.empty(n, np.int64),
        np.empty((6, instances + 1), np.int64),
        np.empty((3, instances + 1)),
        np.empty(windows + 1, np.int64),
        np.empty(cuts, np.int64),
        np.empty(cuts, np.int64),
        np.empty(cuts, np.int64),
    )


@allocating_part
def _rewind(holders: Holders, work: Scratch, from_ns: int) -> None:
    """Begin anew in the records of each process, at the first that reaches beyond ``from_ns``."""
    for m in range(work.members.shape[0]):
        h = work.members[m]
        work.seen[m] = np.searchsorted(holders.seen_ns[h, : holders.seen_length[h]], from_ns)
        work.used[m] = np.searchsorted(holders.used_ns[h, : holders.used_length[h]], from_ns)


@part
def _is_bridged(devices: Devices, d: int, from_ns: int, to_ns: int) -> bool:
    """Whether power was read all along between two samples: at both, and never more than 10 min apart."""
    n = devices.length[d]
    from_ns = max(from_ns, devices.t_ns[d, 0])  # what lies before has been let go
    i = _find(devices.t_ns, d, n, 0, from_ns, _pace(devices.t_ns, d, n))
    known_ns = from_ns
    if devices.power_mw[d, i] < 0:
        return False
    while i < n and devices.t_ns[d, i] <= to_ns:
        if devices.power_mw[d, i] >= 0:
            if devices.t_ns[d, i] - known_ns > _POWER_HOLDS_NS:
                return False
            known_ns = devices.t_ns[d, i]
        i += 1
    return bool(known_ns == to_ns)


@part
def _resets(devices: Devices, d: int, from_ns: int, to_ns: int) -> tuple[int, int]:
    """(counter segment at the end of a window, RESET if a reset lies within it and NO_ENERGY if nothing tells
    what was used in that)."""
    segment, flags = devices.resets[d] - devices.reset_length[d], 0
    for r in range(devices.reset_length[d]):
        begin_ns, end_ns = devices.reset_from_ns[d, r], devices.reset_to_ns[d, r]
        if end_ns <= to_ns:
            segment += 1
        if begin_ns < to_ns and end_ns > from_ns and devices.reset_repeated_ns[d, r] == 0:
            flags |= RESET
            if not _is_bridged(devices, d, begin_ns, end_ns):
                flags |= NO_ENERGY
    return segment, flags


@part
def _know_watts(holders: Holders, watts: Watts, row: int, work: Scratch) -> None:
    """What each process draws per percent, by row ``row`` of what was learned, into ``work``."""
    for m in range(work.members.shape[0]):
        h = work.members[m]
        work.watts[m], work.watts_sd[m] = holders.watts[h], holders.watts_sd[h]
        # Who is not named is one of the others, unless more is known of it than of those.
        if watts.known[row] > 0 and holders.watts_sd[h] >= WATTS_PRIOR_SD:
            work.watts[m], work.watts_sd[m] = watts.watts[row, 0], watts.sd[row, 0]
        for k in range(1, watts.known[row]):
            if watts.holder[row, k] == h:
                work.watts[m], work.watts_sd[m] = watts.watts[row, k], watts.sd[row, k]


@allocating_part
def _attribute_windows(
    hosts: Hosts,
    devices: Devices,
    holders: Holders,
    watts: Watts,
    of: WattsOf,
    d: int,
    window_ns: int,
    windows: I64,
    offsets: I64,
    processes_known: bool,
    ended: bool,
    out: I64,
    row: int,
) -> int:
    """Rows of device d for ``windows`` into out[:, row:]; the row after the last."""
    now_ns = hosts.now_ns[devices.host[d]]
    low_ns = windows[0] * window_ns
    high_ns = (windows[windows.shape[0] - 1] + 1) * window_ns
    work = _scratch(devices, holders, d, low_ns, high_ns, windows.shape[0])
    _rewind(holders, work, low_ns)
    settled_ns = FOREVER if ended else now_ns - LATENESS_NS
    n_cuts = _cut(devices, holders, watts, of, d, now_ns, windows, window_ns, work)
    read_from, known_from_ns, known_to_ns, beside, lacks_energy = _measure(devices, d, n_cuts, work)
    _rewind(holders, work, low_ns)
    gap, known = 0, -1
    quiet_mw = int(IDLE_QUIET * of.idle_mw[d]) if of.idle_sd_w[d] > 0.0 else of.idle_mw[d]
    held_from_ns, held_ns, found = -1, max(window_ns, _HELD_AGAINST_NS), 0.0
    for k in range(windows.shape[0]):
        from_ns = windows[k] * window_ns
        to_ns = from_ns + window_ns
        learned = of.row[of.begin[d] + windows[k] - of.first_window[d]]
        if learned != known:
            _know_watts(holders, watts, learned, work)
            known = learned
        told_ns = to_ns  # what is still to come does not bear on a window that may change
        if to_ns <= settled_ns:
            told_ns = (to_ns // BLOCK_NS + 1) * BLOCK_NS
        covered_ns, energy_uj, flags, gap = _split_window(
            devices, holders, watts, d, learned, quiet_mw, now_ns, told_ns, k, gap, processes_known,
            lacks_energy, work,
        )  # fmt: skip
        if covered_ns == 0:
            continue
        if to_ns > settled_ns:
            flags |= PROVISIONAL
        source = read_from
        if read_from == FROM_COUNTER and (from_ns >= known_to_ns or to_ns <= known_from_ns):
            source = beside
        segment, reset = _resets(devices, d, from_ns, to_ns)
        # The energy of a reset comes of power, whatever the counter says before and after it.
        band = FROM_INSTANT if source == FROM_COUNTER and reset else source
        dispute = 0.0
        if band == FROM_COUNTER and beside != FROM_NONE and not flags & PROVISIONAL:
            if from_ns - from_ns % held_ns != held_from_ns:
                held_from_ns = from_ns - from_ns % held_ns
                found = _dispute(devices, d, held_from_ns, held_from_ns + held_ns)
            dispute = found
            flags |= DISPUTED if dispute > 0.0 else 0
        begin = row
        row, nothing_due = _write_rows(holders, work, from_ns, to_ns, band, dispute, out, row)
        # There is a last row: the covered time is due to somebody.
        for r in range(begin, row):  # a slice would cost as much as all of the loop
            out[NOTHING_DUE, r] = nothing_due if r == row - 1 else 0
            out[ROW_DEVICE, r] = d
            out[ROW_WINDOW, r] = windows[k]
            out[ROW_OFFSET, r] = offsets[k]
            out[DEVICE_ENERGY, r] = energy_uj
            out[COVERED, r] = covered_ns
            out[ENERGY_SOURCE, r] = source
            out[FLAGS, r] = flags | reset
            out[SEGMENT, r] = segment
    return row


@allocating_part
def _span(hosts: Hosts, devices: Devices, due: Due, d: int, window_ns: int, ended: bool) -> tuple[int, int]:
    """The first and the last window that the marks of device d make due."""
    last_ns = devices.t_ns[d, devices.length[d] - 1]
    high = last_ns // window_ns
    if not ended:
        host = devices.host[d]  # the window that its collector ended in has been written
        high = min(high, max(hosts.now_ns[host] // window_ns - 1, hosts.ended_ns[host] // window_ns))
    low = devices.first_ns[d] // window_ns
    if devices.t_ns[d, 0] > devices.first_ns[d]:  # what lies before has been let go
        low = devices.t_ns[d, 0] // window_ns + 1
    first, last = FOREVER, -1
    for i in range(due.bounds[d], due.bounds[d + 1]):
        first = min(first, due.first[i])
        last = max(last, due.last[i])
    return max(low, first), min(high, last)


@kernel(
    types.UniTuple(types.int64, 3)(
        HOSTS,
        DEVICES,
        HOLDERS,
        DUE,
        WATTS,
        WATTS_OF,
        types.int64,
        types.int64,
        types.int64,
        types.boolean,
        types.boolean,
        _i64_2,
    )
)
def attribute(
    hosts: Hosts,
    devices: Devices,
    holders: Holders,
    due: Due,
    watts: Watts,
    of: WattsOf,
    window_ns: int,
    first: int,
    first_window: int,
    processes_known: bool,
    ended: bool,
    out: I64,
) -> tuple[int, int, int]:
    """Attribute the windows due of devices ``first`` and on, of that one from ``first_window`` on;
    (rows written, the device and the window to go on with).

    What does not fit ``out`` (23, rows) is left for another call. ``watts``, ``of``: what was learned, and
    which row of it each window due rests on. Not ``processes_known``: nobody said who held the devices, so
    what nobody holds is residual. ``ended``: nothing more will come, so incomplete windows are due too, as of
    a host whose collector has ended."""
    row, n_devices = 0, due.bounds.shape[0] - 1
    for d in range(first, n_devices):
        if due.bounds[d] == due.bounds[d + 1] or devices.length[d] == 0:
            continue
        over = ended or hosts.ended_ns[devices.host[d]] == hosts.now_ns[devices.host[d]]
        low, high = _span(hosts, devices, due, d, window_ns, over)
        if d == first:
            low = max(low, first_window)
        if low > high:
            continue
        windows = np.empty(high - low + 1, np.int64)
        offsets = np.empty(high - low + 1, np.int64)
        n = _plan(due, d, low, windows, offsets)
        if n == 0:
            continue
        rows = 2  # of each window at most
        h = devices.first_holder[d]
        while h >= 0:
            rows += _may_hold(holders, h, windows[0] * window_ns, (windows[n - 1] + 1) * window_ns)
            h = holders.next_holder[h]
        fit = min(n, (out.shape[1] - row) // rows)
        if fit > 0:
            row = _attribute_windows(
                hosts,
                devices,
                holders,
                watts,
                of,
                d,
                window_ns,
                windows[:fit],
                offsets[:fit],
                processes_known,
                over,
                out,
                row,
            )
        if fit < n:
            return row, d, windows[fit]
    return row, n_devices, 0
