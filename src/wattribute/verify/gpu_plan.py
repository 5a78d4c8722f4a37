"""The plan by which attribution is measured on a real GPU: three loads, each in a process of its own, work
alone and together, at times that are fixed beforehand.

Each load does the same work per second in every mix: it begins as many iterations at each tick, whether or
not others slow it down. So the power of all mixes shows what an iteration of each costs (``gpu_report``).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, NamedTuple

MATMUL, COPY, DECODE = LOADS = ("matmul", "copy", "decode")
DUTY: Final[Mapping[str, float]] = {MATMUL: 0.30, COPY: 0.25, DECODE: 0.20}
"""The part of the time for which each load keeps the GPU busy while it works. They add up to less than 1."""
SECONDS: Final = 440
"""How long it all takes at its full length."""
SECONDS_LEAST, SECONDS_MOST = 200, 3600
"""The limits of the length: below the first, the steps are too short to show anything."""
UNIT: Final = "iterations"
"""The unit that loads count."""

_PERIOD_S: Final[Mapping[str, float]] = {MATMUL: 0.083, COPY: 0.097, DECODE: 0.113}
"""The time from one burst of a load to the next. It has no simple ratio to 0.1 s: the sensors of some GPUs
measure only a quarter of each 0.1 s, and saw all bursts or none. The periods have no simple ratio to each
other either, so that loads meet and miss."""
_WAVES: Final = (
    # (seconds, period, time at work in it, delay of its begin)
    *((10.0, 1.0, 0.5, 0.0),),
    *((4.0, 0.1, 0.03, place / 100) for place in range(10)),
    *((10.0, 0.02, 0.01, 0.0), (20.0, 10 / 3, 5 / 3, 0.0)),
)
_SWITCHED_S: Final = (0.5, 4.0)
_SETTLE_S: Final = 5.0  # for so long the power of a mix may still show what was before


class Stretch(NamedTuple):
    """Between ``from_s`` and ``to_s`` a burst of work is due at ``from_s`` and every ``period_s`` after it. A
    burst takes ``on_s`` while the load is alone. Late work is done at once, so that a load does as much per
    second whether or not others slow it down; work not begun at ``to_s`` is left out. Stretches are in order
    of time."""

    from_s: float
    to_s: float
    period_s: float
    on_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the plan. ``loads``: which loads work, if that does not change; ``about``: any other use."""

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
    """For ``nobody_s`` no process is on the GPU. Then the loads start up, and the plan begins at second 0:
    the steps in order, and the stretches of each load."""

    nobody_s: float
    steps: Sequence[Step]
    stretches: Mapping[str, Sequence[Stretch]]

    @property
    def end_s(self) -> float:
        """When the plan ends."""
        return self.steps[-1].to_s

    def steps_of(self, name: str) -> list[Step]:
        """The steps of a name."""
        return [step for step in self.steps if step.name == name]


def plan(seconds: int = SECONDS) -> Plan:
    """The plan, always the same. With fewer ``seconds`` all steps are shorter, and the results less certain.
    The order of the mixes, and which load works when in the switched step, are random.

    nobody     15 s  no process is there
    contexts   16 s  no load works
    cold       20 s  matmul alone
    waves      80 s  matmul in square waves of 1 s, 100 ms (30 ms of it, at ten phases), 20 ms, 3.3 s
    mix    8 × 25 s  every subset of the loads, none of them in two halves, first and last
    switched   90 s  each load goes on and off independently, for 0.5 to 4 s
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
    """A stretch without a burst that its end would cut: part of that would be left out."""
    bursts = int((to_s - from_s) / period_s + 1e-9)
    return Stretch(from_s, from_s + bursts * period_s, period_s, on_s)


def _switched(step: Step, load: str, drawn: random.Random) -> Iterator[Stretch]:
    """The stretches of a load that goes on and off at random."""
    at, works = step.from_s, drawn.random() < 0.5
    while at < step.to_s:
        to_s = min(at + round(drawn.uniform(*_SWITCHED_S), 2), step.to_s)
        if works:
            yield _at_duty(load, at, to_s)
        at, works = to_s, not works
