"""A server that speaks ClickHouse's HTTP interface as far as the client uses it, and stores no rows.

Questions and tables are answered by chDB in this process; an INSERT of an Arrow stream is counted and
acknowledged. So a sink does all of its own work, and the work of ClickHouse is done by nobody."""

from __future__ import annotations

import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb
import pyarrow as pa

from benchmarks.contender import Figures


class Front(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"  # so that the client keeps its connection
    engine: Any
    lock = threading.Lock()
    rows = 0  # of attribution, acknowledged

    def do_POST(self) -> None:
        """Answer a statement."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        given = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        sql = given.get("query") or body.decode()
        if "query" in given and body:
            if "INTO attribution" in sql.replace("`", ""):
                Front.rows += sum(batch.num_rows for batch in pa.ipc.open_stream(body))
            self._reply(200, b"")
            return
        values = {name[6:]: value for name, value in given.items() if name.startswith("param_")}
        try:
            with self.lock:
                self.engine.query(f"USE `{given.get('database', 'default')}`")
                answer = self.engine.query(sql, "TabSeparated", params=values).bytes()
            self._reply(200, answer or b"")
        except RuntimeError as error:
            self._reply(500, str(error).encode())

    do_GET = do_POST  # noqa: N815 - the name is given

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-ClickHouse-Summary", "{}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
        """Say nothing."""


def serve() -> Figures:
    """Print the store's URL; end when told by a line on standard input. How many rows were acknowledged."""

    with tempfile.TemporaryDirectory() as folder:
        Front.engine = chdb.connect(folder)  # type: ignore[no-untyped-call,unused-ignore]
        with ThreadingHTTPServer(("127.0.0.1", 0), Front) as server:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            print(f"clickhouse://bench@127.0.0.1:{server.server_address[1]}/wattribute", flush=True)
            sys.stdin.readline()
            server.shutdown()
        Front.engine.close()
    return {"rows": Front.rows}
