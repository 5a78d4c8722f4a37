"""Put records of who holds a device into their series: processes, MIG instances, reservations."""

from wattribute.kernels.doubt import FAR_NS, TIME_MAX_NS
from wattribute.kernels.jit import part
from wattribute.kernels.marks import mark, mark_readings
from wattribute.kernels.messages import (
    ABSURD,
    ACCEPTED,
    DUPLICATE,
    FAR_AHEAD,
    REPEATED,
    TOLD_EDGE,
    TOLD_SLICES,
    TOO_LATE,
)
from wattribute.kernels.series import (
    FOREVER,
    HORIZON_NS,
    INSTANCE_NS,
    RESERVED,
    SECOND_NS,
    SHIFT_MAX_NS,
    Devices,
    Holders,
    Hosts,
    Marks,
)


@part
def _take_use(holders: Holders, h: int, t: int, period_ns: int, percent: float) -> int:
    """Note SM use of (t - period, t]; where records overlap, the earlier one counts up to its end. Return
    from when on that changes anything, FOREVER for a duplicate."""
    n = holders.used_length[h]
    at = n
    while at > 0 and holders.used_ns[h, at - 1] > t:
        at -= 1
    if at > 0 and holders.used_ns[h, at - 1] == t:
        return FOREVER
    for k in range(n, at, -1):
        holders.used_ns[h, k] = holders.used_ns[h, k - 1]
        holders.used_from_ns[h, k] = holders.used_from_ns[h, k - 1]
        holders.used_percent[h, k] = holders.used_percent[h, k - 1]
    holders.used_ns[h, at] = t
    from_ns = max(t - period_ns, holders.used_ns[h, at - 1] if at > 0 else 0)
    holders.used_from_ns[h, at] = from_ns
    holders.used_percent[h, at] = percent
    if at < n:
        from_ns = min(from_ns, holders.used_from_ns[h, at + 1])
        holders.used_from_ns[h, at + 1] = max(holders.used_from_ns[h, at + 1], t)
    holders.used_length[h] = n + 1
    return int(from_ns)


@part
def take_process(
    holders: Holders,
    h: int,
    now_ns: int,
    repeated_ns: int,
    t: int,
    period_ns: int,
    memory_bytes: int,
    percent: float,
) -> tuple[int, int]:
    """Note that a process was resident, and what it used; return (reason, from when on that changes
    anything). Time up to ``repeated_ns`` came twice: a record from then is refused, and a later one counts
    only from then on."""
    if t <= 0 or t > TIME_MAX_NS or period_ns > 86_400 * SECOND_NS or not percent <= 100.0:
        return ABSURD, 0
    if t <= repeated_ns:
        return REPEATED, 0
    if t < now_ns - HORIZON_NS:
        return TOO_LATE, 0
    if 0 < now_ns < t - FAR_NS:
        return FAR_AHEAD, 0
    n = holders.seen_length[h]
    at = n
    while at > 0 and holders.seen_ns[h, at - 1] > t:
        at -= 1
    held_on = at == n and not holders.silent[h]  # as far as was known, it held on from its last record
    if period_ns <= 0:
        period_ns = t - holders.seen_ns[h, at - 1] if at > 0 else 0
    from_ns = FOREVER
    if percent >= 0.0:
        from_ns = _take_use(holders, h, t, min(period_ns, t - repeated_ns), percent)
    if at > 0 and holders.seen_ns[h, at - 1] == t:
        at -= 1
        if holders.seen_memory_bytes[h, at] < 0 <= memory_bytes:
            holders.seen_memory_bytes[h, at] = memory_bytes
        elif from_ns == FOREVER:
            return DUPLICATE, 0
        period_ns = holders.seen_period_ns[h, at]
    else:
        for k in range(n, at, -1):
            holders.seen_ns[h, k] = holders.seen_ns[h, k - 1]
            holders.seen_period_ns[h, k] = holders.seen_period_ns[h, k - 1]
            holders.seen_memory_bytes[h, k] = holders.seen_memory_bytes[h, k - 1]
        holders.seen_ns[h, at] = t
        holders.seen_period_ns[h, at] = period_ns
        holders.seen_memory_bytes[h, at] = memory_bytes
        n += 1
        holders.seen_length[h] = n
        holders.silent[h] = 0
        holders.reach_from_ns[h] = min(holders.reach_from_ns[h], t - period_ns)
        holders.reach_to_ns[h] = max(holders.reach_to_ns[h], t + 3 * period_ns)
    from_ns = min(from_ns, t - period_ns)
    before = holders.seen_ns[h, at - 1] if at > 0 else 0
    reach_ns = 3 * max(holders.seen_period_ns[h, at - 1], period_ns) if at > 0 else 0
    # After a record later than the exit, the process may no longer hold from ``before`` to its exit.
    if at > 0 and (held_on or t - before <= reach_ns or holders.exit_ns[h] < t):
        from_ns = min(from_ns, before)
    if at + 1 < n:  # the record after it no longer covers the time before it
        from_ns = min(from_ns, max(holders.seen_ns[h, at + 1] - holders.seen_period_ns[h, at + 1], before))
    return ACCEPTED, from_ns


