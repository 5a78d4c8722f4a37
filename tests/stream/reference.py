"""The attribution of docs/attribution.md, in plain Python with fractions: slow and obvious.

It knows nothing of messages, marks or versions: it is told all that was ever read, and says what each
window's rows must be. Parts are exact fractions; the kernels' integers may differ by less than one unit
for each piece that a row sums.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from statistics import median_low

from tests.stream.learning_reference import (
    BLOCK_NS,
    BLOCKS_AHEAD,
    WATTS,
    WATTS_SD,
    Learned,
    by_counter,
    by_power,
    learn,
)

SECOND_NS = 1_000_000_000
POWER_HOLDS_NS = 600 * SECOND_NS
POLICIES = ("equal", "memory", "active")


@dataclass
class Sample:
    t: int
    energy_mj: int | None
    power_mw: int | None
    sm_percent: float | None = None


@dataclass
class Seen:
    t: int
    period_ns: int
    sm_percent: float | None
    memory_bytes: int | None


@dataclass
class Life:
    """A MIG instance from its first record to its last: what it is, and when it was seen how busy."""

    number: int
    slices: int
    begin: int
    end: int
    records: list[tuple[int, float | None]]


@dataclass
class History:
    """All that was read of one device."""

    samples: list[Sample]
    processes: dict[str, list[Seen]]
    exits: dict[str, int] = field(default_factory=dict)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    idle_mw: int = 77_700
    now: int = 0
    learned: dict[int, Learned] = field(default_factory=dict)
    lives: list[Life] = field(default_factory=list)
    instance_of: dict[str, int] = field(default_factory=dict)
    priors: dict[str, tuple[float, float]] = field(default_factory=dict)
    slices: int = 7


@dataclass
class Share:
    active_uj: Fraction = Fraction(0)
    active_ns: Fraction = Fraction(0)
    idle_uj: dict[str, Fraction] = field(default_factory=lambda: dict.fromkeys(POLICIES, Fraction(0)))
    time_ns: dict[str, Fraction] = field(default_factory=lambda: dict.fromkeys(POLICIES, Fraction(0)))


@dataclass
class Window:
    energy_uj: int
    covered_ns: int
    pieces: int
    is_learned: bool
    shares: dict[str, Share]


def missing(samples: list[Sample]) -> list[tuple[int, int]]:
    """Intervals longer than 1 s and than 5 median periods, of up to 16 intervals that end with it."""
    times = [sample.t for sample in samples]
    found = []
    for i in range(1, len(times)):
        recent = [times[k] - times[k - 1] for k in range(max(1, i - 15), i + 1)]
        length = times[i] - times[i - 1]
        if length > SECOND_NS and length > 5 * median_low(recent):
            found.append((times[i - 1], times[i]))
    return found


def energy_at(history: History, t: int) -> int:
    """Cumulative µJ at t, from the counter between its own changes; falls are bridged with power."""
    known = [sample for sample in history.samples if sample.energy_mj is not None]
    if not known:
        return power_energy_at(history, t)
    knots = [known[0]]
    for sample in known[1:]:
        if sample.energy_mj != knots[-1].energy_mj:
            knots.append(sample)
    total = 0
    for before, after in pairwise(knots):
        assert before.energy_mj is not None and after.energy_mj is not None
        gain = (after.energy_mj - before.energy_mj) * 1000
        if gain < 0:
            between = [s for s in history.samples if before.t <= s.t <= after.t and s.power_mw is not None]
            gain = sum(trapezoid(a, b) for a, b in pairwise(between) if b.t - a.t <= POWER_HOLDS_NS)
        if t < after.t:
            return total + gain * max(t - before.t, 0) // (after.t - before.t)
        total += gain
    return total + power_energy_after(history, known[-1], t)


def power_energy_after(history: History, last: Sample, t: int) -> int:
    """Power integrated from the counter's last reading on, for as long as there is none."""
    total = 0
    before = last
    for after in history.samples:
        if after.t <= last.t or after.power_mw is None:
            continue
        if before.power_mw is None:
            before = Sample(last.t, None, after.power_mw)
        gain = trapezoid(before, after)
        if t < after.t:
            return total + ramp(before, after, t)
        total += gain
        before = after
    return total


