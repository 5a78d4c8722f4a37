"""Clocks that are wrong: of one reading, of a host, of one host beside another's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.stream import host as made_host
from wattribute.records import Device, Exit, Gap, Gpu, Host, Process, Record
from wattribute.stream.engine import Engine
from wattribute.wire import Encoder

SECOND_NS = made_host.SECOND_NS
START_NS = made_host.START_NS
HOUR_NS = 3600 * SECOND_NS
FAR_NS = 4_070_908_800 * SECOND_NS - START_NS  # to the year 2099: later ones are absurd


def second(number: int, gpu: str = "g", ahead_ns: int = 0, pid: int = 9) -> list[Record]:
    """One second of a device at 300 W, held by one process."""
    readings: list[Record] = []
    for tick in range(10):
        t = START_NS + ahead_ns + number * SECOND_NS + tick * SECOND_NS // 10
        readings.append(Device(t=t, gpu=gpu, energy_mj=10**6 + 300_000 * number + 30_000 * tick))
    t = START_NS + ahead_ns + number * SECOND_NS + SECOND_NS // 2
    return [*readings, Process(t=t, gpu=gpu, pid=pid, start_ns=7, period_ns=SECOND_NS)]


def sent(*parts: tuple[str, str, int, Iterable[Sequence[Record]]]) -> list[made_host.Message]:
    """Messages of (host, boot, epoch, flushes), one part after the other."""
    values = []
    for host, boot, epoch, flushes in parts:
        encoder = Encoder(host, boot, epoch=epoch)
        values += [value for flush in flushes for _, _, value in encoder.encode(flush)]
    return list(enumerate(values))


def joules(rows: Any, from_s: int, to_s: int, ahead_ns: int = 0, host: str = "a") -> list[float]:
    """Energy of each second, of a host."""
    found = [0.0] * (to_s - from_s)
    for row in rows.values():
        at_s = (row["window_start"] * 1_000_000 - START_NS - ahead_ns) // SECOND_NS
        if row["host"] == host and from_s <= at_s < to_s:
            found[at_s - from_s] += (row["active_energy_uj"] + row["idle_energy_equal_uj"]) / 1e6
    return found


@pytest.mark.parametrize("size", [1, 50])
def test_a_reading_from_the_far_future_is_not_believed_for_being_sent_twice(size: int) -> None:
    wild: list[Record] = [Device(t=START_NS + FAR_NS, gpu="g", energy_mj=9_000_000)]
    flushes = [second(number) for number in range(40)]
    flushes[20:20] = [wild, wild]
    engine = Engine("test")
    rows = made_host.table(made_host.stream(engine, sent(("a", "b1", 1, flushes)), [size]))
    assert joules(rows, 0, 39) == [300.0] * 39
    assert engine.tables.dropped == 2


def test_a_counter_reading_that_leaps_is_not_believed_for_being_sent_twice() -> None:
    wild: list[Record] = [Device(t=START_NS + 20 * SECOND_NS - 1000, gpu="g", energy_mj=10**15)]
    flushes = [second(number) for number in range(40)]
    flushes[20:20] = [wild, wild]
    engine = Engine("test")
    rows = made_host.table(made_host.stream(engine, sent(("a", "b1", 1, flushes)), [1]))
    assert joules(rows, 0, 39) == [300.0] * 39
    assert {row["segment"] for row in rows.values()} == {0}


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_first_reading_from_the_far_future_costs_nobody_anything(size: int) -> None:
    wild: list[Record] = [Device(t=START_NS + FAR_NS, gpu="g", energy_mj=9_000_000)]
    flushes = [wild, *([*second(number), *second(number, "g2", pid=10)] for number in range(40))]
    engine = Engine("test")
    rows = made_host.table(made_host.stream(engine, sent(("a", "b1", 1, flushes)), [size]))
    assert joules(rows, 0, 39) == [600.0] * 39
    assert engine.tables.dropped == 1
    assert {row["account"] for row in rows.values()} == {"process"}


def test_a_host_in_the_year_2099_leaves_the_others_of_its_partition_alone() -> None:
    good = [second(number) for number in range(60)]
    wrong = [second(number, ahead_ns=FAR_NS) for number in range(60)]
    engine = Engine("test")
    values = []
    for number in range(60):
        values += sent(("w", "b1", 1, [wrong[number]]), ("a", "b1", 1, [good[number]]))
    messages = list(enumerate(value for _, value in values))
    rows = made_host.table(made_host.stream(engine, messages, [3]))
    assert engine.tables.dropped == 0
    assert joules(rows, 0, 59) == [300.0] * 59
    assert joules(rows, 0, 59, ahead_ns=FAR_NS, host="w") == [300.0] * 59


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize(("boot", "ahead_ns"), [("b1", 8 * HOUR_NS), ("b2", 8 * HOUR_NS), ("b1", FAR_NS)])
def test_a_clock_that_is_set_back_begins_anew(size: int, boot: str, ahead_ns: int) -> None:
    """A machine that boots with its clock 8 h ahead, until NTP sets it: that is a new epoch of its collector.
    All it read until its clock came there again was too late."""
    ahead = [second(number, ahead_ns=ahead_ns) for number in range(30)]
    after = [second(number) for number in range(30, 90)]
    engine = Engine("test")
    rows = made_host.table(
        made_host.stream(engine, sent(("a", "b1", 1, ahead), ("a", boot, 2, after)), [size])
    )
    assert engine.tables.dropped == 0
    assert joules(rows, 0, 29, ahead_ns) == [300.0] * 29
    assert joules(rows, 30, 89) == [300.0] * 59
    assert {row["account"] for row in rows.values()} == {"process"}


def test_after_a_clock_was_set_back_no_last_sample_of_the_time_before_is_the_newest_of_a_restart() -> None:
    flushes = [[*second(number), *(second(number, gpu="h") if number < 10 else ())] for number in range(200)]
    ahead = [[replace(record, t=record.t + HOUR_NS) for record in flush] for flush in flushes]
    after = [[*second(number), *second(number, gpu="h")] for number in range(90)]
    messages = sent(("a", "b", 1, ahead), ("a", "b", 2, after))
    running = Engine("test")
    saved: dict[str, bytes] = {}
    for offset, value in messages[:250]:
        running.take([offset], [value])
        running.rows()
        saved |= running.state()
    restarted = Engine("test")
    restarted.restore(saved.values(), 250)
    restarted.take(range(250), [value for _, value in messages[:250]], quiet=True)
    found = made_host.table(made_host.stream(restarted, messages[250:], [1]))
    whole = made_host.table(made_host.stream(Engine("test"), messages, [1]))
    assert {row["gpu"] for row in found.values()} == {"g", "h"}
    assert {key: whole[key] for key in found} == found


def test_where_a_clock_that_was_set_back_comes_again_no_window_counts_twice() -> None:
    """Whoever had a row there has none any more."""
    ahead = [second(number, ahead_ns=2 * HOUR_NS) for number in range(30)]
    after = [second(number, pid=11) for number in range(7100, 7300)]
    engine = Engine("test")
    rows = made_host.table(made_host.stream(engine, sent(("a", "b1", 1, ahead), ("a", "b1", 2, after)), [9]))
    assert joules(rows, 7101, 7299) == [300.0] * 198
    assert {row["pid"] for row in rows.values()} == {11}


@pytest.mark.parametrize("size", [1, 9])
def test_who_was_there_before_a_clock_was_set_back_has_no_row_beside_the_gap_after_it(size: int) -> None:
    """Its GPU is lost soon after, and comes back when the others have been read for over an hour."""
    ahead = [second(number, ahead_ns=200 * SECOND_NS) for number in range(30)]
    after = [second(number, pid=11) for number in range(30, 35)]
    meanwhile = [second(number, gpu="other") for number in range(35, 4500, 30)]
    back = [second(number, pid=11) for number in range(4500, 4530)]
    parts = sent(("a", "b1", 1, ahead), ("a", "b1", 2, [*after, *meanwhile, *back]))
    rows = made_host.table(made_host.stream(Engine("test"), parts, [size]))
    of_gpu = {key: row for key, row in rows.items() if row["gpu"] == "g"}
    for found in made_host.windows(of_gpu).values():
        assert sum(row["gpu_time_equal_ns"] for row in found) == found[0]["covered_ns"]
    assert {row["pid"] for row in of_account(of_gpu, "process").values()} == {11}


def twice(back_s: int, *more: Record) -> list[made_host.Message]:
    """After two minutes a clock is set back, as its collector tells; ``more`` comes in the second after."""
    back_ns, at_ns = back_s * SECOND_NS, START_NS + 120 * SECOND_NS
    gap = Gap(t=at_ns - back_ns, from_ns=at_ns - back_ns, to_ns=at_ns)
    first = [second(number) for number in range(120)]
    again = [second(number, ahead_ns=-back_ns) for number in range(120, 180 + back_s)]
    return sent(("a", "b1", 1, first), ("a", "b1", 2, [[gap], [*again[0], *more], *again[1:]]))


def of_account(rows: Any, account: str) -> Any:
    return {key: row for key, row in rows.items() if row["account"] == account}


@pytest.mark.parametrize("size", [1, 7, 400])
@pytest.mark.parametrize("back_s", [2, 5, 30, 99])
def test_of_time_that_comes_twice_the_first_stands_and_what_the_second_used_is_residual(
    size: int, back_s: int
) -> None:
    engine = Engine("test")
    rows = made_host.table(made_host.stream(engine, twice(back_s), [size]))
    assert joules(of_account(rows, "process"), 0, 179) == [300.0] * 119 + [270.0] + [300.0] * 59
    left = joules(of_account(rows, "residual"), 0, 179)
    assert left[: 120 - back_s] + left[120:] == [0.0] * (179 - back_s)
    # and of what lies between the last reading before and the first after
    assert sum(round(1e6 * joule) for joule in left) == 300_000_000 * back_s + 30_000_000
    assert all(abs(joule - 300.0 - 60 / (back_s - 0.1)) < 1e-5 for joule in left[120 - back_s : 119])
    flags = {row["window_start"] // 1000 - START_NS // SECOND_NS: row["flags"] for row in rows.values()}
    assert [second_ for second_ in range(179) if flags[second_] & 256] == list(range(120 - back_s, 120))
    tables = engine.tables.take()
    assert "dead" not in tables
    came_twice = [row for row in tables["gap"] if "came twice" in row["reason"]]
    assert sum(int(row["reason"].split()[0]) for row in came_twice) == 11 * back_s


def test_of_a_device_that_was_read_once_no_time_comes_twice() -> None:
    """What it used from that reading until its clock was past it is residual at that instant."""
    at_ns = START_NS + SECOND_NS // 2
    after: list[list[Record]] = [
        [Device(t=at_ns + (second - 5) * SECOND_NS, gpu="g", energy_mj=10**6 + 300_000 * (second + 1))]
        for second in range(20)
    ]
    messages = sent(("a", "b1", 1, [[Device(t=at_ns, gpu="g", energy_mj=10**6)]]), ("a", "b1", 2, after))
    rows = made_host.table(made_host.stream(Engine("test"), messages, [1]))
    assert sum(joules(rows, 0, 14)) == 300 * 20 - 150
    assert joules(of_account(rows, "residual"), 0, 3) == [300 * 7, 0, 0]


@pytest.mark.parametrize("at", [118, 121, 130, 149, 151, 153])
def test_time_that_comes_twice_is_the_same_after_a_restart(at: int) -> None:
    messages = twice(30)
    whole = made_host.table(made_host.stream(Engine("test"), messages, [1]))
    written = made_host.stream(Engine("test"), messages[:at], [5], end=False)
    restarted = Engine("test")
    restarted.take([offset for offset, _ in messages[:at]], [value for _, value in messages[:at]], quiet=True)
    written += made_host.stream(restarted, messages[at:], [3])
    assert made_host.table(written) == whole


def test_who_ends_while_time_comes_again_was_there_the_first_time() -> None:
    exit_ns = START_NS + 92 * SECOND_NS
    messages = twice(30, Exit(t=exit_ns, pid=9, start_ns=7))
    rows = of_account(made_host.table(made_host.stream(Engine("test"), messages, [1])), "process")
    assert joules(rows, 0, 179) == [300.0] * 119 + [270.0] + [0.0] * 59


def test_a_record_of_the_second_time_says_nothing_of_the_first() -> None:
    """A record that reaches back over where the clock stood: who it speaks of did not work alone before."""
    reaching = Process(
        t=START_NS + 120 * SECOND_NS + 1, gpu="g", pid=9, start_ns=7, period_ns=SECOND_NS, sm_percent=50.0
    )

    def shared(number: int, back_s: int = 0) -> list[Record]:
        other = Process(
            t=START_NS + (number - back_s) * SECOND_NS, gpu="g", pid=10, start_ns=7, period_ns=SECOND_NS
        )
        return [*second(number, ahead_ns=-back_s * SECOND_NS), other]

    after = [shared(number, 30) for number in range(120, 180)]
    after[31].append(reaching)
    parts = ("a", "b1", 1, [shared(number) for number in range(120)]), ("a", "b1", 2, after)
    rows = made_host.table(made_host.stream(Engine("test"), sent(*parts), [9])).values()
    of_last = [row for row in rows if row["window_start"] * 10**6 == START_NS + 119 * SECOND_NS]
    assert {row["pid"]: row["active_energy_uj"] for row in of_last if row["pid"]} == {9: 0, 10: 0}


@pytest.mark.parametrize(
    "ahead_s", [-7200, *(pytest.param(ahead_s, marks=pytest.mark.long) for ahead_s in (0, 1800, 10**6))]
)
def test_a_restart_reads_back_far_enough_for_each_host_by_its_own_clock(ahead_s: int) -> None:
    """Of two hosts the clocks differ, and one stops: what the other needs is read, and not much more."""
    values: list[bytes] = []
    encoders = {name: Encoder(name, "b1", epoch=1) for name in "aw"}
    for minute in range(200):
        for name, ahead in (("a", 0), ("w", ahead_s * SECOND_NS)):
            if name == "w" and 60 <= minute < 190:
                continue
            t = START_NS + ahead + minute * 60 * SECOND_NS
            flush: list[Record] = [
                Device(t=t + k * SECOND_NS, gpu="g", energy_mj=10**6 + (minute * 60 + k) * 300_000)
                for k in range(60)
            ]
            last_ns = t + 59 * SECOND_NS
            flush.append(Process(t=last_ns, gpu="g", pid=9, start_ns=7, period_ns=60 * SECOND_NS))
            values += [value for _, _, value in encoders[name].encode(flush)]
    messages = list(enumerate(values))
    whole = made_host.table(made_host.stream(Engine("test"), messages, [2]))
    for at in (100, 240):
        before = Engine("test")
        written = made_host.stream(before, messages[:at], [2], end=False)
        restarted = Engine("test")
        restarted.restore([value for _, value in before.state()], at)
        quietly = messages[before.look_back_offset : at]
        # that a host is gone whose clock was days ahead shows after a day
        assert 70 <= len(quietly) <= (170 if ahead_s < 86_400 else at)
        restarted.take([offset for offset, _ in quietly], [value for _, value in quietly], quiet=True)
        written += made_host.stream(restarted, messages[at:], [2])
        assert settled(made_host.table(written), ahead_s) == settled(whole, ahead_s)


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(
            [("b", 0), ("b", 1), ("a", 0), ("a", 1), ("b", 2), *((n, k) for k in range(3, 30) for n in "ab")],
            id="a comes",
        ),
        pytest.param(
            [
                *(("a", 7000 + k) for k in range(20)),
                *(("b", 60 * k) for k in range(116)),
                *((n, k) for k in range(7020, 7050) for n in "ab"),
            ],
            id="b sends what it kept for two hours",
        ),
    ],
)
def test_what_one_host_sends_makes_nothing_forgotten_of_another(order: Sequence[tuple[str, int]]) -> None:
    """Whatever the polls are, and however soon it is restarted."""
    encoders = {name: Encoder(name, "b1", epoch=1) for name in "ab"}
    met = set()

    def flush(name: str, number: int) -> list[bytes]:
        t = START_NS + number * SECOND_NS
        told: list[Record] = [
            Device(t=t + k * SECOND_NS // 10, gpu="g", energy_mj=10**6 + (10 * number + k) * 30_000)
            for k in range(10)
        ]
        told.append(Process(t=t + SECOND_NS // 2, gpu="g", pid=9, start_ns=7, period_ns=SECOND_NS))
        if name not in met:
            met.add(name)
            told.insert(0, Gpu(t=t, gpu="g", name="NVIDIA H200"))
        return [value for _, _, value in encoders[name].encode(told)]

    messages = list(enumerate(value for name, number in order for value in flush(name, number)))
    polls = [3, 3, 1]
    whole = made_host.table(made_host.stream(Engine("test"), messages, polls))
    for at in (5, len(messages) - 60, len(messages) - 20):
        before = Engine("test")
        written = made_host.stream(before, messages[:at], polls, end=False)
        restarted = Engine("test")
        restarted.restore([value for _, value in before.state()], at)
        quietly = messages[before.look_back_offset : at]
        restarted.take([offset for offset, _ in quietly], [value for _, value in quietly], quiet=True)
        written += made_host.stream(restarted, messages[at:], [2])
        assert made_host.table(written) == whole


def settled(rows: Any, ahead_s: int) -> Any:
    """But for the last seconds of the host that stopped: over an hour later they are beyond the look-back, so
    they stay as they were written."""
    from_ms, to_ms = ((START_NS // SECOND_NS + ahead_s + second_) * 1000 for second_ in (3589, 3600))
    return {
        key: row
        for key, row in rows.items()
        if row["host"] != "w" or not from_ms <= row["window_start"] < to_ms
    }


def test_a_gap_beside_which_power_was_not_read_changes_no_window_unnoticed() -> None:
    """Without a counter it takes the energy from the reading before it to the one after it."""
    readings = [
        Device(t=START_NS + k * SECOND_NS // 2, gpu="g", power_mw=300_000 if k % 8 == 0 else None)
        for k in range(60)
    ]
    gap = Gap(t=START_NS + 20 * SECOND_NS, from_ns=START_NS + 9 * SECOND_NS, to_ns=START_NS + 10 * SECOND_NS)
    messages = made_host.messages([[one] for one in readings] + [[gap]])
    whole = made_host.table(made_host.stream(Engine("test"), messages, [100], end=False))
    assert made_host.table(made_host.stream(Engine("test"), messages, [1], end=False)) == whole


def test_a_gap_without_end_is_refused() -> None:
    """It would take all that comes after it, and be forgotten by the next start."""
    gap = Gap(t=START_NS, from_ns=START_NS, to_ns=START_NS + 2 * 86_400 * SECOND_NS)
    engine = Engine("t")
    rows = made_host.table(
        made_host.stream(engine, sent(("a", "b", 1, [[gap], *map(second, range(20))])), [1])
    )
    (letter,) = engine.tables.take()["dead"]
    assert "a gap that ends more than a day after the time of its record" in letter["reason"]
    assert not any(row["flags"] & 2 for row in rows.values())


@pytest.mark.parametrize("size", [1, 50])
def test_a_message_of_an_older_epoch_does_not_tell_that_the_clock_was_set_back(size: int) -> None:
    before = sent(("a", "b", 1, [second(number) for number in range(40)]))
    begun = sent(("a", "b", 2, [[Host(t=START_NS + 40 * SECOND_NS, provider="p")]]))
    after = sent(("a", "b", 2, [second(number) for number in range(40, 60)]))
    values = [value for _, value in (*before, *begun, before[10], *after)]  # sent again between the two
    rows = made_host.table(made_host.stream(Engine("t"), list(enumerate(values)), [size]))
    held_s = {row["window_start"] for row in rows.values() if row["account"] == "process"}
    assert len(held_s) == 60
    assert sum(row["covered_ns"] for row in rows.values() if row["account"] == "residual") <= 2 * SECOND_NS


def test_a_record_that_comes_with_the_silence_before_it_ends_the_hold_where_it_was_thought_to_go_on() -> None:
    process = Process(t=START_NS + SECOND_NS // 2, gpu="g", pid=8, start_ns=7, period_ns=SECOND_NS // 5)
    later = [replace(record, t=record.t + 5 * SECOND_NS) for record in [process]]
    messages = sent(("a", "b", 1, [[*second(0), process], [*second(5), *later]]))
    rows = [
        made_host.table(made_host.stream(Engine("t", SECOND_NS // 10), messages, [size], end=False))
        for size in (1, 2)
    ]
    assert rows[0] == rows[1]
