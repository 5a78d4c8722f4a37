"""From what a server's counters say now and then to what came out in between.

A counter tells of all since its server began. What happened in a time is the difference of two readings; a
reading that failed in between costs nothing, for the next one knows. Where a server began anew its counters
did too: they close a segment, and what they show after it came out since. A counter that falls without that
began anew by itself, or with those of its model. What came out between the last reading and the end of a
counter nobody knows, and nobody is told: no ``observed_ns`` covers that time.
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
"""The unit that says which time the other units of a server are known for."""
_QUANTILES: Final = {"p50": 0.5, "p95": 0.95}


@dataclass(frozen=True, slots=True, kw_only=True)
class Whose:
    """What is said of a server's units beside what it says itself; '' leaves that."""

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
    """What came out in (begin_ns, end_ns]: all of it, but for models a counter of which ``fell``."""

    begin_ns: int
    end_ns: int
    fell: frozenset[Served]
    counts: Mapping[Series, float]
    buckets: Mapping[tuple[Series, float], float]


class Tally:
    """Follows the counters of one server. ``since_ns`` is when watching began: of one that began later all
    that it ever counted is news; of others what they show first is history. ``silent_ns``: when it was last
    known not to answer, so that what it counted came out since."""

    def __init__(self, since_ns: int, silent_ns: int = 0) -> None:
        self._since_ns = since_ns
        self._silent_ns = silent_ns
        self._read_ns: int | None = None
        self._start_ns: int | None = None
        self._counts: dict[Series, float] = {}
        self._buckets: dict[tuple[Series, float], float] = {}

    def take(self, t: int, reading: Reading, start_ns: int | None) -> Interval | None:
        """What came out since the reading before; None where that is not known. ``start_ns``: when the server
        began; None: not known."""
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
        # One that is missing for once keeps its place: when it comes back it is not news.
        self._counts.update(reading.counts)
        self._buckets.update(reading.buckets)
        begin_ns = last_ns
        if began_anew:
            watched_ns = self._since_ns if last_ns is None else last_ns
            if start_ns is None or start_ns < watched_ns:  # another server, or one that was there before
                return None
            begin_ns = max(start_ns, self._silent_ns)
        if begin_ns is None or not 0 < t - begin_ns <= PERIOD_MAX_NS:  # no record tells of more
            return None
        return Interval(begin_ns, t, fell, counts, buckets)

    def belongs_to(self, start_ns: int | None) -> None:
        """What was read was of the server that began then, unless that began later: it goes on counting.
        None: nobody knows of whom; counters that fall will tell."""
        if self._read_ns is not None and (start_ns is None or start_ns < self._read_ns):
            self._start_ns = start_ns

    def _grown(self, reading: Reading) -> dict[Series, float]:
        """What each counter grew by. One that was not there before began at 0, unless its unit was counted by
        another metric until now: then what it shows has been counted."""
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
        """Let counters that fell begin at 0; the models of which they are. At least as many of a model's that
        fell as stood are all of them: after a restart one that grows fast may stand above its old value."""
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
    """The units of an interval, by what they are of, and the time that they are known for. ``name`` tells
    the server apart from all others: told again, they count once."""
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
    """Model and version: a tag or a setting names the one model of a server, but not each of several."""
    if several:
        return served
    return Served(whose.model or served.model, whose.model_version or served.model_version)


@dataclass(slots=True)
class Latencies:
    """The histograms of a server, summed over intervals."""

    begin_ns: int | None = None
    buckets: dict[tuple[str, Served], dict[float, float]] = field(default_factory=dict)

    def add(self, interval: Interval) -> None:
        """Take in an interval."""
        if self.begin_ns is None:
            self.begin_ns = interval.begin_ns
        for ((latency, served, _), bound), count in interval.buckets.items():
            of = self.buckets.setdefault((latency, served), {})
            of[bound] = of.get(bound, 0.0) + count

    def told(self, t: int, whose: Whose) -> list[Record]:
        """Median and 95th percentile of what was taken in, which is forgotten; of no request, nothing."""
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
    """The value below which ``part`` of the observations lie, by cumulative count at each upper bound.

    As Prometheus' histogram_quantile has it: evenly spread within a bucket, the first of which begins at 0;
    what lies above the last finite bound is taken to lie on it."""
    bounds = sorted(buckets)
    rank = part * buckets[bounds[-1]]
    below, lower = 0.0, 0.0
    for bound in bounds:
        count = max(buckets[bound], below)  # summed over engines whose bounds differ it might fall
        if count >= rank and count > below:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (rank - below) / (count - below)
        below, lower = count, bound if not math.isinf(bound) else lower
    return lower
