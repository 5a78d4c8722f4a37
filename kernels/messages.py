"""The input of ``ingest``: columns of messages, layouts and events; and the reasons to drop a reading."""

SAMPLES_MESSAGE, EVENTS_MESSAGE = 0, 1
# Columns of ``messages``: kind, host, offset; then for samples the row of ``layouts``, the index of the first
# column in 8-byte words, and the numbers of rows; for events their range in ``events``.
KIND, HOST, OFFSET, LAYOUT, WORD, DEVICE_ROWS, PROCESS_ROWS = range(7)
EVENT_FIRST, EVENT_END = 3, 4
# Columns of ``layouts``: where the gpus and processes of a header begin in ``device_ids`` and
# ``holder_ids``, how many there are, and for each column of a message how many 8-byte and 4-byte columns
# come before it (-1 = absent), then the totals.
L_GPUS, L_GPU_COUNT, L_PROCESSES, L_PROCESS_COUNT = range(4)
L_T, L_ENERGY, L_GPU, L_POWER, L_AVERAGE, L_SM, L_WIDE, L_NARROW = range(4, 12)
L_P_T, L_P_PERIOD, L_P_MEMORY, L_P_PROCESS, L_P_SM = range(12, 17)
LAYOUT_COLUMNS = 17
NARROW_SHIFT = 32  # a column's place is (narrow columns before) << 32 | (wide columns before)

# Events: (kind, index, from_ns, to_ns). PRIOR: index is the process whose prior has changed. REPEAT: from_ns
# is the time to which the clock was set back. GIVEN: from_ns is its time, to_ns how long it counts.
# MIG_INSTANCE: from_ns is its time, to_ns the sum of 1 + its slices (0 = not reported) << TOLD_SLICES, of 1
# << TOLD_EDGE where it begins or ends, and of 1 + its activity in millionths of a percent (0 = not reported).
EXIT, GAP, TOUCH, EPOCH, END, GIVEN, MIG_INSTANCE, PRIOR, REPEAT = range(9)
TOLD_SLICES, TOLD_EDGE = 33, 32

ACCEPTED, DUPLICATE, TOO_LATE, BACKWARDS, ABSURD, UNKNOWN, FAR_AHEAD, LEAP, REPEATED = range(9)
REASONS = (
    "accepted",
    "duplicate",
    "more than 1 h late",
    "time or counter runs backwards",
    "value out of range",
    "names a gpu or process that is not in its message's header",
    "time more than a day ahead of its host's clock, and no second reading near it",
    "counter claims more than 10 kW can use, and no second reading near it",
    "from a time that came twice, because the clock was set back",
)

Sample = tuple[int, int, int, int, bool]
"""One device row: time, counter, power and average power, -1 where absent; whether nothing ran."""
