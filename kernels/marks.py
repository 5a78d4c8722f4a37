"""The windows to write again: how they are marked, which are due now, and which may wait."""

from wattribute.kernels.jit import kernel, part
from wattribute.kernels.series import (
    BLOCK_NS,
    BLOCKS_AHEAD,
    DATED_NS,
    DUE,
    ENERGY_AHEAD_NS,
    HORIZON_NS,
    I64,
    LATENESS_NS,
    LEARNED_NS,
    MARKS,
    Devices,
    Due,
    Hosts,
    Marks,
    types,
)

_DATED_BEFORE_NS = ENERGY_AHEAD_NS + DATED_NS  # an energy reading affects stretches this far before it

_i64 = types.Array(types.int64, 1, "C")


@part
def mark(marks: Marks, device: int, first: int, last: int, offset: int) -> None:
    """Mark windows first..last; extend the device's latest mark where both touch and share the offset."""
    if last < first:
        return
    i = marks.latest[device]
    if i >= 0 and marks.offset[i] == offset and first <= marks.last[i] + 1 and last >= marks.first[i] - 1:
        marks.first[i] = min(first, marks.first[i])
        marks.last[i] = max(last, marks.last[i])
        return
    i = marks.made[0]
    marks.device[i] = device
    marks.first[i] = first
    marks.last[i] = last
    marks.offset[i] = offset
    marks.latest[device] = i
    marks.made[0] = i + 1


@part
def mark_readings(
    marks: Marks,
    hosts: Hosts,
    devices: Devices,
    d: int,
    from_ns: int,
    to_ns: int,
    learned_ns: int,
    window_ns: int,
    offset: int,
) -> None:
    """Mark the windows whose readings changed. ``learned_ns``: from when on the readings changed that are
    learned from. Where that lies so far back that windows using the same block are final, mark those too, and
    all windows that use what is learned from it."""
    block = learned_ns // BLOCK_NS
    marks.changed[d] = min(marks.changed[d], block)
    host = devices.host[d]
    now_ns = hosts.now_ns[host]
    to_ns = max(to_ns, now_ns)
    is_over = hosts.ended_ns[host] == now_ns  # its collector has ended: all windows were final
    since_ns = (block - BLOCKS_AHEAD) * BLOCK_NS
    if since_ns < (now_ns if is_over else now_ns - LATENESS_NS):
        from_ns = min(from_ns, max(since_ns, to_ns - HORIZON_NS))
        to_ns += LEARNED_NS
    mark(marks, d, max(from_ns, devices.first_ns[d]) // window_ns, to_ns // window_ns, offset)


@part
def mark_energy(
    marks: Marks,
    hosts: Hosts,
    devices: Devices,
    d: int,
    from_ns: int,
    to_ns: int,
    window_ns: int,
    offset: int,
) -> None:
    """Mark the windows whose energy changed, and those before them that these readings affect."""
    learned_ns = from_ns - _DATED_BEFORE_NS
    mark_readings(marks, hosts, devices, d, from_ns, to_ns, learned_ns, window_ns, offset)


@kernel(types.int64(MARKS, _i64, _i64, MARKS, DUE))
def take_due(marks: Marks, least: I64, most: I64, waiting: Marks, due: Due) -> int:
    """Divide the marks: each device's windows from ``least`` to ``most`` (devices) go into ``due``, the
    others into ``waiting``. Return how many are due.

    ``most`` is at least ``least`` - 1. Both outputs have room for all marks; a mark that reaches beyond both
    limits makes two in ``waiting``. The bounds of ``due`` are zero."""
    bounds = due.bounds
    left = waiting.made[0]
    for i in range(marks.made[0]):
        d, first, last = marks.device[i], marks.first[i], marks.last[i]
        bounds[d + 1] += max(first, least[d]) <= min(last, most[d])
        for from_, to in ((first, min(last, least[d] - 1)), (max(first, most[d] + 1), last)):
            if from_ <= to:
                waiting.device[left] = d
                waiting.first[left] = from_
                waiting.last[left] = to
                waiting.offset[left] = marks.offset[i]
                left += 1
    waiting.made[0] = left
    for d in range(bounds.shape[0] - 1):
        bounds[d + 1] += bounds[d]
    place = bounds[:-1].copy()
    for i in range(marks.made[0]):
        d = marks.device[i]
        first, last = max(marks.first[i], least[d]), min(marks.last[i], most[d])
        if first <= last:
            due.first[place[d]] = first
            due.last[place[d]] = last
            due.offset[place[d]] = marks.offset[i]
            place[d] += 1
    return int(bounds[bounds.shape[0] - 1])
