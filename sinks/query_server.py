"""Query the process that owns a chDB store, through a Unix socket in the store's folder that only its user
can use.

A message is four bytes of length, big-endian, and a JSON object. Requests are ``{"sql", "params"}``,
``{"prices"}``, ``{"tariffs"}``, ``{"billed"}``, ``{"unbilled"}`` or ``{"lineage"}``; answers are
``{"columns", "rows"}``, ``{"remarks"}`` or ``{"error", "usage"}``. A value for which JSON has no type, a time
or a decimal, is an object of its kind and its text.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import orjson

from wattribute.errors import StoreError, UsageError, WattributeError
from wattribute.sinks.billing import BilledHost, add_billed, remove_billed
from wattribute.sinks.folder import PATIENCE_WITHOUT_SOCKET_S, SOCKET, folder_of, owner_of
from wattribute.sinks.lineage import Lineage, add_lineage
from wattribute.sinks.migrate import migrate
from wattribute.sinks.prices import Price, add_prices, price_of
from wattribute.sinks.reading import Reader
from wattribute.sinks.store import Readable, Result, Store, open_store
from wattribute.sinks.tariffs import Tariff, add_tariffs, shown_days, tariff_of

_REQUEST_MAX_BYTES: Final = 16 << 20  # 50,000 prices
_CONNECTIONS_MAX: Final = 8
_IDLE_S: Final = 300.0
_KIND: Final = "\0kind"  # a key that is most unlikely to be a name
_KINDS: Final[Mapping[str, Callable[[str], Any]]] = {"datetime": datetime.fromisoformat, "Decimal": Decimal}


class QueryServer:
    """Answers queries, and makes changes, for a store that this process owns. Each connection has its own
    thread, and its own handle for queries."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._stopping = False
        self._places = threading.BoundedSemaphore(_CONNECTIONS_MAX)
        self._open: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _address(folder) as address:
            self._listener.bind(address)
        (folder / SOCKET).chmod(0o600)
        self._listener.listen(_CONNECTIONS_MAX)
        self._accepting = threading.Thread(target=self._accept, name="wattribute-queries", daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Stop answering. Call this before the store is closed."""
        self._stopping = True
        (self._folder / SOCKET).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _accept(self) -> None:
        while not self._stopping:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._stopping:
                    return
                time.sleep(0.1)  # out of file descriptors: wait until some are free again
                continue
            connection.settimeout(_IDLE_S)
            if not self._places.acquire(blocking=False):
                with contextlib.suppress(OSError), connection:
                    refusal = {"error": f"{_CONNECTIONS_MAX} others are connected already; try again"}
                    connection.sendall(_packed(refusal))
                continue
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._lock:
                self._open.add(connection)
                self._threads.add(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        reader: Reader | None = None
        try:
            while (request := _receive(connection, _REQUEST_MAX_BYTES)) is not None:
                try:
                    reader = reader or Reader(self._store)
                    answer = self._answer(reader, request)
                except WattributeError as error:
                    answer = {"error": str(error), "usage": isinstance(error, UsageError)}
                except (AttributeError, KeyError, TypeError) as error:  # the client may have another version
                    answer = {
                        "error": f"the process that owns the store {self._folder} does not understand this"
                        f" request ({error!r}): make sure that it is not another version of wattribute"
                    }
                connection.sendall(_packed(answer))
        except (OSError, RecursionError, ValueError):
            pass  # the client is gone or does not speak the protocol: only its connection ends
        finally:
            if reader is not None:
                reader.close()
            connection.close()
            with self._lock:
                self._open.discard(connection)
                self._threads.discard(threading.current_thread())
            self._places.release()

    def _answer(self, reader: Reader, request: Any) -> dict[str, Any]:
        if not isinstance(request, dict):
            raise UsageError("a request must be a JSON object")
        if "prices" in request:
            return {"remarks": add_prices(self._store, [price_of(price) for price in request["prices"]])}
        if "tariffs" in request:
            return {"remarks": add_tariffs(self._store, [tariff_of(told) for told in request["tariffs"]])}
        if "billed" in request:
            return {"remarks": add_billed(self._store, BilledHost(**request["billed"]))}
        if "unbilled" in request:
            return {"remarks": remove_billed(self._store, str(request["unbilled"]))}
        if "lineage" in request:
            return {"remarks": add_lineage(self._store, Lineage(**request["lineage"]))}
        sql, params = request.get("sql"), request.get("params") or {}
        if not isinstance(sql, str) or not isinstance(params, dict):
            raise UsageError("a request must have sql, a text, and params, an object")
        result = reader.query(sql, params)
        return {"columns": result.columns, "rows": result.rows}


class RemoteStore:
    """A store that another process of this machine owns. That process answers queries and makes changes."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError if no process answers."""
        self._folder = folder
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _address(folder) as address:
                self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> Result:
        """Answer one statement that only reads. Raises UsageError, StoreError."""
        answer = self._ask({"sql": sql, "params": dict(params or {})})
        return Result(answer["columns"], [tuple(row) for row in answer["rows"]])

    def tell(self, message: Mapping[str, Any]) -> list[str]:
        """Have the owner change something; return its remarks. Raises UsageError, StoreError."""
        remarks: list[str] = self._ask(message)["remarks"]
        return remarks

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        packed = _packed(request)
        if len(packed) > _REQUEST_MAX_BYTES:
            raise UsageError(
                f"that is more than {_REQUEST_MAX_BYTES >> 20} MiB, and the store {self._folder} is in use by"
                " a process that accepts no more at once: send it in parts, or stop that process first"
            )
        try:
            with contextlib.suppress(ConnectionError):  # it has hung up, and may have sent the reason
                self._socket.sendall(packed)
            answer = _receive(self._socket, None)
        except (OSError, ValueError) as error:
            raise StoreError(f"the owner of the store {self._folder} does not answer: {error}") from error
        if answer is None:
            raise StoreError(f"the owner of the store {self._folder} has closed the connection; try again")
        if "error" in answer:
            raise (UsageError if answer.get("usage") else StoreError)(answer["error"])
        return dict(answer)


def serve(store: Store) -> QueryServer | None:
    """Answer other processes for a chDB store that this one owns. None for a server: it does so itself."""
    folder = folder_of(store.url)
    return None if folder is None else QueryServer(store, folder)


def open_store_for_reading(url: str) -> Readable:
    """Open the store, or connect to the process that owns it. Raises StoreError, UsageError."""
    remote = _owner(url)
    if remote is not None:
        return remote
    return Reader(open_store(url, create=False), owned=True)


def add_prices_to(url: str, prices: Sequence[Price]) -> list[str]:
    """Store a user's prices; return remarks for the user. Raises StoreError, UsageError."""
    texts = [
        {name: _field(value) for name, value in asdict(price).items() if value not in (None, "")}
        for price in prices
    ]
    return _changed(url, {"prices": texts}, lambda store: add_prices(store, prices), _adds(prices))


def add_tariffs_to(url: str, tariffs: Sequence[Tariff]) -> list[str]:
    """Store tariffs; return remarks for the user. Raises StoreError, UsageError."""
    texts = [
        {name: _field(value) for name, value in asdict(tariff).items()} | {"days": shown_days(tariff.days)}
        for tariff in tariffs
    ]
    return _changed(url, {"tariffs": texts}, lambda store: add_tariffs(store, tariffs), _adds(tariffs))


def add_billed_to(url: str, billed: BilledHost) -> list[str]:
    """Store what is billed for a host; return remarks for the user. Raises StoreError, UsageError."""
    return _changed(url, {"billed": asdict(billed)}, lambda store: add_billed(store, billed))


def remove_billed_from(url: str, host: str) -> None:
    """Remove what is declared for a host. Raises StoreError, UsageError."""
    _changed(url, {"unbilled": host}, lambda store: remove_billed(store, host), create=False)


def add_lineage_to(url: str, made: Lineage) -> list[str]:
    """Store which run made a model version; return remarks for the user. Raises StoreError, UsageError."""
    return _changed(url, {"lineage": asdict(made)}, lambda store: add_lineage(store, made))


def _changed(
    url: str, message: Mapping[str, Any], change: Callable[[Store], list[str]], create: bool = True
) -> list[str]:
    """Change a store, through its owner if it has one; return the remarks. A missing store is created, or,
    without ``create``, raises StoreError."""
    remote = _owner(url)
    if remote is not None:
        with contextlib.closing(remote):
            return remote.tell(message)
    folder = folder_of(url)
    made = [f"created a new store in {folder}"] if folder is not None and not folder.exists() else []
    with contextlib.closing(open_store(url, create)) as store:
        migrate(store)
        return made + change(store)


def _adds(told: Sequence[Price | Tariff]) -> bool:
    """Whether anything is added: a store that does not exist has nothing that could be removed."""
    return not all(each.deleted for each in told)


def _owner(url: str) -> RemoteStore | None:
    folder = folder_of(url)
    if folder is None or not folder.is_dir():
        return None
    deadline = time.monotonic() + PATIENCE_WITHOUT_SOCKET_S
    while True:
        try:
            return RemoteStore(folder)
        except OSError:
            owner = owner_of(folder)
        if owner is None:
            return None
        if time.monotonic() > deadline:
            raise StoreError(f"the store {folder} is in use by {owner}, which does not answer; stop it first")
        time.sleep(0.05)


@contextlib.contextmanager
def _address(folder: Path) -> Iterator[str]:
    """A path to the socket through the opened folder, valid in the with block: a Unix address has at most 107
    bytes, and the path of a folder may be longer."""
    opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{opened}/{SOCKET}"
    finally:
        os.close(opened)


def _packed(message: Mapping[str, Any]) -> bytes:
    try:
        body = orjson.dumps(message, default=_spelt, option=orjson.OPT_PASSTHROUGH_DATETIME)
    except TypeError:  # orjson takes no integers beyond 64 bits, and no keys but texts
        body = json.dumps(_with_text_keys(message), default=_spelt).encode()
    return struct.pack(">I", len(body)) + body


def _receive(connection: socket.socket, limit: int | None) -> Any:
    """The next message; None if the other side has closed the connection. Raises ValueError, OSError."""
    head = _exactly(connection, 4)
    if head is None:
        return None
    (length,) = struct.unpack(">I", head)
    if limit is not None and length > limit:
        raise ValueError("the message is too long")
    body = _exactly(connection, length)
    return None if body is None else json.loads(body, object_hook=_read)


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(min(count - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)


def _with_text_keys(value: Any) -> Any:
    """The value with texts as keys: a map may have keys of any type, JSON only has texts."""
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_with_text_keys(each) for each in value]
    return value


def _spelt(value: Any) -> Any:
    """A value for which JSON has no type, as an object of its kind and its text, or as its text alone."""
    kind = type(value).__name__
    return {_KIND: kind, "text": str(value)} if kind in _KINDS else str(value)


def _read(found: dict[str, Any]) -> Any:
    """An object, or the value that ``_spelt`` turned into it."""
    made = _KINDS.get(str(found.get(_KIND)))
    try:
        return found if made is None else made(found["text"])
    except (ArithmeticError, KeyError, TypeError, ValueError):
        return found  # labels may have any name, even that of _KIND


def _field(value: Any) -> str:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)
