"""What the Kafka producer does when things go wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource

from tests.bus.mock_kafka import MockKafka
from tests.kafka_broker import KafkaBroker
from wattribute.bus import STATE
from wattribute.collector.kafka_producer import KafkaProducer
from wattribute.errors import BusError
from wattribute.stream.kafka_consumer import KafkaConsumer

T_MS = 1_700_000_000_000
PATIENCE_S = 30.0


@pytest.fixture
def producer(mock_kafka: MockKafka) -> Iterator[KafkaProducer]:
    mock_kafka.create("topic", 1)
    made = KafkaProducer(mock_kafka.servers)
    yield made
    made.close()


def everything(servers: str, topic: str = "topic") -> list[bytes]:
    consumer = KafkaConsumer(servers, "reader", [topic])
    try:
        return [value for _, value in consumer.read_all(topic)]
    finally:
        consumer.close()


def test_acknowledged_messages_are_counted(producer: KafkaProducer) -> None:
    for number in range(10):
        producer.send("topic", "host", b"%d" % number, T_MS)
    assert producer.flush(PATIENCE_S) == 0
    assert (producer.acked, producer.failed) == (10, 0)


def test_a_client_that_failed_for_good_is_replaced_and_nothing_is_lost(
    mock_kafka: MockKafka, producer: KafkaProducer
) -> None:
    producer.send("topic", "host", b"before", T_MS)
    assert producer.flush(PATIENCE_S) == 0
    # An idempotent producer cannot go on after this one: librdkafka calls it fatal.
    mock_kafka.fail_produce(*[KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER] * 3)
    sent = [b"%d" % number for number in range(50)]
    for value in sent:
        producer.send("topic", "host", value, T_MS)
    deadline_s = time.monotonic() + PATIENCE_S
    while producer.flush(1.0):
        assert time.monotonic() < deadline_s
    found = everything(mock_kafka.servers)
    assert list(dict.fromkeys(found)) == [
        b"before",
        *sent,
    ]  # in order; what was sent twice may be there twice
    assert (producer.acked, producer.failed) == (51, 0)
    assert producer._generation > 0


def test_what_was_sent_while_the_broker_was_away_arrives_in_order(
    mock_kafka: MockKafka, producer: KafkaProducer
) -> None:
    mock_kafka.set_down()
    sent = [b"%d" % number for number in range(20)]
    for value in sent:
        producer.send("topic", "host", value, T_MS)
    assert producer.flush(0.3) == 20
    mock_kafka.set_up()
    assert producer.flush(PATIENCE_S) == 0
    assert list(dict.fromkeys(everything(mock_kafka.servers))) == sent


def test_a_message_that_the_broker_refuses_is_an_error_once(
    mock_kafka: MockKafka, producer: KafkaProducer
) -> None:
    mock_kafka.fail_produce(KafkaError.MSG_SIZE_TOO_LARGE)
    producer.send("topic", "host", b"refused", T_MS)
    with pytest.raises(BusError, match="refuses a message of 7 bytes to topic"):
        producer.flush(PATIENCE_S)
    producer.send("topic", "host", b"taken", T_MS)
    assert producer.flush(PATIENCE_S) == 0
    assert (producer.acked, producer.failed) == (1, 1)
    assert everything(mock_kafka.servers) == [b"taken"]


def test_a_message_over_the_limit_is_refused_at_once(producer: KafkaProducer) -> None:
    with pytest.raises(BusError, match="2000000 bytes cannot be sent to topic"):
        producer.send("topic", "host", bytes(2_000_000), T_MS)
    assert producer.flush(PATIENCE_S) == 0


def test_a_full_queue_is_an_error(mock_kafka: MockKafka) -> None:
    producer = KafkaProducer(mock_kafka.servers, {"queue.buffering.max.messages": "3"})
    mock_kafka.set_down()
    for _ in range(3):
        producer.send("topic", "host", b"x", T_MS)
    with pytest.raises(BusError, match="takes nothing more: 3 messages wait"):
        producer.send("topic", "host", b"x", T_MS)
    mock_kafka.set_up()
    assert producer.flush(PATIENCE_S) == 0
    producer.close()


def test_topics_are_made_where_they_are_missing(kafka_broker: KafkaBroker) -> None:
    producer = KafkaProducer(kafka_broker.servers)
    for partitions in (3, 5):  # the second time they are there, and stay as they are
        producer.ensure_topics({"made": partitions, STATE: partitions}, replication=1, timeout_s=PATIENCE_S)
    with pytest.raises(BusError, match=r"topic too-much cannot be created: .*replication factor"):
        producer.ensure_topics({"too-much": 1}, replication=3, timeout_s=PATIENCE_S)
    admin = AdminClient({"bootstrap.servers": kafka_broker.servers})
    assert {topic: len(admin.list_topics().topics[topic].partitions) for topic in ("made", STATE)} == {
        "made": 3,
        STATE: 3,
    }
    policies = [
        described.result(timeout=PATIENCE_S)["cleanup.policy"].value
        for topic in ("made", STATE)
        for described in admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
    ]
    assert policies == ["delete", "compact"]
    producer.close()


def test_a_topic_that_is_not_there_is_an_error_until_it_is(kafka_broker: KafkaBroker) -> None:
    producer = KafkaProducer(kafka_broker.servers, {"topic.metadata.propagation.max.ms": "0"})
    producer.send("made-later", "host", b"patient", T_MS)
    with pytest.raises(BusError, match="does not take messages to made-later"):
        producer.flush(PATIENCE_S)
    producer.ensure_topics({"made-later": 1}, replication=1, timeout_s=PATIENCE_S)
    assert producer.flush(PATIENCE_S) == 0
    assert everything(kafka_broker.servers, "made-later") == [b"patient"]
    producer.close()


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_each_compression_can_be_read(
    mock_kafka: MockKafka, compression: str, producer: KafkaProducer
) -> None:
    squeezing = KafkaProducer(mock_kafka.servers, compression=compression)  # type: ignore[arg-type]
    squeezing.send("topic", "host", bytes(10_000), T_MS)
    assert squeezing.flush(PATIENCE_S) == 0
    squeezing.close()
    assert everything(mock_kafka.servers) == [bytes(10_000)]
