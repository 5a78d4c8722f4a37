"""From when to when a holder holds its device, according to its records."""

from wattribute.kernels.jit import part
from wattribute.kernels.series import Holders


@part
def continues(holders: Holders, h: int, j: int) -> bool:
    """Whether record j continues the hold of record j - 1: it came within 3 periods."""
    if j == 0:
        return False
    period_ns = holders.seen_period_ns[h, j - 1]
    if period_ns <= 0:
        period_ns = holders.seen_period_ns[h, j]
    return bool(holders.seen_ns[h, j] - holders.seen_ns[h, j - 1] <= 3 * period_ns)


@part
def expected_by(holders: Holders, h: int) -> int:
    """When the record after the last becomes overdue: after 3 periods."""
    last = holders.seen_length[h] - 1
    return int(holders.seen_ns[h, last] + 3 * holders.seen_period_ns[h, last])


@part
def hold_from(holders: Holders, h: int, j: int) -> int:
    """When the hold that begins with record j starts: one period before that record, but not before the
    record before it."""
    from_ns = holders.seen_ns[h, j] - holders.seen_period_ns[h, j]
    if j > 0:
        from_ns = max(from_ns, holders.seen_ns[h, j - 1])
    return int(from_ns)


@part
def may_hold(holders: Holders, h: int, from_ns: int, to_ns: int) -> bool:
    """Whether holder h could ever have been taken to hold the device in the window: then it has a row."""
    return bool(holders.reach_from_ns[h] < to_ns and holders.reach_to_ns[h] > from_ns)


@part
def holds(holders: Holders, h: int, k: int, now_ns: int, from_ns: int, to_ns: int) -> bool:
    """Whether holder h holds its device over the piece; k = its first record at or after the piece's end."""
    n = holders.seen_length[h]
    if n == 0 or holders.exit_ns[h] < to_ns:
        return False
    if k < n:
        return continues(holders, h, k) or hold_from(holders, h, k) <= from_ns
    return bool(min(now_ns, holders.exit_ns[h]) <= expected_by(holders, h))


@part
def memory_at(holders: Holders, h: int, k: int) -> int:
    """Memory held: the value of record k, which covers the time before it, if that is known; else the last
    known value before it."""
    n = holders.seen_length[h]
    if k < n and holders.seen_memory_bytes[h, k] >= 0:
        return int(holders.seen_memory_bytes[h, k])
    for j in range(min(k, n - 1), -1, -1):
        if holders.seen_memory_bytes[h, j] >= 0:
            return int(holders.seen_memory_bytes[h, j])
    return 0
