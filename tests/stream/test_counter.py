"""A counter that says what cannot be: one garbled reading is nobody's energy."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stream import host as made_host
from wattribute.kernels.result import NO_ENERGY
from wattribute.records import Device, Record
from wattribute.stream.engine import Engine

SECOND_NS = made_host.SECOND_NS
WATTS = 300
MJ_PER_S = 1000 * WATTS
Rows = Mapping[tuple[Any, ...], Mapping[str, Any]]


def reading(second: float, energy_mj: int | None) -> Device:
    t = made_host.START_NS + round(second * SECOND_NS)
    return Device(t=t, gpu="g", energy_mj=energy_mj, power_mw=1000 * WATTS)


def steady(seconds: int, base_mj: int = 5_000_000) -> list[Device]:
    """300 W, read ten times a second."""
    return [reading(tick / 10, base_mj + tick * MJ_PER_S // 10) for tick in range(10 * seconds)]


def rows_of(readings: list[Device]) -> tuple[Rows, Engine]:
    engine = Engine("test", processes_known=False)
    written = made_host.stream(engine, made_host.messages([[one] for one in readings]), [7])
    return made_host.table(written), engine


def device_uj(rows: Rows) -> list[int]:
    """By window: nobody holds the device, so it has one row."""
    return [row["device_energy_uj"] for _, row in sorted(rows.items(), key=lambda item: item[0][3])]


@pytest.mark.parametrize("counted", [slice(0), slice(0, 1), slice(-1, None)])
def test_power_is_a_straight_line_from_one_reading_to_the_next(counted: slice) -> None:
    """And so it is before a counter's first reading and after its last."""
    powers_w = [100, 300, 0, 500, 200]
    readings = [
        replace(reading(place + 0.5, None), power_mw=1000 * power_w) for place, power_w in enumerate(powers_w)
    ]
    readings[counted] = [replace(one, energy_mj=7) for one in readings[counted]]

    rows, _ = rows_of(readings)

    middles_w = [(before + after) / 2 for before, after in pairwise(powers_w)]
    edges_w = [powers_w[0], *middles_w, powers_w[-1]]  # where windows begin and end
    joules = [
        (edges_w[place] + power_w) / 4 * (place > 0) + (power_w + edges_w[place + 1]) / 4 * (place < 4)
        for place, power_w in enumerate(powers_w)
    ]
    assert device_uj(rows) == [round(1e6 * of) for of in joules]


