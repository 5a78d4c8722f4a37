"""The only access to ClickHouse: a server (``clickhouse://``) or the engine in this process (``chdb://``).

Both speak the same SQL through clickhouse-connect. A chDB folder belongs to one process at a time;
``wattribute.sinks.query_server`` lets other processes query through that one.
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
from importlib.util import find_spec
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
"""The oldest ClickHouse that answers every view: 25.8 has no type for some of their sums."""
LEFT_OUT: Final = "parts of these tables are damaged, so answers lack their rows: {}"
_log = logging.getLogger(__name__)

# Set explicitly, because defaults changed between releases (async_insert became 1 in 26.2), and these decide
# whether an insert that has returned is durable and complete. Duplicates are prevented by key and version in
# the table, not by insert deduplication. optimize_on_insert collapses rows at insert, which FINAL does
# anyway: without it an insert of 400 000 rows takes 1.2 instead of 5.1 µs a row.
_SETTINGS: Final[dict[str, Any]] = {
    "async_insert": 0,
    "insert_deduplicate": 0,
    "optimize_on_insert": 0,
    "max_partitions_per_insert_block": 0,
    "min_insert_block_size_rows": 1_048_576,
    "min_insert_block_size_bytes": 0,
    # with 1, deleted rows showed up (ClickHouse issue 49685); newer servers choose it themselves
    "do_not_merge_across_partitions_select_final": 0,
    "join_use_nulls": 0,
    "session_timezone": "UTC",
}
# The settings that affect what an answer means. (session_timezone does not: all our times have their zone in
# their type.)
_MEANING: Final = frozenset(("do_not_merge_across_partitions_select_final", "join_use_nulls"))
# Steps of the analysis that are switched off for our views. For each condition, sum, group key and sort key
# they look at everything below it, and find nothing. Without them unit_cost is analysed in 0.64 instead of
# 1.0 s, model_cost in 1.2 instead of 2.1. Nor is the plan searched for unused columns, which the analysis has
# already removed: that search took 0.07 of the 0.83 s of run_cost. (Not merging steps of the plan,
# query_plan_merge_expressions, saves as much, but then a condition on a view does not reach the key:
# conservation of ten minutes took 1.6 instead of 0.13 s.)
_ANALYSIS: Final[dict[str, Any]] = {
    "optimize_aggregators_of_group_by_keys": 0,
    "optimize_and_compare_chain": 0,
    "optimize_extract_common_expressions": 0,
    "optimize_group_by_function_keys": 0,
    "optimize_redundant_functions_in_order_by": 0,
    "optimize_syntax_fuse_functions": 0,
    "query_plan_remove_unused_columns": 0,
}
# A reader may neither write nor block the process that it queries. readonly is last: it forbids a later SET.
_READING: Final[dict[str, Any]] = {
    **_ANALYSIS,
    # Compiling the expressions of an answer takes 0.15 s, more than it saves.
    "compile_expressions": 0,
    # Without a thread pool for reads, cost reads its windows in 0.6 instead of 0.7 s of processor time.
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
    """An answer in plain Python values; a time is a datetime in UTC. chDB gives no column names where there
    are no rows."""

    columns: list[str]
    rows: list[tuple[Any, ...]]

    def dicts(self) -> list[dict[str, Any]]:
        """The rows as dicts by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class Readable(Protocol):
    """What can be queried: a store in this process, or the process that owns it."""

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> Result:
        """Answer one statement. Values must be server-side parameters, ``{name:Type}``. Raises StoreError,
        UsageError."""

    def close(self) -> None:
        """Close the store or the connection."""


