"""``wattribute models``: what each model version costs for what it serves, beside how good it is."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

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
from wattribute.commands.since import parse_span, parse_zone
from wattribute.settings import load_settings

if TYPE_CHECKING:
    from wattribute.sinks.store import Readable

_ALWAYS: Final = {  # heading -> column
    "USD per M output": "cost_usd_per_million_output_tokens",
    "busy USD": "busy_usd_per_million_output_tokens",
    "J per output": "j_per_output_token",
    "USD per request": "cost_usd_per_request",
}
_IF_WIDE_ENOUGH: Final = {
    "at best USD": "capacity_usd_per_million_output_tokens",
    "input USD": "input_price_usd_per_million",
    "output USD": "output_price_usd_per_million",
}
_MEANING: Final = (
    "per M output: for a million output tokens; busy: what is left of that without idle time; at best: at the"
    " throughput of its best 15 minutes; input, output: the price of a million of each"
)
_WIDE: Final = {
    "fully loaded USD": "fully_loaded_usd_per_million_output_tokens",
    "at best tokens per GPU s": "capacity_output_tokens_per_gpu_s",
    "input J per million": "input_j_per_million",
    "output J per million": "output_j_per_million",
    "cache saving USD": "cache_saving_usd",
    "input tokens": "input_tokens",
    "cached": "cached_tokens",
    "output tokens": "output_tokens",
    "reasoning": "reasoning_tokens",
    "requests": "requests",
    "energy J": "energy_j",
    "GPU hours": "gpu_hours",
    "serving USD": "cost_usd",
    "± USD": "error_usd",
    "training USD": "training_cost_usd",
}
_SHOWN: Final = 50
_MOST: Final = 50_000  # the store answers with 64 MiB at most
_UNMATCHED: Final = {
    "no GPU time": "tokens without GPU time: do its engine and its processes use different names?",
    "no units": "GPU time without tokens: are they not counted, or counted under another name?",
}


def models(
    since: SinceOption = None,
    until: UntilOption = None,
    tz: TzOption = "UTC",
    policy: PolicyOption = "equal",
    wide: Annotated[
        bool, typer.Option("--wide", help="Show every column, even on a narrow terminal.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            min=1,
            max=_MOST,
            help="Only this many versions, the most expensive ones.",
            show_default="50 in a table",
        ),
    ] = None,
    shape: FormatOption = Format.table,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """What each model version costs for each token and request it serves, and how good it is.

    The average covers everything that its processes cost, idle time and input tokens included. Busy is the
    part for the time in which the GPU worked; at best assumes the throughput of its best 15 minutes. An input
    and an output token have a price each, together the whole cost. Training is a column of its own.
    """
    settings = load_settings({"store": store}, config)
    zone = parse_zone(tz)
    begin, end = parse_span(since, until, zone)
    from wattribute.sinks.models import COLUMNS, count_versions, model_rows
    from wattribute.sinks.query_server import open_store_for_reading

    kept = limit or (_SHOWN if shape is Format.table else _MOST)
    with closing(open_store_for_reading(settings.store)) as opened:
        rows = model_rows(opened, begin, end, policy, kept)
        if len(rows) == kept:
            left_out = count_versions(opened, begin, end) - kept
            what = (
                f"{left_out:,} cheaper model versions"
                if left_out > 0
                else "versions without GPU time, if any,"
            )
            note(f"note: {what} are left out: raise --limit, or query the view model_cost")
        if shape is not Format.table:
            write_rows(rows, shape, COLUMNS)
            return
        notes = [_MEANING, policy_note(policy), *_price_notes(rows)]
        if any(row["cost_usd"] is None or row["training_cost_usd"] is None for row in rows):
            notes += unpriced_notes(opened, [{"cost_usd": None}], policy, begin, end)
        notes += _unmatched_notes(rows)
        notes += _version_notes(opened, rows, begin, end, zone)
        if not any(row["model"] for row in rows):
            notes = ["no model was seen in this span: set WATTRIBUTE_MODEL where you start one"]
        notes += cut_notes(opened, begin, end)
        write_grid(_grid([row for row in rows if row["model"]], notes, wide))


def _grid(rows: Rows, notes: list[str], wide: bool) -> Grid:
    covered = any(row["coverage_ratio"] is not None for row in rows)
    names = _ALWAYS | _IF_WIDE_ENOUGH | (_WIDE if wide else {})
    quality, datasets = _qualities(rows)
    figures = [_column([row[name] for row in rows]) for name in names.values()]
    more = (["counted %"] if covered else []) + (["latency s", "token price"] if wide else [])
    return Grid(
        headers=["model", "version", *names, "active %", "quality", *more],
        rows=[
            [
                str(row["model"]),
                str(row["model_version"]),
                *(column[place] for column in figures),
                _percent(row["active_ratio"]),
                _measures(quality[place]),
                *([_percent(row["coverage_ratio"])] if covered else []),
                *([_measures(row["latency_s"]), row["token_price_method"] or "-"] if wide else []),
            ]
            for place, row in enumerate(rows)
        ],
        numeric=frozenset(range(2, 3 + len(names))),
        spare=() if wide else [*range(2 + len(_ALWAYS), 2 + len(names)), 5, 3, 2 + len(names)],
        notes=[*notes, *datasets],
    )


def _qualities(rows: Rows) -> tuple[list[dict[str, float]], list[str]]:
    """The quality of each row, and a note on datasets: a metric measured on only one is shown without."""
    datasets: dict[str, set[str]] = {}
    for row in rows:
        for measure in row["quality"]:
            metric, _, dataset = measure.partition(" on ")
            datasets.setdefault(metric, set()).add(dataset)
    single = {metric: dataset for metric, (dataset, *more) in datasets.items() if dataset and not more}

    def heading(measure: str) -> str:
        metric = measure.partition(" on ")[0]
        return metric if metric in single else measure

    shown = [{heading(measure): value for measure, value in row["quality"].items()} for row in rows]
    named = ", ".join(f"{metric} on {dataset}" for metric, dataset in single.items())
    return shown, [f"quality: {named}"] if named else []


def _column(values: list[float | None]) -> list[str]:
    decimals = decimals_for(values)
    return [shown_number(value, decimals) for value in values]


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.0f}"


def _measures(values: dict[str, float]) -> str:
    return ", ".join(f"{measure} {value:.4g}" for measure, value in values.items()) or "-"


def _price_notes(rows: Rows) -> list[str]:
    """How the prices of tokens came about."""
    fitted, by_ratio = ([row for row in rows if row["token_price_method"] == how] for how in ("fit", "ratio"))
    notes = []
    if fitted:
        evidence = ", ".join(
            f"{_name(row)} (r² {row['fit_r_squared']:.2f}, {row['fit_minutes']:,} minutes)"
            for row in fitted[:3]
        )
        notes.append(f"token prices fitted to the minutes of {evidence}{_and_more(fitted[3:])}")
    if by_ratio:
        reason = by_ratio[0]["reasons"]["token_price_method"]
        named = f"{_name(by_ratio[0])}{_and_more(by_ratio[1:])}"
        notes.append(f"token prices of {named} count an output token as 2.5 input tokens: {reason}")
    return notes


def _unmatched_notes(rows: Rows) -> list[str]:
    """What has no unit cost, and why."""
    notes = []
    for kind, meaning in _UNMATCHED.items():
        found = [row for row in rows if row["unmatched"] == kind]
        if found:
            notes.append(f"unmatched: {_name(found[0])}{_and_more(found[1:])}: {meaning}")
    for row in rows:
        if row["unmatched"] == "no model":
            joules = row["energy_j"] + row["training_energy_j"]
            money = [row[name] for name in ("cost_usd", "training_cost_usd")]
            usd = " (unpriced)" if None in money else f" and {sum(money):,.4g} USD"
            notes.append(f"unmatched: {joules:,.4g} J{usd} of processes that name no model")
    return notes


def _version_notes(
    store: Readable, rows: Rows, since: datetime | None, until: datetime | None, zone: tzinfo
) -> list[str]:
    """Versions that another beats in every way, and processes that changed their name."""
    from wattribute.sinks.model_comparison import dominated
    from wattribute.sinks.models import quality_rows, renamed_rows

    versions = [(row["model"], row["model_version"]) for row in rows if row["model"]]
    if not versions:
        return []
    beaten = dominated(rows, quality_rows(store, versions, since, until))
    notes = [f"{_name(row)} is dearer and no better than {_name(other)}" for row, other in beaten]
    for row in renamed_rows(store, since, until):
        other = {"model": row["next_model"], "model_version": row["next_version"]}
        notes.append(
            f"renamed: a process was {_name(row)} until {row['at'].astimezone(zone):%Y-%m-%d %H:%M:%S %Z},"
            f" then {_name(other)}: it counts as two"
        )
    return notes


def _name(row: Any) -> str:
    return " ".join(filter(None, (row["model"], row["model_version"]))) or "no model"


def _and_more(rows: Rows) -> str:
    return f" and {len(rows):,} more" if rows else ""
