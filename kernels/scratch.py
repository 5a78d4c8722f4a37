"""Scratch space to attribute some windows of one device."""

from typing import NamedTuple

import numpy as np

from wattribute.kernels.holding import may_hold
from wattribute.kernels.jit import allocating_part
from wattribute.kernels.series import F64, I64, INSTANCE, Devices, Holders

# Accumulators of a holder within a window; unheld and residual are the last two.
ACTIVE, IDLE, USED, TIME = 0, 1, 4, 5  # idle and time: three policies each
ERROR_UJ, ERROR_NS, HELD, CONTESTED, SM, BETWEEN = 8, 9, 10, 11, 12, 13
ACCUMULATORS = 14
POLICIES = 3  # equal, memory, active

# Rows of ``instances``, for the MIG instances that a piece is split over: which member it is, its compute
# slices, the first of those present after its own; what it gets. Rows of ``activity``: its SM percent, the
# variance of its watts, its weight.
MEMBER, SLICES, END, LENGTH_NS, IDLE_UJ, ACTIVE_UJ = range(6)
PERCENT, UNSURE, WEIGHT = range(3)


class Scratch(NamedTuple):
    """Scratch space to attribute some windows of one device that at most ``m`` processes may hold."""

    members: I64  # (m): rows of those processes
    seen: I64  # (m): the next of their records in the pass over the windows
    used: I64  # (m): the same for their SM records
    watts: F64  # (m): what each draws per percent of SM time
    watts_sd: F64  # (m): standard deviation of those watts
    present: I64  # (m + 1): who holds the device over a piece, as an index of ``sums``
    sm_percent: F64  # (m + 1): of those present, like the next two
    unsure: F64  # variance of their watts per percent
    memory_bytes: F64
    shares: F64  # (4, m + 1): the shares that quantities are split by; MIG instances use the first row
    rests: F64  # (m + 1): the remainder of each part after rounding down
    parts: I64  # (m + 1): the parts that a quantity is split into
    sums: I64  # (m + 2, 14): accumulators of a window: the members', unheld, residual
    held_bytes_ns: F64  # (m + 1)
    given: I64  # (m): whom the device, or an instance, is reserved for, as an index of ``members``
    instances: I64  # (6, MIG instances + 1): of a piece; the last column is what is in no instance
    activity: F64  # (3, MIG instances + 1)
    first_cut: I64  # (windows + 1): cuts of window k are first_cut[k] to first_cut[k + 1], both edges in
    cuts_ns: I64
    energy_uj: I64  # (cuts): cumulative; only differences mean anything
    unknown_ns: I64  # (cuts): cumulative time with unknown energy; filled where there may be any


@allocating_part
def make_room(devices: Devices, holders: Holders, d: int, from_ns: int, to_ns: int, windows: int) -> Scratch:
    """Make room for windows of device d within [from, to), and for the processes that may hold it there."""
    members = np.empty(holders.silent.shape[0], np.int64)
    # Per window: both its edges, those of coverage, those of gaps, and six of a holder besides its records.
    n, cuts, instances = 0, windows * (4 + 2 * devices.gap_length[d]), 0
    h = devices.first_holder[d]
    while h >= 0:
        if may_hold(holders, h, from_ns, to_ns):
            members[n] = h
            n += 1
            instances += holders.account[h] == INSTANCE
            cuts += windows * 8 + 4 * (holders.seen_length[h] + holders.used_length[h])
        h = holders.next_holder[h]
    return Scratch(
        members[:n].copy(),
        np.empty(n, np.int64),
        np.empty(n, np.int64),
        np.empty(n),
        np.empty(n),
        np.empty(n + 1, np.int64),
        np.empty(n + 1),
        np.empty(n + 1),
        np.empty(n + 1),
        np.empty((POLICIES + 1, n + 1)),
        np.empty(n + 1),
        np.empty(n + 1, np.int64),
        np.zeros((n + 2, ACCUMULATORS), np.int64),
        np.empty(n + 1),
        np.empty(n, np.int64),
        np.empty((6, instances + 1), np.int64),
        np.empty((3, instances + 1)),
        np.empty(windows + 1, np.int64),
        np.empty(cuts, np.int64),
        np.empty(cuts, np.int64),
        np.empty(cuts, np.int64),
    )


@allocating_part
def rewind(holders: Holders, work: Scratch, from_ns: int) -> None:
    """Restart the pass over the records of each process, at the first that ends at ``from_ns`` or later."""
    for m in range(work.members.shape[0]):
        h = work.members[m]
        work.seen[m] = np.searchsorted(holders.seen_ns[h, : holders.seen_length[h]], from_ns)
        work.used[m] = np.searchsorted(holders.used_ns[h, : holders.used_length[h]], from_ns)