def power_energy_at(history: History, t: int) -> int:
    gaps = missing(history.samples) + history.gaps
    known = [sample for sample in history.samples if sample.power_mw is not None]
    total = 0
    for before, after in pairwise(known):
        in_gap = any(start < after.t and end > before.t for start, end in gaps)
        if t < after.t:
            return total + (0 if in_gap else ramp(before, after, t))
        total += 0 if in_gap else trapezoid(before, after)
    return total


def trapezoid(a: Sample, b: Sample) -> int:
    assert a.power_mw is not None and b.power_mw is not None
    return (a.power_mw + b.power_mw) * (b.t - a.t) // 2_000_000


def ramp(a: Sample, b: Sample, t: int) -> int:
    """Of the trapezoid, what is before t."""
    assert a.power_mw is not None and b.power_mw is not None
    low, above = min(a.power_mw, b.power_mw), abs(b.power_mw - a.power_mw)
    part, length = max(t - a.t, 0), b.t - a.t
    if b.power_mw < a.power_mw:
        part = length - part
    of_part = low * part // 1_000_000 + above * part // 2_000_000 * part // length
    if part == length:
        of_part = trapezoid(a, b)
    return trapezoid(a, b) - of_part if b.power_mw < a.power_mw else of_part


def holds(history: History, name: str) -> list[tuple[int, int]]:
    """When a process holds the device: from its first record - period to its exit, or to its last record if
    none follows for 3 periods."""
    spans: list[tuple[int, int]] = []
    records = history.processes[name]
    for i, record in enumerate(records):
        begin = record.t - record.period_ns
        if i > 0 and record.t - records[i - 1].t <= 3 * records[i - 1].period_ns:
            begin = records[i - 1].t
        spans.append((begin, record.t))
    last = records[-1]
    end = history.exits.get(name, 1 << 62)
    if min(history.now, end) <= last.t + 3 * last.period_ns:
        spans.append((last.t, 1 << 62))
    merged: list[tuple[int, int]] = []
    for begin, stop in spans:
        if begin >= end:
            continue
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(min(stop, end), merged[-1][1]))
        else:
            merged.append((begin, min(stop, end)))
    return merged


def uses(records: list[Seen]) -> list[tuple[int, int, float]]:
    """SM percent over (from, to], clipped where the record before has spoken."""
    found: list[tuple[int, int, float]] = []
    for record in records:
        if record.sm_percent is not None:
            begin = max(record.t - record.period_ns, found[-1][1] if found else 0)
            found.append((begin, record.t, record.sm_percent))
    return found


def memory_at(records: list[Seen], end: int) -> int:
    """What the first record at or after the end knows, else the last that knew."""
    following = [record for record in records if record.t >= end]
    if following and following[0].memory_bytes is not None:
        return following[0].memory_bytes
    before = [record.memory_bytes for record in records if record.t < end and record.memory_bytes is not None]
    return before[-1] if before else 0


def learned(history: History, block: int) -> Learned:
    """What is learned up to the end of a block."""
    if block in history.learned:
        return history.learned[block]
    samples = history.samples
    broken = missing(samples) + history.gaps
    counter = [(sample.t, sample.energy_mj) for sample in samples]
    draw = by_counter(counter)
    if all(mj is None for _, mj in counter):
        draw = by_power([(sample.t, sample.power_mw) for sample in samples])
    known = [(t, mj) for t, mj in counter if mj is not None]
    changes = [known[i] for i in range(len(known)) if i == 0 or known[i][1] != known[i - 1][1]]
    broken += [(a, b) for (a, before), (b, after) in pairwise(changes) if after < before]
    used = {name: uses(records) for name, records in history.processes.items()} | activities(history)
    parts = {f"i{life.number}": life.slices / history.slices for life in history.lives}
    priors = history.priors | {name: (WATTS * part, WATTS_SD * part) for name, part in parts.items()}
    found = learn(draw, (samples[0].t, samples[-1].t), broken, used, history.idle_mw / 1e3, block, priors)
    history.learned[block] = found
    return found


