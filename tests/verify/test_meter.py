"""Real readings of an A100 beside a power meter: what a window is off by, as docs/accuracy.md shows it."""

from __future__ import annotations

import csv
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tests.collector.test_nvidia_smi_log import sc24_log
from wattribute.collector.nvidia_smi_log import read_nvidia_smi_log
from wattribute.stream.engine import Engine
from wattribute.stream.replay import replay
from wattribute.verify.memory_sink import MemorySink
from wattribute.verify.methods import by_window

WINDOW_MS = 100
PAGE = Path(__file__).parents[2] / "docs" / "accuracy.md"
# Of that card (A100-PCIe-40GB, driver 535.54), published with the readings: reading = gain × power + offset.
GAIN, OFFSET_W = 0.954, -1.2


def meter_j(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times in Unix ms, and the energy up to them: a line is the mean of 10 ms."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    at = [datetime.strptime(row["timestamp"], "%Y/%m/%d %H:%M:%S.%f").replace(tzinfo=UTC) for row in rows]
    ms = np.array([moment.timestamp() * 1000 for moment in at])
    return ms, np.concatenate([[0.0], np.cumsum([float(row["power_w"]) for row in rows])[:-1] * 0.01])


def off(name: str, gain: float, offset_w: float) -> dict[int, tuple[float, float]]:
    """For windows of 1, 2 and 5 s that begin each 100 ms, rms and worst error of what is attributed, in %."""
    path = sc24_log(name)
    sink = MemorySink()
    replay(list(read_nvidia_smi_log(path, host="h1")), Engine("meter", WINDOW_MS * 1_000_000), sink)
    energy_uj = {start: rows[0]["device_energy_uj"] for (_, start), rows in by_window(sink.table()).items()}
    ms, joules = meter_j(path.with_name("meter.csv"))
    starts = [start for start in sorted(energy_uj) if ms[0] <= start and start + WINDOW_MS <= ms[-1]]
    read_j = np.array([energy_uj[start] for start in starts]) / 1e6
    read_j = (read_j - offset_w * WINDOW_MS / 1000) / gain
    true_j = np.diff(np.interp([*starts, starts[-1] + WINDOW_MS], ms, joules))
    found = {}
    for seconds in (1, 2, 5):
        ones = np.ones(seconds * 1000 // WINDOW_MS)
        error = np.convolve(read_j, ones, "valid") / np.convolve(true_j, ones, "valid") - 1
        found[seconds] = (100 * float(np.sqrt((error**2).mean())), 100 * float(np.abs(error).max()))
    return found


@pytest.mark.parametrize("name", ["a100-square", "a100-step"])
def test_windows_are_off_by_what_the_page_says(name: str) -> None:
    shown = re.findall(rf"^\| {name} \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    assert len(shown) == 3
    as_read, corrected = off(name, 1.0, 0.0), off(name, GAIN, OFFSET_W)
    for row in shown:
        seconds, *figures = row.split("|")
        length = int(seconds.removesuffix(" s ").strip())
        found = [*as_read[length], *corrected[length]]
        assert [f"{figure:.1f}" for figure in found] == [figure.strip() for figure in figures], found


def test_of_steps_little_is_left_once_the_factor_of_the_card_is_known() -> None:
    """With it 5 s are right to 1 %, where they were 5 % off."""
    assert off("a100-step", GAIN, OFFSET_W)[5][0] < off("a100-step", 1.0, 0.0)[5][0] / 4
