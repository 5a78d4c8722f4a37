"""Sends the sampler's records to the bus."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final

from wattribute.bus import SAMPLES, Producer
from wattribute.collector.local_log import Dropped, LocalLog
from wattribute.errors import BusAwayError
from wattribute.records import End, Gap, Record
from wattribute.wire import Encoder

_FLUSH_S: Final = 0.05  # the sampler waits this long: what is not durable by then is at the next flush
_LOG: Final = logging.getLogger(__name__)


class Publisher:
    """Sends each flush of the sampler as messages of one host.

    ``log`` is the local log, or the spool of ``producer``: it numbers the epochs, and samples that it had to
    drop are reported as gaps. While its disk is full, messages wait in memory, as many as the log queues;
    samples beyond that become a gap too. Raises BusError.
    """

    def __init__(self, producer: Producer, log: LocalLog, host: str, boot_id: str) -> None:
        self.message_count = 0
        self.unsent_messages = 0
        self.lost_messages: Counter[str] = Counter()  # by topic
        self._producer = producer
        self._log = log
        self._encoder = Encoder(host, boot_id, log.next_epoch())
        self._clock_epoch: int | None = None
        self._newest_ns = 0
        self._untaken: dict[str, Dropped] = {}  # by topic: messages that the log could not even queue
        self._is_waiting = False

    def __call__(self, records: Sequence[Record], clock_epoch: int = 0) -> None:
        """Send ``records``. A new ``clock_epoch`` (the wall clock was set) begins a new epoch."""
        if self._clock_epoch not in (None, clock_epoch):
            self._encoder = Encoder(self._encoder.host, self._encoder.boot_id, self._next_epoch())
        self._clock_epoch = clock_epoch
        before_ns, self._newest_ns = self._newest_ns, max(record.t for record in records)
        dropped = self._log.dropped()
        untaken = [] if self._is_waiting else list(self._untaken.values())
        gaps = self._gaps(dropped, "its log was full, or the bus refused them")
        gaps += self._gaps(untaken, "its log could not be written")
        try:
            # With the records: a gap applies to the GPUs that these name.
            all_taken = self._send([*records, *gaps], before_ns)
            self.unsent_messages = self._producer.flush(_FLUSH_S)
            self._is_waiting = False
            if all_taken and (dropped or untaken):
                self._log.forget_dropped(dropped)
                self._count_lost([*dropped, *untaken])
        except BusAwayError as error:
            self._wait(error)

    def end(self) -> None:
        """Send the end record: all has been sent, so windows that are still open become final."""
        if self._newest_ns:
            self([End(t=self._newest_ns)], self._clock_epoch or 0)

    def _send(self, records: Sequence[Record], before_ns: int) -> bool:
        """Queue the records; False if some could not be: ``_untaken`` counts those."""
        all_taken = True
        for topic, key, value in self._encoder.encode(records):
            try:
                self._producer.send(topic, key, value, self._newest_ns // 1_000_000)
                self.message_count += 1
            except BusAwayError as error:
                self._wait(error)
                begun = self._untaken.get(topic) or Dropped(topic, 0, 0, before_ns // 1_000_000, 0)
                self._untaken[topic] = begun._replace(
                    to_offset=begun.to_offset + 1, to_ms=self._newest_ns // 1_000_000
                )
                all_taken = False
        return all_taken

    def _gaps(self, lost: Sequence[Dropped], why: str) -> list[Gap]:
        """A gap for each time whose samples were lost. Lost units are no gap in what is known of a GPU."""
        return [
            Gap(
                t=self._newest_ns,
                from_ns=max(1, drop.from_ms * 1_000_000),
                to_ns=max(1, drop.to_ms * 1_000_000),
                reason=f"{drop.to_offset - drop.from_offset} messages of the collector were lost: {why}",
            )
            for drop in lost
            if drop.topic == SAMPLES
        ]

    def _count_lost(self, lost: Sequence[Dropped]) -> None:
        """Count what was lost, now that gaps report it."""
        for drop in lost:
            if drop.topic not in self.lost_messages:
                _LOG.warning("messages to the topic %s were lost before they were sent", drop.topic)
            self.lost_messages[drop.topic] += drop.to_offset - drop.from_offset
        self._untaken = {topic: drop for topic, drop in self._untaken.items() if drop not in lost}

    def _next_epoch(self) -> int:
        try:
            return self._log.next_epoch()
        except BusAwayError as error:
            self._wait(error)
            return self._encoder.epoch + 1

    def _wait(self, error: BusAwayError) -> None:
        """Warn once and go on: queued messages are written when there is room."""
        if not self._is_waiting:
            _LOG.warning("%s; sampling goes on, and its messages wait in memory until this is fixed", error)
        self._is_waiting = True
