"""Split a window, piece by piece, over whoever held the device."""

import math

from wattribute.kernels.apportion import apportion
from wattribute.kernels.jit import part
from wattribute.kernels.measure import repeated_energy_uj
from wattribute.kernels.mig import portion
from wattribute.kernels.present import find_present, is_quiet
from wattribute.kernels.result import BY_GPM, BY_UTILIZATION, GAP, NO_ENERGY, NO_SM, PARTIAL, REPEATED, SCALED
from wattribute.kernels.scratch import (
    ACCUMULATORS,
    ACTIVE,
    ACTIVE_UJ,
    BETWEEN,
    CONTESTED,
    END,
    ERROR_NS,
    ERROR_UJ,
    IDLE,
    IDLE_UJ,
    LENGTH_NS,
    MEMBER,
    PERCENT,
    POLICIES,
    SM,
    TIME,
    UNSURE,
    USED,
    WEIGHT,
    Scratch,
)
from wattribute.kernels.series import I64, Devices, Holders, Watts

# Rows of Scratch.shares: those of the policies, and of active energy.
_EQUAL, _BY_MEMORY, _BY_SM, _BY_WATTS = range(4)

_SDS_OF_95 = 2.0  # standard deviations to each side hold 95 % of a normal distribution


@part
def _error_uj(
    watts: Watts, row: int, share: float, own: float, spread: float, drawn: float, active_uj: int,
    energy_uj: int, length_ns: int, edges: int,
) -> int:  # fmt: skip
    """Half-width of the 95 % band of a holder's share of a piece. ``own``, ``spread``: variance of the watts
    that this holder and that all draw; ``drawn``: Σ watts; ``edges``: how many edges of the window the piece
    touches.

    It consists of the uncertainty of all w x in the share w x / Σ w x, scaled to what was learned or to what
    is drawn, whichever is more (a process that did not work in this part of its record gets some of the
    little that is drawn); of this share of the idle level's uncertainty; of what the model leaves
    unexplained, which is this holder's or another's; and of energy at each edge that belongs to the next
    window, because the counter is read late."""
    variance = max(0.0, own - 2.0 * share * own + share**2 * spread)
    variance *= max(active_uj / drawn, length_ns / 1e3) ** 2
    variance += (watts.idle_sd_w[row] * share * length_ns / 1e3) ** 2
    variance += (watts.noise_w[row] * length_ns / 1e3) ** 2 * share * (1.0 - share)
    late_ns = min(watts.late_s[row] * 1e9, length_ns)
    variance += 0.5 * (edges * share * energy_uj * late_ns / max(length_ns, 1)) ** 2
    return int(min(_SDS_OF_95 * math.sqrt(variance), 1e15))


@part
def _share_out(work: Scratch, begin: int, n: int, by: int, total: int, what: int) -> None:
    """Split a total by row ``by`` of the shares over the n present from ``begin`` on, into column ``what`` of
    ``work.sums``."""
    if total == 0:
        return
    apportion(total, work.shares, by, n, work.parts, work.rests)
    for k in range(n):
        work.sums[work.present[begin + k], what] += work.parts[k]


