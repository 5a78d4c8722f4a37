"""Columns of figures that still add up when they are rounded, down and across. What is too small to be shown
is not shown as 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from wattribute.commands.output import Rows, decimals_for, shown_number

CENTS: Final = 2  # a bill has at least these decimals, so that a small sum can be read beside a large one


def values(rows: Rows, name: str) -> list[float]:
    """The values of a column, without None."""
    return [row[name] for row in rows if row[name] is not None]


def split_columns(rows: Rows, names: tuple[str, str, str], least: int = 0) -> list[list[str]]:
    """Cells of two columns and their sum, with a total below and ``least`` or more decimals. Rounded, they
    still add up, down and across."""
    decimals = decimals_for([math.fsum(values(rows, names[2]))], least)
    first = _rounded([row[names[0]] for row in rows], decimals)
    whole = round(math.fsum(values(rows, names[2])) * 10**decimals)
    second = _rounded([row[names[1]] for row in rows], decimals, whole - sum(part or 0 for part in first))
    sums = [None if a is None or b is None else a + b for a, b in zip(first, second, strict=True)]
    columns = [
        _shown(parts, [row[name] for row in rows], decimals)
        for parts, name in zip((first, second, sums), names, strict=True)
    ]
    return [list(line) for line in zip(*columns, strict=True)]


def column(amounts: Sequence[float | None], decimals: int) -> list[str]:
    """Cells of a column, with its total below."""
    return _shown(_rounded(amounts, decimals), amounts, decimals)


def _shown(parts: Sequence[int | None], amounts: Sequence[float | None], decimals: int) -> list[str]:
    """Cells of amounts that are rounded to ``parts``, with a total below. None reads 0 without being 0."""
    unit = 10.0**-decimals

    def cell(part: int | None, amount: float | None) -> str:
        if part == 0 and amount:
            return f"<{shown_number(unit, decimals)}"
        return shown_money(None if part is None else part / 10.0**decimals, decimals)

    known = [part for part in parts if part is not None]
    total = cell(sum(known), math.fsum(amount for amount in amounts if amount is not None))
    if len(known) < len(parts):
        total = f"{total} + unpriced" if known else "unpriced"
    return [*map(cell, parts, amounts), total]


def _rounded(values: Sequence[float | None], decimals: int, whole: int | None = None) -> list[int | None]:
    """Values in units of the last decimal, by largest remainder. They add up to ``whole``, or the rounded
    sum."""
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


def shown_money(value: float | None, decimals: int) -> str:
    """An amount for people; 'unpriced' if it is None."""
    return "unpriced" if value is None else shown_number(value, decimals)
