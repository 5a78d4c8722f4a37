"""``wattribute migrate``: upgrade the tables of a store."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from wattribute.commands.options import ConfigOption, StoreOption
from wattribute.settings import load_settings


def migrate(
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would be done.")] = False,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Upgrade the tables, views and bundled prices of a store to this version, as other commands do too."""
    settings = load_settings({"store": store}, config)
    from wattribute.sinks.migrate import migrate as bring_up
    from wattribute.sinks.store import open_store

    with closing(open_store(settings.store, create=not plan)) as opened:
        names = bring_up(opened, plan)
    for name in names:
        typer.echo(f"{'to do' if plan else 'done'}: {name}")
    if not names:
        typer.echo(f"{settings.store} is up to date")
