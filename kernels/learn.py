"""What each process draws per percent of SM time, and what the device draws idle (docs/attribution.md).

Over each stretch between two readings of SM time, the mean power of a device that several processes share
is taken to be

    power = idle level + Σ watts per percent × SM percent of each process

and solved for by ridge regression: a prior says what is likely, the readings of one to two minutes say what
is so, the newer the more. As SM readings may be dated late or early against those of energy, they are
shifted such that they explain the power best.

    curve    the cumulative energy of the device over some seconds
    sum      what the stretches of a block of 3 s say, added to the sums of its minute
    fit      watts, from the sums of a minute up to a block and of the minute before

What is learned for a block is a function of the readings of its minute and of the one before, and of nothing
else: it is found again after a restart, and a late reading changes what lies up to two minutes after it.
"""

import math
from typing import NamedTuple

import numpy as np

from wattribute.kernels.jit import kernel, part
from wattribute.kernels.series import (
    AVERAGE_SHIFT_NS,
    BLOCK_NS,
    BLOCKS_AHEAD,
    DATED_NS,
    DEVICES,
    DUE,
    ENERGY_AHEAD_NS,
    F64,
    FITS,
    FOREVER,
    HAS_COUNTER,
    HAS_INSTANT,
    HOLDERS,
    HOSTS,
    I32,
    I64,
    IDLE_HIGH,
    IDLE_LOW,
    LATENESS_NS,
    LEARNED,
    MINUTE,
    SHIFT_MAX_NS,
    WATTS,
    WATTS_HOLDERS,
    WATTS_OF,
    WATTS_PRIOR,
    WATTS_PRIOR_SD,
    Devices,
    Due,
    Holders,
    Hosts,
    Learned,
    Watts,
    WattsOf,
    types,
)

OTHERS = -2
"""In place of a holder: all those that found no room of their own."""
_IDLE, _OTHERS, _OWN = 0, 1, 2  # places of sums: the idle level, the others, the first process of its own
PLACES = WATTS_HOLDERS + 1
_EDGES = 64  # different times at which SM time was read in a block; 30 where a driver tells it each 1/6 s
_SHORTEST_NS, _LONGEST_NS = 50_000_000, 60_000_000_000  # of other stretches the mean power says little
_STEADY_NS = 1_000_000_000  # beyond that from change to change, or across a reset, none dates another
_DATED_CHANGES = 30  # to each side: with 101 ms from change to change, 61 were read with every delay alike

# Of a process that is alone every fifth block is looked at, for nothing but the idle level hangs on it, until
# another comes: with blocks of 5 s a window of it took a stream 1.55 us longer when all were, and 0.4 with
# every third.
_ALONE = 5

# Chosen on simulated devices, by the error of what each process is charged (wattribute verify). To forget in
# 20 s keeps up with watts that swing by a quarter within 5 min (9.6 % for the worst process, 13.8 with 40 s),
# and costs nothing where they are steady.
_FORGET_S = 20.0
_NOISE_W2 = 10.0  # variance over 1 s of what the sum leaves unexplained: so much the prior is worth
_FIXED_SD_W = 1e-3  # of an idle level that is known: it is not learned
# A process that works draws something: so much of the prior, or where that is less what its watts are unsure
# by. An L4 draws 72 W at most: there all had the quarter, 1 W a percent, and 30 % went to the wrong process.
_LEAST = 0.25
# A shift is believed where it leaves so much of the variance at most, and of few seconds less yet: of 64
# devices with four processes chance gave one a shift in its first seconds, and so 100 ms of no SM time.
_BETTER, _CHANCE_S = 0.9, 3.0
# And where it explains so much more, in squares over the noise: of constant power any shift explains little.
_PROOF = 10.0

# How much later than it was so an SM reading is dated: what is tried.
_SHIFTS_NS = np.array([-100, -50, 0, 50, 100, 200, 300, 400, 500, 600, 800, 1000], np.int64) * 1_000_000
SHIFTS, _UNSHIFTED = len(_SHIFTS_NS), 2

_WANTED = -1  # in place of a row of Watts


