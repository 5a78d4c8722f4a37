"""Who holds a device over a piece between two cuts, and what is known about each."""

from wattribute.kernels.find import find_sample, samples_per_ns
from wattribute.kernels.holding import holds, memory_at
from wattribute.kernels.jit import part
from wattribute.kernels.scratch import HELD, MEMBER, PERCENT, SLICES, UNSURE, Scratch
from wattribute.kernels.series import INSTANCE, RESERVED, Devices, Holders


@part
def _unevenness(holders: Holders, h: int, k: int, start_ns: int, end_ns: int, told_ns: int) -> float:
    """Return how unevenly SM time may lie in record k of holder h, of which a part lies in a window: the
    variance of the part's mean, in squares of the record's. Records that begin at ``told_ns`` or later are
    ignored.

    If a process goes at one instant from its level in the record before to that in the record after, the
    variance within this one is the product of the steps from its mean to theirs. At most it is the square of
    its mean: all was done at one instant. For a part f of the record, the sum is off by f (1 - f) of that.
    Half of it counts for each edge of the window that cuts the record, because the errors at both edges are
    independent, and pieces are added up."""
    begin_ns, until_ns = holders.used_from_ns[h, k], holders.used_ns[h, k]
    percent = float(holders.used_percent[h, k])
    cut = (begin_ns < start_ns) + (until_ns > end_ns)
    if cut == 0 or percent <= 0.0:
        return 0.0
    before = after = 0.0  # drivers do not report a process that does nothing
    if k > 0 and holders.used_ns[h, k - 1] >= begin_ns:
        before = holders.used_percent[h, k - 1]
    if k + 1 < holders.used_length[h] and holders.used_from_ns[h, k + 1] <= min(until_ns, told_ns - 1):
        after = holders.used_percent[h, k + 1]
    inside_ns = min(until_ns, end_ns) - max(begin_ns, start_ns)
    most = percent * percent
    variance = min(abs(before - percent) * abs(after - percent), most)
    return float(0.5 * cut * variance * (until_ns - begin_ns - inside_ns) / (most * inside_ns))


@part
def find_present(
    holders: Holders, work: Scratch, now_ns: int, shift_ns: int, start_ns: int, end_ns: int, told_ns: int,
    from_ns: int, to_ns: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Find who holds the device over a piece of the window [start, end), into ``work``: the processes, with
    SM percent, memory and the variance of their watts; the reservations; the MIG instances. Return how many
    there are of each."""
    n = givens = count = 0
    for m in range(work.members.shape[0]):
        h, seen, used = work.members[m], work.seen[m], work.used[m]
        while seen < holders.seen_length[h] and holders.seen_ns[h, seen] < to_ns:
            seen += 1
        while used > 0 and holders.used_ns[h, used - 1] - shift_ns >= to_ns:
            used -= 1  # the piece before had a larger shift
        while used < holders.used_length[h] and holders.used_ns[h, used] - shift_ns < to_ns:
            used += 1
        work.seen[m], work.used[m] = seen, used
        if not holds(holders, h, seen, now_ns, from_ns, to_ns):
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
            work.instances[MEMBER, count] = m
            work.instances[SLICES, count] = memory_at(holders, h, seen)
            work.activity[PERCENT, count] = holders.used_percent[h, used] if known else -1.0
            work.activity[UNSURE, count] = unsure
            count += 1
            continue
        work.sm_percent[n] = holders.used_percent[h, used] if known else 0.0
        work.unsure[n] = unsure
        work.memory_bytes[n] = memory_at(holders, h, seen)
        work.present[n] = m
        work.sums[m, HELD] += to_ns - from_ns
        work.held_bytes_ns[m] += work.memory_bytes[n] * (to_ns - from_ns)
        n += 1
    return n, givens, count


@part
def is_quiet(devices: Devices, d: int, n: int, from_ns: int, to_ns: int, work: Scratch) -> bool:
    """Whether the n processes on a device did nothing over a piece: none has SM time, and each reading of the
    device in the piece, and the first after it, says that nothing ran."""
    for k in range(n):
        if work.sm_percent[k] > 0.0:
            return False
    t_ns, length = devices.t_ns, devices.length[d]
    i = find_sample(t_ns, d, length, 0, from_ns, samples_per_ns(t_ns, d, length)) + 1
    while i < length and t_ns[d, i] < to_ns and devices.quiet[d, i]:
        i += 1
    return bool(i < length and devices.quiet[d, i])
