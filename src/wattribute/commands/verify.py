"""``wattribute verify``: how far attribution is from the truth, where that is known."""

from __future__ import annotations

import multiprocessing
import os
import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from wattribute.commands.compiling import compile_kernels
from wattribute.commands.options import FormatOption, check_there
from wattribute.commands.output import Format, Grid, note, shown_percent, write_grid, write_rows
from wattribute.errors import UsageError, WattributeError

if TYPE_CHECKING:
    from wattribute.verify.score import Outcome, Summary


_GPU: Final = "On a real GPU"
_TRACE: Final = "verify-gpu.ndjson.gz"
_SEEDS: Final = 10
_SIMULATED_S: Final = 600


def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[SCENARIO]...", help="Only these scenarios.")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="How many random loads of each scenario.", min=1, max=1000, show_default=str(_SEEDS)
        ),
    ] = None,
    duration_s: Annotated[
        int | None,
        typer.Option(
            "--seconds",
            help="How long each load is simulated, or the GPU is loaded.",
            min=60,
            max=86_400,
            show_default="600; 440 with --gpu",
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also draw it, as .svg or .png: needs wattribute\\[picture]."),
    ] = None,
    gpu: Annotated[
        bool,
        typer.Option(
            "--gpu",
            help="Load a GPU of this host that nobody is using, and measure it.",
            rich_help_panel=_GPU,
        ),
    ] = False,
    index: Annotated[
        int, typer.Option(help="Which GPU, by its number in nvidia-smi.", min=0, rich_help_panel=_GPU)
    ] = 0,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --gpu, where to record it; alone, a recording to evaluate.",
            rich_help_panel=_GPU,
            show_default=f"{_TRACE} with --gpu",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace FILE if it exists.", rich_help_panel=_GPU)
    ] = False,
    shape: FormatOption = Format.table,
) -> None:
    """Measure how far attribution is off, on simulated GPUs where the true energy of each process is known.

    A collector's readings of these GPUs are simulated too, and attributed like any recording. Simpler methods
    split the same readings, for comparison.

    With --gpu, three known loads run on a real GPU for 8 minutes, alone and in every mix. That tells what
    each draws, and attribution is compared with it. No setting of the GPU is changed.

    The exit status is 1 where the parts of a window do not add up, a bar (the accuracy that a scenario must
    reach) is missed, rows depend on how the readings came, or energy is lost, negative or with the wrong
    process.
    """
    if gpu or trace is not None:
        if names or seeds or picture is not None:
            raise UsageError(
                "scenarios, --seeds and --picture are for simulations: leave out --gpu and --trace"
            )
        if not gpu and (index or overwrite or duration_s):
            raise UsageError(
                "--index, --overwrite and --seconds need --gpu: --trace alone evaluates a recording"
            )
        _verify_gpu(gpu, index, duration_s, trace or Path(_TRACE), overwrite, shape)
        return
    if index or overwrite:
        raise UsageError("--index and --overwrite need --gpu")
    _verify_simulated(names or (), seeds or _SEEDS, duration_s or _SIMULATED_S, picture, shape)


def _verify_simulated(
    names: Sequence[str], seeds: int, duration_s: int, picture: Path | None, shape: Format
) -> None:
    from wattribute.verify.scenarios import TRIALS

    known = {trial.name: trial for trial in TRIALS}
    for name in names:
        if name not in known:
            raise UsageError(
                f"there is no scenario {name!r}: choose from {', '.join(map(shlex.quote, known))}"
            )
    compile_kernels()
    from wattribute.verify.score import summaries

    draw = None if picture is None else _drawing(picture, _title(seeds, duration_s))
    trials = [trial for trial in TRIALS if not names or trial.name in names]
    found = summaries(_outcomes([trial.name for trial in trials], seeds, duration_s), trials)
    if shape is Format.table:
        _write_table(found, seeds, duration_s)
        _write_besides(found)
    else:
        write_rows([row for summary in found for row in _rows(summary)], shape)
    if draw is not None:
        draw(found)
    lost = [summary.trial.name for summary in found if not summary.is_conserved]
    if lost:
        raise WattributeError(f"windows of {', '.join(lost)} do not add up: this is a bug in wattribute")
    missed = [summary.trial.name for summary in found if summary.missed]
    if missed:
        raise WattributeError(f"{len(missed)} of {len(found)} scenarios miss a bar: {', '.join(missed)}")


def _verify_gpu(
    records: bool, index: int, seconds: int | None, trace: Path, overwrite: bool, shape: Format
) -> None:
    from wattribute.commands.verify_gpu import record_plan, tell_of_recording
    from wattribute.verify.gpu_plan import SECONDS, SECONDS_LEAST, SECONDS_MOST

    if seconds is not None and not SECONDS_LEAST <= seconds <= SECONDS_MOST:
        raise UsageError(f"--seconds {seconds}: with --gpu it must be {SECONDS_LEAST} to {SECONDS_MOST}")
    if not records:
        check_there(trace)  # before minutes of compiling
    compile_kernels()
    if records:
        record_plan(trace, index, seconds or SECONDS, overwrite)
    tell_of_recording(trace, shape)


def _title(seeds: int, duration_s: int) -> str:
    return f"How far energy above idle is off, in %: simulated GPUs, {seeds} random loads of {duration_s} s"


