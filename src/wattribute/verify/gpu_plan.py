"""What is done with a real GPU to measure attribution on it: three loads, each in a process of its own, alone
and together, as a plan says that everybody knows beforehand.

Each load does the same work a second in every mix: it begins so many iterations at each tick whether or not
others slow it down. So the power of all mixes tells what an iteration of each costs (``gpu_report``).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, NamedTuple

MATMUL, COPY, DECODE = LOADS = ("matmul", "copy", "decode")
DUTY: Final[Mapping[str, float]] = {MATMUL: 0.30, COPY: 0.25, DECODE: 0.20}
"""The part of the time in which each keeps the GPU busy while it works: all three together fit."""
SECONDS: Final = 440
"""How long it all takes at its full length."""
SECONDS_LEAST, SECONDS_MOST = 200, 3600
"""In less the steps are too short to tell anything."""
UNIT: Final = "iterations"
"""What loads count."""

_PERIOD_S: Final[Mapping[str, float]] = {MATMUL: 0.083, COPY: 0.097, DECODE: 0.113}
"""From one burst of a load to the next. In no simple ratio to 0.1 s, of which the sensors of some GPUs look
at a quarter alone: of bursts each 0.1 s they saw all or none. Nor to each other: so loads meet and miss."""
_WAVES: Final = (
    # (seconds, period, of that at work, how much later each begins)
    *((10.0, 1.0, 0.5, 0.0),),
    *((4.0, 0.1, 0.03, place / 100) for place in range(10)),
    *((10.0, 0.02, 0.01, 0.0), (20.0, 10 / 3, 5 / 3, 0.0)),
)
_SWITCHED_S: Final = (0.5, 4.0)
_SETTLE_S: Final = 5.0  # so long the power of a mix may still tell of what was before


class Stretch(NamedTuple):
    """From ``from_s`` to ``to_s`` a burst of work is due, at ``from_s`` and each ``period_s`` after it, which
    takes ``on_s`` where the load is alone. What is late is done at once, so that a load does as much in a
    second whether others slow it down or not; what is not begun at ``to_s`` is left out. Stretches follow
    each other."""

    from_s: float
    to_s: float
    period_s: float
    on_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the plan. ``loads``: who works in it, where that does not change; ``about``: what else."""

    name: str
    from_s: float
    to_s: float
    loads: tuple[str, ...] = ()
    about: str = ""

    def __str__(self) -> str:
        who = " + ".join(self.loads) or self.about
        return f"{self.name}: {who}" if who else self.name


@dataclass(frozen=True, slots=True)
class Plan:
    """For ``nobody_s`` nobody is on the GPU. Then loads come up, and it begins: the steps in order, from
    second 0 on, and the stretches of each load."""

    nobody_s: float
    steps: Sequence[Step]
    stretches: Mapping[str, Sequence[Stretch]]

    @property
    def end_s(self) -> float:
        """When it ends."""
        return self.steps[-1].to_s

    def steps_of(self, name: str) -> list[Step]:
        """Those of a name."""
        return [step for step in self.steps if step.name == name]


def plan(seconds: int = SECONDS) -> Plan:
    """The plan, always the same. With fewer ``seconds`` all steps are shorter, and what comes out is less
    sure. The order of the mixes and who works when in the switched step are drawn.

    nobody     15 s
    contexts   16 s  nobody works
    cold       20 s  matmul alone
    waves      80 s  matmul in square waves of 1 s, 100 ms (30 ms of it, at ten phases), 20 ms, 3.3 s
    mix    8 × 25 s  every subset of the loads, none of them in two halves, first and last
    switched   90 s  each goes on and off by itself, for 0.5 to 4 s
    warm       20 s  matmul alone again
    """
    drawn = random.Random(1)  # noqa: S311 - a plan, no secret
    scale = seconds / SECONDS
    steps: list[Step] = []
    stretches: dict[str, list[Stretch]] = {load: [] for load in LOADS}

    def add(
        name: str, length_s: float, loads: tuple[str, ...] = (), about: str = "", settle_s: float = 0.0
    ) -> Step:
        at = steps[-1].to_s if steps else 0.0
        from_s = at + scale * settle_s
        step = Step(name, from_s, from_s + scale * length_s, loads, about)
        for load in loads:
            stretches[load].append(_at_duty(load, at, step.to_s))
        steps.append(step)
        return step

    add("contexts", 16.0)
    add("cold", 20.0, (MATMUL,))
    for length_s, period_s, on_s, late_s in _WAVES:
        step = add("waves", length_s, about=f"{MATMUL}, {1000 * period_s:.0f} ms")
        stretches[MATMUL].append(_whole(step.from_s + late_s, step.to_s, period_s, on_s))
    mixes = [mix for size in range(1, len(LOADS) + 1) for mix in combinations(LOADS, size)]
    drawn.shuffle(mixes)
    for mix in [(), *mixes, ()]:
        add("mix", 20.0 if mix else 7.0, mix, "no load", _SETTLE_S)
    step = add("switched", 90.0, about="each by itself")
    for load in LOADS:
        stretches[load] += _switched(step, load, drawn)
    add("warm", 20.0, (MATMUL,))
    return Plan(15.0 * scale, steps, stretches)


def _at_duty(load: str, from_s: float, to_s: float) -> Stretch:
    return _whole(from_s, to_s, _PERIOD_S[load], DUTY[load] * _PERIOD_S[load])


def _whole(from_s: float, to_s: float, period_s: float, on_s: float) -> Stretch:
    """Without a burst that the end would cut: part of that would be left out."""
    bursts = int((to_s - from_s) / period_s + 1e-9)
    return Stretch(from_s, from_s + bursts * period_s, period_s, on_s)


def _switched(step: Step, load: str, drawn: random.Random) -> Iterator[Stretch]:
    """On and off."""
    at, works = step.from_s, drawn.random() < 0.5
    while at < step.to_s:
        to_s = min(at + round(drawn.uniform(*_SWITCHED_S), 2), step.to_s)
        if works:
            yield _at_duty(load, at, to_s)
        at, works = to_s, not works
