"""``wattribute runs``: what each training run has cost, what of it was in vain, and where it will end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, Final

from wattribute.commands.cost import unpriced_notes
from wattribute.commands.options import (
    ConfigOption,
    FormatOption,
    PolicyOption,
    SinceOption,
    StoreOption,
    UntilOption,
    policy_note,
)
from wattribute.commands.output import Format, Grid, Rows, decimals_for, shown_number, write_grid, write_rows
from wattribute.commands.since import parse_span
from wattribute.settings import load_settings

_COLUMNS: Final = (
    *("run", "model", "model_version", "team", "attempts", "outcome", "energy_j", "gpu_hours", "cost_usd"),
    *("cost_usd_per_hour", "wasted_usd", "wasted_most_usd", "position", "target_position"),
    *("cost_usd_per_step", "j_per_step", "projected_cost_usd", "projected_end", "places"),
)
_SHOWN: Final = 50
_PLACES_SHOWN: Final = 3
_STYLES: Final = {"failed": "red", "running": "green"}


def runs(
    since: SinceOption = None,
    until: UntilOption = None,
    policy: PolicyOption = "equal",
    shape: FormatOption = Format.table,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """What each training run cost so far, over all its attempts, and what it will come to.

    Wasted is what came after the checkpoint that the next attempt resumed from, and the retry up to its first
    new step: part of the cost. It is a span where nobody said what was resumed from.
    """
    settings = load_settings({"store": store}, config)
    begin, end = parse_span(since, until)
    from wattribute.sinks.costs import run_places, run_rows
    from wattribute.sinks.query_server import open_store_for_reading

    with closing(open_store_for_reading(settings.store)) as opened:
        rows = run_rows(opened, begin, end, policy)
        places = run_places(opened, begin, end)
        for row in rows:
            row["places"] = places.get(row["run"], [])
        if shape is not Format.table:
            write_rows(rows, shape, _COLUMNS)
            return
        notes = [policy_note(policy), *_place_notes(places)]
        if len(rows) > _SHOWN:
            notes.append(f"{len(rows) - _SHOWN:,} cheaper runs are not shown: --format csv has them")
        if rows and any(row["cost_usd"] is None for row in rows):
            notes += unpriced_notes(opened, rows, policy, begin, end)
        if not rows:
            notes = ["no run was seen in this span: set WATTRIBUTE_RUN where you start one"]
        write_grid(_grid(rows[:_SHOWN], notes))


def _place_notes(places: Mapping[str, Sequence[str]]) -> list[str]:
    """Runs of one name that may be several."""
    notes = [
        f"one run of one name: {run} ran in {', '.join(where[:3])}{', …' if where[3:] else ''}; are these"
        " several, name them apart: WATTRIBUTE_RUN, or the label wattribute.dev/run ('wattribute cost --by"
        " cluster,namespace,run' has what each cost)"
        for run, where in list(places.items())[:_PLACES_SHOWN]
    ]
    more = len(places) - len(notes)
    return notes + ([f"and {more:,} more runs in several places: --format csv has them"] if more else [])


def _grid(rows: Rows, notes: list[str]) -> Grid:
    money = decimals_for([row["cost_usd"] for row in rows])
    per_step = decimals_for([row["cost_usd_per_step"] for row in rows])
    energy, hours, rate = (
        decimals_for([row[name] for row in rows]) for name in ("energy_j", "gpu_hours", "cost_usd_per_hour")
    )
    goes_on = any(row["projected_end"] is not None for row in rows)
    return Grid(
        headers=[
            *("run", "model", "version", "attempts", "outcome", "steps", "energy J", "GPU hours", "cost USD"),
            *("USD per hour", "wasted USD", "USD per step", "at the end USD", "ends (UTC)"),
        ],
        rows=[
            [
                *(str(row[name]) for name in ("run", "model", "model_version", "attempts")),
                row["outcome"] or "-",
                shown_steps(row),
                shown_number(row["energy_j"], energy),
                shown_number(row["gpu_hours"], hours),
                "unpriced" if row["cost_usd"] is None else shown_number(row["cost_usd"], money),
                shown_number(row["cost_usd_per_hour"], rate),
                shown_waste(row, money),
                shown_number(row["cost_usd_per_step"], per_step),
                shown_number(row["projected_cost_usd"], money),
                "-" if row["projected_end"] is None else f"{row['projected_end']:%Y-%m-%d %H:%M:%S}",
            ]
            for row in rows
        ],
        numeric=frozenset({3, 5, *range(6, 13)}),
        spare=(7, 9, 2, 1, 3, 6, 11, 13, 12) if goes_on else (13, 12, 7, 9, 2, 1, 3, 6, 11),
        styles=[_STYLES.get(row["outcome"], "") for row in rows],
        notes=notes,
    )


def shown_steps(row: Any) -> str:
    """How far it is, of how far it goes."""
    if row["position"] is None or (not row["position"] and row["target_position"] is None):
        return "-"
    told = f"{math.floor(row['position']):,}"
    return told if row["target_position"] is None else f"{told} of {row['target_position']:,}"


def shown_waste(row: Any, decimals: int) -> str:
    """One figure, or the span in which it lies."""
    least, most = (shown_number(row[name], decimals) for name in ("wasted_usd", "wasted_most_usd"))
    return least if least == most else f"{least} to {most}"
