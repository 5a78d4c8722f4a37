"""The arrays that contain a partition's recent past, and their numba types.

There is a struct of arrays each for hosts, devices, holders (a process on a device) and marks. The caller
assigns the rows; the second axis of a matrix is a time series in ascending time, whose first ``length``
entries are valid. -1 is absent. This is 2 to 4 times as fast as record arrays (reference: numbagg and our own
measurement, `benchmarks/`).
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types as numba_types
from numpy.typing import NDArray

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]
F32 = NDArray[np.float32]

SECOND_NS = 1_000_000_000
FOREVER = 1 << 62
"""A time that never comes."""
LATENESS_NS = 10_000_000_000
"""A window is final this long after its end."""
HORIZON_NS = 3_600_000_000_000
"""What arrives later than this changes nothing any more; it is counted and listed as a gap."""
AVERAGE_SHIFT_NS = 500_000_000
"""The 1 s average covers the second before it: its middle is 0.5 s ago."""
POWER_HOLDS_NS = 600 * SECOND_NS
"""A power reading says nothing about times further away than this."""
HAS_COUNTER, HAS_INSTANT, HAS_AVERAGE = 1, 2, 4

# What is learned for a block of a device (kernels/learn.py) comes from that block, from those before it in
# its minute, and from the minute before. Where processes have just begun to share a device, what follows
# tells most: with the block after the one in which a window ends the worst process is 2.9 % off, without it
# 4.2 (wattribute verify, additive). When a window is final, two blocks are over, and so are the 3.6 s of
# readings after them that matter.
BLOCK_NS = 3_000_000_000
MINUTE = 20
"""Blocks in a minute."""
BLOCKS_AHEAD = 1
"""A final window uses what is learned for the block that is so many after the one in which it ends."""
LEARNED_NS = 2 * MINUTE * BLOCK_NS
SHIFT_MIN_NS, SHIFT_MAX_NS = -100_000_000, 1_000_000_000
"""How much too late an SM reading may be dated and still be corrected: least and most."""
ENERGY_AHEAD_NS = AVERAGE_SHIFT_NS - SHIFT_MIN_NS
"""How far beyond an SM reading energy readings must reach to be compared with it."""
DATED_NS = 3_000_000_000
"""How far from a change of the counter the other changes may lie that help to date it."""
WATTS_HOLDERS = 16
"""Figures of watts that are learned at once; holders without one of their own share the first."""
FITS = 8
"""Blocks whose fit is kept: the windows of one call use so many, unless some are late."""
PROCESS, RESERVED, INSTANCE = range(3)
"""What a holder is: a process, a reservation, or a MIG instance. The order is that of the accounts: what
nobody holds of an instance is unheld."""
INSTANCE_NS = 60_000_000_000
"""How often a MIG instance is reported again; like any holder, it lapses after three times as long."""
IDLE_LOW, IDLE_HIGH, IDLE_QUIET = 0.2, 1.6, 2.5
"""A learned idle level is kept between the first two times its prior: beyond these the fit is bad. Of what a
device draws while nothing runs on it, up to the third times the prior is idle."""
WATTS_PRIOR, WATTS_PRIOR_SD = 4.0, 3.0
"""Watts per percent of SM time before anything is known, ± the second: kernels draw from 1.5 to 6.2 on an
H100."""


class Hosts(NamedTuple):
    """A host's clock comes from its own records: ``now_ns`` is the latest device sample that it sent."""

    now_ns: I64
    ahead_ns: I64  # a time far ahead of ``now_ns`` that one reading claimed: believed if a second one does
    ahead_device: I32  # the device of that reading
    ended_ns: I64  # ``now_ns`` when its collector ended properly, until that moves on
    first_device: I32


