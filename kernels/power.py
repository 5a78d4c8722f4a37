"""The energy of a device, integrated from power readings."""

from wattribute.kernels.apportion import product_over
from wattribute.kernels.find import find_sample, samples_per_ns
from wattribute.kernels.jit import part
from wattribute.kernels.scratch import Scratch
from wattribute.kernels.series import I32, I64, POWER_HOLDS_NS, Devices


@part
def _trapezoid_uj(from_mw: int, to_mw: int, length_ns: int) -> int:
    """Energy of power that changes linearly from one reading to the next. 700 W for 2 h, multiplied before it
    is divided, would exceed 63 bits."""
    twice_mw = from_mw + to_mw
    return twice_mw * (length_ns // 2_000_000) + twice_mw * (length_ns % 2_000_000) // 2_000_000


@part
def _rise_uj(from_mw: int, to_mw: int, part_ns: int, length_ns: int) -> int:
    """Energy of the first ``part_ns`` of power that rises linearly, or stays. It never falls as ``part_ns``
    grows, rounding included."""
    if part_ns == length_ns:
        return _trapezoid_uj(from_mw, to_mw, length_ns)
    above_uj = product_over(_trapezoid_uj(0, to_mw - from_mw, part_ns), part_ns, length_ns)
    return _trapezoid_uj(from_mw, from_mw, part_ns) + above_uj


@part
def _ramp_uj(from_mw: int, to_mw: int, part_ns: int, length_ns: int) -> int:
    """Energy of the first ``part_ns`` of power that changes linearly from one reading to the next."""
    if to_mw >= from_mw:
        return _rise_uj(from_mw, to_mw, part_ns, length_ns)
    whole_uj = _trapezoid_uj(from_mw, to_mw, length_ns)
    return whole_uj - _rise_uj(to_mw, from_mw, length_ns - part_ns, length_ns)


@part
def bridge_uj(t_ns: I64, power_mw: I32, d: int, begin: int, end: int) -> int:
    """Power integrated between two samples, by trapezoids; 0 where no power was read, or none for 10 min."""
    total = 0
    k = begin
    for i in range(begin + 1, end + 1):
        if power_mw[d, i] >= 0 and power_mw[d, k] >= 0:
            if t_ns[d, i] - t_ns[d, k] <= POWER_HOLDS_NS:
                total += _trapezoid_uj(power_mw[d, k], power_mw[d, i], t_ns[d, i] - t_ns[d, k])
            k = i
        elif power_mw[d, k] < 0:
            k = i
    return total


@part
def measure_power(devices: Devices, d: int, power_mw: I32, shift_ns: int, n_cuts: int, work: Scratch) -> None:
    """Compute the cumulative energy at each cut from power readings, by trapezoids, and the time for which it
    is not known. A gap has no energy.

    ``shift_ns``: how long before its own time a reading applies (0.5 s for the 1 s average). The last value
    holds for that long. For later samples, which lack power, the energy is not known."""
    t_ns, n, cuts_ns = devices.t_ns, devices.length[d], work.cuts_ns
    k = 0
    if cuts_ns[0] + shift_ns > t_ns[d, 0]:
        k = find_sample(t_ns, d, n, 0, cuts_ns[0] + shift_ns, samples_per_ns(t_ns, d, n))
    while k > 0 and power_mw[d, k] < 0:
        k -= 1
    while k < n - 1 and power_mw[d, k] < 0:
        k += 1
    knot_ns = t_ns[d, k] - shift_ns
    total = c = gap = 0
    unknown_ns = max(knot_ns - cuts_ns[0], 0)
    while c < n_cuts and cuts_ns[c] <= knot_ns:
        work.energy_uj[c] = 0
        work.unknown_ns[c] = cuts_ns[c] - cuts_ns[0]
        c += 1
    for i in range(k + 1, n + 1):
        if c == n_cuts:
            return
        is_known = power_mw[d, k] >= 0
        if i < n:
            if power_mw[d, i] < 0:
                continue
            t = t_ns[d, i] - shift_ns
            from_mw, to_mw = power_mw[d, k], power_mw[d, i]
            while gap < devices.gap_length[d] and devices.gap_to_ns[d, gap] <= t_ns[d, k]:
                gap += 1
            if gap < devices.gap_length[d] and devices.gap_from_ns[d, gap] < t_ns[d, i]:
                is_known = False
        else:
            t = t_ns[d, k]
            from_mw = to_mw = power_mw[d, k]
        is_known = is_known and t - knot_ns <= POWER_HOLDS_NS
        gain = _trapezoid_uj(from_mw, to_mw, t - knot_ns) if is_known else 0
        while c < n_cuts and cuts_ns[c] <= t:
            part_ns = cuts_ns[c] - knot_ns
            ramp_uj = _ramp_uj(from_mw, to_mw, part_ns, max(t - knot_ns, 1)) if is_known else 0
            work.energy_uj[c] = total + ramp_uj
            work.unknown_ns[c] = unknown_ns if is_known else unknown_ns + cuts_ns[c] - knot_ns
            c += 1
        total += gain
        if not is_known:
            unknown_ns += t - knot_ns
        k, knot_ns = i, t
    while c < n_cuts:
        work.energy_uj[c] = total
        work.unknown_ns[c] = unknown_ns + min(cuts_ns[c], t_ns[d, n - 1]) - knot_ns
        c += 1


@part
def integrate_after(devices: Devices, d: int, power_mw: I32, last: int, n_cuts: int, work: Scratch) -> None:
    """Add integrated power to the energy of cuts after the counter's last reading, sample ``last``."""
    t_ns, n, cuts_ns = devices.t_ns, devices.length[d], work.cuts_ns
    total = unknown_ns = c = 0
    k = last
    while c < n_cuts and cuts_ns[c] <= t_ns[d, last]:
        c += 1
    for i in range(last + 1, n):
        if power_mw[d, i] < 0 and i < n - 1:
            continue
        length_ns = t_ns[d, i] - t_ns[d, k]
        is_known = power_mw[d, i] >= 0 and length_ns <= POWER_HOLDS_NS
        to_mw = power_mw[d, i]
        from_mw = power_mw[d, k] if power_mw[d, k] >= 0 else to_mw
        gain = _trapezoid_uj(from_mw, to_mw, length_ns) if is_known else 0
        while c < n_cuts and cuts_ns[c] <= t_ns[d, i]:
            part_ns = cuts_ns[c] - t_ns[d, k]
            work.energy_uj[c] += total + (_ramp_uj(from_mw, to_mw, part_ns, length_ns) if is_known else 0)
            work.unknown_ns[c] = unknown_ns if is_known else unknown_ns + cuts_ns[c] - t_ns[d, k]
            c += 1
        total += gain
        if not is_known:
            unknown_ns += length_ns
        k = i
    while c < n_cuts:
        work.energy_uj[c] += total
        work.unknown_ns[c] = unknown_ns
        c += 1


@part
def integrate_before(devices: Devices, d: int, power_mw: I32, start: int, n_cuts: int, work: Scratch) -> None:
    """Subtract integrated power from the energy of cuts before the counter's first reading, sample
    ``start``."""
    t_ns, cuts_ns = devices.t_ns, work.cuts_ns
    total = unknown_ns = 0
    k, c = start, n_cuts - 1
    while c >= 0 and cuts_ns[c] >= t_ns[d, start]:
        c -= 1
    for i in range(start - 1, -1, -1):
        if power_mw[d, i] < 0 and i > 0:
            continue
        length_ns = t_ns[d, k] - t_ns[d, i]
        is_known = power_mw[d, i] >= 0 and length_ns <= POWER_HOLDS_NS
        to_mw = power_mw[d, i]
        from_mw = power_mw[d, k] if power_mw[d, k] >= 0 else to_mw
        gain = _trapezoid_uj(from_mw, to_mw, length_ns) if is_known else 0
        while c >= 0 and cuts_ns[c] >= t_ns[d, i]:
            part_ns = t_ns[d, k] - cuts_ns[c]
            work.energy_uj[c] -= total + (_ramp_uj(from_mw, to_mw, part_ns, length_ns) if is_known else 0)
            work.unknown_ns[c] = -unknown_ns if is_known else cuts_ns[c] - t_ns[d, k] - unknown_ns
            c -= 1
        total += gain
        if not is_known:
            unknown_ns += length_ns
        k = i
    while c >= 0:
        work.energy_uj[c] -= total
        work.unknown_ns[c] = -unknown_ns
        c -= 1


@part
def is_bridged(devices: Devices, d: int, from_ns: int, to_ns: int) -> bool:
    """Whether power was read throughout between two samples: at both, and never more than 10 min apart."""
    n = devices.length[d]
    from_ns = max(from_ns, devices.t_ns[d, 0])  # earlier samples have been dropped
    i = find_sample(devices.t_ns, d, n, 0, from_ns, samples_per_ns(devices.t_ns, d, n))
    known_ns = from_ns
    if devices.power_mw[d, i] < 0:
        return False
    while i < n and devices.t_ns[d, i] <= to_ns:
        if devices.power_mw[d, i] >= 0:
            if devices.t_ns[d, i] - known_ns > POWER_HOLDS_NS:
                return False
            known_ns = devices.t_ns[d, i]
        i += 1
    return bool(known_ns == to_ns)
