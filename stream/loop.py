"""The one loop: poll, decode, window, attribute, write, commit.

Offsets are committed after the store has acknowledged. A restart reads from an hour before the committed
offset to rebuild its state, and writes what comes after that offset. Rows are a function of the messages, so
what was already written is written again, the same.

While the store or the bus is away the loop waits: it keeps its place in the group, reads nothing, and repeats
the step that failed until it works.
"""

from __future__ import annotations

import bisect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import orjson

from wattribute.bus import DEAD, SAMPLES, STATE, Consumer, Fetched, Partition, Position, Producer
from wattribute.errors import BusAwayError, StoreAwayError
from wattribute.sinks.contract import Sink
from wattribute.stream.engine import Engine
from wattribute.stream.memory import keep_memory
from wattribute.stream.outage import Outage
from wattribute.stream.write import Unwritten

# The finest sum covers a minute: refreshed every 5 s, each was made twelve times, and none of our queries
# reads them.
ROLLUP_S: Final = 60.0
_LOG: Final = logging.getLogger(__name__)
_POLL_MESSAGES: Final = 5000
_POLL_S: Final = 0.1
_COMMIT_S: Final = 1.0
_FLUSH_S: Final = 30.0
# Small writes cost 3 to 50 ms each. So wait this long between them: rows are still within 100 ms of the
# message.
_WRITE_S: Final = 0.05
# This many messages at once are a backlog: the next ones make provisional windows final, so these are not
# worth writing, and nobody waits for the others. The fixed cost of a write was a third of the consumer's
# time.
_BEHIND_MESSAGES: Final = 500
_BEHIND_WRITE_S: Final = 0.5
_RESTATE_S: Final = 60.0  # windows that were final already are written again at most this often
_Done = TypeVar("_Done")


@dataclass(slots=True)
class Assigned:
    """A partition that is ours: its engine, and the offset before which everything has been written.

    An engine hands out each row and each message once, so what did not get through is kept here."""

    engine: Engine
    written_before: int
    unwritten: Unwritten = field(default_factory=Unwritten)
    unsent: deque[tuple[str, str, bytes]] = field(default_factory=deque)  # topic, key, message


@dataclass(slots=True)
class Counts:
    """What the loop has done so far."""

    messages: int = 0
    rows: int = 0
    dead_letters: int = 0


