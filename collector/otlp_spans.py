"""Units and qualities out of OTLP spans: one request, and its tokens, of each call of a model.

A span that carries the sum of what its children carry must not count beside them. So a call counts only while
no call below it, of the same source, is known in its trace: its children come in the same request or an
earlier one, for they end first, and a trace is remembered for ten minutes. A child that comes later all the
same takes its parent back: the parent is told again, by its event_id, with a quantity of 0. A gateway's span
below an application's takes nothing back: between sources the store decides, minute by minute
(docs/intake.md).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from wattribute.collector.otlp import INFERENCE, MODEL, WHO, Attributes, Naming, Reading, attributes_of
from wattribute.collector.told import Told, record_of
from wattribute.errors import RecordError
from wattribute.records import PERIOD_MAX_NS, Record, Unit

# unit -> the attributes that may hold it, the newest name first
_USAGE: Final = {
    "input_tokens": ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
    "output_tokens": ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"),
    "cached_tokens": ("gen_ai.usage.cache_read.input_tokens",),
    "reasoning_tokens": ("gen_ai.usage.reasoning.output_tokens",),
}
_EVALUATION: Final = frozenset(
    (
        *("gen_ai.evaluation.name", "gen_ai.evaluation.score.value", "gen_ai.evaluation.score.label"),
        *(*MODEL, "wattribute.model_version", "wattribute.run"),
    )
)
_NAMES: Final = frozenset(
    (*WHO, *_EVALUATION, *(name for names in _USAGE.values() for name in names), "gen_ai.operation.name")
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
    """A span that calls a model, and what it counts. ``is_beside``: another call counts the same."""

    source: str
    whose: dict[str, Any]
    units: Sequence[Unit]
    has_usage: bool
    is_beside: bool = False
    is_counted: bool = False


@dataclass(slots=True)
class _Trace:
    """The spans of a trace, and what they know of those above and below them: so that a span that comes is
    put in its place without looking at all others, of which there may be many."""

    seen_ns: int
    parents: dict[bytes, bytes] = field(default_factory=dict)
    calls: dict[bytes, _Call] = field(default_factory=dict)
    below: dict[bytes, frozenset[str]] = field(default_factory=dict)  # sources of calls with usage below it
    without: dict[bytes, list[_Call]] = field(default_factory=dict)  # below, when nothing above it is known
    models: dict[Any, dict[str, Any]] = field(
        default_factory=dict
    )  # whose calls of a model are, of two of them

    def put(self, span: bytes, parent: bytes, call: _Call | None) -> list[_Call]:
        """Put a span in its place; the calls that this is news of."""
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
        """Forget a span, and what was kept for one above it that has not come."""
        span = next(iter(self.parents))
        parent = self.parents.pop(span)
        self.calls.pop(span, None)
        for gone in (span, parent):
            if gone not in self.parents:
                self.below.pop(gone, None)
                self.without.pop(gone, None)


def _passing(without: list[_Call], above: _Call, changed: list[_Call]) -> list[_Call]:
    """The calls without usage that pass a call above them: one of their source counts in their place."""
    for call in without:
        if call.source == above.source and not call.is_beside:
            call.is_beside = True
            changed.append(call)
    return [call for call in without if call.source != above.source]


class SpanReader:
    """Reads requests of traces; remembers the calls of recent ones."""

    def __init__(self, naming: Naming, told: Told) -> None:
        self._naming, self._told = naming, told
        self._traces: OrderedDict[bytes, _Trace] = OrderedDict()
        self._spans = 0

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
        """Remember a span; the calls that it is news of, itself or others."""
        if len(span.trace_id) != 16 or len(span.span_id) != 8:
            raise RecordError("a span without trace_id and span_id")
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
        except RecordError as error:  # it has its place between others all the same
            problem = error
        changed = trace.put(span.span_id, span.parent_span_id, call)
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
        """The call that a span is, where it is one. Raises RecordError."""
        usage = {
            unit: _number(own, name) for unit, names in _USAGE.items() for name in names[::-1] if name in own
        }
        operation = own.get("gen_ai.operation.name")
        if operation not in INFERENCE if operation else not usage:
            return None
        whose = self._naming.who(own, scope, "span")
        if span.kind == Span.SPAN_KIND_SERVER and own.get("k8s.pod.name"):
            whose["pod"] = own[
                "k8s.pod.name"
            ]  # it serves the model itself: this is the serving process's pod
        counted: dict[str, Any] = dict(usage)
        if usage or span.status.code != Status.STATUS_CODE_ERROR:
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
        assert isinstance(unit, Unit)  # noqa: S101 - what parse makes of this kind
        return self._told.at_a_credible_time(unit, now_ns, unit.application)

    def _settled(self, changed: Iterable[_Call]) -> Iterator[Record]:
        """What the calls count, now that all of a request is known."""
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
            raise RecordError("an evaluation without gen_ai.evaluation.score.value")
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
        """Whose the call is that an evaluation is about: the nearest above its span, else the only one."""
        trace = self._traces.get(span.trace_id) or _Trace(0)
        for near in (span.span_id, *_ancestors(trace, span.span_id)):
            if near in trace.calls:
                return trace.calls[near].whose
        return next(iter(trace.models.values())) if len(trace.models) == 1 else {}


def _number(own: Attributes, name: str) -> float:
    if type(own[name]) not in (int, float):  # whatever else it is, is not to be quoted
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
    """The attributes of each evaluation: of the span, and of its events over those of the span."""
    if own.get("gen_ai.evaluation.name"):
        yield {**own, "t": span.end_time_unix_nano}
    whose = {name: value for name, value in own.items() if not name.startswith("gen_ai.evaluation.")}
    for event in span.events:
        found = attributes_of(event.attributes, _EVALUATION)
        if found.get("gen_ai.evaluation.name"):
            yield {**whose, **found, "t": event.time_unix_nano or span.end_time_unix_nano}
