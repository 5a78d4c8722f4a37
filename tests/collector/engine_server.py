"""An HTTP server on 127.0.0.1 that answers as a serving engine would, or as none should."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "data" / "engines"
S = 1_000_000_000


def exposition(name: str) -> str:
    """What an engine answered, see README.md beside it."""
    return (FOLDER / f"{name}.prom").read_text()


class EngineServer:
    """``pages`` holds the text by path; ``answer``, where it is set, does all of the answering."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self.answer: Callable[[BaseHTTPRequestHandler], None] | None = None
        self.requests: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.requests.append((self.path, dict(self.headers)))
                if outer.answer is not None:
                    outer.answer(self)
                    return
                page = outer.pages.get(self.path.partition("?")[0])
                body = (page or "not found").encode()
                self.send_response(404 if page is None else 200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def speak_tls(self, certificate: Path, key: Path) -> None:
        """From now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]

    def close(self) -> None:
        """Nobody listens any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def engine_server(page: str = "", path: str = "/metrics") -> Iterator[EngineServer]:
    server = EngineServer()
    if page:
        server.pages[path] = page
    try:
        yield server
    finally:
        server.close()
