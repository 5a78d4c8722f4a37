"""Draw what `wattribute verify` measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

from wattribute.verify.score import METHODS, OURS, Summary

_COLOURS: Final = dict(zip(METHODS, ("#0b6e4f", "#c44536", "#e3964a", "#8d99ae", "#5c4d7d"), strict=True))
_LEAST: Final = 0.1  # %: the left end of a logarithmic axis


def draw(found: Sequence[Summary], path: Path, title: str) -> None:
    """Draw a line for each scenario, with the error of each method, the worst process by attribution and the
    bar, into an .svg or .png file. Raises OSError if it cannot be written."""
    mpl.rcParams["svg.hashsalt"] = "wattribute"  # the same figures give the same file
    figure = Figure(figsize=(9.0, 1.6 + 0.36 * len(found)), layout="constrained")
    axes = figure.subplots()
    for line, summary in enumerate(found):
        ours = summary.scores[OURS]
        axes.plot(
            [_percent(ours.error_ratio), _percent(ours.worst_ratio)],
            [line, line],
            color=_COLOURS[OURS],
            lw=1.5,
        )
        if summary.trial.bar.error_ratio is not None:
            axes.plot(_percent(summary.trial.bar.error_ratio), line, "|", color="black", ms=14, mew=1.5)
        for method in reversed(METHODS):
            at = _percent(summary.scores[method].error_ratio)
            axes.plot(at, line, "o", color=_COLOURS[method], ms=9 if method == OURS else 6)
    for method in METHODS:
        axes.plot([], [], "o", color=_COLOURS[method], label=method)
    axes.plot([], [], color=_COLOURS[OURS], label=f"{OURS}: up to its worst process")
    axes.plot([], [], "|", color="black", ms=12, label="bar: how good it must be")
    axes.set_xscale("log")
    axes.set_xlim(_LEAST, 300.0)
    axes.set_xticks([0.1, 0.3, 1, 3, 10, 30, 100], ["0.1", "0.3", "1", "3", "10", "30", "100"])
    axes.set_yticks(range(len(found)), [summary.trial.name for summary in found])
    axes.set_ylim(len(found) - 0.4, -0.6)  # the first on top
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    axes.set_xlabel("energy above idle that goes to the wrong process, % of all (logarithmic)")
    axes.set_title(title, loc="left", fontsize=11)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    kind = path.suffix.removeprefix(".").lower()
    figure.savefig(path, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)


def _percent(ratio: float) -> float:
    return min(max(100.0 * ratio, _LEAST), 300.0)
