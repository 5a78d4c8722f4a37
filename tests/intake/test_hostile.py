"""Whatever comes in over a real socket is answered, or ended, and counted; and the next request is served."""

from __future__ import annotations

import gzip
import http.client
import socket
import time
from contextlib import closing, suppress

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from tests.intake.conftest import Running
from wattribute.collector import intake as intake_module
from wattribute.collector import otlp_metrics, told

GOOD = '{"unit":"images","quantity":1,"model":"m"}'
PROTOBUF = "application/x-protobuf"
CHUNKED = b"POST /v1/units HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


def is_well(running: Running) -> bool:
    running.records()
    return running.post("/v1/units", GOOD).status == 200 and len(running.records()) == 1


def sent(running: Running, raw: bytes, wait_s: float = 10) -> bytes:
    """What comes back for some bytes."""
    host, _, port = running.intake.at.rpartition(":")
    with closing(socket.create_connection((host, int(port)), timeout=wait_s)) as connection:
        with suppress(ConnectionError):
            connection.sendall(raw)
        back = b""
        with suppress(ConnectionError):
            while part := connection.recv(65536):
                back += part
        return back


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x00\xff\x16\x03\x01\r\n\r\n", b""),
        (b"GET /v1/metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"PUT /v1/units HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", b"405"),
        (b"POST /v1/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", b"404"),
        (b"POST /../etc/passwd HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", b"404"),
        (b"POST /v1/units HTTP/1.1\r\nHost: x\r\n\r\n", b"411"),
        (CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", b"400"),  # no unit
        (CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n", b"400"),
        (CHUNKED + b"1\r\n{}\r\n0\r\n\r\n", b"400"),
        (CHUNKED + b"500000\r\n", b"413"),
        (CHUNKED + b"1\r\n \r\n" * 10_001, b"413"),
        (CHUNKED + b"x" * 5_000, b"400"),
        (b"POST /v1/units HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}", b"411"),
        (b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n{}", b"413"),
        (b"POST /v1/units HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n" + b" " * 5_000_000, b"413"),
        (b"POST /v1/units HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b"431"),
        (b"POST /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"POST /v1/units HTTP/1.1\r\n" + b"X: x\r\n" * 20_000 + b"\r\n", b"431"),
        (b"POST /v1/units HTTP/1.1\r\nHost: x\r\nOrigin: http://evil\r\nContent-Length: 2\r\n\r\n{}", b"403"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_good_request(running: Running, raw: bytes, status: bytes) -> None:
    back = sent(running, raw)
    assert (back.split(b" ")[1] if back.startswith(b"HTTP/1.1 ") else b"") == status
    assert (running.told.health.requests, running.told.health.refused) == (0, 1)
    assert is_well(running)


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/traces", b"\xff" * 1000, {"Content_Type": PROTOBUF}, 400),
        ("/v1/metrics", b"{" * 1000, {"Content_Type": "application/json"}, 400),
        ("/v1/metrics", b'{"resourceMetrics":' * 5000, {"Content_Type": "application/json"}, 400),
        ("/v1/metrics", b'{"resourceMetrics":[{"resource":5}]}', {"Content_Type": "application/json"}, 400),
        ("/v1/traces", b"\x0a\x80\x80\x80\x80\x08", {"Content_Type": PROTOBUF}, 400),  # 2 GiB to come
        ("/v1/traces", b"not gzip", {"Content_Type": PROTOBUF, "Content_Encoding": "gzip"}, 400),
        # mtime=0: the body is in the test's name, and that may not differ between the processes of one run.
        ("/v1/traces", gzip.compress(bytes(1000), mtime=0)[:-20], {"Content_Encoding": "gzip"}, 400),
        ("/v1/traces", gzip.compress(bytes(200_000_000), 1, mtime=0), {"Content_Encoding": "gzip"}, 413),
        ("/v1/units", gzip.compress(b" " * 5_000_000, mtime=0), {"Content_Encoding": "gzip"}, 413),
        ("/v1/traces", b"", {"Content_Encoding": "br"}, 415),
    ],
)
def test_bodies_that_are_no_good(
    running: Running, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    assert running.post(path, body, **headers).status == status
    assert (running.told.health.requests, running.told.health.refused) == (0, 1)
    assert is_well(running)


def test_headers_have_a_limit_whatever_others_set_the_library_to(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http.client, "_MAXHEADERS", 10_000)  # as clickhouse_connect does, in `up`
    few, many = ({f"X{number}": "x" for number in range(count)} for count in (90, 101))
    assert running.post("/v1/units", GOOD, **few).status == 200
    answer = running.post("/v1/units", GOOD, **many)
    assert (answer.status, answer.body.count(b"\n")) == (431, 1)
    assert b"100 headers at most" in answer.body
    assert running.told.health.refused == 1
    assert len(running.records()) == 1


def test_logs_are_taken_and_not_read(running: Running) -> None:
    answer = running.post("/v1/logs", b"", Content_Type=PROTOBUF)
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, b"", PROTOBUF)
    assert running.records() == []


def test_who_is_slow_is_cut_off_and_holds_nobody_up(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "_REQUEST_S", 1.0)
    host, _, port = running.intake.at.rpartition(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(8)]
    for connection in slow:
        connection.sendall(b"POST /v1/units HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    assert is_well(running)
    for connection in slow:
        connection.settimeout(30)
        with suppress(ConnectionError):
            assert b"200 OK" not in connection.recv(4096)
        connection.close()
    assert is_well(running)


def test_too_many_at_once_are_told_to_come_again(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "_CONNECTIONS_MOST", 3)
    host, _, port = running.intake.at.rpartition(":")
    waiting = [socket.create_connection((host, int(port))) for _ in range(3)]
    try:
        deadline = time.monotonic() + 30
        while (answer := sent(running, b"")) == b"" and time.monotonic() < deadline:
            pass  # until the three are noticed
        assert answer.startswith(b"HTTP/1.1 503 ")
    finally:
        for connection in waiting:
            connection.close()


def test_what_the_bus_does_not_take_is_not_piled_up(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told, "_WAITING_MOST", 2)
    statuses = [running.post("/v1/units", GOOD).status for _ in range(3)]
    answer = running.post("/v1/traces", b"", Content_Type=PROTOBUF)
    assert (statuses, answer.status, answer.headers["Retry-After"]) == ([200, 200, 503], 503, "1")
    assert len(running.records()) == 2
    assert is_well(running)


def points(
    values: list[str], attributes: str = '{"key":"gen_ai.request.model","value":{"stringValue":"m"}}'
) -> str:
    """A request of output_tokens, cumulative, each value a series of its own."""
    now = time.time_ns()
    shown = ",".join(
        f'{{"startTimeUnixNano":"{now}","timeUnixNano":"{now + 1}","attributes":[{attributes},'
        f'{{"key":"n","value":{{"intValue":"{n}"}}}}],{value}}}'
        for n, value in enumerate(values)
    )
    name = "gen_ai.client.inference.usage.output_tokens"
    return (
        f'{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"name":"{name}","sum":{{'
        f'"aggregationTemporality":2,"isMonotonic":true,"dataPoints":[{shown}]}}}}]}}]}}]}}'
    )


def test_what_is_rejected_is_counted_and_said_and_the_rest_is_kept(running: Running) -> None:
    values = ['"asInt":"7"', '"asDouble":"NaN"', '"asDouble":-3', '"asDouble":"Infinity"', '"flags":1']
    answer = running.post("/v1/metrics", points(values), Content_Type="application/json")
    assert answer.status == 200
    assert b'"rejectedDataPoints": "3"' in answer.body
    assert b"quantity" in answer.body
    assert running.units() == {("client", "m", "output_tokens"): 7}
    anonymous = points(['"asInt":"7"'], '{"key":"x","value":{"intValue":"1"}}')
    answer = running.post("/v1/metrics", anonymous, Content_Type="application/json")
    assert b"no model is named: set gen_ai.request.model, or start the application" in answer.body
    assert running.told.health.rejected.total() == 4


def test_a_series_too_many_is_rejected(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_metrics, "_SERIES_MOST", 3)
    answer = running.post("/v1/metrics", points(['"asInt":"1"'] * 5), Content_Type="application/json")
    assert b"more than 3 series at once: send fewer attributes (2)" in answer.body
    assert running.units() == {("client", "m", "output_tokens"): 3}


def test_answers_are_messages_of_the_protocol(running: Running) -> None:
    for signal, cls in (("metrics", ExportMetricsServiceResponse), ("traces", ExportTraceServiceResponse)):
        answer = running.post(f"/v1/{signal}", b"", Content_Type=PROTOBUF)
        assert (answer.status, answer.headers["Content-Type"]) == (200, PROTOBUF)
        assert not cls.FromString(answer.body).HasField("partial_success")
