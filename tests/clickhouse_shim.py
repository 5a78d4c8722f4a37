"""The part of ClickHouse's HTTP interface that the client uses, in front of chDB. Like a server, it can be
away, refuse statements, cut connections and stop answering. Settings and users are ignored."""

from __future__ import annotations

import contextlib
import re
import socket
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb
import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Fault:
    """How a statement fails. ``done``: it is executed nevertheless. The answer is ``status``, with a ``code``
    of ClickHouse if that is not 0; status 0 cuts the connection instead, or ``halfway`` through the answer.
    ``silent``: no answer ever comes."""

    status: int = 0
    code: int = 0
    done: bool = False
    silent: bool = False
    halfway: bool = False


class ClickHouseShim:
    """A server on a free port, with the chDB engine of ``folder``, until ``close``. Without ``keeps_rows``
    inserted rows are counted and acknowledged, but not stored."""

    def __init__(self, folder: Path, keeps_rows: bool = True) -> None:
        self.keeps_rows = keeps_rows
        self.rows = 0
        """The number of rows of attribution that were acknowledged."""
        self.settings_seen: set[tuple[str, str]] = set()
        self.fault: Callable[[str], Fault | None] = lambda _sql: None
        """Called for each statement; returns how it is to fail."""
        self.lines: set[socket.socket] = set()
        self._engine = chdb.connect(str(folder))  # type: ignore[no-untyped-call,unused-ignore]
        self._one_at_a_time = threading.Lock()
        self._switching = threading.Lock()
        self._port = 0
        self._server: _Server | None = None
        self.accept()

    def url(self, database: str) -> str:
        """The URL of one of its databases."""
        return f"clickhouse://me@127.0.0.1:{self._port}/{database}"

    def accept(self) -> None:
        """Accept connections, at the same port as before."""
        with self._switching:
            if self._server is None:
                self._server = _Server(self, self._port)
                self._port = self._server.server_address[1]
                threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def refuse(self) -> None:
        """Be away: cut connections, and refuse new ones."""
        with self._switching:
            if self._server is not None:
                self._server.shutdown()
                self._server.server_close()
                self._server = None
            for line in list(self.lines):
                cut(line)

    def run(self, sql: str) -> None:
        """Run a statement that affects all clients, like the SET of a profile."""
        with self._one_at_a_time:
            self._engine.query(sql)

    def close(self) -> None:
        """Stop the server and the engine."""
        self.refuse()
        self._engine.close()

    def done(self, sql: str, body: bytes, given: dict[str, str]) -> bytes:
        """The answer to a statement. Raises RuntimeError."""
        values = {name[6:]: value for name, value in given.items() if name.startswith("param_")}
        self.settings_seen |= given.items() - {(f"param_{name}", value) for name, value in values.items()}
        if not body:
            return self._asked(sql, given, values)
        if self.keeps_rows:
            with tempfile.NamedTemporaryFile() as file:
                file.write(body)
                file.flush()
                from_input = sql.replace("input(", f"file('{file.name}', ArrowStream, ")
                from_file = re.sub(r"FORMAT (\w+)\s*$", rf"FROM INFILE '{file.name}' FORMAT \1", sql)
                chosen = from_input.removesuffix(" FORMAT ArrowStream") if from_input != sql else from_file
                self._asked(chosen, given, values)
        if "INTO attribution " in sql:
            self.rows += sum(batch.num_rows for batch in pa.ipc.open_stream(body))
        return b""

    def _asked(self, sql: str, given: dict[str, str], values: dict[str, str]) -> bytes:
        with self._one_at_a_time:
            self._engine.query(f"USE `{given.get('database', 'default')}`")
            return self._engine.query(sql, "TabSeparated", params=values).bytes() or b""


class _Server(ThreadingHTTPServer):
    def __init__(self, shim: ClickHouseShim, port: int) -> None:
        self.shim = shim
        super().__init__(("127.0.0.1", port), _Front)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing about a connection that was cut."""


class _Front(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"  # so that the client keeps the connection
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.shim.lines.add(self.connection)

    def finish(self) -> None:
        self.server.shim.lines.discard(self.connection)
        super().finish()

    def do_POST(self) -> None:
        """Answer a statement."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        given = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        sql = given.pop("query", "")
        if not sql:  # then the statement comes before the rows
            statement, of_rows, body = body.partition(b" FORMAT ArrowStream\n")
            sql = (statement + of_rows.rstrip()).decode()
        shim = self.server.shim
        fault = shim.fault(sql)
        try:
            answer = shim.done(sql, body, given) if fault is None or fault.done else b""
        except RuntimeError as error:
            code = re.search(r"Code: (\d+)", str(error))
            self._reply(500, str(error).encode(), int(code[1]) if code else 0)
            return
        if fault is None:
            self._reply(200, answer)
        elif fault.silent:
            self.connection.recv(1)  # until the client gives up
            self.close_connection = True
        elif fault.status:
            self._reply(fault.status, b"a fault\n", fault.code)
        else:
            if fault.halfway:
                self._reply(200, answer, sent=len(answer) // 2)
            cut(self.connection)
            self.close_connection = True

    do_GET = do_POST  # noqa: N815 - the name is given

    def _reply(self, status: int, body: bytes, code: int = 0, sent: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-ClickHouse-Summary", "{}")
        if code:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        self.end_headers()
        self.wfile.write(body[:sent])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
        """Log nothing."""


def cut(line: socket.socket) -> None:
    """End a connection at once."""
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
