"""The one way to ClickHouse: a server (``clickhouse://``) or the engine in this process (``chdb://``).

Both speak the same SQL through clickhouse-connect. A chDB folder belongs to one process at a time;
``wattribute.sinks.query_server`` lets the others ask that process.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from traceback import clear_frames
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.binding import format_str
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from wattribute.errors import StoreAwayError, StoreError, UsageError
from wattribute.sinks.arrow import stream, value_batch
from wattribute.sinks.folder import folder_of, hold
from wattribute.sinks.refusal import ANSWER_S, CONNECT_S, GO_ON, store_error
from wattribute.sinks.view_texts import in_full

PASSWORD: Final = "WATTRIBUTE_STORE_PASSWORD"  # noqa: S105 - the name of the variable
PASSWORD_FILE: Final = "WATTRIBUTE_STORE_PASSWORD_FILE"  # noqa: S105
DATABASE: Final = "wattribute"
_OLDEST: Final = (26, 3)
"""The oldest ClickHouse that answers every view: 25.8 knows no type for some of their sums."""
LEFT_OUT: Final = "parts of these tables are damaged, and what they held is in no answer: {}"
_log = logging.getLogger(__name__)

# Said aloud because the defaults moved between releases (async_insert became 1 in 26.2), and these decide
# whether a returned insert is durable and whole. The guarantee against doubles is key and version in the
# table, not insert deduplication. optimize_on_insert collapses rows on the way in, which FINAL does anyway:
# without it an insert of 400 000 rows takes 1.2 instead of 5.1 µs a row.
_SETTINGS: Final[dict[str, Any]] = {
    "async_insert": 0,
    "insert_deduplicate": 0,
    "optimize_on_insert": 0,
    "max_partitions_per_insert_block": 0,
    "min_insert_block_size_rows": 1_048_576,
    "min_insert_block_size_bytes": 0,
    # deleted rows leaked with 1 (ClickHouse issue 49685); newer servers choose it by themselves
    "do_not_merge_across_partitions_select_final": 0,
    "join_use_nulls": 0,
    "session_timezone": "UTC",
}
# Of these, what an answer means. (All our times have their zone in their type.)
_MEANING: Final = frozenset(("do_not_merge_across_partitions_select_final", "join_use_nulls"))
# What the analysis of our views is spared: for each condition, each sum and each key of a group it looks at
# all that lies below, and finds nothing. unit_cost is analysed in 0.64 instead of 1.0 s, model_cost in 1.2
# instead of 2.1. Nor is the plan searched for columns that nobody asks for, which the analysis has dropped
# already: 0.07 of 0.83 s of run_cost. (That the plan's steps be not put together,
# query_plan_merge_expressions, saves as much, and then a condition on a view reaches no key: conservation of
# ten minutes took 1.6 instead of 0.13 s.)
_ANALYSIS: Final[dict[str, Any]] = {
    "optimize_aggregators_of_group_by_keys": 0,
    "optimize_and_compare_chain": 0,
    "optimize_extract_common_expressions": 0,
    "optimize_group_by_function_keys": 0,
    "optimize_syntax_fuse_functions": 0,
    "query_plan_remove_unused_columns": 0,
}
# A reader may neither write nor hold up the process it asks. readonly comes last: it forbids any later SET.
_READING: Final[dict[str, Any]] = {
    **_ANALYSIS,
    # To compile what an answer computes takes 0.15 s, and more than it saves.
    "compile_expressions": 0,
    # Not by a pool of threads of their own: cost reads its windows in 0.6 instead of 0.7 s of processor time.
    "local_filesystem_read_method": "pread",
    "session_timezone": "UTC",
    "do_not_merge_across_partitions_select_final": 0,
    "join_use_nulls": 0,
    "max_execution_time": 60,
    "max_result_rows": 200_000,
    "max_result_bytes": 64 << 20,
    "result_overflow_mode": "throw",
    "max_memory_usage": 2 << 30,
    "readonly": 1,
}


_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Result:
    """An answer: plain Python values; a time is a datetime in UTC. chDB names no columns where there are no
    rows."""

    columns: list[str]
    rows: list[tuple[Any, ...]]

    def dicts(self) -> list[dict[str, Any]]:
        """The rows as objects by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class Readable(Protocol):
    """What can be asked: a store in this process, or the process that owns it."""

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> Result:
        """The answer to one statement. Values only as server-side parameters, ``{name:Type}``."""

    def close(self) -> None:
        """Let go of it."""


