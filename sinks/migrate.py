"""Bring a store's tables, views and bundled prices to what this program knows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from wattribute.errors import StoreError
from wattribute.sinks.prices import load_bundled
from wattribute.sinks.store import Store

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
# In an order in which those that ask others come after them.
_VIEWS: Final = (
    *("conservation", "measured", "attempt", "price_book", "price_edge", "tariff_book"),
    *("priced_usage", "cost", "cost_over_time", "cost_as_of"),
    *("lesser_unit", "counted_unit", "unit_coverage", "covered_cost", "unit_cost"),
    *("attempt_progress", "attempt_cost", "run_cost"),
    *("model_minute", "model_throughput", "amortised_training", "model_quality", "renamed_model"),
    *("model_cost", "billed", "reconcile"),
)
_ONE_BUCKET: Final = {
    "{step:String}": "'all'",
    "{tz:String}": "'UTC'",
    "    bucket_start,\n    * EXCEPT": "    * EXCEPT",
}
_PART: Final = re.compile(r"\{\{(\w+)\}\}")
_AS_KNOWN_NOW: Final = {"{as_of:String}": "'2200-01-01'"}
# ClickHouse analyses a parameterised view within another one twice, and so on each level again: 0.2 s of
# processor time each for priced_usage. So others do not ask it but have its text, with parameters filled in.
_ASKED: Final = re.compile(r"\b(FROM|JOIN) (\w+)\(\s*((?:\w+ = (?:\{\w+:String\}|'[^']*'),?\s*)+)\)")
_GIVEN: Final = re.compile(r"(\w+) = (\{\w+:String\}|'[^']*')")
_FILLED_IN: Final[dict[str, dict[str, str]]] = {
    "cost": _ONE_BUCKET | _AS_KNOWN_NOW,
    "cost_over_time": _AS_KNOWN_NOW,
    "cost_as_of": _ONE_BUCKET,
    "attempt_cost": _ONE_BUCKET,
}


def migrate(store: Store, plan: bool = False) -> list[str]:
    """Apply what is missing and return its names; with ``plan`` only say it.

    Every step may be repeated, so a run that was killed is simply run again. Raises StoreError where the
    store is newer than this program, or was made by other files of the same number.
    """
    known = {int(path.name[:4]): path for path in _folder("migrations") if path.name.endswith(".sql")}
    tables = store.query("EXISTS TABLE migration").rows[0][0]
    applied = dict(store.query("SELECT number, checksum FROM migration FINAL").rows) if tables else {}
    newer = sorted(set(applied) - set(known))
    if newer:
        raise StoreError(
            f"the store {store.url} is at version {newer[-1]}, this program knows {max(known)}: update it"
        )
    missing = []
    for number in sorted(known):
        sql = known[number].read_text(encoding="utf-8")
        checksum = hashlib.sha256(sql.encode()).hexdigest()
        if number in applied:
            if applied[number] != checksum:
                raise StoreError(
                    f"the store {store.url} was made by another {known[number].name}: its tables may differ; "
                    "use the program that made it, or replay into a new store"
                )
            continue
        missing.append(known[number].name)
        if not plan:
            _apply(store, number, known[number].name, sql, checksum)
    if not plan:
        _make_views(store, anew=bool(missing))
        load_bundled(store)
    return missing


def _make_views(store: Store, anew: bool) -> None:
    """Create all views ``anew``, or from the first on whose text is not this program's, for those that follow
    may ask it. To create one takes the engine 10 to 60 ms; that nothing has changed is seen in 4 ms."""
    found = store.query("SELECT name, comment FROM system.tables WHERE database = currentDatabase()").rows
    checksums = dict(found)
    for name in _VIEWS:
        sql = _view(name)
        checksum = hashlib.sha256(sql.encode()).hexdigest()
        anew = anew or checksums.get(name) != checksum
        if anew:
            store.command(f"{sql.rstrip()}\nCOMMENT '{checksum}'")


def _apply(store: Store, number: int, name: str, sql: str, checksum: str) -> None:
    store.command(_RECORD)
    for statement in sql.split(";\n"):
        if statement.strip():
            store.command(statement)
    store.command(
        "INSERT INTO migration (number, name, checksum)"
        " SELECT {number:UInt32}, {name:String}, {checksum:String}",
        {"number": number, "name": name, "checksum": checksum},
    )


@cache  # views stand in others: all texts take 19 ms where each is put together once, 40 ms otherwise
def _view(name: str) -> str:
    """The statement that makes a view, with its parts and what is filled in put into the text."""
    filled_in = _FILLED_IN.get(name)
    sql = _text("priced_usage" if name.startswith("cost") else name)
    while _PART.search(sql):
        sql = _PART.sub(lambda part: _text(f"{part[1]}.part").rstrip(), sql)
    for before, after in (filled_in or {}).items():
        sql = sql.replace(before, after)
    sql = _ASKED.sub(_text_of_asked, sql)
    return sql.replace("VIEW priced_usage", f"VIEW {name}")


def _text_of_asked(asked: re.Match[str]) -> str:
    text = _view(asked[2]).partition(f" VIEW {asked[2]} AS")[2]
    for name, value in _GIVEN.findall(asked[3]):
        text = text.replace(f"{{{name}:String}}", value)
    return f"{asked[1]} ({text})"


def _text(name: str) -> str:
    return (files("wattribute.sinks") / "views" / f"{name}.sql").read_text(encoding="utf-8")


def _folder(name: str) -> Iterator[Traversable]:
    return (files("wattribute.sinks") / name).iterdir()
