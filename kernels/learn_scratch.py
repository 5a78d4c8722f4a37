"""Scratch space to learn about one device after the other, and the places in its sums."""

from typing import NamedTuple

import numpy as np

from wattribute.kernels.series import F64, I64, WATTS_HOLDERS

OTHERS = -2
"""Instead of a holder: all those that have no place of their own."""
# Places in the sums: the idle level, all others, the first process with a place of its own.
AT_IDLE, AT_OTHERS, AT_OWN = range(3)
PLACES = WATTS_HOLDERS + 1
EDGES = 64  # distinct times at which SM time was read in a block; 30 where a driver reports every 1/6 s
NOISE_W2 = 10.0  # variance over 1 s that the model leaves unexplained: so much the prior is worth

# The shifts that are tried: how much too late an SM reading is dated.
SHIFTS_NS = np.array([-100, -50, 0, 50, 100, 200, 300, 400, 500, 600, 800, 1000], np.int64) * 1_000_000
SHIFTS, UNSHIFTED = len(SHIFTS_NS), 2


class LearnScratch(NamedTuple):
    """Scratch space to learn about one device after the other."""

    near: I64  # (holders + 1): where to search next in the samples, and in the records of each holder
    own: I64  # (holders): those whose SM time was read in a block
    at: I64  # (holders): the record of each to continue with
    place: I64  # (holders + PLACES): the place of each in the sums, -1 = none yet
    edges_ns: I64  # (EDGES): when SM time was read
    read_ns: I64  # (samples): when each change of the counter was read
    sum_ns: I64  # (samples + 1): over the changes before each in its run, Σ time since the first
    curve_ns: I64  # (samples): time and cumulative energy of each point of the curve
    curve_j: F64
    late_s2: F64  # (1): variance of how late the counter was read, s²
    stretches: F64  # (1): number of stretches in the sums, older ones counting less
    begin_j: F64  # (SHIFTS): energy where a stretch begins, for each shift
    end_j: F64
    x: F64  # (PLACES): SM percent over a stretch
    pull: F64  # (PLACES): prior / its variance
    who: I64  # (PLACES): the holder at each place
    second: F64  # (PLACES, PLACES): sums of two minutes, like the next two
    first: F64  # (PLACES, SHIFTS)
    squares: F64  # (SHIFTS)
