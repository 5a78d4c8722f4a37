"""The tenants of a simulated host over time: which process starts and ends when, and what it produces."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from wattribute.collector.scenario import QualityPlan, Scenario, TenantPlan
from wattribute.collector.simulate_gpu import (
    STEP_MS,
    STEPS_PER_S,
    WHOLE_SM,
    Resident,
    SimulatedGpu,
    mixed,
    random_stream,
    segments,
)
from wattribute.records import Exit, Quality, Record, Run, Unit, Workload

STEP_NS: Final = STEP_MS * 1_000_000
SOURCE: Final = "engine"

_PHASES: Final = {"serve": "inference", "train": "training", "idle": "", "timetable": ""}


@dataclass(slots=True)
class Life:
    """One process of a tenant, from its start to its end: one attempt of a run, if it is one."""

    plan: TenantPlan
    start_step: int
    end_step: int | None
    ending: str  # the Run event at its end
    number: int  # counts the tenant's lives, to draw different random numbers
    run: str
    attempt: int
    first_training_step: int
    training_steps: int | None  # of the whole run; None where it does not end
    pid: int = 0
    start_ns: int = 0
    pod: str = ""
    container: str = ""
    residents: tuple[Resident, ...] = ()
    told_step: int = 0  # units are reported up to this step
    told: dict[str, int] = field(default_factory=dict)

    def workload(self, t: int) -> Workload:
        """The workload record of this process."""
        plan = self.plan
        return Workload(
            t=t,
            pid=self.pid,
            start_ns=self.start_ns,
            container=self.container,
            pod=self.pod,
            namespace=plan.namespace,
            job=plan.job,
            user=plan.user,
            team=plan.team,
            application=plan.application,
            workload=plan.workload or plan.name,
            phase=plan.phase or _PHASES[plan.pattern],
            model=plan.model,
            model_version=plan.model_version,
            run=self.run,
            attempt=self.attempt if self.run else None,
            identity_source="simulated",
            labels=dict(plan.labels),
        )

    def training_step(self, step: int) -> int:
        """How many training steps are done, including those kept from earlier attempts."""
        return self.first_training_step + (step - self.start_step) // _wave_steps(self.plan)

    def quantities(self, step: int) -> dict[str, int]:
        """The units since the start, from the SM time that it got (on its first device), and its steps."""
        sm = self.residents[0].sm_permille_steps
        counts = {unit: int(sm * rate / (WHOLE_SM * STEPS_PER_S)) for unit, rate in self.plan.units.items()}
        if self.plan.pattern == "train":
            counts["steps"] = self.training_step(step) - self.first_training_step
        return counts


class Tenants:
    """All tenants of a host. ``advance`` moves them and the devices on and fills the other attributes."""

    def __init__(self, scenario: Scenario, gpus: tuple[SimulatedGpu, ...], start_ns: int, seed: int) -> None:
        self.step = 0
        self.alive: dict[int, Life] = {}
        self.exits: deque[Exit] = deque()
        self.outcomes: deque[Record] = deque()
        self.residents: list[tuple[Resident, SimulatedGpu]] = []  # all that ever were, for the truth
        self._scenario = scenario
        self._gpus = gpus
        self._start_ns = start_ns
        self._seed = seed
        self._pid = scenario.host.pid_range[0] - 1
        # Due actions: (step, rank within the step, order, action). Ends come before starts.
        self._agenda: list[tuple[int, int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._begin_cycle(0)
        self._due(_steps(scenario.host.unit_period_s), 0, self._tell_units)
        self.advance(0)

    def advance(self, end_step: int) -> None:
        """Move on to ``end_step`` and do all that is due up to it; an earlier step changes nothing."""
        while self._agenda and self._agenda[0][0] <= end_step:
            step, _, _, action = heapq.heappop(self._agenda)
            self._move(step)
            action()
        self._move(end_step)

    def _move(self, step: int) -> None:
        if step > self.step:
            for gpu in self._gpus:
                gpu.advance(step)
            self.step = step

    def _due(self, step: int, rank: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (step, rank, next(self._order), action))

    @property
    def _now_ns(self) -> int:
        return self._start_ns + self.step * STEP_NS

    def _begin_cycle(self, cycle: int) -> None:
        """Put one repetition of the timetable on the agenda."""
        repeat_s = self._scenario.host.repeat_s
        first = 0 if repeat_s is None else cycle * _steps(repeat_s)
        for plan in self._scenario.tenants:
            if plan.command or (plan.stop_s is None and cycle > 0):
                continue  # a command starts on its own; a tenant without an end runs since the first cycle
            for life in _lives(plan, first, cycle, repeats=repeat_s is not None):
                self._due(life.start_step, 2, lambda life=life: self._start(life))  # type: ignore[misc]
        for quality in self._scenario.qualities:
            at = first + _steps(quality.at_s)
            self._due(at, 0, lambda quality=quality, cycle=cycle: self._tell_quality(quality, cycle))  # type: ignore[misc]
        if repeat_s is not None:
            self._due(first + _steps(repeat_s), 1, lambda: self._begin_cycle(cycle + 1))

    def start_command(self, pid: int) -> None:
        """Let a real process be the scenario's command, from now on; without a command, do nothing."""
        for plan in self._scenario.tenants:
            if plan.command:
                self._settle(Life(plan, self.step, None, "", 0, "", 0, 0, None, pid=pid))

    def end_command(self, pid: int) -> None:
        """Remove the command, after its process has ended."""
        if pid in self.alive:
            self._leave(self.alive[pid])

    def _start(self, life: Life) -> None:
        plan = life.plan
        life.pid = self._next_pid()
        random = random_stream(self._seed, plan.name, life.number)
        life.pod = f"{plan.name}-{random.getrandbits(20):05x}"
        life.container = f"{random.getrandbits(256):064x}"
        self._settle(life)
        if life.run:
            self._tell_run(life, "start")
            self._due_checkpoint(life)
        if life.end_step is not None:
            self._due(life.end_step, 1, lambda: self._end(life))

    def _settle(self, life: Life) -> None:
        """Put a process on its devices."""
        plan, life.start_ns, life.told_step = life.plan, self._now_ns, self.step
        residents = []
        for index in plan.gpus:
            resident = Resident(
                plan=plan,
                pid=life.pid,
                start_ns=life.start_ns,
                wishes=self._wishes(life),
                noise_offset=random_stream(self._seed, plan.name, life.number, index).randrange(1_000),
                until_step=self.step,
            )
            self._gpus[index].add(resident)
            self.residents.append((resident, self._gpus[index]))
            residents.append(resident)
        life.residents = tuple(residents)
        self.alive[life.pid] = life

    def _wishes(self, life: Life) -> Iterator[tuple[int, int]]:
        plan = life.plan
        own = segments(plan, random_stream(self._seed, plan.name, life.number, "load"))
        if not plan.alike:
            return own
        return mixed(own, segments(plan, random_stream(self._seed, "alike", plan.alike)), plan.alike_ratio)

    def _end(self, life: Life) -> None:
        self._tell_units_of(life)
        if life.run:
            self._tell_run(life, life.ending)
        self._leave(life)

    def _leave(self, life: Life) -> None:
        """Take a process off its devices."""
        for resident, index in zip(life.residents, life.plan.gpus, strict=True):
            self._gpus[index].remove(resident)
            resident.end_ns = self._now_ns
            resident.wishes = iter(())  # kept only for the truth: frees 2.5 kB of random state
        del self.alive[life.pid]
        self.exits.append(Exit(t=self._now_ns, pid=life.pid, start_ns=life.start_ns))

    def _next_pid(self) -> int:
        """The next free pid, wrapping around as Linux does."""
        first, last = self._scenario.host.pid_range
        while True:
            self._pid = first if self._pid >= last else self._pid + 1
            if self._pid not in self.alive:
                return self._pid

    def _due_checkpoint(self, life: Life) -> None:
        step = self.step + _steps(life.plan.checkpoint_s)
        if life.end_step is None or step < life.end_step:
            self._due(step, 0, lambda: self._checkpoint(life))

    def _checkpoint(self, life: Life) -> None:
        self._tell_run(life, "checkpoint")
        self._due_checkpoint(life)

    def _tell_run(self, life: Life, event: str) -> None:
        step = life.training_step(self.step)
        total = life.training_steps
        self.outcomes.append(
            Run(t=self._now_ns, run=life.run, attempt=life.attempt, event=event, step=step, steps=total)
        )

    def _tell_quality(self, plan: QualityPlan, cycle: int) -> None:
        self.outcomes.append(
            Quality(
                t=self._now_ns,
                model=plan.model,
                model_version=plan.model_version,
                run=_run_name(plan.run, cycle, repeats=self._scenario.host.repeat_s is not None),
                metric=plan.metric,
                value=plan.value,
                higher_is_better=plan.higher_is_better,
                sample_count=plan.sample_count,
                dataset=plan.dataset,
                source="simulated",
            )
        )

    def _tell_units(self) -> None:
        for life in self.alive.values():
            if not life.plan.command:
                self._tell_units_of(life)
        self._due(self.step + _steps(self._scenario.host.unit_period_s), 0, self._tell_units)

    def _tell_units_of(self, life: Life) -> None:
        """Report the units since the last report; an interval without units has no record."""
        period_ns = (self.step - life.told_step) * STEP_NS
        for unit, quantity in life.quantities(self.step).items():
            if quantity == life.told.get(unit, 0):
                continue
            self.outcomes.append(
                Unit(
                    t=self._now_ns,
                    unit=unit,
                    quantity=float(quantity - life.told.get(unit, 0)),
                    period_ns=period_ns,
                    source=SOURCE,
                    pid=life.pid,
                    start_ns=life.start_ns,
                    pod=life.pod,
                    application=life.plan.application,
                    phase=life.plan.phase or _PHASES[life.plan.pattern],
                    model=life.plan.model,
                    model_version=life.plan.model_version,
                    run=life.run,
                    attempt=life.attempt if life.run else None,
                    event_id=f"{self._scenario.host.name}/{life.pid}/{life.start_ns}/{unit} {self._now_ns}",
                )
            )
            life.told[unit] = quantity
        life.told_step = self.step


