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
    TzOption,
    UntilOption,
)
from wattribute.commands.output import Format, Grid, Rows, decimals_for, shown_number, write_grid, write_rows
from wattribute.commands.rounding import column, shown_money, split_columns, values
from wattribute.commands.since import parse_span, parse_time, parse_zone
from wattribute.errors import UsageError
from wattribute.settings import load_settings

if TYPE_CHECKING:
    from wattribute.sinks.store import Readable

POLICIES: Final = {
    "equal": "idle energy and time of a GPU are split evenly over its holders",
    "memory": "idle energy and time of a GPU are split over its holders by the memory they hold",
    "active": "idle energy and time of a GPU are split over its holders by the work they do",
}
_STYLES: Final = {"unheld": "yellow", "residual": "magenta", "reserved": "yellow", "unobserved": "magenta"}
_ACCOUNTS: Final = ("process", "reserved", "owner", "unheld", "residual", "unobserved", "unmatched")
_ALWAYS: Final = ("process", "unheld", "residual")
_CALENDAR: Final = {"hour": "%Y-%m-%d %H:%M", "day": "%Y-%m-%d", "week": "%Y-%m-%d", "month": "%Y-%m"}
_CHARGED: Final = {
    "owner": "what nobody used, to the team of its host",
    "tenants": "what nobody used, to all in proportion to their cost",
}
_ENERGY: Final = ("active_energy_j", "idle_energy_j", "energy_j")
_MONEY: Final = ("active_cost_usd", "idle_cost_usd", "cost_usd")


def cost(
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="COLUMN,…",
            help="What to keep apart: model, model_version, run, team, pod, gpu, host, labels.NAME, …, and"
            " one of hour, day, week, month.",
            rich_help_panel=SPAN,
        ),
    ] = "model,model_version",
    since: SinceOption = None,
    until: UntilOption = None,
    tz: TzOption = "UTC",
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
    unallocated: Annotated[
        str,
        typer.Option(
            "--unallocated",
            metavar="separate|owner|tenants",
            help="What nobody used: lines of its own, charged to the team of its host, or to all in"
            " proportion to their cost.",
            rich_help_panel=SPAN,
        ),
    ] = "separate",
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", metavar="TIME", help="With the prices that were known then.", rich_help_panel=SPAN
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare-policies", help="Who would pay what under each policy.", rich_help_panel=SPAN
        ),
    ] = False,
    shape: FormatOption = Format.table,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """What each model, run or team cost: joules, GPU hours, money, and what nobody used."""
    settings = load_settings({"store": store}, config)
    zone = parse_zone(tz)
    begin, end = parse_span(since, until, zone)
    known_at = parse_time(as_of, zone=zone)
    if compare and unit is not None:
        raise UsageError("--compare-policies compares whole bills: leave out --unit")
    columns = [name.strip() for name in by.split(",") if name.strip() and name.strip() != "account"]
    columns = list(dict.fromkeys(columns))
    from wattribute.sinks.comparison import policy_rows
    from wattribute.sinks.costs import cost_rows
    from wattribute.sinks.query_server import open_store_for_reading

    with closing(open_store_for_reading(settings.store)) as opened:
        if compare:
            write_policies(
                policy_rows(opened, columns, begin, end, tz, known_at, unallocated), columns, shape
            )
            return
        rows = cost_rows(opened, columns, begin, end, policy, unit, tz, known_at, unallocated)
        if shape is Format.table:
            notes = _notes(columns, tz, known_at, unallocated)
            notes += unpriced_notes(opened, rows, policy, begin, end, known_at)
            write_grid(cost_grid(rows, columns, policy, notes))
            if unit is not None:
                write_grid(unit_grid(rows, columns, unit))
            return
    names = [*columns, "account", *_ENERGY, "gpu_hours", *_MONEY]
    names += [] if unallocated == "separate" else ["charged_usd"]
    if unit is not None:
        names += ["quantity", "covered_cost_usd", "cost_usd_per_unit", "cost_usd_per_million"]
        names += ["j_per_unit", "coverage_ratio"]
    write_rows(rows, shape, names)