class Store:
    """An open store. Every failure is a StoreError with one line; one that may pass is a StoreAwayError."""

    def __init__(
        self, url: str, connect: Callable[[Mapping[str, Any]], Any], settings: Mapping[str, Any]
    ) -> None:
        self.url = url
        self._connect = connect
        self._settings = settings
        self._lock: int | None = None
        self._one_at_a_time = threading.Lock()
        self._closed = False
        self._types: dict[str, dict[str, str]] = {}
        self._client = self._connected()

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> Result:
        """The answer to one statement. Values only as server-side parameters, ``{name:Type}``."""
        full = in_full(sql)

        def asked(client: Any, words: str = full) -> Result:
            answer = client.query(words, parameters=dict(params or {}))
            # of a long answer, which is on its way still, the line may be cut here
            rows = [tuple(map(_plain, row)) for row in answer.result_rows]
            return Result(list(answer.column_names), rows)

        try:
            return self._attempt(asked)
        except StoreAwayError:
            raise
        except StoreError:
            if full == sql:
                raise
            # what is wrong with it is to be said of the words of whoever asks
            return self._attempt(lambda client: asked(client, sql))

    def command(self, sql: str, params: Mapping[str, Any] | None = None) -> None:
        """Run one statement that answers nothing."""
        self._attempt(lambda client: client.command(sql, parameters=dict(params or {})))

    # To a server a statement goes before its rows, not in the URL: there one of 7 KB took the client 4 ms to
    # encode. As a view, which the client does not send twice by itself: the stream does, and knows it.
    def insert_arrow(self, table: str, batch: pa.RecordBatch) -> None:
        """Insert a batch into the table's columns of its names; durable when it returns."""
        names = batch.schema.names

        def on_server(client: Any) -> None:
            insert = f"INSERT INTO {table} ({', '.join(names)}) FORMAT ArrowStream\n"
            client.raw_insert(None, insert_block=stream(batch, insert.encode()))

        def in_process(client: Any) -> None:
            client.raw_insert(table, column_names=names, insert_block=stream(batch), fmt="ArrowStream")

        self._attempt(in_process if self.url.startswith("chdb:") else on_server)

    def insert_select(self, insert: str, structure: str, batch: pa.RecordBatch) -> None:
        """Run ``INSERT … SELECT … FROM {rows} …``, in which ``{rows}`` stands for the batch, with columns of
        this structure (``name type, …``); durable when it returns."""

        def on_server(client: Any) -> None:
            client.raw_insert(None, insert_block=stream(batch, _of_input(insert, structure)))

        def in_process(client: Any) -> None:
            with tempfile.NamedTemporaryFile() as file:  # chDB takes no rows beside a statement
                file.write(stream(batch))
                file.flush()
                sql = insert.format(rows="file({path:String}, ArrowStream, {structure:String})")
                client.command(sql, parameters={"path": file.name, "structure": structure})

        self._attempt(in_process if self.url.startswith("chdb:") else on_server)

    def insert_rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows of a table by column name; what a row lacks takes its default."""
        types = self.column_types(table)
        alike: defaultdict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
        for row in rows:
            alike[tuple(sorted(row))].append(row)
        for names, group in alike.items():
            unknown = sorted(set(names) - types.keys())
            if unknown:
                raise StoreError(f"table {table} has no column {', '.join(unknown)}")
            self.insert_values(table, {name: [row[name] for row in group] for name in names})

    def insert_values(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Insert columns of plain values, of equal length; those left out take their default."""
        self.insert_arrow(table, value_batch(columns, self.column_types(table)))

    def column_types(self, table: str) -> dict[str, str]:
        """The columns of a table in order, with their ClickHouse types."""
        if table not in self._types:
            rows = self.query(
                "SELECT name, type FROM system.columns"
                " WHERE database = currentDatabase() AND table = {table:String} ORDER BY position",
                {"table": table},
            ).rows
            if not rows:
                raise StoreError(f"the store {self.url} has no table {table}; run 'wattribute migrate'")
            self._types[table] = dict(rows)
        return self._types[table]

    def reader(self) -> Store:
        """The same store on a handle of its own that can only read, within limits of time and size."""
        return Store(self.url, self._connect, _READING)

    def beside(self) -> Store:
        """The same store on a handle of its own, to write to it from another thread meanwhile."""
        return Store(self.url, self._connect, self._settings)

    def close(self) -> None:
        """Let go of the store, and of its folder."""
        self._closed = True
        try:
            self._client.close()
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def keep(self, lock: int) -> None:
        """Keep the folder's lock for as long as the store is open."""
        self._lock = lock

    def _connected(self) -> Any:
        try:
            return self._connect(self._settings)
        except (ClickHouseError, OSError, ImportError) as error:
            raise store_error(f"cannot open the store {self.url}", error) from error

    def _attempt(self, call: Callable[[Any], _Answer]) -> _Answer:
        with self._one_at_a_time:
            try:
                return call(self._client)
            except (ClickHouseError, OSError) as error:
                if self.url.startswith("chdb:") and not self._closed:
                    # chDB 26.9 hands what a failed query had produced to the next one on the same handle
                    stale, self._client = self._client, self._connected()
                    stale.close()
                raise store_error(f"the store {self.url} refused", error) from error


