"""What a real OpenTelemetry SDK exports to a real port becomes units and qualities."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, set_span_in_context

from tests.intake.applications import CHAT, Given, metrics, traces, usage
from tests.intake.conftest import Running
from wattribute.records import Quality, Unit
from wattribute.stream.tables import Tables

SECRET = "my password is hunter2"
USAGE = "gen_ai.client.inference.usage"


@pytest.mark.parametrize("is_delta", [True, False])
def test_counters_count_by_what_they_gain(running: Running, is_delta: bool) -> None:
    with metrics(running.url, "desk", is_delta) as (meter, reader):
        counters = {
            name: meter.create_counter(f"{USAGE}.{name}", "{token}")
            for name in (
                "input_tokens",
                "output_tokens",
                "cache_read.input_tokens",
                "reasoning.output_tokens",
            )
        }
        for name, count in zip(counters, (100, 40, 64, 8), strict=True):
            counters[name].add(count, CHAT)
        reader.collect()
        first = running.units()
        counters["output_tokens"].add(2, CHAT)
        reader.collect()
        second = running.units()

    model = ("client", "qwen3-8b")
    assert first == {
        (*model, "input_tokens"): 100,
        (*model, "output_tokens"): 40,
        (*model, "cached_tokens"): 64,
        (*model, "reasoning_tokens"): 8,
    }
    assert {key: count for key, count in second.items() if count} == {(*model, "output_tokens"): 2}
    assert not running.told.health.rejected


def test_a_series_tells_whose_and_when(running: Running) -> None:
    with metrics(running.url, "desk", False, **{"wattribute.model_version": "v7"}) as (meter, reader):
        meter.create_counter(f"{USAGE}.output_tokens").add(5, CHAT | {"wattribute.run": "eval-3"})
        reader.collect()
        (unit,) = running.records()
    assert isinstance(unit, Unit)
    assert (unit.application, unit.phase, unit.model_version, unit.run) == (
        "desk",
        "inference",
        "v7",
        "eval-3",
    )
    series, start, end = unit.event_id.split("/")
    assert len(series) == 32
    assert (int(end), int(end) - int(start)) == (unit.t, unit.period_ns)


def test_the_older_histogram_counts_where_the_counters_are_absent(running: Running) -> None:
    def record(meter: object, value: int, kind: str) -> None:
        histogram = meter.create_histogram("gen_ai.client.token.usage")  # type: ignore[attr-defined]
        histogram.record(value, CHAT | {"gen_ai.token.type": kind})

    with metrics(running.url, "older") as (meter, reader):
        record(meter, 30, "output")
        record(meter, 12, "output")
        record(meter, 100, "input")
        reader.collect()
        assert running.units() == {
            ("client", "qwen3-8b", "output_tokens"): 42,
            ("client", "qwen3-8b", "input_tokens"): 100,
        }
        record(meter, 9, "image")
        meter.create_histogram("gen_ai.server.request.duration").record(0.2, CHAT)
        reader.collect()
        assert {key: count for key, count in running.units().items() if count} == {
            ("client", "qwen3-8b", "requests"): 1
        }
    running.records()
    assert list(running.told.health.rejected) == [
        "gen_ai.client.token.usage with a gen_ai.token.type that is neither input nor output"
    ]
    with metrics(running.url, "both") as (meter, reader):
        record(meter, 30, "output")
        meter.create_counter(f"{USAGE}.output_tokens").add(30, CHAT)
        reader.collect()
        assert running.units() == {("client", "qwen3-8b", "output_tokens"): 30}


def test_an_agents_sum_is_not_counted_beside_its_calls(running: Running) -> None:
    with metrics(running.url, "agents") as (meter, reader):
        counter = meter.create_counter(f"{USAGE}.output_tokens")
        counter.add(70, CHAT)
        for operation in ("invoke_agent", "plan"):
            counter.add(70, CHAT | {"gen_ai.operation.name": operation})
        reader.collect()
    with traces(running.url, "agents") as tracer:
        agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.request.model": "qwen3-8b"}
        with tracer.start_as_current_span("invoke_agent", attributes={**agent, **usage(110, 900)}):
            with tracer.start_as_current_span("chat", attributes={**CHAT, **usage(70, 500)}):
                pass
            with tracer.start_as_current_span("tool"):
                chain: Given = {**CHAT, **usage(40, 400, cached=128, reasoning=10)}
                with tracer.start_as_current_span("chat of a framework", attributes=chain):  # noqa: SIM117
                    with tracer.start_as_current_span("http"):
                        with tracer.start_as_current_span("chat", attributes=chain):
                            pass
    assert running.units() == {
        ("client", "qwen3-8b", "output_tokens"): 70,
        ("span", "qwen3-8b", "output_tokens"): 110,
        ("span", "qwen3-8b", "input_tokens"): 900,
        ("span", "qwen3-8b", "cached_tokens"): 128,
        ("span", "qwen3-8b", "reasoning_tokens"): 10,
        ("span", "qwen3-8b", "requests"): 2,
    }


def test_a_call_whose_operation_has_a_name_of_its_own_counts_where_it_has_a_usage(running: Running) -> None:
    """As LiteLLM's does: its proxy calls a request acompletion."""
    own = CHAT | {"gen_ai.operation.name": "acompletion"}
    with metrics(running.url, "litellm") as (meter, reader):
        meter.create_counter(f"{USAGE}.output_tokens").add(12, own)
        reader.collect()
    with traces(running.url, "desk") as tracer:
        tracer.start_span("litellm_request", attributes={**own, **usage(12, 23)}).end()
        tracer.start_span("litellm_request", attributes=own).end()
    assert running.units() == {
        ("gateway_metrics", "qwen3-8b", "output_tokens"): 12,
        ("span", "qwen3-8b", "output_tokens"): 12,
        ("span", "qwen3-8b", "input_tokens"): 23,
        ("span", "qwen3-8b", "requests"): 1,
    }


