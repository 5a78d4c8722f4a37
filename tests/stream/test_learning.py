"""What one process was seen to draw alone tells what it draws beside another, from the first second on; of
processes that nothing tells apart SM time does."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.stream import host as made_host
from wattribute.kernels.result import NO_SM
from wattribute.records import Device, Gpu, Process, Record
from wattribute.stream.engine import Engine
from wattribute.stream.idle import idle_level

SECOND_NS = made_host.SECOND_NS
MINUTE_NS = made_host.START_NS // (60 * SECOND_NS) * 60 * SECOND_NS
IDLE_LEVEL_W = 77.7  # of an H200
IDLE_W, FIRST_W, SECOND_W = 77, 240, 60  # above idle: 60 % at 4 W, 30 % at 2 W
ALONE_S, TOGETHER_S = 9, 6


def windows_of(flushes: Sequence[Sequence[Record]]) -> dict[int, list[Mapping[str, Any]]]:
    """The rows of each window, by its start."""
    return made_host.windows(
        made_host.table(made_host.stream(Engine("test"), made_host.messages(flushes), [1]))
    )


def constant(
    seconds: int,
    power_w: float,
    used: Sequence[float | None],
    says: float | None = None,
    gpu_model: str = "NVIDIA H200",
) -> list[list[Mapping[str, Any]]]:
    """The rows of each window, in order, of a device that draws the same all along, on which each process is
    ``used`` (SM percent, if it is told); ``says``: the device's own SM percent."""
    flushes: list[list[Record]] = [[Gpu(t=MINUTE_NS, gpu="g", name=gpu_model)]]
    for tick in range(10 * seconds + 1):
        t = MINUTE_NS + tick * SECOND_NS // 10
        energy_mj, power_mw = round(100 * power_w * tick), round(1000 * power_w)
        flush: list[Record] = [Device(t=t, gpu="g", energy_mj=energy_mj, power_mw=power_mw, sm_percent=says)]
        if tick % 10 == 0 and tick:
            flush += [
                Process(t=t, gpu="g", pid=pid, start_ns=7, period_ns=SECOND_NS, sm_percent=percent)
                for pid, percent in enumerate(used, 1)
            ]
        flushes.append(flush)
    windows = [of for _, of in sorted(windows_of(flushes).items())]
    assert len(windows) >= seconds
    return windows


# Past the minute: where the first is alone there, no fifth block of 3 s lies.
@pytest.mark.parametrize("begin_s", [3, 18, 33, 48])
def test_who_comes_is_told_from_who_was_alone(begin_s: int) -> None:
    flushes: list[list[Record]] = [[Gpu(t=MINUTE_NS, gpu="g", name="NVIDIA H200")]]
    energy_mj = 0
    for tick in range(10 * (ALONE_S + TOGETHER_S) + 1):
        t = MINUTE_NS + begin_s * SECOND_NS + tick * SECOND_NS // 10
        together = tick >= 10 * ALONE_S
        power_w = IDLE_W + FIRST_W + SECOND_W * together
        flush: list[Record] = [Device(t=t, gpu="g", energy_mj=energy_mj, power_mw=1000 * power_w)]
        energy_mj += 100 * (IDLE_W + FIRST_W + SECOND_W * (tick + 1 > 10 * ALONE_S))
        if tick % 10 == 0 and tick:
            who = [(1, 60.0), (2, 30.0)] if tick > 10 * ALONE_S else [(1, 60.0)]
            flush += [
                Process(t=t, gpu="g", pid=pid, start_ns=7, period_ns=SECOND_NS, sm_percent=percent)
                for pid, percent in who
            ]
        flushes.append(flush)

    rows = windows_of(flushes)

    shared = [
        of for _, of in sorted(rows.items()) if len([row for row in of if row["account"] == "process"]) == 2
    ]
    assert len(shared) >= TOGETHER_S - 1
    for of in shared[:TOGETHER_S]:
        drawn = {row["pid"]: row["active_energy_uj"] / 1e6 for row in of}
        assert drawn == pytest.approx({1: FIRST_W, 2: SECOND_W}, rel=0.03)


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize(
    ("power_w", "says", "idle_w"), [(115, 0.0, 115), (300, 0.0, 2.5 * IDLE_LEVEL_W), (115, 1.0, IDLE_LEVEL_W)]
)
def test_where_nothing_runs_what_is_drawn_is_idle(
    processes: int, power_w: int, says: float, idle_w: float
) -> None:
    """Up to 2.5 times what the model is known to draw: what is more is nobody's but of one who is alone."""
    for of in constant(10, power_w, [None] * processes, says)[:10]:
        own = [row for row in of if row["account"] == "process"]
        assert len(own) == processes
        assert sum(row["idle_energy_equal_uj"] for row in own) == pytest.approx(1e6 * idle_w, abs=1)
        residual = sum(row["active_energy_uj"] for row in of if row["account"] == "residual")
        assert residual == pytest.approx(1e6 * (power_w - idle_w) * (processes > 1), abs=1)
        assert {bool(row["flags"] & NO_SM) for row in of} == {residual > 1}


