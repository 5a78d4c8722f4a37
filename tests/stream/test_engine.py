"""The stream's engine: right by the reference, conserving, and a function of the messages alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stream import host as made_host
from tests.stream import reference
from wattribute.records import Device, Gpu, Process, Workload
from wattribute.stream.engine import Engine
from wattribute.wire import MAGIC, PREFIX, Encoder

SECOND_NS = made_host.SECOND_NS
MINUTE_NS = 60 * SECOND_NS
POLICIES = reference.POLICIES


def name_of(row: Any) -> str:
    return f"p{row['pid'] - 100}" if row["account"] == "process" else str(row["account"])


def check_conserved(rows: Any) -> None:
    for found in made_host.windows(rows).values():
        for policy in POLICIES:
            energy = sum(row["active_energy_uj"] + row[f"idle_energy_{policy}_uj"] for row in found)
            assert energy == found[0]["device_energy_uj"]
            assert sum(row[f"gpu_time_{policy}_ns"] for row in found) == found[0]["covered_ns"]
        for row in found:
            assert row["device_energy_uj"] == found[0]["device_energy_uj"]
            assert all(row[name] >= 0 for name in row if name.endswith(("_uj", "_ns")))


cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1 << 30),
        "seconds": st.integers(3, 24),
        "processes": st.integers(0, 5),
        "counter": st.booleans(),
        "resets": st.booleans(),
        "holes": st.booleans(),
        "absent": st.booleans(),
    }
)


def check_as_reference(
    made: made_host.Made, rows: Any, named: Callable[[Any], str] = name_of, roundings: int = 1
) -> None:
    """That rows are what the reference says; ``named`` gives the name of a row there. Each piece is rounded
    ``roundings`` times: of MIG to instances, and then within them."""
    check_conserved(rows)
    found = made_host.windows(rows)
    first = made.history.samples[0].t // SECOND_NS * SECOND_NS
    for begin in range(first, made.history.samples[-1].t, SECOND_NS):
        expected = reference.window(made.history, begin, begin + SECOND_NS)
        actual = {named(row): row for row in found.get(begin, [])}
        if not expected.covered_ns:
            assert not actual
            continue
        row = next(iter(actual.values()))
        assert row["device_energy_uj"] == expected.energy_uj
        assert row["covered_ns"] == expected.covered_ns
        for name, share in expected.shares.items():
            got = actual.get(name, {})
            slack = roundings * (expected.pieces + 1)
            # A learned idle level is cut to whole mW, and two ways of solving differ in the last digits.
            slack_uj = slack + (roundings * 2_000 if expected.is_learned else 0)
            assert abs(got.get("active_energy_uj", 0) - share.active_uj) <= slack_uj
            assert abs(got.get("active_time_ns", 0) - share.active_ns) <= slack
            for policy in POLICIES:
                assert abs(got.get(f"idle_energy_{policy}_uj", 0) - share.idle_uj[policy]) <= slack_uj
                assert abs(got.get(f"gpu_time_{policy}_ns", 0) - share.time_ns[policy]) <= 2 * slack


@settings(max_examples=60)
@given(case=cases)
def test_rows_are_what_the_reference_says(case: dict[str, Any]) -> None:
    made = made_host.make(**case)
    rows = made_host.table(made_host.stream(Engine("test"), made_host.messages(made.flushes), [7]))
    check_as_reference(made, rows)


@settings(max_examples=40)
@given(case=cases, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_how_messages_are_cut_into_batches_changes_nothing(case: dict[str, Any], sizes: list[int]) -> None:
    sent = made_host.messages(made_host.make(**case).flushes)
    whole = made_host.table(made_host.stream(Engine("test"), sent, [len(sent)], end=False))
    assert made_host.table(made_host.stream(Engine("test"), sent, sizes, end=False)) == whole


@settings(max_examples=40)
@given(case=cases, shuffle=st.integers(0, 1 << 30))
def test_late_and_repeated_messages_come_to_the_same_energy(case: dict[str, Any], shuffle: int) -> None:
    """Flushes out of order by up to 3 s, and some twice: the same rows but for their versions."""
    made = made_host.make(**{**case, "resets": False})
    rng = random.Random(shuffle)
    order = sorted(range(1, len(made.flushes)), key=lambda i: i + rng.uniform(0, 3))
    order += rng.sample(order, len(order) // 3)
    shuffled = [made.flushes[0], *(made.flushes[i] for i in order)]
    straight = made_host.table(made_host.stream(Engine("test"), made_host.messages(made.flushes), [5]))
    engine = Engine("test")
    rows = made_host.table(made_host.stream(engine, made_host.messages(shuffled), [3]))
    check_conserved(rows)
    assert engine.tables.dropped == 0

    def unversioned(table: Any) -> Any:
        return {key: {k: v for k, v in row.items() if k != "version"} for key, row in table.items()}

    assert unversioned(rows) == unversioned(straight)


@settings(max_examples=25)
@given(case=cases)
def test_the_first_half_gives_what_the_whole_gives(case: dict[str, Any]) -> None:
    flushes = made_host.make(**{**case, "seconds": 40}).flushes
    whole = made_host.table(made_host.stream(Engine("test"), made_host.messages(flushes), [6]))
    half = made_host.table(made_host.stream(Engine("test"), made_host.messages(flushes[:25]), [6]))
    settled = (made_host.START_NS + 10 * SECOND_NS) // 1_000_000
    assert {k: r for k, r in half.items() if r["window_start"] < settled} == {
        k: r for k, r in whole.items() if r["window_start"] < settled
    }


def test_what_cannot_be_used_is_a_dead_letter_and_costs_its_neighbours_nothing() -> None:
    made = made_host.make(seed=5, seconds=12, processes=2)
    straight = made_host.table(made_host.stream(Engine("test"), made_host.messages(made.flushes), [4]))
    sent = made_host.messages(made.flushes)
    bad = [
        b"",
        b"{",
        b"WSB1",
        b'{"schema":9}',
        b"\xff\xfe",
        sent[3][1][:-8],
        sent[3][1][:40],
        b"[1]",
        b"WSB1" + b"\0" * 60,
    ]
    mixed = [sent[0][1]]
    for i, (_, value) in enumerate(sent[1:]):
        mixed += [bad[i % len(bad)], value]
    engine = Engine("test")
    rows = made_host.table(made_host.stream(engine, list(enumerate(mixed)), [5]))
    plain = [{k: v for k, v in row.items() if k != "version"} for row in rows.values()]
    assert plain == [{k: v for k, v in row.items() if k != "version"} for row in straight.values()]
    assert engine.tables.dropped == len(sent) - 1
    assert all(row["reason"] for row in engine.tables.take()["dead"])


@pytest.mark.long
def test_a_time_far_ahead_needs_a_second_reading_to_be_believed() -> None:
    day_ns = 86_400 * SECOND_NS
    readings = [
        Device(t=made_host.START_NS + i * SECOND_NS // 10, gpu="g", energy_mj=1000 * i) for i in range(300)
    ]
    wild = Device(t=made_host.START_NS + 900 * day_ns, gpu="g", energy_mj=15_000)
    engine = Engine("test")
    straight = made_host.table(made_host.stream(Engine("test"), made_host.messages([readings]), [1]))
    rows = made_host.table(
        made_host.stream(engine, made_host.messages([readings[:150], [wild], readings[150:]]), [1])
    )
    assert engine.tables.dropped == 1
    assert {k: r["device_energy_uj"] for k, r in rows.items()} == {
        k: r["device_energy_uj"] for k, r in straight.items()
    }
    # A pause of two days is believed at the second reading, and all of it is covered, as a gap.
    later = [
        Device(t=made_host.START_NS + 2 * day_ns + i * SECOND_NS // 10, gpu="g", energy_mj=10**9 + 1000 * i)
        for i in range(100)
    ]
    engine = Engine("test")
    rows = made_host.table(made_host.stream(engine, made_host.messages([readings, later]), [1]))
    check_conserved(rows)
    assert engine.tables.dropped == 1
    assert sum(row["gpu_time_equal_ns"] for row in rows.values()) == later[-1].t - readings[0].t
    total = sum(row["active_energy_uj"] + row["idle_energy_equal_uj"] for row in rows.values())
    assert total == ((later[-1].energy_mj or 0) - 0) * 1000


def test_what_comes_an_hour_late_is_counted_and_listed_as_a_gap() -> None:
    readings = [
        Device(t=made_host.START_NS + i * SECOND_NS, gpu="g", energy_mj=1000 * i) for i in range(4000)
    ]
    late = readings.pop(100)
    engine = Engine("test")
    rows = made_host.table(made_host.stream(engine, made_host.messages([readings, [late]]), [1]))
    check_conserved(rows)
    tables = engine.tables.take()
    assert engine.tables.dropped == 1
    assert [(row["gap_start"], row["host"]) for row in tables["gap"]] == [(late.t, "host-1")]


def test_identity_that_comes_late_is_applied_to_the_windows_before() -> None:
    def device(i: int) -> Device:
        return Device(t=made_host.START_NS + i * SECOND_NS // 2, gpu="g", energy_mj=50_000 * i)

    def process(i: int) -> Process:
        return Process(
            t=made_host.START_NS + i * SECOND_NS // 2, gpu="g", pid=9, start_ns=7, period_ns=SECOND_NS // 2
        )

    flushes: list[list[Any]] = [[device(i), process(i)] for i in range(60)]
    flushes.append([Workload(t=made_host.START_NS + 29 * SECOND_NS, pid=9, start_ns=7, model="m", run="r1")])
    renamed_ns = made_host.START_NS + 40 * SECOND_NS
    flushes += [[device(i), process(i)] for i in range(60, 80)]
    flushes.append([Workload(t=renamed_ns, pid=9, start_ns=7, model="m2")])
    flushes += [[device(i), process(i)] for i in range(80, 120)]
    rows = made_host.table(made_host.stream(Engine("test"), made_host.messages(flushes), [1]))
    held = [row for row in rows.values() if row["account"] == "process"]
    assert {row["model"] for row in held if row["window_start"] * 1_000_000 < renamed_ns} == {"m"}
    assert {row["model"] for row in held if row["window_start"] * 1_000_000 >= renamed_ns} == {"m2"}
    assert {row["run"] for row in held} == {"r1"}


@settings(max_examples=20)
@given(case=cases, at=st.integers(5, 60))
def test_a_restart_writes_what_an_undisturbed_run_writes(case: dict[str, Any], at: int) -> None:
    """State rebuilt from the messages before, quietly, then on: the same rows and versions."""
    sent = made_host.messages(made_host.make(**{**case, "seconds": 30}).flushes)
    at = min(at, len(sent) - 1)
    whole = made_host.table(made_host.stream(Engine("test"), sent, [4]))
    before = made_host.stream(Engine("test"), sent[:at], [3], end=False)
    restarted = Engine("test")
    restarted.take([offset for offset, _ in sent[:at]], [value for _, value in sent[:at]], quiet=True)
    after = made_host.stream(restarted, sent[at:], [4])
    assert made_host.table([*before, *after]) == whole


def test_hours_of_messages_keep_only_the_past_that_is_needed() -> None:
    """3 h at 2 Hz: the series let go of what is older than the horizon, and rows stay what they are."""
    flushes = [
        [
            *(
                Device(
                    t=made_host.START_NS + (2 * m + i) * SECOND_NS // 2,
                    gpu="g",
                    energy_mj=(2 * m + i) * 40_000,
                )
                for i in range(120)
            ),
            *(
                Process(
                    t=made_host.START_NS + (2 * m + i) * SECOND_NS // 2,
                    gpu="g",
                    pid=9,
                    start_ns=7,
                    period_ns=5 * SECOND_NS,
                    sm_percent=50,
                )
                for i in range(0, 120, 10)
            ),
        ]
        for m in range(0, 60 * 180, 60)
    ]
    engine = Engine("test")
    written = made_host.stream(engine, made_host.messages(flushes), [3])
    rows = made_host.table(written)
    check_conserved(rows)
    assert len(rows) == 3 * 3600
    assert {row["active_energy_uj"] + row["idle_energy_equal_uj"] for row in rows.values()} <= {
        80_000_000,
        40_000_000,
    }
    assert engine.series.devices.t_ns.shape[1] < 3 * 7200
    assert engine.look_back_offset > 0


@pytest.mark.parametrize("source", ["power_mw", "power_average_mw"])
def test_without_a_counter_power_is_integrated(source: str) -> None:
    readings = [
        Device(t=made_host.START_NS + i * SECOND_NS // 10, gpu="g", **{source: 300_000}) for i in range(101)
    ]
    rows = made_host.table(made_host.stream(Engine("test"), made_host.messages([readings]), [1]))
    assert {row["device_energy_uj"] for row in rows.values()} == {300_000_000}
    assert {row["energy_source"] for row in rows.values()} == {
        "instant" if source == "power_mw" else "average"
    }


def test_the_first_reading_of_another_kind_changes_no_window_older_than_an_hour() -> None:
    """They have been let go of, more or less, and after a restart less than before it."""

    def device(second: int, **power: int) -> list[Any]:
        return [Device(t=made_host.START_NS + second * SECOND_NS, gpu="g", **power)]

    averaged = [device(second, power_average_mw=300_000) for second in range(4200)]
    sent = made_host.messages([*averaged, device(4200, power_average_mw=300_000, power_mw=300_000)])
    before = made_host.table(made_host.stream(Engine("test"), sent[:-1], [500]))
    after = made_host.table(made_host.stream(Engine("test"), sent, [500]))
    old = [key for key in before if int(key[3]) // 1000 < 1_780_000_000 + 600]
    assert len(old) == 600
    assert all(after[key] == before[key] for key in old)


def test_a_restart_knows_what_a_device_was_read_from() -> None:
    """Instantaneous power long ago: it says what counts since, though the look-back has none of it."""

    def device(second: int, **power: int) -> list[Any]:
        return [Device(t=made_host.START_NS + second * SECOND_NS, gpu="g", **power)]

    first = device(0, power_mw=300_000, power_average_mw=300_000)
    sent = made_host.messages(
        [first, *(device(second, power_average_mw=300_000) for second in range(1, 1000))]
    )
    running = Engine("test")
    made_host.stream(running, sent[:900], [100], end=False)
    restarted = Engine("test")
    restarted.restore([value for _, value in running.state()], 900)
    restarted.take([offset for offset, _ in sent[200:900]], [value for _, value in sent[200:900]], quiet=True)
    after = made_host.table(made_host.stream(restarted, sent[900:], [100]))
    whole = made_host.table(made_host.stream(Engine("test"), sent, [100]))
    assert {key: whole[key] for key in after} == after


def test_a_host_that_comes_from_another_partition_after_a_restart_begins_anew() -> None:
    """Of what it sent there, the time and the energy were counted a second time."""
    other = made_host.messages(made_host.make(1, 60, 1).flushes)
    moved = other[30:50]
    before = Engine("samples/0")
    made_host.stream(before, other[:5], [1], end=False)
    tables = []
    for saved in (before.state(), []):
        engine = Engine("samples/1")
        engine.restore([value for _, value in saved], 10)
        tables.append(made_host.table(made_host.stream(engine, moved, [1])))
    assert tables[0] == tables[1]
    assert tables[0]


def at_minute(minute: float, gpu: str) -> Device:
    """The counter of a GPU of 1 W, at a minute."""
    t = made_host.START_NS + int(minute * MINUTE_NS)
    return Device(t=t, gpu=gpu, energy_mj=int(minute * 60_000))


@pytest.mark.parametrize("taken", [96, 105])
def test_a_silence_is_known_where_its_end_is_read_again(taken: int) -> None:
    """It was put by that the device is back, or silent once more, and then the stream was killed, before it
    had committed that."""
    flushes = [
        [at_minute(minute, gpu) for gpu in ("a", "b") if gpu == "a" or minute <= 5 or minute in (95, 96)]
        for minute in range(110)
    ]
    sent = made_host.messages(flushes)
    running = Engine("test", MINUTE_NS)
    made_host.stream(running, sent[:95], [10], end=False)
    saved = dict(running.state())
    from_offset = running.look_back_offset
    assert from_offset > 6
    for offset, value in sent[95:taken]:
        running.take([offset], [value])
        running.rows(restate=False)  # the windows of the silence were final: they wait
    saved |= running.state()
    restarted = Engine("test", MINUTE_NS)
    restarted.restore(saved.values(), 95)
    look_back = sent[from_offset:95]
    restarted.take([offset for offset, _ in look_back], [value for _, value in look_back], quiet=True)
    after = made_host.table(made_host.stream(restarted, sent[95:], [1]))
    whole = made_host.table(made_host.stream(Engine("test", MINUTE_NS), sent, [1]))
    silence = [key for key in whole if key[1] == "b" and 6 <= (key[3] // 1000 - 1_780_000_000) // 60 < 95]
    assert len(silence) == 90
    assert all(after[key] == whole[key] for key in silence)


@pytest.mark.parametrize("back", [179, 190])
def test_a_silence_is_known_where_more_was_read_since_than_a_look_back_reaches(back: int) -> None:
    """A backlog is read in so many seconds that nothing is committed between a silence's begin and hours on;
    and what is committed then lies before the last message, for its windows are not final."""
    flushes = [
        [at_minute(minute, gpu) for gpu in ("a", "b") if gpu == "a" or not 5 < minute < back]
        for minute in range(200)
    ]
    sent = made_host.messages(flushes)
    running = Engine("test", MINUTE_NS)
    for first in range(0, 180, 30):
        running.take(range(first, first + 30), [value for _, value in sent[first : first + 30]])
        running.rows(provisional=False)
    saved, from_offset, settled = running.state(), running.look_back_offset, running.settled_offset
    assert 6 < from_offset < settled < 180
    restarted = Engine("test", MINUTE_NS)
    restarted.restore((value for _, value in saved), settled)
    look_back = sent[from_offset:settled]
    restarted.take([offset for offset, _ in look_back], [value for _, value in look_back], quiet=True)
    after = made_host.table(made_host.stream(restarted, sent[settled:], [1]))
    whole = made_host.table(made_host.stream(Engine("test", MINUTE_NS), sent, [1]))
    silence = [key for key in whole if key[1] == "b" and 6 <= (key[3] // 1000 - 1_780_000_000) // 60 < back]
    assert len(silence) == back - 5
    assert all(after.get(key) == whole[key] for key in silence)


def test_a_snapshot_that_is_older_than_the_look_back_hides_no_reset_of_the_counter() -> None:
    """It was put by late, by a stream that was stopped while the partition passed to another."""
    flushes = [
        [Device(t=made_host.START_NS + second * SECOND_NS, gpu="g", energy_mj=second % 50 * 300_000)]
        for second in range(120)
    ]
    sent = made_host.messages(flushes)
    late = Engine("test")
    made_host.stream(late, sent[:60], [10], end=False)
    restarted = Engine("test")
    restarted.restore([value for _, value in late.state()], 105)
    restarted.take([offset for offset, _ in sent[:105]], [value for _, value in sent[:105]], quiet=True)
    after = made_host.table(made_host.stream(restarted, sent[105:], [1]))
    whole = made_host.table(made_host.stream(Engine("test"), sent, [1]))
    assert {row["segment"] for row in after.values()} == {1, 2}
    assert {key: whole[key] for key in after} == after


def test_the_look_back_reaches_what_waits_to_be_written() -> None:
    """A late reading changed windows that were final: a restart begins to write there, and not where the
    stream stands."""
    minutes = [*range(100), *range(101, 130), 100, *range(130, 180)]
    sent = made_host.messages([at_minute(minute, "g")] for minute in minutes)
    engine = Engine("test", MINUTE_NS)
    for offset, value in sent:
        engine.take([offset], [value])
        engine.rows(restate=False)
        clock = max(minutes[: min(engine.settled_offset, offset) + 1])
        assert minutes[engine.look_back_offset] <= max(0, clock - 72)
    assert engine.look_back_offset > 50


def test_two_readings_say_what_the_period_is_and_the_third_can_be_late() -> None:
    """Of intervals of 0.1 s and 2 s the lower median is 0.1 s: 2 s are a gap of more than five of those."""
    ticks = [0, 1, *range(21, 40)]
    devices: list[Device] = [
        Device(
            t=made_host.START_NS + tick * SECOND_NS // 10,
            gpu=made_host.GPU,
            energy_mj=10_000 * tick + 1,
        )
        for tick in ticks
    ]
    sent = made_host.messages([[device] for device in devices])
    rows = made_host.table(made_host.stream(Engine("test"), sent, [1])).values()
    time_ns: dict[str, int] = {}
    for row in rows:
        time_ns[row["account"]] = time_ns.get(row["account"], 0) + row["gpu_time_equal_ns"]
    assert time_ns == {"unheld": 1_900_000_000, "residual": 2_000_000_000}


def test_of_a_silent_device_a_reading_that_came_late_does_not_hide_the_last() -> None:
    """It is all that the look-back has of the device, and older than what was put by."""
    flushes = [
        [at_minute(minute, gpu) for gpu in ("a", "b") if gpu == "a" or not 5 < minute < 95]
        for minute in range(100)
    ]
    flushes[40].append(at_minute(2.5, "b"))
    sent = made_host.messages(flushes)
    running = Engine("test", MINUTE_NS)
    made_host.stream(running, sent[:95], [10], end=False)
    from_offset = running.look_back_offset
    assert 6 < from_offset < 40
    restarted = Engine("test", MINUTE_NS)
    restarted.restore([value for _, value in running.state()], 95)
    look_back = sent[from_offset:95]
    restarted.take([offset for offset, _ in look_back], [value for _, value in look_back], quiet=True)
    after = made_host.table(made_host.stream(restarted, sent[95:], [1]))
    whole = made_host.table(made_host.stream(Engine("test", MINUTE_NS), sent, [1]))
    assert len(after) > 90
    assert all(whole[key] == row for key, row in after.items())


def test_that_a_host_is_silent_is_put_by_however_the_messages_are_cut() -> None:
    """Before the look-back leaves its last reading behind."""
    encoders = {name: Encoder(name, "boot", epoch=1) for name in "ab"}
    values = [
        value
        for minute in range(300)
        for name, encoder in encoders.items()
        if name == "a" or minute < 6
        for _, _, value in encoder.encode([at_minute(minute, "g")])
    ]
    engine = Engine("test", MINUTE_NS)
    saved: dict[str, bytes] = {}
    for begin, end in ((0, 4), (4, 100), (100, 200), (200, len(values))):
        engine.take(range(begin, end), values[begin:end])
        engine.rows()
        saved |= engine.state()
    assert engine.look_back_offset > 12
    assert orjson.loads(saved["b boot g"])["last"][0] == made_host.START_NS + 5 * MINUTE_NS


def test_without_a_counter_a_late_reading_changes_no_windows_but_those_beside_it() -> None:
    """All since the first were written again; after a restart, of which not all is known any more."""
    seconds = [*range(600), 601, 600]
    sent = made_host.messages(
        [Device(t=made_host.START_NS + second * SECOND_NS, gpu="g", power_mw=300_000)] for second in seconds
    )
    engine = Engine("test")
    made_host.stream(engine, sent[:-1], [10], end=False)
    written = made_host.stream(engine, sent[-1:], [1], end=False)
    assert min(made_host.windows(made_host.table(written))) > made_host.START_NS + 500 * SECOND_NS


@pytest.mark.parametrize(
    "damage",
    [
        b'{"host":"ho',
        b"5",
        {"next_offset": "x"},
        {"resets": 1 << 63},
        {"sources": -1},
        {"last": [1, 2]},
        {"host": [1]},
        {"origin": 7},
    ],
    ids=str,
)
def test_a_damaged_snapshot_is_a_dead_letter_and_ends_no_stream(damage: dict[str, Any] | bytes) -> None:
    sent = made_host.messages(made_host.make(1, 10, 1).flushes)
    running = Engine("test")
    made_host.stream(running, sent[:5], [1], end=False)
    ((_, saved),) = running.state()
    restarted = Engine("test")
    damaged = damage if isinstance(damage, bytes) else orjson.dumps(orjson.loads(saved) | damage)
    restarted.restore([damaged, b"and another"], 5)
    restarted.take([offset for offset, _ in sent[:5]], [value for _, value in sent[:5]], quiet=True)
    after = made_host.table(made_host.stream(restarted, sent[5:], [1]))
    whole = made_host.table(made_host.stream(Engine("test"), sent, [1]))
    assert {key: whole[key] for key in after} == after
    assert [(letter["position"], letter["reason"]) for letter in restarted.tables.take()["dead"]] == [
        (5, f"a snapshot of state that cannot be used ({number})") for number in (1, 2)
    ]


def test_only_readings_of_devices_are_counted_as_samples() -> None:
    device = Device(t=made_host.START_NS, gpu="g", energy_mj=1)
    process = Process(t=made_host.START_NS, gpu="g", pid=1, start_ns=1, period_ns=SECOND_NS)
    engine = Engine("test")
    made_host.stream(engine, made_host.messages([[device, *[process] * 5]]), [1])
    assert (engine.sample_count, engine.duplicate_count) == (1, 4)


@pytest.mark.parametrize("counter", [False, True])
def test_energy_that_nothing_tells_is_not_zero_without_a_word(counter: bool) -> None:
    """Power is read for 20 s, not for 15 min, then again; with a counter, that ends after the first 5 s."""
    readings = [
        Device(
            t=made_host.START_NS + second * SECOND_NS,
            gpu="g",
            energy_mj=300_000 * second if counter and second <= 5 else None,
            power_mw=None if 20 < second < 920 else 300_000,
        )
        for second in range(941)
    ]
    rows = made_host.table(made_host.stream(Engine("test"), made_host.messages([readings]), [1]))
    assert len(rows) == 940
    for row in rows.values():
        missing = 20 <= row["window_start"] // 1000 - 1_780_000_000 < 920
        assert row["device_energy_uj"] == (0 if missing else 300_000_000)
        assert row["flags"] & 8 == (8 if missing else 0)


def test_final_windows_are_restated_only_when_asked_to() -> None:
    made = made_host.make(seed=11, seconds=40, processes=1)
    late = [
        Process(
            t=made_host.START_NS + 5 * SECOND_NS, gpu=made_host.GPU, pid=900, start_ns=7, period_ns=SECOND_NS
        )
    ]
    sent = made_host.messages([*made.flushes, late])
    engine = Engine("test")
    before = made_host.stream(engine, sent[:-1], [1], end=False)
    assert engine.settled_offset == len(sent) - 1
    engine.take([sent[-1][0]], [sent[-1][1]])
    waiting = engine.rows(restate=False)
    final_ms = (made_host.START_NS + 29 * SECOND_NS) // 1_000_000

    def final(rows: Any) -> Any:
        return {key: row for key, row in rows.items() if row["window_start"] < final_ms}

    assert final(made_host.table([*before, *waiting])) == final(made_host.table(before))
    assert engine.settled_offset == sent[-1][0]
    restated = made_host.table([*before, *waiting, *engine.rows()])
    assert engine.settled_offset == len(sent)
    check_conserved(restated)
    assert 900 in {row["pid"] for row in restated.values()}
    assert restated == made_host.table(made_host.stream(Engine("test"), sent, [len(sent)], end=False))


def test_whose_a_process_is_may_be_told_again_of_its_first_moment() -> None:
    """Then it holds for the time before too, as what was told first did."""
    t = [made_host.START_NS + i * SECOND_NS for i in range(20)]
    held = [
        (
            Device(t=t[i], gpu="g", energy_mj=1000 * i),
            Process(t=t[i], gpu="g", pid=9, start_ns=7, period_ns=SECOND_NS, sm_percent=50),
        )
        for i in range(20)
    ]
    first = Workload(t=t[1], pid=9, start_ns=7, identity_source="process")
    again = Workload(t=t[1], pid=9, start_ns=7, model="chat", identity_source="engine")
    readings = [first, *(record for pair in held for record in pair), again]
    rows = made_host.table(made_host.stream(Engine("test"), made_host.messages([readings]), [1]))
    assert {
        (row["model"], row["identity_source"]) for row in rows.values() if row["account"] == "process"
    } == {("chat", "engine")}


@pytest.mark.parametrize(("is_read", "source"), [(True, "module"), (False, "none")])
def test_readings_of_a_whole_module_say_so(is_read: bool, source: str) -> None:
    start_ns = made_host.START_NS
    times = [start_ns + i * SECOND_NS // 10 for i in range(30)]
    readings = [
        Gpu(t=start_ns, gpu="g", name="NVIDIA GH200 480GB", scope="module"),
        *(Device(t=t, gpu="g", energy_mj=10 * i if is_read else None) for i, t in enumerate(times)),
    ]
    rows = made_host.table(made_host.stream(Engine("test"), made_host.messages([readings]), [1]))
    assert {(row["energy_source"], row["gpu_model"]) for row in rows.values()} == {
        (source, "NVIDIA GH200 480GB")
    }


@settings(max_examples=20)
@given(case=cases, size=st.integers(1, 9))
def test_provisional_rows_may_wait_and_change_nothing_in_the_end(case: dict[str, Any], size: int) -> None:
    sent = made_host.messages(made_host.make(**{**case, "seconds": 30}).flushes)
    whole = made_host.table(made_host.stream(Engine("test"), sent, [len(sent)], end=False))
    engine = Engine("test")
    written = []
    for at in range(0, len(sent), size):
        batch = sent[at : at + size]
        engine.take([offset for offset, _ in batch], [value for _, value in batch])
        written += engine.rows(provisional=False)
    assert not any(row["flags"] & 1 for row in made_host.table(written).values())
    assert made_host.table([*written, *engine.rows()]) == whole


def test_power_speaks_where_the_counter_is_not_read() -> None:
    """10 s of power alone, 10 s of both, 10 s of power alone again: 300 W, and the rows say from what."""

    def reading(i: int) -> Device:
        both = 100 <= i <= 200
        t = made_host.START_NS + i * SECOND_NS // 10
        return Device(t=t, gpu="g", energy_mj=30_000 * i if both else None, power_mw=300_000)

    rows = made_host.table(
        made_host.stream(Engine("test"), made_host.messages([[reading(i)] for i in range(301)]), [1])
    )
    check_conserved(rows)
    assert [row["device_energy_uj"] for row in rows.values()] == [300_000_000] * 30
    assert [row["energy_source"] for row in sorted(rows.values(), key=lambda row: row["window_start"])] == (
        ["instant"] * 10 + ["counter"] * 10 + ["instant"] * 10
    )


def test_hostile_messages_are_dead_letters_too() -> None:
    """What a parser may trip over: types, depth, numbers, sizes."""
    import orjson

    made = made_host.messages(made_host.make(seed=1, seconds=3, processes=1).flushes)
    deep = b"[" * 900 + b"]" * 900
    head = {"schema": 1, "host": "h", "boot_id": "b", "gpus": ["g"], "device": [], "process": []}
    headers = [
        {**head, "processes": [[0.0, -1, 5, 5]]},
        {**head, "processes": [[0, 1 << 15, 5, 5]]},
        {**head, "processes": [[True, -1, 5, 5]]},
        {**head, "gpus": ["g"] * 30_000, "processes": []},
        {**head, "device": ["t", 7], "processes": []},
    ]
    hostile = [b'{"schema":' + deep + b"}", b'{"schema":1,"host":' + deep + b"}"]
    for header in headers:
        text = orjson.dumps(header)
        text = text.ljust(len(text) + 7 & ~7)
        hostile.append(PREFIX.pack(MAGIC, len(text), 1, 1, 0, 0) + text)
    gaps = [{"kind": "gap", "t": 9, "from_ns": 9 + i, "to_ns": 10 + i} for i in range(5000)]
    record = {"schema": 1, "host": "host-1", "boot_id": "boot-1", "epoch": 1, "seq": 1, "records": gaps}
    engine = Engine("test")
    values = [made[0][1], made[1][1], *hostile, orjson.dumps(record), *(value for _, value in made[2:])]
    rows = made_host.table(made_host.stream(engine, list(enumerate(values)), [1]))
    check_conserved(rows)
    assert engine.tables.dropped == len(hostile)
    assert len(made_host.windows(rows)) == 3


@pytest.mark.parametrize(
    ("straight", "late"),
    [
        ([(0, 1000), (1, 2000), (2, 3000), (4, 50), (5, 60), (6, 90)], (3, 20)),
        ([(0, 1000), (1, 2000), (3, 50), (4, 60), (5, 90)], (2, 3000)),
    ],
)
def test_a_late_reading_beside_a_reset_finds_its_side(
    straight: list[tuple[int, int]], late: tuple[int, int]
) -> None:
    def device(second: int, energy_mj: int) -> list[Any]:
        t = made_host.START_NS + second * SECOND_NS
        return [Device(t=t, gpu="g", energy_mj=energy_mj, power_mw=1000)]

    def rows(readings: list[tuple[int, int]]) -> Any:
        sent = made_host.messages([device(*reading) for reading in readings])
        return made_host.table(made_host.stream(Engine("test"), sent, [1]))

    came_late = rows([*straight, late])
    check_conserved(came_late)
    came_in_time = rows(sorted([*straight, late]))
    assert {k: r["device_energy_uj"] for k, r in came_late.items()} == {
        k: r["device_energy_uj"] for k, r in came_in_time.items()
    }
    assert {k: r["segment"] for k, r in came_late.items()} == {
        k: r["segment"] for k, r in came_in_time.items()
    }
