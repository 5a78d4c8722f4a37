"""The kubelet's list of pods, over real HTTP on 127.0.0.1: answers, refusals, garbage, silence."""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import pytest

from wattribute.collector import kubelet as module
from wattribute.collector.kubelet import UNCHECKED, Kubelet, fetch
from wattribute.errors import WattributeError

NODE = Path(__file__).parents[1] / "data" / "nodes" / "kubernetes-v1-containerd"
PODS = (NODE / "pods.json").read_bytes()
UID = "8a5e6f1c-0b2d-4c3e-9f10-a1b2c3d4e5f6"
Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """A kubelet whose ``answer`` a test chooses. ``asked`` has the headers of each request."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.answer: Answer = say(PODS)
        self.asked: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append({"path": self.path, **dict(self.headers)})
                outer.answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        scheme = "https" if context else "http"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_address[1]}/pods"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


def say(body: bytes, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers)).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    return answer


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(context)
    try:
        yield server
    finally:
        server.server.shutdown()
        server.server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture
def secure(certified: Callable[[str], tuple[Path, Path]]) -> Iterator[tuple[Server, Path]]:
    """A server over TLS, as the node calls itself, and the authority that signed its certificate."""
    certificate, key = certified("DNS:node-1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(context) as made:
        yield made, certificate


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("hidden-service-token\n")
    return path


def why(url: str, token_file: str = "", ca_file: str = "") -> str:
    with pytest.raises(WattributeError) as raised:
        fetch(url, token_file, ca_file)
    text = str(raised.value)
    assert "\n" not in text
    assert "hidden" not in text
    return text


def test_pods_are_read_with_the_token_over_tls(secure: tuple[Server, Path], token: Path) -> None:
    server, authority = secure
    kubelet = Kubelet(server.url, str(token), str(authority))
    assert kubelet.refresh(), kubelet.problem
    pod = kubelet.pod(UID)
    assert pod is not None
    assert (pod.namespace, pod.name) == ("search", "chat-7d9f8b6c5d-x2x9q")
    assert server.asked[0]["Authorization"] == "Bearer hidden-service-token"
    token.write_text("renewed")
    kubelet.refresh()
    assert server.asked[1]["Authorization"] == "Bearer renewed"


def test_a_certificate_of_another_authority_gets_no_token(secure: tuple[Server, Path], token: Path) -> None:
    server, _ = secure
    assert "set kubelet_ca" in why(server.url, str(token))
    assert server.asked == []
    assert len(fetch(server.url, str(token), UNCHECKED)) == len(PODS)


def test_off_the_node_the_certificate_has_to_name_the_kubelet(
    secure: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, authority = secure
    assert fetch(server.url, "", str(authority)) == PODS
    monkeypatch.setattr(module, "is_loopback", lambda host: False)
    assert "certificate cannot be verified" in why(server.url, "", str(authority))


def test_the_token_does_not_travel_in_the_clear(server: Server, token: Path) -> None:
    assert fetch(server.url, str(token)) == PODS
    assert "Authorization" not in server.asked[0]


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (say(b"hidden", 401), "set kubelet_token"),
        (say(b"hidden", 403), "nodes/pods"),
        (say(b"hidden", 302, {"Location": "http://127.0.0.1:1/hidden"}), "HTTP 302"),
        (say(b"hidden", 500), "HTTP 500"),
        (say(b"x" * 2000), "MiB"),
        (say(b"", headers={"Content-Length": "100000000000"}), "MiB|not complete"),
        (lambda request: request.wfile.write(b"hidden garbage\r\n\r\n") and None, "the answer is not HTTP"),
        (lambda request: request.connection.close(), "kubelet"),
    ],
)
def test_what_cannot_be_used_is_an_error_that_shows_nothing_of_it(
    server: Server, answer: Answer, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ANSWER_MAX_BYTES", 1000)
    server.answer = answer
    assert re.search(what, why(server.url))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hidden",
        b"[]",
        b"{}",
        b'{"items": 5}',
        b'{"items": {"hidden": 1}}',
        b"\xff\xfe",
        b'{"items": [' * 9,
    ],
)
def test_an_answer_that_is_no_list_of_pods_is_a_failure(server: Server, body: bytes) -> None:
    kubelet = Kubelet(server.url)
    assert kubelet.refresh()
    server.answer = say(body)
    assert not kubelet.refresh()
    assert (kubelet.readings, kubelet.failures) == (1, 1)
    assert "hidden" not in kubelet.problem
    assert kubelet.pod(UID) is not None  # what was known before stays known


def test_an_empty_list_and_pods_that_are_none_are_no_failure(server: Server) -> None:
    kubelet = Kubelet(server.url)
    server.answer = say(b'{"kind": "PodList", "items": null}')
    assert kubelet.refresh()
    server.answer = say(b'{"items": [1, null, {"metadata": []}, {"metadata": {"uid": "u", "name": "n"}}]}')
    assert kubelet.refresh()
    assert kubelet.unusable == 3
    assert kubelet.named("", "n") is not None


@pytest.mark.parametrize("of_the_body", [False, True])
def test_an_answer_that_trickles_in_is_hung_up_on(
    server: Server, monkeypatch: pytest.MonkeyPatch, of_the_body: bool
) -> None:
    gone = threading.Event()

    def trickle(request: BaseHTTPRequestHandler) -> None:
        if of_the_body:
            request.send_response(200)
            request.send_header("Content-Length", "1000000")
            request.end_headers()
        try:
            for _ in range(6000):
                request.wfile.write(b"a")
                request.wfile.flush()
                time.sleep(0.01)
        except OSError:
            gone.set()

    server.answer = trickle
    monkeypatch.setattr(module, "_DEADLINE_S", 0.2)
    why(server.url)
    assert gone.wait(30)


def test_a_kubelet_that_never_answers_delays_nobody(server: Server) -> None:
    silence = threading.Event()

    def wait(request: BaseHTTPRequestHandler) -> None:
        silence.wait(60)

    server.answer = wait
    kubelet = Kubelet(server.url)
    kubelet.start()
    for _ in range(1000):
        assert kubelet.pod(UID) is None
        assert kubelet.named("search", "chat") is None
    kubelet.close()
    silence.set()


def test_who_is_not_known_is_asked_for_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    server.answer = say(b'{"items": []}')
    kubelet = Kubelet(server.url)
    kubelet.start()
    try:
        await_(lambda: kubelet.readings == 1)
        server.answer = say(PODS)
        await_(lambda: kubelet.pod(UID) is not None)  # long before the half minute is over
        asked = len(server.asked)
        time.sleep(0.1)
        assert len(server.asked) <= asked + 1  # somebody asked while it was on its way; and then no more
    finally:
        kubelet.close()


def await_(done: Callable[[], bool]) -> None:
    for _ in range(2000):
        if done():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come")


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert "No such file" in why(str(tmp_path / "none.json"))


def test_files_of_token_and_authority_that_cannot_be_used_are_errors(tmp_path: Path, token: Path) -> None:
    url = "https://127.0.0.1:1/pods"
    assert "kubelet_ca" in why(url, str(token), str(token))
    assert "kubelet_ca" in why(url, str(token), str(tmp_path / "none"))
    assert "kubelet_token" in why(url, str(tmp_path), UNCHECKED)