class Devices(NamedTuple):
    """A device of one boot of one host, its samples, gaps and counter resets."""

    host: I32
    next_device: I32  # of the same host; -1 ends the list
    first_holder: I32
    first_ns: I64  # first sample of the boot, 0 = none yet
    knot_ns: I64  # when the counter last changed
    counter_mj: I64  # its reading then; -1 = none yet
    leap_ns: I64  # when the counter last claimed more than a device can use
    leap_mj: I64  # and what; -1 = never: believed if a second reading is near it
    broken: U8  # 1: the time up to the next sample is a gap (a collector started anew)
    repeated_from_ns: I64  # time to which its clock was set back; 0 = never, or energy since is accounted for
    repeated_to_ns: I64  # and from which: what is read up to here is from a time that came twice
    sources: U8  # bits: HAS_COUNTER, HAS_INSTANT, HAS_AVERAGE
    slices: I32  # compute slices into which MIG cuts it
    length: I64
    t_ns: I64  # (devices, samples), like the four below
    energy_mj: I64
    power_mw: I32
    average_mw: I32
    quiet: U8  # 1: the device says that nothing ran
    gap_length: I64
    gap_from_ns: I64  # (devices, gaps)
    gap_to_ns: I64
    resets: I64  # of the counter, ever
    showed_length: I64
    showed_offset: I64  # (devices, resets): offsets of the messages that showed the last of them, maybe all
    reset_length: I64
    reset_from_ns: I64  # (devices, resets): last change of the counter before, first sample after
    reset_to_ns: I64
    reset_repeated_ns: I64  # 0; or, if the clock was set back, the start of the time that came twice


class Holders(NamedTuple):
    """A process on a device: when it was seen (``seen_*``) and what SM time it used (``used_*``). Or a MIG
    instance: slices take the place of memory, and SM time is that of anybody in it. Or a reservation."""

    device: I32
    gpu_instance: I32  # -1 = none
    next_holder: I32  # of the same device, in the order of (gpu_instance, pid, start_ns); -1 ends the list
    exit_ns: I64  # FOREVER while not known
    silent: U8  # 1: no record for 3 periods, so the last one ends the hold
    account: U8  # PROCESS, RESERVED (it holds where no process does) or INSTANCE
    watts: F64  # prior: watts per percent of SM time, and their standard deviation
    watts_sd: F64
    reach_from_ns: I64  # the earliest and the latest time that any record of it ever covered, three
    reach_to_ns: I64  # periods after it included: whatever is known later, it may have a row there
    seen_length: I64
    seen_ns: I64  # (holders, records)
    seen_period_ns: I64
    seen_memory_bytes: I64
    used_length: I64
    used_ns: I64  # SM use of (used_from_ns, used_ns]
    used_from_ns: I64
    used_percent: F32


class Watts(NamedTuple):
    """What was learned, a row for each block of a device."""

    known: I64  # number of figures learned; 0 = none: the prior counts
    shift_ns: I64  # how much too late SM time is dated
    idle_mw: I64
    idle_sd_w: F64
    noise_w: F64  # standard deviation of what the model leaves unexplained, over 1 s
    late_s: F64  # and of how long after a change of the counter it was read
    holder: I64  # (rows, 16), like the next two; the first stands for all others
    watts: F64  # per percent of SM time
    sd: F64


class WattsOf(NamedTuple):
    """Which row of Watts each marked window uses: for device d, from ``first_window`` on,
    row[begin[d]:begin[d + 1]]."""

    first_window: I64  # (devices)
    begin: I64  # (devices + 1)
    row: I64
    idle_mw: I64  # (devices): the prior of the idle level
    idle_sd_w: F64  # (devices): its standard deviation; 0: configured, and not learned


class Learned(NamedTuple):
    """For each device the sums of the latest two minutes, at the minute's number modulo 2, and the fits of
    the latest blocks, at the block's number modulo FITS (kernels/learn.py). Places in the sums: the idle
    level, all others, and 15 holders in the order in which they came."""

    minute: I64  # (devices, 2): whose sums they are; -FOREVER = none
    block: I64  # (devices, 2): the last block that is in them
    names: I64  # (devices, 2): places taken
    holder: I64  # (devices, 2, 17): at each place
    second: F64  # (devices, 2, 17, 17): Σ SM percent × SM percent, below the diagonal
    first: F64  # (devices, 2, 17, shifts): Σ SM percent × power, for each shift
    squares: F64  # (devices, 2, shifts): Σ power²
    late_s2: F64  # (devices, 2): Σ variance of how long after a change of the counter it was read
    stretches: F64  # (devices, 2): number of stretches, newer ones counting more
    fitted: I64  # (devices, FITS): the block that a row of ``fits`` is of; -FOREVER = none
    fits: Watts  # (devices × FITS)


