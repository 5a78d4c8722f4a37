"""The intake: OTLP and plain HTTP, by which applications report units, qualities and run events.

No request can stop the sampling: requests are limited in size, time and number, and an error ends only its
own request. A connection carries one request, so none is held open.
"""

from __future__ import annotations

import gzip
import io
import logging
import re
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Final

from wattribute.collector.otlp_routes import Otlp
from wattribute.collector.plain_routes import PATHS as PLAIN
from wattribute.collector.plain_routes import read_plain
from wattribute.collector.told import FullError, Told
from wattribute.errors import RecordError
from wattribute.settings import Settings

_BODY_MOST: Final = 16 << 20  # as received, and unpacked
_JSON_MOST: Final = 4 << 20  # parsing holds Python's lock: 16 MiB delayed the sampler by 0.3 s
_RECEIVE_S: Final = 10.0  # between two pieces
_REQUEST_S: Final = 20.0
_LINGER_S: Final = 2.0
_POLL_S: Final = 0.5  # how often overdue connections are looked for; every 0.2 s took 0.08 % of a core
_CONNECTIONS_MOST: Final = 32
# The library has a limit too, but in `up` clickhouse_connect raises it from 100 to 10,000, of 64 KiB each.
_HEADERS_MOST: Final = 100
_CHUNKS_MOST: Final = 10_000
_LINE_MOST: Final = 1024  # of the lines before and after chunks
_BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)
_SIGNALS: Final = {f"/v1/{signal}": signal for signal in ("metrics", "traces", "logs")}
_JSON: Final = "application/json"
_PROTOBUF: Final = "application/x-protobuf"
_TEXT: Final = "text/plain; charset=utf-8"
_log = logging.getLogger(__name__)


class _RefusedError(Exception):
    """A request that is refused: the status, and the reason in one line."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class Intake(ThreadingHTTPServer):
    """Listens at an address until it is closed. Raises OSError where it cannot listen there."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], settings: Settings, told: Told) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.told = told
        self.otlp = Otlp(settings, told, time.time_ns())
        self._open: dict[socket.socket, float] = {}
        self._changing = threading.Lock()
        super().__init__(address, _Handler)
        self._thread = threading.Thread(
            target=self.serve_forever, args=(_POLL_S,), name="intake", daemon=True
        )
        self._thread.start()

    @property
    def at(self) -> str:
        """The address where it listens, as in a URL."""
        host, port = self.server_address[:2]
        return f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"

    def close(self) -> None:
        """Stop listening, and wait up to 1 s for open requests."""
        self.shutdown()
        self.server_close()
        until = time.monotonic() + 1
        while self._open and time.monotonic() < until:
            time.sleep(0.01)

    def server_bind(self) -> None:
        """Bind as the library does, but without a DNS look-up."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for the connection, unless there are too many."""
        with self._changing:
            crowded = len(self._open) >= _CONNECTIONS_MOST
            if not crowded:
                self._open[request] = time.monotonic()
        if not crowded:
            super().process_request(request, client_address)
            return
        self.told.health.refused += 1
        with suppress(OSError):
            request.setblocking(False)
            request.send(_BUSY)
        self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._changing:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End the connections that take too long; called every 0.5 s."""
        late = time.monotonic() - _REQUEST_S
        with self._changing:
            overdue = [connection for connection, since in self._open.items() if since < late]
        for connection in overdue:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Count a connection that broke off: nobody is left to answer."""
        self.told.health.refused += 1


