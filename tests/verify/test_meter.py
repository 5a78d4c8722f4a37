"""Real readings of an A100 beside a power meter: what a window is off by, as docs/accuracy.md shows it.

As each reading holds until the next, as attributed, the same with --part-time-sensor, and with what is known
of that card put right too."""

from __future__ import annotations

import csv
import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.collector.test_nvidia_smi_log import sc24_log
from wattribute.collector.nvidia_smi_log import read_nvidia_smi_log
from wattribute.collector.part_time import averaged
from wattribute.stream.engine import Engine
from wattribute.stream.replay import replay
from wattribute.verify.memory_sink import MemorySink
from wattribute.verify.methods import by_window

WINDOW_MS = 100
PAGE = Path(__file__).parents[2] / "docs" / "accuracy.md"
# Of that card (A100-PCIe-40GB, driver 535.54), published with the readings: reading = gain × power + offset.
GAIN, OFFSET_W = 0.954, -1.2
# A reading is the mean of 25 ms, and stands for 100: half of both.
LATE_MS = 62
Off = dict[int, tuple[float, float]]  # rms and worst error in %, by the length of windows in s


def table(path: Path, time: str, power: str) -> tuple[np.ndarray, np.ndarray]:
    """Times in Unix ms, and watts."""
    with path.open() as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    at = [datetime.strptime(row[time], "%Y/%m/%d %H:%M:%S.%f").replace(tzinfo=UTC) for row in rows]
    ms = [moment.timestamp() * 1000 for moment in at]
    return np.array(ms), np.array([float(row[power]) for row in rows])


def meter_j(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times in Unix ms, and the energy up to them: a line is the mean of 10 ms."""
    ms, watts = table(path.with_name("meter.csv"), "timestamp", "power_w")
    return ms, np.concatenate([[0.0], np.cumsum(watts)[:-1] * 0.01])


def off(starts: np.ndarray, read_j: np.ndarray, meter: tuple[np.ndarray, np.ndarray]) -> Off:
    """Of windows of 1, 2 and 5 s that begin each 100 ms: the energy read in each 100 ms from its start on."""
    ms, joules = meter
    inside = (starts >= ms[0]) & (starts + WINDOW_MS <= ms[-1])
    true_j = np.interp(starts + WINDOW_MS, ms, joules) - np.interp(starts, ms, joules)
    found = {}
    for seconds in (1, 2, 5):
        ones = np.ones(seconds * 1000 // WINDOW_MS)
        error = np.convolve(read_j[inside], ones, "valid") / np.convolve(true_j[inside], ones, "valid") - 1
        found[seconds] = (100 * float(np.sqrt((error**2).mean())), 100 * float(np.abs(error).max()))
    return found


def held(name: str) -> Off:
    """Each reading of the log taken to hold until the next."""
    path = sc24_log(name)
    t_ms, watts = table(path, "timestamp", "power.draw [W]")
    read_j = np.concatenate([[0.0], np.cumsum(watts[:-1] * np.diff(t_ms) / 1000)])
    edges = np.arange(t_ms[0] // WINDOW_MS + 1, t_ms[-1] // WINDOW_MS + 1) * WINDOW_MS
    return off(edges[:-1], np.diff(np.interp(edges, t_ms, read_j)), meter_j(path))


@cache
def windows_j(name: str, part_time: bool) -> tuple[np.ndarray, np.ndarray]:
    """When each window begins in Unix ms, and the energy that is attributed in it."""
    sink = MemorySink()
    lines = read_nvidia_smi_log(sc24_log(name), host="h1")
    replay(averaged(lines) if part_time else lines, Engine("meter", WINDOW_MS * 1_000_000), sink)
    energy_uj = {start: rows[0]["device_energy_uj"] for (_, start), rows in by_window(sink.table()).items()}
    starts = sorted(energy_uj)
    return np.array(starts), np.array([energy_uj[start] for start in starts]) / 1e6


def attributed(
    name: str, part_time: bool, gain: float = 1.0, offset_w: float = 0.0, late_ms: float = 0.0
) -> Off:
    """What is attributed, with what is known of the sensor put right."""
    starts, read_j = windows_j(name, part_time)
    return off(starts - late_ms, (read_j - offset_w * WINDOW_MS / 1000) / gain, meter_j(sc24_log(name)))


def put_right(name: str) -> Off:
    return attributed(name, True, GAIN, OFFSET_W, LATE_MS)


@pytest.mark.parametrize("name", ["a100-square", "a100-step"])
def test_windows_are_off_by_what_the_page_says(name: str) -> None:
    shown = re.findall(rf"^\| {name} \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    assert len(shown) == 3
    ways = [held(name), attributed(name, False), attributed(name, True), put_right(name)]
    for row in shown:
        seconds, *figures = row.split("|")
        length = int(seconds.removesuffix(" s ").strip())
        found = [figure for way in ways for figure in way[length]]
        assert [f"{figure:.1f}" for figure in found] == [figure.strip() for figure in figures], found


@pytest.mark.parametrize(("name", "times"), [("a100-square", 1.4), ("a100-step", 5)])
def test_what_is_known_of_a_sensor_makes_every_window_better(name: str, times: float) -> None:
    before, after = held(name), put_right(name)
    for length in (1, 2, 5):
        assert all(now < then / times for now, then in zip(after[length], before[length], strict=True)), (
            length
        )


def test_of_a_load_at_the_pace_of_the_sensor_a_quarter_is_left_and_the_energy_stays() -> None:
    before, after = held("a100-square"), attributed("a100-square", True)
    for length in (1, 2, 5):
        assert all(now < then / 4 for now, then in zip(after[length], before[length], strict=True)), length
    whole_j, levelled_j = (windows_j("a100-square", part_time)[1].sum() for part_time in (False, True))
    assert levelled_j == pytest.approx(whole_j, rel=5e-4)
