"""The spool in front of Kafka: nothing is lost while Kafka is away, and what is lost is listed exactly."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from confluent_kafka import KafkaError

from tests.bus.mock_kafka import PRODUCE, MockKafka
from tests.kafka_broker import KafkaBroker
from wattribute.bus import SAMPLES, UNITS
from wattribute.collector.kafka_producer import KafkaProducer
from wattribute.collector.local_log import LocalLog
from wattribute.collector.spool import SpoolingProducer
from wattribute.errors import BusError
from wattribute.stream.kafka_consumer import KafkaConsumer

KIB = 1024
PATIENCE_S = 30.0


class Far:
    """A producer to somewhere that may be away; keeps what it acknowledged."""

    def __init__(self) -> None:
        self.away = False
        self.too_large_bytes = 10_000
        self.got: list[tuple[str, str, bytes, int]] = []
        self.closed = False
        self._queued: list[tuple[str, str, bytes, int]] = []

    def send(self, topic: str, key: str, value: bytes, timestamp_ms: int) -> None:
        if len(value) >= self.too_large_bytes:
            raise BusError(f"a message of {len(value)} bytes cannot be sent")
        self._queued.append((topic, key, value, timestamp_ms))

    def flush(self, timeout_s: float) -> int:
        if not self.away:
            self.got += self._queued
            self._queued.clear()
        return len(self._queued)

    def close(self) -> None:
        self.closed = True

    def numbers(self, topic: str = SAMPLES) -> list[int]:
        return [timestamp_ms for to, _, _, timestamp_ms in self.got if to == topic]


def send(spool: SpoolingProducer, count: int, start: int = 0, topic: str = SAMPLES, size: int = 4000) -> None:
    for number in range(start, start + count):
        spool.send(topic, "host", bytes(size), number)


def test_what_is_acknowledged_is_deleted(tmp_path: Path) -> None:
    far, log = Far(), LocalLog(tmp_path)
    spool = SpoolingProducer(log, far)
    send(spool, 5)
    send(spool, 3, topic=UNITS)
    assert spool.flush(1.0) == 0
    assert (far.numbers(), far.numbers(UNITS)) == ([0, 1, 2, 3, 4], [0, 1, 2])
    assert far.got[0] == (SAMPLES, "host", bytes(4000), 0)
    assert (log.read(SAMPLES, 0, 10), log.read(UNITS, 0, 10)) == ([], [])
    spool.close()
    assert far.closed


def test_it_waits_on_the_disk_while_the_broker_is_away(tmp_path: Path) -> None:
    far = Far()
    spool = SpoolingProducer(LocalLog(tmp_path), far)
    far.away = True
    for start in range(0, 100, 10):
        send(spool, 10, start)
        assert spool.flush(0.0) == start + 10
    far.away = False
    assert spool.flush(1.0) == 0
    assert far.numbers() == list(range(100))
    spool.close()


def test_after_a_restart_the_old_goes_before_the_new(tmp_path: Path) -> None:
    far = Far()
    far.away = True
    for start in (0, 10):
        spool = SpoolingProducer(LocalLog(tmp_path), far)
        send(spool, 10, start)
        assert spool.flush(0.0) == start + 10
        spool.log.close()  # as if the process had died: nothing is flushed, nothing is told
    far = Far()
    spool = SpoolingProducer(LocalLog(tmp_path), far)
    send(spool, 5, 20)
    assert spool.flush(1.0) == 0
    assert far.numbers() == list(range(25))
    spool.close()


def test_what_the_bound_drops_is_listed_exactly(tmp_path: Path) -> None:
    far, log = Far(), LocalLog(tmp_path, max_bytes=400 * KIB)
    spool = SpoolingProducer(log, far)
    far.away = True
    for start in range(0, 500, 20):
        send(spool, 20, start)
        waiting = spool.flush(0.0)
    (dropped,) = log.dropped()
    assert dropped.from_offset == len(far._queued) == 26  # on their way: a quarter of the bound
    assert 200 < dropped.to_offset < 499
    assert (dropped.from_ms, dropped.to_ms) == (26, dropped.to_offset - 1)
    assert log.dropped_messages() == dropped.to_offset - 26
    assert waiting == 500 - log.dropped_messages()
    far.away = False
    assert spool.flush(5.0) == 0
    # Sent or listed as dropped, and never both.
    assert far.numbers() == [*range(26), *range(dropped.to_offset, 500)]
    spool.close()


def test_a_message_that_can_never_be_sent_is_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    far, log = Far(), LocalLog(tmp_path)
    spool = SpoolingProducer(log, far)
    send(spool, 2)
    send(spool, 1, 2, size=20_000)
    send(spool, 2, 3)
    deadline_s = time.monotonic() + PATIENCE_S
    while spool.flush(0.1):
        assert time.monotonic() < deadline_s
    assert far.numbers() == [0, 1, 3, 4]
    assert [(drop.from_offset, drop.to_offset, drop.from_ms) for drop in log.dropped()] == [(2, 3, 2)]
    assert log.dropped_messages() == 1
    spool.close()


def test_what_the_broker_refuses_after_it_was_sent_is_listed_too(
    mock_kafka: MockKafka, tmp_path: Path
) -> None:
    mock_kafka.create(SAMPLES, 1)
    log = LocalLog(tmp_path)
    spool = SpoolingProducer(log, KafkaProducer(mock_kafka.servers))
    for first in (0, 2, 5):
        mock_kafka.fail(PRODUCE, *[KafkaError.INVALID_TIMESTAMP] * (first == 2))
        send(spool, 3 if first == 2 else 2, first)
        deadline_s = time.monotonic() + PATIENCE_S
        while spool.flush(1.0):
            assert time.monotonic() < deadline_s
    assert [(drop.from_offset, drop.to_offset) for drop in log.dropped()] == [(2, 5)]
    assert log.dropped_messages() == 3
    spool.close()


def test_a_backlog_goes_through_in_windows(tmp_path: Path) -> None:
    far = Far()
    far.away, far.too_large_bytes = True, 1 << 30
    spool = SpoolingProducer(LocalLog(tmp_path), far)
    send(spool, 40, size=1 << 20)
    assert spool.flush(0.0) == 40
    assert len(far._queued) == 8  # of 1 MiB: the window is 8 MiB
    far.away = False
    assert spool.flush(10.0) == 0
    assert far.numbers() == list(range(40))
    spool.close()


def test_a_full_disk_does_not_stop_what_is_written_from_going_on(tmp_path: Path) -> None:
    far, log = Far(), LocalLog(tmp_path)
    spool = SpoolingProducer(log, far)
    far.away = True
    send(spool, 30)
    spool.flush(0.0)
    log._connection.execute("PRAGMA max_page_count = 1")  # SQLite takes the present size
    send(spool, 30, 30)
    with pytest.raises(BusError, match="disk is full"):
        spool.flush(0.0)
    far.away = False
    with pytest.raises(BusError, match="disk is full"):
        spool.flush(1.0)
    assert far.numbers() == list(range(30))  # and what they leave behind is room for the next
    assert spool.flush(1.0) == 0
    assert far.numbers() == list(range(60))
    spool.close()


def read(servers: str, topic: str) -> list[int]:
    consumer = KafkaConsumer(servers, "reader", [topic])
    try:
        return [int(value) for value in consumer.read_all(topic)]
    finally:
        consumer.close()


def test_the_broker_goes_and_comes_back(mock_kafka: MockKafka, tmp_path: Path) -> None:
    mock_kafka.create(SAMPLES, 1)
    spool = SpoolingProducer(LocalLog(tmp_path), KafkaProducer(mock_kafka.servers))
    for number in range(60):
        if number == 20:
            mock_kafka.set_down()
        if number == 40:
            mock_kafka.set_up()
        spool.send(SAMPLES, "host", b"%d" % number, 1_700_000_000_000 + number)
        spool.flush(0.01)
    deadline_s = time.monotonic() + PATIENCE_S
    while spool.flush(1.0):
        assert time.monotonic() < deadline_s
    assert spool.log.dropped() == []
    spool.close()
    assert list(dict.fromkeys(read(mock_kafka.servers, SAMPLES))) == list(range(60))


@pytest.mark.long
def test_a_crash_of_the_broker_and_of_the_collector(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    topic = "spool-crash"
    producer = KafkaProducer(kafka_broker.servers)
    producer.ensure_topics({topic: 1}, replication=1, timeout_s=PATIENCE_S)
    spool = SpoolingProducer(LocalLog(tmp_path), producer)

    def send_on(start: int) -> None:
        for number in range(start, start + 50):
            spool.send(topic, "host", b"%d" % number, 1_700_000_000_000 + number)
            spool.flush(0.0)

    send_on(0)
    kafka_broker.kill()
    try:
        send_on(50)
        spool.log.close()  # the collector dies too, with all that its client had in memory
        spool = SpoolingProducer(LocalLog(tmp_path), KafkaProducer(kafka_broker.servers))
        send_on(100)
    finally:
        kafka_broker.start()
    deadline_s = time.monotonic() + PATIENCE_S
    while spool.flush(1.0):
        assert time.monotonic() < deadline_s
    spool.close()
    found = read(kafka_broker.servers, topic)
    assert sorted(set(found)) == list(range(150))
    producer.close()