def test_openinference_names_model_and_usage_in_its_own_way(running: Running) -> None:
    """As its instrumentations of openai (0.1.66) and openai-agents (2.6.0) do, one below the other."""
    call: Given = {
        "openinference.span.kind": "LLM",
        "llm.model_name": "qwen3-8b",
        "llm.token_count.total": 27,
        "llm.token_count.prompt": 20,
        "llm.token_count.completion": 7,
        "llm.token_count.prompt_details.cache_read": 5,
        "llm.token_count.completion_details.reasoning": 3,
    }
    with traces(running.url, "desk") as tracer:
        chain = {**call, "openinference.span.kind": "CHAIN"}
        with tracer.start_as_current_span("RunnableSequence", attributes=chain):
            tracer.start_span("ChatPromptTemplate", attributes={"openinference.span.kind": "PROMPT"}).end()
            with tracer.start_as_current_span("ChatOpenAI", attributes=call):
                tracer.start_span("ChatCompletion", attributes=call).end()
        embedding: Given = {
            "openinference.span.kind": "EMBEDDING",
            "embedding.model_name": "embedder",
            "llm.token_count.prompt": 4,
        }
        tracer.start_span("CreateEmbeddings", attributes=embedding).end()
    assert running.units() == {
        ("span", "qwen3-8b", "input_tokens"): 20,
        ("span", "qwen3-8b", "output_tokens"): 7,
        ("span", "qwen3-8b", "cached_tokens"): 5,
        ("span", "qwen3-8b", "reasoning_tokens"): 3,
        ("span", "qwen3-8b", "requests"): 1,
        ("span", "embedder", "input_tokens"): 4,
        ("span", "embedder", "requests"): 1,
    }


