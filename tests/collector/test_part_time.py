"""Power of a sensor that measures for a part of the time only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wattribute.collector.part_time import averaged
from wattribute.collector.trace import Line, bad_line
from wattribute.records import Device, Gpu

T0 = 1_700_000_000_000_000_000
STEP_NS = 100_000_000


def reading(at: int, power_mw: int | None, percent: float | None, gpu: str = "GPU-a") -> Line:
    """A reading of the ``at``-th tenth of a second."""
    return Line(at + 1, Device(t=T0 + at * STEP_NS, gpu=gpu, power_mw=power_mw, sm_percent=percent))


def powers(lines: list[Line], gpu: str = "GPU-a") -> list[int | None]:
    records = [line.record for line in averaged(iter(lines))]
    return [read.power_mw for read in records if isinstance(read, Device) and read.gpu == gpu]


def test_swings_at_half_load_are_levelled_and_the_energy_stays() -> None:
    lines = [reading(at, 60_000 if at // 10 % 2 else 180_000, 48.0 + at % 5) for at in range(80)]
    assert powers(lines) == [120_000] * 80


@pytest.mark.parametrize("percent", [0.0, 4.0, 96.0, 100.0, None])
def test_what_does_not_switch_is_left_alone(percent: float | None) -> None:
    lines = [reading(at, 60_000 + at, percent) for at in range(30)]
    assert list(averaged(iter(lines))) == lines


def test_a_mean_ends_where_utilization_moves_on() -> None:
    slow = [reading(at, [60_000, 180_000][at % 2], 40.0 + at) for at in range(12)]  # 40 to 45, 46 to 51
    assert powers(slow) == [120_000] * 12
    lines = [reading(0, 100, 50.0), reading(1, 300, 50.0), reading(2, 700, 56.0), reading(3, 900, 56.0)]
    assert powers(lines) == [200, 200, 800, 800]


@pytest.mark.parametrize("between", [reading(1, None, 50.0), reading(1, 40_000, 100.0)])
def test_a_mean_ends_at_a_reading_that_cannot_be_part_of_it(between: Line) -> None:
    lines = [reading(0, 100, 50.0), between, reading(2, 300, 50.0)]
    assert list(averaged(iter(lines))) == lines


def test_a_mean_is_of_ten_seconds_at_most() -> None:
    lines = [reading(at, 100 if at < 100 else 300, 50.0) for at in range(150)]
    assert powers(lines) == [100] * 100 + [300] * 50


def test_each_gpu_has_its_own_mean_and_the_order_stays() -> None:
    lines = [Line(1, Gpu(t=T0, gpu="GPU-a")), bad_line(2, "no number", b"x")]
    for at in range(50):
        lines += [reading(at, [100, 300][at % 2], 50.0), reading(at, [500, 900][at % 2], 30.0, "GPU-b")]
    assert powers(lines) == [200] * 50
    assert powers(lines, "GPU-b") == [700] * 50
    plain = [line._replace(record=None) for line in lines]
    assert [line._replace(record=None) for line in averaged(iter(lines))] == plain


def test_logs_put_together_wait_for_no_gpu_that_is_gone() -> None:
    first = [reading(at, [100, 300][at % 2], 50.0) for at in range(600, 640)]
    second = [reading(at, [500, 900][at % 2], 50.0, "GPU-b") for at in range(400)]
    told = averaged(iter([*first, *second, *first]))
    before = [next(told) for _ in first]
    assert {line.record.power_mw for line in before if isinstance(line.record, Device)} == {200}
    assert powers([*first, *second], "GPU-b") == [700] * 400


def test_lines_that_cannot_be_used_do_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wattribute.collector.part_time._WAITING_MOST", 10)
    read = 0

    def lines() -> Iterator[Line]:
        nonlocal read
        for line in [reading(0, 100, 50.0), *(bad_line(at, "no number", b"") for at in range(2, 40))]:
            read += 1
            yield line

    told = averaged(lines())
    assert next(told) == reading(0, 100, 50.0)
    assert read == 11
