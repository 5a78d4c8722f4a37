"""Read from Kafka. No other module imports ``confluent_kafka`` to consume."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from wattribute.bus import NOTE_MAX_BYTES, Fetched, OnAssign, OnRevoke, Partition, Position, Skip
from wattribute.errors import BusAwayError, BusError, UsageError

_LOG: Final = logging.getLogger(__name__)
_REQUEST_TIMEOUT_S: Final = 10.0
_COMMIT_TRIES: Final = 50
_PAUSE_S: Final = 0.1
_STALL_S: Final = 5.0
_LEAVE_S: Final = 2.0
# The group has given our partitions to another member, whether or not we have heard of it yet.
_EXPELLED: Final = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
    }
)
# Only the operator can change these.
_HOPELESS: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
    }
)
# These pass. A topic that was just made, or whose broker is leaving, has no leader for a moment: a stream
# that was given its partitions in that moment ended (seen with Kafka 4, two seconds after the topic was
# made). So did one with a partition that had just been added: another member of the group may know of it
# minutes earlier.
_MOVING: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_PARTITION,
    }
)
_Answer = TypeVar("_Answer")


class KafkaConsumer:
    """A ``Consumer`` of ``topics`` on Kafka, as a member of ``group`` (cooperative-sticky).

    Offsets that Kafka no longer has are skipped, never silently: reading goes on at the first message there
    is, and ``skipped`` reports the jump. Create it after any fork, and use it from one thread. ``config``:
    settings of librdkafka that win over ours.
    """

    def __init__(
        self,
        servers: str,
        group: str,
        topics: Sequence[str],
        on_assign: OnAssign | None = None,
        on_revoke: OnRevoke | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self._servers = servers
        self._config: dict[str, Any] = {
            "bootstrap.servers": servers,
            "group.id": group,
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",  # so that we learn of offsets that are gone
            "fetch.wait.max.ms": 10,
            "fetch.queue.backoff.ms": 5,  # by default a full queue stops the fetching for a whole second
            "reconnect.backoff.max.ms": 1000,  # the default lets us miss the broker's return for 10 s
            "logger": _LOG,
            **(config or {}),
        }
        self._on_assign = on_assign
        self._on_revoke = on_revoke
        self._next: dict[Partition, int] = {}
        """The next offset due of each partition that is ours."""
        self._unbegun: list[Partition] = []
        """Partitions that are ours too, but not read yet: where to begin has still to be asked."""
        self._errors: list[Any] = []
        """Errors still to be handled: the messages before them are handed out first."""
        self._sought: dict[Partition, int] = {}
        self._skipped: list[Skip] = []
        self._looked: dict[Partition, int] = {}
        self._look_again_s = time.monotonic() + _STALL_S
        self._closing = self._revoking = False
        self._paused = False
        self._committing: threading.Thread | None = None
        try:
            self._client = Consumer(self._config)
        except KafkaException as error:
            raise UsageError(f"librdkafka refuses its settings: {_reason(error).str()}") from error
        self._client.subscribe(
            list(topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    def poll(self, max_messages: int, timeout_s: float) -> Sequence[Fetched]:
        """Return what there is, at most ``max_messages``; see ``wattribute.bus.Consumer``."""
        deadline_s = time.monotonic() + timeout_s
        if max_messages <= 0:
            self._pause(deadline_s)
            return []
        self._resume()
        while True:
            while self._errors:
                self._on_error(self._errors[0])
                del self._errors[0]
            self._begin()
            self._restart_stalled()
            left_s = max(0.0, deadline_s - time.monotonic())
            # consume(n, timeout) waits the whole timeout unless n messages come. So wait for the first one
            # only, and not for long, because partitions assigned meanwhile have to begin.
            first = self._client.poll(min(left_s, _PAUSE_S))
            if first is not None:
                rest = self._client.consume(max_messages - 1, 0) if max_messages > 1 else []
                if fetched := self._grouped([first, *rest]):
                    return fetched
            if time.monotonic() >= deadline_s:
                return []

    def committed(self, partition: Partition) -> Position | None:
        """The group's committed position, None if it has none. Raises BusError after 10 s."""

        def ask() -> TopicPartition:
            (place,) = self._client.committed([_place(partition)], timeout=_REQUEST_TIMEOUT_S)
            if place.error is not None:
                raise KafkaException(place.error)
            return place

        place = self._asked("does not answer which offset is committed", ask)
        return Position(place.offset, place.metadata or "") if place.offset >= 0 else None

    def seek(self, partition: Partition, offset: int) -> None:
        """Continue reading at ``offset``; may be called within ``on_assign`` too."""
        if partition not in self._next:
            self._sought[partition] = offset
            return
        with self._failing("cannot be read"):
            # Consumer.seek fails on a partition whose last fetch failed; assigning it anew always works.
            self._client.incremental_unassign([_place(partition)])
            self._client.incremental_assign([_place(partition, offset)])
        self._next[partition] = offset

    def end_offset(self, partition: Partition) -> int:
        """The offset that the next message will get. Raises BusError after 10 s."""
        return self._range(partition)[1]

    def commit(self, positions: dict[Partition, Position]) -> None:
        """Store the group's positions. Partitions that are no longer ours are left out: their new owner's
        positions count."""
        for partition, position in positions.items():
            if len(position.note.encode()) > NOTE_MAX_BYTES:
                raise BusError(f"the note to commit for {partition.topic} is over {NOTE_MAX_BYTES} bytes")
        places = [
            TopicPartition(partition.topic, partition.number, position.next_offset, position.note)
            for partition, position in positions.items()
            if partition in self._next
        ]
        if not places:
            return
        with self._failing("does not accept the commit"):
            for _ in range(_COMMIT_TRIES):
                error = self._commit(places)
                if error is None or error.code() in _EXPELLED:
                    return
                if error.code() != KafkaError.REBALANCE_IN_PROGRESS:
                    break
                time.sleep(_PAUSE_S)  # the group is between two generations, for a moment
            raise KafkaException(error)

    def skipped(self) -> Sequence[Skip]:
        """The jumps since the last call."""
        skipped, self._skipped = self._skipped, []
        return skipped

    def read_all(self, topic: str) -> Iterator[bytes]:
        """Yield the value of every message of a topic up to its present end, in order per key. Raises
        BusError if nothing comes for 10 s."""
        with self._failing("cannot be read"):
            client = Consumer(
                {
                    **self._config,
                    "group.id": f"{self._config['group.id']}-reader",
                    "enable.partition.eof": True,
                }
            )
            try:
                partitions = client.list_topics(topic, timeout=_REQUEST_TIMEOUT_S).topics[topic].partitions
                client.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
                at_end: set[int | None] = set()  # a partition written to meanwhile ends again
                while len(at_end) < len(partitions):
                    message = client.poll(_REQUEST_TIMEOUT_S)
                    if message is None:
                        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
                    error = message.error()
                    if error is None:
                        if (value := message.value()) is not None:  # else a tombstone
                            yield value
                    elif error.code() == KafkaError._PARTITION_EOF:
                        at_end.add(message.partition())
                    elif not error.retriable():
                        raise KafkaException(error)
            finally:
                client.close()

    def close(self) -> None:
        """Leave the group, without committing and without calling ``on_revoke``. Do not wait for a broker
        that has not answered a commit yet: it gives our partitions away when it no longer hears from us."""
        if self._closing:
            return
        self._closing = True
        if self._committing is not None and self._committing.is_alive():
            return
        # To give partitions back within the client's close may hang for ever, and all threads with it
        # (librdkafka's issue 4884; seen with 2.16, once in thousands of times). So give them back before.
        self._client.unsubscribe()
        until_s = time.monotonic() + _LEAVE_S
        self._client.poll(0)
        while (self._unbegun or self._client.assignment()) and time.monotonic() < until_s:
            self._client.poll(_PAUSE_S)
        self._client.close()

    def _grouped(self, messages: list[Any]) -> list[Fetched]:  # Message, whose fields may be None in its stub
        found: dict[tuple[str, int], tuple[list[int], list[bytes]]] = {}
        for message in messages:
            if message.error() is not None:
                # Messages before the error are handed out first: otherwise 2,349 messages were reported lost
                # where 2,122 were.
                self._errors.append(message)
                continue
            place = (message.topic(), message.partition())
            lists = found.get(place)
            if lists is None:
                lists = found[place] = ([], [])
            lists[0].append(message.offset())
            lists[1].append(message.value() or b"")
        fetched = []
        for (topic, number), (offsets, values) in found.items():
            partition = Partition(topic, number)
            if partition in self._next:  # else it was revoked while messages were on their way
                self._next[partition] = offsets[-1] + 1
                fetched.append(Fetched(partition, offsets, values))
        return fetched

    def _pause(self, deadline_s: float) -> None:
        """Read nothing until the deadline. A member that does not poll for 300 s loses its partitions."""
        if not self._paused:
            self._paused = True
            self._errors.clear()  # errors come again
            self._client.pause([_place(partition) for partition in self._next])
        while (left_s := deadline_s - time.monotonic()) > 0:
            message = self._client.poll(left_s)
            error = message.error() if message is not None else None
            if error is not None and error.code() != KafkaError._AUTO_OFFSET_RESET:
                self._on_error(message)  # a reset comes again, and so does a message that comes nevertheless

    def _resume(self) -> None:
        if not self._paused:
            return
        self._paused = False
        self._looked.clear()
        self._client.resume([_place(partition) for partition in self._next])
        for partition, due in self._next.items():
            self.seek(partition, due)

    def _restart_stalled(self) -> None:
        # In a rebalance librdkafka pauses the partitions that we keep, and once in a while never resumes them
        # (seen with 2.16; its issue 5591). The only sign is that the broker has messages that do not come.
        if time.monotonic() < self._look_again_s:
            return
        for partition, due in self._next.items():
            try:
                if self._looked.get(partition) != due or self._offsets(partition)[1] <= due:
                    continue
            except KafkaException:
                break  # the broker is away: that is no stall, and the others must not wait for it
            _LOG.warning(
                "%s [%d]: no messages come from offset %d on, though Kafka has some: fetching them again",
                partition.topic,
                partition.number,
                due,
            )
            self._client.resume([_place(partition)])
            self.seek(partition, due)
        self._looked = dict(self._next)
        self._look_again_s = time.monotonic() + _STALL_S

    def _on_error(self, message: Any) -> None:
        error, partition = message.error(), Partition(message.topic() or "", message.partition() or 0)
        if error.code() == KafkaError._AUTO_OFFSET_RESET and partition in self._next:
            first, _end = self._range(partition)
            self._skipped.append(Skip(partition, self._next[partition], first))
            self.seek(partition, first)
        elif error.code() in _HOPELESS or error.fatal():
            raise BusError(
                f"Kafka at {self._servers}, topic {partition.topic}: {error.str()}; "
                "check that the topic exists, and the user's credentials and rights"
            )
        else:
            _LOG.warning("Kafka at %s: %s", self._servers, error.str())  # the client recovers by itself

    def _assigned(self, client: Consumer, places: list[TopicPartition]) -> None:
        if self._closing:
            return
        self._unbegun += [Partition(place.topic, place.partition) for place in places]
        client.incremental_assign([])  # librdkafka waits for a call, else it begins anywhere

    def _begin(self) -> None:
        """Begin to read what was assigned. If the broker does not answer, the next poll continues here."""
        while self._unbegun:
            partition = self._unbegun[0]
            start = self._on_assign(partition) if self._on_assign else None
            sought = self._sought.pop(partition, None)
            if start is None:
                start = sought
            if start is None:
                position = self.committed(partition)
                start = position.next_offset if position else self._range(partition)[0]
            with self._failing("cannot be read"):
                self._client.incremental_assign([_place(partition, start)])
            self._next[partition] = start
            del self._unbegun[0]

    def _revoked(self, client: Consumer, places: list[TopicPartition]) -> None:
        partitions = [Partition(place.topic, place.partition) for place in places]
        if self._on_revoke and not self._closing:
            self._revoking = True
            try:
                self._on_revoke(partitions)
            finally:
                self._revoking = False
        for partition in partitions:
            self._next.pop(partition, None)
        begun = [
            place
            for place, partition in zip(places, partitions, strict=True)
            if partition not in self._unbegun
        ]
        self._unbegun = [partition for partition in self._unbegun if partition not in partitions]
        client.incremental_unassign(begun)

    def _lost(self, client: Consumer, places: list[TopicPartition]) -> None:
        for place in places:  # before on_revoke: what is lost is not ours to commit
            self._next.pop(Partition(place.topic, place.partition), None)
        self._revoked(client, places)

    def _range(self, partition: Partition) -> tuple[int, int]:
        return self._asked("does not answer which offsets it has", partial(self._offsets, partition))

    def _offsets(self, partition: Partition) -> tuple[int, int]:
        first, end = self._client.get_watermark_offsets(
            _place(partition), timeout=_REQUEST_TIMEOUT_S, cached=False
        )
        return int(first), int(end)

    def _asked(self, what: str, ask: Callable[[], _Answer]) -> _Answer:
        """Return the answer of the broker that has the partition; while that is changing, ask again, for 10
        s."""
        until_s = time.monotonic() + _REQUEST_TIMEOUT_S
        with self._failing(what):
            while True:
                try:
                    return ask()
                except KafkaException as error:
                    if _reason(error).code() not in _MOVING or time.monotonic() >= until_s:
                        raise
                time.sleep(_PAUSE_S)
                self._client.list_topics(timeout=_REQUEST_TIMEOUT_S)  # else the client keeps its old metadata

    def _commit(self, places: list[TopicPartition]) -> KafkaError | None:
        """Commit in a thread, and wait for that with a timeout: librdkafka waits without end for a broker
        that does not answer. Not within ``on_revoke``: there a commit from another thread never returns."""
        if self._revoking:
            return self._commit_and_wait(places)
        if self._committing is not None:  # a commit still under way must not overtake this one
            self._committing.join(_REQUEST_TIMEOUT_S)
            if self._committing.is_alive():
                return KafkaError(KafkaError._TIMED_OUT)
        answers: list[KafkaError | None] = []
        self._committing = threading.Thread(
            target=lambda: answers.append(self._commit_and_wait(places)), name="commit", daemon=True
        )
        self._committing.start()
        self._committing.join(_REQUEST_TIMEOUT_S)
        return answers[0] if answers else KafkaError(KafkaError._TIMED_OUT)

    def _commit_and_wait(self, places: list[TopicPartition]) -> KafkaError | None:
        try:
            stored = self._client.commit(offsets=places, asynchronous=False) or []
        except KafkaException as error:
            return _reason(error)
        return next((place.error for place in stored if place.error is not None), None)

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            reason = _reason(error)
            kind = BusError if reason.code() in _HOPELESS or reason.fatal() else BusAwayError
            raise kind(
                f"Kafka at {self._servers} {what}: {reason.str()}; "
                "is it running, and are address and credentials right?"
            ) from error


def _place(partition: Partition, offset: int = 0) -> TopicPartition:
    return TopicPartition(partition.topic, partition.number, offset)


def _reason(error: KafkaException) -> KafkaError:
    reason: KafkaError = error.args[0]
    return reason
