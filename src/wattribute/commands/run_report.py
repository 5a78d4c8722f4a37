"""What ``wattribute run`` prints at the end: what this attempt and the run so far cost, and the evidence."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wattribute.commands.output import (
    Format,
    Grid,
    Rows,
    decimals_for,
    note,
    shown_number,
    write_grid,
    write_rows,
)
from wattribute.commands.rounding import shown_money
from wattribute.commands.runs import shown_steps, shown_waste
from wattribute.errors import UsageError, WattributeError

if TYPE_CHECKING:
    from wattribute.sinks.store import Readable

COLUMNS: Final = (
    *("run", "attempt", "attempts", "model", "model_version", "team", "outcome", "started", "ended"),
    *("energy_j", "gpu_hours", "cost_usd", "wasted_usd", "wasted_most_usd"),
    *(
        "position",
        "target_position",
        "cost_usd_per_step",
        "j_per_step",
        "projected_cost_usd",
        "projected_end",
    ),
)
_SOURCES: Final = {
    "counter": "the GPU's energy counter",
    "instant": "power, integrated: the GPU has no energy counter",
    "average": "averaged power, integrated: the GPU has no energy counter",
    "module": "the power of a whole module, CPU and memory too",
    "none": "nothing: no energy could be read",
}
_WEIGHTS: Final = {
    "exclusive": "it had the GPU alone",
    "utilization": "shared with others, split by their SM time",
    "gpm": "a MIG instance: split by how busy each instance was",
    "equal": "shared with others, split evenly",
    "memory": "shared with others, split by memory",
}


def report_rows(store: Readable, run: str, attempt: int, policy: str) -> list[dict[str, Any]]:
    """Two rows: this attempt, then the run over all its attempts (``attempt`` None); none where the run held
    no GPU. Raises StoreError, UsageError."""
    from wattribute.sinks.costs import attempt_rows, run_rows

    wholes = run_rows(store, None, None, policy, run)  # asked first: a row may come before the second
    attempts = {row["attempt"]: row for row in attempt_rows(store, run, policy)}
    rows = []
    if (this := attempts.get(attempt)) is not None:
        steps = this["steps"]
        per_step = None if not steps or this["cost_usd"] is None else this["cost_usd"] / steps
        rows.append(
            dict.fromkeys(COLUMNS)
            | this
            | {"attempts": 1, "cost_usd_per_step": per_step}
            | {"j_per_step": this["energy_j"] / steps if steps else None}
        )
    for whole in wholes:
        first, last = attempts[min(attempts)], attempts[max(attempts)]
        rows.append(
            dict.fromkeys(COLUMNS)
            | whole
            | {"started": first["started"], "ended": last["ended"], "attempt": None}
        )
    return [{name: row[name] for name in COLUMNS} for row in rows]


def write_report(rows: Rows, notes: list[str], run: str, simulated: bool) -> None:
    """Print the table on standard error."""
    title = f"What run {run} cost{' (SIMULATED DATA)' if simulated else ''}"
    decimals = {
        name: decimals_for([row[name] for row in rows])
        for name in ("energy_j", "gpu_hours", "cost_usd", "cost_usd_per_step", "j_per_step")
    }
    shown = [row for row in rows if row["attempt"] is not None or row["attempts"] > 1 or len(rows) == 1]
    grid = Grid(
        headers=[
            *("", "outcome", "steps", "energy J", "GPU hours", "cost USD", "wasted USD"),
            *("USD per step", "J per step"),
        ],
        rows=[
            [
                _which(row),
                row["outcome"] or "-",
                shown_steps(row),
                shown_number(row["energy_j"], decimals["energy_j"]),
                shown_number(row["gpu_hours"], decimals["gpu_hours"]),
                shown_money(row["cost_usd"], decimals["cost_usd"]),
                shown_waste(row, decimals["cost_usd"]),
                shown_number(row["cost_usd_per_step"], decimals["cost_usd_per_step"]),
                shown_number(row["j_per_step"], decimals["j_per_step"]),
            ]
            for row in shown
        ],
        numeric=frozenset(range(2, 9)),
        title=title,
        notes=notes,
        spare=(8,),
    )
    write_grid(grid, sys.stderr)


def notes_of(store: Readable, rows: Rows, policy: str) -> list[str]:
    """What the figures rest on, and how to give a GPU a price that has none."""
    this = rows[0]
    found = store.query(
        "SELECT groupUniqArray(toString(energy_source)), groupUniqArray(toString(weight_source)),"
        " groupUniqArray(gpu_model) FROM attribution FINAL"
        " WHERE run = {run:String} AND ({attempt:Int64} < 0 OR attempt = {attempt:Int64})",
        {"run": this["run"], "attempt": -1 if this["attempt"] is None else this["attempt"]},
    ).rows[0]
    energies, weights, models = found
    notes = [
        f"policy {policy}; measured by {_and(_SOURCES.get(name, name) for name in energies)};"
        f" {_and(_WEIGHTS.get(name, f'split by {name}') for name in weights)}"
    ]
    if this["ended"] is not None and this["started"] is not None:
        ran_s = (this["ended"] - this["started"]).total_seconds()
        notes.append(f"it ran for {ran_s:,.1f} s and had {this['gpu_hours'] * 3600:,.1f} GPU seconds")
    if any(row["cost_usd"] is None for row in rows):
        notes += [
            f"unpriced: wattribute price add --gpu '{model}' --per-gpu-hour USD (or --price-per-gpu-hour)"
            for model in sorted(models)
        ]
    return notes


def _and(parts: Iterable[str]) -> str:
    return " and ".join(sorted(parts))


def write_file(rows: Rows, shape: Format, path: Path) -> None:
    """The rows in a file, for programs. Raises WattributeError where it cannot be written."""
    try:
        with path.open("w", encoding="utf-8") as file:
            write_rows(rows, shape, COLUMNS, file)
    except OSError as error:
        raise WattributeError(f"cannot write what it cost to {path}: {error.strerror}") from error


def add_price(store: Readable, run: str, per_gpu_hour: float, add: Any) -> None:
    """Add a price to the price book for the GPUs of a run, with their provider, region and pricing."""
    from wattribute.sinks.prices import Price

    used = store.query(
        "SELECT DISTINCT gpu_model, provider, region, pricing FROM attribution FINAL"
        " WHERE run = {run:String} AND gpu_model != ''",
        {"run": run},
    ).rows
    prices = [
        Price(gpu_model=model, price=per_gpu_hour, provider=provider, region=region, category=pricing)
        for model, provider, region, pricing in used
    ]
    try:
        for remark in add(prices) if prices else ():
            note(f"wattribute: {remark}")
    except UsageError as error:
        note(f"wattribute: --price-per-gpu-hour was not added: {error}")


def _which(row: Any) -> str:
    return f"all {row['attempts']} attempts" if row["attempt"] is None else f"attempt {row['attempt']}"