@pytest.mark.parametrize(
    ("gpu_model", "power_w"),
    [
        ("NVIDIA B200", 192),
        ("NVIDIA H100 80GB HBM3", 143),
        ("NVIDIA A40", 110),
        ("Tesla T4", 31),
        ("NVIDIA L4", 28),
        ("NVIDIA GeForce RTX 5090", 13),
    ],
)
def test_what_gpus_were_seen_to_draw_with_a_process_that_does_nothing_is_idle(
    gpu_model: str, power_w: int
) -> None:
    """Sources in stream/idle.py."""
    for of in constant(10, power_w, [None, None], 0.0, gpu_model)[:10]:
        assert sum(row["idle_energy_equal_uj"] for row in of) == pytest.approx(1e6 * power_w, abs=1)


@pytest.mark.parametrize(
    ("gpu_model", "idle_w"),
    [
        ("NVIDIA B200", 192),
        ("NVIDIA H100 80GB HBM3", 143),
        ("NVIDIA A40", 110),
        ("Tesla T4", 28),
        ("NVIDIA L4", 28),
        ("NVIDIA GeForce RTX 5090", 22),
    ],
)
def test_the_idle_level_of_a_gpu_that_is_never_idle_is_learned(gpu_model: str, idle_w: int) -> None:
    """One process, of 20 and 80 % by turns of 5 s, at 2 W a percent: when what it drew has been seen for a
    minute, the level is that of the GPU, whatever its model is known for."""
    flushes: list[list[Record]] = [[Gpu(t=MINUTE_NS, gpu="g", name=gpu_model)]]
    energy_mj = 0
    for tick in range(10 * 90 + 1):
        t = MINUTE_NS + tick * SECOND_NS // 10
        percent = 20.0 if (tick - 1) // 50 % 2 else 80.0
        energy_mj += round(100 * (idle_w + 2 * percent)) if tick else 0
        flush: list[Record] = [Device(t=t, gpu="g", energy_mj=energy_mj)]
        if tick % 10 == 0 and tick:
            flush.append(Process(t=t, gpu="g", pid=1, start_ns=7, period_ns=SECOND_NS, sm_percent=percent))
        flushes.append(flush)
    late = [of for _, of in sorted(windows_of(flushes).items())][70:85]
    idle_j = [sum(row["idle_energy_equal_uj"] for row in of) / 1e6 for of in late]
    assert idle_j == pytest.approx([idle_w] * len(late), rel=0.05)


@pytest.mark.parametrize(
    ("gpu_model", "level"),
    [
        ("NVIDIA A100-SXM4-80GB", (56_000, 40.0)),
        ("NVIDIA L4", (18_000, 40.0)),
        ("NVIDIA L40S", (60_000, 40.0)),  # of which nothing is known: it is no L4
        ("NVIDIA H200", (81_500, 0.0)),  # configured, so it is not learned
    ],
)
def test_the_idle_level_begins_with_what_the_name_of_a_gpu_tells(
    gpu_model: str, level: tuple[int, float]
) -> None:
    assert idle_level(gpu_model, {"NVIDIA H200": 81.5}) == level


