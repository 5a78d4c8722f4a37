"""Take messages in: put readings into their series, and mark the windows that they change.

    samples  put samples into the series of their device (samples.py), if they are plausible by its counter
             (counter.py) and otherwise (doubt.py); time without samples is a gap (gaps.py)
    holders  put records of who holds a device into theirs (holders.py)
    events   take what messages report besides readings, and move the clocks of hosts (events.py)
    mark     mark the windows that any of that affects (marks.py)

One pass over the messages of a batch, in their order. All state is in the arrays, so how the messages
are cut into batches changes nothing. Marks carry the offset of the message that made them. Together this
makes every row and its version a function of the messages alone.

A window is marked by every message that may change one of its rows:
- device samples: from the last change of the counter before them (energy is interpolated between
  changes) to their last;
- a process record: from the record before it, if the process held the device since, to now;
- a process gone silent for 3 periods, an exit, a gap, an identity: the time that they concern;
- the host's clock passing the window's end (provisional) and its end + 10 s (final), or the end of the
  host's collector.
"""

from wattribute.kernels.doubt import FAR_NS, drop
from wattribute.kernels.events import pass_time, take_event
from wattribute.kernels.holders import take_process
from wattribute.kernels.jit import kernel, part, prefetch
from wattribute.kernels.marks import mark, mark_readings
from wattribute.kernels.messages import (
    ACCEPTED,
    DEVICE_ROWS,
    EVENT_END,
    EVENT_FIRST,
    EVENTS_MESSAGE,
    GIVEN,
    HOST,
    KIND,
    L_AVERAGE,
    L_ENERGY,
    L_GPU,
    L_GPU_COUNT,
    L_GPUS,
    L_NARROW,
    L_P_MEMORY,
    L_P_PERIOD,
    L_P_PROCESS,
    L_P_SM,
    L_P_T,
    L_POWER,
    L_PROCESS_COUNT,
    L_PROCESSES,
    L_SM,
    L_T,
    L_WIDE,
    LAYOUT,
    MIG_INSTANCE,
    NARROW_SHIFT,
    OFFSET,
    PROCESS_ROWS,
    SAMPLES_MESSAGE,
    UNKNOWN,
    WORD,
)
from wattribute.kernels.samples import take_samples
from wattribute.kernels.series import (
    BATCH,
    DEVICES,
    DROPS,
    HOLDERS,
    HOSTS,
    I64,
    MARKS,
    SHIFT_MAX_NS,
    Batch,
    Devices,
    Drops,
    Holders,
    Hosts,
    Marks,
    types,
)

_LINE_WORDS = 8  # words of a cache line
_ASK_FOR_WORDS = 1024  # of a message: more would evict what was prefetched first


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
    """Whether the series of all devices and processes that a message names have room for its rows."""
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
    """Whether the gap lists of a host's devices, and the records of the holders named, have room for the
    events."""
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
    """Take the device rows of message m, gpu by gpu; return the host's newest time."""
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
            t = take_samples(hosts, devices, d, batch, columns, (i, end), place, marks, drops)
            newest_ns = max(newest_ns, t)
        else:
            for _ in range(i, end):
                drop(drops, m, 0, UNKNOWN)
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
    """Take the process rows of message m; ``now_ns``: where the host's clock will stand after it."""
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
            drop(drops, m, 0, UNKNOWN)
            continue
        h = batch.holder_ids[batch.layouts[layout, L_PROCESSES] + process]
        t = batch.words[t_at + i]
        period_ns = batch.words[period_at + i] if period_at >= 0 else -1
        memory_bytes = batch.words[memory_at + i] if memory_at >= 0 else -1
        percent = batch.floats[sm_at + i] if sm_at >= 0 else -1.0
        repeated_ns = devices.repeated_to_ns[holders.device[h]]
        reason, from_ns = take_process(holders, h, now_ns, repeated_ns, t, period_ns, memory_bytes, percent)
        if reason != ACCEPTED:
            drops.of_processes[0] += 1
            drop(drops, m, t, reason)
        else:
            d, to_ns, offset = holders.device[h], max(now_ns, t), batch.messages[m, OFFSET]
            if percent >= 0.0:
                shifted_ns = from_ns - SHIFT_MAX_NS  # SM time may turn out to be dated late
                mark_readings(marks, hosts, devices, d, shifted_ns, to_ns, from_ns, window_ns, offset)
            else:
                mark(marks, d, from_ns // window_ns, to_ns // window_ns, offset)


@part
def _ask_for(batch: Batch, m: int) -> None:
    """Prefetch the columns of the device rows of message m, if there is one.

    They were joined from messages all over memory, and the loop that takes them waited for each cache
    line."""
    if m >= batch.messages.shape[0] or batch.messages[m, KIND] != SAMPLES_MESSAGE:
        return
    layout, rows = batch.messages[m, LAYOUT], batch.messages[m, DEVICE_ROWS]
    words = batch.layouts[layout, L_WIDE] * rows + batch.layouts[layout, L_NARROW] * ((rows + 1) // 2)
    first = batch.messages[m, WORD]
    for word in range(first, first + min(words, _ASK_FOR_WORDS), _LINE_WORDS):
        prefetch(batch.words, (word,))


@part
def _may_begin_anew(hosts: Hosts, batch: Batch, m: int) -> bool:
    """Whether message m has a time so late that a device may begin anew, and forget its readings."""
    rows, host = batch.messages[m, DEVICE_ROWS], batch.messages[m, HOST]
    t_at = _column(batch.layouts[batch.messages[m, LAYOUT], L_T], batch.messages[m, WORD], rows)
    newest = 0
    for i in range(rows):
        newest = max(newest, batch.words[t_at + i])
    return bool(newest - hosts.now_ns[host] > FAR_NS)


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
    """Take the messages from index ``first`` on; return the index of the first one not taken, for lack of
    room.

    Return -1 minus that index where the message may begin devices anew: attribute all that is marked, then
    pass the index as ``settled``. A message is taken whole or not at all. messages.py names the columns of
    ``batch``."""
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
                take_event(hosts, devices, holders, host, batch.events, e, offset, window_ns, marks)
            continue
        layout = messages[m, LAYOUT]
        if not _has_room(devices, holders, batch, layout, device_rows, process_rows):
            return m
        if m != settled and _may_begin_anew(hosts, batch, m):
            return -1 - m
        now_ns = _take_device_rows(hosts, devices, batch, m, layout, window_ns, marks, drops)
        _take_process_rows(hosts, devices, holders, batch, m, layout, now_ns, window_ns, marks, drops)
        pass_time(hosts, devices, holders, host, now_ns, offset, window_ns, marks)
    return int(messages.shape[0])
