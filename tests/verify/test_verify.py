"""A small size of `wattribute verify`: the bars on two loads, and what the command says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.survival.processes import ran
from wattribute.verify.faults import faults
from wattribute.verify.methods import replayed
from wattribute.verify.recording import START_NS, record
from wattribute.verify.sameness import sameness
from wattribute.verify.scenarios import TRIALS
from wattribute.verify.score import OURS, outcome, summaries

SEEDS = (0, 1)
SECONDS = 300
NAMED = {trial.name: trial for trial in TRIALS}


@pytest.mark.parametrize(
    "name",
    [
        "drift",
        "no counter",
        "MIG",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("contention", "correlated", "every 10 s")),
    ],
)
def test_energy_comes_to_whom_it_is_due(name: str) -> None:
    trial = NAMED[name]
    (found,) = summaries([outcome(trial, seed, SECONDS) for seed in SEEDS], [trial])
    assert found.is_conserved
    assert trial.bar.error_ratio is not None
    # Half as long as the bar is for: the first seconds, in which little is known yet, weigh twice.
    assert found.scores[OURS].error_ratio <= 2 * trial.bar.error_ratio
    assert found.scores[OURS].error_ratio < found.scores["counter ratio"].error_ratio / 4
    assert found.covered_ratio is not None
    assert 0.85 <= found.covered_ratio <= 1


@pytest.mark.parametrize("name", ["lag", pytest.param("late", marks=pytest.mark.long)])
def test_readings_that_are_dated_or_told_late_cost_little(name: str) -> None:
    plain, late = (outcome(NAMED[which], 0, SECONDS).scores[OURS].error_ratio for which in ("additive", name))
    assert late <= plain + 0.03  # by SM time as it is dated, the lag alone costs 15 % and more


def test_the_truth_is_the_energy_of_the_device() -> None:
    """To the microjoule: what the simulation says that each process used, and the rest, which is idle."""
    recording = record(NAMED["drift"], 3, 60)
    assert len(recording.device_uj) == len(recording.active_uj) == 61
    for active_uj, device_uj in zip(recording.active_uj, recording.device_uj, strict=True):
        assert 0 <= sum(active_uj.values()) <= device_uj


@pytest.mark.parametrize("name", ["late", pytest.param("every 30 s", marks=pytest.mark.long)])
def test_rows_are_a_function_of_the_readings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = record(NAMED[name], 0, 120)
    table = replayed(recording.records)
    same = sameness(recording, table, None)
    assert same == (0, 0, 0, 0)
    # And a row that is another would be found, and a window that changes later.
    key, row = min(table.items())
    assert sameness(recording, table | {key: row | {"pid": 1}}, None) == (1, 0, 1, 0)
    monkeypatch.setattr("wattribute.verify.sameness.LATENESS_NS", 10**9)
    assert sameness(recording, table, None).settled_s >= 1


@pytest.mark.parametrize("name", ["PID reuse", pytest.param("garbage", marks=pytest.mark.long)])
def test_a_fault_costs_no_more_than_an_interval(name: str) -> None:
    trial = NAMED[name]
    (found,) = summaries([outcome(trial, 0, SECONDS)], [trial])
    assert trial.bar.uncharged_s is not None
    assert not set(found.missed) & {"misplaced", "negative", "lost", "uncharged"}


@pytest.mark.parametrize("name", ["clock forth", pytest.param("clock far back", marks=pytest.mark.long)])
def test_a_clock_that_is_set_brings_energy_to_no_wrong_process(name: str) -> None:
    (found,) = summaries([outcome(NAMED[name], 0, SECONDS)], [NAMED[name]])
    assert found.is_conserved
    assert found.sameness[:3] == (0, 0, 0)
    assert not set(found.missed) & {"misplaced", "negative", "lost", "uncharged", "settled"}


@pytest.mark.long
def test_those_that_never_work_have_no_energy_above_idle() -> None:
    idle = outcome(NAMED["all idle"], 0, SECONDS)
    assert idle.scores[OURS].error_ratio <= 0.05
    assert idle.covered_ratio is None  # no energy was split, so there is no band to hold


def test_energy_with_the_wrong_process_is_found() -> None:
    recording = record(NAMED["PID reuse"], 0, 200)
    table = replayed(recording.records)
    (ended,) = {key for key, (_, end_ns) in recording.lives.items() if end_ns == START_NS + 120 * 10**9}
    key, row = max((key, row) for key, row in table.items() if row["account"] == "process")
    moved = row | {"pid": ended[0], "process_start_ns": ended[1]}
    found = faults(table | {key: moved}, recording, 1.0, START_NS + 190 * 10**9)
    assert faults(table, recording, 1.0, START_NS + 190 * 10**9).misplaced_uj == 0
    assert found.misplaced_uj == row["active_energy_uj"] + row["idle_energy_equal_uj"]


def test_energy_that_nobody_is_charged_for_is_found() -> None:
    recording = record(NAMED["additive"], 0, 60)
    table = replayed(recording.records)
    until_ns = START_NS + 50 * 10**9
    seconds = (30, 31, 55)  # the last of which is no longer final
    taken = {
        key: row | {"account": "residual"}
        for key, row in table.items()
        if row["window_start"] in {START_NS // 10**6 + 1000 * second for second in seconds}
    }
    found, before = (faults(rows, recording, 1.0, until_ns).uncharged_s for rows in (table | taken, table))
    assert 2 <= found - before < 2.2  # each row counts under the policy that charges it the most


def test_a_scenario_that_misses_its_bar_is_said_to() -> None:
    trial = replace(NAMED["additive"], bar=replace(NAMED["additive"].bar, error_ratio=1e-9))
    short = outcome(trial, 0, 60)
    (found,) = summaries([short], [trial])
    assert "error" in found.missed
    assert "in band" not in found.missed
    (narrow,) = summaries([replace(short, covered_ratio=0.89)], [trial])
    assert "in band" in narrow.missed


@pytest.mark.long
def test_the_command(tmp_path: Path) -> None:
    asked = ("verify", "correlated", "--seeds", "1", "--seconds", "300")
    answer = ran(*asked, "--format", "json")
    rows = {row["method"]: row for row in json.loads(answer.stdout)}
    assert rows["wattribute"]["is_conserved"]
    assert rows["wattribute"]["error_ratio"] < rows["Kepler's form"]["error_ratio"] / 2
    assert "1 of 1 simulations" in answer.stderr
    drawn = tmp_path / "verified.svg"
    table = ran(*asked, "--picture", str(drawn)).stdout
    assert "correlated" in table
    assert "met" in table
    assert drawn.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("name", "why"), [("verified.pdf", "must be an .svg or .png"), ("no/where.svg", "there is no folder")]
)
def test_a_picture_that_cannot_be_drawn_is_refused_at_once(tmp_path: Path, name: str, why: str) -> None:
    assert why in ran("verify", "additive", "--picture", str(tmp_path / name), status=2).stderr


def test_a_scenario_that_is_not_there() -> None:
    answer = ran("verify", "nonsense", status=2)
    assert "choose from additive, contention" in answer.stderr
    assert " MIG, 'MIG, shared', " in answer.stderr  # as a shell takes them: some names have commas