def test_small_watts_are_learned() -> None:
    """An L4 draws 72 W at most: of two that work by turns one draws 0.6 W a percent, and one 0.2."""
    watts, idle_w = {1: 0.6, 2: 0.2}, 25
    flushes: list[list[Record]] = [[Gpu(t=MINUTE_NS, gpu="g", name="NVIDIA L4")]]
    energy_mj = 0
    for tick in range(10 * 90 + 1):
        t = MINUTE_NS + tick * SECOND_NS // 10
        used = {1: 60.0 if (tick - 1) // 30 % 2 else 20.0, 2: 30.0 if (tick - 1) // 50 % 2 else 10.0}
        power_w = idle_w + sum(watts[pid] * percent for pid, percent in used.items())
        energy_mj += round(100 * power_w) if tick else 0
        flush: list[Record] = [Device(t=t, gpu="g", energy_mj=energy_mj)]
        if tick % 10 == 0 and tick:
            flush += [
                Process(t=t, gpu="g", pid=pid, start_ns=7, period_ns=SECOND_NS, sm_percent=percent)
                for pid, percent in used.items()
            ]
        flushes.append(flush)
    late = [of for _, of in sorted(windows_of(flushes).items())][60:85]
    for pid, each_w in watts.items():
        own = [row for of in late for row in of if row["pid"] == pid]
        drawn_j = sum(row["active_energy_uj"] for row in own) / 1e6
        worked_s = sum(row["active_time_ns"] for row in own) / 1e9
        assert drawn_j / worked_s / 100 == pytest.approx(each_w, rel=0.1)


def test_without_sm_time_rows_are_as_unsure_as_the_idle_level() -> None:
    """Of a GPU that draws 110 W idle where its model is known for 77.7, and whose level nothing tells."""
    off_j = 110 - IDLE_LEVEL_W
    for of in constant(10, 300, [None, None])[:10]:
        errors_j = {row["pid"]: row["error_uj"] / 1e6 for row in of if row["account"] != "unheld"}
        assert errors_j.pop(0) >= off_j  # the residual's
        assert len(errors_j) == 2
        assert min(errors_j.values()) >= off_j / 2


@pytest.mark.parametrize("period_ms", [500, 1000])
def test_the_band_is_as_wide_as_what_watts_do_not_explain(period_ms: int) -> None:
    """Two that work by turns on a GPU that draws more or less at random, by 20 W in the mean of a second."""
    noise_w, off_w = 20.0, random.Random(1)
    flushes: list[list[Record]] = [[Gpu(t=MINUTE_NS, gpu="g", name="NVIDIA H200")]]
    energy_j = 0.0
    for tick in range(10 * 90 + 1):
        t = MINUTE_NS + tick * SECOND_NS // 10
        used = {1: 60.0 if (tick - 1) // 30 % 2 else 20.0, 2: 60.0 if (tick - 1) // 50 % 2 else 20.0}
        energy_j += 0.1 * (IDLE_LEVEL_W + 4 * sum(used.values())) + off_w.gauss(0, noise_w * 0.1**0.5)
        flush: list[Record] = [Device(t=t, gpu="g", energy_mj=round(1000 * energy_j))]
        if tick * 100 % period_ms == 0 and tick:
            flush += [
                Process(
                    t=t, gpu="g", pid=pid, start_ns=7, period_ns=period_ms * 1_000_000, sm_percent=percent
                )
                for pid, percent in used.items()
            ]
        flushes.append(flush)
    late = [of for _, of in sorted(windows_of(flushes).items())][60:85]
    error_j = sum(row["error_uj"] for of in late for row in of if row["pid"] == 1) / 1e6 / len(late)
    # Two deviations of what is left, of which half may be the other's, and a little for the watts.
    assert noise_w < error_j < 1.6 * noise_w


def test_of_a_record_that_a_window_cuts_the_band_holds_each_part() -> None:
    """Records end 0.7 s after each whole second. There the first goes from 10 to 30 % and back, and the other
    comes and goes at 0.5 s, in the middle of a window and of a record, which tells the mean of it."""
    ticks = range(10 * 90 + 1)
    works = {1: [30.0 if (tick - 7) // 30 % 2 else 10.0 for tick in ticks]}  # from a tenth to the next
    works[2] = [40.0 if (tick - 5) // 50 % 2 else 0.0 for tick in ticks]
    flushes: list[list[Record]] = [[Gpu(t=MINUTE_NS, gpu="g", name="NVIDIA H200")]]
    energy_mj = 0
    for tick in ticks:
        t = MINUTE_NS + tick * SECOND_NS // 10
        flush: list[Record] = [Device(t=t, gpu="g", energy_mj=energy_mj)]
        energy_mj += round(100 * (IDLE_LEVEL_W + 4 * (works[1][tick] + works[2][tick])))
        if tick % 10 == 7 and tick > 10:
            flush += [
                Process(t=t, gpu="g", pid=pid, start_ns=7, period_ns=SECOND_NS, sm_percent=sum(percent) / 10)
                for pid, percent in ((pid, of[tick - 10 : tick]) for pid, of in works.items())
            ]
        flushes.append(flush)
    errors_j: dict[bool, list[float]] = {True: [], False: []}  # whether a record that is cut holds a change
    for at, (_, of) in enumerate(sorted(windows_of(flushes).items())):
        if 60 <= at < 80:
            for row in of:
                true_uj = 400_000 * sum(works[row["pid"]][10 * at : 10 * at + 10])
                assert abs(row["active_energy_uj"] - true_uj) <= row["error_uj"]
                told = works[2][10 * at - 3 : 10 * at + 17]
                errors_j[len(set(told)) > 1].append(row["error_uj"] / 1e6)
    assert max(errors_j[True]) > 20
    assert max(errors_j[False]) < 4


@pytest.mark.parametrize("power_w", [200, 650])
@pytest.mark.parametrize("used", [(60.0, 20.0), (50.0, 25.0, 5.0)])
def test_load_that_never_changes_is_split_by_sm_time(power_w: int, used: tuple[float, ...]) -> None:
    for of in constant(40, power_w, used)[2:-2]:
        drawn = {row["pid"]: row["active_energy_uj"] / row["active_time_ns"] for row in of}
        assert len(drawn) == len(used)
        assert list(drawn.values()) == pytest.approx([drawn[1]] * len(used), rel=0.005)


@pytest.mark.parametrize("used", [(2.0,), (1.0, 1.0), (0.5, 0.5, 0.5, 0.5)])
def test_small_load_does_not_pay_for_an_idle_level_that_is_off(used: tuple[float, ...]) -> None:
    """A level of 110 W where the model is known for 77.7: two were charged five times too much."""
    power_w = 110 + 4.0 * sum(used)
    for of in constant(40, power_w, used)[5:-2]:
        active_w = sum(row["active_energy_uj"] for row in of if row["account"] == "process") / 1e6
        assert active_w == pytest.approx(4.0 * sum(used), rel=0.25)
