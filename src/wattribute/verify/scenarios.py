"""The simulated hosts that attribution is tested on: one GPU, and processes that share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from wattribute.collector.scenario import GpuPlan, HostPlan, Scenario, TenantPlan

IDLE_S: Final = 20.0
"""For so long at the start nobody is on the GPU."""

# Watts for each percent of SM time differ fourfold between kernels (memory-bound ones draw least).
_WATTS: Final = (6.2, 3.1, 1.5, 4.4)
_SM_PERCENT: Final = (30.0, 30.0, 25.0, 20.0)
_HOST: Final = HostPlan(name="verify")
_GPU: Final = GpuPlan(name="NVIDIA H200", leakage_w_per_c=0.3)


def _tenants(**more: object) -> list[TenantPlan]:
    plans = [
        TenantPlan(
            name=f"tenant-{place}", gpus=(0,), start_s=IDLE_S, watts_per_sm_percent=watts, sm_percent=sm,
            busy_s=2.0 + place, pause_s=1.0 + place / 2, model=f"model-{place}",
        )
        for place, (watts, sm) in enumerate(zip(_WATTS, _SM_PERCENT, strict=True))
    ]  # fmt: skip
    return [replace(plan, **more) for plan in plans]  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Bar:
    """How good attribution must be: Σ |error| / Σ energy at most ``error_ratio`` on average over all seeds
    (or ``times`` that of the scenario ``of``), and no process further off than ``worst_ratio`` with any seed.
    After a fault: no more energy lost than is used in a second, and none uncharged for longer than
    ``uncharged_s``."""

    error_ratio: float | None = None
    worst_ratio: float | None = None
    times: float = 0.0
    of: str = ""
    uncharged_s: float | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """A named scenario: what is special about it, and how it is recorded."""

    name: str
    about: str
    gpu: GpuPlan
    tenants: Sequence[TenantPlan]
    bar: Bar = Bar()
    process_period_s: float = 1.0
    """How often the collector samples processes."""
    host: HostPlan = _HOST
    fleet_knows: bool = False
    """Whether the fleet has seen each model alone on another GPU before."""

    @property
    def alone(self) -> Scenario:
        """The scenario with each tenant on a GPU of its own, where its model can be seen alone."""
        tenants = tuple(replace(tenant, gpus=(place,)) for place, tenant in enumerate(self.tenants))
        gpus = tuple(self.gpu for _ in tenants)
        return Scenario(host=HostPlan(name="alone"), gpus=gpus, tenants=tenants, qualities=())

    @property
    def scenario(self) -> Scenario:
        """The scenario of the simulated host."""
        return Scenario(host=self.host, gpus=(self.gpu,), tenants=(*self.tenants,), qualities=())


_CONTENDED: Final = replace(_GPU, contention_ratio=0.4)


def _always_on() -> list[TenantPlan]:
    return [replace(plan, pattern="train", step_s=1.0) for plan in _tenants()[:2]]


def _constant() -> list[TenantPlan]:
    """Three tenants of very different sizes. A step is too short to be seen in a reading, which says 40, 10
    and 5 % of SM time: whole numbers, because drivers round. They draw the prior of unknown processes, since
    the test is how they are split: with 6 W per percent, 1.9 % of the energy of each is taken for idle."""
    return [
        replace(plan, pattern="train", step_s=0.02, watts_per_sm_percent=4.0, sm_percent=sm)
        for plan, sm in zip(_tenants()[:3], (64.0, 16.0, 8.0), strict=True)
    ]


def _followed() -> list[TenantPlan]:
    """The tenants end, one each minute from 120 s on. At once another begins in place of each, with other
    watts."""
    first = _tenants()
    ends_s = [120.0 + 60 * place for place in range(len(first))]
    later = [
        replace(
            plan,
            name=f"{plan.name}-after",
            start_s=end_s,
            watts_per_sm_percent=watts,
            model=f"{plan.model}-after",
        )
        for plan, end_s, watts in zip(first, ends_s, (*_WATTS[1:], _WATTS[0]), strict=True)
    ]
    return [*(replace(plan, stop_s=end_s) for plan, end_s in zip(first, ends_s, strict=True)), *later]


def _visited() -> list[TenantPlan]:
    """One tenant stays, and every 45 s another comes for 25 s."""
    stays, *others = _tenants()
    visits = [
        replace(
            others[place % len(others)],
            name=f"visit-{place}",
            model=f"visit-{place}",
            start_s=40.0 + 45 * place,
            stop_s=65.0 + 45 * place,
        )
        for place in range(12)
    ]
    return [stays, *visits]


def _one_ends(at_s: float) -> list[TenantPlan]:
    first, *others = _tenants()
    return [replace(first, stop_s=at_s), *others]


def _in_instances(*places: int) -> list[TenantPlan]:
    """Each tenant in the MIG instance that is named, with half of a slice or more."""
    sm_percent = (20.0, 20.0, 10.0, 10.0)
    return [
        replace(plan, instance=place, sm_percent=sm)
        for plan, place, sm in zip(_tenants(), places, sm_percent, strict=True)
    ]


def _sixty_four() -> list[TenantPlan]:
    return [
        replace(plan, name=f"{plan.name}-{copy}", sm_percent=2.5, memory_gib=1.0, busy_s=1.0 + copy / 4)
        for plan in _tenants()
        for copy in range(16)
    ]


_UNCHARGED_S: Final = 2.0  # between two samples of processes: when they come, and at the fault
_GONE_S: Final = 16.0  # a GPU lost for 10 s is tried again after 15, and then sampled within 1 s
_AS_ADDITIVE: Final = Bar(times=1.3, of="additive")
_FAULT: Final = replace(_AS_ADDITIVE, uncharged_s=_UNCHARGED_S)

TRIALS: Final[Sequence[Trial]] = (
    Trial("additive", "each draws what it draws alone", _GPU, _tenants(), Bar(0.01, 0.03)),
    Trial("contention", "together they draw less than each alone", _CONTENDED, _tenants(), Bar(0.05, 0.10)),
    Trial(
        "drift",
        "and what they draw swings by a quarter in 5 min",
        _CONTENDED,
        _tenants(drift_ratio=0.25, drift_s=300.0),
        Bar(0.05, 0.10),
    ),
    Trial(
        "correlated",
        "most of the load comes to all at once",
        _GPU,
        _tenants(alike="all", alike_ratio=2 / 3, busy_s=2.0, pause_s=1.0),
        Bar(0.06),
    ),
    Trial("identical", "all draw the same", _GPU, _tenants(watts_per_sm_percent=4.0)),
    Trial("visitors", "one stays, and every 45 s another comes for 25 s", _GPU, _visited(), Bar(0.05)),
    Trial("always on", "two that never pause: one GPU cannot tell them apart", _GPU, _always_on()),
    Trial(
        "constant",
        "three whose load never changes, and that draw the same",
        replace(_GPU, leakage_w_per_c=0.0, context_w=0.0),  # else the error would be that of the idle level
        _constant(),
        Bar(0.01, 0.03),
    ),
    Trial(
        "known", "the fleet has seen each model alone", _GPU, _tenants(), Bar(0.01, 0.03), fleet_knows=True
    ),
    Trial("known, always on", "and those that never pause", _GPU, _always_on(), fleet_knows=True),
    Trial(
        "MIG",
        "four instances, one slice in none",
        replace(_GPU, instances=(2, 2, 1, 1)),
        _in_instances(0, 1, 2, 3),
        Bar(0.05, 0.10),
    ),
    Trial(
        "MIG, shared",
        "two of them in one instance: nothing tells them apart",
        replace(_GPU, instances=(4, 1, 1)),
        _in_instances(0, 0, 1, 2),
    ),
    Trial(
        "all idle",
        "nobody works: of all that the GPU used",
        _GPU,
        _tenants(pattern="idle"),
        Bar(0.05, uncharged_s=_UNCHARGED_S),
    ),
    Trial(
        "unseen",
        "a fourth that the driver never lists",
        _GPU,
        [*_tenants()[:3], replace(_tenants()[3], process_list="none")],
    ),
    Trial("64 processes", "small ones", _GPU, _sixty_four()),
    Trial(
        "lag",
        "SM time is dated half a second late",
        replace(_GPU, utilization_shift_ms=500),
        _tenants(),
        _AS_ADDITIVE,
    ),
    Trial(
        "late", "SM time is told up to 8 s late", replace(_GPU, utilization_lag_ms=(100, 8_000)), _tenants()
    ),
    Trial("every 10 s", "processes are looked at every 10 s", _GPU, _tenants(), Bar(0.08), 10.0),
    Trial("every 30 s", "processes are looked at every 30 s", _GPU, _tenants(), process_period_s=30.0),
    Trial(
        "no counter",
        "power alone, seen for 25 of 100 ms",
        replace(_GPU, energy_counter=False),
        _tenants(),
        Bar(0.02),
    ),
    Trial(
        "counter reset",
        "the energy counter begins at 0 again",
        replace(_GPU, counter_reset_s=300.0),
        _tenants(),
        _FAULT,
    ),
    Trial(
        "counter fault",
        "it counts 57 % of the energy while nobody works",
        replace(_GPU, counter_idle_ratio=0.57),
        _tenants(),
        Bar(0.02),  # no window has what it does not count: energy is the counter's, and flagged DISPUTED
    ),
    Trial(
        "garbage",
        "three in ten answers claim 2147483632 % of SM time",
        replace(_GPU, garbage_ratio=0.3),
        _tenants(),
        _FAULT,
    ),
    Trial(
        "PID reuse",
        "another process comes at once by the PID of one that ends",
        _GPU,
        _followed(),
        Bar(0.01, uncharged_s=_UNCHARGED_S),
        host=replace(_HOST, pid_range=(2_000, 2_003)),
    ),
    *(
        Trial(
            name,
            f"the wall clock is set {'forth' if by_s > 0 else 'back'} by {abs(by_s)} s",
            _GPU,
            _one_ends(202.0),
            # Energy used while time repeats is residual: with 30 s it is 5 % of a run, and no fault.
            Bar(0.03 if by_s > -30 else None, uncharged_s=_UNCHARGED_S + max(0, -by_s)),
            host=replace(_HOST, clock_set_s=(200, by_s)),
        )
        for name, by_s in (("clock forth", 5), ("clock back", -5), ("clock far back", -30))
    ),
    Trial(
        "GPU lost",
        "for 10 s no call is answered",
        replace(_GPU, lost_s=(300, 310)),
        _tenants(),
        Bar(0.03, uncharged_s=_GONE_S + _UNCHARGED_S),
    ),
)
