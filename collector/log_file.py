"""The SQLite file of a local log: its layout, how it is opened, and its error messages."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from wattribute.errors import BusAwayError, BusError

FILE_NAME: Final = "bus.sqlite"
"""The names of all files in the folder of a local log begin with this."""
_LAYOUT_VERSION: Final = 1
_BUSY_TIMEOUT_S: Final = 5.0
_JOURNAL_MAX_BYTES: Final = 16 << 20
_LAYOUT: Final = """
CREATE TABLE topic (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, next_offset INTEGER NOT NULL,
    committed_offset INTEGER, note TEXT NOT NULL DEFAULT '');
CREATE TABLE message (
    id INTEGER PRIMARY KEY, topic INTEGER NOT NULL, offset INTEGER NOT NULL, compacted INTEGER NOT NULL,
    key TEXT NOT NULL, timestamp_ms INTEGER NOT NULL, value BLOB NOT NULL);
CREATE UNIQUE INDEX message_offset ON message (topic, offset);
CREATE UNIQUE INDEX message_newest ON message (topic, key) WHERE compacted;
CREATE TABLE dropped (
    topic TEXT NOT NULL, from_offset INTEGER NOT NULL, to_offset INTEGER NOT NULL,
    from_ms INTEGER NOT NULL, to_ms INTEGER NOT NULL);
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""


class LogBusyError(BusError):
    """Another process did not end its write in time; the caller may try again."""


class LogFile:
    """The file in the directory ``folder``, created where it does not exist: directory 0700, file 0600.

    A damaged file is renamed to the name in ``quarantined`` and a new one is created; without ``set_aside``
    it is an error. Raises BusError.
    """

    def __init__(self, folder: Path, set_aside: bool) -> None:
        self.path = folder / FILE_NAME
        self._may_set_aside = set_aside
        self.quarantined: Path | None = None
        with self.failing():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Only one process opens the file at a time: SQLite does not wait for a lock when it switches a
            # new file to WAL, and two processes must not set a damaged file aside at once.
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self.connection = self._open()
            finally:
                os.close(lock)
            self.connection.execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Turn errors of SQLite and the system into a BusError of one line."""
        try:
            yield
        except OSError as error:
            advice = "choose a directory on a local disk that you may write"
            raise BusError(f"local log {self.path}: {error.strerror}; {advice}") from error
        except sqlite3.Error as error:
            kinds: dict[int, type[BusError]] = {
                sqlite3.SQLITE_BUSY: LogBusyError,
                sqlite3.SQLITE_FULL: BusAwayError,
            }
            kind = kinds.get(_primary_code(error), BusError)
            raise kind(f"local log {self.path}: {error}; {_advice(error)}") from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep all that is written within the block, or, after an error, nothing of it."""
        with self.failing():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:  # a full disk has rolled it back already
                    self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def waiting(self, timeout_s: float) -> Iterator[None]:
        """Within the block, wait this long for another process to end its write."""
        self.connection.execute(f"PRAGMA busy_timeout = {max(1, round(timeout_s * 1000))}")
        try:
            yield
        finally:
            self.connection.execute(f"PRAGMA busy_timeout = {round(_BUSY_TIMEOUT_S * 1000)}")

    def used_bytes(self) -> int:
        """The size of the pages in use. The file may be longer: freed pages are reused before it grows."""
        page_bytes, pages, free = (
            self.connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_size", "page_count", "freelist_count")
        )
        return int(page_bytes * (pages - free))

    def counter(self, name: str) -> int:
        """A number stored in the file, 0 at first."""
        row = self.connection.execute("SELECT value FROM counter WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def set_counter(self, name: str, value: int) -> None:
        """Store a number in the file."""
        self.connection.execute("INSERT OR REPLACE INTO counter VALUES (?, ?)", (name, value))

    def _open(self) -> sqlite3.Connection:
        if not self.path.exists():
            # SQLite's -wal and -shm get the mode of this file. An existing file must not be opened here:
            # closing it would release the locks that another object of this process has on it, and the next
            # process to end would delete the -wal while it is in use.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            if not _is_sound(connection):
                connection.close()
                if not self._may_set_aside:
                    raise BusError(
                        f"local log {self.path} is damaged; run 'up', 'collect' or 'stream' to set it aside"
                        " and begin a new one: its messages that are not in the store yet are then lost"
                    )
                self._set_aside()
                return self._open()
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_MAX_BYTES}")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                connection.executescript(f"BEGIN; {_LAYOUT} PRAGMA user_version = {_LAYOUT_VERSION}; COMMIT")
            elif version != _LAYOUT_VERSION:
                raise BusError(
                    f"local log {self.path}: its layout is version {version}, this program knows "
                    f"{_LAYOUT_VERSION}; use the version of wattribute that wrote it, or another directory"
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self) -> None:
        self.quarantined = self.path.with_name(f"{FILE_NAME}.corrupt-{int(time.time())}")
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(FILE_NAME + suffix)
            if part.exists():
                part.rename(f"{self.quarantined}{suffix}")


def _primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without the extension in its upper bits; 0 where Python itself raised. On a full
    disk the -shm fails first, which SQLite reports as an I/O error: that counts as a full disk."""
    code = int(getattr(error, "sqlite_errorcode", 0))
    return sqlite3.SQLITE_FULL if code == sqlite3.SQLITE_IOERR_SHMSIZE else code & 0xFF


def _is_sound(connection: sqlite3.Connection) -> bool:
    try:
        return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError as error:
        if _primary_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return False
        raise


def _advice(error: sqlite3.Error) -> str:
    return {
        sqlite3.SQLITE_FULL: "free some space, or lower spool_max_bytes",
        sqlite3.SQLITE_BUSY: "another process has locked it: try again, or end that process",
        sqlite3.SQLITE_CORRUPT: "start again: the damaged file is then set aside",
    }.get(_primary_code(error), "choose a directory on a local disk that you may write")