@part
def take_instance(
    devices: Devices,
    holders: Holders,
    hosts: Hosts,
    h: int,
    t: int,
    told: int,
    offset: int,
    window_ns: int,
    marks: Marks,
) -> None:
    """Note that a MIG instance was there, and how busy it was since its record before, whatever that said:
    the instance may have gone meanwhile, or the collector started anew."""
    d = holders.device[h]
    now_ns = hosts.now_ns[devices.host[d]]
    slices, activity = (told >> TOLD_SLICES) - 1, (told & ((1 << TOLD_EDGE) - 1)) - 1
    period_ns = 1 if told & (1 << TOLD_EDGE) else INSTANCE_NS
    reason, since_ns = take_process(holders, h, now_ns, 0, t, period_ns, slices, -1.0)
    if reason == DUPLICATE:
        since_ns = FOREVER
    elif reason != ACCEPTED:
        return
    tells_use = activity >= 0
    for k in range(holders.used_length[h] - 1, -1, -1):  # later records do not cover the time before this one
        if holders.used_ns[h, k] <= t:
            break
        if holders.used_from_ns[h, k] < t:
            since_ns = min(since_ns, holders.used_from_ns[h, k])
            holders.used_from_ns[h, k] = t
            tells_use = True
    k = holders.seen_length[h]
    while k > 0 and holders.seen_ns[h, k - 1] >= t:
        k -= 1
    if activity >= 0 and k > 0:
        period_ns = min(t - max(holders.seen_ns[h, k - 1], devices.repeated_to_ns[d]), INSTANCE_NS)
        since_ns = min(since_ns, _take_use(holders, h, t, period_ns, activity / 1e6))
    if since_ns == FOREVER or devices.length[d] == 0:
        return
    to_ns = max(now_ns, t)
    if tells_use:  # then what instances draw is learned anew too
        from_ns = since_ns - SHIFT_MAX_NS
        mark_readings(marks, hosts, devices, d, from_ns, to_ns, since_ns, window_ns, offset)
    else:
        mark(marks, d, max(since_ns, devices.first_ns[d]) // window_ns, to_ns // window_ns, offset)


@part
def take_given(
    devices: Devices,
    holders: Holders,
    hosts: Hosts,
    h: int,
    t: int,
    period_ns: int,
    offset: int,
    window_ns: int,
    marks: Marks,
) -> None:
    """Note whom a device is reserved for, and for how long the record counts."""
    d = holders.device[h]
    now_ns = hosts.now_ns[devices.host[d]]
    holders.account[h] = RESERVED
    reason, since_ns = take_process(holders, h, now_ns, 0, t, period_ns, -1, -1.0)
    if reason == ACCEPTED and devices.length[d] > 0:
        first = max(since_ns, devices.first_ns[d]) // window_ns
        mark(marks, d, first, max(now_ns, t) // window_ns, offset)


@part
def take_exit(devices: Devices, holders: Holders, h: int, t: int) -> int:
    """Note when a process ended; return from when on that changes anything."""
    t = max(t, devices.repeated_to_ns[holders.device[h]])  # it was there until the clock was set back
    since_ns = min(t, holders.exit_ns[h])  # a second exit may name a later time
    holders.exit_ns[h] = t
    n = holders.seen_length[h]
    return int(min(since_ns, holders.seen_ns[h, n - 1]) if n > 0 else since_ns)
