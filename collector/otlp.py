"""OTLP over HTTP: decodes requests and encodes answers as the protocol requires.

Only attributes that a reader asks for by name are read: prompts and completions are not.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from wattribute.errors import RecordError
from wattribute.records import Record

_REQUESTS: Final[dict[str, type[Message]]] = {
    "metrics": ExportMetricsServiceRequest,
    "traces": ExportTraceServiceRequest,
    "logs": ExportLogsServiceRequest,
}
_RESPONSES: Final[dict[str, tuple[type[Message], str]]] = {
    "metrics": (ExportMetricsServiceResponse, "rejected_data_points"),
    "traces": (ExportTraceServiceResponse, "rejected_spans"),
    "logs": (ExportLogsServiceResponse, "rejected_log_records"),
}
_VALUES: Final = ("string_value", "int_value", "double_value", "bool_value")
_REASONS_SHOWN: Final = 5

# A service or instrumentation with one of these names is a gateway: others count the same units too.
GATEWAYS: Final = frozenset(
    (
        *("litellm", "litellm-proxy", "portkey", "portkey-gateway", "helicone", "openrouter", "bifrost"),
        *("kong", "kong-gateway", "envoy-ai-gateway", "ai-gateway-extproc", "agentgateway", "tensorzero"),
    )
)
MODEL: Final = (
    *("wattribute.model", "gen_ai.response.model", "gen_ai.request.model"),
    *("llm.model_name", "embedding.model_name"),
)
"""The attributes that name a model; the first one present counts. The last two are OpenInference's."""
# LiteLLM can send spans and metrics of the same calls. Of two sources of equal rank both would count.
_OF_GATEWAYS: Final = {"span": "gateway", "client": "gateway_metrics"}
WHO: Final = frozenset(
    (
        *(*MODEL, "service.name", "wattribute.model_version", "wattribute.run", "wattribute.attempt"),
        *("wattribute.phase", "wattribute.source"),
    )
)
"""The attributes that name an owner; those of a span or point take precedence over the resource's."""
SUMS: Final = frozenset(
    (
        *("create_agent", "invoke_agent", "invoke_workflow", "plan", "execute_tool"),
        *("agent", "chain", "tool", "retriever", "prompt", "parser"),
    )
)
"""Operations, in lower case, whose usage, where there is one, is the sum of the calls below."""

Attributes = dict[str, Any]


@dataclass(slots=True)
class Reading:
    """The result of reading a request: its records, and how many entries were rejected, by reason."""

    records: list[Record] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Naming:
    """The names from the settings: ``aliases`` of models, and all ``gateways``."""

    aliases: Mapping[str, str]
    gateways: frozenset[str] = GATEWAYS

    def who(self, attributes: Attributes, scope: str, source: str) -> dict[str, Any]:
        """The fields that name a record's owner and source. ``source`` is span or client; a gateway's, and
        one that the attributes name, replace it. Raises RecordError where no model or run is named."""
        named = [str(attributes[name]) for name in MODEL if attributes.get(name)]
        service = str(attributes.get("service.name", ""))
        is_gateway = service.lower() in self.gateways or scope.lower() in self.gateways
        found: dict[str, Any] = {
            "model": self.aliases.get(named[0], named[0]) if named else "",
            "model_version": attributes.get("wattribute.model_version", ""),
            "run": attributes.get("wattribute.run", ""),
            "application": service,
            "phase": attributes.get("wattribute.phase", "inference"),
            "source": attributes.get("wattribute.source", _OF_GATEWAYS[source] if is_gateway else source),
        }
        if "wattribute.attempt" in attributes:
            found["attempt"] = attributes["wattribute.attempt"]
        if not found["model"] and not found["run"]:
            raise RecordError(
                "no model is named: set gen_ai.request.model, or start the application with"
                " OTEL_RESOURCE_ATTRIBUTES=wattribute.model=NAME"
            )
        return {name: value for name, value in found.items() if value != ""}


def attributes_of(attributes: Iterable[Any], names: Collection[str]) -> dict[str, Any]:
    """The plain values of the named attributes; the others are not read."""
    found = {}
    for item in attributes:
        if item.key in names:
            kind = item.value.WhichOneof("value")
            if kind in _VALUES:
                found[item.key] = getattr(item.value, kind)
    return found


def decode(signal: str, body: bytes, is_json: bool) -> Any:
    """Decode a request of a signal (metrics, traces or logs). Raises RecordError, which quotes nothing."""
    request = _REQUESTS[signal]()
    try:
        if is_json:
            json_format.Parse(body, request, ignore_unknown_fields=True)
        else:
            request.ParseFromString(body)
        if is_json and signal == "traces":
            _repair_ids(request)
    except (DecodeError, json_format.ParseError, ValueError, RecursionError, TypeError):
        # The text of such an error may contain a part of the request.
        shape = "JSON" if is_json else "protobuf"
        raise RecordError(f"the body is not an OTLP {signal} request in {shape}") from None
    return request


def _repair_ids(request: Any) -> None:
    """Correct the ids: OTLP's JSON has hex where protobuf's JSON has base64, as which they were decoded."""
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                span.trace_id = _from_hex(span.trace_id)
                span.span_id = _from_hex(span.span_id)
                span.parent_span_id = _from_hex(span.parent_span_id)


def _from_hex(decoded: bytes) -> bytes:
    return bytes.fromhex(base64.b64encode(decoded).decode())


def answer(signal: str, rejected: Mapping[str, int], is_json: bool) -> bytes:
    """The body of a success, or of a partial success where something was rejected."""
    cls, name = _RESPONSES[signal]
    response: Any = cls()
    if rejected:
        setattr(response.partial_success, name, sum(rejected.values()))
        response.partial_success.error_message = reasons(rejected)
    return _encoded(response, is_json)


def refusal(message: str, is_json: bool) -> bytes:
    """The body of a failure."""
    return _encoded(Status(message=message), is_json)


def reasons(rejected: Mapping[str, int]) -> str:
    """Why entries were rejected, and how many for each reason."""
    most = sorted(rejected.items(), key=lambda item: -item[1])
    shown = "; ".join(f"{why} ({count})" for why, count in most[:_REASONS_SHOWN])
    return shown + (f"; and {len(most) - _REASONS_SHOWN} other reasons" if len(most) > _REASONS_SHOWN else "")


def _encoded(message: Message, is_json: bool) -> bytes:
    encoded: bytes = message.SerializeToString()
    return json_format.MessageToJson(message, indent=None).encode() if is_json else encoded
