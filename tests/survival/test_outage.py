"""ClickHouse goes away under the stream, in every way it can: the stream waits, and the tables are those of a
stream that nothing disturbed."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.clickhouse_shim import ClickHouseShim, Fault
from tests.survival.processes import TABLES, ran, started
from tests.survival.test_restarts import HostileHost, Sent, sent_to
from wattribute.bus import DEAD, SAMPLES, STATE, UNITS, Fetched, Partition, Position
from wattribute.collector.local_consumer import LocalConsumer
from wattribute.collector.local_log import LocalLog
from wattribute.errors import BusAwayError, StoreAwayError, StoreError
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.store import open_store
from wattribute.stream import loop as stream_loop
from wattribute.stream import outage
from wattribute.stream.engine import Engine
from wattribute.stream.loop import StreamLoop
from wattribute.verify.memory_sink import MemorySink

RATIO = 0.15  # of the statements that fail
AWAY_S = 0.1
Tables = dict[str, list[tuple[Any, ...]]]
Faults = Callable[[ClickHouseShim, random.Random, str], Fault | None]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseShim]:
    with closing(ClickHouseShim(tmp_path_factory.mktemp("server"))) as made:
        yield made


@pytest.fixture(scope="module")
def messages() -> Sequence[Sent]:
    made = HostileHost(random.Random(3), absent_ratio=0.1).messages(seconds=70)
    return [*made[:40], (SAMPLES, "h", b"no message"), *made[40:]]


@pytest.fixture(scope="module")
def undisturbed(
    shim: ClickHouseShim, messages: Sequence[Sent], tmp_path_factory: pytest.TempPathFactory
) -> Tables:
    streamed(shim.url("undisturbed"), messages, tmp_path_factory.mktemp("bus"))
    found = tables_of(shim.url("undisturbed"))
    assert len(found["attribution"]) > 100
    assert {table for table in found if not found[table]} == {"quality", "run_event"}
    return found


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small steps and short pauses, so that an outage meets every step."""
    monkeypatch.setattr(outage, "_PAUSE_MIN_S", 0.001)
    monkeypatch.setattr(outage, "_PAUSE_MAX_S", 0.02)
    for name, value in (
        ("_POLL_S", 0.001),
        ("_POLL_MESSAGES", 3),
        ("_COMMIT_S", 0.0),
        ("_WRITE_S", 0.0),
        ("ROLLUP_S", 0.05),
    ):
        monkeypatch.setattr(stream_loop, name, value)


def refused(shim: ClickHouseShim, rng: random.Random, sql: str) -> Fault | None:
    """The server is stopped, in the middle of a statement, and comes back."""
    if rng.random() > RATIO / 2:
        return None
    done = rng.random() < 0.5
    shim.refuse()
    threading.Timer(AWAY_S, shim.accept).start()
    return Fault(done=done)


def silent(shim: ClickHouseShim, rng: random.Random, sql: str) -> Fault | None:
    """It takes the statement and is not heard of again. The client gives up after a second."""
    return Fault(done=True, silent=True) if rng.random() < RATIO / 2 else None


def often(*faults: Fault) -> Faults:
    """Many statements meet one of these."""
    return lambda shim, rng, sql: rng.choice(faults) if rng.random() < RATIO else None


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(refused, id="stopped and started"),
        pytest.param(silent, id="silent"),
        pytest.param(often(Fault()), id="cut before it was done"),
        pytest.param(often(Fault(done=True)), id="cut after it was done"),
        pytest.param(often(Fault(500), Fault(502), Fault(503)), id="proxy"),
        pytest.param(often(*(Fault(500, code) for code in (159, 202, 241, 242, 252, 999))), id="overloaded"),
        pytest.param(often(Fault(500, 319, done=True), Fault(500, 209, done=True)), id="done and denied"),
    ],
)
def test_after_an_outage_the_tables_are_those_of_an_undisturbed_stream(
    shim: ClickHouseShim,
    messages: Sequence[Sent],
    undisturbed: Tables,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
    faults: Faults,
) -> None:
    if faults is silent:
        monkeypatch.setattr("wattribute.sinks.store.ANSWER_S", 1)
    url = shim.url(request.node.callspec.id.replace(" ", "_"))
    rng = random.Random(request.node.callspec.id)
    streamed(url, messages, tmp_path, disturb=lambda: set_fault(shim, lambda sql: faults(shim, rng, sql)))
    set_fault(shim, lambda sql: None)
    said = [record.getMessage() for record in caplog.records if "wattribute" in record.name]
    waits = sum(line.startswith("waiting, nothing is lost: error from the store ") for line in said)
    assert waits
    assert sum(line.startswith("the outage is over after ") for line in said) == waits
    found = tables_of(url)
    for table, rows in undisturbed.items():
        assert found[table] == rows, table