@part
def _split_shared(
    watts: Watts, row: int, work: Scratch, begin: int, end: int, active_uj: int, idle_uj: int, length_ns: int,
    edges: int,
) -> int:  # fmt: skip
    """Split a piece over several of those present, from ``begin`` to ``end``, into ``work.sums``: idle energy
    by policy, active by watts × SM time. Return the flags raised."""
    flags, n = 0, end - begin
    sums, parts, shares, present = work.sums, work.parts, work.shares, work.present
    used_ns = 0
    sm_sum = memory_sum = drawn = spread = 0.0  # the last two: Σ watts, and the variance of that
    for k in range(n):
        percent = work.sm_percent[begin + k]
        sm_sum += percent
        memory_sum += work.memory_bytes[begin + k]
        shares[_BY_WATTS, k] = percent * work.watts[present[begin + k]]
        drawn += shares[_BY_WATTS, k]
        spread += percent**2 * work.unsure[begin + k]
        parts[k] = int(percent * length_ns / 100.0)
        used_ns += parts[k]
    for k in range(n):
        shares[_EQUAL, k] = shares[_BY_MEMORY, k] = shares[_BY_SM, k] = 1.0 / n
        if memory_sum > 0.0:
            shares[_BY_MEMORY, k] = work.memory_bytes[begin + k] / memory_sum
        if sm_sum > 0.0:
            shares[_BY_SM, k] = work.sm_percent[begin + k] / sm_sum
            shares[_BY_WATTS, k] /= drawn
    if used_ns > length_ns:
        flags |= SCALED
        apportion(length_ns, shares, _BY_SM, n, parts, work.rests)
        used_ns = length_ns
    for k in range(n):
        m = present[begin + k]
        sums[m, USED] += parts[k]
        for policy in range(POLICIES):
            sums[m, TIME + policy] += parts[k]
        sums[m, CONTESTED] += length_ns
        sums[m, ERROR_NS] += length_ns // 100  # SM time comes in whole percent
        if work.sm_percent[begin + k] > 0.0:
            sums[m, SM] = 1
    for policy in range(POLICIES):
        _share_out(work, begin, n, policy, idle_uj, IDLE + policy)
        _share_out(work, begin, n, policy, length_ns - used_ns, TIME + policy)
    if sm_sum <= 0.0:
        if active_uj == 0:
            return flags
        # What is left is as uncertain as the idle level: 40 W on a new GPU, where rows said ± 1 mJ before.
        unsure_uj = int(_SDS_OF_95 * watts.idle_sd_w[row] * length_ns / 1e3)
        sums[sums.shape[0] - 1, ACTIVE] += active_uj
        sums[sums.shape[0] - 1, ERROR_UJ] += unsure_uj
        for k in range(n):
            sums[present[begin + k], ERROR_UJ] += unsure_uj // n
        return flags | NO_SM
    _share_out(work, begin, n, _BY_WATTS, active_uj, ACTIVE)
    for k in range(n):
        own = work.sm_percent[begin + k] ** 2 * work.unsure[begin + k]
        sums[present[begin + k], ERROR_UJ] += _error_uj(
            watts, row, shares[_BY_WATTS, k], own, spread, drawn, active_uj, active_uj + idle_uj, length_ns,
            edges,
        )  # fmt: skip
    return flags


@part
def _split_held(
    watts: Watts, row: int, work: Scratch, begin: int, end: int, nobody: int, active_uj: int, idle_uj: int,
    length_ns: int, edges: int,
) -> int:  # fmt: skip
    """Split a piece over its holders: those present from ``begin`` to ``end``. Without a holder nobody works,
    so all of it is idle; a single holder gets all of it. Return the flags raised."""
    if begin == end:
        _give(work.sums, nobody, 0, active_uj + idle_uj, 0, length_ns)
        return 0
    if begin + 1 == end:
        used_ns = min(int(work.sm_percent[begin] * length_ns / 100.0), length_ns)
        _give(work.sums, work.present[begin], active_uj, idle_uj, used_ns, length_ns)
        return 0
    return _split_shared(watts, row, work, begin, end, active_uj, idle_uj, length_ns, edges)


@part
def _split_piece(
    holders: Holders, watts: Watts, row: int, work: Scratch, n: int, givens: int, count: int, slices: int,
    unheld: int, active_uj: int, idle_uj: int, length_ns: int, edges: int,
) -> int:  # fmt: skip
    """Split a piece over ``count`` MIG instances and what is in none, and within each over those of the n
    present that hold it; return the flags raised. A device that MIG does not cut is in none."""
    instances, activity = work.instances, work.activity
    drawn = spread = 0.0
    flags = 0
    if count > 0:
        drawn, spread, flags = portion(holders, work, n, count, slices, active_uj, idle_uj, length_ns)
    else:
        instances[END, 0], instances[LENGTH_NS, 0] = n, length_ns
        instances[IDLE_UJ, 0], instances[ACTIVE_UJ, 0] = idle_uj, active_uj
    begin = 0
    for g in range(count + 1):
        end, nobody = instances[END, g], unheld
        # A reservation of the device comes first, and one of this instance replaces it. Where no instance is
        # reported, one of an instance counts for the whole device, unless there is one of the device.
        for k in range(givens):
            number = holders.gpu_instance[work.members[work.given[k]]]
            is_own = g < count and number == holders.gpu_instance[work.members[instances[MEMBER, g]]]
            if number < 0 or is_own or (count == 0 and nobody == unheld):
                nobody = work.given[k]
        if g < count:
            if nobody == unheld:
                nobody = instances[MEMBER, g]
            if end == begin + 1 and activity[PERCENT, g] >= 0.0:  # this process did all that was done there
                work.sm_percent[begin] = activity[PERCENT, g]
        flags |= _split_held(
            watts, row, work, begin, end, nobody, instances[ACTIVE_UJ, g], instances[IDLE_UJ, g],
            instances[LENGTH_NS, g], edges,
        )  # fmt: skip
        if drawn > 0.0:
            share, own = activity[WEIGHT, g] / drawn, activity[UNSURE, g]
            error_uj = _error_uj(
                watts, row, share, own, spread, drawn, active_uj, active_uj + idle_uj, length_ns, edges
            )
            if begin == end:
                work.sums[nobody, ERROR_UJ] += error_uj
            for k in range(begin, end):  # which of them the error is of is not known
                work.sums[work.present[k], ERROR_UJ] += error_uj
                told = g < count and activity[PERCENT, g] >= 0.0
                work.sums[work.present[k], BETWEEN] = BY_GPM if told else BY_UTILIZATION
        begin = end
    return flags


