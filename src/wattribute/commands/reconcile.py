"""``wattribute reconcile``: whether the parts add up to the bill."""

from __future__ import annotations

import math
from contextlib import closing
from typing import Annotated, Final

from wattribute.commands.cost import cut_notes
from wattribute.commands.options import (
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
from wattribute.commands.output import Format, Grid, Rows, decimals_for, write_grid, write_rows
from wattribute.commands.rounding import CENTS, column, shown_money, values
from wattribute.commands.since import parse_span, parse_zone
from wattribute.errors import UsageError
from wattribute.settings import load_settings

_MONEY: Final = {  # heading -> column
    "process": "process_usd",
    "reserved": "reserved_usd",
    "unheld": "unheld_usd",
    "residual": "residual_usd",
    "unobserved": "unobserved_usd",
    "sum USD": "parts_usd",
    "billed USD": "billed_usd",
}
_COLUMNS: Final = (
    *("billed_gpu_hours", *_MONEY.values(), "difference_usd", "difference_ratio", "difference_gpu_hours"),
    *("unobserved_gpu_hours", "unpriced_gpu_hours", "is_declared"),
)
_COMPARE: Final = "compare provider, region and pricing ('wattribute reconcile --by pricing')"
_ROUNDING_HOURS: Final = 1e-9
_REPLACED_SHOWN: Final = 5


def reconcile(
    by: Annotated[
        str, asked("--by", "A line for each host, gpu_model, provider, region or pricing.", "COLUMN")
    ] = "host",
    since: SinceOption = None,
    until: UntilOption = None,
    tz: TzOption = "UTC",
    policy: PolicyOption = "equal",
    invoice: Annotated[float | None, asked("--invoice", "A bill in USD to compare with.", "AMOUNT")] = None,
    shape: FormatOption = Format.table,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Check the parts against the bill: processes, reservations, idle GPUs, what cannot be split and what no
    collector saw, beside the GPU hours billed at the price in force.

    A host is billed as 'wattribute host add' declared, else from its first to its last window.
    """
    settings = load_settings({"store": store}, config)
    begin, end = parse_span(since, until, parse_zone(tz))
    if invoice is not None and not (math.isfinite(invoice) and invoice >= 0):
        raise UsageError(f"--invoice is {invoice}: it must be an amount of 0 or more")
    if invoice is not None and shape is not Format.table:
        raise UsageError("--invoice is compared only in the table: leave out --format, or compare billed_usd")
    from wattribute.sinks.billing import reconcile_rows, replaced_gpus
    from wattribute.sinks.query_server import open_store_for_reading

    with closing(open_store_for_reading(settings.store)) as opened:
        rows = reconcile_rows(opened, by, begin, end, policy)
        replaced = replaced_gpus(opened, begin, end) if shape is Format.table else []
        has_tariffs = bool(
            opened.query("SELECT 1 FROM tariff_book WHERE known_until > now64(3) LIMIT 1").rows
        )
        cut = cut_notes(opened, begin, end)
    if shape is not Format.table:
        write_rows(rows, shape, [by, *_COLUMNS])
        return
    notes = [policy_note(policy), *_notes(rows, by), *_replaced(replaced)]
    if has_tariffs:
        notes.append("electricity at a tariff is on neither side of this table; 'wattribute cost' shows it")
    if invoice is not None:
        notes.append(_invoiced(rows, invoice))
    notes = notes if rows else ["nothing was measured or billed in this span"]
    write_grid(_grid(rows, by, [*notes, *cut]))


def _grid(rows: Rows, by: str, notes: list[str]) -> Grid:
    whole = math.fsum(values(rows, "billed_usd"))
    decimals = decimals_for([whole], CENTS)
    money = [column([row[name] for row in rows], decimals) for name in _MONEY.values()]
    hours = column(
        [row["billed_gpu_hours"] for row in rows],
        decimals_for([math.fsum(row["billed_gpu_hours"] for row in rows)]),
    )
    differences = [row["difference_usd"] for row in rows]
    differences.append(None if None in differences else math.fsum(differences))
    billed = [*(row["billed_usd"] for row in rows), whole]
    cells = [
        [
            *(
                [rows[place][by] or "-", "" if rows[place]["is_declared"] else "seen"]
                if place < len(rows)
                else ["total", ""]
            ),
            hours[place],
            *(amounts[place] for amounts in money),
            _shown_difference(difference, decimals),
            _shown_percent(difference, billed[place]),
        ]
        for place, difference in enumerate(differences)
    ]
    return Grid(
        headers=[by, "billed", "GPU hours", *_MONEY, "difference USD", "%"],
        rows=cells,
        numeric=frozenset(range(2, 5 + len(_MONEY))),
        spare=(4, 6, 1, 2, 11, 8),
        styles=[
            *("red" if abs(row["difference_gpu_hours"]) > _ROUNDING_HOURS else "" for row in rows),
            "bold",
        ],
        notes=notes,
    )


def _shown_difference(amount: float | None, decimals: int) -> str:
    """A difference of money; one that is only rounding has no minus."""
    is_rounding = amount is not None and abs(amount) < 0.5 * 10.0**-decimals
    return shown_money(0.0 if is_rounding else amount, decimals)


def _shown_percent(part: float | None, whole: float | None) -> str:
    ratio = part / whole if part is not None and whole else None
    return "-" if ratio is None else f"{100 * (0.0 if abs(ratio) < 5e-6 else ratio):.3f}"


def _notes(rows: Rows, by: str) -> list[str]:
    """Explain the lines, and say what to do about differences."""
    notes = []
    if any(not row["is_declared"] for row in rows):
        notes.append(
            "seen: billed from the first to the last window that was seen;"
            " 'wattribute host add' declares what is billed"
        )
    for row in rows:
        hours = row["difference_gpu_hours"]
        if hours < -_ROUNDING_HOURS:
            notes.append(
                f"{row[by]}: {-hours:,.4g} GPU hours were measured that are not billed:"
                " 'wattribute host list' lacks a time or a GPU"
            )
        elif row["difference_usd"] is not None and abs(row["difference_usd"]) > 1e-9 * max(
            1.0, row["billed_usd"]
        ):
            notes.append(f"{row[by]}: what was measured has another price than what is billed: {_COMPARE}")
        elif row["difference_usd"] is None and not row["unpriced_gpu_hours"]:
            notes.append(f"{row[by]}: what was measured has no price, and what is billed has one: {_COMPARE}")
    unpriced = math.fsum(row["unpriced_gpu_hours"] for row in rows)
    if unpriced:
        notes.append(
            f"unpriced: {unpriced:,.4g} of the GPU hours billed; 'wattribute cost' says what lacks a price"
        )
    return notes


def _replaced(replaced: list[tuple[str, str, int]]) -> list[str]:
    notes = [
        f"{host}: {gpus} {model or 'nameless GPUs'} were seen, not all at one time, and all are billed from"
        f" first to last window: if one replaced another, declare with 'wattribute host add {host}' how many"
        " are billed"
        for host, model, gpus in replaced[:_REPLACED_SHOWN]
    ]
    more = len(replaced) - len(notes)
    return [*notes, f"and the same on {more} more hosts"] if more else notes


def _invoiced(rows: Rows, invoice: float) -> str:
    unpriced = math.fsum(row["unpriced_gpu_hours"] for row in rows)
    if unpriced:
        return f"invoice {invoice:,.2f} USD: not compared: {unpriced:,.4g} of the GPU hours have no price"
    billed = math.fsum(values(rows, "billed_usd"))
    over = invoice - billed
    percent = f" ({100 * over / invoice:+.2f} %)" if invoice else ""
    return f"invoice {invoice:,.2f} USD - billed {billed:,.2f} USD = {over:+,.2f} USD{percent}"
