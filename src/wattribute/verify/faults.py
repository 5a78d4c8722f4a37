"""Where energy goes if readings are wrong, missing or of another process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from wattribute.verify.memory_sink import Row, Table
from wattribute.verify.methods import by_window
from wattribute.verify.recording import Recording

_WINDOW_NS: Final = 1_000_000_000
_IDLE: Final = ("idle_energy_equal_uj", "idle_energy_memory_uj", "idle_energy_active_uj")


class Faults(NamedTuple):
    """``misplaced_uj``: energy attributed to processes in windows that are a sample or more away from any in
    which they lived. ``least_uj``: the least energy of any row. ``lost_s``: energy that the device used and
    no row has (or the reverse), in seconds of the device's mean use. ``uncharged_s``: for how long energy is
    residual, or unheld though a process was there all along: of a second in which half of the energy is
    uncharged, half."""

    misplaced_uj: int
    least_uj: int
    lost_s: float
    uncharged_s: float


def faults(table: Table, recording: Recording, sample_s: float, until_ns: int) -> Faults:
    """Find the faults in a table. ``sample_s``: how often the collector samples processes. ``until_ns``: from
    then on readings of processes are missing, because the recording ends."""
    seconds, sample_ns = recording.seconds(), round(sample_s) * _WINDOW_NS
    mean_uj = recording.device_uj[-1] / (len(recording.device_uj) - 1)
    lost_uj, misplaced_uj, uncharged_s = recording.device_uj[-1], 0, 0.0
    for (_, start_ms), rows in by_window(table).items():
        lost_uj -= rows[0]["device_energy_uj"]
        start_ns = start_ms * 1_000_000
        near_ns = (start_ns - sample_ns, start_ns, start_ns + sample_ns)
        alive = [recording.alive(second) for near in near_ns for second in seconds.get(near, ())]
        processes = [row for row in rows if row["account"] == "process"]
        misplaced_uj += sum(
            _most_uj(row)
            for row in processes
            if not any((row["pid"], row["process_start_ns"]) in there for there in alive)
        )
        held = alive and all(alive) and not processes
        uncharged_uj = sum(
            _most_uj(row)
            for row in rows
            if row["account"] == "residual" or (held and row["account"] == "unheld")
        )
        if uncharged_uj and start_ns < until_ns:
            covered = len(seconds.get(start_ns, ()))  # none where the clock was set forth over the window
            uncharged_s += uncharged_uj / (rows[0]["device_energy_uj"] / covered if covered else mean_uj)
    least_uj = min(row[name] for row in table.values() for name in ("active_energy_uj", *_IDLE))
    return Faults(misplaced_uj, least_uj, abs(lost_uj) / mean_uj, uncharged_s)


def worst(found: Sequence[Faults]) -> Faults:
    """The worst value of each figure over several loads."""
    misplaced_uj, least_uj, lost_s, uncharged_s = zip(*found, strict=True)
    return Faults(max(misplaced_uj), min(least_uj), max(lost_s), max(uncharged_s))


def _most_uj(row: Row) -> int:
    """A row's energy under the policy that charges it the most."""
    return int(row["active_energy_uj"] + max(row[name] for name in _IDLE))
