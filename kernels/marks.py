"""Which of the marked windows are due now, by device, and which may wait."""

from wattribute.kernels.jit import kernel
from wattribute.kernels.series import DUE, I64, MARKS, Due, Marks, types

_i64 = types.Array(types.int64, 1, "C")


@kernel(types.int64(MARKS, _i64, _i64, MARKS, DUE))
def take_due(marks: Marks, least: I64, most: I64, waiting: Marks, due: Due) -> int:
    """Part the marks: of each device the windows from ``least`` to ``most`` (devices) into ``due``, the
    others into ``waiting``; how many are due. ``most`` is not before the window before ``least``. Both have
    room for as many as there are; of a mark that reaches beyond both, ``waiting`` takes two. The bounds of
    ``due`` are zero."""
    bounds = due.bounds
    left = waiting.made[0]
    for i in range(marks.made[0]):
        d, first, last = marks.device[i], marks.first[i], marks.last[i]
        bounds[d + 1] += max(first, least[d]) <= min(last, most[d])
        for from_, to in ((first, min(last, least[d] - 1)), (max(first, most[d] + 1), last)):
            if from_ <= to:
                waiting.device[left] = d
                waiting.first[left] = from_
                waiting.last[left] = to
                waiting.offset[left] = marks.offset[i]
                left += 1
    waiting.made[0] = left
    for d in range(bounds.shape[0] - 1):
        bounds[d + 1] += bounds[d]
    place = bounds[:-1].copy()
    for i in range(marks.made[0]):
        d = marks.device[i]
        first, last = max(marks.first[i], least[d]), min(marks.last[i], most[d])
        if first <= last:
            due.first[place[d]] = first
            due.last[place[d]] = last
            due.offset[place[d]] = marks.offset[i]
            place[d] += 1
    return int(bounds[bounds.shape[0] - 1])
