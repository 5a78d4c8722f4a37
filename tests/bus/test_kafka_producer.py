"""What the Kafka producer does when things go wrong."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewTopic

from tests.bus.mock_kafka import PRODUCE, MockKafka
from tests.kafka_broker import KafkaBroker
from wattribute.bus import DEAD, SAMPLES, STATE, TOPICS, UNITS
from wattribute.collector.kafka_producer import KafkaProducer
from wattribute.errors import BusError, RefusedError
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
        return list(consumer.read_all(topic))
    finally:
        consumer.close()


def test_a_client_that_failed_for_good_is_replaced_and_nothing_is_lost(
    mock_kafka: MockKafka, producer: KafkaProducer
) -> None:
    producer.send("topic", "host", b"before", T_MS)
    assert producer.flush(PATIENCE_S) == 0
    # An idempotent producer cannot go on after this one: librdkafka calls it fatal.
    mock_kafka.fail(PRODUCE, *[KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER] * 3)
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
    mock_kafka.fail(PRODUCE, KafkaError.MSG_SIZE_TOO_LARGE)
    producer.send("topic", "host", b"refused", T_MS)
    with pytest.raises(RefusedError, match="refuses a message of 7 bytes to topic") as raised:
        producer.flush(PATIENCE_S)
    assert raised.value.numbers == [0]
    producer.send("topic", "host", b"taken", T_MS)
    assert producer.flush(PATIENCE_S) == 0
    assert everything(mock_kafka.servers) == [b"taken"]


def test_a_message_over_the_limit_is_refused_at_once(producer: KafkaProducer) -> None:
    with pytest.raises(BusError, match="2000000 bytes cannot be sent to topic"):
        producer.send("topic", "host", bytes(2_000_000), T_MS)
    assert producer.flush(PATIENCE_S) == 0


def test_messages_that_fit_are_taken_however_many_wait(kafka_broker: KafkaBroker) -> None:
    """Together they are more than the topic takes at once."""
    admin = AdminClient({"bootstrap.servers": kafka_broker.servers})
    config = {"max.message.bytes": "200000", "message.timestamp.type": "LogAppendTime"}
    admin.create_topics([NewTopic("small", 1, 1, config=config)])["small"].result(PATIENCE_S)
    producer = KafkaProducer(kafka_broker.servers, {"linger.ms": "500"})
    sent = [random.Random(number).randbytes(150_000 if number % 5 else 500) for number in range(20)]
    for value in sent:
        producer.send("small", "host", value, T_MS)
    assert producer.flush(PATIENCE_S) == 0
    producer.close()
    assert list(dict.fromkeys(everything(kafka_broker.servers, "small"))) == sent


def test_a_full_queue_is_an_error(mock_kafka: MockKafka) -> None:
    mock_kafka.create("topic", 1)
    producer = KafkaProducer(mock_kafka.servers, {"queue.buffering.max.messages": "3"})
    mock_kafka.set_down()
    for _ in range(3):
        producer.send("topic", "host", b"x", T_MS)
    with pytest.raises(BusError, match="does not acknowledge messages, and 3 are waiting"):
        producer.send("topic", "host", b"x", T_MS)
    mock_kafka.set_up()
    assert producer.flush(PATIENCE_S) == 0
    producer.close()


def test_topics_are_made_where_they_are_missing(kafka_broker: KafkaBroker) -> None:
    producer = KafkaProducer(kafka_broker.servers)
    for partitions in (3, 5):  # the second time they are there, and stay as they are
        producer.ensure_topics(dict.fromkeys(TOPICS, partitions), replication=1, timeout_s=PATIENCE_S)
    with pytest.raises(BusError, match=r"topic too-much cannot be created: .*replication factor"):
        producer.ensure_topics({"too-much": 1}, replication=3, timeout_s=PATIENCE_S)
    admin = AdminClient({"bootstrap.servers": kafka_broker.servers})
    found = admin.list_topics().topics
    assert {topic: len(found[topic].partitions) for topic in TOPICS} == dict.fromkeys(TOPICS, 3)
    described = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in TOPICS])
    settings = {place.name: answer.result(timeout=PATIENCE_S) for place, answer in described.items()}
    assert {
        topic: (config["cleanup.policy"].value, config["message.timestamp.type"].value)
        for topic, config in settings.items()
    } == {
        **dict.fromkeys((SAMPLES, UNITS, DEAD), ("delete", "LogAppendTime")),
        STATE: ("compact", "CreateTime"),
    }
    producer.close()


def test_who_may_not_make_topics_is_told_how_somebody_else_does(kafka_broker: KafkaBroker) -> None:
    guest = {"sasl.username": "guest", "sasl.password": "guest", "sasl.mechanism": "PLAIN"}
    producer = KafkaProducer(kafka_broker.guarded_servers, guest | {"security.protocol": "SASL_PLAINTEXT"})
    with pytest.raises(BusError) as caught:
        producer.ensure_topics({"mine": 3, STATE: 1}, replication=2, timeout_s=PATIENCE_S)
    said = str(caught.value)
    assert f"topic mine, {STATE} cannot be created: " in said
    create = f"kafka-topics.sh --bootstrap-server {kafka_broker.guarded_servers} --create --topic"
    assert f"{create} mine --partitions 3 --replication-factor 2 --config message.timestamp.type=Log" in said
    assert said.endswith(
        f"{create} {STATE} --partitions 1 --replication-factor 2 --config cleanup.policy=compact"
    )
    assert "\n" not in said
    producer.close()


def test_who_may_read_a_topic_and_not_send_is_told_so(
    kafka_broker: KafkaBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker gives such a one no producer's number, which is not of a message."""
    admin = AdminClient({"bootstrap.servers": kafka_broker.servers})
    admin.create_topics([NewTopic("read-only", 1, 1)])["read-only"].result(PATIENCE_S)
    may_read = AclBinding(
        ResourceType.TOPIC, "read-only", ResourcePatternType.LITERAL,
        "User:guest", "*", AclOperation.READ, AclPermissionType.ALLOW,
    )  # fmt: skip
    admin.create_acls([may_read])[may_read].result(PATIENCE_S)
    guest = {"sasl.username": "guest", "sasl.password": "guest", "sasl.mechanism": "PLAIN"}
    producer = KafkaProducer(kafka_broker.guarded_servers, guest | {"security.protocol": "SASL_PLAINTEXT"})
    for _ in range(2):  # until somebody allows it
        producer.send("read-only", "host", b"x", T_MS)
        with pytest.raises(BusError, match="authorization failed"):  # of the topic, if that is told first
            producer.flush(3.0)
    assert "exception set" not in caplog.text
    producer._discard()


