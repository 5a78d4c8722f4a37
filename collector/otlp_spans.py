"""Units and qualities from OTLP spans: each call of a model gives one request, and its tokens.

A span that carries the sum of its children must not count in addition to them. So a call counts only while
no call of the same source is known below it in its trace. Children end first, so they come in the same
request or an earlier one, and a trace is remembered for ten minutes. If a child comes later nevertheless, its
parent is taken back: it is sent again, with the same event_id and a quantity of 0. A gateway's span below an
application's takes nothing back: between sources the store decides, minute by minute (docs/intake.md).
Some spans of one call are in no such order: ``otlp_twice`` finds them.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from wattribute.collector.otlp import MODEL, SUMS, WHO, Attributes, Naming, Reading, attributes_of
from wattribute.collector.otlp_twice import Twice
from wattribute.collector.told import Told, record_of
from wattribute.errors import RecordError
from wattribute.records import PERIOD_MAX_NS, Record, Unit

# unit -> the attributes that may contain it; the first one present counts. llm.… are OpenInference's.
_USAGE: Final = {
    "input_tokens": (
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.prompt_tokens",
        "llm.token_count.prompt",
    ),
    "output_tokens": (
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.completion_tokens",
        "llm.token_count.completion",
    ),
    "cached_tokens": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",  # OpenLLMetry, of before the convention named it
        "llm.token_count.prompt_details.cache_read",
    ),
    "reasoning_tokens": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",  # OpenLLMetry
        "gen_ai.usage.details.reasoning_tokens",  # Pydantic AI
        "llm.token_count.completion_details.reasoning",
    ),
}
# What a span is about: the first one present counts. In the second LangSmith calls the template of a prompt a
# chat.
_OPERATION: Final = ("langsmith.span.kind", "gen_ai.operation.name", "openinference.span.kind")
# Operations, in lower case, that are one call of a model, even without a usage. With a usage, so is any other
# but those of SUMS: some applications have names of their own, as LiteLLM's acompletion.
_CALLS: Final = frozenset(("chat", "text_completion", "generate_content", "embeddings", "llm", "embedding"))
_EVALUATION: Final = frozenset(
    (
        *("gen_ai.evaluation.name", "gen_ai.evaluation.score.value", "gen_ai.evaluation.score.label"),
        *(*MODEL, "wattribute.model_version", "wattribute.run"),
    )
)
# Logfire tells a stream's usage by a second span, a "log", beside the one of the call.
_LOGFIRE: Final = "logfire.span_type"
_NAMES: Final = frozenset(
    (*WHO, *_EVALUATION, *(name for names in _USAGE.values() for name in names), *_OPERATION, _LOGFIRE)
)
_RESOURCE: Final = frozenset((*WHO, "k8s.pod.name"))
_SCORES: Final = {
    **dict.fromkeys(("pass", "passed", "true", "yes", "correct", "relevant", "good"), 1.0),
    **dict.fromkeys(("fail", "failed", "false", "no", "incorrect", "not_relevant", "bad"), 0.0),
}
_S: Final = 1_000_000_000
_REMEMBER_NS: Final = 600 * _S
_SPANS_MOST: Final = 100_000  # of all traces together: some 40 MB
_DEPTH_MOST: Final = 64


@dataclass(slots=True)
class _Call:
    """A span that calls a model, and its units. ``is_beside``: another call counts the same."""

    source: str
    whose: dict[str, Any]
    units: Sequence[Unit]
    has_usage: bool
    is_beside: bool = False
    is_counted: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """What is equal where two instrumentations report the same call."""
        tokens = {unit.unit: unit.quantity for unit in self.units}
        names = (self.source, self.whose.get("application"), self.whose.get("model"))
        return *names, tokens.get("input_tokens"), tokens.get("output_tokens")


@dataclass(slots=True)
class _Trace:
    """The spans of a trace, with what is known of the spans above and below each, so that a new span can be
    put in its place without a search through all others, of which there may be many."""

    seen_ns: int
    parents: dict[bytes, bytes] = field(default_factory=dict)
    calls: dict[bytes, _Call] = field(default_factory=dict)
    below: dict[bytes, frozenset[str]] = field(default_factory=dict)  # sources of calls with usage below
    # By a span that has not come yet: the calls without usage below it.
    without: dict[bytes, list[_Call]] = field(default_factory=dict)
    models: dict[Any, dict[str, Any]] = field(
        default_factory=dict
    )  # by model, the owner of its calls; two models at most

    def put(self, span: bytes, parent: bytes, call: _Call | None) -> list[_Call]:
        """Put a span in its place; return the calls that this may change."""
        changed: list[_Call] = []
        self.parents[span] = parent
        sources = self.below.get(span, frozenset())
        without = self.without.pop(span, [])
        if call is not None:
            self.calls[span] = call
            if len(self.models) < 2:
                self.models[call.whose.get("model")] = call.whose
            call.is_beside = call.source in sources
            without = _passing(without, call, changed)
            if call.has_usage:
                sources |= {call.source}
            else:
                without = [*without, call]
        above = parent
        for _ in range(_DEPTH_MOST):
            known = self.below.get(above, frozenset())
            if not above or (sources <= known and not without):
                break
            self.below[above] = known | sources
            other = self.calls.get(above)
            if other is not None:
                if other.source in sources and not other.is_beside:
                    other.is_beside = True
                    changed.append(other)
                without = _passing(without, other, changed)
            if above not in self.parents:
                self.without.setdefault(above, []).extend(without)
                break
            above = self.parents[above]
        return changed if call is None else [*changed, call]

    def forget_oldest(self) -> None:
        """Forget the oldest span, and what was kept for its parent where that has not come."""
        span = next(iter(self.parents))
        parent = self.parents.pop(span)
        self.calls.pop(span, None)
        for gone in (span, parent):
            if gone not in self.parents:
                self.below.pop(gone, None)
                self.without.pop(gone, None)


def _passing(without: list[_Call], above: _Call, changed: list[_Call]) -> list[_Call]:
    """The calls without usage that go on past the call ``above``, which counts for those of its source."""
    for call in without:
        if call.source == above.source and not call.is_beside:
            call.is_beside = True
            changed.append(call)
    return [call for call in without if call.source != above.source]


class SpanReader:
    """Reads trace requests; remembers the calls of recent traces."""

    def __init__(self, naming: Naming, told: Told) -> None:
        self._naming, self._told = naming, told
        self._traces: OrderedDict[bytes, _Trace] = OrderedDict()
        self._spans = 0
        self._twice: Twice[_Call] = Twice()

    def read(self, request: Any, now_ns: int) -> Reading:
        """The units and qualities of a request that was received at ``now_ns``."""
        reading = Reading()
        changed: list[_Call] = []
        evaluated: list[tuple[Attributes, Any, str]] = []
        for resource in request.resource_spans:
            owner = attributes_of(resource.resource.attributes, _RESOURCE)
            for scope in resource.scope_spans:
                for span in scope.spans:
                    try:
                        own = owner | attributes_of(span.attributes, _NAMES)
                        changed += self._noted(span, own, scope.scope.name, now_ns)
                        evaluated += [(of, span, scope.scope.name) for of in _evaluations(own, span)]
                    except RecordError as error:
                        reading.rejected[str(error)] += 1
        reading.records += self._settled(changed)
        for of, span, scope_name in evaluated:
            try:
                reading.records.append(self._quality(of, span, scope_name, now_ns))
            except RecordError as error:
                reading.rejected[str(error)] += 1
        return reading

    def _noted(self, span: Any, own: Attributes, scope: str, now_ns: int) -> list[_Call]:
        """Remember a span; return the calls that it may change, itself or others."""
        if len(span.trace_id) != 16 or len(span.span_id) != 8:
            raise RecordError("a span has no valid trace_id or span_id")
        trace = self._traces.setdefault(span.trace_id, _Trace(now_ns))
        trace.seen_ns = now_ns
        self._traces.move_to_end(span.trace_id)
        if span.span_id in trace.parents:
            return []
        self._spans += 1
        self._make_room(now_ns)
        call, problem = None, None
        try:
            call = self._call(span, own, scope, now_ns)
        except RecordError as error:  # the span still has its place among the others
            problem = error
        changed = trace.put(span.span_id, span.parent_span_id, call)
        if call is not None and call.has_usage and not call.is_beside:
            outer = self._twice.outer(
                call.key, scope, (span.start_time_unix_nano, span.end_time_unix_nano), call
            )
            if outer is not None:
                outer.is_beside = True
                changed.append(outer)
        if problem is not None:
            raise problem
        return changed

    def _make_room(self, now_ns: int) -> None:
        while True:
            oldest_id, oldest = next(iter(self._traces.items()))
            is_old = oldest.seen_ns < now_ns - _REMEMBER_NS
            if not is_old and self._spans <= _SPANS_MOST:
                return
            if len(self._traces) > 1:
                del self._traces[oldest_id]
                count = len(oldest.parents)
            else:
                oldest.forget_oldest()
                count = 1
            self._spans -= count
            self._told.health.forgotten += 0 if is_old else count

    def _call(self, span: Any, own: Attributes, scope: str, now_ns: int) -> _Call | None:
        """The span as a call; None where it is no call of a model. Raises RecordError."""
        usage = {
            unit: _number(own, name) for unit, names in _USAGE.items() for name in names[::-1] if name in own
        }
        operation = next((str(own[name]).lower() for name in _OPERATION if name in own), "")
        if operation in SUMS or (operation not in _CALLS and not usage):
            return None
        whose = self._naming.who(own, scope, "span")
        serves = span.kind == Span.SPAN_KIND_SERVER and whose["source"] != "gateway"
        if serves and own.get("k8s.pod.name"):
            # A service that serves the model itself: this is the pod of the serving process.
            whose["pod"] = own["k8s.pod.name"]
        counted: dict[str, Any] = dict(usage)
        is_call = own.get(_LOGFIRE) != "log"
        if is_call and (usage or span.status.code != Status.STATUS_CODE_ERROR):
            counted["requests"] = 1
        units = [
            self._unit(whose | {"unit": unit, "quantity": quantity}, span, now_ns)
            for unit, quantity in counted.items()
        ]
        return _Call(whose["source"], whose, units, bool(usage))

    def _unit(self, fields: dict[str, Any], span: Any, now_ns: int) -> Unit:
        period_ns = span.end_time_unix_nano - span.start_time_unix_nano
        if span.start_time_unix_nano and 0 < period_ns <= PERIOD_MAX_NS:
            fields["period_ns"] = period_ns
        fields |= {"t": span.end_time_unix_nano, "event_id": f"{span.trace_id.hex()}/{span.span_id.hex()}"}
        unit = record_of("unit", fields)
        assert isinstance(unit, Unit)  # noqa: S101 - parse makes a Unit of this kind
        return self._told.at_a_credible_time(unit, now_ns, unit.application)

    def _settled(self, changed: Iterable[_Call]) -> Iterator[Record]:
        """The units that the calls add or take back, now that the whole request is known."""
        for call in changed:
            if not call.is_beside and not call.is_counted:
                call.is_counted = True
                yield from call.units
            elif call.is_beside and call.is_counted:
                call.is_counted = False
                yield from (replace(unit, quantity=0.0) for unit in call.units)

    def _quality(self, of: Attributes, span: Any, scope: str, now_ns: int) -> Record:
        name, score = of["gen_ai.evaluation.name"], of.get("gen_ai.evaluation.score.value")
        if score is None:
            score = _SCORES.get(str(of.get("gen_ai.evaluation.score.label")).lower())
        if not isinstance(score, int | float) or not math.isfinite(score):
            raise RecordError("an evaluation has no gen_ai.evaluation.score.value")
        is_named = any(name in of for name in MODEL)
        whose = {} if is_named else self._evaluated_call(span)
        whose = whose or self._naming.who(of, scope, "span")
        fields = {key: whose[key] for key in ("model", "model_version", "run") if whose.get(key)}
        fields |= {"metric": name, "value": score, "sample_count": 1, "source": "span"}
        fields["t"] = of["t"]
        return self._told.at_a_credible_time(
            record_of("quality", fields), now_ns, str(of.get("service.name", ""))
        )

    def _evaluated_call(self, span: Any) -> dict[str, Any]:
        """The owner of the evaluated call: the nearest call at or above the span, else the only model's."""
        trace = self._traces.get(span.trace_id) or _Trace(0)
        for near in (span.span_id, *_ancestors(trace, span.span_id)):
            if near in trace.calls:
                return trace.calls[near].whose
        return next(iter(trace.models.values())) if len(trace.models) == 1 else {}


def _number(own: Attributes, name: str) -> float:
    if type(own[name]) not in (int, float):  # any other value must not be quoted
        raise RecordError(f"{name} is not a number")
    number: float = own[name]
    return number


def _ancestors(trace: _Trace, span: bytes) -> Iterator[bytes]:
    for _ in range(_DEPTH_MOST):
        span = trace.parents.get(span, b"")
        if not span:
            return
        yield span


def _evaluations(own: Attributes, span: Any) -> Iterator[Attributes]:
    """The attributes of each evaluation: the span's, or an event's, which take precedence over the span's."""
    if own.get("gen_ai.evaluation.name"):
        yield {**own, "t": span.end_time_unix_nano}
    whose = {name: value for name, value in own.items() if not name.startswith("gen_ai.evaluation.")}
    for event in span.events:
        found = attributes_of(event.attributes, _EVALUATION)
        if found.get("gen_ai.evaluation.name"):
            yield {**whose, **found, "t": event.time_unix_nano or span.end_time_unix_nano}