class Rollup(threading.Thread):
    """One refresh of the rollups, in parallel with the writing: it takes 0.15 s for one host, seconds for
    many, and a message may come at any time."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(name="rollup", daemon=True)
        self.error: Exception | None = None
        self._sink = sink
        self.start()

    def run(self) -> None:
        """Refresh the rollups."""
        try:
            self._sink.refresh_rollups()
        except Exception as error:  # the loop decides what it means
            self.error = error


class StreamLoop:
    """Owns the partitions that its consumer is given. ``make_engine`` is called with a partition's name."""

    def __init__(
        self, consumer: Consumer, producer: Producer, sink: Sink, make_engine: Callable[[str], Engine]
    ) -> None:
        self.counts = Counts()
        self.assigned: dict[Partition, Assigned] = {}
        self._consumer = consumer
        self._producer = producer
        self._sink = sink
        self._make_engine = make_engine
        self._committed_s = self._wrote_s = self._restated_s = time.monotonic()
        self._rolled_s = -ROLLUP_S  # the sums of the first rows are made at once
        self._rollup: Rollup | None = None
        self._positions: dict[Partition, Position] = {}
        self._changed = False
        self._away = False

    def on_assign(self, partition: Partition) -> int | None:
        """Begin a partition; return the offset to read from, far enough back to rebuild its state."""
        engine = self._make_engine(f"{partition.topic}/{partition.number}")
        position = self._consumer.committed(partition)
        if position is None:
            self.assigned[partition] = Assigned(engine, 0)
            return None
        self.assigned[partition] = Assigned(engine, position.next_offset)
        is_anew = position.next_offset > self._consumer.end_offset(partition)  # which the consumer reports
        if is_anew or partition.topic != SAMPLES:  # units have no state: each is a row
            return position.next_offset
        engine.restore(self._consumer.read_all(STATE), position.next_offset)
        return int(orjson.loads(position.note or "{}").get("look_back", position.next_offset))

    def on_revoke(self, partitions: Sequence[Partition]) -> None:
        """Write and commit what has been read of the partitions, and release them. If that is not possible
        now, their next owner begins at our last commit, and writes the same."""
        try:
            if not self._away:
                self._write(restate=True)
                self._commit()
        except (BusAwayError, StoreAwayError) as error:
            _LOG.warning("partitions move to another stream, which writes what this one could not: %s", error)
        for partition in partitions:
            self.assigned.pop(partition, None)
            self._positions.pop(partition, None)

    def run(self, stop: threading.Event, until_idle: bool = False) -> None:
        """Run until ``stop`` is set or, ``until_idle``, until all that the bus holds is in the store.

        Raises BusError and StoreError: those that waiting does not solve, and the one that the loop is
        waiting out when ``stop`` is set. What was not committed is done again at the next start."""
        keep_memory()
        try:
            while not stop.is_set():
                fetched = self._patiently(stop, partial(self._consumer.poll, _POLL_MESSAGES, _POLL_S))
                for part in fetched:
                    self._take(part)
                self._note_skips()
                self._patiently(stop, partial(self._keep_up, sum(len(part.offsets) for part in fetched)))
                if until_idle and not fetched and self._patiently(stop, self._at_end):
                    break
            self._patiently(stop, self._finish)
        finally:
            stop.set()

    def _patiently(self, stop: threading.Event, step: Callable[[], _Done]) -> _Done:
        """Do a step; while the store or the bus is away, wait and repeat it."""
        outage: Outage | None = None
        while True:
            try:
                done = step()
            except (BusAwayError, StoreAwayError) as error:
                if not stop.is_set():
                    outage = outage or Outage()
                    self._stay(stop, outage.failed(error))
                if stop.is_set():
                    raise type(error)(f"the next start writes what this one could not: {error}") from error
            else:
                if outage is not None:
                    outage.ended()
                return done

    def _stay(self, stop: threading.Event, pause_s: float) -> None:
        """Read nothing for a while, but keep our place in the group."""
        until_s = time.monotonic() + pause_s
        self._away = True
        try:
            while not stop.is_set() and (left_s := until_s - time.monotonic()) > 0:
                self._consumer.poll(0, min(left_s, _POLL_S))
        finally:
            self._away = False

    def _keep_up(self, messages: int) -> None:
        """Write, commit and roll up what is due, after so many messages."""
        now_s = time.monotonic()
        behind = messages >= _BEHIND_MESSAGES
        pause_s = _BEHIND_WRITE_S if behind else _WRITE_S
        if self._changed and (now_s - self._wrote_s >= pause_s or not messages):
            self._write(provisional=not behind)
        if now_s - self._committed_s >= _COMMIT_S:
            self._commit()
        self._roll_up(now_s)

    def _finish(self) -> None:
        self._write(restate=True)
        self._commit()
        if self._rollup is not None:
            self._rollup.join()
            self._rollup = None  # if it failed, the refresh below does its work
        self._sink.refresh_rollups()

    def _roll_up(self, now_s: float) -> None:
        """Refresh the rollups once a minute, in parallel. They may be late: the store notes which sums are
        behind."""
        if self._rollup is not None:
            if self._rollup.is_alive():
                return
            error, self._rollup = self._rollup.error, None
            if isinstance(error, StoreAwayError):
                _LOG.warning("the sums of minutes, hours and days will be refreshed later: %s", error)
            elif error is not None:
                raise error
        if self.counts.rows and now_s - self._rolled_s >= ROLLUP_S:
            self._rolled_s = now_s
            self._rollup = Rollup(self._sink)

    def _take(self, fetched: Fetched) -> None:
        assigned = self.assigned[fetched.partition]
        offsets, values = fetched.offsets, fetched.values
        if offsets[0] < assigned.engine.next_offset:
            return  # the topic was made anew: once noted, it is read from its first message
        behind = bisect.bisect_left(offsets, assigned.written_before)
        if behind:
            assigned.engine.take(offsets[:behind], values[:behind], quiet=True)
        if behind < len(offsets):
            assigned.engine.take(offsets[behind:], values[behind:])
            self._changed = True
        self.counts.messages += len(offsets)

    def _note_skips(self) -> None:
        for skip in self._consumer.skipped():
            assigned = self.assigned.get(skip.partition)
            if assigned is None:  # another stream has it now, and finds the same
                continue
            if skip.to_offset < skip.from_offset:
                self._begin_anew(skip.partition, assigned, skip.to_offset)
            elif skip.to_offset > assigned.written_before:
                count = skip.to_offset - max(skip.from_offset, assigned.written_before)
                assigned.engine.tables.dead(
                    skip.from_offset,
                    f"{count} messages were dropped from the bus before they were read",
                    b"",
                    count,
                )
                self._changed = True

    def _begin_anew(self, partition: Partition, assigned: Assigned, first_offset: int) -> None:
        """Read a topic that was made anew from its start: nothing in it has been written, whatever its
        offsets are."""
        _LOG.warning(
            "%s [%d] ends before the last message that was read, so the topic was made anew: reading it from"
            " its first message; if it contains the same time again, raise 'generation'",
            partition.topic,
            partition.number,
        )
        self._gather(assigned, restate=True, provisional=True)
        assigned.engine = self._make_engine(f"{partition.topic}/{partition.number}")
        assigned.written_before = 0
        self._consumer.seek(partition, first_offset)  # the consumer may be past it
        self._changed = True

    def _gather(self, assigned: Assigned, restate: bool, provisional: bool) -> None:
        """Collect what an engine has to hand out."""
        letters = assigned.engine.tables.dead_letters()
        assigned.unsent += ((DEAD, *letter) for letter in letters)
        self.counts.dead_letters += len(letters)
        assigned.unwritten.take(assigned.engine, restate=restate, provisional=provisional)

    def _write(self, restate: bool = False, provisional: bool = True) -> None:
        now_s = time.monotonic()
        if restate or now_s - self._restated_s >= _RESTATE_S:
            restate, self._restated_s = True, now_s
        self._changed = True  # until all of it is in the store
        for assigned in self.assigned.values():
            self._gather(assigned, restate, provisional)
        self._sink.announce(
            [c for assigned in self.assigned.values() for c in assigned.unwritten.attribution]
        )
        for assigned in self.assigned.values():
            self._send(assigned)
            for count in assigned.unwritten.write(self._sink):
                self.counts.rows += count
        self._changed = not provisional
        self._wrote_s = time.monotonic()

    def _send(self, assigned: Assigned) -> None:
        while assigned.unsent:
            self._producer.send(*assigned.unsent[0], int(time.time() * 1000))
            assigned.unsent.popleft()

    def _commit(self) -> None:
        """Once the store has all that was read: send the state that a look-back cannot rebuild, then commit
        offsets."""
        if self._changed:
            self._write(provisional=False)
        positions = {}
        for partition, assigned in self.assigned.items():
            if partition.topic == SAMPLES:
                assigned.unsent += ((STATE, *saved) for saved in assigned.engine.state())
                self._send(assigned)
            note = orjson.dumps({"look_back": assigned.engine.look_back_offset}).decode()
            settled = assigned.engine.settled_offset
            if settled:  # else nothing was read yet: the committed position and its note remain
                positions[partition] = Position(max(settled, assigned.written_before), note)
        if positions != self._positions:
            if self._producer.flush(_FLUSH_S):
                raise BusAwayError(
                    f"the bus did not take the stream's state within {_FLUSH_S:g} s; is it reachable?"
                )
            self._consumer.commit(positions)
            self._positions = positions
        self._committed_s = time.monotonic()

    def _at_end(self) -> bool:
        return bool(self.assigned) and all(  # Kafka takes seconds to assign the first
            max(assigned.written_before, assigned.engine.next_offset) >= self._consumer.end_offset(partition)
            for partition, assigned in self.assigned.items()
        )
