"""Find where an instant lies among ascending times."""

from wattribute.kernels.jit import part
from wattribute.kernels.series import I64


@part
def find_sample(t_ns: I64, d: int, n: int, i: int, instant_ns: int, per_ns: float) -> int:
    """Return the last of n samples at or before an instant, which must not be before sample i.

    Samples come at a steady pace, ``per_ns`` of them a nanosecond. The search begins where the sample should
    be, with steps that double. It reads one or two cache lines, where a scan at 100 Hz reads 13 for each
    second."""
    i = min(i + int((instant_ns - t_ns[d, i]) * per_ns), n - 1)
    step = 1
    while t_ns[d, i] > instant_ns:
        i = max(i - step, 0)
        step *= 2
    step = 1
    while i + step < n and t_ns[d, i + step] <= instant_ns:
        i += step
        step *= 2
    while step > 1:
        step //= 2
        if i + step < n and t_ns[d, i + step] <= instant_ns:
            i += step
    return i


@part
def samples_per_ns(t_ns: I64, d: int, n: int) -> float:
    """Samples per nanosecond."""
    return float((n - 1) / max(t_ns[d, n - 1] - t_ns[d, 0], 1))


@part
def first_after(ns: I64, row: int, n: int, instant_ns: int, near: int) -> int:
    """Return the first of n ascending times that lies after an instant; n if none does. The search begins at
    ``near``, with steps that double: from block to block the answer never moves far."""
    low, high, step = 0, n, 1
    near = min(near, n)
    if near < n and ns[row, near] <= instant_ns:
        low = near + 1
        while low + step < n and ns[row, low + step] <= instant_ns:
            low += step + 1
            step *= 2
        high = min(low + step, n)
    else:
        high = near
        while high - step >= 0 and ns[row, high - step] > instant_ns:
            high -= step
            step *= 2
        low = max(high - step, 0)
    while low < high:
        middle = (low + high) // 2
        if ns[row, middle] > instant_ns:
            high = middle
        else:
            low = middle + 1
    return low
