"""The local log: the bus of one machine, and the spool in front of Kafka. A SQLite file in WAL mode.

Every topic has one partition, number 0. The file contains the messages, the topics with the next offset of
each, the position of the one group that reads it, and a list of what had to be dropped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from wattribute.bus import NOTE_MAX_BYTES, STATE, Position
from wattribute.collector.log_file import LogBusyError, LogFile
from wattribute.errors import BusAwayError, BusError

MAX_BYTES: Final = 1 << 30  # 8 GPUs at 10 Hz write about 5 KB/s: this lasts some days

_QUEUED_MAX_BYTES: Final = 64 << 20
_WRITTEN_BYTES: Final = 1 << 20  # per transaction: on a full disk only this much is tried again and again
_WRITE_S: Final = 0.05
_CLOSE_S: Final = 5.0
_DROP_MESSAGES: Final = 64  # per statement: few statements, and little is dropped beyond the need


class Message(NamedTuple):
    """A message as stored in the log."""

    offset: int
    key: str
    timestamp_ms: int
    value: bytes


class Dropped(NamedTuple):
    """Messages [from_offset, to_offset) of a topic that were dropped before they were read, with the times of
    the first and the last of them."""

    topic: str
    from_offset: int
    to_offset: int
    from_ms: int
    to_ms: int


class LocalLog:
    """The log in the directory ``path``, created where it does not exist (directory 0700, file 0600). A
    ``Producer``.

    Several processes may have it open, each with its own object, created after any fork; an object serves one
    thread at a time. The messages take at most ``max_bytes`` on disk: beyond that the oldest are dropped,
    committed ones first; dropped messages that were not committed are counted and listed in the file. The
    topic ``wattribute.state`` keeps the newest message per key and is never dropped. Flushed messages survive
    the death of the process, but not always a power failure.

    A damaged file is renamed to the name in ``quarantined``, and the log starts empty; without ``set_aside``
    it is an error, and the file stays in place. Every method raises BusError where the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = MAX_BYTES,
        set_aside: bool = True,
    ) -> None:
        self.held: dict[str, int] = {}
        """By topic: messages before this offset are in flight to elsewhere, and are not dropped."""
        self.max_bytes = max_bytes
        self._queued: list[tuple[str, str, int, bytes]] = []
        self._queued_bytes = 0
        self._file = LogFile(path, set_aside)
        self._connection = self._file.connection

    @property
    def quarantined(self) -> Path | None:
        """The new path of the damaged file that was found on opening, if there was one."""
        return self._file.quarantined

    def send(self, topic: str, key: str, value: bytes, timestamp_ms: int) -> None:
        """Queue one message; ``flush`` writes all queued messages. Above 64 MiB they are written at once.
        Raises BusAwayError where that is not possible now: the message is then not queued."""
        if self._queued_bytes + len(value) > _QUEUED_MAX_BYTES and self.flush(_WRITE_S):
            raise BusAwayError(
                f"local log {self._file.path}: {self._queued_bytes >> 20} MiB wait to be written; "
                "check whether another process is stuck in a write"
            )
        self._queued_bytes += len(value)
        self._queued.append((topic, key, timestamp_ms, value))

    def flush(self, timeout_s: float) -> int:
        """Write the queued messages; return how many are still queued, because another process has held the
        write lock for longer than ``timeout_s``. Messages that could not be written stay queued after an
        error too. Raises BusAwayError where the disk is full."""
        while self._queued:
            size = count = 0
            while count < len(self._queued) and (not count or size < _WRITTEN_BYTES):
                size += len(self._queued[count][3])
                count += 1
            try:
                with self._file.waiting(timeout_s), self._file.transaction():
                    self._append(self._queued[:count])
                    while self._file.used_bytes() > self.max_bytes and self._drop_oldest():
                        pass
            except LogBusyError:
                break
            del self._queued[:count]
            self._queued_bytes -= size
        return len(self._queued)

    def close(self) -> None:
        """Flush, and close the file. Raises BusError where some messages could not be written."""
        why = f"local log {self._file.path}: another process has locked it for more than {_CLOSE_S:g} s"
        try:
            self.flush(_CLOSE_S)
        except BusError as error:
            why = str(error)
        finally:
            self._connection.close()
        if self._queued:
            raise BusError(f"{why}; {len(self._queued):,} messages that waited in memory are lost")

    def read(self, topic: str, offset: int, max_messages: int) -> list[Message]:
        """The messages from ``offset`` on, at most ``max_messages``."""
        with self._file.failing():
            rows = self._connection.execute(
                "SELECT offset, key, timestamp_ms, value FROM message "
                "WHERE topic = (SELECT id FROM topic WHERE name = ?) AND offset >= ? ORDER BY offset LIMIT ?",
                (topic, offset, max_messages),
            )
            return [Message._make(row) for row in rows]

    def remaining(self, topic: str, offset: int) -> int:
        """How many messages there are from ``offset`` on; for a compacted topic, an upper bound."""
        with self._file.failing():
            row = self._connection.execute(
                "SELECT next_offset - (SELECT offset FROM message WHERE topic = topic.id AND offset >= ? "
                "ORDER BY offset LIMIT 1) FROM topic WHERE name = ?",
                (offset, topic),
            ).fetchone()
        return int(row[0] or 0) if row else 0

    def end_offsets(self) -> dict[str, int]:
        """By topic, the offset of its next message. Takes a few microseconds."""
        with self._file.failing():
            return dict(self._connection.execute("SELECT name, next_offset FROM topic").fetchall())

    def committed(self, topic: str) -> Position | None:
        """The committed position of the group; None if it has none."""
        with self._file.failing():
            row = self._connection.execute(
                "SELECT committed_offset, note FROM topic WHERE name = ? AND committed_offset IS NOT NULL",
                (topic,),
            ).fetchone()
        return Position(*row) if row else None

    def commit(self, positions: dict[str, Position]) -> None:
        """Store the positions of the group, by topic, in one transaction."""
        for topic, position in positions.items():
            if len(position.note.encode()) > NOTE_MAX_BYTES:
                raise BusError(
                    f"local log {self._file.path}: the note of {topic} has more than {NOTE_MAX_BYTES} bytes"
                )
        with self._file.transaction():
            self._connection.executemany(
                "INSERT INTO topic (name, next_offset, committed_offset, note) VALUES (?, 0, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET committed_offset = excluded.committed_offset, "
                "note = excluded.note",
                [(topic, p.next_offset, p.note) for topic, p in positions.items()],
            )

    def trim(self, next_offsets: dict[str, int]) -> None:
        """Commit these offsets, by topic, and delete the messages before them: they are stored elsewhere."""
        with self._file.transaction():
            for topic, offset in next_offsets.items():
                self._connection.execute(
                    "UPDATE topic SET committed_offset = ? WHERE name = ?", (offset, topic)
                )
                self._connection.execute(
                    "DELETE FROM message WHERE topic = (SELECT id FROM topic WHERE name = ?) AND offset < ?",
                    (topic, offset),
                )

    def dropped(self) -> list[Dropped]:
        """Messages that were dropped before they were read, and not yet removed by ``forget_dropped``."""
        with self._file.failing():
            rows = self._connection.execute("SELECT * FROM dropped ORDER BY topic, from_offset")
            return [Dropped(*row) for row in rows]

    def note_dropped(self, topic: str, messages: Sequence[tuple[int, int]]) -> None:
        """Count and list messages (offset, timestamp_ms) that nobody will read; in order and without gaps."""
        with self._file.transaction():
            self._note_dropped(topic, messages)

    def forget_dropped(self, dropped: Sequence[Dropped]) -> None:
        """Remove these entries: they are reported. ``dropped_messages`` still counts them."""
        with self._file.transaction():
            self._connection.executemany(
                "DELETE FROM dropped WHERE topic = ? AND from_offset = ? AND to_offset = ?",
                [(d.topic, d.from_offset, d.to_offset) for d in dropped],
            )

    def dropped_messages(self) -> int:
        """How many messages were dropped before they were read, since the file was created."""
        with self._file.failing():
            return self._file.counter("dropped_messages")

    def next_epoch(self) -> int:
        """The number of this start of a collector, greater each time. The first is the Unix time in seconds,
        so that it grows even if the file was lost."""
        with self._file.transaction():
            epoch = self._file.counter("epoch") + 1
            if epoch == 1:
                epoch = int(time.time())
            self._file.set_counter("epoch", epoch)
        return epoch

    def _append(self, messages: Sequence[tuple[str, str, int, bytes]]) -> None:
        topics = dict.fromkeys(topic for topic, *_ in messages)
        self._connection.executemany(
            "INSERT OR IGNORE INTO topic (name, next_offset) VALUES (?, 0)", [(topic,) for topic in topics]
        )
        ends = {
            name: [number, end]
            for number, name, end in self._connection.execute("SELECT id, name, next_offset FROM topic")
        }
        rows = []
        for topic, key, timestamp_ms, value in messages:
            number, offset = ends[topic]
            ends[topic][1] = offset + 1
            rows.append((number, offset, topic == STATE, key, timestamp_ms, value))
        # OR REPLACE does the compaction: the index message_newest allows each key of a compacted topic once.
        self._connection.executemany(
            "INSERT OR REPLACE INTO message (topic, offset, compacted, key, timestamp_ms, value) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )
        self._connection.executemany(
            "UPDATE topic SET next_offset = ? WHERE name = ?", [(ends[topic][1], topic) for topic in topics]
        )

    def _drop_oldest(self) -> bool:
        """Drop some of the oldest messages; False where nothing may be dropped."""
        found = [oldest for topic in self._topics() if (oldest := self._oldest(*topic))]
        if not found:
            return False
        oldest = min(found)  # committed ones first, then by age
        rows = self._connection.execute(
            "DELETE FROM message WHERE id IN (SELECT id FROM message WHERE topic = ? AND offset >= ? "
            "AND offset < ? ORDER BY offset LIMIT ?) RETURNING offset, timestamp_ms",
            (oldest.topic, oldest.from_offset, oldest.to_offset, _DROP_MESSAGES),
        ).fetchall()
        if oldest.uncommitted:
            self._note_dropped(oldest.name, sorted(rows))
        return True

    def _topics(self) -> list[tuple[int, str, int, int]]:
        return self._connection.execute(
            "SELECT id, name, next_offset, coalesce(committed_offset, 0) FROM topic"
        ).fetchall()

    def _oldest(self, topic: int, name: str, end: int, committed: int) -> _Oldest | None:
        if name == STATE:
            return None
        for uncommitted, least, limit in ((False, 0, committed), (True, self.held.get(name, committed), end)):
            row = self._connection.execute(
                "SELECT id, offset FROM message WHERE topic = ? AND offset >= ? AND offset < ? "
                "ORDER BY offset LIMIT 1",
                (topic, least, limit),
            ).fetchone()
            if row:
                return _Oldest(uncommitted, row[0], topic, name, row[1], limit)
        return None

    def _note_dropped(self, topic: str, rows: Sequence[tuple[int, int]]) -> None:
        (first, first_ms), (last, last_ms) = rows[0], rows[-1]
        grown = self._connection.execute(
            "UPDATE dropped SET to_offset = ?, to_ms = ? WHERE topic = ? AND to_offset = ?",
            (last + 1, last_ms, topic, first),
        )
        if not grown.rowcount:
            self._connection.execute(
                "INSERT INTO dropped VALUES (?, ?, ?, ?, ?)", (topic, first, last + 1, first_ms, last_ms)
            )
        self._file.set_counter("dropped_messages", self._file.counter("dropped_messages") + len(rows))


class _Oldest(NamedTuple):
    """The oldest messages of a topic that may be dropped; the smaller of two tuples is dropped first."""

    uncommitted: bool
    id: int
    topic: int
    name: str
    from_offset: int
    to_offset: int
