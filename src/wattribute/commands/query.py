"""``wattribute query``: SQL that only reads."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Annotated

import typer

from wattribute.commands.options import ConfigOption, FormatOption, StoreOption
from wattribute.commands.output import Format, write_rows
from wattribute.errors import UsageError
from wattribute.settings import load_settings


def query(
    sql: Annotated[
        str | None,
        typer.Argument(metavar="[SQL]", help="One statement; left out, it is read from standard input."),
    ] = None,
    shape: FormatOption = Format.table,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Ask the store in ClickHouse SQL, read-only.

    Tables: attribution (a row per second, GPU and process; read it with FINAL), attribution_minute, _hour and
    _day, unit, quality, price, host, process, gap, dead. Views: cost(policy, since, until),
    unit_cost(policy, since, until, unit), run_cost(policy, since, until),
    model_cost(policy, since, until), reconcile(policy, since, until), conservation.
    """
    settings = load_settings({"store": store}, config)
    if sql is None or sql == "-":
        if sys.stdin.isatty():
            raise UsageError(
                "query needs SQL: write wattribute query 'SELECT …', or give it on standard input"
            )
        sql = sys.stdin.read().removeprefix("\ufeff")  # a file may begin with a byte order mark
    from wattribute.sinks.query_server import open_store_for_reading
    from wattribute.sinks.reading import columns_of

    with closing(open_store_for_reading(settings.store)) as opened:
        answer = opened.query(sql)
        columns = answer.columns or columns_of(opened, sql)
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise UsageError(f"two columns are named {twice!r}: rename one with AS")
    write_rows(answer.dicts(), shape, columns)
