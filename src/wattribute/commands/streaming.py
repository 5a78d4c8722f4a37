"""The stream between bus and store, as ``stream`` and ``up`` both run it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from wattribute.bus import Partition
from wattribute.commands.compiling import compile_kernels
from wattribute.commands.ends import receiving_end
from wattribute.commands.output import note
from wattribute.errors import UsageError
from wattribute.settings import Settings

if TYPE_CHECKING:
    from wattribute.sinks.clickhouse import ClickHouseSink
    from wattribute.stream.loop import StreamLoop


def window_ms_for(sink: ClickHouseSink, settings: Settings) -> int:
    """The length of the windows to write: if none is set, that of the windows in the store.

    Raises UsageError if one is set, and the store holds windows of another length."""
    from wattribute.sinks.span import held_window_ms

    held = held_window_ms(sink.store)
    if held is None or held == settings.window_ms:
        return settings.window_ms
    if "window_ms" not in settings.origins:
        return held
    raise UsageError(
        f"the store {sink.store.url} holds windows of {held} ms, and window_ms is {settings.window_ms}:"
        " the same time would count twice. Leave window_ms out, or name another store"
    )


@contextmanager
def opened_stream(
    settings: Settings, from_beginning: bool = False
) -> Iterator[tuple[ClickHouseSink, StreamLoop, int]]:
    """Open the store, which answers other processes meanwhile, and the loop that writes to it. Yields both,
    and the length of windows in ms. ``from_beginning``: ignore what was committed before.

    Raises BusError, StoreError, UsageError."""
    compile_kernels()
    from wattribute.sinks.clickhouse import ClickHouseSink
    from wattribute.sinks.query_server import serve
    from wattribute.sinks.rollup import set_retention
    from wattribute.sinks.store import open_store
    from wattribute.stream.engine import Engine
    from wattribute.stream.fleet import load_fleet_watts
    from wattribute.stream.loop import Assigned, StreamLoop

    fleet = load_fleet_watts(settings.watts_file)

    def make_engine(origin: str) -> Engine:
        return Engine(origin, window_ms * 1_000_000, settings.generation, settings.idle_watts, fleet=fleet)

    # The consumer calls the loop, and the loop calls the consumer: so one is declared before it exists.
    loop: StreamLoop

    def on_assign(partition: Partition) -> int | None:
        if not from_beginning:
            return loop.on_assign(partition)
        loop.assigned[partition] = Assigned(make_engine(f"{partition.topic}/{partition.number}"), 0)
        return 0

    def on_revoke(partitions: Sequence[Partition]) -> None:
        loop.on_revoke(partitions)

    with ExitStack() as stack:
        sink = stack.enter_context(closing(ClickHouseSink(open_store(settings.store))))
        window_ms = window_ms_for(sink, settings)
        if "retention_days" in settings.origins:
            set_retention(sink.store, settings.retention_days)
        if (server := serve(sink.store)) is not None:
            stack.enter_context(closing(server))
        consumer, producer = stack.enter_context(receiving_end(settings, on_assign, on_revoke))
        loop = StreamLoop(consumer, producer, sink, make_engine)
        yield sink, loop, window_ms


def tell_unused(sink: ClickHouseSink, loop: StreamLoop) -> None:
    """Print how much could not be used, if any."""
    if count := loop.counts.dead_letters:
        note(f"{count:,} dead letters: 'wattribute query' of the table dead shows each with its reason")
    tell_past_retention(sink)


def tell_past_retention(sink: ClickHouseSink) -> None:
    """Print how much came that is older than the store keeps windows, if any."""
    if count := sink.rollups.past_retention:
        note(
            f"{count:,} minutes of a GPU are older than retention_days of the store: their sums stay as they"
            " were, and their new windows are lost; use a store without retention_days for them"
        )
