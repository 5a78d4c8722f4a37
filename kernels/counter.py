"""The energy counter of a device: which readings are plausible, where it was reset, what they affect."""

from wattribute.kernels.jit import part
from wattribute.kernels.series import (
    AVERAGE_SHIFT_NS,
    HAS_AVERAGE,
    HAS_COUNTER,
    HAS_INSTANT,
    I64,
    LATENESS_NS,
    POWER_HOLDS_NS,
    SECOND_NS,
    Devices,
)

COUNTER_MAX_MJ = (1 << 62) // 1000


@part
def add_reset(devices: Devices, d: int, from_ns: int, to_ns: int, repeated_ns: int, offset: int) -> None:
    """List and count a counter reset, once."""
    n = devices.reset_length[d]
    for i in range(n):
        if devices.reset_to_ns[d, i] == to_ns:
            return
    devices.reset_from_ns[d, n] = from_ns
    devices.reset_to_ns[d, n] = to_ns
    devices.reset_repeated_ns[d, n] = repeated_ns
    devices.reset_length[d] = n + 1
    devices.showed_offset[d, devices.showed_length[d]] = offset
    devices.showed_length[d] += 1
    devices.resets[d] += 1


@part
def newest_ns(devices: Devices, d: int) -> int:
    """When the newest sample was read; 0 if there is none."""
    n = devices.length[d]
    return int(devices.t_ns[d, n - 1]) if n > 0 else 0


@part
def next_reading(energy_mj: I64, d: int, n: int, at: int) -> int:
    """Return the first of n samples at or after index ``at`` that has a counter reading; n if none has."""
    while at < n and energy_mj[d, at] < 0:
        at += 1
    return at


@part
def most_mj(span_ns: int) -> int:
    """Return the most that the counter may gain in a span at 10 kW: 1e7 mJ a second. One second is added,
    because the counter is refreshed at its own pace."""
    return (span_ns + SECOND_NS) // 100


@part
def _is_near(devices: Devices, d: int, before: int, t: int, energy: int) -> bool:
    """Whether the counter may have come from its reading in sample ``before`` to this one at ``t``."""
    gain = energy - devices.energy_mj[d, before]
    return bool(0 <= gain <= most_mj(t - devices.t_ns[d, before]))


@part
def is_leap(devices: Devices, d: int, t: int, energy: int) -> bool:
    """Whether an implausibly high reading is the first of its kind: otherwise one garbled reading would be
    energy that somebody pays for. A second reading near it means that the counter was set to a new value."""
    gain, later_ns = energy - devices.leap_mj[d], t - devices.leap_ns[d]
    if (
        devices.leap_mj[d] >= 0 and later_ns > 0 and 0 <= gain <= most_mj(later_ns)
    ):  # later_ns > 0: not the same reading, sent twice
        return False
    devices.leap_ns[d], devices.leap_mj[d] = t, energy
    return True


@part
def move_reset(devices: Devices, d: int, n: int, at: int) -> None:
    """Move one edge of a reset to the reading at index ``at``, if that lies between the two edges."""
    after = next_reading(devices.energy_mj, d, n, at + 1)
    if after == n or devices.energy_mj[d, at] < 0:
        return
    before = reading_before(devices.energy_mj, d, at)
    # Where the counter was set to a higher value, a reading's value fits both sides; its time tells which.
    raised = before >= 0 and devices.energy_mj[d, before] <= devices.energy_mj[d, after]
    continues = raised and _is_near(devices, d, before, devices.t_ns[d, at], devices.energy_mj[d, at])
    for i in range(devices.reset_length[d]):
        if devices.reset_to_ns[d, i] == devices.t_ns[d, after]:
            if devices.energy_mj[d, at] <= devices.energy_mj[d, after] and not continues:
                devices.reset_to_ns[d, i] = devices.t_ns[d, at]
            else:
                devices.reset_from_ns[d, i] = devices.t_ns[d, at]


@part
def reading_before(energy_mj: I64, d: int, at: int) -> int:
    """Return the last sample before index ``at`` that has a counter reading; -1 if none has."""
    before = at - 1
    while before >= 0 and energy_mj[d, before] < 0:
        before -= 1
    return before


@part
def counter_fits(devices: Devices, d: int, n: int, at: int, t: int, value: int) -> bool:
    """Whether a reading at ``t``, put before index ``at``, fits its neighbours, or one side of a reset."""
    energy_mj, t_ns = devices.energy_mj, devices.t_ns
    before = reading_before(energy_mj, d, at)
    after = next_reading(energy_mj, d, n, at)
    low = energy_mj[d, before] if before >= 0 else -1
    high = energy_mj[d, after] if after < n else COUNTER_MAX_MJ
    if low > high:  # between the two sides of a reset: it must fit one, as a reading in time must
        if value >= low:
            return _is_near(devices, d, before, t, value)
        return bool(value <= high and high - value <= most_mj(t_ns[d, after] - t))
    if not low <= value <= high:
        return False
    if before >= 0 and _is_near(devices, d, before, t, value):
        return True
    if after == n:
        return before < 0
    return bool(high - value <= most_mj(t_ns[d, after] - t))


@part
def since_repeated(devices: Devices, d: int, knot_ns: int, t: int) -> int:
    """Return the time to which the clock was set back, where a reading at ``t`` is the first after the
    repeated time; else 0. ``knot_ns``: when the counter last changed."""
    to_ns = devices.repeated_to_ns[d]
    return int(devices.repeated_from_ns[d]) if knot_ns <= to_ns < t <= to_ns + LATENESS_NS else 0


@part
def changed_since(devices: Devices, d: int, at: int) -> int:
    """Return from when on a sample at index ``at`` affects the energy: from the last change of the counter
    before it, or from the last power reading."""
    first = max(at - 1, 0)
    sources = devices.sources[d]
    if sources & HAS_INSTANT and not sources & HAS_COUNTER:
        while first > 0 and devices.power_mw[d, first] < 0:
            first -= 1
        return int(devices.t_ns[d, first])
    if sources & HAS_AVERAGE and not sources & HAS_COUNTER:
        while first > 0 and devices.average_mw[d, first] < 0:
            first -= 1
        return int(devices.t_ns[d, first]) - AVERAGE_SHIFT_NS
    energy_mj = devices.energy_mj
    while first > 0 and energy_mj[d, first] < 0:
        first -= 1
    mj = energy_mj[d, first]
    while first > 0 and (energy_mj[d, first - 1] < 0 or energy_mj[d, first - 1] == mj):
        first -= 1
    return int(devices.t_ns[d, first])


@part
def open_since(devices: Devices, d: int) -> int:
    """Return from when on a sample after the newest affects the energy. Where the newest samples lack the
    counter, power is integrated: so from the last power reading on."""
    n = devices.length[d]
    if devices.counter_mj[d] < 0:
        return changed_since(devices, d, n)
    newest, i = newest_ns(devices, d), n - 1
    if n == 0 or devices.energy_mj[d, i] >= 0:
        return newest
    if devices.sources[d] & (HAS_INSTANT | HAS_AVERAGE):
        while (
            i > 0
            and newest - devices.t_ns[d, i] < POWER_HOLDS_NS
            and (devices.power_mw[d, i] < 0 and devices.average_mw[d, i] < 0)
        ):
            i -= 1
    return int(devices.t_ns[d, i]) - AVERAGE_SHIFT_NS