@part
def _give(sums: I64, row: int, active_uj: int, idle_uj: int, used_ns: int, length_ns: int) -> None:
    """Give a piece to one account alone, the same under every policy."""
    sums[row, ACTIVE] += active_uj
    sums[row, USED] += used_ns
    for policy in range(POLICIES):
        sums[row, IDLE + policy] += idle_uj
        sums[row, TIME + policy] += length_ns


@part
def split_window(
    devices: Devices,
    holders: Holders,
    watts: Watts,
    d: int,
    row: int,
    quiet_mw: int,
    now_ns: int,
    told_ns: int,
    k: int,
    gap: int,
    processes_known: bool,
    lacks_energy: bool,
    work: Scratch,
) -> tuple[int, int, int, int]:
    """Split the pieces of the k-th window into ``work.sums``, which is cleared first, by row ``row`` of
    ``watts``. Return (covered ns, energy µJ, flags, the gap to continue with). ``quiet_mw``: where nothing
    runs, the idle level is what the device draws, up to this. ``told_ns``: records of SM time that begin then
    or later are ignored, because they come too late for the window, or may."""
    sums = work.sums
    idle_mw, shift_ns = watts.idle_mw[row], watts.shift_ns[row]
    start_ns, end_ns = work.cuts_ns[work.first_cut[k]], work.cuts_ns[work.first_cut[k + 1] - 1]
    residual = sums.shape[0] - 1
    unheld = residual - 1 if processes_known else residual
    for m in range(sums.shape[0]):
        for column in range(ACCUMULATORS):
            sums[m, column] = 0
    for m in range(work.held_bytes_ns.shape[0]):
        work.held_bytes_ns[m] = 0.0
    first_ns, last_ns = devices.first_ns[d], devices.t_ns[d, devices.length[d] - 1]
    covered_ns = total_uj = flags = 0
    for c in range(work.first_cut[k], work.first_cut[k + 1] - 1):
        from_ns, to_ns = work.cuts_ns[c], work.cuts_ns[c + 1]
        if from_ns < first_ns or to_ns > last_ns:
            flags |= PARTIAL
            continue
        length_ns = to_ns - from_ns
        energy_uj = work.energy_uj[c + 1] - work.energy_uj[c]
        idle_uj = min(energy_uj, idle_mw * length_ns // 1_000_000)
        covered_ns += length_ns
        total_uj += energy_uj
        if lacks_energy and work.unknown_ns[c + 1] > work.unknown_ns[c]:
            flags |= NO_ENERGY
        while gap < devices.gap_length[d] and devices.gap_to_ns[d, gap] <= from_ns:
            gap += 1
        if gap < devices.gap_length[d] and devices.gap_from_ns[d, gap] < to_ns:
            flags |= GAP
            _give(sums, residual, energy_uj, 0, 0, length_ns)
            continue
        n, givens, count = find_present(
            holders, work, now_ns, shift_ns, start_ns, end_ns, told_ns, from_ns, to_ns
        )
        if n > 0 and count == 0 and is_quiet(devices, d, n, from_ns, to_ns, work):
            idle_uj = min(energy_uj, max(quiet_mw, idle_mw) * length_ns // 1_000_000)
        edges = (c == work.first_cut[k]) + (c + 2 == work.first_cut[k + 1])
        flags |= _split_piece(
            holders, watts, row, work, n, givens, count, devices.slices[d],
            unheld, energy_uj - idle_uj, idle_uj, length_ns, edges,
        )  # fmt: skip
    repeated_uj = repeated_energy_uj(devices, d, start_ns, end_ns)
    if covered_ns > 0 and repeated_uj >= 0:
        sums[residual, ACTIVE] += repeated_uj
        total_uj += repeated_uj
        flags |= REPEATED
    return covered_ns, total_uj, flags, gap
