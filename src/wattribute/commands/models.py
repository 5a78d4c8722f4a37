"""``wattribute models``: what each model version costs for what it serves, beside how good it is."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Final

from wattribute.commands.cost import POLICIES, unpriced_notes
from wattribute.commands.options import (
    ConfigOption,
    FormatOption,
    PolicyOption,
    SinceOption,
    StoreOption,
    UntilOption,
)
from wattribute.commands.output import Format, Grid, Rows, decimals_for, shown_number, write_grid, write_rows
from wattribute.commands.since import parse_span
from wattribute.settings import load_settings

_COLUMNS: Final = (
    *("model", "model_version", "energy_j", "gpu_hours", "active_ratio", "cost_usd"),
    *("output_tokens", "input_tokens", "requests", "cost_usd_per_million_output_tokens"),
    *("busy_usd_per_million_output_tokens", "cost_usd_per_request", "j_per_output_token"),
    *("training_energy_j", "training_gpu_hours", "training_cost_usd", "quality"),
)
_FIGURES: Final = {  # heading -> column
    "USD per million output tokens": "cost_usd_per_million_output_tokens",
    "busy USD": "busy_usd_per_million_output_tokens",
    "J per output token": "j_per_output_token",
    "USD per request": "cost_usd_per_request",
    "output tokens": "output_tokens",
    "serving USD": "cost_usd",
    "training USD": "training_cost_usd",
}


def models(
    since: SinceOption = None,
    until: UntilOption = None,
    policy: PolicyOption = "equal",
    shape: FormatOption = Format.table,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """What each model version costs for each token and request it serves, and how good it is.

    All that its processes cost counts, idle and input tokens included; busy is the part for the time that the
    GPU worked. What training cost is a column of its own.
    """
    settings = load_settings({"store": store}, config)
    begin, end = parse_span(since, until)
    from wattribute.sinks.models import model_rows
    from wattribute.sinks.query_server import open_store_for_reading

    with closing(open_store_for_reading(settings.store)) as opened:
        rows = model_rows(opened, begin, end, policy)
        if shape is not Format.table:
            write_rows(rows, shape, _COLUMNS)
            return
        notes = [f"policy {policy}: {POLICIES.get(policy, '')}"]
        if any(row["cost_usd"] is None or row["training_cost_usd"] is None for row in rows):
            notes += unpriced_notes(opened, [{"cost_usd": None}], policy, begin, end)
        if not rows:
            notes = ["no model was seen in this span: set WATTRIBUTE_MODEL where you start one"]
        write_grid(_grid(rows, notes))


def _grid(rows: Rows, notes: list[str]) -> Grid:
    figures = [_column([row[name] for row in rows]) for name in _FIGURES.values()]
    return Grid(
        headers=["model", "version", *_FIGURES, "active %", "quality"],
        rows=[
            [
                str(row["model"]),
                str(row["model_version"]),
                *(column[place] for column in figures),
                "-" if row["active_ratio"] is None else f"{100 * row['active_ratio']:.0f}",
                _quality(row),
            ]
            for place, row in enumerate(rows)
        ],
        numeric=frozenset(range(2, 3 + len(_FIGURES))),
        spare=frozenset({3, 5, 6}),
        notes=notes,
    )


def _column(values: list[float | None]) -> list[str]:
    decimals = decimals_for(values)
    return [shown_number(value, decimals) for value in values]


def _quality(row: Any) -> str:
    return ", ".join(f"{measure} {value:.4g}" for measure, value in row["quality"].items()) or "-"