class Store:
    """An open store. Every failure raises a StoreError of one line: StoreAwayError if a retry may succeed."""

    def __init__(
        self,
        url: str,
        connect: Callable[[Mapping[str, Any]], Any],
        settings: Mapping[str, Any],
        lock: int | None = None,
    ) -> None:
        """``lock``, a file descriptor, keeps a folder for as long as the store is open."""
        self.url = url
        self._connect = connect
        self._settings = settings
        self._lock = lock
        self._one_at_a_time = threading.Lock()
        self._closed = False
        self._types: dict[str, dict[str, str]] = {}
        self._client = self._connected()

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> Result:
        """Answer one statement. Values must be server-side parameters, ``{name:Type}``."""
        full = in_full(sql)

        def asked(client: Any, words: str = full) -> Result:
            answer = client.query(words, parameters=dict(params or {}))
            # a long answer is still arriving, so the connection may fail here
            rows = [tuple(map(_plain, row)) for row in answer.result_rows]
            return Result(list(answer.column_names), rows)

        try:
            return self._attempt(asked)
        except StoreAwayError:
            raise
        except StoreError:
            if full == sql:
                raise
            # so that the error quotes the caller's own text, not the views filled in
            return self._attempt(lambda client: asked(client, sql))

    def command(self, sql: str, params: Mapping[str, Any] | None = None) -> None:
        """Run one statement that returns nothing."""
        self._attempt(lambda client: client.command(sql, parameters=dict(params or {})))

    # To a server a statement is sent before its rows, not in the URL: encoding one of 7 KB there took the
    # client 4 ms. They are sent as a memoryview, which the client does not retry by itself: the stream does.
    def insert_select(self, insert: str, structure: str, batch: pa.RecordBatch) -> None:
        """Run ``INSERT … SELECT … FROM {rows} …``, where ``{rows}`` stands for the batch and ``structure`` is
        that of its columns (``name type, …``); durable when it returns."""

        def on_server(client: Any) -> None:
            client.raw_insert(None, insert_block=stream(batch, _of_input(insert, structure)))

        def in_process(client: Any) -> None:
            with tempfile.NamedTemporaryFile() as file:  # chDB takes no rows with a statement
                file.write(stream(batch))
                file.flush()
                sql = insert.format(rows="file({path:String}, ArrowStream, {structure:String})")
                client.command(sql, parameters={"path": file.name, "structure": structure})

        self._attempt(in_process if self.url.startswith("chdb:") else on_server)

    def insert_rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows, given by column name; missing columns take their default."""
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
        """Insert columns of plain values, of equal length; missing columns take their default. Durable when
        it returns."""
        names, batch = list(columns), value_batch(columns, self.column_types(table))

        def on_server(client: Any) -> None:
            insert = f"INSERT INTO {table} ({', '.join(names)}) FORMAT ArrowStream\n"
            client.raw_insert(None, insert_block=stream(batch, insert.encode()))

        def in_process(client: Any) -> None:
            client.raw_insert(table, column_names=names, insert_block=stream(batch), fmt="ArrowStream")

        self._attempt(in_process if self.url.startswith("chdb:") else on_server)

    def column_types(self, table: str) -> dict[str, str]:
        """The columns of a table in order, with their ClickHouse types. StoreError if there is none."""
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
        """The same store on a separate handle that can only read, within limits of time and size."""
        return Store(self.url, self._connect, _READING)

    def beside(self) -> Store:
        """The same store on a separate handle, to write from another thread at the same time."""
        return Store(self.url, self._connect, self._settings)

    def close(self) -> None:
        """Close the store, and unlock its folder."""
        self._closed = True
        try:
            self._client.close()
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

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
                    # in chDB 26.9 the next query on the handle would get what a failed one had produced
                    stale, self._client = self._client, self._connected()
                    stale.close()
                raise store_error(f"error from the store {self.url}", error) from error


def open_store(url: str, create: bool = True) -> Store:
    """Open ``clickhouse://user@host:8123/database`` or ``chdb:///path`` for writing.

    ``chdb:///path?database=name`` picks another database than ``wattribute`` in the folder. A port of 443 or
    8443 means TLS. With ``create`` a missing folder or database is created. Raises StoreError, UsageError.
    """
    folder = folder_of(url)
    if folder is not None:
        return _open_chdb(url, folder, create)
    parts = urlsplit(url)
    if parts.scheme != "clickhouse" or not parts.hostname:
        raise UsageError(f"store {url!r} is neither clickhouse://user@host:8123/database nor chdb:///path")
    if parts.password is not None:
        shown = f"clickhouse://{parts.username}@{parts.hostname}"
        raise UsageError(f"store {shown}…: a password must not be in the URL; set {PASSWORD} instead")
    database = unquote(parts.path.strip("/")) or DATABASE

    def connect(settings: Mapping[str, Any]) -> Any:
        client: Any = clickhouse_connect.get_client(
            host=parts.hostname,
            port=parts.port or 8123,
            username=unquote(parts.username or "default"),
            password=_password(),
            autogenerate_session_id=False,  # so that queries of several threads may overlap
            query_retries=0,  # the stream itself repeats failed writes
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
    if find_spec("chdb") is None:  # the client would advise to install an extra of its own
        raise ModuleNotFoundError("No module named 'chdb'", name="chdb")
    database = parse_qs(urlsplit(url).query).get("database", [DATABASE])[0]
    _check_zone(os.environ.get("TZ", "").removeprefix(":"))
    lock = hold(folder, create)

    def connect(settings: Mapping[str, Any]) -> Any:
        client = clickhouse_connect.get_client(interface="chdb", path=str(folder), settings=dict(settings))
        _leave_stopping_to_the_kernel()
        return client

    try:
        store = Store(url, _in_database(connect, database, create), _SETTINGS, lock)
    except BaseException:
        os.close(lock)
        raise
    if tables := damaged_tables(store):
        _log.warning("the store %s: %s; %s", url, LEFT_OUT.format(tables), GO_ON)
    return store


def _leave_stopping_to_the_kernel() -> None:
    """Remove the engine's handler of SIGTSTP, which does nothing: with it Ctrl-Z stopped only the command of
    ``wattribute run``, and the shell waited for us for ever."""
    if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
        ctypes.CDLL(None).signal(signal.SIGTSTP, None)  # Python's signal() only works in the main thread


def damaged_tables(store: Readable) -> str:
    """The tables of a folder that have parts which the engine found damaged when it loaded them, as one text;
    empty if there are none. The engine puts such parts aside silently, and answers without them."""
    rows = store.query(
        "SELECT DISTINCT table FROM system.detached_parts"
        " WHERE database = currentDatabase() AND startsWith(reason, 'broken') ORDER BY table"
    ).rows
    return ", ".join(table for (table,) in rows)


def _check_zone(name: str) -> None:
    """Raise StoreError if TZ has the POSIX form (UTC+2): the engine then fails to load, with the error that
    it is not installed."""
    try:
        if name and not name.startswith("/"):
            ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise StoreError(
            f"the store's engine does not know the time zone TZ={name}: set TZ=Europe/Berlin or the like, or"
            " unset it"
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
            # check first: a user who may write to a database need not have the right to create one
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
    """Set the settings that the server knows and lets its user change. If the user's profile on the server
    only allows reading (``readonly`` 1 or 2), the limits that it fixes are kept. What affects the meaning of
    answers is set all the same, or the server refuses."""
    known = client.server_settings
    reads_only = known["readonly"].value != "0"
    for name, value in settings.items():
        if name in _ANALYSIS and name not in known:  # older servers lack some
            continue
        if reads_only and known[name].readonly and name not in _MEANING:
            continue
        client.set_client_setting(name, value)


def _let_go_of_failed(pool: Any) -> None:
    """Make a failed request release what it holds at once, not when garbage is collected.

    If the connection fails, the client (clickhouse-connect 1.12) tries a second time. The frames of the first
    try keep those of the second alive, and so its answer, which the client never closes if it has no rows:
    the garbage collector destroys both, and closing the answer then prints a traceback. Retries by urllib3
    would do the same out of our sight, so there are none."""
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
        raise UsageError(f"{told_by} is not UTF-8") from None  # the error contains the password
    return password


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return value
