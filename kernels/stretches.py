"""Stretches between two readings of SM time: where they lie, and how much each process did in them."""

from wattribute.kernels.find import first_after
from wattribute.kernels.gaps import is_interrupted
from wattribute.kernels.jit import part
from wattribute.kernels.learn_scratch import AT_IDLE, AT_OTHERS, AT_OWN, EDGES, PLACES, SHIFTS, LearnScratch
from wattribute.kernels.series import BLOCK_NS, MINUTE, Devices, Holders, Learned


@part
def is_broken(devices: Devices, d: int, from_ns: int, to_ns: int) -> bool:
    """Whether a gap or a reset of the counter lies between two instants, or one of them is not covered."""
    if devices.t_ns[d, 0] > from_ns or devices.t_ns[d, devices.length[d] - 1] < to_ns:
        return True
    return is_interrupted(devices, d, from_ns, to_ns)


@part
def find_own(devices: Devices, holders: Holders, d: int, start_ns: int, work: LearnScratch) -> int:
    """Find those whose SM time was read in the block from ``start_ns`` on, and their first record there, into
    ``work``; return how many."""
    n = 0
    h = devices.first_holder[d]
    while h >= 0:
        k = first_after(holders.used_ns, h, holders.used_length[h], start_ns, work.near[h + 1])
        work.near[h + 1] = k
        if k < holders.used_length[h] and holders.used_from_ns[h, k] < start_ns + BLOCK_NS:
            work.own[n], work.at[n], work.place[n] = h, k, -1
            n += 1
        h = holders.next_holder[h]
    return n


@part
def is_alone(devices: Devices, holders: Holders, d: int, block: int, work: LearnScratch) -> bool:
    """Whether SM time of at most one process was read in a block and before it in its minute."""
    n, from_ns, to_ns = 0, block // MINUTE * MINUTE * BLOCK_NS, (block + 1) * BLOCK_NS
    h = devices.first_holder[d]
    while h >= 0:
        k = first_after(holders.used_ns, h, holders.used_length[h], from_ns, work.near[h + 1])
        n += k < holders.used_length[h] and holders.used_from_ns[h, k] < to_ns
        h = holders.next_holder[h]
    return n <= 1


@part
def find_ended(
    devices: Devices, holders: Holders, d: int, from_ns: int, start_ns: int, n: int, work: LearnScratch
) -> int:
    """Add, to the n that have records in the block from ``start_ns`` on, those whose last record ended before
    the block but after ``from_ns``, where its first stretch begins. Return how many there are then."""
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
def find_edges(holders: Holders, n: int, end_ns: int, work: LearnScratch) -> int:
    """Find the distinct times up to ``end_ns`` at which records of those n end, ascending; return how
    many."""
    edges_ns, count = work.edges_ns, 0
    for m in range(n):
        h, k = work.own[m], work.at[m]
        while k < holders.used_length[h] and holders.used_ns[h, k] <= end_ns and count < EDGES:
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
def stretch_from(holders: Holders, n: int, to_ns: int, before_ns: int, work: LearnScratch) -> int:
    """Return where the stretch that ends at ``to_ns`` begins: with the earliest of the records that end
    there, but not before the last stretch ended."""
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
    """Return the place of holder h in the sums of a minute. A new holder gets a place of its own while one is
    left; after that it shares the place of the others."""
    n = learned.names[d, half]
    for place in range(AT_OWN, n):
        if learned.holder[d, half, place] == h:
            return place
    if n == PLACES:
        return AT_OTHERS
    learned.holder[d, half, n] = h
    for j in range(n + 1):
        learned.second[d, half, n, j] = 0.0
    for s in range(SHIFTS):
        learned.first[d, half, n, s] = 0.0
    learned.names[d, half] = n + 1
    return int(n)


@part
def begins(holders: Holders, n: int, from_ns: int, to_ns: int, work: LearnScratch) -> bool:
    """Whether the first record of any of those n reaches into a stretch: a sample of 1 s shows a quarter of
    what a process did that was there for the last quarter. One such stretch kept watts wrong for a minute."""
    begins = False
    for m in range(n):
        h = work.own[m]
        begins |= holders.used_from_ns[h, 0] < to_ns and holders.used_ns[h, 0] > from_ns
    return begins


@part
def load(
    holders: Holders,
    learned: Learned,
    d: int,
    half: int,
    n: int,
    from_ns: int,
    to_ns: int,
    work: LearnScratch,
) -> None:
    """Write the mean SM percent of each of those n over a stretch into ``work.x``, at their places."""
    for place in range(PLACES):
        work.x[place] = 0.0
    work.x[AT_IDLE] = 1.0
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