def test_a_stream_that_logfire_tells_in_two_spans_is_one_request(running: Running) -> None:
    """As logfire (5.4.0) does for openai: the usage is on a span of its own, beside that of the call."""
    with traces(running.url, "desk", "logfire.openai") as tracer, tracer.start_as_current_span("request"):
        tracer.start_span("Chat Completion", attributes={**CHAT, "logfire.span_type": "span"}).end()
        log: Given = {**CHAT, **usage(7, 20, cached=5), "logfire.span_type": "log"}
        tracer.start_span("streaming response", attributes=log).end()
    assert running.units() == {
        ("span", "qwen3-8b", "input_tokens"): 20,
        ("span", "qwen3-8b", "output_tokens"): 7,
        ("span", "qwen3-8b", "cached_tokens"): 5,
        ("span", "qwen3-8b", "requests"): 1,
    }


def test_an_older_openllmetry_names_tokens_in_its_own_way(running: Running) -> None:
    """As its instrumentation of openai (0.44.1) does, without an operation."""
    call: Given = {
        "gen_ai.request.model": "fast",
        "gen_ai.response.model": "qwen3-8b",
        "llm.usage.total_tokens": 27,
        "gen_ai.usage.completion_tokens": 7,
        "gen_ai.usage.prompt_tokens": 20,
        "gen_ai.usage.cache_read_input_tokens": 5,
    }
    with traces(running.url, "desk", "opentelemetry.instrumentation.openai.v1") as tracer:
        tracer.start_span("openai.chat", attributes=call).end()
    assert running.units() == {
        ("span", "qwen3-8b", "input_tokens"): 20,
        ("span", "qwen3-8b", "output_tokens"): 7,
        ("span", "qwen3-8b", "cached_tokens"): 5,
        ("span", "qwen3-8b", "requests"): 1,
    }


def test_langsmiths_chains_and_prompts_are_no_calls(running: Running) -> None:
    """As langsmith (0.15.1) tells LangChain's runs: a chain has the sum of its calls and no model, and the
    operation of a prompt is chat."""
    with traces(running.url, "desk", "langsmith", **{"wattribute.model": "qwen3-8b"}) as tracer:

        def tell(kind: str, operation: str, **more: str | float) -> None:
            names = {"langsmith.span.kind": kind, "gen_ai.operation.name": operation}
            tracer.start_span(kind, attributes={**names, **more}).end()

        with tracer.start_as_current_span("RunnableSequence"):
            tell("chain", "chain", **usage(7, 20))
            tell("prompt", "chat")
            tell("llm", "chat", **{"gen_ai.request.model": "qwen3-8b"}, **usage(7, 20))
            tell("embedding", "embeddings")
    assert running.units() == {
        ("span", "qwen3-8b", "input_tokens"): 20,
        ("span", "qwen3-8b", "output_tokens"): 7,
        ("span", "qwen3-8b", "requests"): 2,
    }


