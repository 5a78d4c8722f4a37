"""``wattribute lineage``: which training run a model version came from, so that its tokens bear a part of
that run's cost."""

from __future__ import annotations

from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from wattribute.commands.options import ConfigOption, FormatOption, StoreOption
from wattribute.commands.output import Format, Grid, note, write_grid, write_rows
from wattribute.commands.since import parse_time, parse_zone
from wattribute.errors import StoreError
from wattribute.settings import load_settings

lineage = typer.Typer(
    help="Which training run a model version came from, for the fully loaded cost in 'wattribute models'.",
    no_args_is_help=True,
    epilog="[bold]For example[/bold]\n\n  wattribute lineage add --model chat --model-version v3 --run sft-7"
    " --from 2026-06-01 --until 2026-12-01\n\n  wattribute lineage list",
)
_COLUMNS: Final = ("model", "model_version", "run", "share_ratio", "life_from", "life_to", "is_seen")


@lineage.command()
def add(
    model: Annotated[str, typer.Option("--model", show_default=False)],
    run: Annotated[
        str, typer.Option("--run", help="The training run that it came from.", show_default=False)
    ],
    until: Annotated[
        str,
        typer.Option("--until", metavar="TIME", help="The end of its life: until when it is to serve."),
    ],
    model_version: Annotated[str, typer.Option("--model-version", show_default=False)] = "",
    share: Annotated[
        float,
        typer.Option(
            "--share", help="The part of the run's cost that it bears, 0 to 1; 0 removes the entry."
        ),
    ] = 1.0,
    since: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TIME",
            help="The beginning of its life.",
            show_default="its first day of service",
        ),
    ] = None,
    tz: Annotated[str, typer.Option("--tz", metavar="ZONE", help="Time zone of times without one.")] = "UTC",
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Declare which training run a model version came from.

    The cost of the run is spread evenly over the version's life. Declared again, it replaces the earlier
    entry. Without --from, its life begins on the day it was first seen to serve, so that what it served
    until now bears its part too; else on the day its run was last seen; else today.
    """
    settings = load_settings({"store": store}, config)
    now = datetime.now(UTC)
    zone = parse_zone(tz)
    life_from, life_to, why = parse_time(since, now, zone), parse_time(until, now, zone), ""
    from wattribute.sinks.lineage import Lineage, life_began
    from wattribute.sinks.query_server import add_lineage_to, open_store_for_reading

    if life_from is None:
        found = None
        with suppress(StoreError), closing(open_store_for_reading(settings.store)) as opened:
            found = life_began(opened, model, model_version, run)  # there may be no store yet
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        life_from, why = found or (today, "today, because it was not seen yet")
    made = Lineage(model, model_version, run, life_from, life_to, share)
    for remark in add_lineage_to(settings.store, made):
        note(f"note: {remark}")
    begin, end = life_from.astimezone(zone), life_to.astimezone(zone)
    life = f"from {begin:%Y-%m-%d}{f' ({why})' if why else ''} until {end:%Y-%m-%d}"
    named = f"{model} {model_version}".rstrip()
    note(f"{named}: {share:.4g} of run {run}, {life}" if share else f"{run}: entry removed")


@lineage.command("list")
def list_(shape: FormatOption = Format.table, store: StoreOption = None, config: ConfigOption = None) -> None:
    """Which runs each model version came from, and over which life their cost is spread."""
    settings = load_settings({"store": store}, config)
    from wattribute.sinks.lineage import list_lineage
    from wattribute.sinks.query_server import open_store_for_reading

    with closing(open_store_for_reading(settings.store)) as opened:
        rows = list_lineage(opened)
    if shape is Format.table:
        write_grid(_grid(rows))
    else:
        write_rows(rows, shape, _COLUMNS)


def _grid(rows: list[dict[str, Any]]) -> Grid:
    return Grid(
        headers=["model", "version", "run", "share", "from (UTC)", "until (UTC)", "seen"],
        rows=[
            [
                *(str(row[name]) for name in ("model", "model_version", "run")),
                f"{row['share_ratio']:.4g}",
                *(f"{row[name]:%Y-%m-%d %H:%M}" for name in ("life_from", "life_to")),
                "yes" if row["is_seen"] else "never",
            ]
            for row in rows
        ],
        numeric=frozenset({3}),
        notes=[] if rows else ["nothing is declared: wattribute lineage add"],
    )
