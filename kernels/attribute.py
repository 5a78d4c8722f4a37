"""Attribution (docs/attribution.md): give the energy and time of each window to whoever caused them.

For each device, over the windows that are due:

    plan     find the windows, and the offset of the newest message that affects each
    cut      find the instants at which anything changes: window edges, holders, SM records, gaps (cut.py)
    measure  compute the device's cumulative energy at each cut, in integer µJ, so that windows telescope
             (measure.py; from power readings power.py)
    split    split each piece between two cuts over its holders (present.py), by largest remainder
             (apportion.py), so that the parts add up. What is above the idle level is split by watts × SM
             time, with the learned watts (learn.py). Where MIG cuts the device, the piece is split over its
             instances first (mig.py), and then within each (split.py)
    write    write the rows (result.py)

Energy and time are integers; floats are only weights. No fastmath: reassociation would break conservation.
"""

import numpy as np

from wattribute.kernels.cut import cut
from wattribute.kernels.holding import may_hold
from wattribute.kernels.jit import allocating_part, kernel, part
from wattribute.kernels.measure import HELD_AGAINST_NS, find_dispute, measure, resets
from wattribute.kernels.result import (
    COVERED,
    DEVICE_ENERGY,
    DISPUTED,
    ENERGY_SOURCE,
    FLAGS,
    FROM_COUNTER,
    FROM_INSTANT,
    FROM_NONE,
    NOTHING_DUE,
    PROVISIONAL,
    ROW_DEVICE,
    ROW_OFFSET,
    ROW_WINDOW,
    SEGMENT,
    write_rows,
)
from wattribute.kernels.scratch import Scratch, make_room, rewind
from wattribute.kernels.series import (
    BLOCK_NS,
    DEVICES,
    DUE,
    FOREVER,
    HOLDERS,
    HOSTS,
    I64,
    IDLE_QUIET,
    LATENESS_NS,
    WATTS,
    WATTS_OF,
    WATTS_PRIOR_SD,
    Devices,
    Due,
    Holders,
    Hosts,
    Watts,
    WattsOf,
    types,
)
from wattribute.kernels.split import split_window

_i64 = types.Array(types.int64, 1, "C")
_i64_2 = types.Array(types.int64, 2, "C")


@part
def _plan(due: Due, d: int, low: int, windows: I64, offsets: I64) -> int:
    """Find the windows from ``low`` on that the marks of device d name, ascending, with the newest offset of
    each. Return how many."""
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
def _know_watts(holders: Holders, watts: Watts, row: int, work: Scratch) -> None:
    """Write what each process draws per percent, by row ``row`` of what was learned, into ``work``."""
    for m in range(work.members.shape[0]):
        h = work.members[m]
        work.watts[m], work.watts_sd[m] = holders.watts[h], holders.watts_sd[h]
        # A process without a figure of its own has that of all others, unless its prior is more certain.
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
    """Write the rows of device d for ``windows`` into out[:, row:]; return the row after the last."""
    now_ns = hosts.now_ns[devices.host[d]]
    low_ns = windows[0] * window_ns
    high_ns = (windows[windows.shape[0] - 1] + 1) * window_ns
    work = make_room(devices, holders, d, low_ns, high_ns, windows.shape[0])
    rewind(holders, work, low_ns)
    settled_ns = FOREVER if ended else now_ns - LATENESS_NS
    n_cuts = cut(devices, holders, watts, of, d, now_ns, windows, window_ns, work)
    read_from, known_from_ns, known_to_ns, beside, lacks_energy = measure(devices, d, n_cuts, work)
    rewind(holders, work, low_ns)
    gap, known = 0, -1
    quiet_mw = int(IDLE_QUIET * of.idle_mw[d]) if of.idle_sd_w[d] > 0.0 else of.idle_mw[d]
    held_from_ns, held_ns, found = -1, max(window_ns, HELD_AGAINST_NS), 0.0
    for k in range(windows.shape[0]):
        from_ns = windows[k] * window_ns
        to_ns = from_ns + window_ns
        learned = of.row[of.begin[d] + windows[k] - of.first_window[d]]
        if learned != known:
            _know_watts(holders, watts, learned, work)
            known = learned
        told_ns = to_ns  # a window that may change ignores records that begin after it
        if to_ns <= settled_ns:
            told_ns = (to_ns // BLOCK_NS + 1) * BLOCK_NS
        covered_ns, energy_uj, flags, gap = split_window(
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
        segment, reset = resets(devices, d, from_ns, to_ns)
        # The energy of a reset comes from power, whatever the counter says before and after it.
        band = FROM_INSTANT if source == FROM_COUNTER and reset else source
        dispute = 0.0
        if band == FROM_COUNTER and beside != FROM_NONE and not flags & PROVISIONAL:
            if from_ns - from_ns % held_ns != held_from_ns:
                held_from_ns = from_ns - from_ns % held_ns
                found = find_dispute(devices, d, held_from_ns, held_from_ns + held_ns)
            dispute = found
            flags |= DISPUTED if dispute > 0.0 else 0
        begin = row
        row, nothing_due = write_rows(holders, work, from_ns, to_ns, band, dispute, out, row)
        # There is at least one row, because the covered time goes to some account.
        for r in range(begin, row):  # assigning to slices would cost as much as the whole loop
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
    """Return the first and the last window that the marks of device d make due."""
    last_ns = devices.t_ns[d, devices.length[d] - 1]
    high = last_ns // window_ns
    if not ended:
        host = devices.host[d]  # the window in which its collector ended has been written
        high = min(high, max(hosts.now_ns[host] // window_ns - 1, hosts.ended_ns[host] // window_ns))
    low = devices.first_ns[d] // window_ns
    if devices.t_ns[d, 0] > devices.first_ns[d]:  # earlier samples have been dropped
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
    """Attribute the due windows of device ``first``, from ``first_window`` on, and of the devices after it.
    Return (rows written, the device and the window to continue with).

    What does not fit into ``out`` (23, rows) is left for another call. ``watts``, ``of``: what was learned,
    and which row of it each due window uses. ``processes_known``: false where the input does not say who held
    the devices; then what nobody holds is residual. ``ended``: nothing more will come, so incomplete windows
    are due too, as for a host whose collector has ended."""
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
        rows = 2  # per window, at most
        h = devices.first_holder[d]
        while h >= 0:
            rows += may_hold(holders, h, windows[0] * window_ns, (windows[n - 1] + 1) * window_ns)
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
