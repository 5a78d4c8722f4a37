"""What messages report besides readings: gaps, exits, clocks set back, a host whose time passes or ends."""

from wattribute.kernels.counter import newest_ns
from wattribute.kernels.gaps import add_gap, readings_around, remove_gap
from wattribute.kernels.holders import take_exit, take_given, take_instance
from wattribute.kernels.holding import expected_by
from wattribute.kernels.jit import part
from wattribute.kernels.marks import mark, mark_energy, mark_readings
from wattribute.kernels.messages import END, EPOCH, EXIT, GAP, GIVEN, MIG_INSTANCE, PRIOR, REPEAT, TOUCH
from wattribute.kernels.series import HORIZON_NS, I64, LATENESS_NS, SECOND_NS, Devices, Holders, Hosts, Marks


@part
def _come_again(
    hosts: Hosts,
    devices: Devices,
    holders: Holders,
    d: int,
    from_ns: int,
    window_ns: int,
    offset: int,
    marks: Marks,
) -> None:
    """Note that a clock was set back to ``from_ns``: the time up to the newest sample is repeated.

    What was attributed for that time remains, and what is used during the repetition is residual in it. So a
    gap that the collector reported does not cover what was read before, and a process seen after its exit
    ended later."""
    newest = newest_ns(devices, d)
    if newest < from_ns:
        return
    is_pending = devices.repeated_from_ns[d] > 0 and devices.repeated_to_ns[d] == newest
    since_ns = min(from_ns, devices.repeated_from_ns[d]) if is_pending else from_ns
    devices.repeated_from_ns[d] = max(since_ns, devices.first_ns[d])
    devices.repeated_to_ns[d] = newest
    changed_ns = newest
    for g in range(devices.gap_length[d] - 1, -1, -1):
        gap_from_ns, gap_to_ns = devices.gap_from_ns[d, g], devices.gap_to_ns[d, g]
        if gap_from_ns < newest <= gap_to_ns:
            changed_ns = min(changed_ns, gap_from_ns)
            remove_gap(devices, d, gap_from_ns, gap_to_ns)
            if gap_to_ns > newest:
                add_gap(devices, d, newest, gap_to_ns)
    h = devices.first_holder[d]
    while h >= 0:
        last = holders.seen_length[h] - 1
        if last >= 0 and from_ns - SECOND_NS <= holders.exit_ns[h] < holders.seen_ns[h, last]:
            changed_ns = min(changed_ns, holders.exit_ns[h])
            holders.exit_ns[h] = newest
        h = holders.next_holder[h]
    if changed_ns < newest:
        mark_energy(marks, hosts, devices, d, changed_ns, newest, window_ns, offset)


@part
def pass_time(
    hosts: Hosts,
    devices: Devices,
    holders: Holders,
    host: int,
    now_ns: int,
    offset: int,
    window_ns: int,
    marks: Marks,
) -> None:
    """Move a host's clock on, and mark the windows that end, become final or lose a silent holder."""
    old_ns = hosts.now_ns[host]
    if now_ns <= old_ns:
        return
    hosts.now_ns[host] = now_ns
    goes_on = hosts.ended_ns[host] == old_ns  # its collector had ended: what was final then no longer is
    d = hosts.first_device[host]
    while d >= 0:
        if devices.length[d] > 0:
            first = devices.first_ns[d] // window_ns
            last = devices.t_ns[d, devices.length[d] - 1] // window_ns
            ended = min(now_ns // window_ns - 1, last)
            mark(marks, d, max(old_ns // window_ns, first), ended, offset)
            if goes_on:
                open_ns = max(old_ns - LATENESS_NS, devices.first_ns[d])
                mark(marks, d, open_ns // window_ns, min(old_ns // window_ns, last), offset)
            final = min((now_ns - LATENESS_NS) // window_ns - 1, last)
            mark(marks, d, max((old_ns - LATENESS_NS) // window_ns, first), final, offset)
            h = devices.first_holder[d]
            while h >= 0:
                n = holders.seen_length[h]
                if n > 0 and not holders.silent[h] and expected_by(holders, h) < now_ns:
                    holders.silent[h] = 1
                    mark(marks, d, holders.seen_ns[h, n - 1] // window_ns, now_ns // window_ns, offset)
                h = holders.next_holder[h]
        d = devices.next_device[d]


@part
def _take_of_host(
    hosts: Hosts,
    devices: Devices,
    holders: Holders,
    host: int,
    kind: int,
    from_ns: int,
    offset: int,
    window_ns: int,
    marks: Marks,
) -> None:
    """Take an event that concerns all devices of a host: its collector starts anew or ends, or its clock was
    set back."""
    now_ns = hosts.now_ns[host]
    if kind == END:
        hosts.ended_ns[host] = now_ns
    d = hosts.first_device[host]
    while d >= 0:
        if kind == REPEAT:
            _come_again(hosts, devices, holders, d, from_ns, window_ns, offset, marks)
        elif kind == EPOCH:
            devices.broken[d] = devices.length[d] > 0
        elif devices.length[d] > 0:
            open_ns = max(now_ns - LATENESS_NS, devices.first_ns[d])
            mark(marks, d, open_ns // window_ns, newest_ns(devices, d) // window_ns, offset)
        d = devices.next_device[d]


@part
def take_event(
    hosts: Hosts,
    devices: Devices,
    holders: Holders,
    host: int,
    events: I64,
    e: int,
    offset: int,
    window_ns: int,
    marks: Marks,
) -> None:
    """Take an event, and mark the windows that it changes."""
    kind, index, from_ns, to_ns = events[e, 0], events[e, 1], events[e, 2], events[e, 3]
    if kind in (EPOCH, REPEAT, END):
        _take_of_host(hosts, devices, holders, host, kind, from_ns, offset, window_ns, marks)
        return
    d = index if kind in (GAP, TOUCH) else holders.device[index]
    if kind in (GIVEN, MIG_INSTANCE):
        t = max(from_ns, devices.repeated_to_ns[d] + 1)  # records of repeated time count from its end on
        if kind == GIVEN:
            take_given(devices, holders, hosts, index, t, to_ns, offset, window_ns, marks)
        else:
            take_instance(devices, holders, hosts, index, t, to_ns, offset, window_ns, marks)
        return
    now_ns, has_samples = hosts.now_ns[host], devices.length[d] > 0
    floor_ns = now_ns - HORIZON_NS  # what lies before it no longer changes
    if has_samples and kind != TOUCH:
        floor_ns = min(floor_ns, newest_ns(devices, d) - HORIZON_NS)
    from_ns = max(from_ns, floor_ns)
    if kind != GAP:
        to_ns = now_ns
    elif to_ns > from_ns:
        add_gap(devices, d, from_ns, to_ns)
        from_ns, to_ns = readings_around(devices, d, from_ns, to_ns)
    if kind == EXIT:
        from_ns = max(take_exit(devices, holders, index, from_ns), floor_ns)
    elif kind == PRIOR:
        from_ns = max(holders.reach_from_ns[index], floor_ns)
    if has_samples and kind == PRIOR:
        mark_readings(marks, hosts, devices, d, from_ns, to_ns, from_ns, window_ns, offset)
    elif has_samples and kind == GAP:
        mark_energy(marks, hosts, devices, d, from_ns, to_ns, window_ns, offset)
    elif has_samples:
        mark(marks, d, max(from_ns, devices.first_ns[d]) // window_ns, to_ns // window_ns, offset)