class _Scratch(NamedTuple):
    """Room to learn of one device after the other."""

    near: I64  # (holders): where to look in the records of each; it moves on
    own: I64  # (holders): those of whom SM time was read in a block
    at: I64  # (holders): the record of each to go on with
    place: I64  # (holders + PLACES): where each stands in the sums, -1 = nowhere yet
    edges_ns: I64  # (_EDGES): when that was read
    read_ns: I64  # (samples): when the counter was read to have changed
    sum_ns: I64  # (samples + 1): of the changes before each in its run, Σ time since the first
    curve_ns: I64  # (samples): cumulative energy, as points of a line
    curve_j: F64
    late_s2: F64  # (1): variance of how late it was read, s²
    stretches: F64  # (1): how many are in the sums, the older the less
    begin_j: F64  # (SHIFTS): the curve where a stretch begins, for each shift
    end_j: F64
    x: F64  # (PLACES): SM percent over a stretch
    pull: F64  # (PLACES): prior over its variance
    who: I64  # (PLACES): whose watts are fitted
    second: F64  # (PLACES, PLACES): sums of two minutes, as are the next two
    first: F64  # (PLACES, SHIFTS)
    squares: F64  # (SHIFTS)


@part
def _block_of(window: int, window_ns: int, settled_ns: int) -> int:
    """The block that the split of a window rests on: where the window is final, the one after that in which
    it ends. Before, readings of that block are still to come, and the window would have to be written anew
    with each: so it is the last one of which none was to come when the window ended."""
    to_ns = (window + 1) * window_ns
    if to_ns > settled_ns:
        return (to_ns - LATENESS_NS) // BLOCK_NS - 1
    return (to_ns - 1) // BLOCK_NS + BLOCKS_AHEAD


@part
def _first_after(ns: I64, row: int, n: int, instant_ns: int, near: int) -> int:
    """The first of n ascending times that lies after an instant; n if none does. Looked for from ``near`` on,
    with steps that double: what is asked for block after block is never far."""
    low, high, step = 0, n, 1
    near = min(near, n)
    if near < n and ns[row, near] <= instant_ns:
        low = near + 1
        while low + step < n and ns[row, low + step] <= instant_ns:
            low += step + 1
            step *= 2
        high = min(low + step, n)
    else:
        high = near
        while high - step >= 0 and ns[row, high - step] > instant_ns:
            high -= step
            step *= 2
        low = max(high - step, 0)
    while low < high:
        middle = (low + high) // 2
        if ns[row, middle] > instant_ns:
            high = middle
        else:
            low = middle + 1
    return low


@part
def _is_same(energy_mj: I64, d: int, i: int) -> bool:
    """Whether the sample before i has the same reading as i, or one of both has none."""
    return bool(energy_mj[d, i] < 0 or energy_mj[d, i - 1] < 0 or energy_mj[d, i] == energy_mj[d, i - 1])


@part
def _draw_changes(devices: Devices, d: int, first: int, to_ns: int, work: _Scratch) -> int:
    """The curve of a counter from sample ``first`` on; its number of points.

    A point is a change. That was read up to a period of the sampler after it happened, now sooner, now later,
    while counters change at a steady pace: so it is dated at the mean of those around it in its run, but no
    further from when it was read than half the time since the reading before."""
    t_ns, energy_mj = devices.t_ns, devices.energy_mj
    read_ns, sum_ns, curve_ns, curve_j = work.read_ns, work.sum_ns, work.curve_ns, work.curve_j
    while first > 0 and t_ns[d, first] > to_ns - _LONGEST_NS and _is_same(energy_mj, d, first):
        first -= 1  # to where it came to that reading
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
            enough_ns = min(t_ns[d, i], to_ns + _LONGEST_NS)  # it changes seldom
    off_s2 = 0.0
    newest_ns = -FOREVER
    begin = 0
    while begin < n:  # a run in which it changed at a steady pace
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
    t_ns: I64, power_mw: I32, n: int, d: int, first: int, to_ns: int, shift_ns: int, work: _Scratch
) -> int:
    """The curve of integrated power from sample ``first`` on, NaN from where a reading is missing; its number
    of points. ``shift_ns``: how long ago the middle of what a reading speaks of was."""
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
def _draw_curve(devices: Devices, d: int, from_ns: int, to_ns: int, work: _Scratch) -> int:
    """The cumulative energy of a device in J, as points that lie around the time given; how many."""
    n = devices.length[d]
    before_ns = from_ns - (DATED_NS if devices.sources[d] & HAS_COUNTER else 0)
    first = work.near[0] = max(_first_after(devices.t_ns, d, n, before_ns, work.near[0]) - 1, 0)
    if devices.sources[d] & HAS_COUNTER:
        return _draw_changes(devices, d, first, to_ns, work)
    work.late_s2[0] = 0.0
    if devices.sources[d] & HAS_INSTANT:
        return _draw_power(devices.t_ns, devices.power_mw, n, d, first, to_ns, 0, work)
    return _draw_power(devices.t_ns, devices.average_mw, n, d, first, to_ns, AVERAGE_SHIFT_NS, work)


