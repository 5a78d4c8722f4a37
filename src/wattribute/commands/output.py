"""What the commands print: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from wattribute.errors import UsageError, printable

_PLAIN_WIDTH: Final = 10_000  # when piped: lines are not broken
_GUTTER: Final = 3  # between two columns on a terminal
_LEAST: Final = 4  # how narrow a column of texts may become

Rows = Sequence[Mapping[str, Any]]


class Format(StrEnum):
    """What an answer is printed as."""

    table = "table"
    json = "json"
    csv = "csv"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of texts. The columns in ``numeric`` are right-aligned; those in ``spare`` are left
    out, one after the other, until the rest fits the terminal; ``styles`` colour whole rows."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    styles: Sequence[str] = ()
    title: str = ""
    notes: Sequence[str] = ()
    spare: Sequence[int] = ()


def on_terminal() -> bool:
    """Whether a person looks at standard output."""
    return sys.stdout.isatty()


def write_rows(
    rows: Rows, shape: Format, columns: Sequence[str] | None = None, to: TextIO | None = None
) -> None:
    """Print rows as they are: JSON, CSV, or a plain table. ``columns`` is needed if there may be no rows."""
    names = list(columns if columns is not None else rows[0] if rows else ())
    file = to or sys.stdout
    if shape is not Format.table and isinstance(file, TextIOWrapper):
        # Whatever the locale is: JSON is UTF-8, and names that the locale cannot encode would become equal.
        file.reconfigure(encoding="utf-8", errors="replace")
    if shape is Format.json:
        lines = ",\n ".join(json.dumps(_jsonable(dict(row)), ensure_ascii=False) for row in rows)
        file.write(f"[{lines}]\n")
    elif shape is Format.csv:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_csv_field(row[name]) for name in names] for row in rows)
    else:
        numeric = frozenset(
            place
            for place, name in enumerate(names)
            if rows and all(isinstance(row[name], int | float | Decimal | None) for row in rows)
        )
        write_grid(Grid(names, [[_cell(row[name]) for name in names] for row in rows], numeric), to)


def write_grid(grid: Grid, to: TextIO | None = None) -> None:
    """Print a table: coloured on a terminal, plain and at full width when piped."""
    file = to or sys.stdout
    plain = {} if file.isatty() else {"width": _PLAIN_WIDTH, "no_color": True, "highlight": False}
    console = Console(file=file, **plain)  # type: ignore[arg-type]
    with console.capture() as captured:
        if grid.title:
            console.print(Text(grid.title, style="bold"))
        without = too_much(grid, console.width) if console.is_terminal else ()
        if console.is_terminal:
            width = console.width
            grid, least = _with_whole_figures(grid, without, width)
            console.width = max(width, least)
            console.print(rendered(grid, True, without))
            console.width = width
        else:
            console.print(rendered(grid, False))
        for line in lines_below(grid, without):
            console.print(Text(line))
    text = captured.get()
    file.write(text if console.is_terminal else "\n".join(map(str.rstrip, text.splitlines())) + "\n")


def rendered(grid: Grid, colour: bool, without: Sequence[int] = ()) -> Table:
    """The table as rich draws it, ``without`` some columns."""
    table = Table(box=box.SIMPLE_HEAD if colour else None, pad_edge=False, padding=(0, 1))
    places = [place for place in range(len(grid.headers)) if place not in without]
    for place in places:
        justify: JustifyMethod = "right" if place in grid.numeric else "left"
        table.add_column(
            Text(grid.headers[place]), justify=justify, no_wrap=justify == "right", overflow="fold"
        )
    for number, row in enumerate(grid.rows):
        style = grid.styles[number] if colour and number < len(grid.styles) else None
        table.add_row(*(Text(printable(row[place])) for place in places), style=style)
    return table


def _widths(grid: Grid) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(grid.headers, *grid.rows, strict=True)]


def _with_whole_figures(grid: Grid, without: Sequence[int], most: int) -> tuple[Grid, int]:
    """Fit the table to a terminal that is ``most`` wide; return it, and the width to draw. A cut figure would
    be a wrong one: first break headings of figures between words, then texts anywhere; beyond that the
    terminal breaks lines."""
    places = [place for place in range(len(grid.headers)) if place not in without]
    if sum(_widths(grid)[place] + _GUTTER for place in places) <= most:
        return grid, most
    headers = list(grid.headers)
    for place in grid.numeric.intersection(places):
        figures = max((cell_len(row[place]) for row in grid.rows), default=1)
        headers[place] = "\n".join(
            textwrap.wrap(
                headers[place], max(figures, _LEAST), break_long_words=False, break_on_hyphens=False
            )
        )
    broken = replace(grid, headers=headers)
    lines = [max(map(cell_len, header.split("\n"))) for header in headers]
    figures_at = _widths(replace(grid, headers=[""] * len(headers)))
    widths = [max(pair) for pair in zip(lines, figures_at, strict=True)]
    least = [widths[place] if place in grid.numeric else min(widths[place], _LEAST) for place in places]
    return broken, sum(least) + _GUTTER * len(least)


def lines_below(grid: Grid, without: Sequence[int]) -> list[str]:
    """The lines below a table that is drawn ``without`` some columns."""
    named = ", ".join(grid.headers[place] for place in without if grid.headers[place])
    left_out = [f"left out because the terminal is too narrow: {named}"] if named else []
    return [*map(printable, grid.notes), *left_out]


def too_much(grid: Grid, most: int) -> Sequence[int]:
    """The columns to leave out on a terminal that is ``most`` wide."""
    widths = [width + _GUTTER for width in _widths(grid)]
    count, width = 0, sum(widths)
    while width > most and count < len(grid.spare):
        width -= widths[grid.spare[count]]
        count += 1
    return grid.spare[:count]


def shown_number(value: float | None, decimals: int) -> str:
    """A number for people; '-' where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:,.{decimals}f}"


