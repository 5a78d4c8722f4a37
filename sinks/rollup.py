"""The minute, hour and day sums of ``attribution``: recomputed for what changed, never incremented.

A materialized view would count a retried insert twice. Here a changed bucket is summed afresh from the finer
table, with the greatest version among all its rows, deleted ones included, so that a repeat changes nothing
and a later restatement wins; where versions are equal the row written last does. A sum whose rows are all
gone is written as deleted.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Final, TypeAlias

from wattribute.sinks.schema import IDENTITY, SUMS
from wattribute.sinks.store import Store

Bucket: TypeAlias = tuple[str, str, int]
"""host, gpu and the minute, in seconds of Unix time."""

_CHUNK: Final = 5_000  # buckets recomputed at once: 300 000 windows of 1 s, times their rows
_LEVELS: Final = (
    ("attribution", "window_start", "attribution_minute", "toStartOfMinute", 60),
    ("attribution_minute", "bucket_start", "attribution_hour", "toStartOfHour", 3_600),
    ("attribution_hour", "bucket_start", "attribution_day", "toStartOfDay", 86_400),
)

_NOTED: Final = """(host, gpu, {floor}({column})) IN (
            SELECT host, gpu, {floor}(bucket_start) FROM dirty_bucket FINAL
            WHERE bucket_start >= {{since:DateTime('UTC')}} AND bucket_start < {{until:DateTime('UTC')}})
        AND {column} >= {{since:DateTime('UTC')}} AND {column} < {{until:DateTime('UTC')}}"""


class Rollups:
    """Which buckets are behind, and how to bring them up. Notes of writers that are gone are taken over."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writer = uuid.uuid4().hex
        self._noted: dict[Bucket, list[tuple[str, int]]] = {}
        self.buckets_past_retention = 0
        """Late buckets that were left as they are, because rows of theirs may have been removed by now."""
        found = store.query(
            "SELECT host, gpu, toUnixTimestamp(bucket_start), writer, version FROM dirty_bucket FINAL"
        )
        for host, gpu, start, writer, version in found.rows:
            self._noted.setdefault((host, gpu, start), []).append((writer, version))

    def note(self, buckets: set[Bucket]) -> None:
        """Note, durably, that rows of these buckets are about to be written."""
        new = sorted(bucket for bucket in buckets if not self._mine(bucket))
        if not new:
            return
        version = time.time_ns()
        self._write({bucket: [(self._writer, version)] for bucket in new}, deleted=0)
        for bucket in new:
            self._noted.setdefault(bucket, []).append((self._writer, version))

    def refresh(self) -> None:
        """Bring up every noted bucket, then forget the notes. Where it fails, the notes stay."""
        if not self._noted:
            return
        due = self._retained(sorted(self._noted, key=lambda bucket: bucket[2]))
        for source, time_column, target, floor, seconds in _LEVELS:
            sql = _recompute(source, time_column, target, floor)
            for first, last in _spans([bucket[2] // seconds * seconds for bucket in due]):
                self._store.command(sql, {"since": first, "until": last + seconds})
        self._write(self._noted, deleted=1)
        self._noted = {}

    def _mine(self, bucket: Bucket) -> bool:
        return any(writer == self._writer for writer, _ in self._noted.get(bucket, ()))

    def _write(self, notes: dict[Bucket, list[tuple[str, int]]], deleted: int) -> None:
        rows = [
            {
                "bucket_start": start,
                "host": host,
                "gpu": gpu,
                "writer": writer,
                "version": version,
                "deleted": deleted,
            }
            for (host, gpu, start), marks in notes.items()
            for writer, version in marks
        ]
        self._store.insert_rows("dirty_bucket", rows)

    def _retained(self, buckets: list[Bucket]) -> list[Bucket]:
        days = retention_days(self._store)
        if not days:
            return buckets
        oldest = time.time() - days * 86_400
        kept = [bucket for bucket in buckets if bucket[2] >= oldest]
        self.buckets_past_retention += len(buckets) - len(kept)
        return kept


def set_retention(store: Store, days: int) -> None:
    """Keep rows of ``attribution`` for ``days``; 0: for ever. The rollups stay; ``cost`` reads the rows."""
    if days == retention_days(store):
        return
    if days:
        store.command(
            f"ALTER TABLE attribution MODIFY TTL toDateTime(window_start) + toIntervalDay({int(days)})"
        )
    else:
        store.command("ALTER TABLE attribution REMOVE TTL")


def retention_days(store: Store) -> int:
    """How many days the rows of ``attribution`` are kept; 0: for ever."""
    rows = store.query(
        "SELECT toUInt32OrZero(extract(engine_full, 'toIntervalDay\\\\((\\\\d+)\\\\)')) FROM system.tables"
        " WHERE database = currentDatabase() AND name = 'attribution'"
    ).rows
    return int(rows[0][0])


def _spans(starts: list[int]) -> Iterator[tuple[int, int]]:
    """First and last start of runs of at most _CHUNK buckets; buckets of one start stay together."""
    chunk: list[int] = []
    for start in starts:
        if len(chunk) >= _CHUNK and start != chunk[-1]:
            yield chunk[0], chunk[-1]
            chunk = []
        chunk.append(start)
    if chunk:
        yield chunk[0], chunk[-1]


def _recompute(source: str, time_column: str, target: str, floor: str) -> str:
    """Sum the buckets that are noted in [since, until) afresh, and write those without rows as deleted."""
    keys = "bucket_start, host, gpu, gpu_instance, account, identity"
    identity = ", ".join(IDENTITY)
    fine = source == "attribution"
    due = _NOTED.format(floor=floor, column=time_column)
    old = _NOTED.format(floor=floor, column="bucket_start")
    # names from the tuples above and from schema alone; times are parameters
    return f"""
INSERT INTO {target} ({keys}, {identity}, {", ".join(SUMS)}, flags, window_count, version, deleted)
SELECT {keys}, {", ".join(f"any(s.{name})" for name in IDENTITY)},
    {", ".join(f"sum(s.{name})" for name in SUMS)}, groupBitOr(s.flags), sum(s.window_count),
    any(newest.version), max(s.live) = 0
FROM
(
    SELECT {floor}({time_column}) AS bucket_start, host, gpu, gpu_instance, account,
        {f"sipHash64({identity})" if fine else "identity"} AS identity, {identity}, {", ".join(SUMS)}, flags,
        {"toUInt64(1)" if fine else "window_count"} AS window_count, 1 AS live
    FROM {source} FINAL WHERE {due}
    UNION ALL
    SELECT {keys}, {identity}, {", ".join(f"toInt64(0) AS {name}" for name in SUMS)}, toUInt32(0) AS flags,
        toUInt64(0) AS window_count, 0 AS live
    FROM {target} FINAL WHERE {old}
) AS s
INNER JOIN
(
    SELECT host, gpu, {floor}({time_column}) AS bucket_start, max(version) AS version
    FROM {source} WHERE {due} GROUP BY host, gpu, bucket_start
) AS newest USING (host, gpu, bucket_start)
GROUP BY {keys}
"""  # noqa: S608