@part
def _read_curve(n: int, instant_ns: int, work: _Scratch, joules: F64) -> None:
    """The curve of n points at an instant less each shift, NaN where it does not reach."""
    curve_ns, curve_j = work.curve_ns, work.curve_j
    first_ns, last_ns = curve_ns[0], curve_ns[n - 1]
    pace = (n - 1) / max(last_ns - first_ns, 1)
    for s in range(SHIFTS):
        at_ns = instant_ns - _SHIFTS_NS[s]
        joules[s] = math.nan
        if first_ns <= at_ns < last_ns:
            i = int((at_ns - first_ns) * pace)  # points come at a steady pace
            while curve_ns[i] > at_ns:
                i -= 1
            while curve_ns[i + 1] <= at_ns:
                i += 1
            share = (at_ns - curve_ns[i]) / (curve_ns[i + 1] - curve_ns[i])
            joules[s] = curve_j[i] + share * (curve_j[i + 1] - curve_j[i])


@part
def _is_broken(devices: Devices, d: int, from_ns: int, to_ns: int) -> bool:
    """Whether a gap or a reset of the counter lies between two instants, or one of them is not covered."""
    if devices.t_ns[d, 0] > from_ns or devices.t_ns[d, devices.length[d] - 1] < to_ns:
        return True
    for g in range(devices.gap_length[d]):
        if devices.gap_from_ns[d, g] < to_ns and devices.gap_to_ns[d, g] > from_ns:
            return True
    for r in range(devices.reset_length[d]):
        if devices.reset_from_ns[d, r] < to_ns and devices.reset_to_ns[d, r] > from_ns:
            return True
    return False


@part
def _find_own(devices: Devices, holders: Holders, d: int, start_ns: int, work: _Scratch) -> int:
    """Those of whom SM time was read in the block from ``start_ns`` on, and their first record there, into
    ``work``; how many."""
    n = 0
    h = devices.first_holder[d]
    while h >= 0:
        k = _first_after(holders.used_ns, h, holders.used_length[h], start_ns, work.near[h + 1])
        work.near[h + 1] = k
        if k < holders.used_length[h] and holders.used_from_ns[h, k] < start_ns + BLOCK_NS:
            work.own[n], work.at[n], work.place[n] = h, k, -1
            n += 1
        h = holders.next_holder[h]
    return n


@part
def _is_alone(devices: Devices, holders: Holders, d: int, block: int, work: _Scratch) -> bool:
    """Whether SM time of one process at most was read in a block and before it in its minute."""
    n, from_ns, to_ns = 0, block // MINUTE * MINUTE * BLOCK_NS, (block + 1) * BLOCK_NS
    h = devices.first_holder[d]
    while h >= 0:
        k = _first_after(holders.used_ns, h, holders.used_length[h], from_ns, work.near[h + 1])
        n += k < holders.used_length[h] and holders.used_from_ns[h, k] < to_ns
        h = holders.next_holder[h]
    return n <= 1