@pytest.mark.parametrize("is_inner_first", [True, False])
def test_a_call_in_two_traces_counts_once(running: Running, is_inner_first: bool) -> None:
    """As OpenInference's instrumentations of langchain (0.1.80) and openai (0.1.66) tell it, with asyncio:
    langchain's span is not the current one, so openai's begins a trace of its own."""
    call: Given = {
        "openinference.span.kind": "LLM",
        "llm.model_name": "qwen3-8b",
        "llm.token_count.prompt": 20,
        "llm.token_count.completion": 7,
    }
    scopes = ["openinference.instrumentation.langchain", "openinference.instrumentation.openai"]
    if not is_inner_first:  # what was opened last is exported first
        scopes.reverse()
    with (
        traces(running.url, "desk", scopes[0]) as first,
        traces(running.url, "desk", scopes[1]) as second,
        traces(running.url, "shop", scopes[1]) as elsewhere,
    ):
        outer, inner = (first, second) if is_inner_first else (second, first)
        now_ns = time.time_ns()

        def tell(tracer: Tracer, begin_ms: int, end_ms: int, **more: int) -> None:
            given: Given = {**call, **{f"llm.token_count.{name}": count for name, count in more.items()}}
            span = tracer.start_span("call", attributes=given, start_time=now_ns + begin_ms * 10**6)
            span.end(end_time=now_ns + end_ms * 10**6)

        for begin in (0, 1, 2):  # three calls at once
            tell(outer, begin, 100 - begin)
            tell(inner, begin, 99 - begin)
        for begin, end in ((400, 431), (411, 432)):  # two at once: the second holds only the second below
            tell(outer, begin, end)
        for begin, end in ((410, 420), (412, 430)):
            tell(inner, begin, end)
        tell(outer, 200, 300)  # another, after them
        tell(inner, 250, 350)  # one that lasts longer
        tell(inner, 210, 290, completion=8)  # one of another usage
        tell(outer, 210, 290)  # one that the same instrumentation tells: not the same call
        tell(elsewhere, 220, 230)  # one of another application
    told = [record for record in running.records() if isinstance(record, Unit)]
    kept = {(unit.unit, unit.event_id): unit.quantity for unit in told}  # as the store keeps the last of each
    sums = {name: sum(n for (unit, _), n in kept.items() if unit == name) for name, _ in kept}
    assert sums == {"input_tokens": 10 * 20, "output_tokens": 10 * 7 + 1, "requests": 10}


def test_a_child_that_comes_after_its_parent_takes_it_back(running: Running) -> None:
    """As where the child is of another service, which exports later."""
    with traces(running.url, "router") as inner, traces(running.url, "desk") as outer:
        parent = outer.start_span("chat", attributes={**CHAT, **usage(70, 500)})
        below = set_span_in_context(parent)
        child = inner.start_span("chat", attributes={**CHAT, **usage(70, 500)}, context=below)
        parent.end()
        child.end()
    told = [record for record in running.records() if isinstance(record, Unit)]
    assert [unit.quantity for unit in told if unit.unit == "output_tokens"] == [70, 0, 70]
    kept = {(unit.unit, unit.event_id): unit.quantity for unit in told}  # as the store keeps the last of each
    assert sum(count for (name, _), count in kept.items() if name == "output_tokens") == 70
    assert sum(count for (name, _), count in kept.items() if name == "requests") == 1


def test_gateways_and_servers_are_known_by_what_they_say(listen: Callable[..., Running]) -> None:
    running = listen(gateways="our-proxy", model_aliases={"qwen3-8b": "qwen"})
    for service, scope, more in (
        ("litellm", "x", {}),
        ("desk", "litellm", {}),
        ("our-proxy", "x", {}),
        ("mesh", "x", {"wattribute.source": "gateway"}),
        ("desk", "x", {}),
    ):
        with (
            traces(running.url, service, scope, **more) as tracer,
            tracer.start_as_current_span("c", attributes=CHAT),
        ):
            pass
    assert running.units() == {("gateway", "qwen", "requests"): 4, ("span", "qwen", "requests"): 1}
    pod = {"k8s.pod.name": "vllm-0"}
    with traces(running.url, "vllm", **pod) as tracer:
        # as vLLM names them
        attributes: Given = {
            "gen_ai.usage.prompt_tokens": 7,
            "gen_ai.usage.completion_tokens": 3,
            "gen_ai.response.model": "q",
        }
        tracer.start_span("llm_request", attributes=attributes, kind=SpanKind.SERVER).end()
        tracer.start_span("chat", attributes=CHAT, kind=SpanKind.CLIENT).end()
    told = [record for record in running.records() if isinstance(record, Unit)]
    assert {(unit.unit, unit.quantity, unit.pod, unit.model) for unit in told} == {
        ("input_tokens", 7, "vllm-0", "q"),
        ("output_tokens", 3, "vllm-0", "q"),
        ("requests", 1, "vllm-0", "q"),
        ("requests", 1, "", "qwen"),
    }


