"""``wattribute cost``: what things cost, with idle GPUs and the residual as lines of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

from wattribute.commands.options import (
    POLICIES,
    ConfigOption,
    FormatOption,
    PolicyOption,
    SinceOption,
    StoreOption,
    TzOption,
    UntilOption,
    asked,
    policy_note,
)
from wattribute.commands.output import Format, Grid, Rows, decimals_for, shown_number, write_grid, write_rows
from wattribute.commands.rounding import CENTS, column, split_columns, values
from wattribute.commands.since import parse_span, parse_time, parse_zone
from wattribute.commands.unit_table import unit_grid
from wattribute.errors import UsageError
from wattribute.settings import load_settings
from wattribute.sinks.schema import LABEL
from wattribute.sinks.span import UNTIL, span_params, span_times, time_text

if TYPE_CHECKING:
    from wattribute.sinks.store import Readable

_STYLES: Final = {"unheld": "yellow", "residual": "magenta", "reserved": "yellow", "unobserved": "magenta"}
_ACCOUNTS: Final = ("process", "reserved", "owner", "unheld", "residual", "unobserved", "unmatched")
_ALWAYS: Final = ("process", "unheld", "residual")
_CALENDAR: Final = {"hour": "%Y-%m-%d %H:%M", "day": "%Y-%m-%d", "week": "%Y-%m-%d", "month": "%Y-%m"}
_CHARGED: Final = {
    "owner": "what nobody used, to the team of its host",
    "tenants": "what nobody used, to all in proportion to their cost, where that is known of all",
}
_ENERGY: Final = ("active_energy_j", "idle_energy_j", "energy_j")
_MONEY: Final = ("active_cost_usd", "idle_cost_usd", "cost_usd")


def cost(
    by: Annotated[
        str,
        asked(
            "--by",
            "Columns to group by: model, model_version, run, team, pod, gpu, host, labels.NAME, …, and one of"
            " hour, day, week, month.",
            "COLUMN,…",
        ),
    ] = "model,model_version",
    since: SinceOption = None,
    until: UntilOption = None,
    tz: TzOption = "UTC",
    policy: PolicyOption = "equal",
    unit: Annotated[
        str | None, asked("--unit", "Also the cost of one unit: output_tokens, requests, steps, …", "NAME")
    ] = None,
    unallocated: Annotated[
        str,
        asked(
            "--unallocated",
            "What nobody used: on lines of its own, charged to the team of its host, or charged to all in"
            " proportion to their cost.",
            "separate|owner|tenants",
        ),
    ] = "separate",
    as_of: Annotated[
        str | None, asked("--as-of", "Use the prices that were known at this time.", "TIME")
    ] = None,
    compare: Annotated[bool, asked("--compare-policies", "Who would pay what under each policy.")] = False,
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
    from wattribute.sinks.comparison import policy_rows
    from wattribute.sinks.costs import UNIT_COLUMNS, cost_rows, counted_units, without_account
    from wattribute.sinks.query_server import open_store_for_reading
    from wattribute.sinks.unallocated import FIGURES

    columns = without_account(filter(None, map(str.strip, by.split(","))))
    with closing(open_store_for_reading(settings.store)) as opened:
        if compare:
            rows = policy_rows(opened, columns, begin, end, tz, known_at, unallocated)
            write_policies(rows, columns, shape, cut_notes(opened, begin, end))
            return
        rows = cost_rows(opened, columns, begin, end, policy, unit, tz, known_at, unallocated)
        if shape is Format.table:
            notes = _notes(columns, tz, known_at, unallocated)
            notes += _labels_of_nobody(rows, columns)
            notes += cut_notes(opened, begin, end)
            notes += unpriced_notes(opened, rows, policy, begin, end, known_at)
            write_grid(cost_grid(rows, columns, policy, notes))
            if unit is not None:
                known = [] if any(row["quantity"] for row in rows) else counted_units(opened, begin, end)
                write_grid(unit_grid(rows, columns, unit, known))
            return
    names = [*columns, "account", *FIGURES, *([] if unallocated == "separate" else ["charged_usd"])]
    write_rows(rows, shape, [*names, *(UNIT_COLUMNS if unit is not None else ())])


def _notes(by: Sequence[str], tz: str, as_of: datetime | None, unallocated: str) -> list[str]:
    """Notes on the calendar, on the prices, and on who pays for what nobody used."""
    notes = [f"each {name} follows the calendar of {tz}" for name in by if name in _CALENDAR]
    if as_of is not None:
        notes.append(f"with the prices known at {as_of:%Y-%m-%d %H:%M} UTC")
    return notes + ([f"charged USD: {_CHARGED[unallocated]}"] if unallocated in _CHARGED else [])


def _labels_of_nobody(rows: Rows, by: Sequence[str]) -> list[str]:
    labels = [name for name in by if name.startswith(LABEL)]
    unknown = [name.removeprefix(LABEL) for name in labels if not any(row[name] for row in rows)]
    return [f"no row has the label {name}" for name in unknown] if rows else []


def cut_notes(store: Readable, since: datetime | None, until: datetime | None) -> list[str]:
    """Name the minutes that the span cuts and whose windows are deleted: sums hold whole minutes only."""
    from wattribute.sinks.rollup import retention_days

    cut = [end for end in (since, until) if end is not None and (end.second or end.microsecond)]
    days = retention_days(store) if cut else 0
    kept_from = datetime.now(UTC) - timedelta(days=days)
    minutes = dict.fromkeys(f"{end:%Y-%m-%d %H:%M}" for end in cut if days and end < kept_from)
    return [
        f"windows older than {days} days (retention_days) are deleted, so this span's part of the minute"
        f" {minute} UTC is missing: ask for whole minutes"
        for minute in minutes
    ]


def shown_place(row: Mapping[str, Any], name: str) -> str:
    """What a line says in a column of ``by``: a text, or a time to the precision of its step."""
    value = row[name]
    if not isinstance(value, datetime):
        return str(value)
    shown = f"{value:{_CALENDAR.get(name, '%Y-%m-%d %H:%M')}}"
    return f"{shown} {value:%z}" if name == "hour" and value.utcoffset() else shown


def cost_grid(rows: Rows, by: Sequence[str], policy: str, notes: Sequence[str], title: str = "") -> Grid:
    """The table, with a total line. The rounded figures add up, down and across."""
    steps = [name for name in by if name in _CALENDAR]
    ordered = sorted(
        rows, key=lambda row: (_ACCOUNTS.index(row["account"]), -row["energy_j"], -row["gpu_hours"])
    )
    ordered.sort(key=lambda row: [row[name] for name in steps])
    energy = split_columns(ordered, _ENERGY)
    hours = column(
        [row["gpu_hours"] for row in ordered], decimals_for([math.fsum(values(ordered, "gpu_hours"))])
    )
    money = split_columns(ordered, _MONEY, CENTS)
    figures = [[*energy[place], hours[place], *money[place]] for place in range(len(ordered) + 1)]
    headers = ["active J", "idle J", "energy J", "GPU hours", "active USD", "idle USD", "cost USD"]
    if ordered and "charged_usd" in ordered[0]:
        decimals = decimals_for([math.fsum(values(ordered, "cost_usd"))], CENTS)
        shares = column([row["charged_usd"] for row in ordered], decimals)
        figures = [[*cells, share] for cells, share in zip(figures, shares, strict=True)]
        headers.append("of which charged USD")
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
        notes=[policy_note(policy), *notes],
    )


def write_policies(rows: Rows, by: Sequence[str], shape: Format, cut: Sequence[str]) -> None:
    """Print whose bill changes with the policy; ``cut`` is what ``cut_notes`` says."""
    money = [f"{policy}_usd" for policy in POLICIES]
    if shape is not Format.table:
        write_rows(rows, shape, [*by, *money, "difference_usd", "difference_ratio"])
        return
    decimals = decimals_for([row[name] for row in rows for name in money], CENTS)
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
            notes=[*(notes if rows else ["nothing was measured in this span"]), *cut],
        )
    )


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
        f" sum(toInt128(gpu_time_ns)) / 3.6e12 AS gpu_hours FROM ({unpriced})"
        " GROUP BY ALL ORDER BY gpu_hours DESC LIMIT 5",
        span_params(policy, since, until) | {"as_of": time_text(as_of, UNTIL)},
    ).rows
    notes = []
    for model, provider, region, pricing, is_found, currency, hours in found:
        where = " ".join(filter(None, (provider, region, pricing))) or "no provider"
        named = model.replace("'", "")
        advice = f"wattribute price add --gpu '{named}' --per-gpu-hour USD"
        if is_found and currency != "USD":
            advice = f"its price is in {currency}, and only USD is summed: add the same price in USD"
        elif is_found:
            advice = (
                "its price excludes electricity, and no tariff in USD applies: wattribute price tariff add"
            )
        elif not model:
            advice = "its log does not name the GPU model: replay it with --gpu-model 'NVIDIA …'"
        notes.append(f"unpriced: {hours:,.4g} GPU hours of {model or 'a nameless GPU'} ({where}); {advice}")
    return notes


def balance_note(store: Readable, rows: Rows, since: datetime | None) -> str:
    """Compare the sum of the accounts with what the devices themselves counted."""
    parts = {name: math.fsum(row["energy_j"] for row in rows if row["account"] == name) for name in _ACCOUNTS}
    begin = {"since": span_times(since, None)["since"]}
    (device_uj,) = store.query(
        "SELECT sum(toInt128(energy)) FROM (SELECT any(device_energy_uj) AS energy FROM attribution FINAL"
        " WHERE window_start >= {since:DateTime64(3, 'UTC')} GROUP BY host, boot_id, gpu, window_start)",
        begin,
    ).rows[0]
    (wrong,) = store.query(
        "SELECT count() FROM conservation WHERE window_start >= {since:DateTime64(3, 'UTC')}", begin
    ).rows[0]
    shown = " + ".join(f"{name} {parts[name]:,.3f}" for name in _ACCOUNTS if name in _ALWAYS or parts[name])
    whole = f"{math.fsum(parts.values()):,.3f} J; the GPUs used {device_uj / 1e6:,.3f} J"
    return f"{shown} = {whole}" + (f"; {wrong} windows do not add up: this is a bug" if wrong else "")
