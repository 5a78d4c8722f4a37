"""Taking messages in: readings go to their series, and what they change is marked.

One pass over the messages of a batch, in their order. All state is in the arrays, so how the messages
are cut into batches changes nothing; that, and marks that carry the offset of the message that made
them, is what makes every row and its version a function of the messages alone.

A window is marked by every message that may change one of its rows:
- device samples: from the last change of the counter before them (energy is interpolated between
  changes) to their last;
- a process record: from the record before it, if the process held the device since, to now;
- a process gone silent for 3 periods, an exit, a gap, an identity: the time they speak of;
- the host's clock passing the window's end (written, provisionally) and end + 10 s (final), or its end.
"""

from wattribute.kernels.jit import kernel, part, prefetch
from wattribute.kernels.series import (
    AVERAGE_SHIFT_NS,
    BATCH,
    BLOCK_NS,
    BLOCKS_AHEAD,
    DATED_NS,
    DEVICES,
    DROPS,
    ENERGY_AHEAD_NS,
    FOREVER,
    HAS_AVERAGE,
    HAS_COUNTER,
    HAS_INSTANT,
    HOLDERS,
    HORIZON_NS,
    HOSTS,
    I64,
    INSTANCE_NS,
    LATENESS_NS,
    LEARNED_NS,
    MARKS,
    RESERVED,
    SHIFT_MAX_NS,
    Batch,
    Devices,
    Drops,
    Holders,
    Hosts,
    Marks,
    types,
)

SAMPLES_MESSAGE, EVENTS_MESSAGE = 0, 1
# Columns of ``messages``: what it is, its host, its offset; then for samples the row of ``layouts``, the
# index of the first column in 8-byte words, and the rows; for events the range of ``events``.
KIND, HOST, OFFSET, LAYOUT, WORD, DEVICE_ROWS, PROCESS_ROWS = range(7)
EVENT_FIRST, EVENT_END = 3, 4
# Columns of ``layouts``: where the gpus and processes of a header begin in ``device_ids`` and
# ``holder_ids``, how many there are, and for each column of a message how many 8-byte and 4-byte columns
# stand before it (-1 = absent), then the totals.
L_GPUS, L_GPU_COUNT, L_PROCESSES, L_PROCESS_COUNT = range(4)
L_T, L_ENERGY, L_GPU, L_POWER, L_AVERAGE, L_SM, L_WIDE, L_NARROW = range(4, 12)
L_P_T, L_P_PERIOD, L_P_MEMORY, L_P_PROCESS, L_P_SM = range(12, 17)
LAYOUT_COLUMNS = 17
NARROW_SHIFT = 32  # a column's place is (narrow columns before) << 32 | (wide columns before)

# Events: (kind, index, from_ns, to_ns); of PRIOR the process of which more is known before anything is
# learned; of REPEAT to when the clock was set back; of GIVEN when, and for how long it speaks; of
# MIG_INSTANCE when, and 1 + its slices (0 = not told) << TOLD_SLICES, 1 << TOLD_EDGE where it begins or ends,
# 1 + its activity in millionths of a percent (0 = not told).
EXIT, GAP, TOUCH, EPOCH, END, GIVEN, MIG_INSTANCE, PRIOR, REPEAT = range(9)
TOLD_SLICES, TOLD_EDGE = 33, 32

ACCEPTED, DUPLICATE, TOO_LATE, BACKWARDS, ABSURD, UNKNOWN, FAR_AHEAD, LEAP, REPEATED = range(9)
REASONS = (
    "accepted",
    "duplicate",
    "more than 1 h late",
    "time or counter runs backwards",
    "value out of range",
    "names a gpu or process that its header lacks",
    "time more than a day ahead of its host's clock, and no second reading near it",
    "counter claims more than 10 kW can use, and no second reading near it",
    "of a time that came twice, for the clock was set back",
)

_TIME_MAX_NS = 4_102_444_800_000_000_000
_COUNTER_MAX_MJ = (1 << 62) // 1000
_POWER_MAX_MW = 10_000_000
_DATED_BEFORE_NS = ENERGY_AHEAD_NS + DATED_NS  # a reading of energy has a say in stretches so far before it
_SECOND_NS = 1_000_000_000
_FAR_NS = 86_400 * _SECOND_NS
_ANEW_NS = 7 * _FAR_NS  # after such a pause a device is taken as another: a week is 600 000 windows
_GAP_PERIODS = 5
_MEDIAN_OF = 16  # intervals
_POWER_HOLDS_NS = 600 * _SECOND_NS  # a reading of power says nothing of 10 min later
_LINE_WORDS = 8  # of the cache
_ASK_FOR_WORDS = 1024  # of a message: more than that would drive out what was asked for first

Sample = tuple[int, int, int, int, bool]
"""What a row says of a device: time, counter, power and its average, -1 where absent; whether nothing ran."""


@part
def _mark(marks: Marks, device: int, first: int, last: int, offset: int) -> None:
    """Mark windows first..last; joined to the device's latest mark where both touch and share the offset."""
    if last < first:
        return
    i = marks.latest[device]
    if i >= 0 and marks.offset[i] == offset and first <= marks.last[i] + 1 and last >= marks.first[i] - 1:
        marks.first[i] = min(first, marks.first[i])
        marks.last[i] = max(last, marks.last[i])
        return
    i = marks.made[0]
    marks.device[i] = device
    marks.first[i] = first
    marks.last[i] = last
    marks.offset[i] = offset
    marks.latest[device] = i
    marks.made[0] = i + 1


