"""Measure while a command runs: by a collector that runs on this machine already, or else by our own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from wattribute.collector.health import Health
from wattribute.collector.publish import Publisher
from wattribute.commands.ends import (
    Worker,
    collecting,
    is_collected,
    open_producer,
    open_sending_end,
    own_encoder,
)
from wattribute.commands.output import note
from wattribute.commands.source import Source
from wattribute.commands.streaming import opened_stream
from wattribute.errors import BusError, StoreError
from wattribute.records import Record
from wattribute.settings import Settings, local_folder
from wattribute.wire import Encoder

if TYPE_CHECKING:
    from wattribute.sinks.clickhouse import ClickHouseSink
    from wattribute.sinks.earlier import Earlier
    from wattribute.sinks.prices import Price
    from wattribute.sinks.store import Readable
    from wattribute.stream.loop import StreamLoop

_TAIL_S: Final = 0.3  # after the end of a window, until there is a reading that closes it
_PERIOD_S: Final = 1.0
_CHECK_S: Final = 0.1
_FLUSH_S: Final = 5.0
_LEAVE_S: Final = _FLUSH_S + 1.0
_WAITING_MAX: Final = 10_000
_ARRIVAL_S: Final = 15.0  # from a collector's bus through a stream into the store

AddPrices = Callable[[Sequence["Price"]], list[str]]
Ask = Callable[["Readable", AddPrices], None]


class Measuring(Protocol):
    """Measures from ``begin`` to ``end``."""

    def begin(self) -> None:
        """Begin, without waiting."""

    def earlier(self, check: Callable[[], None]) -> Earlier | None:
        """The earlier attempts of the run; None if they cannot be found out. Calls ``check`` while it
        waits."""

    def end(self, ask: Ask) -> None:
        """Call it when the command has ended: it calls ``ask`` with the store once that is complete. Raises
        WattributeError where the store does not answer."""

    def complaints(self) -> Sequence[str]:
        """What could not be read of the GPUs, one line each. Call it when the command has ended."""

    def leave(self) -> None:
        """Send what was measured to the bus, while another thread is in ``end``; wait for nothing else."""


class Own:
    """A collector and, where the bus is a local one, a stream of our own, each in a thread.

    ``told`` returns the records read from the command's output; it is called at each flush.
    """

    def __init__(
        self, settings: Settings, source: Source, run: str, told: Callable[[], list[Record]]
    ) -> None:
        self._settings, self._source, self._run, self._told = settings, source, run, told
        self._stop = threading.Event()
        self._stop_stream = threading.Event()
        self._ready = threading.Event()
        self._earlier: Earlier | None = None
        self._ask: Ask | None = None
        self._asked = False
        self._window_ms = settings.window_ms
        self._health = Health()

    def begin(self) -> None:
        """Sample from now on. The store may take some seconds to open, and samples wait for it."""
        self._collector = Worker(self._collect, self._stop, "collector")
        self._streaming: Worker | None = None
        if local_folder(self._settings.bus) is not None:
            self._streaming = Worker(self._stream, self._ready, "stream")

    def earlier(self, check: Callable[[], None]) -> Earlier | None:
        """See ``Measuring``."""
        if self._streaming is None:
            return _asked_elsewhere(self._settings, self._run)
        while not self._ready.wait(_CHECK_S):
            check()
        return self._earlier

    def end(self, ask: Ask) -> None:
        """See ``Measuring``."""
        self._ask = ask
        window_s = self._window_ms / 1_000  # a window that is still open has no rows
        self._stop.wait(window_s - time.time() % window_s + _TAIL_S)
        self._stop.set()
        self._collector.wait()
        self._stop_stream.set()
        failed: StoreError | None = None
        if self._streaming is not None:
            try:
                self._streaming.join()
            except StoreError as error:  # perhaps another process writes to the store, and can be asked
                failed = error
        self._collector.join()
        if not self._asked:
            try:
                _ask_elsewhere(self._settings, self._run, ask)
            except StoreError as error:
                raise failed or error from error

    def complaints(self) -> Sequence[str]:
        """See ``Measuring``."""
        failed = self._collector.error  # for example the disk is full, and readings were lost
        return [*self._source.complaints(self._health), *([] if failed is None else [str(failed)])]

    def leave(self) -> None:
        """See ``Measuring``."""
        self._stop.set()
        self._collector.wait(_LEAVE_S)

    def _collect(self) -> None:
        source = self._source
        producer, log = open_sending_end(self._settings)
        with closing(producer), collecting(self._settings):
            publisher = Publisher(producer, log, source.name, source.boot_id)
            sampler = source.sampler(
                self._settings,
                lambda records: publisher(records, sampler.epoch),
                lambda _now_ns: self._told(),
            )
            self._health = sampler.run(self._stop)

    def _stream(self) -> None:
        from wattribute.sinks.earlier import earlier_attempts

        with opened_stream(self._settings) as (sink, loop, self._window_ms):
            loop.run(threading.Event(), until_idle=True)  # what a killed run has left on the bus
            self._earlier = earlier_attempts(sink.store, self._run)
            self._ready.set()
            loop.run(self._stop_stream)
            if self._ask is not None:
                _ask_own(sink, loop, self._ask)
                self._asked = True


class Telling:
    """A collector measures. The records of the command's output go to its bus, as by ``wattribute emit``."""

    def __init__(self, settings: Settings, run: str, told: Callable[[], list[Record]]) -> None:
        self._settings, self._run, self._told = settings, run, told
        self._stop = threading.Event()
        self._waiting: list[Record] = []
        self._dropped = 0

    def begin(self) -> None:
        """Send records from now on."""
        self._teller = Worker(self._tell, self._stop, "teller")

    def earlier(self, check: Callable[[], None]) -> Earlier | None:
        """See ``Measuring``."""
        check()
        return _asked_elsewhere(self._settings, self._run)

    def end(self, ask: Ask) -> None:
        """See ``Measuring``."""
        self._stop.set()
        self._teller.join()
        if self._dropped or self._waiting:
            note(f"{self._dropped + len(self._waiting):,} records of steps could not be sent to the bus")
        if local_folder(self._settings.bus) is None or is_collected(self._settings):
            _ask_elsewhere(self._settings, self._run, ask)
        else:  # the collector has ended, and no stream reads what was sent since
            with opened_stream(self._settings) as (sink, loop, _):
                _ask_own(sink, loop, ask)

    def complaints(self) -> Sequence[str]:
        """Empty: the collector reports its own."""
        return ()

    def leave(self) -> None:
        """See ``Measuring``."""
        self._stop.set()
        self._teller.wait(_LEAVE_S)

    def _tell(self) -> None:
        encoder = own_encoder(self._settings)
        failed, is_alone = "", False
        while True:
            last = self._stop.wait(_PERIOD_S)
            if not is_alone and not is_collected(self._settings):
                is_alone = True
                note("wattribute: the collector has ended: from now on nothing is measured")
            self._waiting += self._told()
            try:
                self._send(encoder)
                failed = ""
            except BusError as error:
                if not failed:
                    note(f"wattribute: {error}; steps wait until the bus answers")
                failed = str(error)
                too_many = max(0, len(self._waiting) - _WAITING_MAX)
                del self._waiting[:too_many]
                self._dropped += too_many
            if last:
                return

    def _send(self, encoder: Encoder) -> None:
        if not self._waiting:
            return
        with closing(open_producer(self._settings)) as producer:
            now_ms = time.time_ns() // 1_000_000
            for topic, key, value in encoder.encode(self._waiting):
                producer.send(topic, key, value, now_ms)
            if producer.flush(_FLUSH_S):
                raise BusError(f"the bus {self._settings.bus} did not accept the steps within {_FLUSH_S:g} s")
        self._waiting.clear()