def test_a_gateways_pod_is_not_where_the_model_is_served(running: Running) -> None:
    """As LiteLLM's proxy: since 1.81 the usage is on its own server span. With another pod than that of the
    engine, the same tokens would count twice."""
    pod = {"k8s.pod.name": "litellm-0"}
    with traces(running.url, "litellm", **pod) as tracer:
        own = {**CHAT, "gen_ai.operation.name": "acompletion", **usage(12, 23)}
        tracer.start_span("Received Proxy Server Request", attributes=own, kind=SpanKind.SERVER).end()
    units = [record for record in running.records() if isinstance(record, Unit)]
    assert [(unit.source, unit.pod) for unit in units] == [("gateway", "")] * 3


def test_spans_and_metrics_of_a_gateway_are_of_different_rank(running: Running) -> None:
    """LiteLLM sends both, where its metrics are switched on."""
    with metrics(running.url, "litellm") as (meter, reader):
        meter.create_counter(f"{USAGE}.output_tokens").add(12, CHAT)
        reader.collect()
    with traces(running.url, "litellm") as tracer:
        tracer.start_span("litellm_request", attributes={**CHAT, **usage(12, 23)}).end()
    tables = Tables("a file", 0)
    for record in running.records():
        tables.note("node", "b", record, "0 1")
    ranks = {row["source"]: row["authority"] for row in tables.take()["unit"]}
    assert ranks["gateway_metrics"] < ranks["gateway"]


def test_a_request_that_failed_is_none(running: Running) -> None:
    with traces(running.url, "desk") as tracer:
        for attributes in (CHAT, {**CHAT, **usage(3, 4)}):
            span = tracer.start_span("chat", attributes=attributes)
            span.set_status(Status(StatusCode.ERROR, SECRET))
            span.end()
    assert running.units()["span", "qwen3-8b", "requests"] == 1


def test_evaluations_are_qualities_of_the_call_that_they_are_about(running: Running) -> None:
    version = {"wattribute.model_version": "v7"}
    with (
        traces(running.url, "desk", **version) as tracer,
        tracer.start_as_current_span("chat", attributes=CHAT) as span,
    ):
        of: Given = {"gen_ai.evaluation.name": "relevance", "gen_ai.evaluation.score.value": 0.75}
        span.add_event("gen_ai.evaluation.result", {**of, "gen_ai.evaluation.explanation": SECRET})
        judged = {"gen_ai.evaluation.name": "polite", "gen_ai.evaluation.score.label": "Pass"}
        tracer.start_span("evaluate", attributes=judged).end()
    found = [record for record in running.records() if isinstance(record, Quality)]
    assert {(q.model, q.model_version, q.metric, q.value, q.sample_count) for q in found} == {
        ("qwen3-8b", "v7", "relevance", 0.75, 1),
        ("qwen3-8b", "v7", "polite", 1.0, 1),
    }


def test_of_an_evaluation_beside_calls_of_two_models_nobody_knows_which_it_is_about(running: Running) -> None:
    judged = {"gen_ai.evaluation.name": "polite", "gen_ai.evaluation.score.label": "Pass"}
    with traces(running.url, "desk") as tracer, tracer.start_as_current_span("task"):
        for model in ("qwen3-8b", "qwen3-32b"):
            tracer.start_span("chat", attributes={**CHAT, "gen_ai.response.model": model}).end()
        tracer.start_span("evaluate", attributes=judged).end()
    assert [record for record in running.records() if isinstance(record, Quality)] == []
    ((why, count),) = running.told.health.rejected.items()
    assert why.startswith("no model is named") and count == 1


