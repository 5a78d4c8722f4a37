"""What is attributed to each process of a recording: by the stream, and by simpler methods for comparison.

The simpler methods see what the stream sees. They know one thing more than a collector does: that no process
but those recorded holds the device. Sources: Kepler's form is that of its GPU collector (reference:
sustainable-computing-io/kepler, internal/device/gpu/nvidia, as of 2026); recursive least squares as in any
textbook, forgetting by 0.5 % a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wattribute.collector.trace import Line
from wattribute.records import Device, Instance, Process, Record
from wattribute.stream.engine import Engine
from wattribute.stream.fleet import FleetWatts, fleet_prior
from wattribute.stream.idle import idle_level
from wattribute.stream.replay import replay
from wattribute.stream.series import SLICES
from wattribute.verify.memory_sink import MemorySink, Row, Table
from wattribute.verify.recording import ProcessKey

_KEPT: Final = 0.995  # this part of what was learned is kept each second
_POLICIES: Final = ("equal", "memory", "active")
_ONE_LOOK_NS: Final = 100_000_000

_Use = tuple[int, ProcessKey, float]
"""When a reading of SM time was taken, of which process, and its percent."""


class Shared(NamedTuple):
    """The row of a process on a shared device: energy above idle, and the half-width of its band."""

    window_start_ns: int
    key: ProcessKey
    active_uj: int
    error_uj: int


@dataclass(slots=True)
class Attributed:
    """Energy above idle in µJ by process, the rows of windows that were shared, and whether every window is
    conserved under every policy."""

    active_uj: dict[ProcessKey, float]
    shared: list[Shared]
    is_conserved: bool


def replayed(records: Iterable[Record], fleet: FleetWatts | None = None) -> Table:
    """The rows that ``replay`` leaves in a store."""
    sink = MemorySink()
    lines = [Line(number, record) for number, record in enumerate(records, 1)]
    replay(lines, Engine("verify", fleet=fleet), sink)
    return sink.table()


def by_window(table: Table) -> dict[tuple[str, int], list[Row]]:
    """The rows of each window of a GPU, by its start in Unix ms."""
    windows: dict[tuple[str, int], list[Row]] = {}
    for row in table.values():
        windows.setdefault((row["gpu"], row["window_start"]), []).append(row)
    return windows


def watts_of(records: Sequence[Record]) -> FleetWatts:
    """What ``wattribute watts`` would show of the models in a recording."""
    joules: dict[tuple[str, str, str], float] = {}
    busy_s: dict[tuple[str, str, str], float] = {}
    for row in replayed(records).values():
        if row["account"] == "process":
            key = row["gpu_model"], row["model"], row["model_version"]
            joules[key] = joules.get(key, 0.0) + row["active_energy_uj"] / 1e6
            busy_s[key] = busy_s.get(key, 0.0) + row["active_time_ns"] / 1e9
    return FleetWatts({key: fleet_prior(joules[key] / s / 100, 0.0) for key, s in busy_s.items() if s})


def by_the_stream(table: Table, until_ns: int) -> Attributed:
    """What the rows of ``replay`` attribute, in windows up to ``until_ns``."""
    found = Attributed({}, [], True)
    for (_, start_ms), rows in by_window(table).items():
        for policy in _POLICIES:
            energy_uj = sum(row["active_energy_uj"] + row[f"idle_energy_{policy}_uj"] for row in rows)
            time_ns = sum(row[f"gpu_time_{policy}_ns"] for row in rows)
            due = {(row["device_energy_uj"], row["covered_ns"]) for row in rows}
            found.is_conserved &= (
                due == {(energy_uj, time_ns)} and min(row["active_energy_uj"] for row in rows) >= 0
            )
        for row in rows:
            if row["account"] == "process" and start_ms * 1_000_000 < until_ns:
                key = row["pid"], row["process_start_ns"]
                found.active_uj[key] = found.active_uj.get(key, 0) + row["active_energy_uj"]
                if row["weight_source"] in {"utilization", "gpm"}:
                    found.shared.append(
                        Shared(start_ms * 1_000_000, key, row["active_energy_uj"], row["error_uj"])
                    )
    return found


@dataclass(frozen=True, slots=True)
class Period:
    """The SM percent of each process over (from_ns, to_ns], and the energy of the device."""

    from_ns: int
    to_ns: int
    sm_percent: dict[ProcessKey, float]
    counter_j: float
    average_w: float
    """The last reading of the 1 s average."""

    @property
    def length_s(self) -> float:
        """The length of the period."""
        return (self.to_ns - self.from_ns) / 1e9


class Seen(NamedTuple):
    """A recording as the simpler methods need it. ``unheld_w``: the least power while nobody held the
    device; 0 if that was never seen."""

    periods: list[Period]
    held_by: list[ProcessKey]
    idle_w: float
    unheld_w: float


def seen(records: Sequence[Record], gpu_model: str, until_ns: int) -> Seen:
    """What the simpler methods see in a recording of one device up to ``until_ns``. A period contains only
    the processes with a reading of SM time in it."""
    devices = [record for record in records if isinstance(record, Device)]
    processes = [record for record in records if isinstance(record, Process)]
    held_by = list(dict.fromkeys((record.pid, record.start_ns) for record in processes))
    t_ns = np.array([record.t for record in devices])
    counters_j = _energy_j(devices)
    average_w = np.array([_power_mw(record) / 1e3 for record in devices])
    by_time: dict[int, dict[ProcessKey, float]] = {}
    for used in _looks(sorted(use for use in _used(records) if use[0] <= until_ns)):
        by_time[used[-1][0]] = {key: sm_percent for _, key, sm_percent in used}
    held_from_ns = before_ns = min(record.t for record in processes)
    periods = []
    for to_ns in sorted(by_time):
        if to_ns <= before_ns:
            continue
        energy_j = float(np.interp(to_ns, t_ns, counters_j) - np.interp(before_ns, t_ns, counters_j))
        last = max(0, int(np.searchsorted(t_ns, to_ns, "right")) - 1)
        periods.append(Period(before_ns, to_ns, by_time[to_ns], energy_j, float(average_w[last])))
        before_ns = to_ns
    unheld = average_w[t_ns < held_from_ns]
    idle_w = idle_level(gpu_model, {})[0] / 1e3
    return Seen(periods, held_by, idle_w, float(unheld.min()) if len(unheld) else 0.0)


def _power_mw(record: Device) -> int:
    """The mean of 1 s, or the power at that moment if the GPU has no mean."""
    return record.power_average_mw or record.power_mw or 0


def _looks(uses: Sequence[_Use]) -> Iterator[list[_Use]]:
    """Group the readings of all processes that belong together: a driver may date each by itself."""
    look: list[_Use] = []
    for use in uses:
        if look and (use[0] - look[0][0] > _ONE_LOOK_NS or any(use[1] == of[1] for of in look)):
            yield look
            look = []
        look.append(use)
    if look:
        yield look


def _used(records: Sequence[Record]) -> Iterator[_Use]:
    """The readings of SM time of processes, in percent of the device. With MIG, the SM time of an instance is
    split evenly over its processes."""
    within: dict[int, set[ProcessKey]] = {}
    for record in records:
        if isinstance(record, Process):
            key = record.pid, record.start_ns
            within.setdefault(record.gpu_instance, set()).add(key)
            if record.sm_percent is not None:
                yield record.t, key, record.sm_percent
        elif isinstance(record, Instance) and record.sm_percent is not None and record.slices is not None:
            there = within.get(record.gpu_instance, set())
            for key in there:
                yield record.t, key, record.sm_percent * record.slices / SLICES / len(there)


def _energy_j(devices: Sequence[Device]) -> NDArray[np.float64]:
    """The counter, or integrated power if there is none."""
    if devices[0].energy_mj is not None:
        return np.array([(record.energy_mj or 0) / 1e3 for record in devices])
    power_w = np.array([(record.power_mw or 0) / 1e3 for record in devices])
    t_s = np.array([record.t for record in devices]) / 1e9
    return np.concatenate([[0.0], np.cumsum((power_w[1:] + power_w[:-1]) / 2 * np.diff(t_s))])


def _summed(parts: Iterator[tuple[ProcessKey, float]]) -> dict[ProcessKey, float]:
    found: dict[ProcessKey, float] = {}
    for key, energy_j in parts:
        found[key] = found.get(key, 0.0) + energy_j * 1e6
    return found


def by_counter_ratio(device: Seen) -> dict[ProcessKey, float]:
    """The counter's energy above the idle level, split by SM time."""

    def parts() -> Iterator[tuple[ProcessKey, float]]:
        for period in device.periods:
            active_j = max(0.0, period.counter_j - device.idle_w * period.length_s)
            whole = sum(period.sm_percent.values())
            yield from ((key, active_j * sm / whole) for key, sm in period.sm_percent.items() if whole)

    return _summed(parts())


