"""``wattribute watts``: how much power each model was seen to draw on each kind of GPU."""

from __future__ import annotations

from contextlib import closing

from wattribute.commands.options import (
    ConfigOption,
    FormatOption,
    SinceOption,
    StoreOption,
    TzOption,
    UntilOption,
)
from wattribute.commands.output import Format, Grid, write_grid, write_rows
from wattribute.commands.since import parse_span, parse_zone
from wattribute.settings import load_settings


def watts(
    since: SinceOption = None,
    until: UntilOption = None,
    tz: TzOption = "UTC",
    shape: FormatOption = Format.table,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """What each model version was seen to draw for each percent of SM time, on each kind of GPU.

    As CSV it is a file for the setting watts_file. Attribution then starts with what the fleet has seen of a
    model, and keeps to that for processes that one GPU cannot tell apart.
    """
    settings = load_settings({"store": store}, config)
    begin, end = parse_span(since, until, parse_zone(tz))
    from wattribute.sinks.query_server import open_store_for_reading
    from wattribute.sinks.watts import COLUMNS, watts_rows

    with closing(open_store_for_reading(settings.store)) as opened:
        rows = watts_rows(opened, begin, end)
    if shape is not Format.table:
        write_rows(rows, shape, COLUMNS)
        return
    cells = [
        [
            *(str(row[name]) for name in COLUMNS[:3]),
            f"{row['watts_per_percent']:.2f}",
            f"{row['spread_w']:.2f}",
            f"{row['busy_hours']:,.3g}",
            str(row["gpus"]),
        ]
        for row in rows
    ]
    write_grid(
        Grid(
            ["GPU", "model", "version", "W per percent", "± W", "busy hours", "GPUs"],
            cells,
            frozenset(range(3, 7)),
            notes=[
                "energy above idle over SM time, by whole hours (UTC); ±: how far hours and GPUs differ",
                'to start with these: "wattribute watts --format csv > watts.csv", and the setting watts_file'
                if rows
                else "no model has worked in an hour that begins in this span",
            ],
        )
    )
