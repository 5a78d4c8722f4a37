"""The second table of ``wattribute cost --unit``: what one unit cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wattribute.commands.output import Grid, Rows, decimals_for, shown_number
from wattribute.commands.rounding import CENTS, shown_money


def unit_grid(rows: Rows, by: Sequence[str], unit: str, known: Sequence[str] = ()) -> Grid:
    """What one unit cost. Idle GPUs and the residual make no units, and are left out. If none of it was
    counted, a note names the ``known`` units."""
    unmatched = [row for row in rows if row["quantity"] and row.get("account") == "unmatched"]
    counted = [row for row in rows if row["quantity"] and row not in unmatched]
    covered = [row["coverage_ratio"] for row in counted]
    is_told = any(ratio is not None for ratio in covered)
    per_million = [row["cost_usd_per_million"] for row in counted]
    joules = [row["j_per_unit"] for row in counted]
    money = [row["covered_cost_usd"] for row in counted]
    in_part = any(ratio is not None and ratio < 1 for ratio in covered)
    places = [decimals_for(money, CENTS), decimals_for(per_million), decimals_for(joules)]
    return Grid(
        headers=[
            *by,
            unit,
            "counted USD" if in_part else "cost USD",
            f"USD per million {unit}",
            f"J per {unit}",
        ]
        + (["coverage %"] if is_told else []),
        rows=[
            [
                *(str(row[name]) for name in by),
                shown_number(
                    row["quantity"], 0 if row["quantity"] >= 1000 else decimals_for([row["quantity"]])
                ),
                shown_money(row["covered_cost_usd"], places[0]),
                "-" if row["coverage_ratio"] == 0 else shown_money(row["cost_usd_per_million"], places[1]),
                shown_number(row["j_per_unit"], places[2]),
                *([_shown_percent(row["coverage_ratio"])] if is_told else []),
            ]
            for row in counted
        ],
        numeric=frozenset(range(len(by), len(by) + 5)),
        notes=[
            *([] if counted or unmatched else [f"no {unit} were counted in this span{_but(known)}"]),
            *([f"counted USD: spent while {unit} were counted, coverage % of the time"] if in_part else []),
            *(_training_note(row, by, unit) for row in counted if row.get("training_quantity")),
            *(_unmatched_note(row, by, unit) for row in unmatched),
        ],
    )


def _but(known: Sequence[str]) -> str:
    return f"; these were: {', '.join(known)}" if known else ""


def _unmatched_note(row: Mapping[str, Any], by: Sequence[str], unit: str) -> str:
    return f"unmatched: {row['quantity']:,.6g} {unit} of {_whose(row, by)}; no GPU time of this name was seen"


def _training_note(row: Mapping[str, Any], by: Sequence[str], unit: str) -> str:
    quantity = f"{row['training_quantity']:,.6g} {unit}"
    return f"without training: {quantity} of {_whose(row, by)} are of training: see --by phase,run"


def _whose(row: Mapping[str, Any], by: Sequence[str]) -> str:
    return " ".join(str(row[name]) for name in by if row[name]) or "nobody named"


def _shown_percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.4g}"
