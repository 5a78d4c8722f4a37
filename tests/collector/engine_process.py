"""A serving engine as a process: it listens, and its child, which would hold the GPU, does not.

    python engine_process.py PAGE [PORT]

It answers at /metrics with what the file PAGE holds at that moment, adds that to the file PAGE.served, and
prints its port and the child's pid.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = Path(sys.argv[1]).read_bytes()
        self.send_response(200 if self.path == "/metrics" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        with Path(f"{sys.argv[1]}.served").open("ab") as served:
            served.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002


def main() -> None:
    server = HTTPServer(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0), _Handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with subprocess.Popen(["sleep", "600"]) as worker:
        print(server.server_address[1], worker.pid, flush=True)
        try:
            server.serve_forever(0.02)
        finally:
            worker.kill()


if __name__ == "__main__":
    main()
