"""How far attribution is from the truth in a trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from wattribute.kernels.series import LATENESS_NS
from wattribute.verify.faults import Faults, faults, worst
from wattribute.verify.methods import SIMPLER, Attributed, by_the_stream, replayed, seen, watts_of
from wattribute.verify.recording import START_NS, ProcessKey, Recording, record
from wattribute.verify.sameness import Sameness, sameness
from wattribute.verify.scenarios import Bar, Trial

OURS: Final = "wattribute"
METHODS: Final = (OURS, *SIMPLER)
_ANOTHER_DAY: Final = 1_000_000  # added to a seed to simulate another day
_LOST_MOST_S: Final = 1.0  # one interval between two samples of processes
_SAME: Final = 1e-4  # no worse than the plain ratio, except for rounding
_COVERED_LEAST: Final = 0.9  # of rows within a band of 95 %
_COUNTS_FROM: Final = 0.01  # of all energy: processes with less do not count for the worst error


@dataclass(frozen=True, slots=True)
class Score:
    """One method over one recording: Σ |error| / Σ energy, and the greatest error of one process."""

    error_ratio: float
    worst_ratio: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One trial with one seed. ``covered_ratio``: the part of the rows of shared windows that are as near the
    truth as their band says; None without such rows."""

    trial: str
    seed: int
    scores: Mapping[str, Score]
    covered_ratio: float | None
    is_conserved: bool
    faults: Faults
    sameness: Sameness | None = None
    """Only of the first seed: what breaks it does not depend on the load."""


def outcome(trial: Trial, seed: int, duration_s: int) -> Outcome:
    """Simulate, record, attribute and compare what is final: without the last 10 s, which lack samples."""
    recording = record(trial, seed, duration_s)
    final_s = duration_s - LATENESS_NS // 1_000_000_000
    until_ns = recording.wall_ns(START_NS + final_s * 1_000_000_000)
    fleet = None
    if trial.fleet_knows:  # seen on another day, with other loads
        fleet = watts_of(record(trial, seed + _ANOTHER_DAY, duration_s, alone=True).records)
    records = recording.records
    table = replayed(records, fleet)
    ours = by_the_stream(table, until_ns)
    truth_uj = recording.active_uj[final_s]
    simple = seen(records, trial.gpu.name, until_ns)
    device_uj = recording.device_uj[final_s]
    scores = {OURS: score(ours.active_uj, truth_uj, device_uj)}
    scores |= {name: score(method(simple), truth_uj, device_uj) for name, method in SIMPLER.items()}
    wrong = faults(table, recording, trial.process_period_s, until_ns)
    same = sameness(recording, table, fleet) if seed == 0 else None
    return Outcome(trial.name, seed, scores, _covered_ratio(ours, recording), ours.is_conserved, wrong, same)


def score(
    found_uj: Mapping[ProcessKey, float], truth_uj: Mapping[ProcessKey, float], device_uj: float
) -> Score:
    """How far the energy found for each process is from the truth. If nobody works at all, what they are
    charged is compared with all that the device used."""
    whole_uj = sum(truth_uj.values()) or device_uj
    off_uj = {key: abs(found_uj.get(key, 0) - true_uj) for key, true_uj in truth_uj.items()}
    return Score(
        sum(off_uj.values()) / whole_uj,
        max(
            (
                off_uj[key] / true_uj
                for key, true_uj in truth_uj.items()
                if true_uj >= _COUNTS_FROM * whole_uj
            ),
            default=0.0,
        ),
    )


def _covered_ratio(ours: Attributed, recording: Recording) -> float | None:
    covered, seconds = 0, recording.seconds()
    shared = [row for row in ours.shared if len(seconds.get(row.window_start_ns, ())) == 1]
    for row in shared:
        second = seconds[row.window_start_ns][0]
        before, after = recording.active_uj[second], recording.active_uj[second + 1]
        true_uj = after.get(row.key, 0) - before.get(row.key, 0)
        covered += abs(row.active_uj - true_uj) <= row.error_uj
    return covered / len(shared) if shared else None


@dataclass(frozen=True, slots=True)
class Summary:
    """A scenario over all seeds: mean error and worst process of each method; ``missed`` names the bars that
    attribution missed."""

    trial: Trial
    scores: Mapping[str, Score]
    covered_ratio: float | None
    is_conserved: bool
    faults: Faults
    sameness: Sameness
    missed: Sequence[str]


def summaries(outcomes: Sequence[Outcome], trials: Sequence[Trial]) -> list[Summary]:
    """Each scenario, in order. A bar that is relative to another scenario is ignored if that was not run."""
    found: dict[str, Summary] = {}
    for trial in trials:
        own = [outcome for outcome in outcomes if outcome.trial == trial.name]
        scores = {
            method: Score(
                fmean(outcome.scores[method].error_ratio for outcome in own),
                max(outcome.scores[method].worst_ratio for outcome in own),
            )
            for method in METHODS
        }
        conserved = all(outcome.is_conserved for outcome in own)
        ratios = [outcome.covered_ratio for outcome in own if outcome.covered_ratio is not None]
        covered = fmean(ratios) if ratios else None
        same = next(outcome.sameness for outcome in own if outcome.sameness is not None)
        wrong = worst([outcome.faults for outcome in own])
        missed = [*_missed(trial, scores, found), *_wrong(trial.bar, wrong), *_differs(same)]
        missed += ["in band"] if covered is not None and covered < _COVERED_LEAST else []
        found[trial.name] = Summary(trial, scores, covered, conserved, wrong, same, missed)
    return list(found.values())


def _missed(trial: Trial, scores: Mapping[str, Score], before: Mapping[str, Summary]) -> Iterator[str]:
    """The bars of accuracy that attribution missed."""
    error_most = trial.bar.error_ratio
    if trial.bar.of in before:
        error_most = trial.bar.times * before[trial.bar.of].scores[OURS].error_ratio
    if error_most is not None and scores[OURS].error_ratio > error_most:
        yield "error"
    if trial.bar.worst_ratio is not None and scores[OURS].worst_ratio > trial.bar.worst_ratio:
        yield "worst"
    if scores[OURS].error_ratio > scores["counter ratio"].error_ratio + _SAME:
        yield "ratio"


def _wrong(bar: Bar, found: Faults) -> Iterator[str]:
    """The bars on misplaced, lost and uncharged energy that were missed."""
    if found.misplaced_uj > 0:
        yield "misplaced"
    if found.least_uj < 0:
        yield "negative"
    if bar.uncharged_s is not None:
        if found.lost_s > _LOST_MOST_S:
            yield "lost"
        if found.uncharged_s > bar.uncharged_s:
            yield "uncharged"


def _differs(same: Sameness) -> Iterator[str]:
    """What rows depend on but must not."""
    for name, rows in (("half", same.half_rows), ("killed", same.killed_rows), ("sorted", same.sorted_rows)):
        if rows:
            yield name
    if same.settled_s > 0:
        yield "settled"