def test_of_two_names_of_one_count_the_newer_is_taken_and_a_call_of_days_has_no_length(
    running: Running,
) -> None:
    both = {"gen_ai.usage.prompt_tokens": 9, "gen_ai.usage.input_tokens": 7}
    now_ns = time.time_ns()
    with traces(running.url, "desk") as tracer:
        span = tracer.start_span("chat", attributes={**CHAT, **both}, start_time=now_ns - 2 * 86_400 * 10**9)
        span.end(end_time=now_ns)
    told = [record for record in running.records() if isinstance(record, Unit)]
    assert {(unit.unit, unit.quantity, unit.t, unit.period_ns) for unit in told} == {
        ("input_tokens", 7, now_ns, None),
        ("requests", 1, now_ns, None),
    }


def test_what_was_said_is_in_no_record_and_no_answer(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    said = {"gen_ai.input.messages": SECRET, "gen_ai.output.messages": SECRET, "gen_ai.prompt": SECRET}
    with traces(running.url, "desk") as tracer:
        with tracer.start_as_current_span("chat", attributes={**CHAT, **said, **usage(3, 4)}) as span:
            span.add_event("gen_ai.user.message", {"content": SECRET})
        broken = {**CHAT, **said, "gen_ai.usage.output_tokens": SECRET}
        tracer.start_span(SECRET, attributes=broken).end()
    told = running.records()
    assert len(told) == 3
    assert running.told.health.rejected == {"gen_ai.usage.output_tokens is not a number": 1}
    for path in ("/v1/traces", "/v1/metrics"):
        for shape in ("application/json", "application/x-protobuf"):
            answer = running.post(path, f'{{"resourceSpans": [{{"x": "{SECRET}"', Content_Type=shape)
            assert answer.status == 400
            assert b"hunter2" not in answer.body
    assert "hunter2" not in repr(told) + caplog.text


def test_a_retried_export_is_the_same_events_again(running: Running) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    provider.get_tracer("x").start_span("chat", attributes={**CHAT, **usage(3, 4)}).end()
    meters = InMemoryMetricReader({Counter: AggregationTemporality.DELTA})
    MeterProvider([meters]).get_meter("x").create_counter(f"{USAGE}.output_tokens").add(3, CHAT)
    measured = meters.get_metrics_data()
    assert measured is not None

    told: list[list[tuple[str, str, float]]] = []
    for _ in range(2):
        assert (
            OTLPSpanExporter(f"{running.url}/v1/traces").export(spans.get_finished_spans()).name == "SUCCESS"
        )
        assert OTLPMetricExporter(f"{running.url}/v1/metrics").export(measured).name == "SUCCESS"
        units = [record for record in running.records() if isinstance(record, Unit)]
        told.append(sorted((unit.unit, unit.event_id, unit.quantity) for unit in units))
    assert len(told[0]) == 4
    assert set(told[1]) <= set(told[0])


def test_json_and_protobuf_are_the_same(running: Running) -> None:
    span = """{"resourceSpans":[{
      "resource":{"attributes":[{"key":"service.name","value":{"stringValue":"desk"}}]},
      "scopeSpans":[{"spans":[{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174",
      "name":"chat","kind":3,"startTimeUnixNano":"%d","endTimeUnixNano":"%d","unknown":{"a":1},
      "attributes":[{"key":"gen_ai.operation.name","value":{"stringValue":"chat"}},
      {"key":"gen_ai.request.model","value":{"stringValue":"m"}},
      {"key":"gen_ai.usage.output_tokens","value":{"intValue":"12"}}]}]}]}]}"""
    t = time.time_ns()
    body = gzip.compress((span % (t - 10**9, t)).encode())
    answer = running.post("/v1/traces", body, Content_Type="application/json", Content_Encoding="gzip")
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, b"{}", "application/json")
    told = [record for record in running.records() if isinstance(record, Unit)]
    assert {(unit.unit, unit.quantity) for unit in told} == {("output_tokens", 12), ("requests", 1)}
    assert {unit.event_id for unit in told} == {"5b8efff798038103d269b633813fc60c/eee19b7ec3c1b174"}
    assert {(unit.t, unit.period_ns) for unit in told} == {(t, 10**9)}
