"""What a cumulative series gained: resets, restarts on either side, repeats."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import DataPointFlags

from tests.intake.conftest import Running
from wattribute.collector import otlp_metrics
from wattribute.collector.otlp import Naming, decode
from wattribute.collector.otlp_metrics import MetricReader
from wattribute.collector.told import Told
from wattribute.records import Unit

S: int = 10**9


def told(
    running: Running, *points: tuple[int, int, int], name: str = "output_tokens"
) -> list[tuple[float, int, int]]:
    """Send points (start, time, value) one by one: quantity, end and length of each unit of them."""
    for start, t, value in points:
        point = (
            f'{{"startTimeUnixNano":"{start}","timeUnixNano":"{t}","asInt":"{value}","attributes":'
            '[{"key":"gen_ai.request.model","value":{"stringValue":"m"}}]}'
        )
        metric = (
            f'{{"name":"gen_ai.client.inference.usage.{name}","sum":{{"aggregationTemporality":2,'
            f'"isMonotonic":true,"dataPoints":[{point}]}}}}'
        )
        body = f'{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{metric}]}}]}}]}}'
        assert running.post("/v1/metrics", body, Content_Type="application/json").status == 200
    units = [record for record in running.records() if isinstance(record, Unit)]
    return [(unit.quantity, unit.t, unit.period_ns or 0) for unit in units]


def test_a_series_that_began_here_counts_from_its_start(running: Running) -> None:
    a = time.time_ns()
    points = [(a, a + S, 10), (a, a + 2 * S, 14), (a, a + 3 * S, 14)]
    assert told(running, *points) == [(10, a + S, S), (4, a + 2 * S, S), (0, a + 3 * S, S)]


def test_one_that_began_before_counts_from_what_it_was(running: Running) -> None:
    a = time.time_ns()
    before = a - 600 * S
    assert told(running, (before, a, 1000), (before, a + S, 1004)) == [(4, a + S, S)]
    assert told(running, (0, a, 7), (0, a + S, 9), name="input_tokens") == [(2, a + S, S)]


@pytest.mark.parametrize("off", [7200 * S, -7200 * S])
def test_so_does_one_whose_clock_is_off(running: Running, off: int) -> None:
    """Where it is ahead, all that it ever counted was news; where it is behind, its first point never was."""
    a = time.time_ns() + off
    before = a - 600 * S
    points = [(before, a, 5_000_000), (before, a + S, 5_000_100)]
    assert [quantity for quantity, _, _ in told(running, *points)] == [100]
    anew = (a + 2 * S, a + 2 * S + 1_000, 7)
    assert [(quantity, took) for quantity, _, took in told(running, anew)] == [(7, 1_000)]


def requested(name: str, start: int, t: int, values: dict[str, int], field: str = "asInt") -> Any:
    """A request with a cumulative metric, of a series for each model."""
    points = [
        {
            "startTimeUnixNano": str(start),
            "timeUnixNano": str(t),
            field: value,
            "attributes": [
                {"key": "gen_ai.request.model", "value": {"stringValue": model}},
                {"key": "gen_ai.token.type", "value": {"stringValue": "output"}},
            ],
        }
        for model, value in values.items()
    ]
    data = {"aggregationTemporality": 2, "dataPoints": points}
    kind = {"histogram": data} if field == "count" else {"sum": data | {"isMonotonic": True}}
    body = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": name, **kind}]}]}]}
    return decode("metrics", json.dumps(body).encode(), True)


def counted(reader: MetricReader, request: Any, now_ns: int) -> dict[str, tuple[float, int | None]]:
    """Quantity and length of the units of a request, by model."""
    units = [record for record in reader.read(request, now_ns).records if isinstance(record, Unit)]
    return {unit.model: (unit.quantity, unit.period_ns) for unit in units}


OUTPUT = "gen_ai.client.inference.usage.output_tokens"


def test_a_series_that_comes_to_a_metric_that_is_known_was_0_when_that_was_told_last() -> None:
    """An application that was there before the collector begins to use another model."""
    a, hour = time.time_ns(), 3600 * S
    reader = MetricReader(Naming({}), Told(), a)
    # In two requests, as what stands between them sends a large one on: what comes second is not new.
    assert counted(reader, requested(OUTPUT, a - hour, a, {"m": 5000}), a) == {}
    assert counted(reader, requested(OUTPUT, a - hour, a, {"n": 3000}), a) == {}
    request = requested(OUTPUT, a - hour, a + S, {"m": 5100, "n": 3000, "o": 700})
    assert counted(reader, request, a + S) == {"m": (100, S), "n": (0, S), "o": (700, S)}
    request = requested(OUTPUT, a - hour, a + 2 * S, {"p": 9})
    assert counted(reader, request, a + 2 * S) == {"p": (9, S)}
    request = requested(OUTPUT, a - 2 * hour, a + 2 * S, {"q": 9})  # of another application
    assert counted(reader, request, a + 2 * S) == {}


@pytest.mark.parametrize("is_of_another", [True, False])
def test_a_series_that_made_room_and_comes_back_is_not_counted_twice(
    monkeypatch: pytest.MonkeyPatch, is_of_another: bool
) -> None:
    """One of the same application that comes later may have been the one that made room."""
    monkeypatch.setattr(otlp_metrics, "_SERIES_MOST", 1)
    a, later = time.time_ns(), time.time_ns() + 7200 * S
    reader = MetricReader(Naming({}), Told(), a)
    assert counted(reader, requested(OUTPUT, a, a + S, {"m": 10}), a + S) == {"m": (10, S)}
    request = requested(OUTPUT, later if is_of_another else a, later + S, {"n": 5})
    assert counted(reader, request, later + S) == ({"n": (5, S)} if is_of_another else {})
    later += 7200 * S
    assert counted(reader, requested(OUTPUT, a, later, {"m": 12}), later) == {}
    assert counted(reader, requested(OUTPUT, a, later + S, {"m": 15}), later + S) == {"m": (3, S)}


def test_a_histogram_without_a_sum_tells_no_tokens() -> None:
    a = time.time_ns()
    reader = MetricReader(Naming({}), Told(), a)
    reading = reader.read(requested("gen_ai.client.token.usage", a, a + S, {"m": 3}, "count"), a + S)
    assert (reading.records, dict(reading.rejected)) == (
        [],
        {"gen_ai.client.token.usage without a sum": 1},
    )


def test_a_reset_closes_a_segment(running: Running) -> None:
    a = time.time_ns()
    restarted = [(a, a + S, 10), (a + 2 * S, a + 3 * S, 4)]
    assert told(running, *restarted) == [(10, a + S, S), (4, a + 3 * S, S)]
    fell = [(a, a + S, 10), (a, a + 3 * S, 4)]  # without saying so
    assert told(running, *fell, name="input_tokens") == [(10, a + S, S), (4, a + 3 * S, 2 * S)]


def test_a_point_without_a_value_is_no_reset_to_0() -> None:
    a = time.time_ns()
    reader = MetricReader(Naming({}), Told(), a)
    assert counted(reader, requested(OUTPUT, a, a + S, {"m": 10}), a + S) == {"m": (10, S)}
    stale = requested(OUTPUT, a, a + 2 * S, {"m": 0})
    (point,) = stale.resource_metrics[0].scope_metrics[0].metrics[0].sum.data_points
    point.ClearField("as_int")
    point.flags = DataPointFlags.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK
    assert counted(reader, stale, a + 2 * S) == {}
    assert counted(reader, requested(OUTPUT, a, a + 3 * S, {"m": 14}), a + 3 * S) == {"m": (4, 2 * S)}


def test_a_sum_that_may_fall_is_no_count_of_tokens() -> None:
    a = time.time_ns()
    request = requested(OUTPUT, a, a + S, {"m": 3})
    request.resource_metrics[0].scope_metrics[0].metrics[0].sum.is_monotonic = False
    reading = MetricReader(Naming({}), Told(), a).read(request, a + S)
    assert reading.records == []
    assert dict(reading.rejected) == {f"{OUTPUT} is neither a delta nor a cumulative counter": 1}


def test_what_comes_again_or_late_is_counted_as_repeated(running: Running) -> None:
    a = time.time_ns()
    points = [(a, a + S, 10), (a, a + 2 * S, 14), (a, a + S, 10), (a, a + 2 * S, 14)]
    assert [quantity for quantity, _, _ in told(running, *points)] == [10, 4]
    assert running.told.health.repeated == 2
    assert "2 points of counters were repeated" in running.told.health.shown()


def test_workers_with_the_same_attributes_are_told_apart_by_their_start(running: Running) -> None:
    a = time.time_ns()
    b = a + 1
    points = [(a, a + S, 10), (b, a + S, 100), (a, a + 2 * S, 14), (b, a + 2 * S, 130), (a, a + 3 * S, 15)]
    assert [quantity for quantity, _, _ in told(running, *points)] == [10, 100, 4, 30, 1]
    assert running.told.health.repeated == 0


def test_without_the_libraries_it_says_what_to_install(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.intake.otlp, "is_installed", False)
    answer = running.post("/v1/traces", b"", Content_Type="application/x-protobuf")
    assert (answer.status, answer.body) == (
        501,
        b"this collector cannot read OTLP: pip install 'wattribute[otlp]'\n",
    )
    assert running.post("/v1/units", '{"unit":"i","quantity":1,"model":"m"}').status == 200


def test_a_collector_without_the_libraries_starts() -> None:
    code = (
        "import sys; sys.modules.update({'opentelemetry': None, 'google': None, 'google.rpc': None});"
        "from wattribute.collector.intake import Intake; from wattribute.collector.told import Told;"
        "from wattribute.settings import load_settings;"
        "intake = Intake(('127.0.0.1', 0), load_settings({}, None, {'HOME': '/x'}), Told());"
        "print(intake.otlp.is_installed); intake.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
