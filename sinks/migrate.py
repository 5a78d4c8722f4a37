"""Bring a store's tables, views and bundled prices up to date with this program."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final, NamedTuple

from wattribute.errors import StoreError
from wattribute.sinks.prices import load_bundled
from wattribute.sinks.store import Readable, Store
from wattribute.sinks.view_texts import VIEWS, select_of, view

_RECORD: Final = """
CREATE TABLE IF NOT EXISTS migration
(
    number UInt32,
    name String,
    checksum String COMMENT 'sha256 of the file',
    applied_at DateTime('UTC') DEFAULT now()
)
ENGINE = ReplacingMergeTree
ORDER BY number
"""


class Step(NamedTuple):
    """One migration: its number, the name and the text of its file, and the sha256 of that."""

    number: int
    name: str
    sql: str
    checksum: str


_ALIKE: Final = {
    "42b4d9e905586287dab3ca0a876cd271bc4c2bd0c998ee1c860413b91fe68122": "0001_tables.sql",
    "8f6f46bac9d828a83a5b948ac7d8e6d8567e2699c1807417dc9748204efb66c9": "0001_tables.sql",
    "3a094f2f6d0c9f9354a891908d29220a425435eb9ae77ef35d7cc915495abf79": "0001_tables.sql",
    "253b517507f036c7c79800d6ce3c3bc64291bdb09ad3c40bd5ddf445856d4872": "0001_tables.sql",
    "4fbbcf37aa49daa5a7bbd09c2d1e54c5a656341d24a8198b412d84cdc6f57219": "0008_measured_time.sql",
}
"""The sha256 of earlier versions of these files, which are accepted too: they made the same tables, in
another order or with another granularity, or without a column that a later file adds; or they say the same in
words that an older ClickHouse does not accept."""


def migrate(store: Store, plan: bool = False) -> list[str]:
    """Apply the missing migrations and return their names; with ``plan``, only return them.

    Every step may be repeated, so after a kill this is simply run again. Raises StoreError, as ``missing``
    does.
    """
    steps = missing(store, store.url)
    if not plan:
        for step in steps:
            _apply(store, step)
        _make_views(store, anew=bool(steps))
        load_bundled(store)
    return [step.name for step in steps]


def missing(store: Readable, url: str) -> list[Step]:
    """The migrations that have not been applied to a store. Raises StoreError where the store is newer than
    this program, or was made by other files of the same number that made other tables."""
    folder = files("wattribute.sinks") / "migrations"
    known = {int(path.name[:4]): path for path in folder.iterdir() if path.name.endswith(".sql")}
    tables = store.query("EXISTS TABLE migration").rows[0][0]
    applied = dict(store.query("SELECT number, checksum FROM migration FINAL").rows) if tables else {}
    newer = sorted(set(applied) - set(known))
    if newer:
        raise StoreError(
            f"the store {url} is at version {newer[-1]}, this program knows {max(known)}: use a newer"
            " wattribute"
        )
    steps = []
    for number in sorted(known):
        sql = known[number].read_text(encoding="utf-8")
        step = Step(number, known[number].name, sql, hashlib.sha256(sql.encode()).hexdigest())
        if number not in applied:
            steps.append(step)
        elif applied[number] != step.checksum and _ALIKE.get(applied[number]) != step.name:
            raise StoreError(
                f"the store {url} was made by another {step.name}, so its tables may differ: use the program"
                " that made it, or replay into a new store"
            )
    return steps


def _make_views(store: Store, anew: bool) -> None:
    """Create all views if ``anew``; else those from the first on whose text is not this program's, because
    later ones may query it. Creating one takes the engine 10 to 60 ms; checking that none has changed takes
    4 ms for all together."""
    found = store.query("SELECT name, comment FROM system.tables WHERE database = currentDatabase()").rows
    checksums = dict(found)
    for name in VIEWS:
        checksum = hashlib.sha256(view(name).encode()).hexdigest()
        anew = anew or checksums.get(name) != checksum
        if anew:
            # in parentheses, because until 26.3 COMMENT after a table is taken for its alias
            store.command(f"CREATE OR REPLACE VIEW {name} AS ({select_of(name)})\nCOMMENT '{checksum}'")


def _apply(store: Store, step: Step) -> None:
    store.command(_RECORD)
    for statement in step.sql.split(";\n"):
        if statement.strip():
            store.command(statement)
    store.command(
        "INSERT INTO migration (number, name, checksum)"
        " SELECT {number:UInt32}, {name:String}, {checksum:String}",
        {"number": step.number, "name": step.name, "checksum": step.checksum},
    )