@part
def _find_ended(
    devices: Devices, holders: Holders, d: int, from_ns: int, start_ns: int, n: int, work: _Scratch
) -> int:
    """Add to those n, who have records in the block from ``start_ns`` on, those whose last one ended before
    it but after ``from_ns``, where its first stretch begins; how many they are then."""
    h = devices.first_holder[d] if from_ns < start_ns else -1
    while h >= 0:
        k = work.near[h + 1] - 1
        if k >= 0 and holders.used_ns[h, k] > from_ns:
            is_new = True
            for m in range(n):
                is_new &= work.own[m] != h
            if is_new:
                work.own[n], work.at[n], work.place[n] = h, k, -1
                n += 1
        h = holders.next_holder[h]
    return n


@part
def _find_edges(holders: Holders, n: int, end_ns: int, work: _Scratch) -> int:
    """The different times up to ``end_ns`` at which records of those n end, ascending; how many."""
    edges_ns, count = work.edges_ns, 0
    for m in range(n):
        h, k = work.own[m], work.at[m]
        while k < holders.used_length[h] and holders.used_ns[h, k] <= end_ns and count < _EDGES:
            edge_ns = holders.used_ns[h, k]
            place = count
            while place > 0 and edges_ns[place - 1] > edge_ns:
                place -= 1
            if place == 0 or edges_ns[place - 1] != edge_ns:
                for other in range(count, place, -1):
                    edges_ns[other] = edges_ns[other - 1]
                edges_ns[place] = edge_ns
                count += 1
            k += 1
    return count


@part
def _stretch_from(holders: Holders, n: int, to_ns: int, before_ns: int, work: _Scratch) -> int:
    """Where the stretch that ends at ``to_ns`` begins: with the earliest of the records that end there, but
    not before the last stretch ended."""
    from_ns = to_ns
    for m in range(n):
        h, k = work.own[m], work.at[m]
        while k < holders.used_length[h] and holders.used_ns[h, k] < to_ns:
            k += 1
        if k < holders.used_length[h] and holders.used_ns[h, k] == to_ns:
            from_ns = min(from_ns, holders.used_from_ns[h, k])
    return max(from_ns, before_ns)


@part
def _place_of(learned: Learned, d: int, half: int, h: int) -> int:
    """Where holder h stands in the sums of a minute. If it is new it gets a place there while any is left,
    and shares that of the others if none is."""
    n = learned.names[d, half]
    for place in range(_OWN, n):
        if learned.holder[d, half, place] == h:
            return place
    if n == PLACES:
        return _OTHERS
    learned.holder[d, half, n] = h
    for j in range(n + 1):
        learned.second[d, half, n, j] = 0.0
    for s in range(SHIFTS):
        learned.first[d, half, n, s] = 0.0
    learned.names[d, half] = n + 1
    return int(n)


@part
def _begins(holders: Holders, n: int, from_ns: int, to_ns: int, work: _Scratch) -> bool:
    """Whether the first record of any of those n reaches into a stretch: a sample of 1 s of which a process
    was there for the last quarter shows a quarter of what it did. One such stretch kept watts off for a
    minute."""
    begins = False
    for m in range(n):
        h = work.own[m]
        begins |= holders.used_from_ns[h, 0] < to_ns and holders.used_ns[h, 0] > from_ns
    return begins


@part
def _load(
    holders: Holders, learned: Learned, d: int, half: int, n: int, from_ns: int, to_ns: int, work: _Scratch
) -> None:
    """The mean SM percent of each of those n over a stretch, into ``work.x``, at their places."""
    for place in range(PLACES):
        work.x[place] = 0.0
    work.x[_IDLE] = 1.0
    for m in range(n):
        h, k = work.own[m], work.at[m]
        while k > 0 and holders.used_ns[h, k - 1] > from_ns:
            k -= 1
        while k < holders.used_length[h] and holders.used_ns[h, k] <= from_ns:
            k += 1
        work.at[m] = k
        used = 0.0
        while k < holders.used_length[h] and holders.used_from_ns[h, k] < to_ns:
            begin, end = max(from_ns, holders.used_from_ns[h, k]), min(to_ns, holders.used_ns[h, k])
            used += holders.used_percent[h, k] * (end - begin)
            k += 1
        if used > 0.0:
            if work.place[m] < 0:
                work.place[m] = _place_of(learned, d, half, h)
            work.x[work.place[m]] += used / (to_ns - from_ns)


