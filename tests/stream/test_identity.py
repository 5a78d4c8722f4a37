"""Whose a process is, told late, again, or only in part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stream import host as made_host
from wattribute.records import Device, Host, Process, Record, Workload
from wattribute.stream.engine import Engine
from wattribute.stream.identity import Timeline

SECOND_NS = made_host.SECOND_NS
START_NS = made_host.START_NS
NAMES = ("model", "team", "run")


def said(second: int, **what: Any) -> Workload:
    return Workload(t=START_NS + second * SECOND_NS, pid=9, start_ns=7, **what)


def teams(*workloads: tuple[int, Workload]) -> list[str]:
    """The team of each second of a minute, where each workload arrives in the second given."""
    flushes: list[list[Record]] = []
    for second in range(60):
        t = START_NS + second * SECOND_NS
        flushes.append([Device(t=t, gpu="g", energy_mj=50_000 * second)])
        flushes[-1].append(Process(t=t, gpu="g", pid=9, start_ns=7, period_ns=SECOND_NS))
        flushes[-1] += [workload for at, workload in workloads if at == second]
    rows = made_host.table(made_host.stream(Engine("test"), made_host.messages(flushes), [1]))
    return [
        rows[key]["team"] for key in sorted(rows, key=lambda key: key[3]) if rows[key]["account"] == "process"
    ]


def test_a_late_identity_holds_on_where_later_ones_left_it_open() -> None:
    """The record of 20 s said nothing of a team."""
    found = teams((0, said(0, team="a")), (20, said(20, model="m")), (40, said(10, team="b")))
    assert found == ["a"] * 10 + ["b"] * 49


def test_a_late_identity_ends_where_a_later_one_had_said_otherwise() -> None:
    """Though that only repeated, when it came, what was known: a collector tells all every 60 s."""
    found = teams((0, said(0, team="a")), (20, said(20, team="a")), (40, said(10, team="b")))
    assert found == ["a"] * 10 + ["b"] * 10 + ["a"] * 39


def test_what_a_process_says_comes_before_what_its_host_says_which_owns_the_rest() -> None:
    host = Host(t=START_NS, team="ops", cluster="c1", labels={"tier": "host", "rack": "r1"})
    held = [said(4, team="search", labels={"tier": "job"})]
    held.append(replace(said(4), pid=8))
    flushes: list[list[Record]] = [[host]]
    for second in range(9):
        t = START_NS + second * SECOND_NS
        flushes.append([Device(t=t, gpu="g", energy_mj=50_000 * second)])
        if second >= 4:
            flushes[-1] += [Process(t=t, gpu="g", pid=pid, start_ns=7, period_ns=SECOND_NS) for pid in (8, 9)]
            flushes[-1] += held
    rows = made_host.table(made_host.stream(Engine("test"), made_host.messages(flushes), [1]))
    found = {
        (row["pid"], row["team"], row["cluster"], *sorted(row["labels"].items())) for row in rows.values()
    }
    assert found == {
        (0, "ops", "c1", ("rack", "r1"), ("tier", "host")),
        (8, "ops", "c1", ("rack", "r1"), ("tier", "host")),
        (9, "search", "c1", ("rack", "r1"), ("tier", "job")),
    }


words = st.fixed_dictionaries({name: st.sampled_from(["", "a", "b"]) for name in NAMES})


@settings(max_examples=200)
@given(told=st.lists(st.tuples(st.integers(1, 12), words), max_size=12))
def test_what_is_so_is_the_last_that_was_said_of_each(told: list[tuple[int, dict[str, str]]]) -> None:
    """In whatever order it came; and what is told to have changed is all that has."""
    timeline: Timeline[Workload] = Timeline()
    everything = [(0, {"model": "m", "team": "t", "run": "r"})]
    timeline.note(said(0, **everything[0][1]))
    for second, what in told:
        before = [timeline.at(START_NS + k * SECOND_NS) for k in range(15)]
        changed_ns = timeline.note(said(second, **what))
        everything.append((second, what))
        for k in range(15):
            now = timeline.at(START_NS + k * SECOND_NS)
            expected = {
                name: [
                    what[name]
                    for at, what in sorted(everything, key=lambda one: one[0])
                    if at <= k and what[name]
                ][-1]
                for name in NAMES
            }
            assert {name: getattr(now, name) for name in NAMES} == expected
            if now != before[k]:
                assert changed_ns is not None
                assert changed_ns <= START_NS + k * SECOND_NS


def test_what_a_collector_repeats_for_a_week_takes_no_room() -> None:
    timeline: Timeline[Workload] = Timeline()
    for minute in range(7 * 1440):
        assert (timeline.note(said(60 * minute, model="a" if minute < 700 else "b")) is not None) == (
            minute in (0, 700)
        )
    assert len(timeline._said) < 80
    assert [version.model for version in timeline.versions] == ["a", "b"]
    assert timeline.at(START_NS + 700 * 60 * SECOND_NS).model == "b"
