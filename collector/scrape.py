"""From readings of a server's counters to the units that came out in between.

A counter counts since its server began, so the units of an interval are the difference of two readings; a
failed reading in between costs nothing, because the next one includes it. A server that restarts resets its
counters: the old ones close a segment, and the new values came out since. A counter that falls without a
restart was reset alone, or with those of its model. What came out between the last reading and a reset is
unknown and not reported: no ``observed_ns`` covers that time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from wattribute.collector.engines import Reading, Series, Served
from wattribute.records import PERIOD_MAX_NS, Quality, Record, Unit

SOURCE: Final = "engine"
OBSERVED: Final = "observed_ns"
"""The unit whose quantity is the time that the server's other units cover."""
_QUANTILES: Final = {"p50": 0.5, "p95": 0.95}


@dataclass(frozen=True, slots=True, kw_only=True)
class Whose:
    """Owner fields of a server's units; '' leaves the value that the server itself gives."""

    pid: int | None = None
    start_ns: int | None = None
    pod: str = ""
    application: str = ""
    phase: str = "inference"
    model: str = ""
    model_version: str = ""
    run: str = ""
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """What came out in (begin_ns, end_ns]: complete, except for models with a counter that ``fell``."""

    begin_ns: int
    end_ns: int
    fell: frozenset[Served]
    counts: Mapping[Series, float]
    buckets: Mapping[tuple[Series, float], float]


class Tally:
    """Follows the counters of one server. ``since_ns`` is when watching began: if the server began later, all
    that it has counted is new; otherwise its first values are only the base. ``silent_ns``: when it was last
    known not to answer, so that all that it has counted came out since."""

    def __init__(self, since_ns: int, silent_ns: int = 0) -> None:
        self._since_ns = since_ns
        self._silent_ns = silent_ns
        self._read_ns: int | None = None
        self._start_ns: int | None = None
        self._counts: dict[Series, float] = {}
        self._buckets: dict[tuple[Series, float], float] = {}

    def take(self, t: int, reading: Reading, start_ns: int | None) -> Interval | None:
        """What came out since the previous reading; None where that is not known. ``start_ns``: when the
        server began; None: not known."""
        last_ns, self._read_ns = self._read_ns, t
        known_start_ns, self._start_ns = self._start_ns, start_ns
        began_anew = last_ns is None or start_ns != known_start_ns
        if began_anew:
            self._counts, self._buckets = {}, {}
        fell = self._begin_anew(reading)
        counts = self._grown(reading)
        buckets = {
            series: value - self._buckets.get(series, 0.0) for series, value in reading.buckets.items()
        }
        # A counter that is missing in one reading is kept: when it comes back, only its growth counts.
        self._counts.update(reading.counts)
        self._buckets.update(reading.buckets)
        begin_ns = last_ns
        if began_anew:
            watched_ns = self._since_ns if last_ns is None else last_ns
            if start_ns is None or start_ns < watched_ns:  # an unknown server, or one from before watching
                return None
            begin_ns = max(start_ns, self._silent_ns)
        if begin_ns is None or not 0 < t - begin_ns <= PERIOD_MAX_NS:  # no record may cover more
            return None
        return Interval(begin_ns, t, fell, counts, buckets)

    def belongs_to(self, start_ns: int | None) -> None:
        """Assign the readings so far to the server that began at ``start_ns``, unless it began after them:
        its counters continue. None: the server is not known, and only falling counters show a restart."""
        if self._read_ns is not None and (start_ns is None or start_ns < self._read_ns):
            self._start_ns = start_ns

    def _grown(self, reading: Reading) -> dict[Series, float]:
        """How much each counter grew. A new counter began at 0, unless another metric has counted its unit so
        far: then its value is already counted."""
        metrics: dict[str, set[str]] = {}
        for unit, _, labels in self._counts:
            metrics.setdefault(unit, set()).add(labels[0])
        grown: dict[Series, float] = {}
        for series, value in reading.counts.items():
            unit, _, labels = series
            known = self._counts.get(series, 0.0 if labels[0] in metrics.get(unit, {labels[0]}) else value)
            grown[series] = value - known
        return grown

    def _begin_anew(self, reading: Reading) -> frozenset[Served]:
        """Reset counters that fell to 0; return their models. If at least as many of a model's counters fell
        as did not, all of them are reset: after a restart, a fast one may be above its old value already."""
        both: Sequence[tuple[dict[Any, float], Mapping[Any, float], Callable[[Any], Served]]] = (
            (self._counts, reading.counts, lambda series: series[1]),
            (self._buckets, reading.buckets, lambda bucket: bucket[0][1]),
        )
        fell: Counter[Served] = Counter()
        stood: Counter[Served] = Counter()
        for known, now, served in both:
            for key, value in now.items():
                if before := known.get(key):
                    (fell if value < before else stood)[served(key)] += 1
        for known, now, served in both if fell else ():
            for key, before in known.items():
                of = served(key)
                if now.get(key, before) < before or (of in fell and fell[of] >= stood[of]):
                    known[key] = 0.0
        return frozenset(fell)


