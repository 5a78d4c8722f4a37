"""``wattribute cost``: what things cost, the idle part and the residual as lines of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from wattribute.commands.options import (
    SPAN,
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

if TYPE_CHECKING:
    from wattribute.sinks.store import Readable

POLICIES: Final = {
    "equal": "idle energy and time of a GPU are split evenly over its holders",
    "memory": "idle energy and time of a GPU are split over its holders by the memory they hold",
    "active": "idle energy and time of a GPU are split over its holders by the work they do",
}
_STYLES: Final = {"unheld": "yellow", "residual": "magenta", "reserved": "yellow"}
_ACCOUNTS: Final = ("process", "reserved", "unheld", "residual", "unmatched")
_ENERGY: Final = ("active_energy_j", "idle_energy_j", "energy_j")
_MONEY: Final = ("active_cost_usd", "idle_cost_usd", "cost_usd")


def cost(
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="COLUMN,…",
            help="What to keep apart: model, model_version, run, team, pod, gpu, host, labels.NAME, …",
            rich_help_panel=SPAN,
        ),
    ] = "model,model_version",
    since: SinceOption = None,
    until: UntilOption = None,
    policy: PolicyOption = "equal",
    unit: Annotated[
        str | None,
        typer.Option(
            "--unit",
            metavar="NAME",
            help="Cost of one output_tokens, requests, steps, …",
            rich_help_panel=SPAN,
        ),
    ] = None,
    shape: FormatOption = Format.table,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """What each model, run or team cost: joules, GPU hours, money, and what nobody used."""
    settings = load_settings({"store": store}, config)
    begin, end = parse_span(since, until)
    columns = [name.strip() for name in by.split(",") if name.strip() and name.strip() != "account"]
    columns = list(dict.fromkeys(columns))
    from wattribute.sinks.costs import cost_rows
    from wattribute.sinks.query_server import open_store_for_reading

    with closing(open_store_for_reading(settings.store)) as opened:
        rows = cost_rows(opened, columns, begin, end, policy, unit)
        if shape is Format.table:
            write_grid(cost_grid(rows, columns, policy, unpriced_notes(opened, rows, policy, begin, end)))
            if unit is not None:
                write_grid(unit_grid(rows, columns, unit))
            return
    names = [*columns, "account", *_ENERGY, "gpu_hours", *_MONEY]
    if unit is not None:
        names += ["quantity", "cost_usd_per_unit", "cost_usd_per_million", "j_per_unit", "coverage_ratio"]
    write_rows(rows, shape, names)


def cost_grid(rows: Rows, by: Sequence[str], policy: str, notes: Sequence[str], title: str = "") -> Grid:
    """The table, with a total line. What is shown adds up, down and across."""
    ordered = sorted(rows, key=lambda row: (_ACCOUNTS.index(row["account"]), -row["energy_j"]))
    energy = _split_columns(ordered, _ENERGY)
    hours = _column(
        [row["gpu_hours"] for row in ordered], decimals_for([math.fsum(_values(ordered, "gpu_hours"))])
    )
    money = _split_columns(ordered, _MONEY)
    cells = [
        [*(str(row[name]) for name in by), row["account"], *energy[place], hours[place], *money[place]]
        for place, row in enumerate(ordered)
    ]
    cells.append([*([""] * len(by)), "total", *energy[-1], hours[-1], *money[-1]])
    return Grid(
        headers=[
            *by,
            "account",
            "active J",
            "idle J",
            "energy J",
            "GPU hours",
            "active USD",
            "idle USD",
            "cost USD",
        ],
        rows=cells,
        numeric=frozenset(range(len(by) + 1, len(by) + 8)),
        spare=frozenset(len(by) + place for place in (1, 2, 5, 6)),
        styles=[*(_STYLES.get(row["account"], "") for row in ordered), "bold"],
        title=title,
        notes=[f"policy {policy}: {POLICIES.get(policy, '')}", *notes],
    )


def unit_grid(rows: Rows, by: Sequence[str], unit: str) -> Grid:
    """What one unit cost. Idle GPUs and the residual make no units, and are not in here."""
    unmatched = [row for row in rows if row["quantity"] and row.get("account") == "unmatched"]
    counted = [row for row in rows if row["quantity"] and row not in unmatched]
    covered = [row.get("coverage_ratio") for row in counted]
    is_told = any(ratio is not None for ratio in covered)
    per_million = [row["cost_usd_per_million"] for row in counted]
    joules = [row["j_per_unit"] for row in counted]
    money = [row["cost_usd"] for row in counted]
    places = [decimals_for(values) for values in (money, per_million, joules)]
    return Grid(
        headers=[*by, unit, "cost USD", f"USD per million {unit}", f"J per {unit}"]
        + (["coverage %"] if is_told else []),
        rows=[
            [
                *(str(row[name]) for name in by),
                shown_number(
                    row["quantity"], 0 if row["quantity"] >= 1000 else decimals_for([row["quantity"]])
                ),
                _shown_money(row["cost_usd"], places[0]),
                _shown_money(row["cost_usd_per_million"], places[1]),
                shown_number(row["j_per_unit"], places[2]),
                *([_shown_percent(row.get("coverage_ratio"))] if is_told else []),
            ]
            for row in counted
        ],
        numeric=frozenset(range(len(by), len(by) + 5)),
        notes=[
            *([] if counted else [f"no {unit} were counted in this span"]),
            *(_unmatched_note(row, by, unit) for row in unmatched),
        ],
    )


def _unmatched_note(row: Mapping[str, Any], by: Sequence[str], unit: str) -> str:
    whose = " ".join(str(row[name]) for name in by if row[name]) or "nobody named"
    return f"unmatched: {row['quantity']:,.6g} {unit} of {whose}; no GPU time of this name was seen"


def _shown_percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.4g}"


def unpriced_notes(
    store: Readable, rows: Rows, policy: str, since: datetime | None, until: datetime | None
) -> list[str]:
    """What has no price, and how to give it one."""
    if not rows:
        return ["nothing was measured in this span"]
    if all(row["cost_usd"] is not None for row in rows):
        return []
    found = store.query(
        "SELECT gpu_model, provider, region, pricing, sum(gpu_time_ns) / 3.6e12 AS gpu_hours"
        " FROM cost(policy = {policy:String}, since = {since:String}, until = {until:String})"
        " WHERE cost_usd IS NULL GROUP BY gpu_model, provider, region, pricing"
        " ORDER BY gpu_hours DESC LIMIT 5",
        {"policy": policy, "since": _moment(since), "until": _moment(until, "2200-01-01")},
    ).rows
    notes = []
    for model, provider, region, pricing, hours in found:
        where = " ".join(filter(None, (provider, region, pricing))) or "no provider"
        named = model.replace("'", "")
        advice = f"wattribute price add --gpu '{named}' --per-gpu-hour USD"
        if not model:
            advice = "its log does not name it: replay it with --gpu-model 'NVIDIA …'"
        notes.append(f"unpriced: {hours:,.4g} GPU hours of {model or 'a nameless GPU'} ({where}); {advice}")
    return notes


def _values(rows: Rows, name: str) -> list[float]:
    return [row[name] for row in rows if row[name] is not None]


def _split_columns(rows: Rows, names: tuple[str, str, str]) -> list[list[str]]:
    """Cells of two columns and their sum, a total below; rounded, it still adds up, down and across."""
    decimals = decimals_for([math.fsum(_values(rows, names[2]))])
    first = _rounded([row[names[0]] for row in rows], decimals)
    whole = round(math.fsum(_values(rows, names[2])) * 10**decimals)
    second = _rounded([row[names[1]] for row in rows], decimals, whole - sum(part or 0 for part in first))
    sums = [None if a is None or b is None else a + b for a, b in zip(first, second, strict=True)]
    unit = 10.0**decimals
    lines = [
        [_shown_money(None if part is None else part / unit, decimals) for part in parts]
        for parts in zip(first, second, sums, strict=True)
    ]
    return [*lines, [_total(column, decimals) for column in (first, second, sums)]]


def _column(values: Sequence[float], decimals: int) -> list[str]:
    parts = _rounded(values, decimals)
    return [
        *(shown_number(part / 10.0**decimals, decimals) for part in parts if part is not None),
        _total(parts, decimals),
    ]


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


def _total(parts: Sequence[int | None], decimals: int) -> str:
    known = [part for part in parts if part is not None]
    shown = shown_number(sum(known) / 10.0**decimals, decimals)
    if len(known) == len(parts):
        return shown
    return f"{shown} + unpriced" if known else "unpriced"


def _shown_money(value: float | None, decimals: int) -> str:
    return "unpriced" if value is None else shown_number(value, decimals)


def _moment(at: datetime | None, default: str = "1970-01-01") -> str:
    return default if at is None else f"{at:%Y-%m-%d %H:%M:%S.%f}"


def balance_note(store: Readable, rows: Rows, since: datetime | None = None) -> str:
    """Whether the parts are the whole: the accounts, against what the devices themselves counted."""
    parts = {name: math.fsum(row["energy_j"] for row in rows if row["account"] == name) for name in _ACCOUNTS}
    begin = {"since": _moment(since)}
    (device_uj,) = store.query(
        "SELECT sum(energy) FROM (SELECT any(device_energy_uj) AS energy FROM attribution FINAL"
        " WHERE window_start >= {since:DateTime64(3, 'UTC')} GROUP BY host, boot_id, gpu, window_start)",
        begin,
    ).rows[0]
    (wrong,) = store.query(
        "SELECT count() FROM conservation WHERE window_start >= {since:DateTime64(3, 'UTC')}", begin
    ).rows[0]
    shown = " + ".join(
        f"{name} {parts[name]:,.3f}" for name in _ACCOUNTS if name != "reserved" or parts[name]
    )
    whole = f"{math.fsum(parts.values()):,.3f} J; the GPUs used {device_uj / 1e6:,.3f} J"
    return f"{shown} = {whole}" + (f"; {wrong} windows do not add up: this is a bug" if wrong else "")
