"""``wattribute explain``: what a figure rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from wattribute.commands.cost import POLICIES
from wattribute.commands.options import (
    SPAN,
    ConfigOption,
    FormatOption,
    PolicyOption,
    SinceOption,
    StoreOption,
    UntilOption,
)
from wattribute.commands.output import Format, Grid, shown_number, write_grid, write_rows
from wattribute.commands.since import parse_span, parse_time
from wattribute.errors import UsageError
from wattribute.settings import load_settings

if TYPE_CHECKING:
    from wattribute.sinks.store import Readable

# The bits of attribution.flags (kernels/attribute.py), in words.
FLAGS: Final[Mapping[int, str]] = {
    1: "provisional: the window may still change",
    2: "a gap: samples are missing in the window",
    4: "the energy counter was reset in the window",
    8: "no energy is known for part of the window",
    16: "SM time was scaled down: the holders' sum was more than the window",
    32: "several holders and no SM time of any: their active energy is residual",
    64: "the window was observed in part",
}
_ENERGY_SOURCES: Final = {
    "counter": "the hardware's energy counter",
    "instant": "integrated POWER_INSTANT: no counter",
    "average": "integrated 1 s average power: no counter, no instant power",
    "module": "the power of a whole module (GPU and CPU)",
    "none": "no energy was read",
}
_WEIGHT_SOURCES: Final = {
    "exclusive": "the only holder: nothing had to be split",
    "accounting": "split by the driver's accounting",
    "utilization": "split by the SM time of each process, 1 s figures of the driver",
    "gpm": "split by the activity of MIG instances",
    "memory": "split by memory held: no SM time",
    "equal": "no SM time: a share of the idle level alone",
    "none": "not split: nobody held it, or it cannot be split",
}
_COLUMNS: Final = ("about", "value", "rows", "energy_j", "gpu_hours", "meaning")


def explain(
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", rich_help_panel=SPAN)] = None,
    model_version: Annotated[
        str | None, typer.Option("--model-version", metavar="NAME", rich_help_panel=SPAN)
    ] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="NAME", rich_help_panel=SPAN)] = None,
    team: Annotated[str | None, typer.Option("--team", metavar="NAME", rich_help_panel=SPAN)] = None,
    host: Annotated[str | None, typer.Option("--host", metavar="NAME", rich_help_panel=SPAN)] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", metavar="UUID", rich_help_panel=SPAN)] = None,
    account: Annotated[
        str | None, typer.Option("--account", metavar="process|unheld|residual", rich_help_panel=SPAN)
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            "--window", metavar="TIME", help="The one window this time lies in.", rich_help_panel=SPAN
        ),
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    policy: PolicyOption = "equal",
    shape: FormatOption = Format.table,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """What a figure of cost rests on: windows, sources, flags, policy, prices, and how far off it may be."""
    settings = load_settings({"store": store}, config)
    if policy not in POLICIES:
        raise UsageError(f"unknown policy {policy!r}: it is one of {', '.join(POLICIES)}")
    begin, end = _span(window, since, until, settings.window_ms)
    selected = {
        "model": model, "model_version": model_version, "run": run, "team": team, "host": host, "gpu": gpu,
        "account": account,
    }  # fmt: skip
    wanted = {name: value for name, value in selected.items() if value is not None}
    from wattribute.sinks.query_server import open_store_for_reading

    with closing(open_store_for_reading(settings.store)) as opened:
        rows = explain_rows(opened, wanted, begin, end, policy)
    if shape is not Format.table:
        write_rows(rows, shape, _COLUMNS)
        return
    cells = [
        [
            row["about"],
            row["value"],
            "" if row["rows"] is None else f"{row['rows']:,}",
            "" if row["energy_j"] is None else shown_number(row["energy_j"], 3),
            "" if row["gpu_hours"] is None else shown_number(row["gpu_hours"], 6),
            row["meaning"],
        ]
        for row in rows
    ]
    styles = ["bold" if row["about"] == "figure" else "" for row in rows]
    write_grid(
        Grid(("about", "value", "rows", "energy J", "GPU hours", ""), cells, frozenset({2, 3, 4}), styles)
    )


def explain_rows(
    store: Readable, wanted: Mapping[str, str], since: datetime | None, until: datetime | None, policy: str
) -> list[dict[str, Any]]:
    """One row for each thing that the figure rests on. Raises UsageError where nothing was measured."""
    params = {
        **wanted,
        "policy": policy,
        "since": "1970-01-01" if since is None else f"{since:%Y-%m-%d %H:%M:%S.%f}",
        "until": "2200-01-01" if until is None else f"{until:%Y-%m-%d %H:%M:%S.%f}",
    }
    chosen = " AND ".join(["1", *(f"{name} = {{{name}:String}}" for name in wanted)])
    rows = _figure(store, chosen, params, policy)
    for about, column, meanings in (
        ("energy source", "toString(energy_source)", _ENERGY_SOURCES),
        ("weight source", "toString(weight_source)", _WEIGHT_SOURCES),
        ("identity source", "identity_source", {"": "nothing told whose it is"}),
    ):
        grouped = _attribution(
            store, f"{column} AS value", chosen, "GROUP BY value ORDER BY energy DESC", params, policy
        )
        rows += [_row(about, value or "none", meanings.get(value, ""), *sums) for value, *sums in grouped]
    bits = _attribution(
        store,
        "arrayJoin(bitmaskToArray(flags)) AS value",
        chosen,
        "GROUP BY value ORDER BY value",
        params,
        policy,
    )
    rows += [_row("flag", f"bit {value}", FLAGS.get(value, ""), *sums) for value, *sums in bits]
    rows.append(_row("policy", policy, POLICIES[policy]))
    return rows + _prices(store, chosen, params)


def _figure(store: Readable, chosen: str, params: Mapping[str, Any], policy: str) -> list[dict[str, Any]]:
    more = "uniqExact(host, boot_id, gpu, window_start), uniqExact(host, gpu),"
    more += " min(window_start), max(window_start), uniqExact(host, boot_id, pid, process_start_ns),"
    more += " sum(error_uj) / 1e6, sum(error_ns) / 3.6e12"
    ((windows, gpus, first, last, processes, error_j, error_hours, *sums),) = _attribution(
        store, more, chosen, "", params, policy
    )
    if not sums[0]:
        raise UsageError(
            "nothing was measured that fits: look for it with 'wattribute cost --by model,run,team'"
        )
    money = store.query(
        "SELECT if(countIf(cost_usd IS NULL) = 0, sum(cost_usd), NULL)"  # noqa: S608 - as in _attribution
        " FROM cost(policy = {policy:String},"
        f" since = {{since:String}}, until = {{until:String}}) WHERE {chosen}",
        params,
    ).rows[0][0]
    shown = "unpriced" if money is None else f"{money:.6g} USD"
    span = f"{first:%Y-%m-%dT%H:%M:%SZ} to {last:%Y-%m-%dT%H:%M:%SZ}"
    counted = f"{windows:,} windows of {gpus:,} GPUs and {processes:,} processes, {span}"
    return [
        _row("figure", shown, counted, *sums),
        _row(
            "error band",
            "95 %",
            "plus or minus, half-widths added up over the windows",
            None,
            error_j,
            error_hours,
        ),
    ]


def _attribution(
    store: Readable, columns: str, chosen: str, group: str, params: Mapping[str, Any], policy: str
) -> Sequence[tuple[Any, ...]]:
    return store.query(
        f"SELECT {columns}, count(),"  # noqa: S608 - names of ours, a checked policy; values are parameters
        f" sum(active_energy_uj + idle_energy_{policy}_uj) / 1e6 AS energy,"
        f" sum(gpu_time_{policy}_ns) / 3.6e12 FROM attribution FINAL"
        " WHERE window_start >= parseDateTime64BestEffort({since:String}, 3, 'UTC')"
        f" AND window_start < parseDateTime64BestEffort({{until:String}}, 3, 'UTC') AND {chosen} {group}",
        params,
    ).rows


def _prices(store: Readable, chosen: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = store.query(
        "SELECT used.price_id, amount, priced_in, origin, source,"  # noqa: S608 - as in _attribution
        " source_date, disputed, hours, joules, models"
        " FROM (SELECT price_id, any(price_per_gpu_hour_usd) AS amount, any(currency) AS priced_in,"
        " sum(gpu_time_ns) / 3.6e12 AS hours, sum(energy_uj) / 1e6 AS joules,"
        " arrayStringConcat(groupUniqArray(gpu_model), ', ') AS models"
        " FROM cost(policy = {policy:String}, since = {since:String}, until = {until:String})"
        f" WHERE {chosen} GROUP BY price_id) AS used"
        " LEFT JOIN (SELECT * FROM price FINAL) AS book ON used.price_id = book.price_id ORDER BY hours DESC",
        params,
    ).rows
    rows = []
    for price_id, amount, currency, origin, source, source_date, disputed, hours, joules, models in found:
        if not price_id:
            advice = f"no price of {models or 'a GPU without a name'}: see 'wattribute cost'"
            rows.append(_row("price", "none", advice, None, joules, hours))
            continue
        where = f"{price_id}, {origin}: {source}{f' ({source_date})' if source_date else ''}"
        value = f"{amount:g} USD/h" if amount is not None else f"in {currency}, not summed"
        rows.append(_row("price", value, where + (", disputed" if disputed else ""), None, joules, hours))
    return rows


def _row(
    about: str,
    value: str,
    meaning: str,
    rows: int | None = None,
    energy_j: float | None = None,
    gpu_hours: float | None = None,
) -> dict[str, Any]:
    return dict(zip(_COLUMNS, (about, value, rows, energy_j, gpu_hours, meaning), strict=True))


def _span(
    window: str | None, since: str | None, until: str | None, window_ms: int
) -> tuple[datetime | None, datetime | None]:
    at = parse_time(window)
    if at is None:
        return parse_span(since, until)
    if since or until:
        raise UsageError("--window goes without --since and --until")
    begin = at - timedelta(milliseconds=int(at.timestamp() * 1000) % window_ms)
    return begin.replace(microsecond=begin.microsecond // 1000 * 1000), begin + timedelta(
        milliseconds=window_ms
    )
