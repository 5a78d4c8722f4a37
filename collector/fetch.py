"""Fetches one answer of an endpoint, bounded in time and bytes whatever the endpoint does."""

from __future__ import annotations

import ctypes
import http.client
import io
import os
import queue
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from wattribute.collector.engines import WANTED, ScrapeError

DEADLINE_S: Final = 2.0
"""For the whole answer: even a server that sends a byte a second gets no more time."""
_BYTES_MAX: Final = 32 << 20
_PIECE_BYTES: Final = 64 << 10
_LINE_MAX: Final = 64 << 10
_LINES_MAX: Final = 10_000  # lines that are kept: 64 engines of one server have about 6,000
_NEW_NETWORK: Final = 0x40000000  # CLONE_NEWNET
_TOKEN_MAX: Final = 16 << 10


class Address(NamedTuple):
    """Where an endpoint is. ``namespace`` is the file of its network namespace, '' for the collector's own;
    ``token_file`` contains the bearer token that a server requires."""

    host: str
    port: int
    path: str = "/metrics"
    tls: bool = False
    namespace: str = ""
    token_file: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        path = self.path.partition("?")[0]  # the query may contain a secret
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{path}"


class NamespaceError(ScrapeError):
    """The endpoint is in a network namespace that this process may not enter."""


class SilentError(ScrapeError):
    """The endpoint does not answer at all, whatever path is requested."""


class _Answer(io.RawIOBase):
    """The bytes that come over a socket, up to a deadline and a number of bytes."""

    def __init__(self, connection: socket.socket, until_s: float) -> None:
        self._connection, self._until_s, self._left = connection, until_s, _BYTES_MAX

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)
        size = self._connection.recv_into(buffer)
        self._left -= size
        if self._left < 0:
            raise ScrapeError(f"the answer has more than {_BYTES_MAX >> 20} MiB")
        return size

    def makefile(self, _mode: str) -> io.BufferedReader:
        """The method that http.client calls on a socket."""
        return io.BufferedReader(self)


def fetch(address: Address, deadline_s: float = DEADLINE_S) -> list[bytes]:
    """The lines of the answer that begin as a known engine's counters do. Raises ScrapeError.

    No redirect is followed, so only ``address`` is contacted; nothing is decompressed."""
    until_s = time.monotonic() + deadline_s
    try:
        with (
            _connected(address, deadline_s) as connection,
            http.client.HTTPResponse(_Answer(connection, until_s)) as response,  # type: ignore[arg-type]
        ):
            connection.sendall(_request(address))
            response.begin()
            return _lines(response)
    except TimeoutError:
        raise SilentError(f"the endpoint does not answer within {deadline_s:g} s") from None
    except http.client.IncompleteRead:
        raise ScrapeError("the answer breaks off") from None
    except http.client.HTTPException as problem:
        raise ScrapeError(f"the answer is not HTTP ({type(problem).__name__})") from None
    except UnicodeError:  # for example two dots in a row
        raise SilentError("the endpoint cannot be reached: its host is not a valid DNS name") from None
    except OSError as problem:
        raise SilentError(
            f"the endpoint cannot be reached: {problem.strerror or type(problem).__name__}"
        ) from None


def _lines(response: http.client.HTTPResponse) -> list[bytes]:
    if 300 <= response.status < 400:
        raise ScrapeError(f"the endpoint redirects (HTTP {response.status}), and redirects are not followed")
    if response.status != http.client.OK:
        raise ScrapeError(f"the endpoint answers with HTTP {response.status}")
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise ScrapeError("the answer is compressed, although plain text was requested")
    kept: list[bytes] = []
    rest = b""
    while piece := response.read(_PIECE_BYTES):
        *lines, rest = (rest + piece).split(b"\n")
        kept += [line for line in lines if line.startswith(WANTED)]
        if len(rest) > _LINE_MAX or any(len(line) > _LINE_MAX for line in kept[-len(lines) :]):
            raise ScrapeError(f"the answer has a line of more than {_LINE_MAX >> 10} KiB")
        if len(kept) > _LINES_MAX:
            raise ScrapeError(f"the answer has more than {_LINES_MAX:,} series that count")
    # A line that is cut off may contain a smaller number, as if the server had restarted.
    ends_with_the_connection = response.length is None and not response.chunked
    if response.length or (rest and ends_with_the_connection):
        raise ScrapeError("the answer breaks off")
    return [*kept, rest] if rest.startswith(WANTED) else kept


def _request(address: Address) -> bytes:
    host = str(address._replace(path="")).partition("//")[2]
    lines = [
        f"GET {address.path} HTTP/1.1",
        f"Host: {host}",
        "Accept: text/plain",
        "Accept-Encoding: identity",
        "User-Agent: wattribute",
        "Connection: close",
    ]
    if address.token_file:
        lines.append(f"Authorization: Bearer {_token(address.token_file)}")
    return "\r\n".join((*lines, "", "")).encode()


def _token(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            token = file.read(_TOKEN_MAX).decode().strip()
    except (OSError, UnicodeDecodeError):
        raise ScrapeError(f"the endpoint's token_file {path} cannot be read") from None
    if not token.isprintable() or " " in token:
        raise ScrapeError(f"the endpoint's token_file {path} contains more than a token")
    return token


def _connected(address: Address, deadline_s: float) -> socket.socket:
    if not address.namespace:
        connection = socket.create_connection((address.host, address.port), deadline_s)
    else:
        connection = _within(address, deadline_s)
    if address.tls:
        import ssl  # noqa: PLC0415 - large, and few endpoints need it

        connection.settimeout(deadline_s)
        return ssl.create_default_context().wrap_socket(connection, server_hostname=address.host)
    return connection


def own_addresses(host: str) -> frozenset[str] | None:
    """The addresses of ``host`` that are this machine's; None where it cannot be resolved at present."""
    try:
        places = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return None
    found: set[str] = set()
    for family, _, _, _, place in places:
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((place[0], 0))  # only an address of this machine can be bound
            found.add(str(place[0]))
    return frozenset(found)


def _within(address: Address, deadline_s: float) -> socket.socket:
    """A connection made in another network namespace. A thread of its own enters the namespace and ends
    there: the socket stays in the namespace, and no other thread of this process ever changes its own."""
    made: queue.SimpleQueue[socket.socket | OSError | ScrapeError] = queue.SimpleQueue()

    def enter() -> None:
        try:
            _enter(address.namespace)
            made.put(socket.create_connection((address.host, address.port), deadline_s))
        except (OSError, ScrapeError) as problem:
            made.put(problem)

    thread = threading.Thread(target=enter, name="namespace", daemon=True)
    thread.start()
    result = made.get()
    thread.join()
    if isinstance(result, socket.socket):
        return result
    raise result


def _enter(namespace: str) -> None:
    try:
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as problem:
        raise NamespaceError(f"its network namespace cannot be opened: {problem.strerror}") from None
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _NEW_NETWORK):
            raise NamespaceError(
                f"its network namespace cannot be entered ({os.strerror(ctypes.get_errno())}):"
                " run the collector as root, or with CAP_SYS_ADMIN"
            )
    finally:
        os.close(descriptor)
