"""The cumulative energy of a device at each cut: from its counter, or from power where there is none."""

from wattribute.kernels.apportion import product_over
from wattribute.kernels.counter import reading_before
from wattribute.kernels.find import find_sample, samples_per_ns
from wattribute.kernels.gaps import is_interrupted
from wattribute.kernels.jit import part, prefetch
from wattribute.kernels.power import bridge_uj, integrate_after, integrate_before, is_bridged, measure_power
from wattribute.kernels.result import FROM_AVERAGE, FROM_COUNTER, FROM_INSTANT, FROM_NONE, NO_ENERGY, RESET
from wattribute.kernels.scratch import Scratch
from wattribute.kernels.series import AVERAGE_SHIFT_NS, BLOCK_NS, HAS_AVERAGE, HAS_INSTANT, I64, Devices

# The counter is compared with power over two blocks, which are over when their windows are final. In
# simulation the two differ by up to 3 %. Instantaneous power is off by up to 16 % over 5 s (the A100 logs):
# so it needs more readings, and a larger difference. Of less than a block nothing is said: a counter that is
# read just before it changes lacks 0.1 s there, which was taken for a fault where a collector began or ended.
HELD_AGAINST_NS = 2 * BLOCK_NS
_INSTANTS_LEAST, _AVERAGES_LEAST = 24, 5
_INSTANTS_AGREE, _AVERAGES_AGREE = 0.25, 0.1
_LOOKED_AT = 60  # power readings compared, at most: at 100 Hz all of them took as long as the split

# How many cuts ahead samples are prefetched: 4 to 16 were equally fast.
_AHEAD = 8


@part
def _knot_at(energy_mj: I64, d: int, i: int) -> int:
    """Return the sample, at or before i, in which the counter reached the value that it has at i."""
    while i > 0 and energy_mj[d, i] < 0:
        i -= 1
    knot = i
    while i > 0 and (energy_mj[d, i] < 0 or energy_mj[d, i] == energy_mj[d, knot]):
        if energy_mj[d, i] >= 0:
            knot = i
        i -= 1
    return i if energy_mj[d, i] == energy_mj[d, knot] else knot


@part
def _measure_counter(devices: Devices, d: int, start: int, n_cuts: int, work: Scratch) -> None:
    """Compute the cumulative energy at each cut from the counter, interpolated between its own changes: an
    unchanged reading means that the counter was not updated, not that nothing was used (NVML refreshes it
    every 20 to 100 ms, by model). Where it fell it was reset: the break is bridged with power. What it gained
    while time came twice is left out, for ``repeated_energy_uj``.

    Only the samples beside a cut are read. That is enough, because resets are listed when samples are taken
    in (at 100 Hz 4 times as fast as going through all samples)."""
    t_ns, energy_mj, n = devices.t_ns, devices.energy_mj, devices.length[d]
    i = start  # the first sample that has a reading
    reset = fallen_uj = 0
    pace = samples_per_ns(t_ns, d, n)
    for c in range(n_cuts):
        cut_ns = work.cuts_ns[c]
        if c > 0 and cut_ns == work.cuts_ns[c - 1]:  # a window begins where the one before it ends
            work.energy_uj[c] = work.energy_uj[c - 1]
            continue
        ahead = i + int((work.cuts_ns[min(c + _AHEAD, n_cuts - 1)] - t_ns[d, i]) * pace)
        prefetch(t_ns, (d, ahead))
        prefetch(energy_mj, (d, ahead))
        if cut_ns > t_ns[d, i]:
            i = find_sample(t_ns, d, n, i, cut_ns, pace)
        k = _knot_at(energy_mj, d, i)
        while reset < devices.reset_length[d] and devices.reset_to_ns[d, reset] <= t_ns[d, k]:
            if devices.reset_to_ns[d, reset] > t_ns[d, start]:  # else it lies before the samples kept
                after = find_sample(t_ns, d, n, start, devices.reset_to_ns[d, reset], pace)
                before = _knot_at(energy_mj, d, reading_before(energy_mj, d, after))
                fallen_uj += energy_mj[d, before] * 1000 - energy_mj[d, after] * 1000
                if devices.reset_repeated_ns[d, reset] == 0:
                    fallen_uj += bridge_uj(t_ns, devices.power_mw, d, before, after)
            reset += 1
        following = i + 1
        while following < n and (energy_mj[d, following] < 0 or energy_mj[d, following] == energy_mj[d, k]):
            following += 1
        total_uj = energy_mj[d, k] * 1000 + fallen_uj
        if following < n and cut_ns > t_ns[d, k]:
            gain = (energy_mj[d, following] - energy_mj[d, k]) * 1000
            broken = reset < devices.reset_length[d] and devices.reset_to_ns[d, reset] <= t_ns[d, following]
            if broken and devices.reset_repeated_ns[d, reset] > 0:
                gain = 0
            elif broken or gain < 0:
                gain = bridge_uj(t_ns, devices.power_mw, d, k, following)
            total_uj += product_over(gain, cut_ns - t_ns[d, k], t_ns[d, following] - t_ns[d, k])
        work.energy_uj[c] = total_uj


