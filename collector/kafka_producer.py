"""Sending to Kafka. Nothing else here imports ``confluent_kafka`` to produce."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from wattribute.bus import STATE
from wattribute.errors import BusAwayError, BusError, RefusedError, UsageError

_LOG: Final = logging.getLogger(__name__)
_CLOSE_TIMEOUT_S: Final = 5.0
# A broker that answers so about a message will always answer so.
_REFUSALS: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
    }
)
# What goes on until the operator does something about it.
_DENIALS: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_COMPACTED: Final = {"cleanup.policy": "compact"}
# Retention goes by the time of a message. Ours is that of the readings: of a trace of last month the broker
# would delete every message within 5 minutes (log.retention.check.interval.ms), read or not.
_TIMED_BY_ARRIVAL: Final = {"message.timestamp.type": "LogAppendTime"}
_Queued = tuple[str, str, bytes, int]


class KafkaProducer:
    """A ``Producer`` on Kafka: idempotent, ``acks=all``, order kept per key.

    A message is kept here until it is acknowledged, however long Kafka is away and whatever becomes of the
    client within; ``send`` raises BusAwayError when the queue is full. For a message that the broker refuses
    for good the next ``flush`` raises RefusedError. To be made after any fork, and used by one thread at a
    time. ``config``: settings of librdkafka that win over ours.
    """

    def __init__(self, servers: str, config: Mapping[str, str] | None = None) -> None:
        self._servers = servers
        self._config: dict[str, Any] = {
            "bootstrap.servers": servers,
            "enable.idempotence": True,
            "acks": "all",
            "allow.auto.create.topics": False,  # the broker would make them with settings of its own
            "compression.type": "zstd",
            "linger.ms": 5,
            # A broker refuses a batch as a whole, and by default one has up to 1 MB: of 100 messages that had
            # waited for Kafka, of 100 kB each, 97 were lost at a topic that takes 600 kB.
            "batch.size": 64 << 10,
            "message.timeout.ms": 0,  # never given up: what is given up would be out of order when sent again
            "partitioner": "murmur2_random",  # as Java's clients do, so that a key has one partition for all
            "queue.buffering.max.kbytes": 64 << 10,
            "reconnect.backoff.max.ms": 1000,  # the default lets us miss the broker's return for 10 s
            "logger": _LOG,
            **(config or {}),
        }
        self._unacked: dict[int, _Queued] = {}
        self._sent = 0
        self._refusal = ""
        self._refused: list[int] = []
        self._broken = ""
        self._generation = 0
        self._client = self._connect()

    def check(self, timeout_s: float) -> None:
        """Raises BusError where no broker answers in time."""
        self._topics(timeout_s)

    def ensure_topics(self, partitions: Mapping[str, int], *, replication: int, timeout_s: float) -> None:
        """Create the topics that are missing, by name and number of partitions: ``wattribute.state``
        compacted, in the others a message's time is that of its arrival. A topic that exists stays as it is.
        Raises BusError, which says how to create them by hand, where that is not allowed."""
        known = self._topics(timeout_s)
        missing = {
            topic: NewTopic(
                topic,
                num_partitions=number,
                replication_factor=replication,
                config=_COMPACTED if topic == STATE else _TIMED_BY_ARRIVAL,
            )
            for topic, number in partitions.items()
            if topic not in known
        }
        if not missing:
            return
        admin = AdminClient(self._config)  # its answers die with it: keep it
        answers = admin.create_topics([*missing.values()], request_timeout=timeout_s)
        refused = {topic: why for topic, answer in answers.items() if (why := _refusal(answer))}
        if refused:
            raise BusError(
                f"Kafka at {self._servers}: topic {', '.join(refused)} cannot be created: "
                f"{', '.join(dict.fromkeys(refused.values()))}; allow it, or let somebody who may run: "
                + " && ".join(self._command(missing[topic]) for topic in refused)
            )

    def send(self, topic: str, key: str, value: bytes, timestamp_ms: int) -> None:
        """Queue one message."""
        with self._surviving():
            self._client.poll(0)
        self._revive()
        self._unacked[self._sent] = (topic, key, value, timestamp_ms)
        try:
            self._produce(self._sent)
        except BaseException:
            del self._unacked[self._sent]
            raise
        self._sent += 1

    def flush(self, timeout_s: float) -> int:
        """Wait until all is acknowledged; how many messages are not. Raises BusError for what the broker
        refuses as long as nobody does something about it (a topic that is not there), RefusedError for what
        it refuses for good."""
        deadline_s = time.monotonic() + timeout_s
        self._revive()
        self._serve(timeout_s)
        if self._broken:
            self._revive()
            self._serve(max(0.0, deadline_s - time.monotonic()))
        if self._refusal:
            refusal, self._refusal = self._refusal, ""
            refused, self._refused = self._refused, []
            raise RefusedError(refusal, refused) if refused else BusError(refusal)
        return len(self._unacked)

    def close(self) -> None:
        """Flush for at most 5 s; what is not acknowledged then is lost."""
        try:
            self.flush(_CLOSE_TIMEOUT_S)
        finally:
            self._discard()

    def _topics(self, timeout_s: float) -> Collection[str]:
        try:
            topics: Mapping[str, Any] = self._client.list_topics(timeout=timeout_s).topics
        except KafkaException as error:
            raise BusError(
                f"Kafka at {self._servers} does not answer: {error.args[0].str()}; "
                "is it running, and are address and credentials right?"
            ) from error
        return topics

    def _command(self, new: NewTopic) -> str:
        """What creates a topic by hand."""
        settings = " ".join(f"--config {name}={value}" for name, value in (new.config or {}).items())
        return (
            f"kafka-topics.sh --bootstrap-server {self._servers} --create --topic {new.topic} "
            f"--partitions {new.num_partitions} --replication-factor {new.replication_factor} {settings}"
        )

    def _connect(self) -> Producer:
        try:
            return Producer(self._config)
        except KafkaException as error:
            raise UsageError(f"librdkafka refuses its settings: {error.args[0].str()}") from error

    def _serve(self, timeout_s: float) -> None:
        with self._surviving():
            self._client.flush(timeout_s)

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        """A client that has failed for good raises KafkaException out of whatever serves its reports. What
        comes of that exception when it calls a report nevertheless, as confluent-kafka 2.16 does, is a
        SystemError. Either way a new client is due."""
        try:
            yield
        except (KafkaException, SystemError) as error:
            cause = error.__cause__ or error
            if isinstance(cause, KafkaException):
                self._fail(cause.args[0], "takes no messages")
            else:
                self._broken = str(cause)

    def _fail(self, error: KafkaError, how: str) -> None:
        """A new client is due, and what is kept goes with that. Who waits is told where somebody has to do
        something first."""
        self._broken = error.str()
        if self._unacked and error.code() in _DENIALS:
            self._refusal = f"Kafka at {self._servers} {how}: {error.str()}"

    def _discard(self) -> None:
        self._generation += 1  # from here on its reports count no more
        self._client.purge()
        self._serve(0)

    def _revive(self) -> None:
        """A new client for one that has failed for good, and everything again that it did not get through."""
        if not self._broken:
            return
        _LOG.warning("starting a new Kafka client: %s; %d messages again", self._broken, len(self._unacked))
        self._discard()
        self._broken = ""
        self._client = self._connect()
        for number in self._unacked:
            self._produce(number)

    def _produce(self, number: int) -> None:
        topic, key, value, timestamp_ms = self._unacked[number]
        report = partial(self._on_delivery, self._generation, number)
        try:
            self._client.produce(topic, value, key.encode(), timestamp=timestamp_ms, on_delivery=report)
        except BufferError:
            raise BusAwayError(
                f"Kafka at {self._servers} takes nothing more: {len(self._unacked) - 1} messages wait to be "
                "acknowledged; is it reachable and has it room?"
            ) from None
        except KafkaException as error:
            if error.args[0].code() != KafkaError._FATAL:
                raise BusError(
                    f"Kafka at {self._servers}: a message of {len(value)} bytes cannot be sent to {topic}: "
                    f"{error.args[0].str()}"
                ) from error
            self._broken = error.args[0].str()  # the message is kept, and goes with the next client

    def _on_delivery(self, generation: int, number: int, error: KafkaError | None, _: Message) -> None:
        if generation != self._generation:
            return
        if error is None:
            del self._unacked[number]
        elif error.code() in _REFUSALS:
            topic, _key, value, _ms = self._unacked.pop(number)
            self._refused.append(number)
            self._refusal = (
                f"Kafka at {self._servers} refuses a message of {len(value)} bytes to {topic}: {error.str()}"
            )
        else:
            self._fail(error, f"does not take messages to {self._unacked[number][0]}")


def _refusal(created: Future[None]) -> str:
    """Why a topic was not created; empty where it was, or another made it meanwhile."""
    try:
        created.result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            return str(error.args[0].str())
    return ""
