"""Which calls of a trace count, whatever the order in which its spans come, and however many they are."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from tests.collector.engine_server import FOLDER
from wattribute.collector import otlp_spans, otlp_twice
from wattribute.collector.otlp import Naming, decode
from wattribute.collector.otlp_spans import SpanReader
from wattribute.collector.told import Told
from wattribute.records import Unit

NOW = time.time_ns()
Spans = list[tuple[int, int, str, int | None]]
"""Of each: its number and that of the one above it, from 1, 0 is none; its source, none of those that are no
calls; its tokens."""


def request(spans: Spans) -> ExportTraceServiceRequest:
    made = ExportTraceServiceRequest()
    scope = made.resource_spans.add().scope_spans.add()
    for number, above, source, tokens in spans:
        span = scope.spans.add(
            trace_id=bytes(16),
            span_id=number.to_bytes(8),
            start_time_unix_nano=NOW - 1,
            end_time_unix_nano=NOW,
        )
        span.parent_span_id = above.to_bytes(8) if above else b""
        given: dict[str, Any] = {}
        if source:
            given |= {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": "m",
                "wattribute.source": source,
            }
        if tokens is not None:
            given["gen_ai.usage.output_tokens"] = tokens
        for name, value in given.items():
            is_text = isinstance(value, str)
            span.attributes.append(
                KeyValue(
                    key=name, value=AnyValue(string_value=value) if is_text else AnyValue(int_value=value)
                )
            )
    return made


def counted(reader: SpanReader, requests: list[Spans]) -> dict[int, float]:
    """How often each span counts as a request, as the store has it at the end."""
    kept: dict[int, float] = {}
    for spans in requests:
        for record in reader.read(request(spans), NOW).records:
            if isinstance(record, Unit) and record.unit == "requests":
                kept[int(record.event_id.partition("/")[2], 16)] = record.quantity
    return {number: quantity for number, quantity in kept.items() if quantity}


def test_a_span_of_vllm_itself_counts_where_its_resource_names_the_model() -> None:
    """As vLLM sends it, it names none (data/engines/README.md)."""
    sent = decode("traces", (FOLDER / "vllm_span.json").read_bytes(), is_json=True)
    resource = sent.resource_spans[0].resource
    (span,) = sent.resource_spans[0].scope_spans[0].spans
    (rejected,) = SpanReader(Naming({}), Told()).read(sent, span.end_time_unix_nano).rejected
    assert rejected.startswith("no model is named")
    resource.attributes.append(KeyValue(key="wattribute.model", value=AnyValue(string_value="chat")))
    units = SpanReader(Naming({}), Told()).read(sent, span.end_time_unix_nano).records
    assert {unit.unit: unit.quantity for unit in units if isinstance(unit, Unit)} == {
        "input_tokens": 346,
        "output_tokens": 10,
        "requests": 1,
    }
    assert {(unit.model, unit.application) for unit in units if isinstance(unit, Unit)} == {("chat", "vllm")}


def expected(spans: Spans) -> dict[int, float]:
    """By the rule: a call counts unless one below it, of its source, has a usage; one without a usage does
    not count below another of its source."""
    of = {number: (above, source, tokens) for number, above, source, tokens in spans}
    beside = set()
    for number, (parent, source, tokens) in of.items():
        above = parent
        while source and above in of:
            if of[above][1] == source:
                beside.add(number if tokens is None else above)
            above = of[above][0]
    return {number: 1.0 for number, (_, source, _) in of.items() if source and number not in beside}


@pytest.mark.parametrize("seed", range(40))
def test_calls_count_by_the_rule_in_whatever_order_they_come(seed: int) -> None:
    rng = random.Random(seed)
    spans: Spans = [
        (
            number,
            rng.randrange(number),
            source := rng.choice(["", "span", "span", "gateway"]),
            rng.choice([None, 5]) if source else None,
        )
        for number in range(1, 30)
    ]
    rng.shuffle(spans)
    cuts = sorted(rng.sample(range(len(spans)), 4))
    requests = [spans[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(spans)], strict=True)]
    assert counted(SpanReader(Naming({}), Told()), requests) == expected(spans)


def test_a_long_trace_counts_each_call_once() -> None:
    """3,000 calls, each told by a framework and by the client library below it."""
    spans: Spans = []
    for number in range(2, 6002, 2):
        spans += [(number + 1, number, "span", 10), (number, 1, "span", 10)]
    told = Told()
    requests = [spans[begin : begin + 200] for begin in range(0, len(spans), 200)]
    found = counted(SpanReader(Naming({}), told), requests)
    assert found == dict.fromkeys(range(3, 6002, 2), 1.0)
    assert told.health.forgotten == 0


def test_a_flood_of_calls_takes_no_more_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_twice, "_CALLS_MOST", 100)
    monkeypatch.setattr(otlp_twice, "_EQUAL_MOST", 30)
    reader = SpanReader(Naming({}), Told())
    for tokens in (lambda number: number, lambda number: 1):  # calls of different usages, then equal ones
        spans: Spans = [(number, 0, "span", tokens(number)) for number in range(1, 1001)]
        assert len(counted(reader, [spans])) == 1000
        kept = [len(calls) for equal in reader._twice._equal.values() for calls in equal.values()]
        assert (sum(kept), reader._twice._calls) == (100, 100)
        reader._traces.clear()
    assert max(kept) == 30


def test_a_trace_without_end_takes_no_more_room_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_spans, "_SPANS_MOST", 100)
    told = Told()
    reader = SpanReader(Naming({}), told)
    spans: Spans = [(number, number + 10_000, "span", 1) for number in range(1, 1001)]
    assert len(counted(reader, [spans])) == 1000
    (trace,) = reader._traces.values()
    assert [len(trace.parents), len(trace.calls), len(trace.below)] == [100, 100, 100]
    assert told.health.forgotten == 900
    assert "900 spans were dropped early" in told.health.shown()
