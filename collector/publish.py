"""From the sampler to the bus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from wattribute.bus import Producer
from wattribute.collector.local_log import LocalLog
from wattribute.records import End, Gap, Record
from wattribute.wire import Encoder

_FLUSH_S: Final = 0.05  # the sampler waits for it: what is not durable by then is by the next flush


class Publisher:
    """Sends each flush of the sampler as messages of one host.

    ``log`` is the local log, or the spool of ``producer``: it numbers the epochs, and what it had to drop is
    reported as gaps. Raises BusError.
    """

    def __init__(self, producer: Producer, log: LocalLog, host: str, boot_id: str) -> None:
        self.message_count = 0
        self.unsent_messages = 0
        self._producer = producer
        self._log = log
        self._encoder = Encoder(host, boot_id, log.next_epoch())
        self._clock_epoch: int | None = None
        self._newest_ns = 0

    def __call__(self, records: Sequence[Record], clock_epoch: int = 0) -> None:
        """Send ``records``. A new ``clock_epoch`` (the wall clock was set) begins a new epoch."""
        if self._clock_epoch not in (None, clock_epoch):
            self._encoder = Encoder(self._encoder.host, self._encoder.boot_id, self._log.next_epoch())
        self._clock_epoch = clock_epoch
        self._newest_ns = newest_ns = max(record.t for record in records)
        dropped = self._log.dropped()
        gaps = [
            Gap(
                t=newest_ns,
                from_ns=max(1, drop.from_ms * 1_000_000),
                to_ns=max(1, drop.to_ms * 1_000_000),
                reason=f"{drop.to_offset - drop.from_offset} messages to {drop.topic} made room unsent",
            )
            for drop in dropped
        ]
        for topic, key, value in self._encoder.encode([*gaps, *records]):
            self._producer.send(topic, key, value, newest_ns // 1_000_000)
            self.message_count += 1
        self.unsent_messages = self._producer.flush(_FLUSH_S)
        if dropped:
            self._log.forget_dropped(dropped)

    def end(self) -> None:
        """Tell that all has been sent: what is still open is final then."""
        if self._newest_ns:
            self([End(t=self._newest_ns)], self._clock_epoch or 0)
