"""Sends messages to Kafka. No other module imports ``confluent_kafka`` to produce."""

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
# The broker will always refuse such a message.
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
# Errors that last until the operator acts.
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
# Retention uses the time of a message, which here is the time of its readings: the broker would delete all
# messages of last month's trace within 5 minutes (log.retention.check.interval.ms), read or not.
_TIMED_BY_ARRIVAL: Final = {"message.timestamp.type": "LogAppendTime"}
_Queued = tuple[str, str, bytes, int]


class KafkaProducer:
    """A ``Producer`` on Kafka: idempotent, ``acks=all``, order kept per key.

    A message is kept until it is acknowledged, however long Kafka is unreachable and even if librdkafka's
    client fails; ``send`` raises BusAwayError when the queue is full. If the broker refuses a message for
    good, the next ``flush`` raises RefusedError. Create it after any fork, and use it in one thread at a
    time. ``config``: settings of librdkafka that take precedence over those below.
    """

    def __init__(self, servers: str, config: Mapping[str, str] | None = None) -> None:
        self._servers = servers
        self._config: dict[str, Any] = {
            "bootstrap.servers": servers,
            "enable.idempotence": True,
            "acks": "all",
            "allow.auto.create.topics": False,  # the broker would create them with its own settings
            "compression.type": "zstd",
            "linger.ms": 5,
            # A broker refuses a whole batch, and by default a batch has up to 1 MB: of 100 messages of 100 kB
            # that had waited for Kafka, 97 were lost at a topic with a limit of 600 kB.
            "batch.size": 64 << 10,
            "message.timeout.ms": 0,  # never give up: a message sent again later would be out of order
            "partitioner": "murmur2_random",  # as Java's clients, so that all map a key to the same partition
            "queue.buffering.max.kbytes": 64 << 10,
            "reconnect.backoff.max.ms": 1000,  # the default notices the broker's return up to 10 s late
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
        """Raise BusError where no broker answers in time."""
        self._topics(timeout_s)

    def ensure_topics(self, partitions: Mapping[str, int], *, replication: int, timeout_s: float) -> None:
        """Create the missing topics, by name and number of partitions: ``wattribute.state`` is compacted; in
        the others a message's time is that of its arrival. Existing topics are not changed. Raises BusError
        where creating is not allowed; its text says how to create the topics by hand."""
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
        admin = AdminClient(self._config)  # kept in a variable: its answers are lost when it is deleted
        answers = admin.create_topics([*missing.values()], request_timeout=timeout_s)
        refused = {topic: why for topic, answer in answers.items() if (why := _refusal(answer))}
        if refused:
            raise BusError(
                f"Kafka at {self._servers}: topic {', '.join(refused)} cannot be created: "
                f"{', '.join(dict.fromkeys(refused.values()))}; allow it, or have an administrator run: "
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
        """Wait until all messages are acknowledged; return how many are not. Raises BusError where the broker
        refuses messages until somebody acts (a missing topic), RefusedError where it always refuses them."""
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
        """Flush for at most 5 s; messages not acknowledged by then are lost."""
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
                "check that it is running, and that address and credentials are right"
            ) from error
        return topics

    def _command(self, new: NewTopic) -> str:
        """The shell command that creates a topic."""
        settings = " ".join(f"--config {name}={value}" for name, value in (new.config or {}).items())
        return (
            f"kafka-topics.sh --bootstrap-server {self._servers} --create --topic {new.topic} "
            f"--partitions {new.num_partitions} --replication-factor {new.replication_factor} {settings}"
        )

    def _connect(self) -> Producer:
        try:
            return Producer(self._config)
        except KafkaException as error:
            raise UsageError(f"librdkafka refuses the settings for Kafka: {error.args[0].str()}") from error

    def _serve(self, timeout_s: float) -> None:
        with self._surviving():
            self._client.flush(timeout_s)

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        """Note that a new client is needed where the block fails. A client that has failed for good raises
        KafkaException from any call that serves its reports. If it still calls a report, as confluent-kafka
        2.16 does, that exception becomes a SystemError."""
        try:
            yield
        except (KafkaException, SystemError) as error:
            cause = error.__cause__ or error
            if isinstance(cause, KafkaException):
                self._fail(cause.args[0], "takes no messages")
            else:
                self._broken = str(cause)

    def _fail(self, error: KafkaError, how: str) -> None:
        """Note that a new client is needed, which will send the kept messages again. ``flush`` raises where
        somebody has to act first."""
        self._broken = error.str()
        if self._unacked and error.code() in _DENIALS:
            self._refusal = f"Kafka at {self._servers} {how}: {error.str()}"

    def _discard(self) -> None:
        self._generation += 1  # from now on this client's reports are ignored
        self._client.purge()
        self._serve(0)

    def _revive(self) -> None:
        """Replace a client that has failed for good, and send again all that was not acknowledged."""
        if not self._broken:
            return
        _LOG.warning(
            "the Kafka client failed: %s; a new one sends %d messages again", self._broken, len(self._unacked)
        )
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
                f"Kafka at {self._servers} does not acknowledge messages, and {len(self._unacked) - 1} are "
                "waiting; check that it can be reached and has room"
            ) from None
        except KafkaException as error:
            if error.args[0].code() != KafkaError._FATAL:
                raise BusError(
                    f"Kafka at {self._servers}: a message of {len(value)} bytes cannot be sent to {topic}: "
                    f"{error.args[0].str()}"
                ) from error
            self._broken = error.args[0].str()  # the message is kept, and the next client sends it

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
    """Why a topic was not created; empty where it was, or where another process created it meanwhile."""
    try:
        created.result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            return str(error.args[0].str())
    return ""
