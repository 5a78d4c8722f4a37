"""The minute, hour and day sums of ``attribution``: recomputed where something changed, never incremented.

A materialized view would count a retried insert twice. Here a changed bucket is summed again from the finer
table. Its version is the greatest among all its rows, deleted ones included, so that a repeat changes nothing
and a later restatement wins; of equal versions, the row written last wins. A sum whose rows are all gone is
written as deleted.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias

from wattribute.sinks.folder import folder_of
from wattribute.sinks.schema import IDENTITY, SUMS
from wattribute.sinks.store import Readable, Store

Bucket: TypeAlias = tuple[str, str, int]
"""host, gpu and the minute, in seconds of Unix time."""
Note: TypeAlias = tuple[str, str, int, str, int]
"""A bucket, the writer that noted it, and when it did, in ns of its monotonic clock."""

# A live writer notes a bucket again if its note is older than _NOTE_S. A writer that has not deleted its note
# for twice as long, _GONE_S, is gone, and others may delete it. A write takes less than the difference (the
# store gives up after 120 s of silence).
_NOTE_S: Final = 300
_GONE_S: Final = 600
_CHUNK: Final = 5_000  # buckets recomputed at once: 300 000 windows of 1 s, each with its rows
_LEVELS: Final = (
    ("attribution", "window_start", "attribution_minute", "toStartOfMinute", 60),
    ("attribution_minute", "bucket_start", "attribution_hour", "toStartOfHour", 3_600),
    ("attribution_hour", "bucket_start", "attribution_day", "toStartOfDay", 86_400),
)

_NOTED: Final = """(host, gpu, {floor}({column})) IN (
            SELECT host, gpu, {floor}(bucket_start) FROM dirty_bucket FINAL
            WHERE bucket_start >= {{since:DateTime('UTC')}} AND bucket_start < {{until:DateTime('UTC')}})
        AND {column} >= {{since:DateTime('UTC')}} AND {column} < {{until:DateTime('UTC')}}"""

_TOLD: Final = "first_at, last_at, longest_window_ms"
_MEASURED: Final = (
    "window_start AS first_at, window_start + toIntervalMillisecond(window_ms) AS last_at,"
    " window_ms AS longest_window_ms"
)


class Rollups:
    """Keeps track of the buckets that are out of date, and recomputes them.

    ``writing`` and ``refresh`` may run in two threads. Notes of writers that are gone are taken over.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._beside: Store | None = None  # used to recompute sums; opened by the first refresh
        self._writer = uuid.uuid4().hex
        self._noted: dict[Bucket, int] = {}  # by us since the last refresh began, and when, in ns
        self._due: set[Note] = set()  # their buckets are to be recomputed, then they are deleted
        self._changing = threading.RLock()
        # A chDB folder has one writer at a time: any other that left a note there is gone.
        self._gone_s = 0 if folder_of(store.url) else _GONE_S
        self.past_retention = 0
        """How many minutes of GPUs were not recomputed, because rows of theirs may be deleted by now."""

    @contextmanager
    def writing(self, buckets: Sequence[Bucket]) -> Iterator[None]:
        """Note durably that rows of these buckets are about to be written. Write them in the with block."""
        with self._changing:  # a refresh that took the notes before the rows are stored would miss the rows
            self.note(buckets)
            yield

    def note(self, buckets: Sequence[Bucket]) -> None:
        """Note the buckets of which we have no recent note. Before several writes this notes the buckets of
        all; each write then only notes those that have no note any more."""
        with self._changing:
            now_ns = time.monotonic_ns()
            late_ns = now_ns - _NOTE_S * 1_000_000_000
            new = [bucket for bucket in buckets if self._noted.get(bucket, late_ns) <= late_ns]
            if new:
                self._write(self._store, [(*bucket, self._writer, now_ns) for bucket in new], deleted=0)
                self._noted |= dict.fromkeys(new, now_ns)

    def refresh(self) -> None:
        """Recompute every bucket noted so far by us or by a writer that is gone, then delete the notes. If it
        fails, the next refresh does it again; writes note their buckets again, because earlier notes may be
        deleted. Raises StoreError."""
        store = self._beside = self._beside or self._store.beside()
        self._due |= self._left(store)
        with self._changing:
            self._due |= {(*bucket, self._writer, noted_ns) for bucket, noted_ns in self._noted.items()}
            self._noted = {}
        if not self._due:
            return
        buckets = self._retained(store, Counter(start for _, _, start in {note[:3] for note in self._due}))
        for source, time_column, target, floor, seconds in _LEVELS:
            sql = _recompute(source, time_column, target, floor)
            for first, last in _spans(buckets, seconds):
                store.command(sql, {"since": first, "until": last})
        self._write(store, list(self._due), deleted=1)
        self._due = set()

    def close(self) -> None:
        """Close the handle. With chDB this waits for a refresh that runs on it."""
        if self._beside is not None:
            self._beside.close()

    def _left(self, store: Store) -> set[Note]:
        """The notes of writers that are gone."""
        sql = """SELECT host, gpu, toUnixTimestamp(bucket_start), writer, version FROM dirty_bucket FINAL
            WHERE writer != {writer:String} AND noted_at <= now() - toIntervalSecond({gone:UInt32})"""
        rows = store.query(sql, {"writer": self._writer, "gone": self._gone_s}).rows
        return {(host, gpu, start, writer, version) for host, gpu, start, writer, version in rows}

    def _write(self, store: Store, notes: Sequence[Note], deleted: int) -> None:
        names = ("host", "gpu", "bucket_start", "writer", "version")
        # Not zip(*notes), which makes an iterator of each note: 25 ms for 10,000 notes, against 1 ms.
        columns = {name: [note[place] for note in notes] for place, name in enumerate(names)}
        store.insert_values("dirty_bucket", columns | {"deleted": [deleted] * len(notes)})

    def _retained(self, store: Store, buckets: Counter[int]) -> Counter[int]:
        """The buckets, counted by minute, whose rows are still kept; ``past_retention`` counts the rest."""
        days = retention_days(store)
        if not days:
            return buckets
        oldest = time.time() - days * 86_400
        kept = Counter({start: count for start, count in buckets.items() if start >= oldest})
        self.past_retention += buckets.total() - kept.total()
        return kept


