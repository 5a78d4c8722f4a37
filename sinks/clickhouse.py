"""The sink: writes attribution rows and the small tables to ClickHouse or chDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from wattribute.errors import StoreError
from wattribute.sinks.arrow import column_batch, says_something
from wattribute.sinks.contract import Coded, Column
from wattribute.sinks.migrate import migrate
from wattribute.sinks.rollup import Bucket, Rollups
from wattribute.sinks.store import Store

# The columns that describe the window of a row, not its holder.
_OF_WINDOW: Final = ("window_start", "window_ms", "host", "gpu", "gpu_model", "boot_id", "version")
# The columns that the INSERT reads, so they are sent even where every row has the default.
_ALWAYS_SENT: Final = frozenset(("account", "gpu_instance", "deleted", "nothing_due"))
_NOT_DUE: Final = (3, 4)
"""The account of each bit of ``nothing_due``: unheld, residual."""


class ClickHouseSink:
    """Writes to an open store and keeps its rollups up to date. Closing the sink closes the store.

    Opening the sink migrates the store. Only one sink at a time may write the rows of a host, from one thread
    at a time; another thread may refresh the rollups at the same time.
    """

    def __init__(self, store: Store) -> None:
        migrate(store)
        self.store = store
        self.rollups = Rollups(store)

    def announce(self, batches: Sequence[Mapping[str, Column]]) -> None:
        """Note the rollup buckets of several coming writes in one request. Each request takes about 1 ms of
        processor time, however many buckets it names."""
        if len(batches) > 1:
            self.rollups.note([bucket for columns in batches for bucket in _minutes(columns)])

    def write_attribution(self, columns: Mapping[str, Column]) -> None:
        """Store rows of ``attribution``: every column of the table and ``nothing_due``, ``window_start`` in
        integer ms, texts and enums Coded, ``labels`` CodedLabels. First notes the buckets that they touch.
        Raises StoreError."""
        types = {**self.store.column_types("attribution"), "nothing_due": "UInt8"}
        if columns.keys() != types.keys():
            wrong = sorted(columns.keys() ^ types.keys())
            raise StoreError(f"cannot store rows: missing or unknown columns: {', '.join(wrong)}")
        sent = {
            name: _sent_as(columns[name], kind)
            for name, kind in types.items()
            if name in _ALWAYS_SENT or says_something(columns[name])
        }
        insert, structure = _insert(tuple(sent.items()))
        batch = column_batch(columns, sent)
        with self.rollups.writing(_minutes(columns)):
            self.store.insert_select(insert, structure, batch)

    def write_rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store rows of one of the small tables. Missing columns take their default."""
        self.store.insert_rows(table, rows)

    def refresh_rollups(self) -> None:
        """Recompute the minute, hour and day buckets touched since the last call."""
        self.rollups.refresh()

    def close(self) -> None:
        """Close the rollups and the store."""
        self.rollups.close()
        self.store.close()


def _sent_as(column: Column, kind: str) -> str:
    """The type in which a column is sent. Integers may be narrower than in the table: the INSERT widens
    them."""
    narrow = isinstance(column, np.ndarray) and column.dtype.itemsize == 4
    return kind.replace("64", "32") if narrow and kind in ("Int64", "UInt64") else kind


@lru_cache
def _insert(sent: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    """Return the INSERT of these columns, and their structure. It also writes the deleted rows that
    ``nothing_due`` stands for. Columns that have their default in every row are not sent: mostly half of the
    50.

    Deleted rows contain nothing but their window, and most windows have two, so they are sent as bits."""
    types = dict(sent)
    values = {
        name: f"if(gone = 0, {name}, defaultValueOfArgumentType({name}))"
        for name in types
        if name != "nothing_due"
    }
    values |= {name: name for name in _OF_WINDOW if name in types}
    values["account"] = f"if(gone = 0, account, CAST(gone AS {types['account']}))"
    values["gpu_instance"] = "if(gone = 0, gpu_instance, -1)"
    values["deleted"] = "if(gone = 0, deleted, 1)"
    accounts = ", ".join(
        f"if(bitTest(nothing_due, {bit}), [{account}], [])" for bit, account in enumerate(_NOT_DUE)
    )
    insert = (
        f"INSERT INTO attribution ({', '.join(values)}) SELECT {', '.join(values.values())} FROM {{rows}}"  # noqa: S608
        f" ARRAY JOIN arrayConcat([0], {accounts}) AS gone"
    )
    return insert, ", ".join(f"{name} {kind}" for name, kind in sent)


def _minutes(columns: Mapping[str, Column]) -> list[Bucket]:
    """Each (host, gpu, minute) of the rows. Neighbouring rows mostly share theirs, so only changes are looked
    at. Raises StoreError."""
    host, gpu, start = columns["host"], columns["gpu"], columns["window_start"]
    if not (isinstance(host, Coded) and isinstance(gpu, Coded) and isinstance(start, np.ndarray)):
        raise StoreError("host and gpu of attribution rows must be Coded, and window_start an array of ms")
    minute = start.astype(np.int64, copy=False) // 60_000
    hosts, gpus = len(host.values), len(gpu.values)
    key = (minute * gpus + gpu.codes) * hosts + host.codes
    changed = np.ones(len(key), dtype=bool)
    np.not_equal(key[1:], key[:-1], out=changed[1:])
    places = np.unique(key[changed]).tolist()
    return [
        (host.values[place % hosts], gpu.values[place // hosts % gpus], place // hosts // gpus * 60)
        for place in places
    ]
