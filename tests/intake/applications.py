"""Applications, instrumented by the OpenTelemetry SDK as theirs would be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer

Given = dict[str, str | int | float]
CHAT: Given = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "fast",
    "gen_ai.response.model": "qwen3-8b",
}


def resource(service: str, **more: str) -> Resource:
    return Resource.create({"service.name": service, "service.version": "1.4.2", **more})


@contextmanager
def metrics(
    url: str, service: str, is_delta: bool = False, **more: str
) -> Iterator[tuple[Any, PeriodicExportingMetricReader]]:
    """A meter, and the reader that exports when it is collected; it exports what is left at its end."""
    temporality = AggregationTemporality.DELTA if is_delta else AggregationTemporality.CUMULATIVE
    exporter = OTLPMetricExporter(
        f"{url}/v1/metrics",
        preferred_temporality={Counter: temporality, Histogram: temporality},
        compression=Compression.Gzip,
    )
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    provider = MeterProvider([reader], resource(service, **more), shutdown_on_exit=False)
    try:
        yield provider.get_meter("app.llm"), reader
    finally:
        provider.shutdown()


@contextmanager
def traces(url: str, service: str, scope: str = "app.llm", **more: str) -> Iterator[Tracer]:
    """A tracer; what it made is exported at its end."""
    provider = TracerProvider(resource=resource(service, **more), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
    try:
        yield provider.get_tracer(scope)
    finally:
        provider.shutdown()


def usage(output: int, given: int, cached: int = 0, reasoning: int = 0) -> Given:
    """The token usage of a span."""
    found: Given = {"gen_ai.usage.output_tokens": output, "gen_ai.usage.input_tokens": given}
    found |= {"gen_ai.usage.cache_read.input_tokens": cached} if cached else {}
    return found | ({"gen_ai.usage.reasoning.output_tokens": reasoning} if reasoning else {})