def set_retention(store: Store, days: int) -> None:
    """Keep rows of ``attribution`` for ``days`` days; 0 means for ever. Rollups are kept: older time is still
    answered, by whole minutes."""
    if days == retention_days(store):
        return
    if days:
        store.command(
            f"ALTER TABLE attribution MODIFY TTL toDateTime(window_start) + toIntervalDay({int(days)})"
        )
    else:
        store.command("ALTER TABLE attribution REMOVE TTL")


def retention_days(store: Readable) -> int:
    """For how many days rows of ``attribution`` are kept; 0 means for ever."""
    rows = store.query(
        "SELECT toUInt32OrZero(extract(engine_full, 'toIntervalDay\\\\((\\\\d+)\\\\)')) FROM system.tables"
        " WHERE database = currentDatabase() AND name = 'attribution'"
    ).rows
    return int(rows[0][0])


def _spans(buckets: Counter[int], seconds: int) -> Iterator[tuple[int, int]]:
    """Spans, as start and end in s of Unix time, of about _CHUNK buckets each. ``buckets`` counts them by
    minute; starts and ends are multiples of ``seconds``."""
    first = last = count = 0
    for start, here in sorted(buckets.items()):
        if count >= _CHUNK and start >= last:
            yield first, last
            count = 0
        if count == 0:
            first = start // seconds * seconds
        last = start // seconds * seconds + seconds
        count += here
    if count:
        yield first, last


def _recompute(source: str, time_column: str, target: str, floor: str) -> str:
    """The INSERT that sums the buckets noted in [since, until) again, and writes those without rows as
    deleted."""
    keys = "bucket_start, host, gpu, gpu_instance, account, identity"
    identity = ", ".join(IDENTITY)
    fine = source == "attribution"
    due = _NOTED.format(floor=floor, column=time_column)
    old = _NOTED.format(floor=floor, column="bucket_start")
    # the text contains only names from above and from schema; times are parameters
    return f"""
INSERT INTO {target} ({keys}, {identity}, {", ".join(SUMS)}, flags, window_count, {_TOLD}, version, deleted)
SELECT {keys}, {", ".join(f"any(s.{name})" for name in IDENTITY)},
    {", ".join(f"sum(s.{name})" for name in SUMS)}, groupBitOr(s.flags), sum(s.window_count),
    minIf(s.first_at, s.live), maxIf(s.last_at, s.live), maxIf(s.longest_window_ms, s.live),
    any(newest.version), max(s.live) = 0
FROM
(
    SELECT {floor}({time_column}) AS bucket_start, host, gpu, gpu_instance, account,
        {f"sipHash64({identity})" if fine else "identity"} AS identity, {identity}, {", ".join(SUMS)}, flags,
        {"toUInt64(1)" if fine else "window_count"} AS window_count, {_MEASURED if fine else _TOLD}, 1 AS live
    FROM {source} FINAL WHERE {due}
    UNION ALL
    SELECT {keys}, {identity}, {", ".join(f"toInt64(0) AS {name}" for name in SUMS)}, toUInt32(0) AS flags,
        toUInt64(0) AS window_count, {_TOLD}, 0 AS live
    FROM {target} FINAL WHERE {old}
) AS s
INNER JOIN
(
    SELECT host, gpu, {floor}({time_column}) AS bucket_start, max(version) AS version
    FROM {source} WHERE {due} GROUP BY host, gpu, bucket_start
) AS newest USING (host, gpu, bucket_start)
GROUP BY {keys}
"""  # noqa: S608