def open_store(url: str, create: bool = True) -> Store:
    """Open ``clickhouse://user@host:8123/database`` or ``chdb:///path`` for writing.

    ``chdb:///path?database=name`` picks another database than ``wattribute`` in the folder. A port of 443 or
    8443 means TLS. With ``create`` the folder and the database come to be. Raises StoreError, UsageError.
    """
    folder = folder_of(url)
    if folder is not None:
        return _open_chdb(url, folder, create)
    parts = urlsplit(url)
    if parts.scheme != "clickhouse" or not parts.hostname:
        raise UsageError(f"store {url!r} is neither clickhouse://user@host:8123/database nor chdb:///path")
    if parts.password is not None:
        shown = f"clickhouse://{parts.username}@{parts.hostname}"
        raise UsageError(f"store {shown}…: a password does not belong into the URL; set {PASSWORD} instead")
    database = unquote(parts.path.strip("/")) or DATABASE

    def connect(settings: Mapping[str, Any]) -> Any:
        client: Any = clickhouse_connect.get_client(
            host=parts.hostname,
            port=parts.port or 8123,
            username=unquote(parts.username or "default"),
            password=_password(),
            autogenerate_session_id=False,  # queries of several threads may then overlap
            query_retries=0,  # the stream repeats a write itself, and knows that it does
            connect_timeout=CONNECT_S,
            send_receive_timeout=ANSWER_S,
            client_name="wattribute",
            dedicated_pool=True,
        )
        _let_go_of_failed(client.http)
        _check_version(url, client.server_version)
        _set(client, settings)
        return client

    return Store(url, _in_database(connect, database, create), _SETTINGS)


def _open_chdb(url: str, folder: Path, create: bool) -> Store:
    database = parse_qs(urlsplit(url).query).get("database", [DATABASE])[0]
    _check_zone(os.environ.get("TZ", "").removeprefix(":"))
    lock = hold(folder, create)

    def connect(settings: Mapping[str, Any]) -> Any:
        client = clickhouse_connect.get_client(interface="chdb", path=str(folder), settings=dict(settings))
        _leave_stopping_to_the_kernel()
        return client

    try:
        store = Store(url, _in_database(connect, database, create), _SETTINGS)
    except BaseException:
        os.close(lock)
        raise
    store.keep(lock)
    if tables := damaged_tables(store):
        _log.warning("the store %s: %s; %s", url, LEFT_OUT.format(tables), GO_ON)
    return store


