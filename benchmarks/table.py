"""The table: its rows, how they are shown, and where they are stored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).with_name("results")
README: Final = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- the table begins -->", "<!-- the table ends -->"
_HEADINGS: Final = ("", "what", "figures", "bar", "")


@dataclass(frozen=True, slots=True)
class Bar:
    """The least or greatest value that the figure of a unit must have."""

    unit: str
    value: float
    at_most: bool = False

    def shown(self) -> str:
        """The bar in words."""
        return f"{'≤' if self.at_most else '≥'} {self.value:g} {self.unit}"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: figures by unit, or the reason why there are none."""

    topic: str
    what: str
    figures: Mapping[str, float] = field(default_factory=dict)
    bars: Sequence[Bar] = ()
    skipped: str = ""

    def met(self) -> bool | None:
        """Whether every bar is met; None if there is none, or nothing was measured."""
        if not self.bars or self.skipped:
            return None
        return all(
            self.figures[bar.unit] <= bar.value if bar.at_most else self.figures[bar.unit] >= bar.value
            for bar in self.bars
        )


def as_markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table that is readable as plain text too."""
    lines: list[Sequence[str]] = [_HEADINGS]
    topic = ""
    for row in rows:
        figures = ", ".join(f"{_shown(value)} {unit}" for unit, value in row.figures.items())
        verdict = {True: "met", False: "NOT MET", None: ""}[row.met()]
        bars = ", ".join(bar.shown() for bar in row.bars)
        shown_topic = row.topic if row.topic != topic else ""
        lines.append(
            (shown_topic, row.what, f"skipped: {row.skipped}" if row.skipped else figures, bars, verdict)
        )
        topic = row.topic
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def store(rows: Sequence[Row], machine: Mapping[str, str], small: bool) -> Path:
    """Store a run under ``results``; return the file."""
    RESULTS.mkdir(exist_ok=True)
    name = machine["date"].replace(":", "").replace(" ", "T") + ("-small" if small else "")
    path = RESULTS / f"{name}.json"
    stored = {"machine": dict(machine), "small": small, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def load(path: Path) -> tuple[list[Row], dict[str, str]]:
    """The rows of a stored run, and its machine."""
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rows = [Row(**{**row, "bars": [Bar(**bar) for bar in row["bars"]]}) for row in stored["rows"]]
    return rows, stored["machine"]


def write_readme(rows: Sequence[Row], machine: Mapping[str, str], readme: Path = README) -> None:
    """Put a run between the markers of the README."""
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{readme} lacks the markers {BEGIN} and {END}")
    facts = "\n".join(f"- {name}: {fact}" for name, fact in machine.items())
    readme.write_text(f"{before}{BEGIN}\n{facts}\n\n{as_markdown(rows)}\n{END}{after}", encoding="utf-8")


def _shown(value: float) -> str:
    """A figure with three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
