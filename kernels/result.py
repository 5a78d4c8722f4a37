"""The rows that attribution returns: their columns, sources and flags, and how they are written."""

from wattribute.kernels.holding import may_hold
from wattribute.kernels.jit import part
from wattribute.kernels.scratch import (
    ACTIVE,
    BETWEEN,
    CONTESTED,
    ERROR_NS,
    ERROR_UJ,
    HELD,
    IDLE,
    POLICIES,
    SM,
    TIME,
    USED,
    Scratch,
)
from wattribute.kernels.series import I64, Holders

# Rows of the result ``out``; each is a column of the table.
ROW_DEVICE, ROW_HOLDER, ROW_WINDOW, ROW_OFFSET = range(4)
DEVICE_ENERGY, COVERED, ACTIVE_ENERGY, IDLE_EQUAL, IDLE_MEMORY, IDLE_ACTIVE = range(4, 10)
ACTIVE_TIME, TIME_EQUAL, TIME_MEMORY, TIME_ACTIVE, MEMORY, ERROR_ENERGY, ERROR_TIME = range(10, 17)
ENERGY_SOURCE, WEIGHT_SOURCE, FLAGS, SEGMENT, DELETED, NOTHING_DUE = range(17, 23)
ROW_COLUMNS = 23

UNHELD, RESIDUAL = -1, -2  # in ROW_HOLDER
# NOTHING_DUE, on the last row of a window, names the accounts whose row is to be deleted. In most windows
# that is both; written as rows, they were two rows of three, and took a third of a stream's time.
NO_UNHELD, NO_RESIDUAL = 1, 2

# energy_source and weight_source, in the order of the table's enums
FROM_COUNTER, FROM_INSTANT, FROM_AVERAGE, FROM_MODULE, FROM_NONE = range(1, 6)
BY_EXCLUSIVE, BY_ACCOUNTING, BY_UTILIZATION, BY_GPM, BY_MEMORY, BY_EQUAL, BY_NONE = range(1, 8)

# flags
PROVISIONAL, GAP, RESET, NO_ENERGY, SCALED, NO_SM, PARTIAL, DISPUTED = 1, 2, 4, 8, 16, 32, 64, 128
REPEATED = 256

# Half-widths of the 95 % band. Counter: truncated to whole mJ, at both edges. Power readings: twice the rms
# error of the energy over 1 s (28 % instant, from the A100 logs of "Part-time Power
# Measurements", arXiv 2312.02741; 3.2 % average, simulated).
_COUNTER_ERROR_UJ = 1000
_INSTANT_ERROR, _AVERAGE_ERROR = 0.56, 0.064


@part
def _is_due(sums: I64, m: int) -> bool:
    """Whether the accumulators ``sums[m]`` contain anything, under any policy."""
    due = sums[m, ACTIVE] > 0
    for policy in range(POLICIES):
        due = due or sums[m, IDLE + policy] > 0 or sums[m, TIME + policy] > 0
    return bool(due)


@part
def _write_row(
    out: I64, row: int, holder: int, sums: I64, m: int, memory_bytes: int, source: int, dispute: float
) -> None:
    """Write one row of the result from the accumulators ``sums[m]``, as deleted where they are empty."""
    due = _is_due(sums, m)
    out[ROW_HOLDER, row] = holder
    out[ACTIVE_ENERGY, row] = sums[m, ACTIVE]
    out[ACTIVE_TIME, row] = sums[m, USED]
    for policy in range(POLICIES):
        out[IDLE_EQUAL + policy, row] = sums[m, IDLE + policy]
        out[TIME_EQUAL + policy, row] = sums[m, TIME + policy]
    out[MEMORY, row] = memory_bytes
    energy_uj = sums[m, ACTIVE] + sums[m, IDLE]
    error_uj = sums[m, ERROR_UJ]
    if source == FROM_COUNTER:
        error_uj += _COUNTER_ERROR_UJ + int(dispute * energy_uj)
    elif source == FROM_INSTANT:
        error_uj += int(_INSTANT_ERROR * energy_uj)
    elif source == FROM_AVERAGE:
        error_uj += int(_AVERAGE_ERROR * energy_uj)
    out[ERROR_ENERGY, row] = min(error_uj, energy_uj) if due else 0
    out[ERROR_TIME, row] = sums[m, ERROR_NS]
    out[WEIGHT_SOURCE, row] = BY_NONE
    if holder >= 0 and due and sums[m, HELD] > 0:  # else no process held it: it was only reserved
        out[WEIGHT_SOURCE, row] = BY_EXCLUSIVE
        if sums[m, CONTESTED] > 0:
            out[WEIGHT_SOURCE, row] = BY_UTILIZATION if sums[m, SM] > 0 else BY_EQUAL
        elif sums[m, BETWEEN] > 0:
            out[WEIGHT_SOURCE, row] = sums[m, BETWEEN]
    out[DELETED, row] = 0 if due else 1


@part
def write_rows(
    holders: Holders, work: Scratch, from_ns: int, to_ns: int, source: int, dispute: float, out: I64, row: int
) -> tuple[int, int]:
    """Write the rows of a window: of all that may hold the device, and of unheld and residual where anything
    is due. Return (the row after the last, which of those two have no row)."""
    n, nothing_due = work.members.shape[0], 0
    for m in range(n):
        if may_hold(holders, work.members[m], from_ns, to_ns):
            memory_bytes = int(work.held_bytes_ns[m] / max(work.sums[m, HELD], 1))
            _write_row(out, row, work.members[m], work.sums, m, memory_bytes, source, dispute)
            row += 1
    if not _is_due(work.sums, n):
        nothing_due |= NO_UNHELD
    else:
        _write_row(out, row, UNHELD, work.sums, n, 0, source, dispute)
        row += 1
    if not _is_due(work.sums, n + 1):
        nothing_due |= NO_RESIDUAL
    else:
        _write_row(out, row, RESIDUAL, work.sums, n + 1, 0, source, dispute)
        row += 1
    return row, nothing_due
