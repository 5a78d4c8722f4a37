"""Whole numbers, split such that the parts are the whole."""

from wattribute.kernels.jit import part
from wattribute.kernels.series import F64, I64

_NO_SHARE = -3.0  # in place of a rest, and below any: who has no share of a total gets no unit of it either


@part
def product_over(a: int, b: int, c: int) -> int:
    """floor(a * b / c) for 0 <= b <= c, c > 0, a >= 0, exactly, where a * b passes 63 bits too.

    µJ × ns overflows within seconds: 700 J × 10 s is 7e18 of 9.2e18. Then by bits: at most 63 steps.
    """
    if float(a) * float(b) < 9.0e18:
        return a * b // c
    quotient, remainder = a // c * b, 0
    rest = a % c
    extra = 0
    for bit in range(62, -1, -1):  # extra * c + remainder == rest * (the bits of b so far)
        extra *= 2
        if remainder >= c - remainder:
            remainder -= c - remainder
            extra += 1
        else:
            remainder *= 2
        if (b >> bit) & 1:
            if remainder >= c - rest:
                remainder -= c - rest
                extra += 1
            else:
                remainder += rest
    return quotient + extra


@part
def to_ratios(weights: F64, n: int) -> None:
    """Turn the first n weights (sum > 0) into their shares of the whole: several quantities are split by the
    same."""
    whole = 0.0
    for k in range(n):
        whole += weights[0, k]
    for k in range(n):
        weights[0, k] /= whole


@part
def apportion(total: int, ratios: F64, row: int, n: int, parts: I64, rests: F64) -> None:
    """Split ``total`` by n ratios (sum 1), of that row, by largest remainder; equal remainders in order.
    ``rests`` is room for them.

    To whom a unit goes is as good as random: found without a branch, a window of four processes came from
    1228 ns to 1063."""
    left = total
    for k in range(n):
        share = total * ratios[row, k]
        parts[k] = int(share)
        rests[k] = share - parts[k] if ratios[row, k] > 0.0 else _NO_SHARE
        left -= parts[k]
    while left > 0:
        best, most = 0, -2.0
        for k in range(n):
            best = k if rests[k] > most else best
            most = max(most, rests[k])
        parts[best] += 1
        rests[best] -= 1.0
        left -= 1
    while left < 0:  # rounding in the products gave a unit too much
        best, least = 0, 2.0
        for k in range(n):
            if rests[k] < least and parts[k] > 0:
                best, least = k, rests[k]
        parts[best] -= 1
        rests[best] += 1.0
        left += 1
