"""Split whole numbers so that the parts add up to the whole."""

from wattribute.kernels.jit import part
from wattribute.kernels.series import F64, I64

_NO_SHARE = -3.0  # below any remainder: marks who has no share of a total, and so gets no unit of it


@part
def product_over(a: int, b: int, c: int) -> int:
    """Return floor(a * b / c) exactly, for 0 <= b <= c, c > 0, a >= 0, even where a * b exceeds 63 bits.

    µJ × ns overflows within seconds: 700 J × 10 s is 7e18 of 9.2e18. Then it is computed by bits, in at most
    63 steps.
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
    """Turn the first n weights (sum > 0) into shares of their sum, in place, because several quantities are
    split by them."""
    whole = 0.0
    for k in range(n):
        whole += weights[0, k]
    for k in range(n):
        weights[0, k] /= whole


@part
def apportion(total: int, ratios: F64, row: int, n: int, parts: I64, rests: F64) -> None:
    """Split ``total`` into ``parts`` by n ratios (row ``row``, sum 1), by largest remainder; equal remainders
    in order. ``rests`` is scratch space for the remainders.

    Which part gets a unit is as good as random, so there is no branch: each counts the remainders before its
    own, many at once. That took a window of eight processes from 1790 ns to 1200, against a search for the
    largest remainder for each unit; of two from 519 to 423."""
    left = total
    for k in range(n):
        share = total * ratios[row, k]
        parts[k] = int(share)
        rests[k] = share - parts[k] if ratios[row, k] > 0.0 else _NO_SHARE
        left -= parts[k]
    while left > 0:  # once, unless the total nears 2^52, where products are off by units
        given = 0
        for k in range(n):
            before = 0
            for j in range(n):
                before += (rests[j] > rests[k]) | ((rests[j] == rests[k]) & (j < k))
            more = (before < left) & (rests[k] > _NO_SHARE)
            parts[k] += more
            given += more
        left -= given
    while left < 0:  # rounding of the products gave out a unit too many
        best, least = 0, 2.0
        for k in range(n):
            if rests[k] < least and parts[k] > 0:
                best, least = k, rests[k]
        parts[best] -= 1
        rests[best] += 1.0
        left += 1