def _leave_stopping_to_the_kernel() -> None:
    """Undo that the engine catches SIGTSTP, upon which it does nothing: Ctrl-Z stopped the command of
    ``wattribute run`` alone, and the shell waited for us without end."""
    if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
        ctypes.CDLL(None).signal(signal.SIGTSTP, None)  # Python's own is for the main thread alone


def damaged_tables(store: Readable) -> str:
    """The tables of a folder of which the engine, when it loaded them, set parts aside that it found damaged;
    empty where there are none. It says nothing of that itself, and answers without them."""
    rows = store.query(
        "SELECT DISTINCT table FROM system.detached_parts"
        " WHERE database = currentDatabase() AND startsWith(reason, 'broken') ORDER BY table"
    ).rows
    return ", ".join(table for (table,) in rows)


def _check_zone(name: str) -> None:
    """The engine does not load where TZ is of POSIX's form (UTC+2), and says that it is not installed."""
    try:
        if name and not name.startswith("/"):
            ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise StoreError(
            f"the store's engine knows no time zone TZ={name}: set TZ=Europe/Berlin or the like, or unset it"
        ) from error


def _in_database(
    connect: Callable[[Mapping[str, Any]], Any], database: str, create: bool
) -> Callable[[Mapping[str, Any]], Any]:
    made = not create

    def connected(settings: Mapping[str, Any]) -> Any:
        nonlocal made
        client = connect(settings)
        if not made:
            named = {"name": database}
            # asked first, for who may write to one that is there need not be one who may make it
            if not client.command("EXISTS DATABASE {name:Identifier}", parameters=named):
                client.command("CREATE DATABASE IF NOT EXISTS {name:Identifier}", parameters=named)
            made = True
        client.database = database
        return client

    return connected


def _check_version(url: str, version: str) -> None:
    if tuple(map(int, version.split(".")[:2])) < _OLDEST:
        needed = ".".join(map(str, _OLDEST))
        raise StoreError(f"the store {url} is ClickHouse {version}: wattribute needs {needed} or newer")


def _set(client: Any, settings: Mapping[str, Any]) -> None:
    """Set what the server knows and lets its user change. Who may only read by a profile of the server, which
    says ``readonly`` 1 or 2, keeps what that says of limits; what answers mean is the same, or refused."""
    known = client.server_settings
    reads_only = known["readonly"].value != "0"
    for name, value in settings.items():
        if name in _ANALYSIS and name not in known:  # older servers lack some
            continue
        if reads_only and known[name].readonly and name not in _MEANING:
            continue
        client.set_client_setting(name, value)


def _let_go_of_failed(pool: Any) -> None:
    """Have a request that failed let go of what it holds at once, and not when garbage is collected.

    Where the line was cut the client (clickhouse-connect 1.12) asks a second time. The frames of the first
    try keep those of the second, and so its answer, which the client never closes where it has no rows: the
    collector takes both apart, and to close it then prints a traceback. Tries of urllib3's own would do the
    same, where we do not see them."""
    request = pool.request

    def once(*args: Any, **kwargs: Any) -> Any:
        try:
            return request(*args, **{**kwargs, "retries": 0})
        except HTTPError as error:
            clear_frames(error.__traceback__)
            raise

    pool.request = once


@lru_cache
def _of_input(insert: str, structure: str) -> bytes:
    return (insert.format(rows=f"input({format_str(structure)})") + " FORMAT ArrowStream\n").encode()


def _password() -> str:
    path = os.environ.get(PASSWORD_FILE)
    told_by = f"{PASSWORD_FILE} {path}" if path else PASSWORD
    try:
        if path and Path(path).stat().st_mode & 0o077:
            raise UsageError(f"{told_by} can be read by others: chmod 600 {path}")
        password = Path(path).read_bytes().decode().rstrip("\n") if path else os.environ.get(PASSWORD, "")
        password.encode()
    except OSError as error:
        raise UsageError(f"{told_by} cannot be read: {error.strerror}") from error
    except UnicodeError:
        raise UsageError(f"{told_by} is not UTF-8") from None  # the error has it in it
    return password


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return value
