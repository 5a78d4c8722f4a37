"""``wattribute runs``: what each training run has cost, how much was wasted, and what it will cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import tzinfo
from typing import Any, Final

from wattribute.commands.cost import cut_notes, unpriced_notes
from wattribute.commands.options import (
    ConfigOption,
    FormatOption,
    PolicyOption,
    SinceOption,
    StoreOption,
    TzOption,
    UntilOption,
    policy_note,
)
from wattribute.commands.output import Format, Grid, Rows, decimals_for, shown_number, write_grid, write_rows
from wattribute.commands.rounding import CENTS, shown_money
from wattribute.commands.since import parse_span, parse_zone
from wattribute.settings import load_settings

_COLUMNS: Final = (
    *("run", "model", "model_version", "team", "attempts", "outcome", "energy_j", "gpu_hours", "cost_usd"),
    *("cost_usd_per_hour", "wasted_usd", "wasted_most_usd", "position", "target_position"),
    *("cost_usd_per_step", "j_per_step", "projected_cost_usd", "projected_end", "places"),
)
_SHOWN: Final = 50
_SAME_SHOWN: Final = 3
_APART_BY_PLACE: Final = (
    ": WATTRIBUTE_RUN, or the label wattribute.dev/run ('wattribute cost --by cluster,namespace,run'"
)
_APART_BY_TEAM: Final = " ('wattribute cost --by team,run'"
_STYLES: Final = {"failed": "red", "running": "green", "waiting": "yellow"}


def runs(
    since: SinceOption = None,
    until: UntilOption = None,
    tz: TzOption = "UTC",
    policy: PolicyOption = "equal",
    shape: FormatOption = Format.table,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """What each training run cost so far, over all its attempts, and what it will cost in the end.

    Wasted is the part of the cost after the checkpoint that the next attempt resumed from, and of the retry
    until its first new step. It is a range where either is not known exactly.
    """
    settings = load_settings({"store": store}, config)
    zone = parse_zone(tz)
    begin, end = parse_span(since, until, zone)
    from wattribute.sinks.costs import run_places, run_rows, run_teams
    from wattribute.sinks.query_server import open_store_for_reading

    with closing(open_store_for_reading(settings.store)) as opened:
        rows = run_rows(opened, begin, end, policy)
        places = run_places(opened, begin, end)
        for row in rows:
            row["places"] = places.get(row["run"], [])
        if shape is not Format.table:
            write_rows(rows, shape, _COLUMNS)
            return
        teams = run_teams(opened, begin, end)
        notes = [
            policy_note(policy),
            *_name_notes(places, "ran in", _APART_BY_PLACE, "in several places: --format csv has them"),
            *_name_notes(teams, "was of the teams", _APART_BY_TEAM, "of several teams"),
            *end_notes(rows[:_SHOWN]),
        ]
        if len(rows) > _SHOWN:
            notes.append(f"{len(rows) - _SHOWN:,} cheaper runs are not shown: --format csv has them")
        if rows and any(row["cost_usd"] is None for row in rows):
            notes += unpriced_notes(opened, rows, policy, begin, end)
        if not rows:
            notes = ["no run was seen in this span: set WATTRIBUTE_RUN where you start one"]
        notes += cut_notes(opened, begin, end)
        write_grid(_grid(rows[:_SHOWN], notes, zone, tz))


def _name_notes(found: Mapping[str, Sequence[str]], were: str, how: str, more_notes: str) -> list[str]:
    """Notes on runs of one name that may be several runs."""
    notes = [
        f"counted as one run: {run} {were} {', '.join(of[:3])}{', …' if of[3:] else ''}; if they are several,"
        f" give each its own name{how} shows what each cost)"
        for run, of in list(found.items())[:_SAME_SHOWN]
    ]
    more = len(found) - len(notes)
    return notes + ([f"and {more:,} more runs {more_notes}"] if more else [])


def end_notes(rows: Rows) -> list[str]:
    """Why the end of runs that go on is not known."""
    runs_of: dict[str, list[str]] = {}
    for row in rows:
        is_open = row["outcome"] == "running" and row["projected_end"] is None and row["cost_usd"] is not None
        if is_open:
            runs_of.setdefault(_why_no_end(row), []).append(row["run"])
    return [
        f"the end of {', '.join(named[:_SAME_SHOWN])}{', …' if named[_SAME_SHOWN:] else ''} is not known:"
        f" {why}"
        for why, named in runs_of.items()
    ]


def _why_no_end(row: Any) -> str:
    if row["target_position"] is None:
        return "the number of steps was not reported (use 'wattribute run --steps', or steps in a run record)"
    if not row["position"]:
        return "no step was reported yet"
    if row["position"] > row["target_position"]:
        return "it is past the number of steps that was reported"
    if row["cost_usd_per_step"] is None:
        return "the span leaves out a part of the run, or it has no new step yet"
    return (
        "its latest attempt has no new steps to judge its pace by, or did not report what it resumed from, or"
        " was not measured for an hour"
    )


def _grid(rows: Rows, notes: list[str], zone: tzinfo, tz: str) -> Grid:
    money = decimals_for([row["cost_usd"] for row in rows], CENTS)
    per_step = decimals_for([row["cost_usd_per_step"] for row in rows])
    energy, hours, rate = (
        decimals_for([row[name] for row in rows]) for name in ("energy_j", "gpu_hours", "cost_usd_per_hour")
    )
    goes_on = any(row["projected_end"] is not None for row in rows)
    return Grid(
        headers=[
            *("run", "model", "version", "attempts", "outcome", "steps", "energy J", "GPU hours", "cost USD"),
            *("USD per hour", "wasted USD", "USD per step", "at the end USD", f"ends ({tz})"),
        ],
        rows=[
            [
                *(str(row[name]) for name in ("run", "model", "model_version", "attempts")),
                row["outcome"] or "-",
                shown_steps(row),
                shown_number(row["energy_j"], energy),
                shown_number(row["gpu_hours"], hours),
                shown_money(row["cost_usd"], money),
                shown_number(row["cost_usd_per_hour"], rate),
                shown_waste(row, money),
                shown_number(row["cost_usd_per_step"], per_step),
                shown_number(row["projected_cost_usd"], money),
                "-"
                if row["projected_end"] is None
                else f"{row['projected_end'].astimezone(zone):%Y-%m-%d %H:%M:%S}",
            ]
            for row in rows
        ],
        numeric=frozenset({3, 5, *range(6, 13)}),
        spare=(7, 9, 2, 1, 3, 6, 11, 13, 12) if goes_on else (13, 12, 7, 9, 2, 1, 3, 6, 11),
        styles=[_STYLES.get(row["outcome"], "") for row in rows],
        notes=notes,
    )


def shown_steps(row: Any) -> str:
    """The step reached, and the number of steps."""
    if row["position"] is None or (not row["position"] and row["target_position"] is None):
        return "-"
    told = f"{math.floor(row['position']):,}"
    return told if row["target_position"] is None else f"{told} of {row['target_position']:,}"


def shown_waste(row: Any, decimals: int) -> str:
    """One figure, or the range in which it lies."""
    least, most = (shown_number(row[name], decimals) for name in ("wasted_usd", "wasted_most_usd"))
    return least if least == most else f"{least} to {most}"
