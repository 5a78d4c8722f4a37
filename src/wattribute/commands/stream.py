"""``wattribute stream``: attribute what is on the bus, into the store."""

from __future__ import annotations

from typing import Annotated

import typer

from wattribute.commands.ends import stopping
from wattribute.commands.options import BusOption, ConfigOption, StoreOption
from wattribute.commands.output import note
from wattribute.commands.streaming import opened_stream, tell_unused
from wattribute.settings import load_settings


def stream(
    bus: BusOption = None,
    store: StoreOption = None,
    config: ConfigOption = None,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End once everything on the bus is in the store.")
    ] = False,
    from_beginning: Annotated[
        bool,
        typer.Option(
            "--from-beginning", help="Read again everything that the bus still holds: for an empty store."
        ),
    ] = False,
) -> None:
    """Attribute what arrives on the bus, and write it to the store.

    Any number of streams can share the work on Kafka. SIGTERM or Ctrl-C ends it after everything read is
    written and committed. If it is killed, the next one repeats the rest, with the same result.
    """
    settings = load_settings({"bus": bus, "store": store}, config)
    opened = opened_stream(settings, from_beginning)
    with stopping() as stop, opened as (sink, loop, _):  # closing may hang too
        note(f"streaming {settings.bus} -> {settings.store}")
        loop.run(stop, until_idle)
    note(f"{loop.counts.messages:,} messages read, {loop.counts.rows:,} rows written")
    tell_unused(sink, loop)
