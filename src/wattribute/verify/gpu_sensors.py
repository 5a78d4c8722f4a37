"""What the sensors of a GPU reported while the plan ran: power between two times, and how each behaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wattribute.records import Device
from wattribute.verify.gpu_plan import MATMUL, Plan, Step

COUNTER, POWER, AVERAGE = "counter", "power", "average"

_S: Final = 1_000_000_000
_GRID_NS: Final = 10_000_000
_LAGS_NS: Final = range(-200_000_000, 1_500_000_000, _GRID_NS)

_F64 = NDArray[np.float64]


class Signal(NamedTuple):
    """How a sensor behaves: the median time between two readings that differ, how much later than the load it
    reacts (None if its readings never change), and how much its mean depends on when in each 100 ms the load
    comes: (most − least) / mean."""

    period_ms: float | None
    lag_ms: float | None
    phase_ratio: float


class Sensors:
    """The readings of a GPU that has an energy counter; ``t_ns`` is when each was taken. The plan's second 0
    is at ``begin_ns``. Times are in Unix ns."""

    def __init__(self, devices: Sequence[Device], plan: Plan, begin_ns: int) -> None:
        devices = [device for device in devices if device.energy_mj is not None]
        self.t_ns: NDArray[np.int64] = np.array([device.t for device in devices], np.int64)
        self._plan, self._begin_ns = plan, begin_ns
        self._readings: Mapping[str, _F64] = {
            COUNTER: _floats([device.energy_mj for device in devices]),
            POWER: _floats([device.power_mw for device in devices]),
            AVERAGE: _floats([device.power_average_mw for device in devices]),
        }
        knots = np.flatnonzero(np.diff(self._readings[COUNTER], prepend=-1.0))
        self._knots_ns, self._knots_mj = self.t_ns[knots].astype(np.float64), self._readings[COUNTER][knots]

    @property
    def is_counting(self) -> bool:
        """Whether the counter never goes back."""
        return not (np.diff(self._readings[COUNTER]) < 0).any()

    def watts(self, from_ns: int, to_ns: int) -> float:
        """The mean power by the counter, interpolated between its changes, as attribution reads it."""
        before_mj, after_mj = np.interp([from_ns, to_ns], self._knots_ns, self._knots_mj)
        return float(after_mj - before_mj) / 1e3 * _S / max(to_ns - from_ns, 1)

    def power_ratio(self, from_ns: int, to_ns: int) -> float | None:
        """Integrated power ÷ the counter; None if power was not read."""
        name = AVERAGE if np.isnan(self._readings[POWER]).all() else POWER
        within = (self.t_ns >= from_ns) & (self.t_ns <= to_ns) & ~np.isnan(self._readings[name])
        t_s, watts = self.t_ns[within] / 1e9, self._readings[name][within] / 1e3
        if len(t_s) < 2:
            return None
        mean_w = float(((watts[1:] + watts[:-1]) / 2 * np.diff(t_s)).sum() / (t_s[-1] - t_s[0]))
        return mean_w / self.watts(from_ns, to_ns)

    def signals(self) -> dict[str, Signal]:
        """How each sensor that there is behaves, by the waves of the plan."""
        return {name: self._signal(name) for name, of in self._readings.items() if not np.isnan(of).all()}

    def _signal(self, name: str) -> Signal:
        t_ns, of = self._known(name)
        waves = self._plan.steps_of("waves")
        phases = [self._mean_w(name, step) for step in waves[1:-2]]
        phase_ratio = (max(phases) - min(phases)) / (fmean(phases) or 1.0)
        changes = np.flatnonzero(np.diff(of))
        if len(changes) < 2:
            return Signal(None, None, phase_ratio)
        period_ms = float(np.median(np.diff(t_ns[changes]))) / 1e6
        return Signal(period_ms, self._lag_ms(name, waves[-1]), phase_ratio)

    def _known(self, name: str) -> tuple[_F64, _F64]:
        known = ~np.isnan(self._readings[name])
        return self.t_ns[known].astype(np.float64), self._readings[name][known]

    def _span_ns(self, step: Step, settle_s: float = 0.0) -> tuple[int, int]:
        return self._begin_ns + round((step.from_s + settle_s) * _S), self._begin_ns + round(step.to_s * _S)

    def _mean_w(self, name: str, step: Step) -> float:
        from_ns, to_ns = self._span_ns(step, min(1.0, (step.to_s - step.from_s) / 5))
        if name == COUNTER:
            return self.watts(from_ns, to_ns)
        t_ns, of = self._known(name)
        within = (t_ns >= from_ns) & (t_ns < to_ns)
        return float(of[within].mean()) / 1e3 if within.any() else 0.0

    def _lag_ms(self, name: str, step: Step) -> float:
        """The shift at which a signal correlates best with the load of a wave."""
        grid = np.arange(*self._span_ns(step), _GRID_NS, dtype=np.int64)
        (wave,) = [of for of in self._plan.stretches[MATMUL] if of.from_s == step.from_s]
        works = ((grid - grid[0]) / _S) % wave.period_s < wave.on_s
        load = works - works.mean()
        t_ns, of = self._known(name)
        if name == COUNTER:
            t_ns = (self._knots_ns[1:] + self._knots_ns[:-1]) / 2
            of = np.diff(self._knots_mj) / np.diff(self._knots_ns)
        best = max(_LAGS_NS, key=lambda lag_ns: float(np.dot(np.interp(grid + lag_ns, t_ns, of), load)))
        return best / 1e6


def _floats(readings: Sequence[int | None]) -> _F64:
    """The readings, with NaN for missing ones."""
    return np.array([np.nan if reading is None else reading for reading in readings], np.float64)
