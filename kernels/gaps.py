"""Gaps of a device: time without samples."""

from wattribute.kernels.jit import part
from wattribute.kernels.series import AVERAGE_SHIFT_NS, HAS_COUNTER, HAS_INSTANT, SECOND_NS, Devices

_GAP_PERIODS = 5
_MEDIAN_OF = 16  # intervals


@part
def is_gap(devices: Devices, d: int, end: int, interval_ns: int) -> bool:
    """Whether ``interval_ns``, which follows the samples before index ``end``, is longer than 1 s and than 5
    median periods. The period is the lower median of this interval and of up to 15 before it: so the second
    sample already defines it, and the third can be late."""
    if interval_ns <= SECOND_NS:
        return False
    t_ns, count = devices.t_ns, min(_MEDIAN_OF, end)
    for k in range(count):  # the median is the interval that has half of the others below it
        median_ns = interval_ns if k == 0 else t_ns[d, end - k] - t_ns[d, end - k - 1]
        below = 0 if k == 0 or interval_ns >= median_ns else 1
        for m in range(1, count):
            other_ns = t_ns[d, end - m] - t_ns[d, end - m - 1]
            below += other_ns < median_ns or (other_ns == median_ns and m < k)
        below += k > 0 and interval_ns == median_ns
        if below == (count - 1) // 2:
            return bool(interval_ns > _GAP_PERIODS * median_ns)
    return False


@part
def add_gap(devices: Devices, d: int, from_ns: int, to_ns: int) -> None:
    """Insert a gap, in the order of its start, unless an equal one is listed already."""
    n = devices.gap_length[d]
    i = n
    while i > 0 and devices.gap_from_ns[d, i - 1] > from_ns:
        i -= 1
    if i > 0 and devices.gap_from_ns[d, i - 1] == from_ns and devices.gap_to_ns[d, i - 1] == to_ns:
        return
    for k in range(n, i, -1):
        devices.gap_from_ns[d, k] = devices.gap_from_ns[d, k - 1]
        devices.gap_to_ns[d, k] = devices.gap_to_ns[d, k - 1]
    devices.gap_from_ns[d, i] = from_ns
    devices.gap_to_ns[d, i] = to_ns
    devices.gap_length[d] = n + 1


@part
def remove_gap(devices: Devices, d: int, from_ns: int, to_ns: int) -> None:
    n = devices.gap_length[d]
    for i in range(n):
        if devices.gap_from_ns[d, i] == from_ns and devices.gap_to_ns[d, i] == to_ns:
            for k in range(i, n - 1):
                devices.gap_from_ns[d, k] = devices.gap_from_ns[d, k + 1]
                devices.gap_to_ns[d, k] = devices.gap_to_ns[d, k + 1]
            devices.gap_length[d] = n - 1
            return


@part
def readings_around(devices: Devices, d: int, from_ns: int, to_ns: int) -> tuple[int, int]:
    """Return the span in which a gap changes the energy: without a counter, from the last power reading
    before it to the first after it."""
    sources, n = devices.sources[d], devices.length[d]
    if sources & HAS_COUNTER or n == 0:
        return from_ns, to_ns
    power_mw = devices.power_mw if sources & HAS_INSTANT else devices.average_mw
    i = n - 1
    while i > 0 and (devices.t_ns[d, i] > from_ns or power_mw[d, i] < 0):
        i -= 1
    k = i
    while k < n - 1 and (devices.t_ns[d, k] < to_ns or power_mw[d, k] < 0):
        k += 1
    return min(from_ns, devices.t_ns[d, i] - AVERAGE_SHIFT_NS), max(to_ns, devices.t_ns[d, k])


@part
def is_interrupted(devices: Devices, d: int, from_ns: int, to_ns: int) -> bool:
    """Whether a gap or a reset of the counter lies between two instants."""
    for g in range(devices.gap_length[d]):
        if devices.gap_from_ns[d, g] < to_ns and devices.gap_to_ns[d, g] > from_ns:
            return True
    for r in range(devices.reset_length[d]):
        if devices.reset_from_ns[d, r] < to_ns and devices.reset_to_ns[d, r] > from_ns:
            return True
    return False