def _notes(by: Sequence[str], tz: str, as_of: datetime | None, unallocated: str) -> list[str]:
    """In whose calendar, with which prices, and who pays for what nobody used."""
    notes = [f"each {name} is one of the calendar in {tz}" for name in by if name in _CALENDAR]
    if as_of is not None:
        notes.append(f"with the prices known at {as_of:%Y-%m-%d %H:%M} UTC")
    return notes + ([f"charged USD: {_CHARGED[unallocated]}"] if unallocated in _CHARGED else [])


def shown_place(row: Mapping[str, Any], name: str) -> str:
    """What a line is of, in one column: a text, or a time as its step has it."""
    value = row[name]
    if not isinstance(value, datetime):
        return str(value)
    shown = f"{value:{_CALENDAR.get(name, '%Y-%m-%d %H:%M')}}"
    return f"{shown} {value:%z}" if name == "hour" and value.utcoffset() else shown


def cost_grid(rows: Rows, by: Sequence[str], policy: str, notes: Sequence[str], title: str = "") -> Grid:
    """The table, with a total line. What is shown adds up, down and across."""
    steps = [name for name in by if name in _CALENDAR]
    ordered = sorted(
        rows, key=lambda row: (_ACCOUNTS.index(row["account"]), -row["energy_j"], -row["gpu_hours"])
    )
    ordered.sort(key=lambda row: [row[name] for name in steps])
    energy = split_columns(ordered, _ENERGY)
    hours = column(
        [row["gpu_hours"] for row in ordered], decimals_for([math.fsum(values(ordered, "gpu_hours"))])
    )
    money = split_columns(ordered, _MONEY)
    figures = [[*energy[place], hours[place], *money[place]] for place in range(len(ordered) + 1)]
    headers = ["active J", "idle J", "energy J", "GPU hours", "active USD", "idle USD", "cost USD"]
    if ordered and "charged_usd" in ordered[0]:
        decimals = decimals_for([math.fsum(values(ordered, "cost_usd"))])
        shares = column([row["charged_usd"] for row in ordered], decimals)
        figures = [[*cells, share] for cells, share in zip(figures, shares, strict=True)]
        headers.append("of it charged USD")
    cells = [
        [*(shown_place(row, name) for name in by), row["account"], *line]
        for row, line in zip(ordered, figures[:-1], strict=True)
    ]
    cells.append([*([""] * len(by)), "total", *figures[-1]])
    return Grid(
        headers=[*by, "account", *headers],
        rows=cells,
        numeric=frozenset(range(len(by) + 1, len(by) + 1 + len(headers))),
        spare=[len(by) + place for place in (1, 2, 5, 6)],
        styles=[*(_STYLES.get(row["account"], "") for row in ordered), "bold"],
        title=title,
        notes=[f"policy {policy}: {POLICIES.get(policy, '')}", *notes],
    )


def write_policies(rows: Rows, by: Sequence[str], shape: Format) -> None:
    """Print whose bill changes with the policy."""
    money = [f"{policy}_usd" for policy in POLICIES]
    if shape is not Format.table:
        write_rows(rows, shape, [*by, *money, "difference_usd", "difference_ratio"])
        return
    decimals = decimals_for([row[name] for row in rows for name in money])
    shown = [column([row[name] for row in rows], decimals) for name in money]
    cells = [
        [
            *(shown_place(row, name) for name in by),
            *(amounts[place] for amounts in shown),
            shown_number(row["difference_usd"], decimals),
            "-" if row["difference_ratio"] is None else f"{100 * row['difference_ratio']:.1f}",
        ]
        for place, row in enumerate(rows)
    ]
    cells.append([*([""] * len(by)), *(amounts[-1] for amounts in shown), "", ""])
    notes = [f"{policy}: {meaning}" for policy, meaning in POLICIES.items()]
    notes += ["the last line is their sum; what nobody used costs the same under every policy"]
    write_grid(
        Grid(
            headers=[*by, *(f"{policy} USD" for policy in POLICIES), "difference USD", "difference %"],
            rows=cells,
            numeric=frozenset(range(len(by), len(by) + 5)),
            styles=[*([""] * len(rows)), "bold"],
            notes=notes if rows else ["nothing was measured in this span"],
        )
    )