def units(interval: Interval, whose: Whose, name: str) -> list[Record]:
    """The units of an interval, by model and version, and the time that they cover. ``name`` is unique to the
    server, so units that are sent twice count once."""
    period_ns = interval.end_ns - interval.begin_ns
    several = _several(series[1] for series in interval.counts)
    fell = {_named(served, whose, several) for served in interval.fell}
    totals: dict[tuple[str, Served], float] = {}
    for (unit, served, _), quantity in interval.counts.items():
        of = _named(served, whose, several)
        totals[unit, of] = totals.get((unit, of), 0.0) + quantity
        if of not in fell:
            totals[OBSERVED, of] = float(period_ns)
    return [
        Unit(
            t=interval.end_ns,
            period_ns=period_ns,
            unit=unit,
            quantity=quantity,
            source=SOURCE,
            pid=whose.pid,
            start_ns=whose.start_ns,
            pod=whose.pod,
            application=whose.application,
            phase=whose.phase,
            model=of.model,
            model_version=of.model_version,
            run=whose.run,
            attempt=whose.attempt,
            event_id=f"{name} {of.model_version} {interval.end_ns}",
        )
        for (unit, of), quantity in totals.items()
        if quantity > 0
    ]


def _several(served: Iterable[Served]) -> bool:
    return len({one.model for one in served}) > 1


def _named(served: Served, whose: Whose, several: bool) -> Served:
    """Model and version. A tag or a setting can name a server's only model, but not one of several."""
    if several:
        return served
    return Served(whose.model or served.model, whose.model_version or served.model_version)


@dataclass(slots=True)
class Latencies:
    """The histograms of a server, summed over intervals."""

    begin_ns: int | None = None
    buckets: dict[tuple[str, Served], dict[float, float]] = field(default_factory=dict)

    def add(self, interval: Interval) -> None:
        """Add an interval."""
        if self.begin_ns is None:
            self.begin_ns = interval.begin_ns
        for ((latency, served, _), bound), count in interval.buckets.items():
            of = self.buckets.setdefault((latency, served), {})
            of[bound] = of.get(bound, 0.0) + count

    def told(self, t: int, whose: Whose) -> list[Record]:
        """Median and 95th percentile of the intervals so far, which are forgotten; [] without requests."""
        taken, self.buckets, self.begin_ns = self.buckets, {}, None
        several = _several(served for _, served in taken)
        sums: dict[tuple[str, Served], dict[float, float]] = {}
        for (latency, served), buckets in taken.items():
            of = sums.setdefault((latency, _named(served, whose, several)), {})
            for bound, count in buckets.items():
                of[bound] = of.get(bound, 0.0) + count
        return [
            Quality(
                t=t,
                model=served.model,
                model_version=served.model_version,
                run=whose.run,
                metric=f"{latency}_{name}_s",
                value=quantile(buckets, part),
                higher_is_better=False,
                sample_count=round(buckets[math.inf]),
                source=SOURCE,
            )
            for (latency, served), buckets in sums.items()
            if buckets.get(math.inf, 0.0) > 0
            for name, part in _QUANTILES.items()
        ]


def quantile(buckets: Mapping[float, float], part: float) -> float:
    """The value below which ``part`` of the observations lie, from the cumulative count at each upper bound.

    As in Prometheus' histogram_quantile, observations are spread evenly within a bucket, and the first bucket
    begins at 0; those above the last finite bound are taken to be at that bound."""
    bounds = sorted(buckets)
    rank = part * buckets[bounds[-1]]
    below, lower = 0.0, 0.0
    for bound in bounds:
        count = max(buckets[bound], below)  # a sum over engines with different bounds might fall
        if count >= rank:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (rank - below) / (count - below)
        below, lower = count, bound if not math.isinf(bound) else lower
    return lower
