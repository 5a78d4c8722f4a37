"""The interface of the bus: its topics, and the contracts of a producer and a consumer.

There are two implementations: Kafka (``kafka://``) and the local log (``local://``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

SAMPLES: Final = "wattribute.samples"
UNITS: Final = "wattribute.units"
STATE: Final = "wattribute.state"
DEAD: Final = "wattribute.dead"
TOPICS: Final = (SAMPLES, UNITS, STATE, DEAD)
NOTE_MAX_BYTES: Final = 4096
"""The longest note of a position: what a Kafka broker takes (offset.metadata.max.bytes)."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of a topic: the unit of ordering, committing and scaling."""

    topic: str
    number: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """Messages of one partition, in offset order: ``values[i]`` has the offset ``offsets[i]``."""

    partition: Partition
    offsets: Sequence[int]
    values: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Position:
    """A committed position: the next offset to read, and a note of at most NOTE_MAX_BYTES that is stored
    with it."""

    next_offset: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Skip:
    """A jump while reading a partition: the message at ``from_offset``, the next to read, does not exist, so
    reading went on at ``to_offset``, the first that exists. That is before ``from_offset`` where the topic
    was created anew."""

    partition: Partition
    from_offset: int
    to_offset: int


class Producer(Protocol):
    """Sends messages. A message is durable once ``flush`` has returned 0 after its ``send``."""

    def send(self, topic: str, key: str, value: bytes, timestamp_ms: int) -> None:
        """Queue one message, without waiting for the broker. Raises BusError if it can never be sent."""

    def flush(self, timeout_s: float) -> int:
        """Wait until all messages sent are durable; return how many are not after ``timeout_s``. Raises
        RefusedError, once, for those that never will be."""

    def close(self) -> None:
        """Flush for a bounded time and release all resources."""


class Consumer(Protocol):
    """Reads the partitions that its group assigns to it. Only ``commit`` commits."""

    def poll(self, max_messages: int, timeout_s: float) -> Sequence[Fetched]:
        """Return up to ``max_messages`` as soon as there are any; nothing after ``timeout_s``. With
        ``max_messages`` 0, read nothing and begin no partition for ``timeout_s``, but stay in the group.
        Calls ``on_assign`` and ``on_revoke`` while it runs. Raises BusError; after BusAwayError, and after a
        poll with ``max_messages`` 0, the next poll goes on where reading stopped."""

    def committed(self, partition: Partition) -> Position | None:
        """The group's committed position of a partition, None if it has none."""

    def seek(self, partition: Partition, offset: int) -> None:
        """Read on from ``offset``. Allowed within ``on_assign`` too."""

    def end_offset(self, partition: Partition) -> int:
        """The offset that the next message will get."""

    def commit(self, positions: dict[Partition, Position]) -> None:
        """Store the group's positions, durably, before returning. Raises BusError."""

    def skipped(self) -> Sequence[Skip]:
        """The jumps that ``poll`` made since the last call. The messages skipped are lost: the caller must
        report them."""

    def read_all(self, topic: str) -> Iterator[bytes]:
        """The value of every message that a topic has now, in order per key. The group and its positions play
        no part. Raises BusError."""

    def close(self) -> None:
        """Leave the group, without committing."""


OnAssign = Callable[[Partition], int | None]
"""Called for each partition gained; returns the offset to begin at, None for the committed one (or the
first message where nothing was committed)."""
OnRevoke = Callable[[Sequence[Partition]], None]
"""Called with the partitions about to be lost; may commit."""
