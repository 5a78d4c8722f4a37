"""The spool: a local log in front of Kafka, so that Kafka may be away."""

from __future__ import annotations

import logging
import time
from typing import Final

from wattribute.bus import Producer
from wattribute.collector.local_log import LocalLog, Message
from wattribute.errors import BusError, RefusedError

_LOG: Final = logging.getLogger(__name__)
_CLOSE_TIMEOUT_S: Final = 5.0
_WINDOW_MAX_BYTES: Final = 8 << 20  # on their way at once: an eighth of what KafkaProducer queues
_BLOCK: Final = 64


class SpoolingProducer:
    """A ``Producer`` that writes every message to ``log`` first, then sends it by ``producer``, oldest first,
    and deletes it from the log when it is acknowledged.

    What ``log`` holds at the start, from an earlier life, goes first. Messages may be sent twice; the numbers
    in them (host, epoch, sequence) let the reader tell. While nothing gets through the log grows up to its
    bound, then drops the oldest that are not on their way: ``log.dropped()`` lists these, exactly, and those
    that ``producer`` will never take, for the collector to report as gaps.
    """

    def __init__(self, log: LocalLog, producer: Producer) -> None:
        self.log = log
        self._producer = producer
        self._trouble = ""  # what it last complained of; "" while all is well
        self._window_max_bytes = min(_WINDOW_MAX_BYTES, log.max_bytes // 4)  # which the log cannot drop
        self._window: list[tuple[str, Message]] = []
        self._window_bytes = 0
        self._acknowledged = 0  # by number, as the producer counts what it was given
        self._sent: dict[str, int] = {}
        for topic in log.end_offsets():
            position = log.committed(topic)
            self._sent[topic] = position.next_offset if position else 0

    def send(self, topic: str, key: str, value: bytes, timestamp_ms: int) -> None:
        """Queue one message for the log."""
        self.log.send(topic, key, value, timestamp_ms)

    def flush(self, timeout_s: float) -> int:
        """Write what is queued to the log, and send on what ``timeout_s`` allows; the number of messages that
        are not acknowledged. With 0 it notes what is acknowledged by now and waits for nothing."""
        deadline_s = time.monotonic() + timeout_s
        try:
            unwritten = self.log.flush(timeout_s)
        finally:  # a full disk is no reason to send nothing: what is acknowledged makes room
            self._send_on(deadline_s)
        unsent = sum(self.log.remaining(topic, self._sent.get(topic, 0)) for topic in self.log.end_offsets())
        return unwritten + unsent + len(self._window)

    def close(self) -> None:
        """Flush for at most 5 s, and close both; what is not acknowledged then stays in the log."""
        try:
            self.flush(_CLOSE_TIMEOUT_S)
        finally:
            self._producer.close()
            self.log.close()

    def _send_on(self, deadline_s: float) -> None:
        while True:
            filled = self._fill_window()
            if not self._window or not self._is_acknowledged(deadline_s - time.monotonic()):
                return
            if not filled or time.monotonic() >= deadline_s:
                return

    def _fill_window(self) -> bool:
        """Send on what the window has room for; True if something is left that it had no room for."""
        for topic in self.log.end_offsets():
            while messages := self.log.read(topic, self._sent.get(topic, 0), _BLOCK):
                for message in messages:
                    if self._window_bytes >= self._window_max_bytes or not self._is_sent(topic, message):
                        return True
        return False

    def _is_sent(self, topic: str, message: Message) -> bool:
        try:
            self._producer.send(topic, message.key, message.value, message.timestamp_ms)
        except BusError as error:
            self._complain(error)
            if self._window:
                return False  # perhaps it is only full: again when it is empty
            self.log.note_dropped(topic, [(message.offset, message.timestamp_ms)])
        else:
            self._window.append((topic, message))
            self._window_bytes += len(message.value)
        self._sent[topic] = self.log.held[topic] = message.offset + 1
        return True

    def _is_acknowledged(self, timeout_s: float) -> bool:
        """Whether the whole window is; it is empty then, and the log rid of it."""
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
