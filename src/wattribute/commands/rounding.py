"""Columns of figures that still add up when they are rounded, down and across."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wattribute.commands.output import Rows, decimals_for, shown_number


def values(rows: Rows, name: str) -> list[float]:
    """What is known of a column."""
    return [row[name] for row in rows if row[name] is not None]


def split_columns(rows: Rows, names: tuple[str, str, str]) -> list[list[str]]:
    """Cells of two columns and their sum, a total below; rounded, it still adds up, down and across."""
    decimals = decimals_for([math.fsum(values(rows, names[2]))])
    first = _rounded([row[names[0]] for row in rows], decimals)
    whole = round(math.fsum(values(rows, names[2])) * 10**decimals)
    second = _rounded([row[names[1]] for row in rows], decimals, whole - sum(part or 0 for part in first))
    sums = [None if a is None or b is None else a + b for a, b in zip(first, second, strict=True)]
    unit = 10.0**decimals
    lines = [
        [shown_money(None if part is None else part / unit, decimals) for part in parts]
        for parts in zip(first, second, sums, strict=True)
    ]
    return [*lines, [_total(column, decimals) for column in (first, second, sums)]]


def column(amounts: Sequence[float | None], decimals: int) -> list[str]:
    """Cells of a column, its total below."""
    parts = _rounded(amounts, decimals)
    return [
        *(shown_money(None if part is None else part / 10.0**decimals, decimals) for part in parts),
        _total(parts, decimals),
    ]


def _rounded(values: Sequence[float | None], decimals: int, whole: int | None = None) -> list[int | None]:
    """Values in units of the last decimal, by largest remainder; in sum ``whole``, or the rounded sum."""
    scaled = [None if value is None else value * 10**decimals for value in values]
    known = [place for place, value in enumerate(scaled) if value is not None]
    floors = [None if value is None else math.floor(value) for value in scaled]
    if whole is None:
        whole = round(math.fsum(value for value in scaled if value is not None))
    missing = min(max(0, whole - sum(floor for floor in floors if floor is not None)), len(known))
    by_remainder = sorted(known, key=lambda place: (floors[place] or 0) - (scaled[place] or 0.0))
    for place in by_remainder[:missing]:
        floors[place] = (floors[place] or 0) + 1
    return floors


def _total(parts: Sequence[int | None], decimals: int) -> str:
    known = [part for part in parts if part is not None]
    shown = shown_number(sum(known) / 10.0**decimals, decimals)
    if len(known) == len(parts):
        return shown
    return f"{shown} + unpriced" if known else "unpriced"


def shown_money(value: float | None, decimals: int) -> str:
    """An amount; what has no price says so."""
    return "unpriced" if value is None else shown_number(value, decimals)