def _lives(plan: TenantPlan, first: int, cycle: int, repeats: bool) -> list[Life]:
    """The processes of a tenant in one repetition that begins at step ``first``: one, or two where the first
    fails and the second resumes from its last checkpoint."""
    run = _run_name(plan.run, cycle, repeats)
    start = first + _steps(plan.start_s)
    end = None if plan.stop_s is None else first + _steps(plan.stop_s)
    if plan.fail_s is None or plan.restart_s is None or end is None:
        total = None if end is None else (end - start) // _wave_steps(plan)
        return [Life(plan, start, end, "finish", 2 * cycle, run, 0, 0, total)]
    fail, restart = first + _steps(plan.fail_s), first + _steps(plan.restart_s)
    checkpoint = _steps(plan.checkpoint_s)
    kept = (fail - start - 1) // checkpoint * checkpoint // _wave_steps(plan)
    total = kept + (end - restart) // _wave_steps(plan)
    return [
        Life(plan, start, fail, "fail", 2 * cycle, run, 0, 0, total),
        Life(plan, restart, end, "finish", 2 * cycle + 1, run, 1, kept, total),
    ]


def _run_name(run: str, cycle: int, repeats: bool) -> str:
    return f"{run}-{cycle + 1}" if run and repeats else run


def _wave_steps(plan: TenantPlan) -> int:
    return max(2, round(plan.step_s * STEPS_PER_S))


def _steps(seconds: float) -> int:
    return round(seconds * STEPS_PER_S)