@pytest.mark.parametrize("source", ["power_mw", "power_average_mw"])
@pytest.mark.parametrize("counter", [False, True])
def test_where_power_is_no_longer_read_nothing_is_known(source: str, counter: bool) -> None:
    """At once, and not when it has been away for 10 min; once it is back it is known after all."""
    away = [Device(t=reading(tick / 10, None).t, gpu="g", sm_percent=50.0) for tick in range(100, 400)]
    power: dict[str, Any] = {"power_mw": None} | {source: 1000 * WATTS}
    first = [replace(one, **power) for one in steady(10)]
    if not counter:
        first = [replace(one, energy_mj=None) for one in first]
    back = replace(first[-1], t=away[-1].t + SECOND_NS // 10, energy_mj=None)

    for readings in (first + away, first + away[:170]):
        rows = sorted(rows_of(readings)[0].items(), key=lambda item: item[0][3])
        for second, (_, row) in enumerate(rows):
            assert bool(row["flags"] & NO_ENERGY) == (second >= 9)  # the last reading is of 9.9 s
            known_s = min(max(9.9 - second, 0), 1)
            assert row["device_energy_uj"] == pytest.approx(known_s * WATTS * 10**6, abs=1)

    known = list(rows_of([*first, *away, back])[0].values())
    assert sum(row["device_energy_uj"] for row in known) == 40 * WATTS * 10**6
    assert not any(row["flags"] & NO_ENERGY for row in known)


@pytest.mark.parametrize("garbled_mj", [4 * 10**15, 5_000_000 + 40 * 10**6, (1 << 62) // 1000])
def test_one_reading_that_is_too_high_is_dropped_and_counted(garbled_mj: int) -> None:
    readings = steady(20)
    readings[103] = replace(readings[103], energy_mj=garbled_mj)

    rows, engine = rows_of(readings)

    assert engine.tables.dropped == 1
    (letter,) = engine.tables.take()["dead"]
    assert "counter claims more than 10 kW can use" in letter["reason"]
    without, _ = rows_of(readings[:103] + readings[104:])
    assert device_uj(rows) == device_uj(without) == device_uj(rows_of(steady(20))[0])


def test_a_counter_that_was_set_higher_begins_anew() -> None:
    """By a driver that was loaded again, say. What it gained is what power says."""
    readings = steady(10) + [
        replace(one, t=one.t + 10 * SECOND_NS, energy_mj=10**14 + (one.energy_mj or 0)) for one in steady(10)
    ]

    rows, engine = rows_of(readings)

    assert engine.tables.dropped == 1  # the first; the second made it true
    assert device_uj(rows)[:19] == [WATTS * 1_000_000] * 19
    segments = [row["segment"] for _, row in sorted(rows.items(), key=lambda item: item[0][3])]
    assert segments == [0] * 10 + [1] * 10
    assert [bool(row["flags"] & 4) for _, row in sorted(rows.items(), key=lambda item: item[0][3])] == (
        [False] * 9 + [True] * 2 + [False] * 9
    )


@pytest.mark.long
def test_what_a_counter_that_began_anew_missed_is_known_for_ten_minutes_at_most() -> None:
    """Of a driver that was loaded again two days later nobody knows what the GPU drew meanwhile."""
    away_s = 2 * 86_400
    anew = [
        replace(one, t=one.t + away_s * SECOND_NS, energy_mj=(one.energy_mj or 0) // 100)
        for one in steady(10)
    ]

    rows, _ = rows_of(steady(10) + anew)

    away = [row for row in rows.values() if 10 <= row["window_start"] // 1000 - 1_780_000_000 < away_s]
    assert len(away) == away_s - 10
    assert {row["device_energy_uj"] for row in away} == {0}
    assert {row["flags"] & 8 for row in away} == {8}


@pytest.mark.parametrize("has_power", [True, False])
def test_a_window_with_a_reset_is_as_sure_as_what_bridges_it(has_power: bool) -> None:
    readings = steady(10) + [replace(one, t=one.t + 10 * SECOND_NS) for one in steady(10, base_mj=0)]
    if not has_power:
        readings = [replace(one, power_mw=None) for one in readings]

    rows, _ = rows_of(readings)

    for row in rows.values():
        known = has_power or not row["flags"] & 4
        assert bool(row["flags"] & 8) == (not known)
        if row["flags"] & 4 and has_power:
            assert row["error_uj"] > row["device_energy_uj"] // 2
        elif known:
            assert row["error_uj"] == 1000


def disputed(rows: Rows) -> list[bool]:
    """By window, whether the counter and the readings of power disagree."""
    return [bool(row["flags"] & 128) for _, row in sorted(rows.items(), key=lambda item: item[0][3])]


def counted(seconds: range, base_mj: int, counted_ratio: float, **fields: Any) -> list[Device]:
    """300 W, of which the counter counts a part."""
    mj_per_tick = int(MJ_PER_S // 10 * counted_ratio)
    return [
        replace(reading(tick / 10, base_mj + (tick - 10 * seconds[0]) * mj_per_tick), **fields)
        for tick in range(10 * seconds[0], 10 * seconds[-1] + 10)
    ]


@pytest.mark.parametrize("counted_ratio", [0.57, 0.0, 1.5])
@pytest.mark.parametrize("fields", [{}, {"power_mw": None, "power_average_mw": 1000 * WATTS}])
def test_a_counter_that_power_disputes_is_flagged_and_its_band_holds_the_difference(
    counted_ratio: float, fields: dict[str, Any]
) -> None:
    good, bad = (
        counted(range(30), 10**6, 1.0, **fields),
        counted(range(30, 60), 10**7, counted_ratio, **fields),
    )

    rows, _ = rows_of(good + bad)

    first = -made_host.START_NS // SECOND_NS % 6  # of the spans of 6 s that the windows stand in
    found = disputed(rows)
    assert not any(found[: 24 + first])
    assert all(found[36:54])
    for _, row in sorted(rows.items(), key=lambda item: item[0][3])[36:54]:
        true_uj = WATTS * 1_000_000
        assert abs(row["device_energy_uj"] - true_uj) <= row["error_uj"] * 1.02 or counted_ratio == 0.0
        assert row["error_uj"] <= row["device_energy_uj"]


@pytest.mark.parametrize(
    "fields",
    [
        {"power_mw": None},
        {"power_mw": 1240 * WATTS},
        {"power_mw": 0, "power_average_mw": 1090 * WATTS},
    ],
    ids=["no power", "24 % at instants", "9 % in the mean"],
)
def test_a_counter_is_not_disputed_by_what_says_too_little(fields: dict[str, Any]) -> None:
    assert not any(disputed(rows_of(counted(range(30), 10**6, 1.0, **fields))[0]))


def test_power_that_is_read_seldom_disputes_nothing() -> None:
    """Each 0.5 s, of a load that draws nothing at those moments."""
    seldom = [reading(half / 2, 10**6 + half * MJ_PER_S // 2) for half in range(60)]
    assert not any(disputed(rows_of([replace(one, power_mw=0) for one in seldom])[0]))


@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("ticks", [7, 9, 25])
def test_a_counter_that_is_read_just_before_it_changes_is_not_disputed_in_a_short_time(
    ticks: int, averaged: bool
) -> None:
    """Of the span of 6 s in which a collector starts, only the end is known. One change more or less in it is
    no fault of the counter."""
    first = 10 * (-made_host.START_NS // SECOND_NS % 6) - ticks  # the span ends after so many readings
    readings = [
        reading((first + tick) / 10, 10**6 + (tick - (tick > 4)) * MJ_PER_S // 10) for tick in range(300)
    ]
    if averaged:
        readings = [replace(one, power_average_mw=1000 * WATTS) for one in readings]
    assert not any(disputed(rows_of(readings)[0]))


@settings(max_examples=20)
@given(seed=st.integers(0, 1 << 30), sizes=st.lists(st.integers(1, 40), min_size=1))
def test_late_readings_dispute_as_those_that_came_in_time_would(seed: int, sizes: list[int]) -> None:
    """However the messages are cut: windows that were final are judged anew by what came late."""
    rng = random.Random(seed)
    readings = counted(range(20), 10**6, 1.0) + counted(range(20, 60), 10**7, 0.57)
    late = sorted(rng.sample(range(210, 400), 30))
    moved = [one for i, one in enumerate(readings) if i not in late]
    moved[500:500] = [readings[i] for i in late]
    sent = made_host.messages([[one] for one in moved])

    def streamed(cut: list[int]) -> Rows:
        return made_host.table(made_host.stream(Engine("test", processes_known=False), sent, cut))

    assert streamed(sizes) == streamed([len(sent)])
    assert disputed(streamed([7]))[:50] == disputed(rows_of(readings)[0])[:50]


@pytest.mark.parametrize("garbled_mj", [0, 17])
def test_one_reading_that_is_too_low_costs_nothing_either(garbled_mj: int) -> None:
    readings = steady(20, base_mj=10**12)
    readings[103] = replace(readings[103], energy_mj=garbled_mj)

    rows, _ = rows_of(readings)

    assert device_uj(rows)[:19] == [WATTS * 1_000_000] * 19


def test_a_device_that_was_away_for_hours_may_have_used_a_lot() -> None:
    readings = steady(10)
    later = [
        replace(one, t=one.t + 7200 * SECOND_NS, energy_mj=(one.energy_mj or 0) + 7200 * MJ_PER_S)
        for one in readings
    ]

    _, engine = rows_of(readings + later)

    assert engine.tables.dropped == 0


@pytest.mark.parametrize("late", [(3, 3500), (3, 3000)])
def test_a_late_reading_before_a_counter_was_set_higher_finds_its_side(late: tuple[int, int]) -> None:
    straight = [(0, 1000), (1, 2000), (2, 3000), (4, 10**12), (5, 10**12 + 50), (6, 10**12 + 90)]

    came_late, _ = rows_of([reading(*one) for one in (*straight, late)])
    came_in_time, _ = rows_of([reading(*one) for one in sorted((*straight, late))])

    assert device_uj(came_late) == device_uj(came_in_time)
    assert max(device_uj(came_late)) <= WATTS * 1_000_000


def test_a_late_reading_before_the_first_is_believed_only_if_the_first_can_come_of_it() -> None:
    """A device that is read without its counter; two garbled readings of it, the later one first."""
    readings = [replace(one, energy_mj=None) for one in steady(20)]
    readings[150] = replace(readings[150], energy_mj=26 * 10**14)
    readings[100] = replace(readings[100], energy_mj=9 * 10**14)
    readings.append(readings.pop(100))

    rows, engine = rows_of(readings)

    assert engine.tables.dropped == 1
    assert max(device_uj(rows)) <= WATTS * 1_000_000


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 30), often=st.floats(0.0, 0.1), sizes=st.lists(st.integers(1, 9), min_size=1))
def test_whatever_the_counter_says_no_window_has_more_than_10_kw(
    seed: int, often: float, sizes: list[int]
) -> None:
    """And none less than nothing; how the messages are cut changes nothing."""
    rng = random.Random(seed)
    made = made_host.make(seed, seconds=20, processes=2)
    garbled: list[list[Record]] = []
    for flush in made.flushes:
        changed: list[Record] = []
        for record in flush:
            if isinstance(record, Device) and rng.random() < often:
                record = replace(record, energy_mj=rng.choice([0, 10**9, 10**15, rng.randrange(10**16)]))  # noqa: PLW2901
            changed.append(record)
        garbled.append(changed)
    rng.shuffle(garbled[8:11])
    sent = made_host.messages(garbled)

    rows = made_host.table(made_host.stream(Engine("test"), sent, sizes))

    for found in made_host.windows(rows).values():
        whole_uj = found[0]["device_energy_uj"]
        assert (
            0 <= whole_uj <= 11_000 * 1_000_000 * 2
        )  # at 10 kW, and the second that the counter may be late
        assert sum(row["active_energy_uj"] + row["idle_energy_equal_uj"] for row in found) == whole_uj
        assert all(row[name] >= 0 for row in found for name in row if name.endswith("_uj"))
    assert made_host.table(made_host.stream(Engine("test"), sent, [len(sent)])) == rows


@pytest.mark.parametrize(("late_mj", "is_taken"), [(4 * 10**15, False), (8_010_000, True), (1_000, True)])
def test_a_late_reading_between_the_sides_of_a_reset_fits_one_of_them(late_mj: int, is_taken: bool) -> None:
    began_anew = [reading(10.2 + tick / 10, 3_000 + tick * MJ_PER_S // 10) for tick in range(80)]
    readings = [*steady(10), *began_anew]
    late = [*readings[:150], reading(10.1, late_mj), *readings[150:]]

    rows, engine = rows_of(late)

    assert engine.tables.dropped == (not is_taken)
    assert max(device_uj(rows)) < 2 * WATTS * 1_000_000
    if not is_taken:
        assert device_uj(rows) == device_uj(rows_of(readings)[0])