def by_kepler(device: Seen) -> dict[ProcessKey, float]:
    """Power as it is read, minus the least power seen while nobody held the device, split by SM time; evenly
    if nobody worked."""

    def parts() -> Iterator[tuple[ProcessKey, float]]:
        for period in device.periods:
            active_j = max(0.0, period.average_w - device.unheld_w) * period.length_s
            whole = sum(period.sm_percent.values())
            used = period.sm_percent if whole else dict.fromkeys(device.held_by, 1.0)
            yield from ((key, active_j * sm / (whole or len(used))) for key, sm in used.items())

    return _summed(parts())


def by_equal_parts(device: Seen) -> dict[ProcessKey, float]:
    """The counter's energy above the idle level, split evenly."""

    def parts() -> Iterator[tuple[ProcessKey, float]]:
        for period in device.periods:
            active_j = max(0.0, period.counter_j - device.idle_w * period.length_s)
            yield from ((key, active_j / len(device.held_by)) for key in device.held_by)

    return _summed(parts())


def by_least_squares(device: Seen) -> dict[ProcessKey, float]:
    """Watts for each percent of SM time by plain recursive least squares, times SM time."""
    n = len(device.held_by) + 1
    watts, spread = np.zeros(n), np.eye(n) * 1e4

    def parts() -> Iterator[tuple[ProcessKey, float]]:
        nonlocal watts, spread
        for period in device.periods:
            used = np.array([*(period.sm_percent.get(key, 0.0) for key in device.held_by), 1.0])
            gain = spread @ used / (_KEPT + used @ spread @ used)
            watts = watts + gain * (period.counter_j / period.length_s - used @ watts)
            spread = (spread - np.outer(gain, used @ spread)) / _KEPT
            for place, key in enumerate(device.held_by):
                yield key, max(0.0, watts[place] * used[place]) * period.length_s

    return _summed(parts())


SIMPLER: Final[Mapping[str, Callable[[Seen], dict[ProcessKey, float]]]] = {
    "counter ratio": by_counter_ratio,
    "Kepler's form": by_kepler,
    "equal parts": by_equal_parts,
    "least squares": by_least_squares,
}
"""The simpler methods, by the name under which they are shown."""
