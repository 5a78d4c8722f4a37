"""Learn what each process draws per percent of SM time, and what the device draws idle (docs/attribution.md).

Over each stretch between two readings of SM time, the mean power of a device that several processes share
is modelled as

    power = idle level + Σ watts per percent × SM percent of each process

and solved by ridge regression: a prior says what is likely, the readings of one to two minutes say what was
measured, newer ones with more weight. SM readings may be dated late or early against energy readings, so they
are shifted to where they explain the power best.

    curve    draw the cumulative energy of the device over some seconds (curve.py)
    sum      add what the stretches of a block of 3 s say (stretches.py) to the sums of its minute (sums.py)
    fit      fit watts to the sums of a minute up to a block, and of the minute before (fit.py)

What is learned for a block depends only on the readings of its minute and of the one before. So a restart
finds the same, and a late reading changes what lies up to two minutes after it.
"""

import math

import numpy as np

from wattribute.kernels.fit import fit
from wattribute.kernels.jit import kernel, part
from wattribute.kernels.learn_scratch import AT_IDLE, AT_OWN, EDGES, OTHERS, PLACES, SHIFTS, LearnScratch
from wattribute.kernels.series import (
    BLOCK_NS,
    BLOCKS_AHEAD,
    DEVICES,
    DUE,
    FITS,
    FOREVER,
    HOLDERS,
    HOSTS,
    LATENESS_NS,
    LEARNED,
    MINUTE,
    WATTS,
    WATTS_OF,
    Devices,
    Due,
    Holders,
    Hosts,
    Learned,
    Watts,
    WattsOf,
    types,
)
from wattribute.kernels.stretches import is_alone
from wattribute.kernels.sums import ALONE_EVERY, FORGET_S, add_minute, sum_minute

_WANTED = -1  # instead of a row of Watts: to be learned


@part
def _block_of(window: int, window_ns: int, settled_ns: int) -> int:
    """Return the block whose fit a window uses. For a final window it is the block after the one in which the
    window ends. Before that, readings of this block are still to come, and each would rewrite the window; so
    it is the last block that was complete when the window ended."""
    to_ns = (window + 1) * window_ns
    if to_ns > settled_ns:
        return (to_ns - LATENESS_NS) // BLOCK_NS - 1
    return (to_ns - 1) // BLOCK_NS + BLOCKS_AHEAD


@part
def _write_prior(idle_mw: int, idle_sd_w: float, out: Watts, row: int) -> None:
    """Write the prior, for windows where nothing was learned."""
    out.known[row] = out.shift_ns[row] = 0
    out.idle_mw[row], out.idle_sd_w[row] = idle_mw, idle_sd_w
    out.noise_w[row] = out.late_s[row] = 0.0


@part
def _copy_fit(fits: Watts, at: int, out: Watts, row: int) -> None:
    out.known[row] = fits.known[at]
    out.shift_ns[row] = fits.shift_ns[at]
    out.idle_mw[row] = fits.idle_mw[at]
    out.idle_sd_w[row] = fits.idle_sd_w[at]
    out.noise_w[row] = fits.noise_w[at]
    out.late_s[row] = fits.late_s[at]
    for i in range(fits.known[at]):
        out.holder[row, i] = fits.holder[at, i]
        out.watts[row, i] = fits.watts[at, i]
        out.sd[row, i] = fits.sd[at, i]


@part
def _learn_block(
    devices: Devices,
    holders: Holders,
    d: int,
    block: int,
    idle_mw: int,
    idle_sd_w: float,
    learned: Learned,
    work: LearnScratch,
) -> int:
    """Fit a block unless that has been done; return its row of ``learned.fits``."""
    if block % ALONE_EVERY != 0 and is_alone(devices, holders, d, block, work):
        block -= block % ALONE_EVERY
    slot = block % FITS
    row = d * FITS + slot
    if learned.fitted[d, slot] == block:
        return row
    minute = block // MINUTE
    sum_minute(devices, holders, d, minute - 1, minute * MINUTE - 1, learned, work)
    sum_minute(devices, holders, d, minute, block, learned, work)
    n = AT_OWN
    for i in range(AT_OWN):
        work.who[i] = OTHERS
        for j in range(AT_OWN):
            work.second[i, j] = 0.0
        for s in range(SHIFTS):
            work.first[i, s] = 0.0
    for s in range(SHIFTS):
        work.squares[s] = 0.0
    work.late_s2[0] = work.stretches[0] = 0.0
    # In the sums a minute's first block has the weight 1. Scale them so that this minute's last block has it.
    left = math.exp(-(block % MINUTE) * (BLOCK_NS / 1e9 / FORGET_S))
    n = add_minute(learned, d, minute % 2, left, n, work)
    n = add_minute(
        learned, d, (minute - 1) % 2, left * math.exp(-MINUTE * BLOCK_NS / 1e9 / FORGET_S), n, work
    )
    learned.fitted[d, slot] = block
    learned.fits.known[row] = 0
    if work.second[AT_IDLE, AT_IDLE] > 0.0:
        fit(holders, n, idle_mw, idle_sd_w, work, learned.fits, row)
    return row


