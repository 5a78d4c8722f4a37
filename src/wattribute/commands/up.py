"""``wattribute up``: everything on this machine in one command."""

from __future__ import annotations

import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from wattribute.collector.publish import Publisher
from wattribute.collector.sampler import Sampler
from wattribute.commands.cost import balance_note, cost_grid, unpriced_notes
from wattribute.commands.ends import Worker, collecting, open_sending_end, stopping, tell_of_another
from wattribute.commands.fresh import empty_folders
from wattribute.commands.intake import open_intake
from wattribute.commands.options import (
    HOST,
    PLACES,
    BusOption,
    ConfigOption,
    DurationOption,
    FastHzOption,
    HostOption,
    PolicyOption,
    ScenarioOption,
    SeedOption,
    SimulateOption,
    StoreOption,
)
from wattribute.commands.output import note, on_terminal, write_grid
from wattribute.commands.replay import Inputs, open_inputs, replay_files
from wattribute.commands.since import parse_duration_s
from wattribute.commands.source import Source, load_host_settings, open_hosts
from wattribute.commands.streaming import opened_stream, tell_unused
from wattribute.commands.top import show_live, top_grid, top_rows
from wattribute.commands.unit_table import unit_grid
from wattribute.errors import UsageError, WattributeError
from wattribute.records import Record
from wattribute.settings import Settings, load_settings
from wattribute.sinks.schema import check_policy

if TYPE_CHECKING:
    from wattribute.sinks.clickhouse import ClickHouseSink
    from wattribute.sinks.store import Readable
    from wattribute.stream.loop import StreamLoop

_PIPED_S: Final = 30.0
_TELL_S: Final = 5.0
_WAITING: Final = "the first complete window is on its way …"
_BY: Final = ("model", "model_version", "run")
_UNIT: Final = "output_tokens"
NEXT: Final = {
    "cost --by team": "who pays for what, idle and unexplained time apart",
    "models": "each version: per token, per request, how good it is",
    "runs": "each training run: cost so far, wasted, projected",
    "reconcile": "the parts beside the hours billed",
    "explain": "what these figures rest on",
}
"""What to ask next, and what that answers."""
_NEXT_WIDTH: Final = max(map(len, NEXT))


def up(
    simulate: SimulateOption = False,
    scenario: ScenarioOption = None,
    seed: SeedOption = 1,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay", metavar="FILE", help="Use a recorded trace or log instead.", rich_help_panel=HOST
        ),
    ] = None,
    host: HostOption = None,
    fast_hz: FastHzOption = None,
    duration: DurationOption = None,
    policy: PolicyOption = "equal",
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Empty the store and the bus first (their folders).", rich_help_panel=PLACES
        ),
    ] = False,
    store: StoreOption = None,
    bus: BusOption = None,
    config: ConfigOption = None,
) -> None:
    """Everything on this machine: collect, attribute, store, and show who is burning the watts.

    It ends with Ctrl-C, or after 30 s without a terminal, and prints a table of what everything cost. The
    figures stay in the store: ask it with cost, query and explain, also while this runs.
    """
    check_policy(policy)  # before anything is measured
    options = {"store": store, "bus": bus, "host": host, "fast_hz": fast_hz}
    settings = load_host_settings(options, config, simulate)
    if replay is not None and (simulate or duration):
        raise UsageError("--replay cannot be combined with --simulate or --duration: it ends with the file")
    duration_s = parse_duration_s(duration) if duration else None if on_terminal() else _PIPED_S
    if replay is not None:
        inputs = open_inputs([replay])
        if fresh:
            empty_folders(settings)
        _replay(settings, inputs, policy)
        return
    for source in open_hosts(settings, simulate, scenario, seed):  # report a missing GPU before all else
        source.close()
    if fresh:
        empty_folders(settings)
    _live(settings, lambda: open_hosts(settings, simulate, scenario, seed), duration_s, policy)