@part
def repeated_energy_uj(devices: Devices, d: int, from_ns: int, to_ns: int) -> int:
    """Return what the device used while the time [from, to) was repeated, because its clock was set back; -1
    where it was not repeated. It is spread evenly over all repeated time, because who used it is not
    known."""
    t_ns, energy_mj, n = devices.t_ns, devices.energy_mj, devices.length[d]
    total_uj = -1
    for r in range(devices.reset_length[d]):
        begin_ns = devices.reset_repeated_ns[d, r]
        end_ns = max(devices.reset_from_ns[d, r], begin_ns + 1)  # at least 1 ns, for a device read only once
        if begin_ns == 0 or begin_ns >= to_ns or end_ns <= from_ns or devices.reset_to_ns[d, r] <= t_ns[d, 0]:
            continue
        after = find_sample(t_ns, d, n, 0, devices.reset_to_ns[d, r], samples_per_ns(t_ns, d, n))
        before = max(reading_before(energy_mj, d, after), 0)
        gain_uj = (energy_mj[d, after] - energy_mj[d, before]) * 1000
        length_ns = end_ns - begin_ns
        until_uj = product_over(gain_uj, min(to_ns, end_ns) - begin_ns, length_ns)
        total_uj = max(total_uj, 0) + until_uj
        total_uj -= product_over(gain_uj, max(from_ns, begin_ns) - begin_ns, length_ns)
    return total_uj


@part
def _lack_beside(devices: Devices, d: int, start: int, last: int, n_cuts: int, work: Scratch) -> None:
    """For a device without power: note that the energy before and after its counter readings is unknown."""
    for c in range(n_cuts):
        before_ns = min(work.cuts_ns[c] - devices.t_ns[d, start], 0)
        work.unknown_ns[c] = before_ns + max(work.cuts_ns[c] - devices.t_ns[d, last], 0)