@pytest.mark.usefixtures("_impatient")
def test_what_does_not_pass_ends_the_stream(
    shim: ClickHouseShim, messages: Sequence[Sent], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def denied(sql: str) -> Fault | None:
        return Fault(403, code=497) if "INTO attribution " in sql else None

    try:
        with pytest.raises(StoreError, match="497") as error:
            streamed(shim.url("denied"), messages, tmp_path, disturb=lambda: set_fault(shim, denied))
    finally:
        set_fault(shim, lambda sql: None)
    assert not isinstance(error.value, StoreAwayError)
    assert not caplog.records
    streamed(shim.url("denied"), [], tmp_path)  # once it is allowed


def test_a_stream_that_waits_ends_at_once_when_told_to(
    shim: ClickHouseShim, messages: Sequence[Sent], undisturbed: Tables, tmp_path: Path
) -> None:
    store, bus = shim.url("told"), f"local://{tmp_path}/bus"
    log = LocalLog(tmp_path / "bus")
    sent_to(log, messages[: len(messages) // 2])
    process = started("stream", "--bus", bus, "--store", store)
    try:
        assert process.stderr is not None
        while "streaming" not in (line := process.stderr.readline()):
            assert line, "it ended"
        shim.refuse()
        sent_to(log, messages[len(messages) // 2 :])
        log.close()
        assert process.stderr.readline().startswith(
            "wattribute: waiting, nothing is lost: error from the store "
        )
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        shim.accept()
    assert process.returncode == 1
    (line,) = said.splitlines()
    assert line.startswith("wattribute: the next start writes what this one could not: error from the store ")
    ran("stream", "--bus", bus, "--store", store, "--until-idle")
    found = tables_of(store)
    for table, rows in undisturbed.items():
        assert found[table] == rows, table


class OftenFull(LocalLog):
    """Every other message of the stream finds the queue full."""

    full = False

    def send(self, topic: str, key: str, value: bytes, timestamp_ms: int) -> None:
        self.full = not self.full and topic in (DEAD, STATE)
        if self.full:
            raise BusAwayError("the queue is full")
        super().send(topic, key, value, timestamp_ms)


@pytest.mark.usefixtures("_impatient")
def test_a_queue_that_is_full_gets_every_message_of_the_stream_once(
    messages: Sequence[Sent], tmp_path: Path
) -> None:
    def sent(log: LocalLog) -> dict[str, list[bytes]]:
        with closing(log):
            sent_to(log, messages)
            consumer = LocalConsumer(log, (SAMPLES, UNITS), lambda partition: loop.on_assign(partition))  # noqa: PLW0108
            loop = StreamLoop(consumer, log, MemorySink(), Engine)
            loop.run(threading.Event(), until_idle=True)
            return {topic: sorted(consumer.read_all(topic)) for topic in (DEAD, STATE)}

    undisturbed = sent(LocalLog(tmp_path / "undisturbed"))
    assert undisturbed[DEAD]
    assert undisturbed[STATE]
    assert sent(OftenFull(tmp_path / "full")) == undisturbed


class OftenAway(LocalConsumer):
    """Every third time that it is asked or read, the bus does not answer."""

    asked = 0

    def committed(self, partition: Partition) -> Position | None:
        self._answer()
        return super().committed(partition)

    def poll(self, max_messages: int, timeout_s: float) -> Sequence[Fetched]:
        if max_messages:
            self._answer()
        return super().poll(max_messages, timeout_s)

    def _answer(self) -> None:
        self.asked += 1
        if self.asked % 3 == 0:
            raise BusAwayError("it does not answer")


@pytest.mark.usefixtures("_impatient")
def test_a_bus_that_often_does_not_answer_is_read_all_the_same(
    messages: Sequence[Sent], tmp_path: Path
) -> None:
    def read(consumer_class: type[LocalConsumer], folder: Path) -> MemorySink:
        with closing(LocalLog(folder)) as log:
            sent_to(log, messages)
            consumer = consumer_class(log, (SAMPLES, UNITS), lambda partition: loop.on_assign(partition))  # noqa: PLW0108
            loop = StreamLoop(consumer, log, sink := MemorySink(), Engine)
            loop.run(threading.Event(), until_idle=True)
            return sink

    undisturbed = read(LocalConsumer, tmp_path / "undisturbed")
    assert len(undisturbed.table()) > 100
    assert read(OftenAway, tmp_path / "away").table() == undisturbed.table()


def streamed(
    url: str, messages: Sequence[Sent], folder: Path, disturb: Callable[[], None] = lambda: None
) -> None:
    """Stream all messages into a store, which is ``disturb``ed once the stream has opened it."""
    with closing(LocalLog(folder)) as log, closing(ClickHouseSink(open_store(url))) as sink:
        sent_to(log, messages)
        consumer = LocalConsumer(log, (SAMPLES, UNITS), lambda partition: loop.on_assign(partition))  # noqa: PLW0108 - no loop yet
        loop = StreamLoop(consumer, log, sink, Engine)
        disturb()
        loop.run(threading.Event(), until_idle=True)


def set_fault(shim: ClickHouseShim, fault: Callable[[str], Fault | None]) -> None:
    shim.fault = fault


def tables_of(url: str) -> Tables:
    """All rows of all tables, and that no rollup is behind."""
    with closing(open_store(url)) as store:
        assert store.query("SELECT count() FROM dirty_bucket FINAL").rows == [(0,)]
        return {table: store.query(f"SELECT * FROM {table} FINAL ORDER BY ALL").rows for table in TABLES}