def unit_grid(rows: Rows, by: Sequence[str], unit: str) -> Grid:
    """What one unit cost. Idle GPUs and the residual make no units, and are not in here."""
    unmatched = [row for row in rows if row["quantity"] and row.get("account") == "unmatched"]
    counted = [row for row in rows if row["quantity"] and row not in unmatched]
    covered = [row["coverage_ratio"] for row in counted]
    is_told = any(ratio is not None for ratio in covered)
    per_million = [row["cost_usd_per_million"] for row in counted]
    joules = [row["j_per_unit"] for row in counted]
    money = [row["covered_cost_usd"] for row in counted]
    in_part = any(ratio is not None and ratio < 1 for ratio in covered)
    places = [decimals_for(values) for values in (money, per_million, joules)]
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
                *(shown_place(row, name) for name in by),
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
            *([] if counted else [f"no {unit} were counted in this span"]),
            *([f"counted USD: spent while {unit} were counted, coverage % of the time"] if in_part else []),
            *(_unmatched_note(row, by, unit) for row in unmatched),
        ],
    )


def _unmatched_note(row: Mapping[str, Any], by: Sequence[str], unit: str) -> str:
    whose = " ".join(str(row[name]) for name in by if row[name]) or "nobody named"
    return f"unmatched: {row['quantity']:,.6g} {unit} of {whose}; no GPU time of this name was seen"


def _shown_percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.4g}"


def unpriced_notes(
    store: Readable,
    rows: Rows,
    policy: str,
    since: datetime | None,
    until: datetime | None,
    as_of: datetime | None = None,
) -> list[str]:
    """What has no price, and how to give it one."""
    if not rows:
        return ["nothing was measured in this span"]
    if all(row["cost_usd"] is not None for row in rows):
        return []
    columns = "gpu_model, provider, region, pricing, price_id, currency"
    unpriced = (
        f"SELECT {columns}, gpu_time_ns FROM cost_as_of(policy = {{policy:String}}, since = {{since:String}},"  # noqa: S608 - names of ours
        " until = {until:String}, as_of = {as_of:String}) WHERE cost_usd IS NULL"
    )
    if any(row.get("account") == "unobserved" and row["cost_usd"] is None for row in rows):
        unpriced += (
            f" UNION ALL SELECT {columns}, unobserved_ns FROM billed(since = {{since:String}},"  # noqa: S608
            " until = {until:String}, step = 'all', tz = 'UTC', as_of = {as_of:String})"
            " WHERE is_declared AND price_per_gpu_hour_usd IS NULL AND unobserved_ns > 0"
        )
    found = store.query(
        "SELECT gpu_model, provider, region, pricing, price_id != '' AS is_found, currency,"  # noqa: S608
        f" sum(gpu_time_ns) / 3.6e12 AS gpu_hours FROM ({unpriced})"
        " GROUP BY ALL ORDER BY gpu_hours DESC LIMIT 5",
        {
            "policy": policy,
            "since": _moment(since),
            "until": _moment(until, "2200-01-01"),
            "as_of": _moment(as_of, "2200-01-01"),
        },
    ).rows
    notes = []
    for model, provider, region, pricing, is_found, currency, hours in found:
        where = " ".join(filter(None, (provider, region, pricing))) or "no provider"
        named = model.replace("'", "")
        advice = f"wattribute price add --gpu '{named}' --per-gpu-hour USD"
        if is_found and currency != "USD":
            advice = f"its price is in {currency}, and only USD is summed: add the same one in USD"
        elif is_found:
            advice = "its electricity is apart, and no tariff in USD holds: wattribute price tariff add"
        elif not model:
            advice = "its log does not name it: replay it with --gpu-model 'NVIDIA …'"
        notes.append(f"unpriced: {hours:,.4g} GPU hours of {model or 'a nameless GPU'} ({where}); {advice}")
    return notes


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
    shown = " + ".join(f"{name} {parts[name]:,.3f}" for name in _ACCOUNTS if name in _ALWAYS or parts[name])
    whole = f"{math.fsum(parts.values()):,.3f} J; the GPUs used {device_uj / 1e6:,.3f} J"
    return f"{shown} = {whole}" + (f"; {wrong} windows do not add up: this is a bug" if wrong else "")