@part
def _add_stretch(learned: Learned, d: int, half: int, length_ns: int, weight: float, work: _Scratch) -> None:
    """Add to the sums of a minute what a stretch says, for each shift."""
    power_w = work.begin_j
    for s in range(SHIFTS):
        power_w[s] = (work.end_j[s] - work.begin_j[s]) / length_ns * 1e9
        learned.squares[d, half, s] += weight * power_w[s] ** 2
    learned.late_s2[d, half] += weight * work.late_s2[0]
    learned.stretches[d, half] += weight / length_ns * (1e9 * _NOISE_W2)
    for i in range(learned.names[d, half]):
        if work.x[i] == 0.0:
            continue
        weighted = weight * work.x[i]
        for j in range(i + 1):
            learned.second[d, half, i, j] += weighted * work.x[j]
        for s in range(SHIFTS):
            learned.first[d, half, i, s] += weighted * power_w[s]


@part
def _sum_block(
    devices: Devices, holders: Holders, d: int, block: int, learned: Learned, work: _Scratch
) -> None:
    """Add what the stretches that end in a block say to the sums of its minute. They weigh more than those of
    the block before: of the sums, less is left with each block."""
    start_ns, half = block * BLOCK_NS, block // MINUTE % 2
    n = _find_own(devices, holders, d, start_ns, work)
    count = _find_edges(holders, n, start_ns + BLOCK_NS, work)
    if count == 0:
        return
    before_ns = 0  # when the stretch before the first ended
    for m in range(n):
        if work.at[m] > 0:
            before_ns = max(before_ns, holders.used_ns[work.own[m], work.at[m] - 1])
    from_ns = _stretch_from(holders, n, work.edges_ns[0], before_ns, work)
    from_ns = max(from_ns, start_ns - _LONGEST_NS)
    n = _find_ended(devices, holders, d, from_ns, start_ns, n, work)
    points = _draw_curve(devices, d, from_ns - SHIFT_MAX_NS, start_ns + BLOCK_NS + ENERGY_AHEAD_NS, work)
    weigh = math.exp(block % MINUTE * (BLOCK_NS / 1e9 / _FORGET_S)) / 1e9 / _NOISE_W2
    if points < 2:
        return
    read_ns = 0  # where the curve was read last
    for e in range(count):
        to_ns = work.edges_ns[e]
        from_ns = _stretch_from(holders, n, to_ns, before_ns, work)
        before_ns = to_ns
        if not _SHORTEST_NS <= to_ns - from_ns <= _LONGEST_NS or _begins(holders, n, from_ns, to_ns, work):
            continue
        if _is_broken(devices, d, from_ns - SHIFT_MAX_NS, to_ns + ENERGY_AHEAD_NS):
            continue
        if from_ns == read_ns:
            for s in range(SHIFTS):
                work.begin_j[s] = work.end_j[s]
        else:
            _read_curve(points, from_ns, work, work.begin_j)
        _read_curve(points, to_ns, work, work.end_j)
        read_ns = to_ns
        known = True
        for s in range(SHIFTS):
            known &= not math.isnan(work.end_j[s] - work.begin_j[s])
        if known:
            _load(holders, learned, d, half, n, from_ns, to_ns, work)
            _add_stretch(learned, d, half, to_ns - from_ns, weigh * (to_ns - from_ns), work)


@part
def _sum_minute(
    devices: Devices, holders: Holders, d: int, minute: int, to_block: int, learned: Learned, work: _Scratch
) -> None:
    """Bring the sums of a minute up to a block."""
    half = minute % 2
    if learned.minute[d, half] != minute or learned.block[d, half] > to_block:
        learned.minute[d, half] = minute
        learned.block[d, half] = minute * MINUTE - 1
        learned.names[d, half] = _OWN
        for i in range(_OWN):
            learned.holder[d, half, i] = OTHERS
            for j in range(_OWN):
                learned.second[d, half, i, j] = 0.0
            for s in range(SHIFTS):
                learned.first[d, half, i, s] = 0.0
        for s in range(SHIFTS):
            learned.squares[d, half, s] = 0.0
        learned.late_s2[d, half] = learned.stretches[d, half] = 0.0
    done = learned.block[d, half]
    alone = done < minute * MINUTE or _is_alone(devices, holders, d, done, work)
    for block in range(done + 1, to_block + 1):
        was_alone = alone
        alone = alone and _is_alone(devices, holders, d, block, work)
        if alone and block % _ALONE != 0:
            continue
        if was_alone and not alone:  # what the first draws has to be known to tell what the others do
            for before in range(minute * MINUTE, block):
                if before % _ALONE != 0:
                    _sum_block(devices, holders, d, before, learned, work)
        _sum_block(devices, holders, d, block, learned, work)
    learned.block[d, half] = to_block


