"""``wattribute replay``: attribute a trace or an nvidia-smi log, straight into the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from wattribute.collector.nvidia_smi_log import (
    MADE_UP,
    is_log_line,
    looks_like_nvidia_smi_log,
    option_workload,
    read_nvidia_smi_log,
)
from wattribute.collector.part_time import averaged
from wattribute.collector.trace import Line, read_trace
from wattribute.commands.compiling import compile_kernels
from wattribute.commands.options import ConfigOption, StoreOption, check_there
from wattribute.commands.output import note, on_terminal
from wattribute.commands.since import parse_zone
from wattribute.commands.streaming import tell_past_retention, window_ms_for
from wattribute.errors import UsageError, WattributeError
from wattribute.records import Device, Gpu
from wattribute.settings import Settings, load_settings

Inputs = Sequence[tuple[Path, Iterator[Line], bool]]

_LOG: Final = "What a log of nvidia-smi does not say"
_SHOWN_DEAD: Final = 5
_LOOKED_AT: Final = 10_000  # lines of a log that are checked for coming in rounds
_ROUND_RATIO: Final = 20  # the pause between two rounds ÷ the time between two lines of a round: at least
_COUNTED_BYTES: Final = 2 << 30  # up to this size the lines of a file are counted first, for the progress bar


def replay(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…", help="A trace or nvidia-smi log, also .gz or .zst; - is a trace on stdin."
        ),
    ],
    store: StoreOption = None,
    config: ConfigOption = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            metavar="NAME",
            help="The host that the log is from.",
            rich_help_panel=_LOG,
            show_default="log",
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu",
            metavar="NAME",
            help="The GPU that the log is from, where it names none.",
            rich_help_panel=_LOG,
            show_default="log:FILE:INDEX",
        ),
    ] = None,
    gpu_model: Annotated[
        str | None,
        typer.Option(
            "--gpu-model",
            metavar="NAME",
            help="The model of the GPU, where the log does not say: it decides the price.",
            rich_help_panel=_LOG,
        ),
    ] = None,
    timezone: Annotated[
        str,
        typer.Option(
            "--timezone", metavar="ZONE", help="The time zone of the log's times.", rich_help_panel=_LOG
        ),
    ] = "UTC",
    workload: Annotated[
        str | None,
        typer.Option(
            "--workload",
            metavar="KEY=VALUE,…",
            help="Who used the GPU: model=…, model_version=…, run=…, team=…",
            rich_help_panel=_LOG,
        ),
    ] = None,
    part_time_sensor: Annotated[
        bool,
        typer.Option(
            "--part-time-sensor",
            help="Power is measured for a part of the time only, as an A100's for 25 of 100 ms: level it"
            " while utilization stays the same.",
            rich_help_panel=_LOG,
        ),
    ] = False,
) -> None:
    """Work out the cost of recorded readings: a trace, or a log that you already have.

    It ends when everything is in the store, and to repeat it changes nothing. Each file is an input of its
    own: join the parts of one recording on standard input.
    """
    settings = load_settings({"store": store}, config)
    replay_files(settings, open_inputs(files, host, gpu, gpu_model, timezone, workload, part_time_sensor))


def open_inputs(
    files: Sequence[Path],
    host: str | None = None,
    gpu: str | None = None,
    gpu_model: str | None = None,
    timezone: str = "UTC",
    workload: str | None = None,
    part_time_sensor: bool = False,
) -> Inputs:
    """The files, each with its items and whether it says who held the GPUs, which a log of nvidia-smi alone
    does not. Raises UsageError, WattributeError."""
    whose: dict[tuple[str, str], Path] = {}  # the file that each GPU of a log was read from
    inputs = []
    for file in files:
        lines, is_log = _lines(file, host, gpu, gpu_model, timezone, workload, part_time_sensor)
        if is_log:
            lines = _of_one_gpu(_with_energy(_apart(lines, file, host or "log", whose), file), file)
        inputs.append((file, lines, bool(workload) or not is_log))
    return inputs


def replay_files(settings: Settings, inputs: Inputs) -> None:
    """Replay inputs one after the other into the store. Raises WattributeError if some records were bad."""
    with _noting_sink(settings) as sink:
        settings = replace(settings, window_ms=window_ms_for(sink, settings))
        dropped = sum(_replay_one(settings, sink, *given) for given in inputs)
        tell_past_retention(sink)
        if dropped:
            for row in sink.first_dead:
                note(f"{row['origin']}:{row['position']} {row['reason']}")
            if sink.dead_count > _SHOWN_DEAD:
                note(f"… and {sink.dead_count - _SHOWN_DEAD:,} more")
            raise WattributeError(
                f"{dropped:,} record{'s' if dropped > 1 else ''} could not be used: see the table dead for"
                " line and reason; all others are stored"
            )


def _replay_one(
    settings: Settings, sink: Any, file: Path, lines: Iterator[Line], processes_known: bool
) -> int:
    compile_kernels()
    from wattribute.stream.engine import Engine
    from wattribute.stream.fleet import load_fleet_watts
    from wattribute.stream.replay import replay as replay_lines

    begin = time.monotonic()
    origin = "stdin" if str(file) == "-" else str(file.absolute())
    engine = Engine(
        origin,
        settings.window_ms * 1_000_000,
        settings.generation,
        settings.idle_watts,
        processes_known,
        load_fleet_watts(settings.watts_file),
    )
    rows_before = sink.row_count
    with _progress(file) as progress:
        done = replay_lines(lines, engine, sink, progress)
    shown = f"{file}: {done.lines:,} lines, {done.samples:,} samples, {sink.row_count - rows_before:,} rows"
    repeated = f", {done.duplicates:,} repeated" if done.duplicates else ""
    note(f"{shown}{repeated} in {time.monotonic() - begin:.1f} s")
    if done.dropped and not done.lines:
        note(f"{file} is neither a trace nor a log of nvidia-smi: none of its lines could be used")
    return done.dropped


def _lines(
    file: Path,
    host: str | None,
    gpu: str | None,
    gpu_model: str | None,
    timezone: str,
    workload: str | None,
    part_time_sensor: bool,
) -> tuple[Iterator[Line], bool]:
    """The items of a file, and whether it is a log. Raises UsageError, WattributeError."""
    check_there(file)
    if str(file) != "-" and (file.is_fifo() or file.is_char_device()):  # looking into it would consume it
        raise UsageError(
            f"{file} can be read only once: give a trace on standard input, as -, or save it first"
        )
    if looks_like_nvidia_smi_log(file):
        owner = option_workload(_pairs(workload)) if workload else None
        zone = parse_zone(timezone)
        lines = read_nvidia_smi_log(file, host=host or "log", gpu=gpu, zone=zone, workload=owner)
        if part_time_sensor:
            lines = averaged(lines)
        return _named(lines, gpu_model) if gpu_model else lines, True
    if host or gpu or gpu_model or workload or timezone != "UTC" or part_time_sensor:
        raise UsageError(
            f"{file} does not begin like a log of nvidia-smi with a timestamp, in UTF-8 and with commas;"
            " and a trace says itself whose it is: leave out --host, --gpu, --workload, --part-time-sensor, …"
        )
    return read_trace(file) if str(file) != "-" else _no_log(read_trace(file)), False


def _apart(
    lines: Iterator[Line], file: Path, host: str, whose: dict[tuple[str, str], Path]
) -> Iterator[Line]:
    """Pass on the items of a log. Raises UsageError for a GPU that another log has too: two files of one
    name, whose lines name no GPU, would overwrite each other."""
    for line in lines:
        if isinstance(line.record, Gpu) and line.record.gpu.startswith(MADE_UP):
            other = whose.setdefault((host, line.record.gpu), file)
            if other != file:
                raise UsageError(
                    f"{other} and {file} are both for GPU {line.record.gpu} of host {host}: replay each by"
                    " itself with its --host, or join them if they are parts of one log"
                )
        yield line


def _with_energy(lines: Iterator[Line], file: Path) -> Iterator[Line]:
    """Pass on the items of a log. At the end, print a note if none had power or energy: such a log has no bad
    line, and would seem to have used nothing."""
    count, has_energy = 0, False
    for line in lines:
        if isinstance(read := line.record, Device):
            count += 1
            has_energy = has_energy or {read.energy_mj, read.power_mw, read.power_average_mw} != {None}
        yield line
    if count and not has_energy:
        note(
            f"note: {file} contains no power and no energy, so all of it counts as 0 J: log"
            " power.draw.instant or total_energy_consumption too"
        )


def _of_one_gpu(lines: Iterator[Line], file: Path) -> Iterator[Line]:
    """Pass on the items of a log. GPUs that its lines do not tell apart are taken for one. At the end, print
    a note if they seem to be several: lines come in rounds, some ms apart, with a long pause after each."""
    times: dict[str, list[int]] = {}
    for line in lines:
        read = line.record
        if isinstance(read, Device) and read.gpu.startswith(MADE_UP):
            seen = times.setdefault(read.gpu, [])
            if len(seen) < _LOOKED_AT:
                seen.append(read.t)
        yield line
    if len(times) == 1:
        apart_ns = sorted(after - before for before, after in pairwise(*times.values()))
        few = len(apart_ns) // 20
        if few and apart_ns[-few] > _ROUND_RATIO * apart_ns[few]:
            note(
                f"note: the lines of {file} name no GPU, so all were taken for one: if they are of several,"
                " log uuid too, because now all together cost as much as one"
            )


def _no_log(lines: Iterator[Line]) -> Iterator[Line]:
    """Pass on the items of a trace on standard input. Raises UsageError if the first line is of a log."""
    for place, line in enumerate(lines):
        if place == 0 and is_log_line(line.raw):
            raise UsageError(
                "a log of nvidia-smi cannot be read from standard input: save it, and name the file"
            )
        yield line


def _named(lines: Iterator[Line], gpu_model: str) -> Iterator[Line]:
    """Pass on the items, with a model name for GPUs that have none."""
    for line in lines:
        if isinstance(line.record, Gpu) and not line.record.name:
            yield line._replace(record=replace(line.record, name=gpu_model))
        else:
            yield line


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not pairs or any(not (equals and key.strip() and value.strip()) for key, equals, value in pairs):
        raise UsageError(f"--workload {text!r} is not a list of KEY=VALUE: write model=NAME,run=NAME")
    return {key.strip(): value.strip() for key, _, value in pairs}


@contextmanager
def _noting_sink(settings: Settings) -> Iterator[Any]:
    """The store's sink, which also counts rows and keeps the first dead letters, to show them. The store
    answers queries of other processes meanwhile."""
    from wattribute.sinks.clickhouse import ClickHouseSink
    from wattribute.sinks.query_server import serve
    from wattribute.sinks.store import open_store

    class NotingSink(ClickHouseSink):
        row_count = 0
        dead_count = 0
        first_dead: Sequence[Mapping[str, Any]] = ()

        def write_attribution(self, columns: Mapping[str, Any]) -> None:
            super().write_attribution(columns)
            self.row_count += len(columns["window_start"])

        def write_rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
            super().write_rows(table, rows)
            if table == "dead":
                self.dead_count += len(rows)
                self.first_dead = [*self.first_dead, *rows][:_SHOWN_DEAD]

    with ExitStack() as stack:
        sink = stack.enter_context(closing(NotingSink(open_store(settings.store))))
        if (server := serve(sink.store)) is not None:
            stack.enter_context(closing(server))
        yield sink


@contextmanager
def _progress(file: Path) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on a terminal: it shows the part of lines done if these can be counted, else it only
    moves."""
    if not on_terminal():
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    total = None
    if file.is_file() and file.suffix not in (".gz", ".zst") and file.stat().st_size <= _COUNTED_BYTES:
        with file.open("rb") as stream:
            total = sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b""))
    columns = (
        TextColumn(str(file), markup=False),
        BarColumn(),
        TextColumn("{task.completed:,} lines"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda lines: bar.update(task, completed=lines)
