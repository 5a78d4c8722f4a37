"""The physics of a simulated device: which process draws how much, and what the driver shows of it.

Time is divided into steps of 10 ms. In a step power is constant and a whole number of mW, so energy is a
whole number of µJ (mW × ms) at every millisecond, and the truth is exact:

    power = idle level + Σ watts per SM percent × SM percent
    idle level = idle_w (+ context_w while a process is resident) + leakage

The parts above idle are scaled down together by contention, and where their sum would exceed the power limit;
SM shares are scaled down together where they would exceed 100 %. All random numbers come from the seed and
the step, so they do not depend on when or how often the device is read.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final, NamedTuple

from wattribute.collector.scenario import MIG_SLICES, GpuPlan, TenantPlan

STEP_MS: Final = 10
STEPS_PER_S: Final = 1_000 // STEP_MS
WHOLE_SM: Final = 1_000  # SM activity is counted in permille of the time of the whole device

_INSTANT_MS: Final = 25  # POWER_INSTANT on A100 and H100: a 25 ms window each 100 ms (arXiv 2312.02741)
_AVERAGE_MS: Final = 1_000  # POWER_AVERAGE: 1 s (nvml.h, field 185)
_RATES_STEPS: Final = 20  # device utilisation, over 200 ms: nvml.h says 1/6 s to 1 s by product
_PUBLISH_MS: Final = (99, 104)  # between two publications of power and energy
_ROWS_KEPT: Final = 60  # utilisation samples in the driver's buffer
_NOISE_LENGTH: Final = 1_009  # prime, so that the noise does not beat with the phases
_GIB: Final = 1 << 30
_RESERVED_BYTES: Final = 600 << 20  # used on an H200 that nobody holds
_AMBIENT_C: Final = 28.0
_WARMING_C_PER_W: Final = 0.06
_WARMING_S: Final = 25.0  # time constant of the heat sink
_CONTENDED_MW: Final = 600_000  # contention_ratio is at this much above idle


def random_stream(seed: int, *what: object) -> Random:
    """Random numbers for one purpose, independent of all others."""
    return Random("/".join(map(str, (seed, *what))))  # noqa: S311 - a simulation, no secret


def segments(plan: TenantPlan, random: Random) -> Iterator[tuple[int, int]]:
    """The load that the tenant wishes for over time, as (steps, SM permille), without end."""
    level = plan.sm_percent * 10
    until = 0
    for place, edge_s in enumerate(plan.works_s):
        edge = round(edge_s * STEPS_PER_S)
        if edge > until:
            yield edge - until, round(level) if place % 2 else 0
        until = max(edge, until)
    while True:
        if plan.pattern in {"idle", "timetable"}:
            yield 3_600 * STEPS_PER_S, 0
        elif plan.pattern == "train":
            steps = max(2, round(plan.step_s * STEPS_PER_S))
            quiet = max(1, steps // 5)  # waiting for the other ranks and the next batch
            yield steps - quiet, round(level)
            yield quiet, round(level / 4)
        else:
            yield _burst_steps(random, plan.busy_s), min(WHOLE_SM, round(level * random.uniform(0.8, 1.2)))
            yield _burst_steps(random, plan.pause_s), 0


def mixed(
    own: Iterator[tuple[int, int]], common: Iterator[tuple[int, int]], common_ratio: float
) -> Iterator[tuple[int, int]]:
    """The mean of two loads, weighted by ``common_ratio`` for the second."""
    (own_steps, own_level), (common_steps, common_level) = next(own), next(common)
    while True:
        steps = min(own_steps, common_steps)
        yield steps, round(common_ratio * common_level + (1 - common_ratio) * own_level)
        own_steps, common_steps = own_steps - steps, common_steps - steps
        if not own_steps:
            own_steps, own_level = next(own)
        if not common_steps:
            common_steps, common_level = next(common)


def _burst_steps(random: Random, mean_s: float) -> int:
    return max(1, round(min(random.expovariate(1 / mean_s), 4 * mean_s) * STEPS_PER_S))


@dataclass(slots=True)
class Resident:
    """A process on one device: the load it wishes for and gets, and the truth about it since its start."""

    plan: TenantPlan
    pid: int
    start_ns: int
    wishes: Iterator[tuple[int, int]]
    noise_offset: int
    until_step: int  # where the current wish ends
    end_ns: int | None = None  # None while it lives
    wish: int = 0  # SM permille
    share: int = 0  # SM permille it gets
    power_mw: int = 0  # at that share, without noise
    sm_permille_steps: int = 0
    active_uj: int = 0
    sampled_permille_steps: int = 0  # sm_permille_steps at the last utilisation sample

    def drift_permille(self, step: int) -> int:
        """Its watts per percent of SM time at a step, in permille of the plan's."""
        swings = step / STEPS_PER_S / self.plan.drift_s + self.noise_offset / 1_000
        return round(1_000 * (1 + self.plan.drift_ratio * math.sin(2 * math.pi * swings)))

    @property
    def active_ns(self) -> int:
        """Its SM time: each permille of a step of 10 ms is 10 000 ns."""
        return self.sm_permille_steps * (STEP_MS * 1_000_000 // WHOLE_SM)

    @property
    def memory_bytes(self) -> int:
        """The device memory that it holds."""
        return int(self.plan.memory_gib * _GIB)


class Readings(NamedTuple):
    """The driver's last published values, at ``t_ms`` of simulated time."""

    t_ms: int
    energy_mj: int
    instant_mw: int
    average_mw: int
    sm_percent: int
    memory_percent: int
    temperature_c: int


class UtilizationSample(NamedTuple):
    """A process's use over the period that ended at ``t_ms``; it is readable from ``visible_ms`` on."""

    visible_ms: int
    t_ms: int
    pid: int
    sm_permille: int
    memory_permille: int


class _Totals(NamedTuple):
    """Running totals at the end of a step."""

    energy_uj: int
    sm_permille_steps: int
    memory_permille_steps: float


@dataclass(slots=True)
class SimulatedGpu:
    """One device. ``advance`` moves it on in whole steps; ``add`` and ``remove`` act between steps."""

    plan: GpuPlan
    uuid: str
    index: int
    random: Random
    step: int = 0
    residents: tuple[Resident, ...] = ()
    idle_uj: int = 0
    energy_start_uj: int = 0
    readings: Readings = field(init=False)
    samples: deque[UtilizationSample] = field(init=False)
    instance_permille_steps: list[int] = field(init=False)  # SM time of each MIG instance
    _gone: list[Resident] = field(default_factory=list)  # ended since the last utilisation sample
    _totals: deque[_Totals] = field(init=False)
    _noise: list[int] = field(init=False)
    _temperature_c: float = field(init=False)
    _publish_ms: int = field(init=False)
    _sample_step: int = field(init=False)
    _visible_ms: int = 0
    _uncounted_uj: int = 0  # energy that a faulty counter does not show

    def __post_init__(self) -> None:
        idle_mw = round(self.plan.idle_w * 1_000)
        noise = self.plan.noise_ratio * 1_000
        self._noise = [
            round(1_000 + max(-3.0, min(3.0, self.random.gauss())) * noise) for _ in range(_NOISE_LENGTH)
        ]
        # The driver was loaded some while ago; its counter does not begin at 0.
        self.energy_start_uj = self.random.randrange(10**12, 10**14)
        kept = _AVERAGE_MS // STEP_MS + _PUBLISH_MS[1] // STEP_MS + 2
        self._totals = deque(
            (
                _Totals(self.energy_start_uj - idle_mw * STEP_MS * back, 0, 0.0)
                for back in range(kept - 1, -1, -1)
            ),
            maxlen=kept,
        )
        self.instance_permille_steps = [0] * len(self.plan.instances)
        self.samples = deque(maxlen=_ROWS_KEPT * 16)
        self._temperature_c = _AMBIENT_C + _WARMING_C_PER_W * self.plan.idle_w
        self._publish(0)
        self._publish_ms = self.random.randint(1, 100)
        self._sample_step = self.random.randint(1, self._period_steps)

    @property
    def energy_uj(self) -> int:
        """The true energy up to now, on the counter's scale: energy_start_uj + idle + Σ active."""
        return self._totals[-1].energy_uj

    @property
    def memory_total_bytes(self) -> int:
        """The device memory that NVML reports."""
        return int(self.plan.memory_gib * _GIB)

    @property
    def memory_used_bytes(self) -> int:
        """The device memory that the residents and the driver itself hold."""
        return _RESERVED_BYTES + sum(resident.memory_bytes for resident in self.residents)

    @property
    def _period_steps(self) -> int:
        return max(1, self.plan.utilization_period_ms // STEP_MS)

    @property
    def is_lost(self) -> bool:
        """Whether the driver has lost the device at present."""
        from_s, to_s = self.plan.lost_s
        return from_s <= self.step * STEP_MS / 1_000 < to_s

    def draw_garbage(self) -> bool:
        """Draw at random whether an answer about its processes contains garbage."""
        return self.plan.garbage_ratio > 0 and self.random.random() < self.plan.garbage_ratio

    def add(self, resident: Resident) -> None:
        """Add a process at the current step."""
        self.residents = (*self.residents, resident)
        self._share()

    def remove(self, resident: Resident) -> None:
        """Remove a process at the current step."""
        self.residents = tuple(other for other in self.residents if other is not resident)
        self._gone.append(resident)
        self._share()

    def advance(self, end_step: int) -> None:
        """Move on to ``end_step``: add up the truth, publish what the driver would."""
        while self.step < end_step:
            changed = [resident for resident in self.residents if resident.until_step <= self.step]
            for resident in changed:
                steps, resident.wish = next(resident.wishes)
                resident.until_step += steps
            if changed:
                self._share()
            self._run(
                min([end_step, self._sample_step, *(resident.until_step for resident in self.residents)])
            )
            if self.step == self._sample_step:
                self._sample()

    def _share(self) -> None:
        """Share the device, or each MIG instance, in proportion where tenants wish for more than it has."""
        for place in {resident.plan.instance for resident in self.residents}:
            there = [resident for resident in self.residents if resident.plan.instance == place]
            whole = WHOLE_SM if place is None else WHOLE_SM * self.plan.instances[place] // MIG_SLICES
            wished = sum(resident.wish for resident in there)
            for resident in there:
                resident.share = resident.wish if wished <= whole else resident.wish * whole // wished
                resident.power_mw = round(resident.plan.watts_per_sm_percent * resident.share * 100)

    def _run(self, end_step: int) -> None:
        """Run the steps up to ``end_step``, over which no process comes, goes or changes."""
        plan, noise = self.plan, self._noise
        cold_mw = round((plan.idle_w + (plan.context_w if self.residents else 0.0)) * 1_000)
        limit_mw, contention = round(plan.power_limit_w * 1_000), round(plan.contention_ratio * 1_000)
        busy = [resident for resident in self.residents if resident.share]
        sm = sum(resident.share for resident in busy)
        memory = sum(resident.share * resident.plan.memory_per_sm_ratio for resident in busy)
        energy_uj, sm_total, memory_total = self._totals[-1]
        drifts = any(resident.plan.drift_ratio for resident in busy)
        for resident in busy:
            if (place := resident.plan.instance) is not None:
                self.instance_permille_steps[place] += resident.share * (end_step - self.step)
        for step in range(self.step, end_step):
            level_mw = cold_mw + round(plan.leakage_w_per_c * (self._temperature_c - _AMBIENT_C) * 1_000)
            powers = [
                resident.power_mw * noise[(step + resident.noise_offset) % _NOISE_LENGTH] // 1_000
                for resident in busy
            ]
            if drifts:
                powers = [
                    power_mw * resident.drift_permille(step) // 1_000
                    for resident, power_mw in zip(busy, powers, strict=True)
                ]
            active_mw = sum(powers)
            if contention:
                divided_by = 1_000 * _CONTENDED_MW + contention * active_mw
                powers = [power_mw * 1_000 * _CONTENDED_MW // divided_by for power_mw in powers]
                active_mw = sum(powers)
            room_mw = max(0, limit_mw - level_mw)
            if active_mw > room_mw:
                powers = [power_mw * room_mw // active_mw for power_mw in powers]
                active_mw = sum(powers)
            for resident, power_mw in zip(busy, powers, strict=True):
                resident.active_uj += power_mw * STEP_MS
                resident.sm_permille_steps += resident.share
            self.idle_uj += level_mw * STEP_MS
            if not busy:
                self._uncounted_uj += round(level_mw * STEP_MS * (1.0 - plan.counter_idle_ratio))
            energy_uj += (level_mw + active_mw) * STEP_MS
            sm_total += sm
            memory_total += memory
            self._totals.append(_Totals(energy_uj, sm_total, memory_total))
            self.step = step + 1
            while self._publish_ms <= self.step * STEP_MS:
                self._publish(self._publish_ms)
                self._publish_ms += self.random.randint(*_PUBLISH_MS)

    def _energy_at_uj(self, t_ms: int) -> int:
        """The exact total at a millisecond of the last 1.1 s."""
        back_steps, back_ms = divmod(self.step * STEP_MS - t_ms, STEP_MS)
        later_uj = self._totals[-1 - back_steps].energy_uj
        if back_ms == 0:
            return later_uj
        return later_uj - (later_uj - self._totals[-2 - back_steps].energy_uj) // STEP_MS * back_ms

    def _publish(self, t_ms: int) -> None:
        energy_uj = self._energy_at_uj(t_ms)
        average_mw = (energy_uj - self._energy_at_uj(t_ms - _AVERAGE_MS)) // _AVERAGE_MS
        now, before = self._totals[-1], self._totals[-1 - _RATES_STEPS]
        reset_s = self.plan.counter_reset_s
        if reset_s is not None and reset_s * 1_000 <= t_ms and self.readings.t_ms < reset_s * 1_000:
            self._uncounted_uj = energy_uj
        target_c = _AMBIENT_C + _WARMING_C_PER_W * average_mw / 1_000
        self._temperature_c += (target_c - self._temperature_c) * 0.1 / _WARMING_S
        per_percent = _RATES_STEPS * WHOLE_SM // 100
        self.readings = Readings(
            t_ms=t_ms,
            energy_mj=(energy_uj - self._uncounted_uj) // 1_000,
            instant_mw=(energy_uj - self._energy_at_uj(t_ms - _INSTANT_MS)) // _INSTANT_MS,
            average_mw=average_mw,
            sm_percent=round((now.sm_permille_steps - before.sm_permille_steps) / per_percent),
            memory_percent=round((now.memory_permille_steps - before.memory_permille_steps) / per_percent),
            temperature_c=round(self._temperature_c),
        )

    def _sample(self) -> None:
        """End a utilisation period: make one sample for each pid that was present in it."""
        t_ms = self.step * STEP_MS
        # Samples become readable in the order in which they were made: the driver's buffer is a queue.
        lag_ms = self.random.randint(*self.plan.utilization_lag_ms)
        self._visible_ms = visible_ms = max(self._visible_ms, t_ms + lag_ms)
        dated_ms = t_ms + self.plan.utilization_shift_ms
        by_pid: dict[
            int, tuple[int, int]
        ] = {}  # the driver knows only pids: processes with the same pid are added up
        for resident in (*self.residents, *self._gone):
            permille = (resident.sm_permille_steps - resident.sampled_permille_steps) // self._period_steps
            resident.sampled_permille_steps = resident.sm_permille_steps
            if resident.plan.process_list == "none":
                continue
            sm, memory = by_pid.get(resident.pid, (0, 0))
            by_pid[resident.pid] = sm + permille, memory + round(permille * resident.plan.memory_per_sm_ratio)
        self.samples.extend(
            UtilizationSample(visible_ms, dated_ms, pid, *used) for pid, used in by_pid.items()
        )
        self._gone.clear()
        self._sample_step = self.step + self._period_steps
