"""Add what the stretches of a block say about watts to the sums of its minute."""

import math

from wattribute.kernels.curve import LONGEST_NS, SHORTEST_NS, draw_curve, read_curve
from wattribute.kernels.jit import part
from wattribute.kernels.learn_scratch import AT_OTHERS, AT_OWN, NOISE_W2, OTHERS, PLACES, SHIFTS, LearnScratch
from wattribute.kernels.series import (
    BLOCK_NS,
    ENERGY_AHEAD_NS,
    MINUTE,
    SHIFT_MAX_NS,
    Devices,
    Holders,
    Learned,
)
from wattribute.kernels.stretches import (
    begins,
    find_edges,
    find_ended,
    find_own,
    is_alone,
    is_broken,
    load,
    stretch_from,
)

# While a process is alone, only the idle level depends on its blocks, so every fifth is evaluated, until
# another process comes. With blocks of 5 s, a stream took 1.55 us longer for a window of it with every block,
# and 0.4 with every third.
ALONE_EVERY = 5

# Chosen on simulated devices, by the error of what each process is charged (wattribute verify). Forgetting in
# 20 s follows watts that swing by a quarter within 5 min (9.6 % for the worst process, 13.8 with 40 s), and
# costs nothing where they are steady.
FORGET_S = 20.0


@part
def _add_stretch(
    learned: Learned, d: int, half: int, length_ns: int, weight: float, work: LearnScratch
) -> None:
    """Add a stretch to the sums of a minute, for each shift."""
    power_w = work.begin_j
    for s in range(SHIFTS):
        power_w[s] = (work.end_j[s] - work.begin_j[s]) / length_ns * 1e9
        learned.squares[d, half, s] += weight * power_w[s] ** 2
    learned.late_s2[d, half] += weight * work.late_s2[0]
    learned.stretches[d, half] += weight / length_ns * (1e9 * NOISE_W2)
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
    devices: Devices, holders: Holders, d: int, block: int, learned: Learned, work: LearnScratch
) -> None:
    """Add the stretches that end in a block to the sums of its minute. They weigh more than those of the
    block before, so that older ones fade."""
    start_ns, half = block * BLOCK_NS, block // MINUTE % 2
    n = find_own(devices, holders, d, start_ns, work)
    count = find_edges(holders, n, start_ns + BLOCK_NS, work)
    if count == 0:
        return
    before_ns = 0  # when the stretch before the first ended
    for m in range(n):
        if work.at[m] > 0:
            before_ns = max(before_ns, holders.used_ns[work.own[m], work.at[m] - 1])
    from_ns = stretch_from(holders, n, work.edges_ns[0], before_ns, work)
    from_ns = max(from_ns, start_ns - LONGEST_NS)
    n = find_ended(devices, holders, d, from_ns, start_ns, n, work)
    points = draw_curve(devices, d, from_ns - SHIFT_MAX_NS, start_ns + BLOCK_NS + ENERGY_AHEAD_NS, work)
    weigh = math.exp(block % MINUTE * (BLOCK_NS / 1e9 / FORGET_S)) / 1e9 / NOISE_W2
    if points < 2:
        return
    read_ns = 0  # where the curve was read last
    for e in range(count):
        to_ns = work.edges_ns[e]
        from_ns = stretch_from(holders, n, to_ns, before_ns, work)
        before_ns = to_ns
        if not SHORTEST_NS <= to_ns - from_ns <= LONGEST_NS or begins(holders, n, from_ns, to_ns, work):
            continue
        if is_broken(devices, d, from_ns - SHIFT_MAX_NS, to_ns + ENERGY_AHEAD_NS):
            continue
        if from_ns == read_ns:
            for s in range(SHIFTS):
                work.begin_j[s] = work.end_j[s]
        else:
            read_curve(points, from_ns, work, work.begin_j)
        read_curve(points, to_ns, work, work.end_j)
        read_ns = to_ns
        known = True
        for s in range(SHIFTS):
            known &= not math.isnan(work.end_j[s] - work.begin_j[s])
        if known:
            load(holders, learned, d, half, n, from_ns, to_ns, work)
            _add_stretch(learned, d, half, to_ns - from_ns, weigh * (to_ns - from_ns), work)


@part
def sum_minute(
    devices: Devices,
    holders: Holders,
    d: int,
    minute: int,
    to_block: int,
    learned: Learned,
    work: LearnScratch,
) -> None:
    """Complete the sums of a minute up to a block."""
    half = minute % 2
    if learned.minute[d, half] != minute or learned.block[d, half] > to_block:
        learned.minute[d, half] = minute
        learned.block[d, half] = minute * MINUTE - 1
        learned.names[d, half] = AT_OWN
        for i in range(AT_OWN):
            learned.holder[d, half, i] = OTHERS
            for j in range(AT_OWN):
                learned.second[d, half, i, j] = 0.0
            for s in range(SHIFTS):
                learned.first[d, half, i, s] = 0.0
        for s in range(SHIFTS):
            learned.squares[d, half, s] = 0.0
        learned.late_s2[d, half] = learned.stretches[d, half] = 0.0
    done = learned.block[d, half]
    alone = done < minute * MINUTE or is_alone(devices, holders, d, done, work)
    for block in range(done + 1, to_block + 1):
        was_alone = alone
        alone = alone and is_alone(devices, holders, d, block, work)
        if alone and block % ALONE_EVERY != 0:
            continue
        if was_alone and not alone:  # what the first draws tells what the others draw
            for before in range(minute * MINUTE, block):
                if before % ALONE_EVERY != 0:
                    _sum_block(devices, holders, d, before, learned, work)
        _sum_block(devices, holders, d, block, learned, work)
    learned.block[d, half] = to_block


@part
def add_minute(learned: Learned, d: int, half: int, left: float, n: int, work: LearnScratch) -> int:
    """Add the sums of a minute, times ``left``, to those of two minutes, in which n places are taken. Return
    how many are taken then."""
    names = learned.names[d, half]
    place = work.place
    for i in range(names):
        place[i] = i if i < AT_OWN else AT_OTHERS
    for i in range(AT_OWN, names):
        h = learned.holder[d, half, i]
        k = AT_OWN
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
            both = 2.0 if i != j and row == column else 1.0  # both are others: above the diagonal too
            work.second[row, column] += both * left * learned.second[d, half, i, j]
        for s in range(SHIFTS):
            work.first[place[i], s] += left * learned.first[d, half, i, s]
    for s in range(SHIFTS):
        work.squares[s] += left * learned.squares[d, half, s]
    work.late_s2[0] += left * learned.late_s2[d, half]
    work.stretches[0] += left * learned.stretches[d, half]
    return n
