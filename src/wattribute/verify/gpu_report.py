"""Evaluate a recording of the plan on a real GPU: how its sensors behave, what an iteration of each load
costs, and how far attribution and simpler methods are from that.

No meter shows what a process on a GPU used. But each load does the same work per second in every mix, so the
power of the mixes shows what each load adds to each mix, averaged over all orders in which the loads may be
added: its Shapley value. Where loads go on and off, the cost of an iteration is averaged over the mixes that
worked. That cost times the iterations, scaled to what the device used above idle, is the truth. So the shares
are as exact as a mix draws the same power again; the watts are as right as the device's own counter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from math import ceil, factorial, floor, sqrt
from statistics import fmean
from typing import Final, NamedTuple

import numpy as np

from wattribute.errors import WattributeError
from wattribute.records import Device, Gap, Gpu, Process, Record, Run, Unit, Workload
from wattribute.verify.gpu_plan import LOADS, SECONDS_MOST, UNIT, Plan, Step, plan
from wattribute.verify.gpu_sensors import COUNTER, Sensors, Signal
from wattribute.verify.memory_sink import Table
from wattribute.verify.methods import SIMPLER, Seen, by_the_stream, replayed, seen
from wattribute.verify.recording import ProcessKey
from wattribute.verify.score import OURS, Score, score

RUN: Final = "wattribute verify --gpu"
FROM_NOTHING: Final = f"{OURS}, from nothing"
"""The method, if it sees nothing but the switched step."""

_ERROR_MOST: Final = 0.05
_WORST_MOST: Final = 0.10
_OF_KEPLERS_MOST: Final = 0.5
_HALVES_MOST: Final = 0.01
_POWER_MOST: Final = 0.01
_UNEVEN_MOST: Final = 0.02
_PHASE_MOST: Final = 0.05
_STANDS_OUT: Final = 3.0
"""A load must add more power to a mix than this times what mixes vary by between their halves. By chance that
happens once in 10^9: a mean of both halves is twice as sure, and nine mixes show how sure."""

_S: Final = 1_000_000_000
_LOOK_S: Final = 0.01
_DEVICE_HOLE_NS: Final = _S
_PROCESS_HOLE_NS: Final = 5 * _S

Joules = Mapping[frozenset[str], Mapping[str, float]]
"""The energy of an iteration of each load, in every mix."""


class Mix(NamedTuple):
    """The power of the device while these loads worked, and the iterations per second of each."""

    loads: tuple[str, ...]
    watts: float
    rates: Mapping[str, float]


class Switched(NamedTuple):
    """The step in which each load goes on and off independently. ``used_j``: the energy of each load by the
    mixes; ``found_j``: by attribution. ``scores``: by method. ``halves_ratio``: how much more power loads
    draw for the same work in its first half than in its second."""

    used_j: Mapping[str, float]
    found_j: Mapping[str, float]
    scores: Mapping[str, Score]
    halves_ratio: float
    is_conserved: bool


@dataclass(frozen=True, slots=True)
class Report:
    """``joules``: the energy of an iteration of each load, while all work. ``uneven_ratio``: how much the
    work per second of a load differs in a mix. ``power_ratio``: integrated power ÷ the counter, over the
    mixes; None without power."""

    gpu_model: str
    seconds: int
    nobody_w: float
    contexts_w: float
    cold_w: float
    warm_w: float
    signals: Mapping[str, Signal]
    mixes: Sequence[Mix]
    joules: Mapping[str, float]
    uneven_ratio: float
    power_ratio: float | None
    switched: Switched

    def checks(self) -> list[Check]:
        """The checks that must be met."""
        scores = self.switched.scores
        ours, keplers = scores[OURS], scores["Kepler's form"].error_ratio
        of_keplers = ours.error_ratio / keplers if keplers else float("inf")
        return [
            Check("energy of the loads is off by", ours.error_ratio, _ERROR_MOST),
            Check("energy of the worst load is off by", ours.worst_ratio, _WORST_MOST),
            Check("our error ÷ the error of Kepler's form", of_keplers, _OF_KEPLERS_MOST),
            Check("work per second differs between mixes by", self.uneven_ratio, _UNEVEN_MOST),
            Check("the same work draws more in one half by", abs(self.switched.halves_ratio), _HALVES_MOST),
            Check(
                "the counter changes with the phase of a load by",
                self.signals[COUNTER].phase_ratio,
                _PHASE_MOST,
            ),
            *(
                []
                if self.power_ratio is None
                else [Check("power and the counter differ by", abs(self.power_ratio - 1), _POWER_MOST)]
            ),
            Check("windows that do not add up", float(not self.switched.is_conserved), 0.0),
        ]


class Check(NamedTuple):
    """A figure, and its limit."""

    what: str
    ratio: float
    most: float

    @property
    def is_met(self) -> bool:
        """Whether the figure is within its limit."""
        return self.ratio <= self.most


def report(records: Sequence[Record]) -> Report:
    """Evaluate a recording. Raises WattributeError if it is not of the whole plan on one device."""
    return _Recorded(records).report()


def shapley(value: Mapping[frozenset[str], float]) -> dict[str, float]:
    """What each player adds to the value of the whole set, averaged over all orders in which they may come.
    ``value`` has the value of every set (Shapley, 1953)."""
    players = max(value, key=len)
    n = len(players)
    found = {}
    for player in players:
        others = players - {player}
        found[player] = sum(
            factorial(size) * factorial(n - size - 1) / factorial(n)
            * (value[frozenset(before) | {player}] - value[frozenset(before)])
            for size in range(n)
            for before in combinations(others, size)
        )  # fmt: skip
    return found


class _Recorded:
    """A recording that was checked, and what can be asked of it."""

    def __init__(self, records: Sequence[Record]) -> None:
        runs = [record for record in records if isinstance(record, Run) and record.run == RUN]
        gpus = {record.gpu: record for record in records if isinstance(record, Gpu)}
        seconds = runs[0].steps if runs else None
        if [run.event for run in runs] != ["start", "finish"] or len(gpus) != 1 or not seconds:
            raise WattributeError(
                "this is not a whole recording of 'wattribute verify --gpu', which has one GPU, and the begin"
                " and the end of the plan"
            )
        self._gpu = next(iter(gpus.values()))
        self._begin_ns, self._seconds = runs[0].t, min(seconds, SECONDS_MOST)
        self._plan: Plan = plan(self._seconds)
        self._records = [
            record
            for record in records
            if not isinstance(record, Device | Process) or record.gpu == self._gpu.gpu
        ]
        devices = [record for record in self._records if isinstance(record, Device)]
        self._sensors = Sensors(devices, self._plan, self._begin_ns)
        self._loads: dict[str, ProcessKey] = {
            record.model: (record.pid, record.start_ns)
            for record in records
            if isinstance(record, Workload) and record.model in LOADS
        }
        units = [record for record in records if isinstance(record, Unit) and record.unit == UNIT]
        self._units = {load: [unit for unit in units if unit.model == load] for load in LOADS}
        if wrong := next(self._untellable(), None):
            raise WattributeError(f"the recording cannot be evaluated: {wrong}")

    def _untellable(self) -> Iterator[str]:
        """Why the recording cannot be evaluated, if it cannot."""
        end_ns = self._ns(self._plan.end_s)
        for record in self._records:
            if isinstance(record, Gap) and record.from_ns < end_ns and record.to_ns > self._begin_ns:
                yield f"readings are missing: {record.reason}"
        if not len(self._sensors.t_ns):
            yield f"{self._gpu.name} has no energy counter, which the truth rests on"
        times_ns = np.array([*self._sensors.t_ns[self._sensors.t_ns < end_ns], end_ns])
        if (
            self._sensors.t_ns[0] > self._begin_ns - _S // 4
            or np.diff(times_ns).max(initial=0) > _DEVICE_HOLE_NS
        ):
            yield "the GPU was not read for more than 1 s"
        if not self._sensors.is_counting:
            yield "the energy counter went back"
        for load in LOADS:
            yield from self._untold(load, end_ns)
        others = {
            record.pid
            for record in self._records
            if isinstance(record, Process) and (record.pid, record.start_ns) not in self._loads.values()
        }
        if others:
            yield f"other processes were on the GPU: {', '.join(map(str, sorted(others)))}"

    def _untold(self, load: str, end_ns: int) -> Iterator[str]:
        """What is missing of a load."""
        if load not in self._loads:
            yield f"it does not say which process is {load}"
            return
        told = [
            record
            for record in self._records
            if isinstance(record, Process) and (record.pid, record.start_ns) == self._loads[load]
        ]
        if all(record.sm_percent is None for record in told):
            yield f"it does not say when {load} worked: this driver may not report SM time of processes"
        times_ns = sorted([self._begin_ns, *(r.t for r in told if self._begin_ns < r.t < end_ns), end_ns])
        if max(after - before for before, after in pairwise(times_ns)) > _PROCESS_HOLE_NS:
            yield f"nothing was read of {load} for more than 5 s"

    def report(self) -> Report:
        """The results."""
        mixed = self._plan.steps_of("mix")
        mixes = [self._mix(step) for step in mixed]
        value = {
            frozenset(mix.loads): fmean(same.watts for same in mixes if same.loads == mix.loads)
            for mix in mixes
        }
        rates = {load: fmean(mix.rates[load] for mix in mixes if load in mix.loads) for load in LOADS}
        if idle := [load for load in LOADS if not rates[load]]:
            raise WattributeError(f"the recording cannot be evaluated: {idle[0]} did nothing in the mixes")
        idle_w = value[frozenset()]
        joules = {
            mix: {
                load: watts / rates[load]
                for load, watts in shapley({of: value[of] for of in value if of <= mix}).items()
            }
            for mix in value
        }
        varies_w = self._varies_w(mixed)
        if lost := [
            f"{load} adds {joules[mix][load] * rates[load]:.1f} W to {' + '.join(sorted(mix))}"
            for mix in joules
            for load in mix
            if joules[mix][load] * rates[load] <= _STANDS_OUT * varies_w
        ]:
            raise WattributeError(
                f"the mixes do not show what each load draws: {lost[0]}, and a mix by itself varies by"
                f" {varies_w:.1f} W"
            )
        return Report(
            gpu_model=self._gpu.name,
            seconds=self._seconds,
            nobody_w=self._sensors.watts(
                int(self._sensors.t_ns[0]), int(self._sensors.t_ns[0] + 0.9e9 * self._plan.nobody_s)
            ),
            contexts_w=self._named_w("contexts"),
            cold_w=self._named_w("cold"),
            warm_w=self._named_w("warm"),
            signals=self._sensors.signals(),
            mixes=mixes,
            joules={load: joules[frozenset(LOADS)][load] for load in LOADS},
            uneven_ratio=max(
                abs(rate / rates[load] - 1)
                for load in LOADS
                for rate in [self._switched_rate(load), *(of.rates[load] for of in mixes if load in of.loads)]
            ),
            power_ratio=self._sensors.power_ratio(self._ns(mixed[0].from_s), self._ns(mixed[-1].to_s)),
            switched=self._switched(joules, idle_w),
        )

    def _ns(self, second: float) -> int:
        return self._begin_ns + round(second * _S)

    def _step_w(self, step: Step) -> float:
        return self._sensors.watts(self._ns(step.from_s), self._ns(step.to_s))

    def _varies_w(self, steps: Sequence[Step]) -> float:
        """How much the first half of a step differs from its second, as root mean square."""
        middles = [(step.from_s + step.to_s) / 2 for step in steps]
        differ_w = [
            self._step_w(replace(step, to_s=middle)) - self._step_w(replace(step, from_s=middle))
            for step, middle in zip(steps, middles, strict=True)
        ]
        return sqrt(fmean(watts**2 for watts in differ_w))

    def _named_w(self, name: str) -> float:
        (step,) = self._plan.steps_of(name)
        return self._step_w(step)

    def _iterations(self, load: str, from_s: float, to_s: float) -> float:
        """The iterations that a load reported in a time, with the parts of seconds at its ends."""
        total = 0.0
        for unit in self._units[load]:
            end_s = (unit.t - self._begin_ns) / _S
            begin_s = end_s - (unit.period_ns or _S) / _S
            within_s = max(0.0, min(end_s, to_s) - max(begin_s, from_s))
            total += unit.quantity * within_s / (end_s - begin_s)
        return total

    def _switched_rate(self, load: str) -> float:
        """Iterations per second of the time in which a load was to work."""
        (step,) = self._plan.steps_of("switched")
        works_s = sum(
            of.to_s - of.from_s for of in self._plan.stretches[load] if step.from_s <= of.from_s < step.to_s
        )
        return self._iterations(load, step.from_s, step.to_s) / works_s

    def _mix(self, step: Step) -> Mix:
        rates = {
            load: self._iterations(load, step.from_s, step.to_s) / (step.to_s - step.from_s)
            for load in step.loads
        }
        return Mix(step.loads, self._step_w(step), rates)

    def _truth_j(self, joules: Joules, from_s: float, to_s: float) -> dict[str, float]:
        """The energy of each load by the work that it did, and the loads beside it; not scaled."""
        found = {}
        at_work = [self._at_work(second) for second in np.arange(from_s, to_s, _LOOK_S)]
        for load in LOADS:
            costs = [joules[mix][load] for mix in at_work if load in mix]
            found[load] = fmean(costs or [0.0]) * self._iterations(load, from_s, to_s)
        return found

    def _at_work(self, second: float) -> frozenset[str]:
        return frozenset(
            load
            for load, stretches in self._plan.stretches.items()
            if any(of.from_s <= second < of.to_s for of in stretches)
        )

    def _above_idle_j(self, from_s: float, to_s: float, idle_w: float) -> float:
        watts = self._sensors.watts(self._ns(from_s), self._ns(to_s)) - idle_w
        return max(watts, 0.0) * (to_s - from_s)

    def _switched(self, joules: Joules, idle_w: float) -> Switched:
        """Evaluate whole seconds of the step, because these are windows: the plan begins with one."""
        (step,) = self._plan.steps_of("switched")
        from_s, to_s = ceil(step.from_s), floor(step.to_s)
        from_ns, to_ns = self._ns(from_s), self._ns(to_s)
        told_j = self._truth_j(joules, from_s, to_s)
        scale = self._above_idle_j(from_s, to_s, idle_w) / (sum(told_j.values()) or 1.0)
        used_j = {load: scale * told_j[load] for load in LOADS}
        truth_uj = {self._loads[load]: 1e6 * used_j[load] for load in LOADS}
        device_uj = 1e6 * self._sensors.watts(from_ns, to_ns) * (to_s - from_s)
        ours, afresh = (
            by_the_stream(_within(replayed(records), from_ns, to_ns), to_ns)
            for records in (self._records, list(self._only(from_ns, to_ns)))
        )
        simple = self._simple(from_ns, to_ns)
        methods = {OURS: ours.active_uj, FROM_NOTHING: afresh.active_uj}
        methods |= {name: method(simple) for name, method in SIMPLER.items()}
        return Switched(
            used_j,
            {load: ours.active_uj.get(self._loads[load], 0) / 1e6 for load in LOADS},
            {name: score(found_uj, truth_uj, device_uj) for name, found_uj in methods.items()},
            self._halves_ratio(step, joules, idle_w),
            ours.is_conserved and afresh.is_conserved,
        )

    def _only(self, from_ns: int, to_ns: int) -> Iterator[Record]:
        """The readings of a time, and the records that say what each process is."""
        for record in self._records:
            if isinstance(record, Device | Process):
                if from_ns - _S <= record.t <= to_ns + _S:
                    yield record
            elif not isinstance(record, Unit):
                yield record

    def _simple(self, from_ns: int, to_ns: int) -> Seen:
        """What simpler methods see of that time; they also know the power before anybody was there."""
        whole = seen(self._records, self._gpu.name, to_ns)
        return whole._replace(periods=[period for period in whole.periods if period.from_ns >= from_ns])

    def _halves_ratio(self, step: Step, joules: Joules, idle_w: float) -> float:
        middle_s = (step.from_s + step.to_s) / 2
        drawn = [
            self._above_idle_j(from_s, to_s, idle_w)
            / (sum(self._truth_j(joules, from_s, to_s).values()) or 1.0)
            for from_s, to_s in ((step.from_s, middle_s), (middle_s, step.to_s))
        ]
        return drawn[0] / drawn[1] - 1 if drawn[1] else 1.0


def _within(table: Table, from_ns: int, to_ns: int) -> Table:
    return {key: row for key, row in table.items() if from_ns <= row["window_start"] * 1_000_000 < to_ns}
