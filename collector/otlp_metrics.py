"""Units from OTLP metrics: the token counters of gen_ai, and the histograms that preceded them.

A cumulative series counts what it gained since its last point. A series with another start time is a separate
one, after a restart or from another worker with the same attributes, and counts in addition. A value that
fell is a reset: the new value counts whole. If a series began before this collector, its first point is only
the base: an earlier collector has counted what came before. But if its metric was exported to this collector
without it, it was 0 at that time, because a cumulative metric exports all of its series each time.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, DataPointFlags

from wattribute.collector.otlp import SUMS, WHO, Attributes, Naming, Reading, attributes_of
from wattribute.collector.told import Told, clock_off_ns, record_of
from wattribute.errors import RecordError
from wattribute.records import PERIOD_MAX_NS, Unit

_USAGE: Final = "gen_ai.client.inference.usage."
_COUNTERS: Final = {  # metric -> unit
    f"{_USAGE}input_tokens": "input_tokens",
    f"{_USAGE}output_tokens": "output_tokens",
    f"{_USAGE}cache_read.input_tokens": "cached_tokens",
    f"{_USAGE}reasoning.output_tokens": "reasoning_tokens",
}
_OLDER: Final = "gen_ai.client.token.usage"
_TOKEN_TYPES: Final = {"input": "input_tokens", "output": "output_tokens"}
_SERVED: Final = "gen_ai.server.request.duration"
_NAMES: Final = frozenset((*WHO, "gen_ai.token.type", "gen_ai.operation.name"))
_SERIES_MOST: Final = 20_000
_FORGET_NS: Final = 3_600_000_000_000  # a series without points for this long may be replaced by another


@dataclass(slots=True)
class _Series:
    t: int
    value: float
    seen_ns: int


class MetricReader:
    """Reads metrics requests; remembers each cumulative series. ``began_ns`` is when the collector began."""

    def __init__(self, naming: Naming, told: Told, began_ns: int) -> None:
        self._naming, self._told, self._began_ns = naming, told, began_ns
        self._series: OrderedDict[tuple[bytes, int], _Series] = OrderedDict()  # by its key and start
        self._newer: OrderedDict[bytes, int] = OrderedDict()  # resources with the newer counters, last seen
        # By metric and start: the time of its last export in an earlier request, and in the current one.
        self._told_ns: OrderedDict[tuple[bytes, int], int] = OrderedDict()
        self._telling_ns: dict[tuple[bytes, int], int] = {}

    def read(self, request: Any, now_ns: int) -> Reading:
        """The units of a request that was received at ``now_ns``."""
        reading = Reading()
        for resource in request.resource_metrics:
            key = _digest(resource.resource.attributes)
            owner = attributes_of(resource.resource.attributes, WHO)
            if any(m.name in _COUNTERS for scope in resource.scope_metrics for m in scope.metrics):
                self._newer[key] = now_ns
                if len(self._newer) > _SERIES_MOST:
                    self._newer.popitem(last=False)
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name in _COUNTERS or metric.name in (_OLDER, _SERVED):
                        place = key + scope.scope.name.encode() + b"\0" + metric.name.encode()
                        self._metric(reading, metric, (place, owner, scope.scope.name), now_ns)
        self._told_ns.update(self._telling_ns)
        for telling in self._telling_ns:
            self._told_ns.move_to_end(telling)
        self._telling_ns.clear()
        while len(self._told_ns) > _SERIES_MOST:
            self._told_ns.popitem(last=False)
        return reading

    def _metric(self, reading: Reading, metric: Any, of: tuple[bytes, Attributes, str], now_ns: int) -> None:
        place, owner, scope = of
        kind = metric.WhichOneof("data")
        expected = ("sum",) if metric.name in _COUNTERS else ("histogram", "exponential_histogram")
        points = getattr(metric, kind).data_points if kind else ()
        if kind not in expected:
            reading.rejected[f"{metric.name} is not a {expected[0]}"] += len(points) or 1
            return
        if metric.name == _OLDER and self._newer.get(place[:16], 0) > now_ns - _FORGET_NS:
            return  # the newer counters count the same
        whole = getattr(metric, kind)
        delta = whole.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
        cumulative = (
            whole.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        )
        if not (delta or cumulative) or (kind == "sum" and not whole.is_monotonic):
            reading.rejected[f"{metric.name} is neither a delta nor a cumulative counter"] += len(points)
            return
        for point in points:
            if point.flags & DataPointFlags.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK:
                continue
            own = owner | attributes_of(point.attributes, _NAMES)
            if own.get("gen_ai.operation.name") in SUMS:
                continue  # an agent's sum: its calls are counted themselves
            try:
                value = _value(metric.name, point)
                fields = self._naming.who(own, scope, "client") | {"unit": _unit_of(metric.name, own)}
                key = _hashed(place + _digest(point.attributes))
                gained = (
                    (point.start_time_unix_nano, value)
                    if delta
                    else self._gain(_hashed(place), key, point, value, now_ns)
                )
                if gained is None:
                    continue
                reading.records.append(self._unit(fields, key, point, gained, now_ns))
            except RecordError as error:
                reading.rejected[str(error)] += 1

    def _unit(
        self, fields: dict[str, Any], key: bytes, point: Any, gained: tuple[int, float], now_ns: int
    ) -> Unit:
        since, quantity = gained
        period_ns = point.time_unix_nano - since if since else 0
        fields |= {"t": point.time_unix_nano, "quantity": quantity}
        fields["event_id"] = f"{key.hex()}/{point.start_time_unix_nano}/{point.time_unix_nano}"
        if period_ns > 0:
            fields["period_ns"] = min(period_ns, PERIOD_MAX_NS)
        unit = record_of("unit", fields)
        assert isinstance(unit, Unit)  # noqa: S101 - parse makes a Unit of this kind
        return self._told.at_a_credible_time(unit, now_ns, unit.application)

    def _gain(
        self, metric: bytes, key: bytes, point: Any, value: float, now_ns: int
    ) -> tuple[int, float] | None:
        """Since when and by how much a series grew; None where that is not known, or was counted before."""
        start, t = point.start_time_unix_nano, point.time_unix_nano
        if not value >= 0:  # NaN too
            raise RecordError(f"quantity {value} is below 0")
        self._telling_ns[metric, start] = max(t, self._telling_ns.get((metric, start), 0))
        known = self._series.get((key, start))
        if known is None:
            self._make_room(now_ns)
            self._series[key, start] = _Series(t, value, now_ns)
            # A series older than this collector has no base yet, unless its metric was exported without it.
            if start - clock_off_ns(t, now_ns) < self._began_ns:
                told_ns = self._told_ns.get((metric, start), t) if start else t
                return (told_ns, value) if told_ns < t else None
            return start, value
        self._series.move_to_end((key, start))
        known.seen_ns = now_ns
        if t <= known.t:
            self._told.health.repeated += 1
            return None
        since, before = known.t, known.value
        known.t, known.value = t, value
        return since, value - before if value >= before else value

    def _make_room(self, now_ns: int) -> None:
        if len(self._series) < _SERIES_MOST:
            return
        oldest, series = next(iter(self._series.items()))
        if now_ns - series.seen_ns < _FORGET_NS:
            raise RecordError(f"more than {_SERIES_MOST:,} series at once: send fewer attributes")
        del self._series[oldest]
        # If the series comes back, what it has counted must not count again.
        self._began_ns = max(self._began_ns, oldest[1] + 1)
        self._told_ns.clear()


def _value(name: str, point: Any) -> float:
    """What a point has counted so far, or since the last one."""
    if name == _SERVED:
        return float(point.count)
    if name != _OLDER:
        return float(getattr(point, point.WhichOneof("value") or "as_int"))
    if not point.HasField("sum"):
        raise RecordError(f"{_OLDER} without a sum")
    return float(point.sum)


def _unit_of(name: str, attributes: Attributes) -> str:
    """The unit that a metric counts; of the older one, the attributes of each point say which."""
    if name == _SERVED:
        return "requests"
    if name != _OLDER:
        return _COUNTERS[name]
    found = _TOKEN_TYPES.get(str(attributes.get("gen_ai.token.type")))
    if found is None:
        raise RecordError(f"{_OLDER} with a gen_ai.token.type that is neither input nor output")
    return found


def _digest(attributes: Iterable[Any]) -> bytes:
    parts = sorted((item.key, item.value.SerializeToString()) for item in attributes)
    return _hashed(repr(parts).encode())


def _hashed(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()
