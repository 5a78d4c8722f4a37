"""``wattribute host``: declare when a host is billed, and for how many GPUs."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Final

import typer

from wattribute.commands.options import ConfigOption, FormatOption, StoreOption, TzOption
from wattribute.commands.output import Format, Grid, note, write_grid, write_rows
from wattribute.commands.since import parse_time, parse_zone
from wattribute.errors import UsageError
from wattribute.settings import load_settings

host = typer.Typer(
    help="The time for which a host is billed, seen or not: add, list, remove.",
    no_args_is_help=True,
    epilog="[bold]For example[/bold]\n\n  wattribute host add node-1 --gpus 8 --from 2026-06-01"
    "\n\n  wattribute host list",
)
_COLUMNS: Final = ("host", "gpu_model", "gpus", "provider", "region", "pricing", "billed_from", "billed_to")
_TERMS: Final = "At which price (default: as it was seen)"
_HostArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The host's name, as 'wattribute cost --by host' shows it.")
]


@host.command()
def add(
    name: _HostArgument,
    begin: Annotated[str, typer.Option("--from", metavar="TIME", help="Billed from this whole minute on.")],
    end: Annotated[
        str | None,
        typer.Option(
            "--until", metavar="TIME", help="Billed until before this minute.", show_default="goes on"
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus", metavar="COUNT", help="How many GPUs are billed.", show_default="as many as were seen"
        ),
    ] = None,
    gpu: Annotated[
        str,
        typer.Option("--gpu", metavar="NAME", help="Their model as NVML names it.", show_default="as seen"),
    ] = "",
    provider: Annotated[str | None, typer.Option("--provider", rich_help_panel=_TERMS)] = None,
    region: Annotated[str | None, typer.Option("--region", rich_help_panel=_TERMS)] = None,
    pricing: Annotated[
        str | None, typer.Option("--pricing", help="on_demand, spot, …", rich_help_panel=_TERMS)
    ] = None,
    tz: TzOption = "UTC",
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Declare which GPUs of a host are billed, and when.

    What no collector saw of that time is unobserved, and has a cost too.

    Undeclared, a host is taken to be billed from its first to its last window. Declared again with the same
    host, GPU and beginning, it replaces the earlier entry.
    """
    settings = load_settings({"store": store}, config)
    zone = parse_zone(tz)
    from wattribute.sinks.billing import BilledHost
    from wattribute.sinks.prices import END
    from wattribute.sinks.query_server import add_billed_to

    billed_from, billed_to = parse_time(begin, zone=zone), parse_time(end, zone=zone)
    if gpus == 0:
        raise UsageError("--gpus 0: it must be 1 or more; leave it out to bill as many as were seen")
    declared = BilledHost(
        host=name,
        billed_from=billed_from,
        billed_to=billed_to or END,
        gpu_model=gpu,
        gpus=gpus or 0,
        provider=provider,
        region=region,
        pricing=pricing,
    )
    for remark in add_billed_to(settings.store, declared):
        note(f"note: {remark}")
    note(
        f"{name} is billed from {billed_from:%Y-%m-%dT%H:%MZ}"
        + (f" until {billed_to:%Y-%m-%dT%H:%MZ}" if billed_to else " on")
    )


@host.command()
def remove(name: _HostArgument, store: StoreOption = None, config: ConfigOption = None) -> None:
    """Remove all that was declared of a host: it is billed from its first to its last window again."""
    settings = load_settings({"store": store}, config)
    from wattribute.sinks.query_server import remove_billed_from

    remove_billed_from(settings.store, name)
    note(f"nothing is declared for {name} any more")


@host.command("list")
def list_(shape: FormatOption = Format.table, store: StoreOption = None, config: ConfigOption = None) -> None:
    """Every host that was declared, and when it is billed."""
    settings = load_settings({"store": store}, config)
    from wattribute.sinks.billing import list_billed
    from wattribute.sinks.query_server import open_store_for_reading

    with closing(open_store_for_reading(settings.store)) as opened:
        rows = list_billed(opened)
    if shape is not Format.table:
        write_rows(rows, shape, _COLUMNS)
        return
    cells = [
        [
            *(str(row[name]) for name in _COLUMNS[:6]),
            *(f"{row[name]:%Y-%m-%d %H:%M}" if row[name] else "" for name in _COLUMNS[6:]),
        ]
        for row in rows
    ]
    headers = ["host", "GPU", "GPUs", "provider", "region", "pricing", "from (UTC)", "until (UTC)"]
    empty = "nothing is declared: every host is taken to be billed from its first to its last window"
    write_grid(Grid(headers, cells, frozenset({2}), notes=[] if rows else [empty]))