def _drawing(path: Path, title: str) -> Callable[[Sequence[Summary]], None]:
    """A function that draws. Problems are found now, before minutes are spent on what it will draw."""
    if path.suffix.lower() not in {".svg", ".png"}:
        raise UsageError(f"{path}: the picture must be an .svg or .png file")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}")
    try:
        from wattribute.verify.picture import draw
    except ImportError as error:
        raise UsageError("to draw, install matplotlib: pip install 'wattribute[picture]'") from error

    def drawing(found: Sequence[Summary]) -> None:
        try:
            draw(found, path, title)
        except OSError as error:
            raise WattributeError(f"{path}: cannot write the picture: {error.strerror}") from error
        note(f"wrote the picture to {path}")

    return drawing


def _outcomes(names: Sequence[str], seeds: int, duration_s: int) -> list[Outcome]:
    """Simulate on all cores; print the progress on standard error."""
    asked = [(name, seed, duration_s) for seed in range(seeds) for name in names]
    found: list[Outcome] = []
    # Processes of their own: a simulation is plain Python.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(asked)), context) as pool:
        for done in as_completed([pool.submit(_one, *one) for one in asked]):
            found.append(done.result())
            if len(found) % 20 == 0 or len(found) == len(asked):
                note(f"{len(found)} of {len(asked)} simulations done")
    return sorted(found, key=lambda outcome: (names.index(outcome.trial), outcome.seed))


def _one(name: str, seed: int, duration_s: int) -> Outcome:
    from wattribute.verify.scenarios import TRIALS
    from wattribute.verify.score import outcome

    return outcome(next(trial for trial in TRIALS if trial.name == name), seed, duration_s)


def _rows(summary: Summary) -> list[dict[str, Any]]:
    from wattribute.verify.score import OURS

    return [
        {
            "scenario": summary.trial.name,
            "method": method,
            "error_ratio": score.error_ratio,
            "worst_ratio": score.worst_ratio,
            "covered_ratio": summary.covered_ratio if method == OURS else None,
            "is_conserved": summary.is_conserved if method == OURS else None,
            **{
                name: figure if method == OURS else None
                for name, figure in (summary.sameness._asdict() | summary.faults._asdict()).items()
            },
            "missed": list(summary.missed) if method == OURS else [],
        }
        for method, score in summary.scores.items()
    ]


def _write_table(found: Sequence[Summary], seeds: int, duration_s: int) -> None:
    from wattribute.verify.score import METHODS, OURS

    headers = ["scenario", "error", "worst", "in band", "bar", "", *METHODS[1:], "what it is"]
    cells = []
    for summary in found:
        ours, bar = summary.scores[OURS], summary.trial.bar
        bars = [f"{100 * bar.error_ratio:g}"] if bar.error_ratio is not None else []
        bars += [f"{bar.times:g} × {bar.of}"] if bar.of else []
        bars += [f"worst {100 * bar.worst_ratio:g}"] if bar.worst_ratio is not None else []
        met = f"MISSED: {', '.join(summary.missed)}" if summary.missed else "met" if bars else ""
        cells.append(
            [
                summary.trial.name,
                *(
                    "" if ratio is None else shown_percent(ratio)
                    for ratio in (ours.error_ratio, ours.worst_ratio, summary.covered_ratio)
                ),
                ", ".join(bars),
                met,
                *(shown_percent(summary.scores[method].error_ratio) for method in METHODS[1:]),
                summary.trial.about,
            ]
        )
    last = len(headers) - 1
    write_grid(
        Grid(
            headers,
            cells,
            frozenset({1, 2, 3, *range(6, last)}),
            ["bold red" if summary.missed else "" for summary in found],
            _title(seeds, duration_s),
            [
                "error: of all processes together, Σ |error| / Σ energy, mean of the loads;"
                " worst: the process that is furthest off, of all loads",
                "in band: rows of shared windows that are as near the truth as their error_uj says: at least"
                " 90, should be below 99",
                "other columns: the error of other methods on the same readings",
            ],
            spare=(last, 4),
        )
    )


def _write_besides(found: Sequence[Summary]) -> None:
    headers = [
        "scenario",
        "half",
        "killed",
        "sorted",
        "settles",
        "misplaced",
        "least",
        "lost",
        "uncharged",
        "bar",
    ]
    cells = []
    for summary in found:
        same, wrong, most_s = summary.sameness, summary.faults, summary.trial.bar.uncharged_s
        cells.append(
            [
                summary.trial.name,
                *map(str, (same.half_rows, same.killed_rows, same.sorted_rows)),
                f"{same.settled_s:.1f}",
                *(f"{uj / 1e6:.0f}" for uj in (wrong.misplaced_uj, wrong.least_uj)),
                *(f"{s:.1f}" for s in (wrong.lost_s, wrong.uncharged_s)),
                "" if most_s is None else f"{most_s:g}",
            ]
        )
    write_grid(
        Grid(
            headers,
            cells,
            frozenset(range(1, len(headers))),
            ["bold red" if summary.missed else "" for summary in found],
            "Further checks",
            [
                "half, killed, sorted: rows that differ with the first half of the readings only, if the"
                " stream is killed and restarted, with readings sorted by time: must be none",
                "settles: s from the last reading of a window, or of the 10 s after it, to its last change:"
                " must be 0",
                "misplaced: J given to processes more than a sample before or after they lived: must be none;"
                " least: J of the row with the least: must not be below 0",
                "lost: energy that no row has, in s of mean use: at most 1 after a fault;"
                " uncharged: s for which nobody is charged though somebody was there: at most bar",
            ],
        )
    )