class _Head:
    """The lines of a request's head, limited in number."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._left = _HEADERS_MOST + 1  # and the empty line

    def readline(self, size: int) -> bytes:
        """The next line. Raises HTTPException, which the library answers with 431."""
        if not self._left:
            raise HTTPException("too many headers")
        self._left -= 1
        line: bytes = self._file.readline(size)
        return line


class _Handler(BaseHTTPRequestHandler):
    """One request. Every answer closes the connection."""

    server: Intake
    protocol_version = "HTTP/1.1"
    server_version = "wattribute"
    sys_version = ""
    timeout = _RECEIVE_S
    unread = False

    def parse_request(self) -> bool:
        """Parse as the library does, with a separate limit on the number of headers."""
        body, self.rfile = self.rfile, _Head(self.rfile)  # type: ignore[assignment]
        try:
            return super().parse_request()
        finally:
            self.rfile = body

    def do_POST(self) -> None:
        """Take in a request and answer it."""
        health = self.server.told.health
        path = self.path.partition("?")[0].rstrip("/")
        signal = _SIGNALS.get(path, "")
        is_json = self.headers.get_content_type() == _JSON
        try:
            self._check(path)
            body = self._body(is_json or not signal)
            now_ns = time.time_ns()
            if signal:
                reply = self.server.otlp.read(signal, body, is_json, now_ns)
            else:
                reply = read_plain(path, body, self.server.told, now_ns)
            health.requests += 1
            self._answer(HTTPStatus.OK, reply, _JSON if is_json or not signal else _PROTOBUF)
        except _RefusedError as error:
            self._refuse(error.status, str(error), signal, is_json)
        except RecordError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error), signal, is_json)
        except FullError as error:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error), signal, is_json)
        except OSError:  # the sender was too slow, or has gone
            health.refused += 1
            self.close_connection = True
        except Exception as error:
            # A hostile request must end nothing but itself. The error's text may quote it: it is not logged.
            _log.warning(
                "a request to %s failed: %s", path if path in PLAIN else signal, type(error).__name__
            )
            self._refuse(HTTPStatus.BAD_REQUEST, "the request cannot be read", signal, is_json)

    def _check(self, path: str) -> None:
        if path not in _SIGNALS and path not in PLAIN:
            where = ", ".join([*_SIGNALS, *PLAIN])
            raise _RefusedError(HTTPStatus.NOT_FOUND, f"this path does not exist; POST to {where}")
        if self.headers.get("Origin"):  # a page in a browser can reach the loopback address too
            raise _RefusedError(HTTPStatus.FORBIDDEN, "requests from pages in a browser are not accepted")
        if path in _SIGNALS and not self.server.otlp.is_installed:
            raise _RefusedError(
                HTTPStatus.NOT_IMPLEMENTED,
                "this collector cannot read OTLP: pip install 'wattribute[otlp]'",
            )

    def _body(self, is_text: bool) -> bytes:
        most = _JSON_MOST if is_text else _BODY_MOST
        too_large = _RefusedError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {most >> 20} MiB; send it in parts"
        )
        told = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding", "").strip().lower() == "chunked":
            body = b"".join(self._chunks(most, too_large))
        elif not told.isdecimal():
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "send a Content-Length, or a body in chunks")
        elif len(told) > 12 or int(told) > most:
            raise too_large
        else:
            body = self._read(int(told))
        coding = self.headers.get("Content-Encoding", "identity").strip().lower()
        if coding in ("identity", ""):
            return body
        if coding != "gzip":
            raise _RefusedError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the Content-Encoding must be gzip or identity"
            )
        try:  # all gzip members in a row, and nothing after them
            unpacked = gzip.GzipFile(fileobj=io.BytesIO(body)).read(most + 1)
        except (OSError, zlib.error):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "the body is not gzip") from None
        except EOFError:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "the gzip body is cut short") from None
        if len(unpacked) > most:
            raise too_large
        return unpacked

    def _chunks(self, most: int, too_large: _RefusedError) -> Iterator[bytes]:
        """A body in chunks, without a length: OpenTelemetry's Node.js exporters send all bodies like this."""
        for _ in range(_CHUNKS_MOST):
            told = self.rfile.readline(_LINE_MOST).partition(b";")[0].strip()
            if not re.fullmatch(b"[0-9A-Fa-f]{1,8}", told):
                raise _RefusedError(HTTPStatus.BAD_REQUEST, "a chunk of the body has no valid size")
            size = int(told, 16)
            if not size:
                break
            most -= size
            if most < 0:
                raise too_large
            yield self._read(size)
            if self._read(2) != b"\r\n":
                raise _RefusedError(HTTPStatus.BAD_REQUEST, "a chunk of the body is longer than its size")
        else:
            raise too_large
        for _ in range(_HEADERS_MOST):  # headers may follow the body; the last line is empty
            if not self.rfile.readline(_LINE_MOST).strip():
                break

    def _read(self, size: int) -> bytes:
        """The next bytes of a body."""
        piece = self.rfile.read(size)
        if len(piece) < size:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "the body is shorter than its length")
        return piece

    def _refuse(self, status: HTTPStatus, why: str, signal: str, is_json: bool) -> None:
        self.server.told.health.refused += 1
        otlp = self.server.otlp
        if signal and otlp.is_installed:
            self._answer(status, otlp.refusal(why, is_json), _JSON if is_json else _PROTOBUF)
        else:
            self._answer(status, f"{why}\n".encode(), _TEXT)

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.send_header("Retry-After", "1")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True
        self.unread = status >= HTTPStatus.BAD_REQUEST

    def finish(self) -> None:
        """Read on for up to 2 s what a refused sender still sends: otherwise it would only see a reset."""
        with suppress(OSError):
            super().finish()
            if self.unread:
                self.connection.shutdown(socket.SHUT_WR)
                self.connection.settimeout(_LINGER_S)
                until = time.monotonic() + _LINGER_S
                while time.monotonic() < until and self.connection.recv(1 << 16):
                    pass

    def send_error(self, code: int, *_: Any, **__: Any) -> None:
        """Answer what the library itself refuses: other methods, lines that are too long, no HTTP at all."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self.server.told.health.refused += 1
        what = f"POST to {', '.join([*_SIGNALS, *PLAIN])}"
        if status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            what = f"send {_HEADERS_MOST} headers at most, of 64 KiB each"
        self._answer(status, f"{status.phrase}: {what}\n".encode(), _TEXT)

    def log_message(self, *_: Any) -> None:
        """Log nothing: requests are counted, not logged."""