def test_what_was_read_long_ago_outlives_the_retention(kafka_broker: KafkaBroker) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_broker.servers})
    admin.create_topics([NewTopic("made-by-the-broker", 1, 1)])["made-by-the-broker"].result(PATIENCE_S)
    producer = KafkaProducer(kafka_broker.servers)
    producer.ensure_topics({"made-by-us": 1}, replication=1, timeout_s=PATIENCE_S)
    consumer = Consumer({"bootstrap.servers": kafka_broker.servers, "group.id": "watcher"})

    def first_offset(topic: str) -> int:
        first, _ = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=PATIENCE_S, cached=False)
        return int(first)

    deadline_s = time.monotonic() + PATIENCE_S
    for sent in (1, 2):  # the second time, the broker has been through all its topics since the first
        producer.send("made-by-us", "host", b"%d" % sent, T_MS)
        producer.send("made-by-the-broker", "host", b"%d" % sent, T_MS)
        assert producer.flush(PATIENCE_S) == 0
        while first_offset("made-by-the-broker") < sent:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
    assert first_offset("made-by-us") == 0
    assert everything(kafka_broker.servers, "made-by-us") == [b"1", b"2"]
    consumer.close()
    producer.close()


def test_a_topic_that_is_not_there_is_an_error_until_it_is(kafka_broker: KafkaBroker) -> None:
    # The broker would make it by itself, as most do, with settings that are not ours.
    producer = KafkaProducer(kafka_broker.servers, {"topic.metadata.propagation.max.ms": "0"})
    producer.send("made-later", "host", b"patient", T_MS)
    with pytest.raises(BusError, match="does not take messages to made-later"):
        producer.flush(PATIENCE_S)
    producer.ensure_topics({"made-later": 2}, replication=1, timeout_s=PATIENCE_S)
    assert producer.flush(PATIENCE_S) == 0
    assert everything(kafka_broker.servers, "made-later") == [b"patient"]
    admin = AdminClient({"bootstrap.servers": kafka_broker.servers})
    assert len(admin.list_topics().topics["made-later"].partitions) == 2
    producer.close()


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_each_compression_can_be_read(
    mock_kafka: MockKafka, compression: str, producer: KafkaProducer
) -> None:
    squeezing = KafkaProducer(mock_kafka.servers, {"compression.type": compression})
    squeezing.send("topic", "host", bytes(10_000), T_MS)
    assert squeezing.flush(PATIENCE_S) == 0
    squeezing.close()
    assert everything(mock_kafka.servers) == [bytes(10_000)]