def _live(
    settings: Settings, opened: Callable[[], list[Source]], duration_s: float | None, policy: str
) -> None:
    """Collect each host in a thread of its own, stream in this one, show in another."""
    with opened_stream(settings) as (sink, loop, window_ms), ExitStack() as stack:
        hosts = opened()  # only now, after compiling: their time begins here
        # The machine has one intake port: what applications report there goes to the first host.
        collecting_hosts = [
            stack.enter_context(_collecting(settings, host, listens=host is hosts[0])) for host in hosts
        ]
        stop = stack.enter_context(stopping())
        window_ns = window_ms * 1_000_000
        began_ns = hosts[0].clock.now_ns() // window_ns * window_ns
        ending = "" if duration_s is None else f"; this ends after {duration_s:g} s"
        note(f"collecting {' and '.join(host.shown() for host in hosts)} -> {settings.store}{ending}")
        collectors = [Worker(partial(collect, stop), stop, "collector") for _, collect in collecting_hosts]
        display = Worker(lambda: _show(sink, loop, hosts[0], stop), stop, "display")
        if duration_s is not None:
            timer = threading.Timer(duration_s, stop.set)
            timer.daemon = True
            timer.start()
        try:
            loop.run(stop)
        finally:
            for worker in (*collectors, display):
                worker.wait()  # its objects are closed next
        for worker in (*collectors, display):
            worker.join()
        loop.run(threading.Event(), until_idle=True)  # what the collectors sent last
        for host, (sampler, _) in zip(hosts, collecting_hosts, strict=True):
            for line in filter(None, (*host.complaints(sampler.health), host.scraped())):
                note(line)
        tell_unused(sink, loop)
        began = datetime.fromtimestamp(began_ns / 1e9, UTC)
        _print_cost(sink.store, policy, began, hosts[0].simulated is not None)
    _print_what_next(settings)


@contextmanager
def _collecting(
    settings: Settings, host: Source, listens: bool
) -> Iterator[tuple[Sampler, Callable[[threading.Event], None]]]:
    """The sampler of a host, and a function that runs it, and sends to the bus, until an event is set."""
    producer, log = open_sending_end(settings)
    if host.simulated is None:
        tell_of_another(settings)
    with closing(host), closing(producer), collecting(settings), ExitStack() as intake:
        publisher = Publisher(producer, log, host.name, host.boot_id)

        def publish(records: Sequence[Record]) -> None:
            publisher(records, sampler.epoch)

        told = []
        if listens:
            told = [intake.enter_context(open_intake(settings, host.simulated is not None, publish)).take]
        sampler = host.sampler(settings, publish, *told)

        def collect(stop: threading.Event) -> None:
            with intake:  # the intake ends before the last records are streamed
                sampler.run(stop)
            publisher.end()

        yield sampler, collect


def _show(sink: ClickHouseSink, loop: StreamLoop, source: Source, stop: threading.Event) -> None:
    """The live table on a terminal; else a line now and then."""
    from wattribute.sinks.reading import Reader

    began_s = time.monotonic()
    if not on_terminal():
        while not stop.wait(_TELL_S):
            note(f"{time.monotonic() - began_s:4.0f} s: {loop.counts.rows:,} rows written")
        return
    with closing(Reader(sink.store)) as reader:

        def grid() -> Any:
            simulated = "SIMULATED DATA · " if source.simulated else ""
            title = f"{simulated}{source.name} · {time.monotonic() - began_s:.0f} s · Ctrl-C ends it"
            return top_grid(top_rows(reader) if loop.counts.rows else [], title, _WAITING)

        show_live(grid, lambda: not stop.is_set())


def _replay(settings: Settings, inputs: Inputs, policy: str) -> None:
    problem: WattributeError | None = None
    try:
        replay_files(settings, inputs)
    except WattributeError as error:  # show the table of the good records all the same
        problem = error
    from wattribute.sinks.query_server import open_store_for_reading

    with closing(open_store_for_reading(settings.store)) as opened:
        _print_cost(opened, policy, None, simulated=False)
    if problem is not None:
        raise problem


def _print_cost(store: Readable, policy: str, since: datetime | None, simulated: bool) -> None:
    from wattribute.sinks.costs import cost_rows

    rows = cost_rows(store, _BY, since, None, policy, _UNIT)
    notes = [balance_note(store, rows, since), *unpriced_notes(store, rows, policy, since, None)]
    title = "What it cost" + (" (SIMULATED DATA)" if simulated else "")
    write_grid(cost_grid(rows, _BY, policy, notes, title))
    if any(row["quantity"] for row in rows):
        write_grid(unit_grid(rows, _BY, _UNIT))


def _print_what_next(settings: Settings) -> None:
    """Print further questions to the store, as commands to type here."""
    name = f"{sys.executable} -m wattribute" if sys.argv[0].endswith("__main__.py") else sys.argv[0]
    if shutil.which("wattribute"):
        name = "wattribute"
    lines = [f"{name} {command:{_NEXT_WIDTH}}  # {answer}" for command, answer in NEXT.items()]
    if settings.store != load_settings({}).store:
        lines.insert(0, f"export WATTRIBUTE_STORE={shlex.quote(settings.store)}")
    sys.stdout.write("\n".join(["", "Ask it further:", *(f"  {line}" for line in lines), ""]))
