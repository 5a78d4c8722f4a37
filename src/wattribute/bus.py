"""The bus, as its users see it: topics, and what a producer and a consumer promise.

Two implementations keep the promise: Kafka (``kafka://``) and the local log (``local://``).
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


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of a topic: the unit of order, of commit and of scale."""

    topic: str
    number: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """Messages of one partition, in offset order: ``values[i]`` stands at ``offsets[i]``."""

    partition: Partition
    offsets: Sequence[int]
    values: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Position:
    """A committed place: the next offset to read, and a note of at most 4 KiB that is kept with it."""

    next_offset: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Skip:
    """A jump in the reading of a partition: the message at ``from_offset``, due next, is not there, so the
    reading went on at ``to_offset``, the first there is; it lies before ``from_offset`` where a topic was
    made anew."""

    partition: Partition
    from_offset: int
    to_offset: int


class Producer(Protocol):
    """Sends messages. A message is durable once ``flush`` has returned 0 after its ``send``."""

    def send(self, topic: str, key: str, value: bytes, timestamp_ms: int) -> None:
        """Queue one message. Does not wait for the broker. Raises BusError where it can never be sent."""

    def flush(self, timeout_s: float) -> int:
        """Wait until all that was sent is durable; the number of messages that still are not. Raises
        RefusedError, once, for those that never will be."""

    def close(self) -> None:
        """Flush for a bounded time and let go of everything."""


class Consumer(Protocol):
    """Reads the partitions that its group gives it. Nothing is committed but by ``commit``."""

    def poll(self, max_messages: int, timeout_s: float) -> Sequence[Fetched]:
        """What there is, at most ``max_messages``; empty after ``timeout_s``. Returns as soon as anything
        is there. With ``max_messages`` 0 it reads and begins nothing for so long, and keeps its place in the
        group. Calls ``on_assign`` and ``on_revoke`` from within. Raises BusError; after BusAwayError, and a
        poll with ``max_messages`` 0, the next one goes on where it stopped."""

    def committed(self, partition: Partition) -> Position | None:
        """The group's committed position of a partition, None if it has none."""

    def seek(self, partition: Partition, offset: int) -> None:
        """Read on from ``offset``. Allowed within ``on_assign`` too."""

    def end_offset(self, partition: Partition) -> int:
        """The offset that the next message will get."""

    def commit(self, positions: dict[Partition, Position]) -> None:
        """Store the group's positions, durably, before returning. Raises BusError."""

    def skipped(self) -> Sequence[Skip]:
        """The jumps that ``poll`` had to make since the last call: what is in them is lost, and is to be
        reported."""

    def read_all(self, topic: str) -> Iterator[tuple[str, bytes]]:
        """Key and value of every message of a topic, from the first to the one that is now the last, in order
        per key; beside the group and its positions. Raises BusError."""

    def close(self) -> None:
        """Leave the group, without committing."""


OnAssign = Callable[[Partition], int | None]
"""Called for each partition gained; returns the offset to begin at, None for the committed one (or the
first message where nothing was committed)."""
OnRevoke = Callable[[Sequence[Partition]], None]
"""Called with the partitions about to be lost; may commit."""