@part
def _add_minute(learned: Learned, d: int, half: int, left: float, n: int, work: _Scratch) -> int:
    """Add the sums of a minute, of which ``left`` is left, to those of two minutes, in which n places are
    taken; how many are then."""
    names = learned.names[d, half]
    place = work.place
    for i in range(names):
        place[i] = i if i < _OWN else _OTHERS
    for i in range(_OWN, names):
        h = learned.holder[d, half, i]
        k = _OWN
        while k < n and work.who[k] != h:
            k += 1
        if k < PLACES:
            place[i] = k
        if k == n and n < PLACES:
            work.who[n] = h
            for j in range(n + 1):
                work.second[n, j] = 0.0
            for s in range(SHIFTS):
                work.first[n, s] = 0.0
            n += 1
    for i in range(names):
        for j in range(i + 1):
            row, column = max(place[i], place[j]), min(place[i], place[j])
            both = 2.0 if i != j and row == column else 1.0  # two of the others: above the diagonal too
            work.second[row, column] += both * left * learned.second[d, half, i, j]
        for s in range(SHIFTS):
            work.first[place[i], s] += left * learned.first[d, half, i, s]
    for s in range(SHIFTS):
        work.squares[s] += left * learned.squares[d, half, s]
    work.late_s2[0] += left * learned.late_s2[d, half]
    work.stretches[0] += left * learned.stretches[d, half]
    return n


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
    if best in (0, _UNSHIFTED, SHIFTS - 1):
        return _SHIFTS_NS[best], best, 0.0
    below_ns, above_ns = _SHIFTS_NS[best] - _SHIFTS_NS[best - 1], _SHIFTS_NS[best + 1] - _SHIFTS_NS[best]
    below = (squares[best - 1] - squares[best]) / below_ns
    above = (squares[best + 1] - squares[best]) / above_ns
    if below < 0.0 or above < 0.0 or below + above == 0.0:
        return _SHIFTS_NS[best], best, 0.0
    off_ns = (below * above_ns - above * below_ns) / (2.0 * (below + above))
    if off_ns >= 0.0:
        return _SHIFTS_NS[best] + int(off_ns), best + 1, off_ns / above_ns
    return _SHIFTS_NS[best] + int(off_ns), best - 1, -off_ns / below_ns


