"""Reads the local log as a ``Consumer`` of the bus."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

from wattribute.bus import STATE, Fetched, OnAssign, Partition, Position, Skip
from wattribute.collector.local_log import LocalLog

_PAUSE_MIN_S: Final = 0.001
_PAUSE_MAX_S: Final = 0.015  # how late a message may be seen; when idle, polling takes 0.5 % of a core
_BLOCK: Final = 1000


class LocalConsumer:
    """Reads topics of a local log, which has one group of one member: it owns every topic permanently.

    Messages that were dropped before they were read are skipped, and ``skipped`` lists them; where nothing
    was committed, that starts with the very first message.
    """

    def __init__(self, log: LocalLog, topics: Sequence[str], on_assign: OnAssign | None = None) -> None:
        self._log = log
        self._on_assign = on_assign
        self._unassigned = [Partition(topic, 0) for topic in topics]
        self._next: dict[Partition, int] = {}
        self._skipped: list[Skip] = []

    def poll(self, max_messages: int, timeout_s: float) -> Sequence[Fetched]:
        """The available messages, at most ``max_messages``; see ``wattribute.bus.Consumer``."""
        if max_messages > 0:
            self._assign()
        deadline_s = time.monotonic() + timeout_s
        pause_s = _PAUSE_MIN_S
        while True:
            fetched = self._fetch(max_messages)
            left_s = deadline_s - time.monotonic()
            if fetched or left_s <= 0:
                return fetched
            # A process gets no notice of another's write, so poll again, soon at first.
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)

    def committed(self, partition: Partition) -> Position | None:
        """The group's committed position; None if it has none."""
        return self._log.committed(partition.topic)

    def seek(self, partition: Partition, offset: int) -> None:
        """Continue reading at ``offset``."""
        self._next[partition] = offset

    def end_offset(self, partition: Partition) -> int:
        """The offset of the next message."""
        return self._log.end_offsets().get(partition.topic, 0)

    def commit(self, positions: dict[Partition, Position]) -> None:
        """Store the group's positions."""
        self._log.commit({partition.topic: position for partition, position in positions.items()})

    def skipped(self) -> Sequence[Skip]:
        """The messages skipped since the last call."""
        skipped, self._skipped = self._skipped, []
        return skipped

    def read_all(self, topic: str) -> Iterator[bytes]:
        """The value of every message of a topic, in order."""
        offset, end = 0, self._log.end_offsets().get(topic, 0)
        while offset < end and (messages := self._log.read(topic, offset, _BLOCK)):
            for message in messages:
                if message.offset < end:
                    yield message.value
            offset = messages[-1].offset + 1

    def close(self) -> None:
        """Stop reading, without committing. The log stays open."""
        self._next.clear()

    def _assign(self) -> None:
        while self._unassigned:
            partition = self._unassigned[0]
            start = self._on_assign(partition) if self._on_assign else None
            if start is not None:
                self._next[partition] = start
            elif partition not in self._next:  # and on_assign has not called seek
                position = self._log.committed(partition.topic)
                self._next[partition] = position.next_offset if position else 0
            del self._unassigned[0]

    def _fetch(self, max_messages: int) -> list[Fetched]:
        fetched: list[Fetched] = []
        ends = self._log.end_offsets()
        for partition, due in list(self._next.items()):
            end = ends.get(partition.topic, 0)
            if due == end or max_messages <= 0:
                continue
            # Beyond the end: the log was created anew since, so begin with its first message.
            messages = self._log.read(partition.topic, due if due < end else 0, max_messages)
            first = messages[0].offset if messages else end
            if first != due and partition.topic != STATE:  # compaction leaves gaps, in which nothing is lost
                self._skipped.append(Skip(partition, due, first))
            del self._next[partition]  # moves it to the end: a long backlog must not starve the others
            self._next[partition] = messages[-1].offset + 1 if messages else end
            if messages:
                max_messages -= len(messages)
                fetched.append(Fetched(partition, [m.offset for m in messages], [m.value for m in messages]))
        return fetched
