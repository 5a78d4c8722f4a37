"""``wattribute verify --gpu``: measure attribution on a real GPU, and print the tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wattribute.collector.nvml import GpuReader
from wattribute.collector.trace import TraceWriter, read_trace
from wattribute.commands.ends import stopping
from wattribute.commands.output import Format, Grid, note, shown_percent, write_grid, write_rows
from wattribute.commands.source import Source, open_source
from wattribute.errors import UsageError, WattributeError
from wattribute.records import Record
from wattribute.settings import load_settings
from wattribute.verify.gpu_plan import LOADS

if TYPE_CHECKING:
    from wattribute.verify.gpu_report import Mix, Report

_FAST_HZ: Final = 100.0


def record_plan(trace: Path, index: int, seconds: int, overwrite: bool) -> None:
    """Load the GPU for ``seconds``, and record it. Raises WattributeError if that fails: then there is no
    recording."""
    from wattribute.verify.gpu_plan import plan
    from wattribute.verify.gpu_run import check_unused, run_plan

    # Read only the GPU and its processes, as often as the plan needs.
    settings = load_settings({"fast_hz": _FAST_HZ, "slow_s": 1.0, "flush_s": 1.0, "scrape_s": 0}, None)
    with closing(open_source(settings, simulate=False, scenario=None, seed=1)) as source:
        gpu = _only(source, index)
        check_unused(gpu)
        with (
            TraceWriter(trace, source.name, source.boot_id, overwrite=overwrite) as writer,
            stopping() as stop,
        ):
            note(f"loading {gpu.identity.name} {gpu.uuid} for a little over {seconds} s -> {trace}")
            try:
                left_out = run_plan(
                    plan(seconds), seconds, gpu, source.clock,
                    lambda outcomes: source.sampler(settings, writer.write, outcomes), stop, note,
                )  # fmt: skip
            except BaseException:
                trace.unlink(missing_ok=True)
                raise
    for load, iterations in left_out.items():
        if iterations:
            note(f"{load} left out {iterations:,.0f} iterations: the GPU was too busy to keep to the plan")


def _only(source: Source, index: int) -> GpuReader:
    """The GPU to read; from now on no other is read."""
    found = [gpu for gpu in source.nvml.gpus if gpu.identity.index == index]
    if not found:
        raise UsageError(f"GPU {index} does not exist or cannot be read: nvidia-smi -L lists the GPUs")
    source.nvml.gpus = (found[0],)
    return found[0]


def tell_of_recording(trace: Path, shape: Format) -> None:
    """Print the results of a recording. Raises WattributeError where a bar is missed."""
    from wattribute.verify.gpu_report import report

    found = report(_records(trace))
    if shape is Format.table:
        for place, grid in enumerate(_grids(found)):
            write_grid(replace(grid, title=f"{chr(10) * bool(place)}{grid.title}"))
    else:
        write_rows(list(_rows(found)), shape)
    checks = found.checks()
    missed = [check.what for check in checks if not check.is_met]
    if missed:
        raise WattributeError(f"{len(missed)} of {len(checks)} bars are missed: {'; '.join(missed)}")


def _records(trace: Path) -> list[Record]:
    records = []
    for line in read_trace(trace):
        if line.record is None:
            raise WattributeError(f"{trace}, line {line.number}: {line.error}")
        records.append(line.record)
    return records


def _rows(found: Report) -> Iterator[dict[str, Any]]:
    def row(what: str, of: str, figure: float | None, unit: str, most: float | None = None) -> dict[str, Any]:
        return {"what": what, "of": of, "figure": figure, "unit": unit, "most": most}

    for name, watts in _levels(found):
        yield row("power", name, watts, "W")
    for name, signal in found.signals.items():
        yield row("time between readings that differ", name, signal.period_ms, "ms")
        yield row("later than the load", name, signal.lag_ms, "ms")
        yield row("change with phase", name, signal.phase_ratio, "")
    for mix in found.mixes:
        yield row("power", _named(mix), mix.watts, "W")
    for load, joules in found.joules.items():
        yield row("energy of an iteration", load, joules, "J")
        yield row("used while switched", load, found.switched.used_j[load], "J")
        yield row("attributed while switched", load, found.switched.found_j[load], "J")
    for method, score in found.switched.scores.items():
        yield row("error", method, score.error_ratio, "")
        yield row("worst", method, score.worst_ratio, "")
    for check in found.checks():
        yield row("check", check.what, check.ratio, "", check.most)


def _levels(found: Report) -> list[tuple[str, float]]:
    return [
        ("nobody on it", found.nobody_w),
        ("contexts that do nothing", found.contexts_w),
        ("matmul alone, at first", found.cold_w),
        ("matmul alone, at the end", found.warm_w),
    ]


def _grids(found: Report) -> Iterator[Grid]:
    numeric = frozenset({1, 2, 3, 4})
    switched, checks = found.switched, found.checks()
    yield Grid(
        ["", "W"],
        [[name, f"{watts:.1f}"] for name, watts in _levels(found)],
        numeric,
        title=f"{found.gpu_model}, loaded for {found.seconds} s",
    )
    yield Grid(
        ["sensor", "new every ms", "late by ms", "phase %"],
        [
            [name, _figure(of.period_ms, 0), _figure(of.lag_ms, 0), shown_percent(of.phase_ratio)]
            for name, of in found.signals.items()
        ],
        numeric,
        title="How the GPU reports its power",
        notes=[
            "phase: how much its mean changes with when in each 100 ms a load of 30 ms comes: not at all"
            " for a sensor that measures all the time"
        ],
    )
    yield Grid(
        ["at work", "W", *(f"{load}/s" for load in LOADS)],
        [
            [_named(mix), f"{mix.watts:.1f}", *(_figure(mix.rates.get(load), 1) for load in LOADS)]
            for mix in sorted(found.mixes, key=lambda mix: len(mix.loads))
        ],
        numeric,
        title="What the loads draw in every mix, and iterations of each a second",
    )
    yield Grid(
        ["load", "J an iteration", "J used", "J attributed"],
        [
            [load, f"{joules:.4g}", f"{switched.used_j[load]:.0f}", f"{switched.found_j[load]:.0f}"]
            for load, joules in found.joules.items()
        ],
        numeric,
        title="What each used above idle, while each went on and off by itself",
        notes=[
            "J an iteration: what it adds to a mix, averaged over all orders in which loads may be added"
            " (Shapley); used: that × iterations, given who else was at work, scaled to the counter"
        ],
    )
    yield Grid(
        ["method", "error %", "worst %"],
        [
            [name, shown_percent(of.error_ratio), shown_percent(of.worst_ratio)]
            for name, of in switched.scores.items()
        ],
        numeric,
        title="How far each method is off there: all loads together, and the load furthest off",
    )
    yield Grid(
        ["check", "%", "at most", ""],
        [
            [of.what, shown_percent(of.ratio), f"{100 * of.most:g}", "met" if of.is_met else "MISSED"]
            for of in checks
        ],
        frozenset({1, 2}),
        ["" if of.is_met else "bold red" for of in checks],
        title="Checks",
    )


def _named(mix: Mix) -> str:
    return " + ".join(mix.loads) or "none"


def _figure(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"