@part
def _add_prior(holders: Holders, n: int, idle_w: float, idle_sd_w: float, work: _Scratch) -> float:
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
        if i == _IDLE:
            prior, sd = idle_w, idle_sd_w
        elif i >= _OWN:
            prior, sd = holders.watts[work.who[i]], holders.watts_sd[work.who[i]]
        mean[i] = pull[i] = 0.0
        if i != _IDLE and second[i, _IDLE] > 0.0 and sd >= WATTS_PRIOR_SD / WATTS_PRIOR * prior:
            mean[i], pull[i] = second[i, _IDLE], prior / sd**2
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
def _fit(
    holders: Holders, n: int, idle_mw: int, idle_sd_w: float, work: _Scratch, out: Watts, row: int
) -> None:
    """Watts of those in the first n places, idle level, shift, and how sure they are, into row ``row``."""
    second, first, squares, x = work.second, work.first, work.squares, work.x
    weight = second[_IDLE, _IDLE]  # of all stretches, in seconds over the noise
    idle_w = idle_mw / 1e3
    spent = _add_prior(holders, n, idle_w, max(idle_sd_w, _FIXED_SD_W), work)
    _decompose(second, n)
    _solve_forward(second, n, first)
    for s in range(SHIFTS):  # what is left unexplained: Σ power² - |L⁻¹ b|²
        squares[s] += spent
        for i in range(n):
            squares[s] -= first[i, s] ** 2
    best = _UNSHIFTED
    spare_s = max(weight * _NOISE_W2 - (n - _OWN), 1.0)  # of what was seen, beyond a second for each process
    better = min(_BETTER, spare_s / (spare_s + _CHANCE_S))
    limit = min(better * squares[_UNSHIFTED], squares[_UNSHIFTED] - _PROOF)
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
    out.noise_w[row] = math.sqrt(noise * _NOISE_W2)
    # Energy that is dated late moves SM time to a later window with it.
    out.late_s[row] = math.sqrt(work.late_s2[0] / max(weight, 1e-9) + (min(shift_ns, 0) / 1e9) ** 2)
    out.idle_mw[row] = idle_mw
    if idle_sd_w > 0.0:
        out.idle_mw[row] = int(min(max(x[_IDLE], IDLE_LOW * idle_w), IDLE_HIGH * idle_w) * 1000.0)
    for i in range(n):
        sd = math.sqrt(_variance(second, n, i, work.pull) * max(noise, 1.0))
        if i == _IDLE:
            out.idle_sd_w[row] = sd
            continue
        prior = holders.watts[work.who[i]] if i >= _OWN else WATTS_PRIOR
        out.holder[row, i - 1] = work.who[i]
        out.watts[row, i - 1] = max(x[i], min(_LEAST * prior, sd))
        # Of those that share a figure each is off from it as any process is from the mean of all.
        out.sd[row, i - 1] = math.hypot(sd, WATTS_PRIOR_SD) if i == _OTHERS else sd
    out.known[row] = n - 1


@part
def _write_prior(idle_mw: int, idle_sd_w: float, out: Watts, row: int) -> None:
    """What holds where nothing was learned."""
    out.known[row] = out.shift_ns[row] = 0
    out.idle_mw[row], out.idle_sd_w[row] = idle_mw, idle_sd_w
    out.noise_w[row] = out.late_s[row] = 0.0


@part
def _copy_fit(fits: Watts, at: int, out: Watts, row: int) -> None:
    out.known[row] = fits.known[at]
    out.shift_ns[row] = fits.shift_ns[at]
    out.idle_mw[row] = fits.idle_mw[at]
    out.idle_sd_w[row] = fits.idle_sd_w[at]
    out.noise_w[row] = fits.noise_w[at]
    out.late_s[row] = fits.late_s[at]
    for i in range(fits.known[at]):
        out.holder[row, i] = fits.holder[at, i]
        out.watts[row, i] = fits.watts[at, i]
        out.sd[row, i] = fits.sd[at, i]


@part
def _learn_block(
    devices: Devices,
    holders: Holders,
    d: int,
    block: int,
    idle_mw: int,
    idle_sd_w: float,
    learned: Learned,
    work: _Scratch,
) -> int:
    """Fit a block unless that has been done; its row of ``learned.fits``."""
    if block % _ALONE != 0 and _is_alone(devices, holders, d, block, work):
        block -= block % _ALONE
    slot = block % FITS
    row = d * FITS + slot
    if learned.fitted[d, slot] == block:
        return row
    minute = block // MINUTE
    _sum_minute(devices, holders, d, minute - 1, minute * MINUTE - 1, learned, work)
    _sum_minute(devices, holders, d, minute, block, learned, work)
    n = _OWN
    for i in range(_OWN):
        work.who[i] = OTHERS
        for j in range(_OWN):
            work.second[i, j] = 0.0
        for s in range(SHIFTS):
            work.first[i, s] = 0.0
    for s in range(SHIFTS):
        work.squares[s] = 0.0
    work.late_s2[0] = work.stretches[0] = 0.0
    # Sums weigh a minute's first block 1: of those of this minute so much is left that its last weighs 1.
    left = math.exp(-(block % MINUTE) * (BLOCK_NS / 1e9 / _FORGET_S))
    n = _add_minute(learned, d, minute % 2, left, n, work)
    n = _add_minute(
        learned, d, (minute - 1) % 2, left * math.exp(-MINUTE * BLOCK_NS / 1e9 / _FORGET_S), n, work
    )
    learned.fitted[d, slot] = block
    learned.fits.known[row] = 0
    if work.second[_IDLE, _IDLE] > 0.0:
        _fit(holders, n, idle_mw, idle_sd_w, work, learned.fits, row)
    return row


