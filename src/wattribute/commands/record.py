"""``wattribute record``: write this host's readings to a trace file."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from wattribute.collector.trace import TraceWriter
from wattribute.commands.ends import stopping
from wattribute.commands.options import (
    HOST,
    ConfigOption,
    DurationOption,
    FastHzOption,
    HostOption,
    ScenarioOption,
    SeedOption,
    SimulateOption,
)
from wattribute.commands.output import check_file, note
from wattribute.commands.since import parse_duration_s, parse_time
from wattribute.commands.source import open_source
from wattribute.errors import UsageError
from wattribute.records import TIME_MAX_NS
from wattribute.settings import load_settings


def record(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The trace to write; .gz or .zst compresses it.")
    ],
    config: ConfigOption = None,
    simulate: SimulateOption = False,
    scenario: ScenarioOption = None,
    seed: SeedOption = 1,
    host: HostOption = None,
    fast_hz: FastHzOption = None,
    duration: DurationOption = None,
    virtual_time: Annotated[
        bool,
        typer.Option(
            "--virtual-time", help="Simulate as fast as possible: minutes in seconds.", rich_help_panel=HOST
        ),
    ] = False,
    start: Annotated[
        str | None,
        typer.Option(
            "--start",
            metavar="TIME",
            help="When the virtual time starts.",
            rich_help_panel=HOST,
            show_default="the duration ago",
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            "--truth",
            metavar="FILE",
            help="Write the true energy of each simulated process.",
            rich_help_panel=HOST,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")] = False,
) -> None:
    """Record this host's readings, to replay them elsewhere. Ends with SIGTERM, Ctrl-C or --duration."""
    settings = load_settings({"host": host, "fast_hz": fast_hz}, config)
    duration_s = parse_duration_s(duration) if duration else None
    if str(file) == "-":
        raise UsageError("record writes a file: name one, or /dev/stdout with --overwrite for a pipe")
    if truth is not None and not simulate:
        raise UsageError("--truth needs --simulate: the true energy is not known on a real host")
    if truth is not None:
        check_file("--truth", truth)
    virtual_start_ns = None
    if virtual_time:
        if duration_s is None:
            raise UsageError("--virtual-time needs --duration: without it the recording would never end")
        at = parse_time(start)
        begin_s = time.time() - duration_s if at is None else at.timestamp()
        virtual_start_ns = int(begin_s) * 1_000_000_000
        if not 0 < virtual_start_ns <= TIME_MAX_NS - duration_s * 1_000_000_000:
            raise UsageError("a trace can hold times from 1970 to 2100: choose another --start")
    elif start is not None:
        raise UsageError("--start needs --virtual-time")
    source = open_source(settings, simulate, scenario, seed, virtual_start_ns)
    with (
        closing(source),
        TraceWriter(file, source.name, source.boot_id, overwrite=overwrite) as writer,
        stopping() as stop,
    ):
        note(f"recording {source.shown()} -> {file}")
        health = source.sampler(settings, writer.write).run(stop, duration_s)
    if truth is not None and source.simulated is not None:
        source.simulated.write_truth(truth)
    for complaint in source.complaints(health):
        note(complaint)
    note(f"{health.records:,} records, {health.readings:,} of them readings of a device, in {file}")
    if scraped := source.scraped():
        note(scraped)