def _ask_own(sink: ClickHouseSink, loop: StreamLoop, ask: Ask) -> None:
    """Ask our own store, once everything on the bus is in it."""
    from wattribute.sinks.prices import add_prices

    loop.run(threading.Event(), until_idle=True)
    ask(sink.store, lambda prices: add_prices(sink.store, prices))


def _asked_elsewhere(settings: Settings, run: str) -> Earlier | None:
    """The attempts of the run in the store; None if no store can be asked."""
    from wattribute.sinks.earlier import earlier_attempts
    from wattribute.sinks.query_server import open_store_for_reading

    try:
        with closing(open_store_for_reading(settings.store)) as store:
            return earlier_attempts(store, run)
    except (StoreError, ModuleNotFoundError):
        return None


def _ask_elsewhere(settings: Settings, run: str, ask: Ask) -> None:
    """Ask a store that others write to, once what we sent has arrived there."""
    from wattribute.sinks.query_server import add_prices_to, open_store_for_reading

    ended = datetime.now(UTC)

    def add(prices: Sequence[Price]) -> list[str]:
        return add_prices_to(settings.store, prices)

    with closing(open_store_for_reading(settings.store)) as store:
        deadline_s = time.monotonic() + _ARRIVAL_S
        while not _has_arrived(store, run, ended):
            if time.monotonic() > deadline_s:
                note(
                    f"the store is over {_ARRIVAL_S:g} s behind: 'wattribute runs' shows the whole cost later"
                )
                break
            time.sleep(0.2)
        ask(store, add)


def _has_arrived(store: Readable, run: str, ended: datetime) -> bool:
    """Whether the store has windows up to the end of a run: of its hosts, or of any if none has seen it."""
    found: Any = store.query(
        "WITH (SELECT groupUniqArray(host) FROM process WHERE run = {run:String}) AS hosts"
        " SELECT max(window_start + toIntervalMillisecond(window_ms)) FROM attribution"
        " WHERE empty(hosts) OR has(hosts, host)",
        {"run": run},
    ).rows[0][0]
    return found is not None and found.replace(tzinfo=UTC) >= ended