def window(history: History, begin: int, end: int) -> Window:
    """What the rows of [begin, end) must be, once it is final."""
    known = learned(history, (end - 1) // BLOCK_NS + BLOCKS_AHEAD)
    idle_mw = history.idle_mw if known.idle_w is None else int(known.idle_w * 1000)
    first, last = history.samples[0].t, history.samples[-1].t
    gaps = missing(history.samples) + history.gaps
    held = {name: holds(history, name) for name in history.processes}
    used = {
        name: [(a - known.shift_ns, b - known.shift_ns, percent) for a, b, percent in uses(records)]
        for name, records in history.processes.items()
    }
    active = {
        name: [(a - known.shift_ns, b - known.shift_ns, percent) for a, b, percent in spans]
        for name, spans in activities(history).items()
    }
    edges = {begin, end, first, last} | {t for gap in gaps for t in gap}
    edges |= {t for spans in held.values() for span in spans for t in span}
    edges |= {t for spans in (used | active).values() for span in spans for t in span[:2]}
    edges |= {t for life in history.lives for t in (life.begin, life.end)}
    for name, end_ns in history.exits.items():
        records = history.processes[name]
        if records[0].t - records[0].period_ns < end and records[-1].t + 3 * records[-1].period_ns > begin:
            edges.add(end_ns)
    cuts = sorted(t for t in edges if begin <= t <= end)
    names = [*history.processes, "unheld", "residual", *(f"unheld {life.number}" for life in history.lives)]
    result = Window(0, 0, 0, known.idle_w is not None, {name: Share() for name in names})
    for a, b in pairwise(cuts):
        if a < first or b > last:
            continue
        energy = energy_at(history, b) - energy_at(history, a)
        result.energy_uj += energy
        result.covered_ns += b - a
        result.pieces += 1
        if any(start < b and stop > a for start, stop in gaps):
            give(result.shares["residual"], energy, 0, b - a)
            continue
        present = [name for name, spans in held.items() if any(s <= a and e >= b for s, e in spans)]
        sm = {name: next((p for s, e, p in used[name] if s <= a and e >= b), 0.0) for name in present}
        live = [life for life in history.lives if life.begin <= a and life.end >= b]
        level_mw = idle_mw
        if present and not live and not any(sm.values()) and is_quiet(history, a, b):
            level_mw = max(idle_mw, int(2.5 * history.idle_mw))
        idle = min(energy, level_mw * (b - a) // 1_000_000)
        memory = {name: memory_at(history.processes[name], b) for name in present}
        watts = {name: known.watts.get(name, history.priors.get(name, (WATTS,))[0]) for name in present}
        whole = Part("unheld", Fraction(energy - idle), Fraction(idle), Fraction(b - a), present)
        parts = [whole]
        if live:
            busy = {
                f"i{life.number}": next(
                    (p for s, e, p in active.get(f"i{life.number}", []) if s <= a and e >= b), None
                )
                for life in live
            }
            parts = instances(history, live, busy, known.watts, whole, sm, watts, result)
        for part in parts:
            split(result, part, sm, watts, memory)
    return result


def is_quiet(history: History, begin: int, end: int) -> bool:
    """Whether the device says itself that nothing ran, up to its first reading at the end or after it."""
    samples = [sample for sample in history.samples if sample.t > begin]
    until = next(place for place, sample in enumerate(samples) if sample.t >= end)
    return all(sample.sm_percent == 0 for sample in samples[: until + 1])


@dataclass
class Part:
    """What a device, or an instance of it, used in a piece: of those who hold it, else of ``nobody``."""

    nobody: str
    active: Fraction
    idle: Fraction
    length: Fraction
    held_by: list[str]


def activities(history: History) -> dict[str, list[tuple[int, int, float]]]:
    """Percent of each MIG instance that was busy over (from, to]."""
    found: dict[str, list[Seen]] = {}
    for life in history.lives:
        times = [life.begin, *(t for t, _ in life.records)]
        for before, (t, percent) in zip(times, life.records, strict=False):
            seen = Seen(t, min(t - before, 60 * SECOND_NS), percent, None)
            found.setdefault(f"i{life.number}", []).append(seen)
    return {name: uses(records) for name, records in found.items()}


def instances(
    history: History, live: list[Life], busy: dict[str, float | None], learned_watts: dict[str, float],
    whole: Part, sm: dict[str, float], watts: dict[str, float], result: Window,
) -> list[Part]:  # fmt: skip
    """A piece by MIG instances, and what is in none: time and idle energy by slices, active energy by what
    each was seen to do, else its processes, in watts."""
    slices = max(history.slices, sum(life.slices for life in live))
    sizes = {life.number: life.slices for life in live}
    sizes[-1] = slices - sum(sizes.values())
    of = {name: history.instance_of[name] for name in whole.held_by}
    of = {name: number if number in sizes else -1 for name, number in of.items()}
    drawn: dict[int, Fraction] = {}
    for number, size in sizes.items():
        percent = busy.get(f"i{number}")
        if percent is not None:
            drawn[number] = Fraction(percent) * Fraction(
                learned_watts.get(f"i{number}", WATTS * size / history.slices)
            )
        else:
            own = [Fraction(sm[name]) * Fraction(watts[name]) for name in of if of[name] == number]
            drawn[number] = sum(own, Fraction(0)) * size / slices
    total, held = sum(drawn.values()), {number for number in of.values() if sizes[number]}
    if not total and len(held) > 1:
        result.shares["residual"].active_uj += whole.active
    parts = []
    for number, size in sizes.items():
        share = Fraction(size, slices)
        if total:
            share = drawn[number] / total
        elif len(held) == 1:
            share = Fraction(number in held)
        elif held:
            share = Fraction(0)
        own_names = [name for name in whole.held_by if of[name] == number]
        percent = busy.get(f"i{number}")
        if len(own_names) == 1 and percent is not None:
            sm[own_names[0]] = percent
        nobody = "unheld" if number == -1 else f"unheld {number}"
        by_size = Fraction(size, slices)
        parts.append(
            Part(nobody, whole.active * share, whole.idle * by_size, whole.length * by_size, own_names)
        )
    return parts


def split(
    result: Window, part: Part, sm: dict[str, float], watts: dict[str, float], memory: dict[str, int]
) -> None:
    """To whom it is held by: nobody, one, or several."""
    if not part.held_by:
        give(result.shares[part.nobody], 0, part.active + part.idle, part.length)
    elif len(part.held_by) == 1:
        share = result.shares[part.held_by[0]]
        give(share, part.active, part.idle, part.length)
        share.active_ns += min(Fraction(sm[part.held_by[0]]) * part.length / 100, part.length)
    else:
        divide(result, part, sm, watts, memory)


def give(share: Share, active: Fraction | int, idle: Fraction | int, length: Fraction | int) -> None:
    share.active_uj += active
    for policy in POLICIES:
        share.idle_uj[policy] += idle
        share.time_ns[policy] += length


def divide(
    result: Window, part: Part, sm: dict[str, float], watts: dict[str, float], memory: dict[str, int]
) -> None:
    """A part with several holders: active by watts × SM time, idle energy and time by policy."""
    present, length = part.held_by, part.length
    work = {name: Fraction(sm[name]) * length / 100 for name in present}
    total, works = sum(work.values(), Fraction(0)), any(sm[name] for name in present)
    if total > length:
        work = {name: value * length / total for name, value in work.items()}
    for name in present:
        result.shares[name].active_ns += work[name]
        if works:
            drawn = {name: Fraction(sm[name]) * Fraction(watts[name]) for name in present}
            result.shares[name].active_uj += part.active * drawn[name] / sum(drawn.values())
        for policy in POLICIES:
            weights: dict[str, Fraction] = {}
            if policy != "equal":
                weights = {k: Fraction((memory if policy == "memory" else sm)[k]) for k in present}
            whole = sum(weights.values(), Fraction(0))
            share = weights[name] / whole if whole else Fraction(1, len(present))
            result.shares[name].idle_uj[policy] += part.idle * share
            result.shares[name].time_ns[policy] += work[name] + (length - sum(work.values())) * share
    if not works:
        result.shares["residual"].active_uj += part.active
