"""Columns of figures that still add up when they are rounded, down and across, and what is too little to be
shown is not shown as nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from wattribute.commands.output import Rows, decimals_for, shown_number

CENTS: Final = 2  # the decimals that a bill has at least: beside a great sum a small one is to be read, too


def values(rows: Rows, name: str) -> list[float]:
    """What is known of a column."""
    return [row[name] for row in rows if row[name] is not None]


def split_columns(rows: Rows, names: tuple[str, str, str], least: int = 0) -> list[list[str]]:
    """Cells of two columns and their sum, a total below, with so many decimals at ``least``; rounded, it
    still adds up, down and across."""
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
    """Cells of a column, its total below."""
    return _shown(_rounded(amounts, decimals), amounts, decimals)


def _shown(parts: Sequence[int | None], amounts: Sequence[float | None], decimals: int) -> list[str]:
    """Cells of amounts that are rounded to ``parts``, their total below. What is not 0 does not read 0."""
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


def shown_money(value: float | None, decimals: int) -> str:
    """An amount; what has no price says so."""
    return "unpriced" if value is None else shown_number(value, decimals)
