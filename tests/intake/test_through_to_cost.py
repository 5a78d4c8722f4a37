"""A real OpenTelemetry SDK tells a real collector, and bus, stream and chDB lead to what a token costs."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.intake.applications import CHAT, metrics, resource, usage
from tests.survival.processes import asked, completed, ran, started, wait_until

USAGE = "gen_ai.client.inference.usage"
MINUTE_NS = 60 * 10**9
SCENARIO = """
[host]
name = "node-1"

[[gpu]]
name = "NVIDIA H200"
count = 1
memory_gib = 140
idle_w = 77
context_w = 38
power_limit_w = 700

[[tenant]]
name = "server"
gpus = [0]
pattern = "serve"
watts_per_sm_percent = 5
sm_percent = 60
busy_s = 2
pause_s = 0.1
memory_gib = 60
model = "qwen3-8b"
model_version = "v7"
"""


@contextmanager
def collecting(folder: Path, port: int) -> Iterator[str]:
    """The URL of a collector that runs."""
    (folder / "host.toml").write_text(SCENARIO)
    arguments = (
        "collect",
        "--simulate",
        "--scenario",
        folder / "host.toml",
        "--bus",
        f"local://{folder}/bus",
    )
    process = started(*arguments, intake=f"127.0.0.1:{port}")

    def is_there() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(is_there, process)
        yield f"http://127.0.0.1:{port}"
        time.sleep(2.5)  # some windows of it
        process.send_signal(signal.SIGTERM)
        assert "intake: " in completed(process)
    finally:
        process.kill()


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    return number


def spans_of(
    service: str, t: int, count: int, model: str = "qwen3-8b", seconds: int = 1
) -> InMemorySpanExporter:
    """``count`` finished calls of a service that ended at ``t``, each of 40 output tokens."""
    kept = InMemorySpanExporter()
    provider = TracerProvider(resource=resource(service), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    for _ in range(count):
        attributes = {**CHAT, **usage(40, 500), "gen_ai.response.model": model}
        call = provider.get_tracer("app").start_span(
            "chat", attributes=attributes, start_time=t - seconds * 10**9
        )
        call.end(t)
    return kept


def costs(store: str, *arguments: str) -> dict[str, dict[str, Any]]:
    """The lines of ``cost --by model`` that have units."""
    done = ran("cost", "--by", "model", "--store", store, "--format", "json", *arguments)
    return {row["model"]: row for row in json.loads(done.stdout) if row["quantity"] is not None}


@pytest.mark.long
def test_the_same_tokens_by_scrape_span_metric_and_gateway_count_once(tmp_path: Path, port: int) -> None:
    bus, store = f"local://{tmp_path}/bus", f"chdb://{tmp_path}/store"
    with collecting(tmp_path, port) as url:
        t = time.time_ns() // MINUTE_NS * MINUTE_NS - 20 * 10**9  # within the minute before
        calls, gateway = spans_of("desk", t, 4), spans_of("litellm", t, 4)
        down = spans_of("desk", t - MINUTE_NS, 3)  # a minute in which the engine was not reached
        exporter = OTLPSpanExporter(f"{url}/v1/traces")
        for exported in (calls, gateway, down, calls):  # the last is a retry
            assert exporter.export(exported.get_finished_spans()).name == "SUCCESS"
        with metrics(url, "desk") as (meter, _):
            meter.create_counter(f"{USAGE}.output_tokens").add(160, CHAT)
            meter.create_counter(f"{USAGE}.output_tokens").add(
                64, CHAT | {"gen_ai.response.model": "embedder"}
            )
        # A gateway sends both, of a model that nobody else reports.
        with metrics(url, "litellm") as (meter, _):
            meter.create_counter(f"{USAGE}.output_tokens").add(160, CHAT | {"gen_ai.response.model": "other"})
        both = spans_of("litellm", time.time_ns(), 4, model="other", seconds=30)
        assert exporter.export(both.get_finished_spans()).name == "SUCCESS"
        # As a scraper tells it: what the engine counted, and that it was looked at.
        engine = (
            "--source",
            "engine",
            "--model",
            "qwen3-8b",
            "--model-version",
            "v7",
            "--bus",
            bus,
            "--host",
            "node-1",
        )
        for unit, quantity, minutes in (("observed_ns", 10 * MINUTE_NS, 10), ("output_tokens", 160, 1)):
            end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(t // 10**9 - 40 + 60 * minutes))
            ran("emit", "unit", unit, str(quantity), *engine, "--period", f"{minutes}m", "--at", end)
    with collecting(tmp_path, port) as url:  # a restart, and another retry
        assert OTLPSpanExporter(f"{url}/v1/traces").export(calls.get_finished_spans()).name == "SUCCESS"
    ran("stream", "--bus", bus, "--store", store, "--until-idle")
    ran("price", "add", "--gpu", "NVIDIA H200", "--per-gpu-hour", "3.6", "--store", store)

    found = costs(store, "--unit", "output_tokens")
    served, unmatched = found["qwen3-8b"], found["embedder"]
    assert served["quantity"] == 160 + 3 * 40
    assert served["account"] == "process"
    assert served["cost_usd"] == pytest.approx(served["gpu_hours"] * 3.6)
    assert served["energy_j"] > 0
    assert served["coverage_ratio"] == 1
    assert served["cost_usd_per_million"] == pytest.approx(served["cost_usd"] / 280 * 1e6)
    assert served["j_per_unit"] == pytest.approx(served["energy_j"] / 280)
    assert (unmatched["account"], unmatched["quantity"], unmatched["cost_usd_per_unit"]) == (
        "unmatched",
        64,
        None,
    )
    assert found["other"]["quantity"] == 160
    requests = costs(store, "--unit", "requests")["qwen3-8b"]
    assert requests["quantity"] == 4 + 3  # the engine tells none
    assert costs(store, "--unit", "input_tokens")["qwen3-8b"]["quantity"] == 7 * 500
    ((version, quantity),) = [
        (row["model_version"], row["quantity"])
        for row in json.loads(
            ran("cost", "--unit", "output_tokens", "--store", store, "--format", "json").stdout
        )
        if row["model"] == "qwen3-8b" and row["account"] == "process"
    ]
    assert (version, quantity) == ("v7", 280)  # of the spans, which name no version, too: there is but one


@pytest.mark.long
def test_a_port_that_is_taken_is_said_once_and_collecting_goes_on(tmp_path: Path, port: int) -> None:
    arguments = ("collect", "--simulate", "--bus", f"local://{tmp_path}/bus", "--duration", "1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        said = ran(*arguments, intake=f"127.0.0.1:{port}").stderr
    assert said.count(f"warning: 127.0.0.1:{port} is in use") == 1
    assert "records in" in said
    assert "4318" not in ran(*arguments).stderr  # a simulated host listens where that is asked for
    for wrong in ("4318", "localhost", "::1:4318", "127.0.0.1:http", "127.0.0.1:99999"):
        assert f"intake '{wrong}' is neither" in ran(*arguments, status=2, intake=wrong).stderr
    assert "cannot listen at" in ran(*arguments, status=2, intake="203.0.113.7:4318").stderr


@pytest.mark.long
def test_up_takes_in_a_line_of_curl(tmp_path: Path, port: int) -> None:
    store = f"chdb://{tmp_path}/store"
    arguments = ("up", "--simulate", "--duration", "6", "--store", store)
    process = started(*arguments, intake=f"127.0.0.1:{port}")
    line = '{"unit":"images","quantity":64,"model":"sdxl"}'

    def is_told() -> bool:
        curl = ["curl", "-sf", "-d", line, f"http://127.0.0.1:{port}/v1/units"]
        return subprocess.run(curl, check=False, capture_output=True).stdout == b'{"accepted":1}\n'

    try:
        wait_until(is_told, process)
        for path in ("traces", "metrics", "units"):  # goes on whatever comes
            curl = ["curl", "-s", "-d", "\xff{" * 9000, f"http://127.0.0.1:{port}/v1/{path}"]
            assert subprocess.run(curl, check=False, capture_output=True).stdout
        completed(process)
    finally:
        process.kill()
    assert costs(store, "--unit", "images")["sdxl"]["quantity"] == 64
    assert asked(store, "SELECT * FROM conservation") == [[]]
