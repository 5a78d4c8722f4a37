"""What every bus promises, tested on each: the local log, the mock cluster, a real broker."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from tests.bus.conftest import Bus, KafkaBus, mock_started
from tests.bus.mock_kafka import LIST_OFFSETS, MockKafka
from tests.kafka_broker import KafkaBroker
from wattribute.bus import Consumer, Fetched, Partition, Position, Producer, Skip
from wattribute.collector.kafka_producer import KafkaProducer
from wattribute.collector.local_log import LocalLog
from wattribute.errors import BusAwayError, BusError
from wattribute.stream.kafka_consumer import KafkaConsumer

PATIENCE_S = 30.0
NOWHERE = "127.0.0.1:1"  # tcpmux: nobody listens


def send(producer: Producer, topic: str, values: Sequence[bytes], key: str = "host") -> None:
    for number, value in enumerate(values):
        producer.send(topic, key, value, 1_700_000_000_000 + number)
    assert producer.flush(PATIENCE_S) == 0


def read(consumer: Consumer, count: int) -> list[tuple[Partition, int, bytes]]:
    """Exactly ``count`` messages, and that no further one is there."""
    messages: list[tuple[Partition, int, bytes]] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while len(messages) < count and time.monotonic() < deadline_s:
        messages += flat(consumer.poll(1000, 1.0))
    messages += flat(consumer.poll(1000, 0.05))
    assert len(messages) == count
    return messages


def flat(fetched: Sequence[Fetched]) -> list[tuple[Partition, int, bytes]]:
    return [
        (batch.partition, offset, value)
        for batch in fetched
        for offset, value in zip(batch.offsets, batch.values, strict=True)
    ]


def values(messages: Sequence[tuple[Partition, int, bytes]]) -> list[bytes]:
    return [value for _, _, value in messages]


def until(consumers: Sequence[Consumer], true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline_s
        for consumer in consumers:
            consumer.poll(1000, 0.05)


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"message %d" % number for number in range(start, start + count)]


def test_messages_arrive_in_order_at_growing_offsets(bus: Bus) -> None:
    topic = bus.topic()
    send(bus.producer(), topic, numbered(500))
    messages = read(bus.consumer(topic), 500)
    assert values(messages) == numbered(500)
    assert [offset for _, offset, _ in messages] == list(range(500))
    assert {partition for partition, _, _ in messages} == {Partition(topic, 0)}


def test_keys_keep_their_order_over_partitions(bus: Bus) -> None:
    topic, producer = bus.topic(4), bus.producer()
    for number in range(200):
        producer.send(topic, f"host-{number % 10}", b"%d %d" % (number % 10, number // 10), 1_700_000_000_000)
    assert producer.flush(PATIENCE_S) == 0
    messages = read(bus.consumer(topic), 200)
    by_key: dict[bytes, list[tuple[Partition, bytes]]] = {}
    for partition, _, value in messages:
        key, number_of = value.split()
        by_key.setdefault(key, []).append((partition, number_of))
    assert len(by_key) == 10
    for found in by_key.values():
        assert len({partition for partition, _ in found}) == 1
        assert [number for _, number in found] == [b"%d" % number for number in range(20)]


def test_poll_returns_what_there_is_without_waiting_for_more(bus: Bus) -> None:
    topic, producer = bus.topic(), bus.producer()
    consumer = bus.consumer(topic)
    send(producer, topic, [b"first"])
    assert values(flat(consumer.poll(1000, PATIENCE_S))) == [b"first"]
    send(producer, topic, [b"second"])
    # Were it to wait for 1000 messages, it would come back after the timeout of the whole test.
    assert values(flat(consumer.poll(1000, 10_000.0))) == [b"second"]


def test_poll_gives_at_most_so_many(bus: Bus) -> None:
    topic = bus.topic()
    send(bus.producer(), topic, numbered(30))
    consumer = bus.consumer(topic)
    found: list[bytes] = []
    while len(found) < 30:
        batch = values(flat(consumer.poll(7, PATIENCE_S)))
        assert 1 <= len(batch) <= 7
        found += batch
    assert found == numbered(30)


def test_an_empty_topic_is_empty_after_the_timeout(bus: Bus) -> None:
    topic = bus.topic()
    consumer = bus.consumer(topic)
    assert list(consumer.poll(10, 0.2)) == []
    assert consumer.end_offset(Partition(topic, 0)) == 0
    assert consumer.committed(Partition(topic, 0)) is None


def test_a_restart_goes_on_at_the_committed_offset_and_finds_the_note(bus: Bus) -> None:
    topic = bus.topic()
    place = Partition(topic, 0)
    send(bus.producer(), topic, numbered(10))
    first = bus.consumer(topic)
    assert len(read(first, 10)) == 10
    note = '{"emit_from":17,"algo":"grün"}' + "x" * 4000
    first.commit({place: Position(4, note)})
    first.commit({place: Position(6, note)})
    first.close()
    seen: list[Position | None] = []
    second = bus.consumer(topic, on_assign=lambda partition: seen.append(second.committed(partition)))
    assert values(read(second, 4)) == numbered(4, 6)
    assert seen == [Position(6, note)]
    assert second.committed(place) == Position(6, note)


def test_nothing_is_committed_but_by_commit(bus: Bus) -> None:
    topic = bus.topic()
    send(bus.producer(), topic, numbered(5))
    for _ in range(2):
        consumer = bus.consumer(topic)
        assert values(read(consumer, 5)) == numbered(5)
        assert consumer.committed(Partition(topic, 0)) is None
        consumer.close()


def test_a_note_that_is_too_long_is_refused(bus: Bus) -> None:
    topic = bus.topic()
    send(bus.producer(), topic, numbered(1))
    consumer = bus.consumer(topic)
    read(consumer, 1)
    with pytest.raises(BusError, match="4096 bytes"):
        consumer.commit({Partition(topic, 0): Position(1, "é" * 2049)})


def test_to_seek_back_reads_the_same_again(bus: Bus) -> None:
    topic = bus.topic()
    send(bus.producer(), topic, numbered(20))
    consumer = bus.consumer(topic)
    messages = read(consumer, 20)
    for start in (0, 13, 7):
        consumer.seek(Partition(topic, 0), start)
        assert read(consumer, 20 - start) == messages[start:]


def test_on_assign_chooses_where_to_begin(bus: Bus) -> None:
    topic = bus.topic()
    send(bus.producer(), topic, numbered(9))
    gained: list[Partition] = []

    def begin_at_7(partition: Partition) -> int:
        gained.append(partition)
        return 7

    assert values(read(bus.consumer(topic, group="by-offset", on_assign=begin_at_7), 2)) == numbered(2, 7)
    assert gained == [Partition(topic, 0)]

    def seek_5(partition: Partition) -> None:
        consumer.seek(partition, 5)

    consumer = bus.consumer(topic, group="by-seek", on_assign=seek_5)
    assert values(read(consumer, 4)) == numbered(4, 5)


def test_what_could_not_be_begun_is_begun_by_the_next_poll(bus: Bus) -> None:
    topic = bus.topic()
    send(bus.producer(), topic, numbered(3))
    asked: list[Partition] = []

    def begin(partition: Partition) -> int:
        asked.append(partition)
        if len(asked) == 1:
            raise BusAwayError("it does not tell what is committed")
        return 1

    consumer = bus.consumer(topic, on_assign=begin)
    with pytest.raises(BusAwayError):
        consumer.poll(10, PATIENCE_S)
    assert list(consumer.poll(0, 0.2)) == []  # as who waits
    assert len(asked) == 1
    assert values(read(consumer, 2)) == numbered(2, 1)


def test_who_leaves_before_a_partition_could_be_begun_leaves_it_to_the_next(kafka_bus: KafkaBus) -> None:
    topic = kafka_bus.topic()
    send(kafka_bus.producer(), topic, numbered(3))

    def fail(_: Partition) -> int:
        raise BusAwayError("it does not tell what is committed")

    first = kafka_bus.consumer(topic, on_assign=fail)
    with pytest.raises(BusAwayError):
        first.poll(10, PATIENCE_S)
    first.close()
    assert values(read(kafka_bus.consumer(topic), 3)) == numbered(3)


def test_end_offset_is_that_of_the_next_message(bus: Bus) -> None:
    topic, producer = bus.topic(), bus.producer()
    consumer = bus.consumer(topic)
    for count in (3, 8):
        send(producer, topic, numbered(count))
    assert consumer.end_offset(Partition(topic, 0)) == 11
    assert [offset for _, offset, _ in read(consumer, 11)][-1] == 10


def test_large_messages_come_whole(bus: Bus) -> None:
    topic = bus.topic()
    large = [os.urandom(900_000) for _ in range(3)]  # random: nothing to compress
    send(bus.producer(), topic, large)
    assert values(read(bus.consumer(topic), 3)) == large


def test_what_is_gone_before_it_is_read_is_told(bus: Bus) -> None:
    topic = bus.topic()
    place = Partition(topic, 0)
    send(bus.producer(), topic, numbered(10))
    bus.truncate(place, 6)
    consumer = bus.consumer(topic, on_assign=lambda _: 2)
    assert values(read(consumer, 4)) == numbered(4, 6)
    assert list(consumer.skipped()) == [Skip(place, 2, 6)]
    assert list(consumer.skipped()) == []
    consumer.seek(place, 8)
    assert values(read(consumer, 2)) == numbered(2, 8)
    assert list(consumer.skipped()) == []


def test_an_offset_beyond_the_end_means_a_topic_made_anew(bus: Bus) -> None:
    topic = bus.topic()
    send(bus.producer(), topic, numbered(3))
    consumer = bus.consumer(topic, on_assign=lambda _: 5000)
    assert values(read(consumer, 3)) == numbered(3)
    assert list(consumer.skipped()) == [Skip(Partition(topic, 0), 5000, 0)]


def test_read_all_stands_beside_the_group(bus: Bus) -> None:
    topic, producer = bus.topic(3), bus.producer()
    for number in range(30):
        producer.send(topic, f"gpu-{number % 5}", b"%d" % number, 1_700_000_000_000)
    assert producer.flush(PATIENCE_S) == 0
    consumer = bus.consumer(topic)
    numbers = [int(value) for value in consumer.read_all(topic)]
    assert [[number for number in numbers if number % 5 == gpu] for gpu in range(5)] == [
        list(range(gpu, 30, 5)) for gpu in range(5)
    ]
    assert sorted(values(read(consumer, 30))) == sorted(b"%d" % number for number in range(30))
    assert list(consumer.read_all(bus.topic())) == []


def test_a_partition_that_is_written_to_meanwhile_does_not_end_the_reading_of_another() -> None:
    """It comes to its end more than once. State has one partition, but a broker that makes topics by itself
    may give it more."""
    with mock_started(brokers=2) as cluster:
        cluster.create("topic", 2)
        cluster.lead("topic", 0, broker=1)
        cluster.lead("topic", 1, broker=2)
        stranger = confluent_kafka.Producer({"bootstrap.servers": cluster.servers, "log_level": 0})
        for partition in (0, 1):
            stranger.produce("topic", b"%d" % partition, b"key", partition=partition)
        assert stranger.flush(PATIENCE_S) == 0
        cluster.slow_down(broker=2, answer_ms=300)
        with closing(KafkaConsumer(cluster.servers, "group", ["topic"])) as consumer:
            found = set()
            for value in consumer.read_all("topic"):
                found.add(value)
                if len(found) < 2:
                    time.sleep(0.03)  # to its end
                    stranger.produce("topic", b"0", b"key", partition=0)
                    assert stranger.flush(PATIENCE_S) == 0
            assert found == {b"0", b"1"}


def test_two_members_share_the_partitions(kafka_bus: KafkaBus) -> None:
    topic, producer = kafka_bus.topic(4), kafka_bus.producer()
    owned: list[set[Partition]] = [set(), set()]
    consumers: list[Consumer] = []

    def member(number: int) -> Consumer:
        def lose(partitions: Sequence[Partition]) -> None:
            consumers[number].commit(
                {partition: Position(0, f"left by {number}") for partition in partitions}
            )
            owned[number] -= set(partitions)

        return kafka_bus.consumer(topic, on_assign=owned[number].add, on_revoke=lose)

    consumers.append(member(0))
    until(consumers, lambda: len(owned[0]) == 4)
    consumers.append(member(1))
    until(consumers, lambda: len(owned[0]) == len(owned[1]) == 2)
    assert not owned[0] & owned[1]
    if kafka_bus.mock is None:  # the mock refuses commits while its group is between two generations
        for partition in owned[1]:  # on_revoke may commit, and the next owner finds it
            assert consumers[1].committed(partition) == Position(0, "left by 0")
    for number in range(40):
        producer.send(topic, f"host-{number}", b"%d" % number, 1_700_000_000_000)
    assert producer.flush(PATIENCE_S) == 0
    found: list[tuple[int, Partition, bytes]] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while len(found) < 40 and time.monotonic() < deadline_s:
        for index, consumer in enumerate(consumers):
            found += [(index, partition, value) for partition, _, value in flat(consumer.poll(100, 0.05))]
    assert sorted(int(value) for _, _, value in found) == list(range(40))
    assert all(partition in owned[index] for index, partition, _ in found)
    consumers[1].close()
    until(consumers[:1], lambda: len(owned[0]) == 4)


def test_a_member_that_was_expelled_commits_nothing(kafka_bus: KafkaBus) -> None:
    topic = kafka_bus.topic()
    place = Partition(topic, 0)
    send(kafka_bus.producer(), topic, numbered(3))
    lost: list[Partition] = []

    def lose(partitions: Sequence[Partition]) -> None:
        lost.extend(partitions)
        slow.commit({place: Position(2, "lost")})

    hasty = {"session.timeout.ms": "1500", "max.poll.interval.ms": "1500", "heartbeat.interval.ms": "200"}
    slow = KafkaConsumer(kafka_bus.servers, topic, [topic], on_revoke=lose, config=hasty)
    try:
        read(slow, 3)
        slow.commit({place: Position(1, "mine")})
        heir = kafka_bus.consumer(topic, group=topic)
        read(heir, 2)  # not polled for longer than max.poll.interval.ms, the slow one is out
        heir.commit({place: Position(3, "heir's")})
        slow.commit({place: Position(2, "late")})
        assert heir.committed(place) == Position(3, "heir's")
        until([slow, heir], lambda: lost == [place])
        assert heir.committed(place) == Position(3, "heir's")
    finally:
        slow.close()


def test_a_partition_that_stalls_is_read_anew(kafka_bus: KafkaBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wattribute.stream.kafka_consumer._STALL_S", 1.0)
    topic, producer = kafka_bus.topic(), kafka_bus.producer()
    consumer = kafka_bus.consumer(topic)
    send(producer, topic, numbered(5))
    read(consumer, 5)
    # What librdkafka does to itself once in a while, and forgets to undo.
    consumer._client.pause([TopicPartition(topic, 0)])  # type: ignore[attr-defined]
    send(producer, topic, numbered(5, 5))
    assert values(read(consumer, 5)) == numbered(5, 5)


def test_a_partition_that_has_no_leader_yet_is_asked_again(mock_kafka: MockKafka) -> None:
    mock_kafka.create("topic", 1)
    consumer = KafkaConsumer(mock_kafka.servers, "group", ["topic"])
    try:
        assert consumer.end_offset(Partition("topic", 0)) == 0
        mock_kafka.fail(LIST_OFFSETS, *[KafkaError.NOT_LEADER_FOR_PARTITION] * 2)
        assert consumer.end_offset(Partition("topic", 0)) == 0
        mock_kafka.fail(LIST_OFFSETS, *[KafkaError.TOPIC_AUTHORIZATION_FAILED] * 9)
        with pytest.raises(BusError, match="does not answer which offsets it has"):
            consumer.end_offset(Partition("topic", 0))
    finally:
        consumer.close()


class WaitingClient:
    """A client that takes all that comes within 2 s for one poll."""

    def __init__(self, client: confluent_kafka.Consumer) -> None:
        self._client = client

    def consume(self, max_messages: int, _timeout_s: float) -> list[Any]:
        return self._client.consume(max_messages, 2.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def test_a_jump_begins_behind_the_messages_of_the_same_poll(kafka_broker: KafkaBroker) -> None:
    """Of those as many were told as lost, though they had been read."""
    with closing(KafkaBus(kafka_broker.servers)) as bus:
        topic = bus.topic()
        send(bus.producer(), topic, [random.randbytes(1000) for _ in range(400)])
        few = {"queued.min.messages": "1", "fetch.message.max.bytes": "70000"}
        with closing(KafkaConsumer(bus.servers, "group", [topic], config=few)) as consumer:
            offsets: list[int] = []
            while not offsets:
                offsets += [offset for _, offset, _ in flat(consumer.poll(1, PATIENCE_S))]
            bus.truncate(Partition(topic, 0), 390)
            consumer._client = WaitingClient(consumer._client)  # type: ignore[assignment]
            while offsets[-1] < 399:
                offsets += [offset for _, offset, _ in flat(consumer.poll(1000, PATIENCE_S))]
            due = offsets.index(390)
            assert 1 < due < 390
            assert offsets == [*range(due), *range(390, 400)]
            assert list(consumer.skipped()) == [Skip(Partition(topic, 0), due, 390)]


def test_a_partition_that_was_just_added_has_an_end(kafka_broker: KafkaBroker) -> None:
    """Who first asks for it knows the topic without it."""
    with closing(KafkaBus(kafka_broker.servers)) as bus:
        topic = bus.topic(1)
        consumer = bus.consumer(topic)
        assert consumer.end_offset(Partition(topic, 0)) == 0
        admin = AdminClient({"bootstrap.servers": kafka_broker.servers})
        admin.create_partitions([NewPartitions(topic, 2)])[topic].result(PATIENCE_S)
        assert consumer.end_offset(Partition(topic, 1)) == 0


def test_a_topic_that_is_not_there_is_an_error(kafka_broker: KafkaBroker) -> None:
    consumer = KafkaConsumer(kafka_broker.servers, "group", ["no-such-topic"])
    try:
        with pytest.raises(BusError, match="no-such-topic"):
            until([consumer], lambda: False)
    finally:
        consumer.close()


def test_an_unreachable_broker_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wattribute.collector.kafka_producer._CLOSE_TIMEOUT_S", 0.1)
    producer, consumer = KafkaProducer(NOWHERE), KafkaConsumer(NOWHERE, "group", ["topic"])
    try:
        with pytest.raises(BusError, match=f"Kafka at {NOWHERE} does not answer") as caught:
            producer.check(1.0)
        assert "\n" not in str(caught.value)
        producer.send("topic", "host", b"x", 1_700_000_000_000)
        assert producer.flush(0.1) == 1
        assert list(consumer.poll(10, 0.1)) == []
    finally:
        producer.close()
        consumer.close()


def test_a_folder_that_cannot_be_used_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BusError, match=r"local log .*file/bus.sqlite: .*choose a directory") as caught:
        LocalLog(tmp_path / "file")
    assert "\n" not in str(caught.value)