@part
def _is_used(devices: Devices, holders: Holders, d: int, from_ns: int, to_ns: int) -> bool:
    """Whether SM time of any process was read in that time."""
    h = devices.first_holder[d]
    while h >= 0:
        count = holders.used_length[h]
        if count > 0 and holders.used_from_ns[h, 0] < to_ns and holders.used_ns[h, count - 1] > from_ns:
            return True
        h = holders.next_holder[h]
    return False


@kernel(
    types.void(
        HOSTS,
        DEVICES,
        HOLDERS,
        DUE,
        types.int64,
        types.boolean,
        LEARNED,
        WATTS,
        WATTS_OF,
    )
)
def learn(
    hosts: Hosts,
    devices: Devices,
    holders: Holders,
    due: Due,
    window_ns: int,
    ended: bool,
    learned: Learned,
    out: Watts,
    of: WattsOf,
) -> None:
    """Learn for every block that a window due rests on, into ``out``, and which row that is of each
    window, into ``of.row``.

    ``learned``: what was learned before. ``ended``: nothing more will come."""
    members, samples = holders.silent.shape[0], devices.t_ns.shape[1]
    work = _Scratch(
        np.zeros(members + 1, np.int64),
        np.empty(members, np.int64),
        np.empty(members, np.int64),
        np.empty(members + PLACES, np.int64),
        np.empty(_EDGES, np.int64),
        np.empty(samples, np.int64),
        np.empty(samples + 1, np.int64),
        np.empty(samples, np.int64),
        np.empty(samples),
        np.empty(1),
        np.empty(1),
        np.empty(SHIFTS),
        np.empty(SHIFTS),
        np.empty(PLACES),
        np.empty(PLACES),
        np.empty(PLACES, np.int64),
        np.empty((PLACES, PLACES)),
        np.empty((PLACES, SHIFTS)),
        np.empty(SHIFTS),
    )
    rows = 0
    for d in range(due.bounds.shape[0] - 1):
        first, windows = of.first_window[d], of.begin[d + 1] - of.begin[d]
        if windows == 0:
            continue
        prior = rows
        _write_prior(of.idle_mw[d], of.idle_sd_w[d], out, prior)
        rows += 1
        low = ((first + 1) * window_ns - LATENESS_NS) // BLOCK_NS - 1
        high = ((first + windows) * window_ns - 1) // BLOCK_NS + BLOCKS_AHEAD
        from_ns = (low // MINUTE - 1) * MINUTE * BLOCK_NS
        if not _is_used(devices, holders, d, from_ns, (high + 1) * BLOCK_NS):
            of.row[of.begin[d] : of.begin[d + 1]] = prior
            continue
        work.near[0] = 0
        over = ended or hosts.ended_ns[devices.host[d]] == hosts.now_ns[devices.host[d]]
        settled_ns = FOREVER if over else hosts.now_ns[devices.host[d]] - LATENESS_NS
        row_of_block = np.full(high - low + 1, prior)
        for i in range(due.bounds[d], due.bounds[d + 1]):
            for window in range(max(due.first[i], first), min(due.last[i] + 1, first + windows)):
                row_of_block[_block_of(window, window_ns, settled_ns) - low] = _WANTED
        for block in range(low, high + 1):
            if row_of_block[block - low] == _WANTED:
                fitted = _learn_block(
                    devices, holders, d, block, of.idle_mw[d], of.idle_sd_w[d], learned, work
                )
                row_of_block[block - low] = prior
                if learned.fits.known[fitted] > 0:
                    _copy_fit(learned.fits, fitted, out, rows)
                    row_of_block[block - low] = rows
                    rows += 1
        for k in range(windows):
            of.row[of.begin[d] + k] = row_of_block[_block_of(first + k, window_ns, settled_ns) - low]
