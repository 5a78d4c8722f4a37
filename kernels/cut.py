"""The instants at which anything changes on a device."""

from wattribute.kernels.holding import continues, expected_by, hold_from, may_hold
from wattribute.kernels.jit import part
from wattribute.kernels.scratch import Scratch
from wattribute.kernels.series import I64, Devices, Holders, Watts, WattsOf


@part
def _add_cut(cuts_ns: I64, begin: int, n: int, edge_ns: int, to_ns: int) -> int:
    """Insert an instant into the ascending cuts_ns[begin:n], once, if it lies between cuts_ns[begin] and
    ``to_ns``; return the new n."""
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
    """Cut a window where holder h begins, ends or has an edge of an SM record; return the new n.

    ``seen``, ``used``: its first records that reach into the window; ``shift_ns``: how late SM records are
    dated."""
    n = _add_cut(cuts_ns, begin, n, holders.exit_ns[h], to_ns)
    count = holders.seen_length[h]
    j = seen
    while j < count:
        if not continues(holders, h, j):
            n = _add_cut(cuts_ns, begin, n, hold_from(holders, h, j), to_ns)
            if j > 0:
                n = _add_cut(cuts_ns, begin, n, holders.seen_ns[h, j - 1], to_ns)
        if holders.seen_ns[h, j] >= to_ns:
            break
        j += 1
    if j == count and count > 0 and min(now_ns, holders.exit_ns[h]) > expected_by(holders, h):
        n = _add_cut(cuts_ns, begin, n, holders.seen_ns[h, count - 1], to_ns)
    for j in range(used, holders.used_length[h]):
        n = _add_cut(cuts_ns, begin, n, holders.used_from_ns[h, j] - shift_ns, to_ns)
        n = _add_cut(cuts_ns, begin, n, holders.used_ns[h, j] - shift_ns, to_ns)
        if holders.used_ns[h, j] - shift_ns >= to_ns:
            break
    return n


@part
def cut(
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
    """Write all cuts of the windows into ``work.cuts_ns`` and ``work.first_cut``; return how many."""
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
            if not may_hold(holders, h, from_ns, to_ns):
                continue  # a member because of other windows, which must not affect this one
            while seen < holders.seen_length[h] and holders.seen_ns[h, seen] <= from_ns:
                seen += 1
            while used > 0 and holders.used_ns[h, used - 1] - shift_ns > from_ns:
                used -= 1  # the window before had a larger shift
            while used < holders.used_length[h] and holders.used_ns[h, used] - shift_ns <= from_ns:
                used += 1
            work.seen[m], work.used[m] = seen, used
            n = _cut_holder(holders, h, seen, used, now_ns, shift_ns, cuts_ns, begin, n, to_ns)
        cuts_ns[n] = to_ns
        n += 1
    work.first_cut[windows.shape[0]] = n
    return n
