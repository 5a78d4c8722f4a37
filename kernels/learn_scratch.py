"""Room to learn of one device after the other, and what stands where in its sums."""

from typing import NamedTuple

import numpy as np

from wattribute.kernels.series import F64, I64, WATTS_HOLDERS

OTHERS = -2
"""In place of a holder: all those that found no room of their own."""
# Places of sums: the idle level, the others, the first process of its own.
AT_IDLE, AT_OTHERS, AT_OWN = range(3)
PLACES = WATTS_HOLDERS + 1
EDGES = 64  # different times at which SM time was read in a block; 30 where a driver tells it each 1/6 s
NOISE_W2 = 10.0  # variance over 1 s of what the sum leaves unexplained: so much the prior is worth

# How much later than it was so an SM reading is dated: what is tried.
SHIFTS_NS = np.array([-100, -50, 0, 50, 100, 200, 300, 400, 500, 600, 800, 1000], np.int64) * 1_000_000
SHIFTS, UNSHIFTED = len(SHIFTS_NS), 2


class LearnScratch(NamedTuple):
    """Room to learn of one device after the other."""

    near: I64  # (holders): where to look in the records of each; it moves on
    own: I64  # (holders): those of whom SM time was read in a block
    at: I64  # (holders): the record of each to go on with
    place: I64  # (holders + PLACES): where each stands in the sums, -1 = nowhere yet
    edges_ns: I64  # (EDGES): when that was read
    read_ns: I64  # (samples): when the counter was read to have changed
    sum_ns: I64  # (samples + 1): of the changes before each in its run, Σ time since the first
    curve_ns: I64  # (samples): cumulative energy, as points of a line
    curve_j: F64
    late_s2: F64  # (1): variance of how late it was read, s²
    stretches: F64  # (1): how many are in the sums, the older the less
    begin_j: F64  # (SHIFTS): the curve where a stretch begins, for each shift
    end_j: F64
    x: F64  # (PLACES): SM percent over a stretch
    pull: F64  # (PLACES): prior over its variance
    who: I64  # (PLACES): whose watts are fitted
    second: F64  # (PLACES, PLACES): sums of two minutes, as are the next two
    first: F64  # (PLACES, SHIFTS)
    squares: F64  # (SHIFTS)