@part
def _is_used(devices: Devices, holders: Holders, d: int, from_ns: int, to_ns: int) -> bool:
    """Whether SM time of any process was read in a span."""
    h = devices.first_holder[d]
    while h >= 0:
        count = holders.used_length[h]
        if count > 0 and holders.used_from_ns[h, 0] < to_ns and holders.used_ns[h, count - 1] > from_ns:
            return True
        h = holders.next_holder[h]
    return False


@kernel(
    types.void(
        HOSTS,
        DEVICES,
        HOLDERS,
        DUE,
        types.int64,
        types.boolean,
        LEARNED,
        WATTS,
        WATTS_OF,
    )
)
def learn(
    hosts: Hosts,
    devices: Devices,
    holders: Holders,
    due: Due,
    window_ns: int,
    ended: bool,
    learned: Learned,
    out: Watts,
    of: WattsOf,
) -> None:
    """Learn for every block that a due window uses, into ``out``; write the row of each window into
    ``of.row``.

    ``learned``: what was learned before. ``ended``: nothing more will come."""
    members, samples = holders.silent.shape[0], devices.t_ns.shape[1]
    work = LearnScratch(
        np.zeros(members + 1, np.int64),
        np.empty(members, np.int64),
        np.empty(members, np.int64),
        np.empty(members + PLACES, np.int64),
        np.empty(EDGES, np.int64),
        np.empty(samples, np.int64),
        np.empty(samples + 1, np.int64),
        np.empty(samples, np.int64),
        np.empty(samples),
        np.empty(1),
        np.empty(1),
        np.empty(SHIFTS),
        np.empty(SHIFTS),
        np.empty(PLACES),
        np.empty(PLACES),
        np.empty(PLACES, np.int64),
        np.empty((PLACES, PLACES)),
        np.empty((PLACES, SHIFTS)),
        np.empty(SHIFTS),
    )
    rows = 0
    for d in range(due.bounds.shape[0] - 1):
        first, windows = of.first_window[d], of.begin[d + 1] - of.begin[d]
        if windows == 0:
            continue
        prior = rows
        _write_prior(of.idle_mw[d], of.idle_sd_w[d], out, prior)
        rows += 1
        low = ((first + 1) * window_ns - LATENESS_NS) // BLOCK_NS - 1
        high = ((first + windows) * window_ns - 1) // BLOCK_NS + BLOCKS_AHEAD
        from_ns = (low // MINUTE - 1) * MINUTE * BLOCK_NS
        if not _is_used(devices, holders, d, from_ns, (high + 1) * BLOCK_NS):
            of.row[of.begin[d] : of.begin[d + 1]] = prior
            continue
        work.near[0] = 0
        over = ended or hosts.ended_ns[devices.host[d]] == hosts.now_ns[devices.host[d]]
        settled_ns = FOREVER if over else hosts.now_ns[devices.host[d]] - LATENESS_NS
        row_of_block = np.full(high - low + 1, prior)
        for i in range(due.bounds[d], due.bounds[d + 1]):
            for window in range(max(due.first[i], first), min(due.last[i] + 1, first + windows)):
                row_of_block[_block_of(window, window_ns, settled_ns) - low] = _WANTED
        for block in range(low, high + 1):
            if row_of_block[block - low] == _WANTED:
                fitted = _learn_block(
                    devices, holders, d, block, of.idle_mw[d], of.idle_sd_w[d], learned, work
                )
                row_of_block[block - low] = prior
                if learned.fits.known[fitted] > 0:
                    _copy_fit(learned.fits, fitted, out, rows)
                    row_of_block[block - low] = rows
                    rows += 1
        for k in range(windows):
            of.row[of.begin[d] + k] = row_of_block[_block_of(first + k, window_ns, settled_ns) - low]