@part
def measure(devices: Devices, d: int, n_cuts: int, work: Scratch) -> tuple[int, int, int, int, bool]:
    """Write the cumulative energy at each cut into ``work``. Return (its source, the first and the last time
    at which the counter was read, the source outside that time, whether ``work.unknown_ns`` is filled)."""
    n, sources = devices.length[d], devices.sources[d]
    beside = FROM_NONE
    if sources & HAS_INSTANT:
        beside = FROM_INSTANT
    elif sources & HAS_AVERAGE:
        beside = FROM_AVERAGE
    power_mw = devices.power_mw if beside == FROM_INSTANT else devices.average_mw
    start, last = 0, n - 1
    while start < n - 1 and devices.energy_mj[d, start] < 0:
        start += 1
    while last > start and devices.energy_mj[d, last] < 0:
        last -= 1
    if devices.energy_mj[d, start] >= 0:
        _measure_counter(devices, d, start, n_cuts, work)
        is_partial = start > 0 or last < n - 1
        if is_partial:
            _lack_beside(devices, d, start, last, n_cuts, work)
        if beside != FROM_NONE and last < n - 1:
            integrate_after(devices, d, power_mw, last, n_cuts, work)
        if beside != FROM_NONE and start > 0:
            integrate_before(devices, d, power_mw, start, n_cuts, work)
        return FROM_COUNTER, devices.t_ns[d, start], devices.t_ns[d, last], beside, is_partial
    if beside != FROM_NONE:
        shift_ns = 0 if beside == FROM_INSTANT else AVERAGE_SHIFT_NS
        measure_power(devices, d, power_mw, shift_ns, n_cuts, work)
    else:
        for c in range(n_cuts):
            work.energy_uj[c] = 0
            work.unknown_ns[c] = work.cuts_ns[c] - work.cuts_ns[0]
    return beside, 0, 0, beside, True


@part
def find_dispute(devices: Devices, d: int, from_ns: int, to_ns: int) -> float:
    """Return how far power and counter differ over a span, as a part of the counter's energy; 0 where they
    agree, or where there are too few readings. A counter was seen to miss 43 % of what an idle GPU drew
    (Zeus, issue 181)."""
    if is_interrupted(devices, d, from_ns, to_ns):
        return 0.0
    power_mw, shift_ns = devices.power_mw, 0
    least, agree = _INSTANTS_LEAST, _INSTANTS_AGREE
    if devices.sources[d] & HAS_AVERAGE:
        power_mw, shift_ns = devices.average_mw, AVERAGE_SHIFT_NS
        least, agree = _AVERAGES_LEAST, _AVERAGES_AGREE
    t_ns, n = devices.t_ns, devices.length[d]
    first_ns, pace = t_ns[d, 0], samples_per_ns(t_ns, d, n)
    begin = find_sample(t_ns, d, n, 0, max(from_ns, first_ns) + shift_ns, pace)
    end = find_sample(t_ns, d, n, begin, max(to_ns + shift_ns, t_ns[d, begin]), pace)
    if end - begin < least or t_ns[d, end] - t_ns[d, begin] < BLOCK_NS:
        return 0.0
    power_mj, k = 0.0, begin
    step = max((end - begin) // _LOOKED_AT, 1)
    for i in range(begin + step, end + 1, step):
        if min(power_mw[d, k], power_mw[d, i]) < 0:
            return 0.0
        power_mj += (power_mw[d, k] + power_mw[d, i]) * (t_ns[d, i] - t_ns[d, k]) / 2e9
        k = i
    low = find_sample(t_ns, d, n, 0, max(t_ns[d, begin] - shift_ns, first_ns), pace)
    high = find_sample(t_ns, d, n, low, t_ns[d, k] - shift_ns, pace)
    if min(devices.energy_mj[d, low], devices.energy_mj[d, high]) < 0:
        return 0.0
    counter_mj = devices.energy_mj[d, high] - devices.energy_mj[d, low]
    off_mj = abs(counter_mj - power_mj)
    return off_mj / max(counter_mj, 1) if off_mj > agree * max(counter_mj, power_mj) else 0.0


@part
def resets(devices: Devices, d: int, from_ns: int, to_ns: int) -> tuple[int, int]:
    """Return (counter segment at the end of a window; RESET if a reset lies within it, and NO_ENERGY if power
    does not bridge that)."""
    segment, flags = devices.resets[d] - devices.reset_length[d], 0
    for r in range(devices.reset_length[d]):
        begin_ns, end_ns = devices.reset_from_ns[d, r], devices.reset_to_ns[d, r]
        if end_ns <= to_ns:
            segment += 1
        if begin_ns < to_ns and end_ns > from_ns and devices.reset_repeated_ns[d, r] == 0:
            flags |= RESET
            if not is_bridged(devices, d, begin_ns, end_ns):
                flags |= NO_ENERGY
    return segment, flags
