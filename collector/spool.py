"""The spool: a local log in front of Kafka, which keeps messages while Kafka cannot be reached."""

from __future__ import annotations

import logging
import time
from typing import Final

from wattribute.bus import Producer
from wattribute.collector.local_log import LocalLog, Message
from wattribute.errors import BusError, RefusedError

_LOG: Final = logging.getLogger(__name__)
_CLOSE_TIMEOUT_S: Final = 5.0
_WINDOW_MAX_BYTES: Final = 8 << 20  # sent and not acknowledged: an eighth of what KafkaProducer queues
_BLOCK: Final = 64


class SpoolingProducer:
    """A ``Producer`` that writes every message to ``log`` first, then sends it by ``producer``, oldest first,
    and deletes it from the log when it is acknowledged.

    Messages that an earlier process left in ``log`` are sent first. Messages may be sent twice; their numbers
    (host, epoch, sequence) let the reader recognise that. While nothing gets through, the log grows up to its
    bound, then drops the oldest messages that are not in flight. ``log.dropped()`` lists these exactly, and
    those that ``producer`` will never take, for the collector to report as gaps.
    """

    def __init__(self, log: LocalLog, producer: Producer) -> None:
        self.log = log
        self._producer = producer
        self._trouble = ""  # the last error that was logged; "" while all is well
        self._window_max_bytes = min(_WINDOW_MAX_BYTES, log.max_bytes // 4)  # the log cannot drop these
        self._window: list[tuple[str, Message]] = []
        self._window_bytes = 0
        self._acknowledged = 0  # how many of the messages given to the producer are acknowledged
        self._sent: dict[str, int] = {}
        for topic in log.end_offsets():
            position = log.committed(topic)
            self._sent[topic] = position.next_offset if position else 0

    def send(self, topic: str, key: str, value: bytes, timestamp_ms: int) -> None:
        """Queue one message for the log."""
        self.log.send(topic, key, value, timestamp_ms)

    def flush(self, timeout_s: float) -> int:
        """Write queued messages to the log and send as many as ``timeout_s`` allows; return the number that
        is not acknowledged. With 0 it notes what has been acknowledged, and does not wait."""
        deadline_s = time.monotonic() + timeout_s
        try:
            unwritten = self.log.flush(timeout_s)
        finally:  # even with a full disk: what is acknowledged makes room
            self._send_on(deadline_s)
        unsent = sum(self.log.remaining(topic, self._sent.get(topic, 0)) for topic in self.log.end_offsets())
        return unwritten + unsent + len(self._window)

    def close(self) -> None:
        """Flush for at most 5 s, and close both; messages not acknowledged by then stay in the log."""
        try:
            self.flush(_CLOSE_TIMEOUT_S)
        finally:
            self._producer.close()
            self.log.close()

    def _send_on(self, deadline_s: float) -> None:
        while True:
            some_are_left = self._fill_window()
            if not self._window or not self._empty_window(deadline_s - time.monotonic()):
                return
            if not some_are_left or time.monotonic() >= deadline_s:
                return

    def _fill_window(self) -> bool:
        """Send as many messages as the window has room for; True if some are left."""
        for topic in self.log.end_offsets():
            while messages := self.log.read(topic, self._sent.get(topic, 0), _BLOCK):
                for message in messages:
                    if self._window_bytes >= self._window_max_bytes or not self._send_one(topic, message):
                        return True
        return False

    def _send_one(self, topic: str, message: Message) -> bool:
        """Give a message to the producer; False if it must be tried again when the window is empty."""
        try:
            self._producer.send(topic, message.key, message.value, message.timestamp_ms)
        except BusError as error:
            self._complain(error)
            if self._window:
                return False  # perhaps the producer is only full
            self.log.note_dropped(topic, [(message.offset, message.timestamp_ms)])
        else:
            self._window.append((topic, message))
            self._window_bytes += len(message.value)
        self._sent[topic] = self.log.held[topic] = message.offset + 1
        return True

    def _empty_window(self, timeout_s: float) -> bool:
        """Wait until the whole window is acknowledged, then empty it and delete it from the log; False if not
        all of it is."""
        try:
            if self._producer.flush(max(0.0, timeout_s)):
                return False
        except RefusedError as error:
            self._complain(error)
            for number in sorted(error.numbers):
                topic, message = self._window[number - self._acknowledged]
                self.log.note_dropped(topic, [(message.offset, message.timestamp_ms)])
            return False
        except BusError as error:
            self._complain(error)
            return False
        self.log.trim(self._sent)
        self._acknowledged += len(self._window)
        self._window.clear()
        self._window_bytes = 0
        self._trouble = ""
        return True

    def _complain(self, error: BusError) -> None:
        if str(error) != self._trouble:
            self._trouble = str(error)
            _LOG.warning("%s", error)