@part
def _mark_readings(
    marks: Marks,
    hosts: Hosts,
    devices: Devices,
    d: int,
    from_ns: int,
    to_ns: int,
    learned_ns: int,
    window_ns: int,
    offset: int,
) -> None:
    """Mark the windows of which readings changed, and since ``learned_ns`` those by which is learned. Where
    that lies so far back that windows which rest on the same block of readings are final, those too, and all
    that rest on what is learned of it."""
    block = learned_ns // BLOCK_NS
    marks.changed[d] = min(marks.changed[d], block)
    host = devices.host[d]
    now_ns = hosts.now_ns[host]
    to_ns = max(to_ns, now_ns)
    is_over = hosts.ended_ns[host] == now_ns  # then all windows were final
    since_ns = (block - BLOCKS_AHEAD) * BLOCK_NS
    if since_ns < (now_ns if is_over else now_ns - LATENESS_NS):
        from_ns = min(from_ns, max(since_ns, to_ns - HORIZON_NS))
        to_ns += LEARNED_NS
    _mark(marks, d, max(from_ns, devices.first_ns[d]) // window_ns, to_ns // window_ns, offset)


@part
def _mark_energy(
    marks: Marks,
    hosts: Hosts,
    devices: Devices,
    d: int,
    from_ns: int,
    to_ns: int,
    window_ns: int,
    offset: int,
) -> None:
    """Mark the windows of which the energy changed, and those before them in which these readings have a
    say."""
    learned_ns = from_ns - _DATED_BEFORE_NS
    _mark_readings(marks, hosts, devices, d, from_ns, to_ns, learned_ns, window_ns, offset)


@part
def _is_gap(devices: Devices, d: int, end: int, interval_ns: int) -> bool:
    """Whether ``interval_ns``, which ends the samples before index ``end``, is longer than 1 s and than 5
    median periods: the lower median of it and of up to 15 intervals before it, so that a second sample
    says what the period is and a third can be late."""
    if interval_ns <= _SECOND_NS:
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
def _add_gap(devices: Devices, d: int, from_ns: int, to_ns: int) -> None:
    """Insert a gap in the order of its start. An equal one is not listed twice."""
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
def _remove_gap(devices: Devices, d: int, from_ns: int, to_ns: int) -> None:
    n = devices.gap_length[d]
    for i in range(n):
        if devices.gap_from_ns[d, i] == from_ns and devices.gap_to_ns[d, i] == to_ns:
            for k in range(i, n - 1):
                devices.gap_from_ns[d, k] = devices.gap_from_ns[d, k + 1]
                devices.gap_to_ns[d, k] = devices.gap_to_ns[d, k + 1]
            devices.gap_length[d] = n - 1
            return


@part
def _add_reset(devices: Devices, d: int, from_ns: int, to_ns: int, repeated_ns: int, offset: int) -> None:
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
def _newest_ns(devices: Devices, d: int) -> int:
    """When the newest sample was read; 0 if there is none."""
    n = devices.length[d]
    return int(devices.t_ns[d, n - 1]) if n > 0 else 0


@part
def _next_reading(energy_mj: I64, d: int, n: int, at: int) -> int:
    """The first of n samples at or after index ``at`` that has a reading of the counter; n if none has."""
    while at < n and energy_mj[d, at] < 0:
        at += 1
    return at


@part
def _most_mj(span_ns: int) -> int:
    """What the counter may gain in a time, at 10 kW: 1e7 mJ a second, and a second more, for it is refreshed
    at its own pace."""
    return (span_ns + _SECOND_NS) // 100


@part
def _is_near(devices: Devices, d: int, before: int, t: int, energy: int) -> bool:
    """Whether a reading at ``t`` may be what the counter had come to since sample ``before``."""
    gain = energy - devices.energy_mj[d, before]
    return bool(0 <= gain <= _most_mj(t - devices.t_ns[d, before]))


@part
def _is_leap(devices: Devices, d: int, t: int, energy: int) -> bool:
    """Whether a reading that is too high to be true is the first of its kind: one garbled reading would else
    be energy that somebody pays for. A second near it means that the counter was set anew."""
    gain, later_ns = energy - devices.leap_mj[d], t - devices.leap_ns[d]
    if (
        devices.leap_mj[d] >= 0 and later_ns > 0 and 0 <= gain <= _most_mj(later_ns)
    ):  # not the same, sent twice
        return False
    devices.leap_ns[d], devices.leap_mj[d] = t, energy
    return True


@part
def _move_reset(devices: Devices, d: int, n: int, at: int) -> None:
    """Move the edge of a reset to the reading at index ``at``, if it stands between the two edges."""
    after = _next_reading(devices.energy_mj, d, n, at + 1)
    if after == n or devices.energy_mj[d, at] < 0:
        return
    before = _reading_before(devices.energy_mj, d, at)
    # Where the counter was set higher, a reading fits both sides by its value, and one of them by its time.
    raised = before >= 0 and devices.energy_mj[d, before] <= devices.energy_mj[d, after]
    continues = raised and _is_near(devices, d, before, devices.t_ns[d, at], devices.energy_mj[d, at])
    for i in range(devices.reset_length[d]):
        if devices.reset_to_ns[d, i] == devices.t_ns[d, after]:
            if devices.energy_mj[d, at] <= devices.energy_mj[d, after] and not continues:
                devices.reset_to_ns[d, i] = devices.t_ns[d, at]
            else:
                devices.reset_from_ns[d, i] = devices.t_ns[d, at]


@part
def _reading_before(energy_mj: I64, d: int, at: int) -> int:
    """The last sample before index ``at`` that has a reading of the counter; -1 if none has."""
    before = at - 1
    while before >= 0 and energy_mj[d, before] < 0:
        before -= 1
    return before


@part
def _counter_fits(devices: Devices, d: int, n: int, at: int, t: int, value: int) -> bool:
    """Whether a reading at ``t``, put before index ``at``, fits its neighbours, or one side of a reset."""
    energy_mj, t_ns = devices.energy_mj, devices.t_ns
    before = _reading_before(energy_mj, d, at)
    after = _next_reading(energy_mj, d, n, at)
    low = energy_mj[d, before] if before >= 0 else -1
    high = energy_mj[d, after] if after < n else _COUNTER_MAX_MJ
    if low > high:  # between the two sides of a reset: as a reading that comes in time has to fit one
        if value >= low:
            return _is_near(devices, d, before, t, value)
        return bool(value <= high and high - value <= _most_mj(t_ns[d, after] - t))
    if not low <= value <= high:
        return False
    if before >= 0 and _is_near(devices, d, before, t, value):
        return True
    if after == n:
        return before < 0
    return bool(high - value <= _most_mj(t_ns[d, after] - t))


@part
def _put(devices: Devices, d: int, at: int, sample: Sample) -> None:
    """Write a sample at index ``at`` of its series."""
    t, energy, power, average, quiet = sample
    devices.t_ns[d, at] = t
    devices.energy_mj[d, at] = energy
    devices.power_mw[d, at] = power
    devices.average_mw[d, at] = average
    devices.quiet[d, at] = quiet


@part
def _insert_sample(devices: Devices, d: int, n: int, now_ns: int, sample: Sample) -> tuple[int, int]:
    """Put a sample that is not the newest in its place; (reason, where it was put)."""
    t, energy = sample[0], sample[1]
    if n == 0 or t <= 0:
        return ABSURD, 0
    if t < now_ns - HORIZON_NS:
        return TOO_LATE, 0
    at = n
    while at > 0 and devices.t_ns[d, at - 1] >= t:
        at -= 1
    if at < n and devices.t_ns[d, at] == t:
        return DUPLICATE, 0
    if energy >= 0 and not _counter_fits(devices, d, n, at, t, energy):
        return BACKWARDS, 0
    for k in range(n, at, -1):
        devices.t_ns[d, k] = devices.t_ns[d, k - 1]
        devices.energy_mj[d, k] = devices.energy_mj[d, k - 1]
        devices.power_mw[d, k] = devices.power_mw[d, k - 1]
        devices.average_mw[d, k] = devices.average_mw[d, k - 1]
        devices.quiet[d, k] = devices.quiet[d, k - 1]
    _put(devices, d, at, sample)
    after = devices.t_ns[d, at + 1]
    if at > 0:
        before = devices.t_ns[d, at - 1]
        _remove_gap(devices, d, before, after)
        if _is_gap(devices, d, at, t - before):
            _add_gap(devices, d, before, t)
    elif devices.first_ns[d] > t:
        devices.first_ns[d] = t
    if _is_gap(devices, d, at + 1, after - t):
        _add_gap(devices, d, t, after)
    _move_reset(devices, d, n + 1, at)
    return ACCEPTED, at


@part
def _come_again(
    hosts: Hosts,
    devices: Devices,
    holders: Holders,
    d: int,
    from_ns: int,
    window_ns: int,
    offset: int,
    marks: Marks,
) -> None:
    """Note that a clock was set back to ``from_ns``: the time up to the newest sample comes again.

    What was attributed of it stands, and what is used while it comes again is residual there. So the gap that
    a collector tells of does not hold what was read before it, and who was seen after its end ended later."""
    newest = _newest_ns(devices, d)
    if newest < from_ns:
        return
    is_pending = devices.repeated_from_ns[d] > 0 and devices.repeated_to_ns[d] == newest
    since_ns = min(from_ns, devices.repeated_from_ns[d]) if is_pending else from_ns
    devices.repeated_from_ns[d] = max(since_ns, devices.first_ns[d])
    devices.repeated_to_ns[d] = newest
    changed_ns = newest
    for g in range(devices.gap_length[d] - 1, -1, -1):
        gap_from_ns, gap_to_ns = devices.gap_from_ns[d, g], devices.gap_to_ns[d, g]
        if gap_from_ns < newest <= gap_to_ns:
            changed_ns = min(changed_ns, gap_from_ns)
            _remove_gap(devices, d, gap_from_ns, gap_to_ns)
            if gap_to_ns > newest:
                _add_gap(devices, d, newest, gap_to_ns)
    h = devices.first_holder[d]
    while h >= 0:
        last = holders.seen_length[h] - 1
        if last >= 0 and from_ns - _SECOND_NS <= holders.exit_ns[h] < holders.seen_ns[h, last]:
            changed_ns = min(changed_ns, holders.exit_ns[h])
            holders.exit_ns[h] = newest
        h = holders.next_holder[h]
    if changed_ns < newest:
        _mark_energy(marks, hosts, devices, d, changed_ns, newest, window_ns, offset)


@part
def _since_repeated(devices: Devices, d: int, knot_ns: int, t: int) -> int:
    """To when the clock was set back, where a reading at ``t`` of a counter that last changed at ``knot_ns``
    is the first after the time that came twice; else 0."""
    to_ns = devices.repeated_to_ns[d]
    return int(devices.repeated_from_ns[d]) if knot_ns <= to_ns < t <= to_ns + LATENESS_NS else 0


@part
def _drop(drops: Drops, message: int, row: int, t: int, reason: int) -> None:
    drops.total[reason] += 1
    n = drops.listed[0]
    if n < drops.where.shape[0]:
        drops.where[n, 0] = message
        drops.where[n, 1] = row
        drops.where[n, 2] = reason
        drops.where[n, 3] = t
        drops.listed[0] = n + 1


@part
def _is_far_ahead(hosts: Hosts, host: int, d: int, now_ns: int, t: int) -> bool:
    """Whether a time lies so far ahead of its host's clock that it takes a second reading to believe it.

    One garbled time would else end every window up to it, and make all that follows too late."""
    if now_ns == 0 or t <= now_ns + _FAR_NS:
        return False
    sent_twice = t == hosts.ahead_ns[host] and d == hosts.ahead_device[host]
    if abs(t - hosts.ahead_ns[host]) < HORIZON_NS and not sent_twice:
        return False
    hosts.ahead_ns[host], hosts.ahead_device[host] = t, d
    return True


@part
def _stands_alone(hosts: Hosts, devices: Devices, d: int, t: int) -> bool:
    """Whether the only reading of a device lies more than a day ahead of its second, at ``t``, and nothing
    else of its host does: then it is that one which is garbled."""
    if devices.t_ns[d, 0] - t <= _FAR_NS:
        return False
    other = hosts.first_device[devices.host[d]]
    while other >= 0:
        n = devices.length[other]
        if other != d and n > 0 and devices.t_ns[other, n - 1] - t > _FAR_NS:
            return False
        other = devices.next_device[other]
    return True


@part
def _sample(batch: Batch, columns: tuple[int, int, int, int, int], i: int) -> Sample:
    """Row i of a message."""
    t_at, energy_at, power_at, average_at, sm_at = columns
    return (
        batch.words[t_at + i],
        batch.words[energy_at + i] if energy_at >= 0 else -1,
        batch.halves[power_at + i] if power_at >= 0 else -1,
        batch.halves[average_at + i] if average_at >= 0 else -1,
        sm_at >= 0 and batch.floats[sm_at + i] == 0.0,
    )


@part
def _is_absurd(sample: Sample) -> bool:
    t, energy_mj, power_mw, average_mw, _ = sample
    return (
        t > _TIME_MAX_NS
        or energy_mj < -1
        or energy_mj > _COUNTER_MAX_MJ
        or min(power_mw, average_mw) < -1
        or max(power_mw, average_mw) > _POWER_MAX_MW
    )


@part
def _fault(devices: Devices, d: int, sample: Sample) -> int:
    """Why a sample is refused whatever its neighbours are; ACCEPTED if it is not."""
    if _is_absurd(sample):
        return ABSURD
    return REPEATED if 0 < sample[0] <= devices.repeated_to_ns[d] else ACCEPTED


@part
def _changed_since(devices: Devices, d: int, at: int) -> int:
    """Since when a sample at index ``at`` bears on the energy: the last change of the counter before it, or
    the last reading of power."""
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
def _open_since(devices: Devices, d: int) -> int:
    """Since when a sample after the newest bears on the energy. Where the newest lack the counter, that goes
    straight from the last reading of power."""
    n = devices.length[d]
    if devices.counter_mj[d] < 0:
        return _changed_since(devices, d, n)
    newest, i = _newest_ns(devices, d), n - 1
    if n == 0 or devices.energy_mj[d, i] >= 0:
        return newest
    if devices.sources[d] & (HAS_INSTANT | HAS_AVERAGE):
        while (
            i > 0
            and newest - devices.t_ns[d, i] < _POWER_HOLDS_NS
            and (devices.power_mw[d, i] < 0 and devices.average_mw[d, i] < 0)
        ):
            i -= 1
    return int(devices.t_ns[d, i]) - AVERAGE_SHIFT_NS


@part
def _take_regular(
    devices: Devices, d: int, batch: Batch, columns: tuple[int, int, int, int, int], rows: tuple[int, int]
) -> int:
    """Take rows of one device as long as each is what nearly all are: within a second after the one before,
    and with a counter that went up. The first row not taken; the caller notes how long the series is then.

    The caller does the same with them, and asks more of each: 4.8 us a message of 80 became 3.8."""
    _, energy_at, power_at, average_at, _ = columns
    n, counter = devices.length[d], devices.counter_mj[d]
    # What has been read of the device before is known; where anything has not, the caller notes it.
    seen = HAS_COUNTER | (HAS_INSTANT if power_at >= 0 else 0) | (HAS_AVERAGE if average_at >= 0 else 0)
    if n < 2 or counter < 0 or energy_at < 0 or devices.broken[d] or devices.sources[d] & seen != seen:
        return rows[0]
    newest = devices.t_ns[d, n - 1]
    for i in range(rows[0], rows[1]):
        sample = _sample(batch, columns, i)
        t, energy, power, average, _ = sample
        span_ns, gain = t - newest, energy - counter
        if not (0 < span_ns <= _SECOND_NS and gain > 0 and 100 * gain <= span_ns + _SECOND_NS):
            return i
        if energy > _COUNTER_MAX_MJ or min(power, average) < -1 or max(power, average) > _POWER_MAX_MW:
            return i
        _put(devices, d, n, sample)
        newest, counter = t, energy
        n += 1
    return rows[1]


@part
def _take_late(
    hosts: Hosts,
    devices: Devices,
    d: int,
    n: int,
    counter: int,
    knot: int,
    sample: Sample,
    place: tuple[int, int, int],
    marks: Marks,
) -> tuple[int, int, int]:
    """Take a sample that is not the newest; (reason, what the counter read last, and since when)."""
    _, offset, window_ns = place
    t, energy = sample[0], sample[1]
    newest = devices.t_ns[d, n - 1] if n > 0 else 0
    reason, at = _insert_sample(devices, d, n, max(hosts.now_ns[devices.host[d]], newest), sample)
    if reason != ACCEPTED:
        return reason, counter, knot
    n += 1
    _mark_energy(marks, hosts, devices, d, _changed_since(devices, d, at), newest, window_ns, offset)
    if energy >= 0 and energy != counter and _next_reading(devices.energy_mj, d, n, at + 1) == n:
        return ACCEPTED, energy, t
    return ACCEPTED, counter, min(knot, t) if energy == counter else knot


@part
def _take_samples(
    hosts: Hosts,
    devices: Devices,
    d: int,
    batch: Batch,
    columns: tuple[int, int, int, int, int],
    rows: tuple[int, int],
    place: tuple[int, int, int],
    marks: Marks,
    drops: Drops,
) -> int:
    """Take rows of one device, which stand together in a message; its newest time.

    The hot loop: to take the newest rows in a part of its own made it 5 to 7 % slower without a counter."""
    message, offset, window_ns = place
    host, sources = devices.host[d], devices.sources[d]
    now_ns = hosts.now_ns[host]
    from_ns = _open_since(devices, d)
    n, counter, knot = devices.length[d], devices.counter_mj[d], devices.knot_ns[d]
    newest = devices.t_ns[d, n - 1] if n > 0 else 0
    first = _take_regular(devices, d, batch, columns, rows)
    if first > rows[0]:
        from_ns = min(from_ns, knot)
        n += first - rows[0]
        knot = newest = devices.t_ns[d, n - 1]
        counter = devices.energy_mj[d, n - 1]
    for i in range(first, rows[1]):
        sample = _sample(batch, columns, i)
        t, energy, power, average, _ = sample
        reason = _fault(devices, d, sample)
        if reason != ACCEPTED:
            _drop(drops, message, i, t, reason)
            continue
        if n == 1 and t > 0 and _stands_alone(hosts, devices, d, t):
            _drop(drops, message, i, newest, FAR_AHEAD)
            hosts.now_ns[host] = now_ns = min(now_ns, t)
            n = newest = 0
            counter = -1
        if t <= newest:
            reason, counter, knot = _take_late(hosts, devices, d, n, counter, knot, sample, place, marks)
            if reason != ACCEPTED:
                _drop(drops, message, i, t, reason)
            else:
                n += 1
                from_ns = min(from_ns, knot)
            continue
        if t - now_ns > _FAR_NS and _is_far_ahead(hosts, host, d, max(now_ns, newest), t):
            _drop(drops, message, i, t, FAR_AHEAD)
            continue
        if n > 0 and t - newest > _ANEW_NS:
            n = devices.gap_length[d] = devices.reset_length[d] = 0
            counter = -1
        repeated_ns = _since_repeated(devices, d, knot, t) if counter >= 0 else 0
        twice_ns = devices.repeated_to_ns[d] - repeated_ns if repeated_ns > 0 else 0
        leapt = counter >= 0 and energy - counter > _most_mj(t - knot + twice_ns)
        if leapt and _is_leap(devices, d, t, energy):
            _drop(drops, message, i, t, LEAP)
            continue
        if n == 0:
            devices.first_ns[d] = from_ns = t
        elif devices.broken[d] or t - newest > _SECOND_NS:
            if devices.broken[d] or _is_gap(devices, d, n, t - newest):
                _add_gap(devices, d, newest, t)
            devices.broken[d] = 0
        _put(devices, d, n, sample)
        n += 1
        newest = t
        if energy >= 0 and energy != counter:
            if energy < counter or leapt:
                _add_reset(devices, d, knot, t, 0, offset)
            elif repeated_ns > 0:
                _add_reset(devices, d, devices.repeated_to_ns[d], t, repeated_ns, offset)
                from_ns = min(from_ns, repeated_ns)
            devices.repeated_from_ns[d] = 0
            if counter >= 0:
                from_ns = min(from_ns, knot)
            counter, knot = energy, t
        elif energy >= 0 and n > 1 and devices.energy_mj[d, n - 2] < 0:
            from_ns = min(from_ns, knot)  # what was power since the last reading is the counter's now
        if power >= 0:
            sources |= HAS_INSTANT
        if average >= 0:
            sources |= HAS_AVERAGE
    if counter >= 0:
        sources |= HAS_COUNTER
    if sources != devices.sources[d] and n > 0:
        from_ns = max(devices.t_ns[d, 0], newest - HORIZON_NS)
    devices.length[d], devices.counter_mj[d], devices.knot_ns[d] = n, counter, knot
    devices.sources[d] = sources
    if n > 0:
        _mark_energy(marks, hosts, devices, d, from_ns, newest, window_ns, offset)
    return int(newest)


@part
def _take_use(holders: Holders, h: int, t: int, period_ns: int, percent: float) -> int:
    """Note SM use of (t - period, t], cut where the records beside it have spoken; since when that changes
    anything, FOREVER for a duplicate."""
    n = holders.used_length[h]
    at = n
    while at > 0 and holders.used_ns[h, at - 1] > t:
        at -= 1
    if at > 0 and holders.used_ns[h, at - 1] == t:
        return FOREVER
    for k in range(n, at, -1):
        holders.used_ns[h, k] = holders.used_ns[h, k - 1]
        holders.used_from_ns[h, k] = holders.used_from_ns[h, k - 1]
        holders.used_percent[h, k] = holders.used_percent[h, k - 1]
    holders.used_ns[h, at] = t
    from_ns = max(t - period_ns, holders.used_ns[h, at - 1] if at > 0 else 0)
    holders.used_from_ns[h, at] = from_ns
    holders.used_percent[h, at] = percent
    if at < n:
        from_ns = min(from_ns, holders.used_from_ns[h, at + 1])
        holders.used_from_ns[h, at + 1] = max(holders.used_from_ns[h, at + 1], t)
    holders.used_length[h] = n + 1
    return int(from_ns)


@part
def _take_process(
    holders: Holders,
    h: int,
    now_ns: int,
    repeated_ns: int,
    t: int,
    period_ns: int,
    memory_bytes: int,
    percent: float,
) -> tuple[int, int]:
    """Note that a process was resident, and what it used; (reason, since when that changes anything). Time up
    to ``repeated_ns`` came twice: the record is of the second one."""
    if t <= 0 or t > _TIME_MAX_NS or period_ns > 86_400 * _SECOND_NS or not percent <= 100.0:
        return ABSURD, 0
    if t <= repeated_ns:
        return REPEATED, 0
    if t < now_ns - HORIZON_NS:
        return TOO_LATE, 0
    if 0 < now_ns < t - _FAR_NS:
        return FAR_AHEAD, 0
    n = holders.seen_length[h]
    at = n
    while at > 0 and holders.seen_ns[h, at - 1] > t:
        at -= 1
    held_on = at == n and not holders.silent[h]  # from the last record, for all that was known
    if period_ns <= 0:
        period_ns = t - holders.seen_ns[h, at - 1] if at > 0 else 0
    from_ns = FOREVER
    if percent >= 0.0:
        from_ns = _take_use(holders, h, t, min(period_ns, t - repeated_ns), percent)
    if at > 0 and holders.seen_ns[h, at - 1] == t:
        at -= 1
        if holders.seen_memory_bytes[h, at] < 0 <= memory_bytes:
            holders.seen_memory_bytes[h, at] = memory_bytes
        elif from_ns == FOREVER:
            return DUPLICATE, 0
        period_ns = holders.seen_period_ns[h, at]
    else:
        for k in range(n, at, -1):
            holders.seen_ns[h, k] = holders.seen_ns[h, k - 1]
            holders.seen_period_ns[h, k] = holders.seen_period_ns[h, k - 1]
            holders.seen_memory_bytes[h, k] = holders.seen_memory_bytes[h, k - 1]
        holders.seen_ns[h, at] = t
        holders.seen_period_ns[h, at] = period_ns
        holders.seen_memory_bytes[h, at] = memory_bytes
        n += 1
        holders.seen_length[h] = n
        holders.silent[h] = 0
        holders.reach_from_ns[h] = min(holders.reach_from_ns[h], t - period_ns)
        holders.reach_to_ns[h] = max(holders.reach_to_ns[h], t + 3 * period_ns)
    from_ns = min(from_ns, t - period_ns)
    before = holders.seen_ns[h, at - 1] if at > 0 else 0
    reach_ns = 3 * max(holders.seen_period_ns[h, at - 1], period_ns) if at > 0 else 0
    # A record from after the exit shows that the process was not seen up to it.
    if at > 0 and (held_on or t - before <= reach_ns or holders.exit_ns[h] < t):
        from_ns = min(from_ns, before)
    if at + 1 < n:  # the record after it no longer speaks for the time before it
        from_ns = min(from_ns, max(holders.seen_ns[h, at + 1] - holders.seen_period_ns[h, at + 1], before))
    return ACCEPTED, from_ns


@part
def _pass_time(
    hosts: Hosts,
    devices: Devices,
    holders: Holders,
    host: int,
    now_ns: int,
    offset: int,
    window_ns: int,
    marks: Marks,
) -> None:
    """Move a host's clock on, and mark the windows that end, become final or lose a silent holder."""
    old_ns = hosts.now_ns[host]
    if now_ns <= old_ns:
        return
    hosts.now_ns[host] = now_ns
    goes_on = hosts.ended_ns[host] == old_ns  # after its collector's end: what was final then is not any more
    d = hosts.first_device[host]
    while d >= 0:
        if devices.length[d] > 0:
            first = devices.first_ns[d] // window_ns
            last = devices.t_ns[d, devices.length[d] - 1] // window_ns
            ended = min(now_ns // window_ns - 1, last)
            _mark(marks, d, max(old_ns // window_ns, first), ended, offset)
            if goes_on:
                open_ns = max(old_ns - LATENESS_NS, devices.first_ns[d])
                _mark(marks, d, open_ns // window_ns, min(old_ns // window_ns, last), offset)
            final = min((now_ns - LATENESS_NS) // window_ns - 1, last)
            _mark(marks, d, max((old_ns - LATENESS_NS) // window_ns, first), final, offset)
            h = devices.first_holder[d]
            while h >= 0:
                n = holders.seen_length[h]
                if n > 0 and not holders.silent[h]:
                    seen_ns = holders.seen_ns[h, n - 1]
                    if seen_ns + 3 * holders.seen_period_ns[h, n - 1] < now_ns:
                        holders.silent[h] = 1
                        _mark(marks, d, seen_ns // window_ns, now_ns // window_ns, offset)
                h = holders.next_holder[h]
        d = devices.next_device[d]


@part
def _readings_around(devices: Devices, d: int, from_ns: int, to_ns: int) -> tuple[int, int]:
    """The span in which a gap changes the energy: without a counter, from the last reading of power before
    it to the first after it."""
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
def _take_instance(
    devices: Devices,
    holders: Holders,
    hosts: Hosts,
    h: int,
    t: int,
    told: int,
    offset: int,
    window_ns: int,
    marks: Marks,
) -> None:
    """Note that a MIG instance was there, and how much of it was busy since its record before, whatever that
    told: it may have gone meanwhile, or the collector have begun anew."""
    d = holders.device[h]
    now_ns = hosts.now_ns[devices.host[d]]
    slices, activity = (told >> TOLD_SLICES) - 1, (told & ((1 << TOLD_EDGE) - 1)) - 1
    period_ns = 1 if told & (1 << TOLD_EDGE) else INSTANCE_NS
    reason, since_ns = _take_process(holders, h, now_ns, 0, t, period_ns, slices, -1.0)
    if reason == DUPLICATE:
        since_ns = FOREVER
    elif reason != ACCEPTED:
        return
    tells_use = activity >= 0
    for k in range(holders.used_length[h] - 1, -1, -1):  # what was told after it is not of the time before it
        if holders.used_ns[h, k] <= t:
            break
        if holders.used_from_ns[h, k] < t:
            since_ns = min(since_ns, holders.used_from_ns[h, k])
            holders.used_from_ns[h, k] = t
            tells_use = True
    k = holders.seen_length[h]
    while k > 0 and holders.seen_ns[h, k - 1] >= t:
        k -= 1
    if activity >= 0 and k > 0:
        period_ns = min(t - max(holders.seen_ns[h, k - 1], devices.repeated_to_ns[d]), INSTANCE_NS)
        since_ns = min(since_ns, _take_use(holders, h, t, period_ns, activity / 1e6))
    if since_ns == FOREVER or devices.length[d] == 0:
        return
    to_ns = max(now_ns, t)
    if tells_use:  # of what they draw too, then
        from_ns = since_ns - SHIFT_MAX_NS
        _mark_readings(marks, hosts, devices, d, from_ns, to_ns, since_ns, window_ns, offset)
    else:
        _mark(marks, d, max(since_ns, devices.first_ns[d]) // window_ns, to_ns // window_ns, offset)


@part
def _take_given(
    devices: Devices,
    holders: Holders,
    hosts: Hosts,
    h: int,
    t: int,
    period_ns: int,
    offset: int,
    window_ns: int,
    marks: Marks,
) -> None:
    """Note to whom a device is given, and for how long that speaks."""
    d = holders.device[h]
    now_ns = hosts.now_ns[devices.host[d]]
    holders.account[h] = RESERVED
    reason, since_ns = _take_process(holders, h, now_ns, 0, t, period_ns, -1, -1.0)
    if reason == ACCEPTED and devices.length[d] > 0:
        first = max(since_ns, devices.first_ns[d]) // window_ns
        _mark(marks, d, first, max(now_ns, t) // window_ns, offset)


@part
def _take_exit(devices: Devices, holders: Holders, h: int, t: int) -> int:
    """Note when a process ended; since when that changes anything."""
    t = max(t, devices.repeated_to_ns[holders.device[h]])  # it was there up to where the clock stood
    since_ns = min(t, holders.exit_ns[h])  # a second exit may name a later time
    holders.exit_ns[h] = t
    n = holders.seen_length[h]
    return int(min(since_ns, holders.seen_ns[h, n - 1]) if n > 0 else since_ns)


@part
def _take_of_host(
    hosts: Hosts,
    devices: Devices,
    holders: Holders,
    host: int,
    kind: int,
    from_ns: int,
    offset: int,
    window_ns: int,
    marks: Marks,
) -> None:
    """Take what all devices of a host share: its collector begins anew, or ends; its clock was set back."""
    now_ns = hosts.now_ns[host]
    if kind == END:
        hosts.ended_ns[host] = now_ns
    d = hosts.first_device[host]
    while d >= 0:
        if kind == REPEAT:
            _come_again(hosts, devices, holders, d, from_ns, window_ns, offset, marks)
        elif kind == EPOCH:
            devices.broken[d] = devices.length[d] > 0
        elif devices.length[d] > 0:
            open_ns = max(now_ns - LATENESS_NS, devices.first_ns[d])
            _mark(marks, d, open_ns // window_ns, _newest_ns(devices, d) // window_ns, offset)
        d = devices.next_device[d]


@part
def _take_event(
    hosts: Hosts,
    devices: Devices,
    holders: Holders,
    host: int,
    events: I64,
    e: int,
    offset: int,
    window_ns: int,
    marks: Marks,
) -> None:
    """Take what a message tells beside readings, and mark what that changes."""
    kind, index, from_ns, to_ns = events[e, 0], events[e, 1], events[e, 2], events[e, 3]
    if kind in (EPOCH, REPEAT, END):
        _take_of_host(hosts, devices, holders, host, kind, from_ns, offset, window_ns, marks)
        return
    d = index if kind in (GAP, TOUCH) else holders.device[index]
    if kind in (GIVEN, MIG_INSTANCE):
        t = max(from_ns, devices.repeated_to_ns[d] + 1)  # what time that came twice told holds from its end
        if kind == GIVEN:
            _take_given(devices, holders, hosts, index, t, to_ns, offset, window_ns, marks)
        else:
            _take_instance(devices, holders, hosts, index, t, to_ns, offset, window_ns, marks)
        return
    now_ns, has_samples = hosts.now_ns[host], devices.length[d] > 0
    floor_ns = now_ns - HORIZON_NS  # what lies before it is not touched any more
    if has_samples and kind != TOUCH:
        floor_ns = min(floor_ns, _newest_ns(devices, d) - HORIZON_NS)
    from_ns = max(from_ns, floor_ns)
    if kind != GAP:
        to_ns = now_ns
    elif to_ns > from_ns:
        _add_gap(devices, d, from_ns, to_ns)
        from_ns, to_ns = _readings_around(devices, d, from_ns, to_ns)
    if kind == EXIT:
        from_ns = max(_take_exit(devices, holders, index, from_ns), floor_ns)
    elif kind == PRIOR:
        from_ns = max(holders.reach_from_ns[index], floor_ns)
    if has_samples and kind == PRIOR:
        _mark_readings(marks, hosts, devices, d, from_ns, to_ns, from_ns, window_ns, offset)
    elif has_samples and kind == GAP:
        _mark_energy(marks, hosts, devices, d, from_ns, to_ns, window_ns, offset)
    elif has_samples:
        _mark(marks, d, max(from_ns, devices.first_ns[d]) // window_ns, to_ns // window_ns, offset)


@part
def _column(place: int, first_word: int, rows: int) -> int:
    """Index of an 8-byte column's first value in 8-byte words; -1 where the column is absent."""
    return first_word + place * rows if place >= 0 else -1


@part
def _narrow_column(place: int, first_word: int, rows: int) -> int:
    """Index of a 4-byte column's first value in 4-byte halves; -1 where the column is absent."""
    if place < 0:
        return -1
    wide, narrow = place & 0xFFFFFFFF, place >> NARROW_SHIFT
    return 2 * (first_word + wide * rows + narrow * ((rows + 1) // 2))


@part
def _has_room(
    devices: Devices, holders: Holders, batch: Batch, layout: int, device_rows: int, process_rows: int
) -> bool:
    """Whether the series of all that a message names can take its rows."""
    for k in range(batch.layouts[layout, L_GPU_COUNT]):
        d = batch.device_ids[batch.layouts[layout, L_GPUS] + k]
        if devices.length[d] + device_rows + 1 > devices.t_ns.shape[1]:
            return False
        if devices.gap_length[d] + 2 * device_rows + 2 > devices.gap_from_ns.shape[1]:
            return False
        full = devices.reset_length[d] + device_rows > devices.reset_from_ns.shape[1]
        if full or devices.showed_length[d] + device_rows > devices.showed_offset.shape[1]:
            return False
    for k in range(batch.layouts[layout, L_PROCESS_COUNT]):
        h = batch.holder_ids[batch.layouts[layout, L_PROCESSES] + k]
        if holders.seen_length[h] + process_rows + 1 > holders.seen_ns.shape[1]:
            return False
        if holders.used_length[h] + process_rows + 1 > holders.used_ns.shape[1]:
            return False
    return True


@part
def _has_room_for_events(
    hosts: Hosts, devices: Devices, holders: Holders, host: int, events: I64, first: int, end: int
) -> bool:
    """Whether the gap lists of a host's devices, and the records of holders that are named, can take as many
    more."""
    count = end - first
    for e in range(first, end):
        kind, h = events[e, 0], events[e, 1]
        if kind in (GIVEN, MIG_INSTANCE) and (
            holders.seen_length[h] + count + 1 > holders.seen_ns.shape[1]
            or holders.used_length[h] + count + 1 > holders.used_ns.shape[1]
        ):
            return False
    d = hosts.first_device[host]
    while d >= 0:
        if devices.gap_length[d] + count + 2 > devices.gap_from_ns.shape[1]:
            return False
        d = devices.next_device[d]
    return True


@part
def _take_device_rows(
    hosts: Hosts,
    devices: Devices,
    batch: Batch,
    m: int,
    layout: int,
    window_ns: int,
    marks: Marks,
    drops: Drops,
) -> int:
    """Take the device rows of message m, gpu by gpu; the host's newest time."""
    host, offset = batch.messages[m, HOST], batch.messages[m, OFFSET]
    word, rows = batch.messages[m, WORD], batch.messages[m, DEVICE_ROWS]
    columns = (
        _column(batch.layouts[layout, L_T], word, rows),
        _column(batch.layouts[layout, L_ENERGY], word, rows),
        _narrow_column(batch.layouts[layout, L_POWER], word, rows),
        _narrow_column(batch.layouts[layout, L_AVERAGE], word, rows),
        _narrow_column(batch.layouts[layout, L_SM], word, rows),
    )
    gpu_at = _narrow_column(batch.layouts[layout, L_GPU], word, rows)
    newest_ns = 0
    i = 0
    while i < rows:
        gpu = batch.halves[gpu_at + i]
        end = i + 1
        while end < rows and batch.halves[gpu_at + end] == gpu:
            end += 1
        if 0 <= gpu < batch.layouts[layout, L_GPU_COUNT]:
            d = batch.device_ids[batch.layouts[layout, L_GPUS] + gpu]
            place = (m, offset, window_ns)
            t = _take_samples(hosts, devices, d, batch, columns, (i, end), place, marks, drops)
            newest_ns = max(newest_ns, t)
        else:
            for k in range(i, end):
                _drop(drops, m, k, 0, UNKNOWN)
        i = end
    return int(max(newest_ns, hosts.now_ns[host]))


@part
def _take_process_rows(
    hosts: Hosts,
    devices: Devices,
    holders: Holders,
    batch: Batch,
    m: int,
    layout: int,
    now_ns: int,
    window_ns: int,
    marks: Marks,
    drops: Drops,
) -> None:
    """Take the process rows of message m; ``now_ns``: what the host's clock will be after it."""
    above = batch.messages[m, DEVICE_ROWS]
    word = (
        batch.messages[m, WORD]
        + batch.layouts[layout, L_WIDE] * above
        + batch.layouts[layout, L_NARROW] * ((above + 1) // 2)
    )
    rows = batch.messages[m, PROCESS_ROWS]
    t_at = _column(batch.layouts[layout, L_P_T], word, rows)
    period_at = _column(batch.layouts[layout, L_P_PERIOD], word, rows)
    memory_at = _column(batch.layouts[layout, L_P_MEMORY], word, rows)
    process_at = _narrow_column(batch.layouts[layout, L_P_PROCESS], word, rows)
    sm_at = _narrow_column(batch.layouts[layout, L_P_SM], word, rows)
    for i in range(rows):
        process = batch.halves[process_at + i]
        if process < 0 or process >= batch.layouts[layout, L_PROCESS_COUNT]:
            drops.of_processes[0] += 1
            _drop(drops, m, above + i, 0, UNKNOWN)
            continue
        h = batch.holder_ids[batch.layouts[layout, L_PROCESSES] + process]
        t = batch.words[t_at + i]
        period_ns = batch.words[period_at + i] if period_at >= 0 else -1
        memory_bytes = batch.words[memory_at + i] if memory_at >= 0 else -1
        percent = batch.floats[sm_at + i] if sm_at >= 0 else -1.0
        repeated_ns = devices.repeated_to_ns[holders.device[h]]
        reason, from_ns = _take_process(holders, h, now_ns, repeated_ns, t, period_ns, memory_bytes, percent)
        if reason != ACCEPTED:
            drops.of_processes[0] += 1
            _drop(drops, m, above + i, t, reason)
        else:
            d, to_ns, offset = holders.device[h], max(now_ns, t), batch.messages[m, OFFSET]
            if percent >= 0.0:
                shifted_ns = from_ns - SHIFT_MAX_NS  # it may turn out to be dated too late
                _mark_readings(marks, hosts, devices, d, shifted_ns, to_ns, from_ns, window_ns, offset)
            else:
                _mark(marks, d, from_ns // window_ns, to_ns // window_ns, offset)


@part
def _ask_for(batch: Batch, m: int) -> None:
    """Begin to load the columns of device rows of message m, if there is one.

    They were joined from messages all over memory, and the loop that takes them waited for each line."""
    if m >= batch.messages.shape[0] or batch.messages[m, KIND] != SAMPLES_MESSAGE:
        return
    layout, rows = batch.messages[m, LAYOUT], batch.messages[m, DEVICE_ROWS]
    words = batch.layouts[layout, L_WIDE] * rows + batch.layouts[layout, L_NARROW] * ((rows + 1) // 2)
    first = batch.messages[m, WORD]
    for word in range(first, first + min(words, _ASK_FOR_WORDS), _LINE_WORDS):
        prefetch(batch.words, (word,))


@part
def _may_begin_anew(hosts: Hosts, batch: Batch, m: int) -> bool:
    """Whether message m has a time after which a device is taken as another, and forgets its readings."""
    rows, host = batch.messages[m, DEVICE_ROWS], batch.messages[m, HOST]
    t_at = _column(batch.layouts[batch.messages[m, LAYOUT], L_T], batch.messages[m, WORD], rows)
    newest = 0
    for i in range(rows):
        newest = max(newest, batch.words[t_at + i])
    return bool(newest - hosts.now_ns[host] > _FAR_NS)


@kernel(types.int64(BATCH, types.int64, types.int64, types.int64, HOSTS, DEVICES, HOLDERS, MARKS, DROPS))
def ingest(
    batch: Batch,
    first: int,
    settled: int,
    window_ns: int,
    hosts: Hosts,
    devices: Devices,
    holders: Holders,
    marks: Marks,
    drops: Drops,
) -> int:
    """Take the messages from index ``first`` on; the index of the first one not taken, for want of room.

    -1 minus the index where that one may begin devices anew: all that is marked is to be attributed before,
    and then the message is ``settled``. A message is taken whole or not at all. See the names of the columns
    of ``batch`` above."""
    messages = batch.messages
    for m in range(first, messages.shape[0]):
        _ask_for(batch, m + 1)
        host, offset = messages[m, HOST], messages[m, OFFSET]
        device_rows, process_rows = messages[m, DEVICE_ROWS], messages[m, PROCESS_ROWS]
        room = device_rows + process_rows + 4 * marks.latest.shape[0] + holders.silent.shape[0]
        if marks.made[0] + room > marks.device.shape[0]:
            return m
        if messages[m, KIND] == EVENTS_MESSAGE:
            begin, end = messages[m, EVENT_FIRST], messages[m, EVENT_END]
            if not _has_room_for_events(hosts, devices, holders, host, batch.events, begin, end):
                return m
            for e in range(begin, end):
                _take_event(hosts, devices, holders, host, batch.events, e, offset, window_ns, marks)
            continue
        layout = messages[m, LAYOUT]
        if not _has_room(devices, holders, batch, layout, device_rows, process_rows):
            return m
        if m != settled and _may_begin_anew(hosts, batch, m):
            return -1 - m
        now_ns = _take_device_rows(hosts, devices, batch, m, layout, window_ns, marks, drops)
        _take_process_rows(hosts, devices, holders, batch, m, layout, now_ns, window_ns, marks, drops)
        _pass_time(hosts, devices, holders, host, now_ns, offset, window_ns, marks)
    return int(messages.shape[0])