class Marks(NamedTuple):
    """Windows to compute again: of ``device``, from ``first`` to ``last`` inclusive, because of the message
    at ``offset``."""

    made: I64  # (1): how many there are
    latest: I64  # of each device the index of its latest mark, -1 = none
    changed: I64  # of each device the first block whose readings have changed (kernels/learn.py)
    device: I32
    first: I64
    last: I64
    offset: I64


class Due(NamedTuple):
    """Marks to act on, by device: those of device d are bounds[d]:bounds[d + 1]."""

    bounds: I64  # (devices + 1)
    first: I64
    last: I64
    offset: I64


class Drops(NamedTuple):
    """Readings that could not be used: how many by reason, and the first of them."""

    total: I64  # by reason
    of_processes: I64  # (1): how many of them were of processes
    listed: I64  # (1): how many are in ``where``
    where: I64  # (n, 3): index of the message, reason, time it claims


class Batch(NamedTuple):
    """Messages to take in. ``words``, ``halves``, ``floats``: one buffer of all their columns, as 8-byte
    integers, 4-byte integers and floats."""

    words: I64
    halves: I32
    floats: F32
    messages: I64  # (m, 7)
    events: I64  # (e, 4): kind, index, from ns, to ns
    layouts: I64  # (l, 17)
    device_ids: I32  # rows in Devices of the gpus of all layouts
    holder_ids: I32  # rows in Holders of their processes


types: Any = numba_types  # its functions are not typed


def _array(dtype: Any, ndim: int, readonly: bool = False) -> Any:
    return types.Array(dtype, ndim, "C", readonly=readonly)


_i64, _i64_2 = _array(types.int64, 1), _array(types.int64, 2)
_i32, _i32_2 = _array(types.int32, 1), _array(types.int32, 2)
_f64, _f32_2 = _array(types.float64, 1), _array(types.float32, 2)
_u8, _u8_2 = _array(types.uint8, 1), _array(types.uint8, 2)

HOSTS = types.NamedTuple((_i64, _i64, _i32, _i64, _i32), Hosts)
DEVICES = types.NamedTuple(
    (
        *(_i32, _i32, _i32, _i64, _i64, _i64, _i64, _i64, _u8, _i64, _i64, _u8, _i32, _i64),
        *(_i64_2, _i64_2, _i32_2, _i32_2, _u8_2),
        *(_i64, _i64_2, _i64_2, _i64, _i64, _i64_2, _i64, _i64_2, _i64_2, _i64_2),
    ),
    Devices,
)
HOLDERS = types.NamedTuple(
    (
        _i32,
        _i32,
        _i32,
        _i64,
        _u8,
        _u8,
        _f64,
        _f64,
        _i64,
        _i64,
        _i64,
        _i64_2,
        _i64_2,
        _i64_2,
        _i64,
        _i64_2,
        _i64_2,
        _f32_2,
    ),
    Holders,
)
_f64_2, _f64_3 = _array(types.float64, 2), _array(types.float64, 3)
WATTS = types.NamedTuple((_i64, _i64, _i64, _f64, _f64, _f64, _i64_2, _f64_2, _f64_2), Watts)
WATTS_OF = types.NamedTuple((_i64, _i64, _i64, _i64, _f64), WattsOf)
LEARNED = types.NamedTuple(
    (
        *(_i64_2, _i64_2, _i64_2, _array(types.int64, 3)),
        *(_array(types.float64, 4), _array(types.float64, 4), _f64_3, _f64_2, _f64_2, _i64_2, WATTS),
    ),
    Learned,
)
MARKS = types.NamedTuple((_i64, _i64, _i64, _i32, _i64, _i64, _i64), Marks)
DUE = types.NamedUniTuple(_i64, 4, Due)
DROPS = types.NamedTuple((_i64, _i64, _i64, _i64_2), Drops)
BATCH = types.NamedTuple(
    (
        _array(types.int64, 1, readonly=True),
        _array(types.int32, 1, readonly=True),
        _array(types.float32, 1, readonly=True),
        *(_i64_2, _i64_2, _i64_2, _i32, _i32),
    ),
    Batch,
)
