"""Which marked windows are due, against the same said in sets."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wattribute.kernels.marks import take_due
from wattribute.kernels.series import FOREVER, Due
from wattribute.stream.series import new_marks

_DEVICES = 3
_EDGES = st.integers(0, 8) | st.sampled_from([-FOREVER, FOREVER])


@given(
    marks=st.lists(
        st.tuples(st.integers(0, _DEVICES - 1), st.integers(0, 6), st.integers(0, 4), st.integers(0, 99)),
        max_size=12,
    ),
    least=st.lists(_EDGES, min_size=_DEVICES, max_size=_DEVICES),
    at_most=st.lists(_EDGES, min_size=_DEVICES, max_size=_DEVICES),
)
def test_each_window_is_due_or_waits(
    marks: list[tuple[int, int, int, int]], least: list[int], at_most: list[int]
) -> None:
    most = [max(before - 1, last) for before, last in zip(least, at_most, strict=True)]
    made, waiting = new_marks(len(marks), _DEVICES), new_marks(2 * len(marks), _DEVICES)
    made.made[0] = len(marks)
    for place, (device, first, more, offset) in enumerate(marks):
        made.device[place], made.offset[place] = device, offset
        made.first[place], made.last[place] = first, first + more
    due = Due(np.zeros(_DEVICES + 1, np.int64), *(np.zeros(len(marks), np.int64) for _ in range(3)))

    count = take_due(made, np.array(least), np.array(most), waiting, due)

    n = int(waiting.made[0])
    left = _windows(waiting.device[:n], waiting.first[:n], waiting.last[:n], waiting.offset[:n])
    of = np.repeat(np.arange(_DEVICES), np.diff(due.bounds))
    taken = _windows(of, due.first[:count], due.last[:count], due.offset[:count])
    expected: dict[bool, list[tuple[int, int, int]]] = {True: [], False: []}
    for device, first, more, offset in marks:
        for window in range(first, first + more + 1):
            expected[least[device] <= window <= most[device]].append((device, window, offset))
    assert taken == sorted(expected[True])
    assert left == sorted(expected[False])


def _windows(*marks: NDArray[Any]) -> list[tuple[int, int, int]]:
    """Device, window and offset of each window marked."""
    return sorted(
        (device, window, offset)
        for device, first, last, offset in zip(*(column.tolist() for column in marks), strict=True)
        for window in range(first, last + 1)
    )