def shown_percent(ratio: float) -> str:
    """A ratio for people, in percent."""
    return f"{100 * ratio:.1f}"


def decimals_for(values: Sequence[float | None], least: int = 0) -> int:
    """How many decimals show the greatest of ``values`` with four digits; from ``least`` to 9."""
    greatest = max((abs(value) for value in values if value is not None), default=0.0)
    if not greatest or not math.isfinite(greatest):
        return least
    return min(9, max(least, 3 - math.floor(math.log10(greatest))))


def note(text: str) -> None:
    """Print a line about what is going on, to standard error."""
    sys.stderr.write("\n".join(map(printable, text.split("\n"))) + "\n")
    sys.stderr.flush()


def check_file(option: str, path: Path) -> None:
    """Raise UsageError if a file cannot be written: better before days of work than after them."""
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{option} {path} cannot be written: name a file in a writable folder")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.10g}"
    plain = _jsonable(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _csv_field(value: Any) -> Any:
    plain = _jsonable(value)
    if plain is None:
        return ""
    return plain if isinstance(plain, str | int | float) else json.dumps(plain, ensure_ascii=False)


def _jsonable(value: Any) -> Any:
    """The value in types that JSON has; infinite numbers and NaN become None."""
    plain: Any = value
    if isinstance(value, Decimal):
        plain = float(value)
    elif isinstance(value, datetime):
        is_utc = not value.utcoffset()  # or has no zone
        plain = f"{value.replace(tzinfo=None).isoformat()}Z" if is_utc else value.isoformat()
    elif isinstance(value, Mapping):
        plain = {str(key): _jsonable(part) for key, part in value.items()}
    elif isinstance(value, list | tuple | set):
        plain = [_jsonable(part) for part in value]
    elif not isinstance(value, str | bool | int | float | None):
        plain = str(value)
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
