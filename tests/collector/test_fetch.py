"""An endpoint that does what none should: it costs a bounded time and memory, and one clear line."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.collector.engine_server import EngineServer, engine_server, exposition
from tests.needs import missing
from wattribute.collector import fetch as module
from wattribute.collector.engines import ScrapeError
from wattribute.collector.fetch import Address, NamespaceError, SilentError, fetch


def refused(
    server: EngineServer, answer: Callable[[BaseHTTPRequestHandler], None] | None, deadline_s: float = 30.0
) -> str:
    server.answer = answer
    with pytest.raises(ScrapeError) as caught:
        fetch(Address("127.0.0.1", server.port), deadline_s)
    return str(caught.value)


def replies(status: int, body: bytes = b"", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def sends(*pieces: bytes, pause_s: float = 0.0, times: int = 1) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        with suppress(OSError):  # who asked has hung up
            for _ in range(times):
                for piece in pieces:
                    handler.wfile.write(piece)
                    handler.wfile.flush()
                    time.sleep(pause_s)

    return answer


def test_only_what_counts_is_kept(server: EngineServer) -> None:
    lines = fetch(Address("127.0.0.1", server.port))
    assert len(lines) > 20
    assert not any(b"\n" in line for line in lines)
    assert {line.partition(b":")[0].partition(b"_")[0] for line in lines} == {b"vllm", b"process"}
    path, headers = server.requests[0]
    assert (path, headers["Accept-Encoding"], "Authorization" in headers) == ("/metrics", "identity", False)


def test_a_token_comes_from_a_file_and_stands_nowhere_else(server: EngineServer, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    address = Address("127.0.0.1", server.port, "/metrics?key=s3cret", token_file=str(secret))
    fetch(address)
    assert server.requests[0][1]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in str(address)
    secret.write_text("a b\r\nX: y")
    with pytest.raises(ScrapeError, match="contains more than a token"):
        fetch(address)
    with pytest.raises(ScrapeError, match="cannot be read"):
        fetch(address._replace(token_file=str(tmp_path / "none")))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(server: EngineServer, status: int) -> None:
    with engine_server(exposition("vllm")) as other:
        assert "redirects" in refused(server, replies(status, Location=other.url))
        assert other.requests == []


def test_other_answers_say_what_they_are(server: EngineServer) -> None:
    assert "HTTP 401" in refused(server, replies(401))
    assert "HTTP 500" in refused(server, replies(500))
    assert "not HTTP" in refused(server, sends(b"SSH-2.0-OpenSSH_9.6\r\n"))
    assert "not HTTP" in refused(server, sends(b"\0" * 1000))
    assert "not HTTP" in refused(server, sends(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 20_000))


def test_an_answer_that_breaks_off_is_none(server: EngineServer) -> None:
    """Its last line would hold another number, or be missing."""
    line = b'vllm:generation_tokens_total{engine="0"} 1234\n'
    head, chunked = b"HTTP/1.1 200 OK\r\n", b"Transfer-Encoding: chunked\r\n\r\n"
    assert "breaks off" in refused(server, sends(head + b"Content-Length: 99\r\n\r\n" + line[:-3]))
    assert "breaks off" in refused(server, sends(head + b"\r\n" + line[:-3]))
    assert "breaks off" in refused(server, sends(head + chunked + b"2e\r\n" + line[:-3]))
    assert "breaks off" in refused(server, sends(head + chunked + b"2e\r\n" + line + b"\r\nzz\r\n"))
    server.answer = sends(head + chunked + b"2e\r\n" + line + b"\r\n0\r\n\r\n")
    whole = fetch(Address("127.0.0.1", server.port))
    server.answer = sends(head + b"Content-Length: 45\r\n\r\n" + line[:-1])
    assert fetch(Address("127.0.0.1", server.port)) == whole == [line[:-1]]


def test_nothing_is_decompressed(server: EngineServer) -> None:
    bomb = gzip.compress(b"vllm:generation_tokens_total 1\n" * 1_000_000)
    assert "compressed" in refused(server, replies(200, bomb, Content_Encoding="gzip"))


def test_who_never_answers_or_a_byte_at_a_time_is_not_waited_for(server: EngineServer) -> None:
    began_s = time.monotonic()
    assert "does not answer within 0.5 s" in refused(server, sends(b"", pause_s=3.0), 0.5)
    slow = sends(b"H", b"T", pause_s=0.1, times=100)
    assert "does not answer within 0.5 s" in refused(server, slow, 0.5)
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    drip = sends(head, b"v", pause_s=0.1, times=100)
    assert "does not answer within 0.5 s" in refused(server, drip, 0.5)
    assert time.monotonic() - began_s < 60  # not a measurement: each of them would have taken for ever


def test_gigabytes_are_not_read(server: EngineServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BYTES_MAX", 1 << 20)
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    comments = sends(head + b"# a comment\n" * 10_000, times=10_000)
    assert "more than 1 MiB" in refused(server, comments)
    assert "a line of more than 64 KiB" in refused(server, sends(head + b"x" * 100_000))


def test_a_million_series_are_not_kept(server: EngineServer) -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    series = b'vllm:generation_tokens_total{engine="0"} 1\n' * 5_000
    assert "more than 10,000 series" in refused(server, sends(head + series, times=200))


def test_who_is_not_there_cannot_be_reached() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(ScrapeError, match="cannot be reached"):
        fetch(Address("127.0.0.1", port))


@pytest.mark.parametrize("host", ["vllm..svc", "x" * 64 + ".example"])
@pytest.mark.parametrize("tls", [False, True])
def test_a_host_that_no_name_can_be_cannot_be_reached(host: str, tls: bool) -> None:
    """What is raised otherwise ends the reading of all the others."""
    with pytest.raises(SilentError, match="not a valid DNS name"):
        fetch(Address(host, 80, tls=tls))


def test_an_endpoint_with_tls_is_read_if_its_certificate_holds(
    server: EngineServer, certified: Callable[[str], tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = Address("127.0.0.1", server.port, tls=True)
    with pytest.raises(ScrapeError, match="cannot be reached"):
        fetch(address)  # it speaks plain HTTP
    certificate, key = certified("IP:127.0.0.1")
    server.speak_tls(certificate, key)
    with pytest.raises(ScrapeError, match="certificate verify failed"):
        fetch(address)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert len(fetch(address)) > 20


_IN_A_NAMESPACE = """
import http.server, os, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'vllm:generation_tokens_total{model_name="inside"} 7\\n'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], os.getpid(), flush=True)
server.serve_forever()
"""


@pytest.fixture
def apart() -> Iterator[tuple[int, int]]:
    """Port and pid of a server in a network namespace of its own."""
    command = ["unshare", "-n", sys.executable, "-c", _IN_A_NAMESPACE]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    with process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            said = process.stdout.readline().split()
            if len(said) != 2:
                pytest.skip(f"no network namespace can be made here: {process.stderr.read().strip()[-200:]}")
            yield int(said[0]), int(said[1])
        finally:
            process.kill()


def test_a_server_in_another_network_namespace_is_reached_there(apart: tuple[int, int]) -> None:
    port, pid = apart
    home = os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116
    assert fetch(Address("127.0.0.1", port, namespace=f"/proc/{pid}/ns/net")) == [
        b'vllm:generation_tokens_total{model_name="inside"} 7'
    ]
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):
            assert (task / "ns/net").stat().st_ino == home  # no thread of this process is anywhere else
    with pytest.raises(ScrapeError, match="cannot be reached"):
        fetch(Address("127.0.0.1", port))  # it is not in ours
    with pytest.raises(NamespaceError, match="cannot be opened"):
        fetch(Address("127.0.0.1", port, namespace="/proc/none/ns/net"))


def test_who_may_not_enter_a_namespace_is_told_what_it_takes(tmp_path: Path) -> None:
    if threading.active_count() and os.geteuid() != 0:
        missing("only root may give up its rights")
    child = f"""
import os, sys
from wattribute.collector.fetch import Address, NamespaceError, SilentError, fetch
os.setuid(65534)
try:
    fetch(Address("127.0.0.1", 1, namespace="/proc/{os.getpid()}/ns/net"))
except NamespaceError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", child], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "network namespace cannot be" in done.stdout
