"""What is handed to ``ingest``: the columns of messages, layouts and events; why a reading is passed over."""

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

Sample = tuple[int, int, int, int, bool]
"""What a row says of a device: time, counter, power and its average, -1 where absent; whether nothing ran."""
