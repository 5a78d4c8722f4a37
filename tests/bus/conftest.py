"""The buses that the contract is tested on: one interface to a local log, a mock cluster and a broker."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.bus.mock_kafka import MockKafka
from tests.kafka_broker import KafkaBroker
from tests.needs import missing
from wattribute.bus import Consumer, OnAssign, OnRevoke, Partition, Producer
from wattribute.collector.kafka_producer import KafkaProducer
from wattribute.collector.local_consumer import LocalConsumer
from wattribute.collector.local_log import LocalLog
from wattribute.stream.kafka_consumer import KafkaConsumer


class Bus(Protocol):
    """A bus under test. Its producers and consumers act as if in separate processes, and are closed at the
    end."""

    def topic(self, partitions: int = 1) -> str:
        """A new topic."""

    def producer(self) -> Producer: ...

    def consumer(
        self,
        topic: str,
        *,
        group: str = "",
        on_assign: OnAssign | None = None,
        on_revoke: OnRevoke | None = None,
    ) -> Consumer: ...

    def truncate(self, partition: Partition, before: int) -> None:
        """Delete the messages before an offset."""

    def close(self) -> None: ...


class LocalBus:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._logs: list[LocalLog] = []

    def topic(self, partitions: int = 1) -> str:
        return f"topic-{uuid.uuid4().hex[:8]}"

    def producer(self) -> Producer:
        return self._log()

    def consumer(
        self,
        topic: str,
        *,
        group: str = "",
        on_assign: OnAssign | None = None,
        on_revoke: OnRevoke | None = None,
    ) -> Consumer:
        return LocalConsumer(self._log(), [topic], on_assign)

    def truncate(self, partition: Partition, before: int) -> None:
        self._log().trim({partition.topic: before})

    def close(self) -> None:
        for log in self._logs:
            log.close()

    def _log(self) -> LocalLog:
        self._logs.append(LocalLog(self._folder))
        return self._logs[-1]


class KafkaBus:
    def __init__(self, servers: str, mock: MockKafka | None = None) -> None:
        self.servers = servers
        self.mock = mock
        self._group = f"group-{uuid.uuid4().hex[:8]}"
        self._made: list[Producer | Consumer] = []

    def topic(self, partitions: int = 1) -> str:
        name = f"topic-{uuid.uuid4().hex[:8]}"
        if self.mock:
            self.mock.create(name, partitions)
        else:
            producer = KafkaProducer(self.servers)
            producer.ensure_topics({name: partitions}, replication=1, timeout_s=20.0)
            producer.close()
        return name

    def producer(self) -> Producer:
        producer = KafkaProducer(self.servers)
        self._made.append(producer)
        return producer

    def consumer(
        self,
        topic: str,
        *,
        group: str = "",
        on_assign: OnAssign | None = None,
        on_revoke: OnRevoke | None = None,
    ) -> Consumer:
        # A member learns of a rebalance by its heartbeat: with 3 s, the default, tests would wait for that.
        # The mock waits for members that left as long as their session, less 1 s.
        session_ms = "2000" if self.mock else "6000"
        fast = {"heartbeat.interval.ms": "200", "session.timeout.ms": session_ms}
        consumer = KafkaConsumer(self.servers, group or self._group, [topic], on_assign, on_revoke, fast)
        self._made.append(consumer)
        return consumer

    def truncate(self, partition: Partition, before: int) -> None:
        if self.mock:
            self.mock.delete_records(partition.topic, partition.number, before)
            return
        place = TopicPartition(partition.topic, partition.number, before)
        admin = AdminClient({"bootstrap.servers": self.servers})  # keep it: its results are lost with it
        for done in admin.delete_records([place]).values():
            done.result(timeout=20.0)

    def close(self) -> None:
        for made in self._made:
            made.close()


@pytest.fixture(scope="session")
def mock_cluster() -> Iterator[MockKafka]:
    """A mock cluster, shared by the session: use your own topics and groups, and do not stop it."""
    with mock_started() as mock:
        yield mock


@pytest.fixture
def mock_kafka() -> Iterator[MockKafka]:
    """A mock cluster for one test, which may break it."""
    with mock_started() as mock:
        yield mock


@contextmanager
def mock_started(brokers: int = 1) -> Iterator[MockKafka]:
    """A mock cluster, for the length of a with statement."""
    try:
        mock = MockKafka(brokers)
    except OSError as error:
        missing(f"no mock cluster: {error}")
    try:
        yield mock
    finally:
        mock.close()


def _kafka_bus(kind: str, request: pytest.FixtureRequest) -> KafkaBus:
    if kind == "mock":
        mock: MockKafka = request.getfixturevalue("mock_cluster")
        return KafkaBus(mock.servers, mock)
    broker: KafkaBroker = request.getfixturevalue("kafka_broker")
    return KafkaBus(broker.servers)


@pytest.fixture(params=["local", "mock", "kafka"])
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bus]:
    """Each bus in turn."""
    made: Bus = LocalBus(tmp_path / "bus") if request.param == "local" else _kafka_bus(request.param, request)
    yield made
    made.close()


@pytest.fixture(params=["mock", "kafka"])
def kafka_bus(request: pytest.FixtureRequest) -> Iterator[KafkaBus]:
    """Each bus in turn whose groups can have several members."""
    made = _kafka_bus(request.param, request)
    yield made
    made.close()
