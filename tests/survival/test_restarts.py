"""The loop of the stream on a hostile bus, ended at any step and begun again: the rows of one run.

The store is kept in memory, so that a hundred lives take seconds. Messages come late, twice and out of order;
collectors begin anew, counters fall, devices fall silent, processes come and go and tell their use too late.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.stream.host import START_NS
from wattribute.bus import SAMPLES, UNITS, Fetched, Partition, Position
from wattribute.collector.local_consumer import LocalConsumer
from wattribute.collector.local_log import LocalLog
from wattribute.records import Device, Exit, Gap, Gpu, Host, Process, Record, Unit, Workload
from wattribute.stream import loop as stream_loop
from wattribute.stream.engine import Engine
from wattribute.stream.loop import StreamLoop
from wattribute.verify.memory_sink import MemorySink, lived
from wattribute.wire import Encoder

S = 1_000_000_000
GPUS = ("gpu-0", "gpu-1", "gpu-2")
Sent = tuple[str, str, bytes]


class HostileHost:
    """A host whose collector tells what it pleases, when it pleases."""

    def __init__(self, rng: random.Random, absent_ratio: float, name: str = "h") -> None:
        self.rng = rng
        self.name = name
        self.absent_ratio = absent_ratio  # of the readings of its counters
        self.energy_mj = dict.fromkeys(GPUS, 10**7)
        self.silent_until_s = dict.fromkeys(GPUS, 0.0)
        self.live: dict[tuple[int, int], tuple[Sequence[str], float]] = {}  # its GPUs, its end
        self.pid = 0

    def messages(self, seconds: int) -> list[Sent]:
        """All that it sends, in the order in which it arrives."""
        rng = self.rng
        sent: list[tuple[float, int, Sent]] = []
        encoder, epoch, boot, second = Encoder(self.name, "b0", 1), 1, 0, 0
        while second < seconds:
            for message in encoder.encode(self.records(second, first=not encoder.seq)):
                place = second + (rng.choice([1, 3, 8, 20]) if rng.random() < 0.15 else 0)
                copies = 2 if rng.random() < 0.1 else 1
                sent += [(place + rng.choice([0, 5]) * copy, len(sent), message) for copy in range(copies)]
            if rng.random() < 0.03:
                epoch += 1
                boot += rng.random() < 0.3
                encoder = Encoder(self.name, f"b{boot}", epoch)
                second += rng.choice([0, 3, 8])
            second += 1
        return [message for _, _, message in sorted(sent, key=lambda item: item[:2])]

    def records(self, second: int, first: bool) -> list[Record]:
        """A flush."""
        rng, now = self.rng, START_NS + second * S
        records: list[Record] = [Unit(t=now, model="a", unit="requests", quantity=3)]
        if first or second % 60 == 0:
            records.append(Host(t=now, provider="p", region=rng.choice("aab")))
            records += [Gpu(t=now, gpu=gpu, name="NVIDIA H200") for gpu in GPUS]
        if rng.random() < 0.02:
            self.silent_until_s[rng.choice(GPUS)] = second + rng.choice([1.5, 8, 30])
        if rng.random() < 0.02:
            records.append(Gap(t=now, from_ns=now - rng.choice([0, S, 3 * S]), to_ns=now))
        if rng.random() < 0.2:
            self.pid = self.pid % 7 + 1  # taken again soon
            end_s = second + rng.choice([0.4, 2, 9, 40])
            self.live[self.pid, now - rng.choice([0, S // 2])] = rng.sample(GPUS, rng.randint(1, 3)), end_s
        return [*records, *self.devices(now), *self.processes(now), *self.exits(now)]

    def devices(self, now: int) -> Iterable[Record]:
        """Readings at 2 Hz, with resets and holes."""
        rng = self.rng
        for t in (now + rng.randrange(S // 8), now + S // 2 + rng.randrange(S // 8)):
            for gpu, before_mj in self.energy_mj.items():
                mj = 0 if rng.random() < 0.005 else before_mj + rng.choice([0, 20_000, 90_000])
                self.energy_mj[gpu] = mj
                if t >= START_NS + self.silent_until_s[gpu] * S:
                    power = rng.choice([None, 100_000, 300_000])
                    shown = None if rng.random() < self.absent_ratio else mj
                    yield Device(t=t, gpu=gpu, energy_mj=shown, power_mw=power)

    def processes(self, now: int) -> Iterable[Record]:
        """That they are there, what they used up to 2 s ago, and whose they are."""
        rng = self.rng
        for (pid, start_ns), (gpus, _) in self.live.items():
            if rng.random() < 0.1:
                yield Workload(t=now, pid=pid, start_ns=start_ns, model=rng.choice("abc"))
            for gpu in gpus:
                if rng.random() < 0.9:
                    yield Process(
                        t=now + S - rng.randrange(2 * S), gpu=gpu, pid=pid, start_ns=start_ns,
                        period_ns=rng.choice([S // 6, S // 2, S]), sm_percent=rng.choice([0, 10, 50, 100]),
                    )  # fmt: skip
                if rng.random() < 0.9:
                    yield Process(
                        t=now + rng.randrange(S // 2, S), gpu=gpu, pid=pid, start_ns=start_ns,
                        period_ns=rng.choice([S, S, S, S // 2, 2 * S, 1, None]),
                        memory_used_bytes=rng.choice([None, 10**9, 5 * 10**9]),
                    )  # fmt: skip

    def exits(self, now: int) -> Iterable[Record]:
        """The ends of those whose time is over, as far as anybody saw them."""
        over = [key for key, (_, end_s) in self.live.items() if START_NS + end_s * S < now + S]
        for pid, start_ns in over:
            del self.live[pid, start_ns]
            if self.rng.random() < 0.8:
                yield Exit(t=now + self.rng.randrange(S), pid=pid, start_ns=start_ns)


def in_bursts(rng: random.Random, first: Sequence[Sent], other: Sequence[Sent]) -> list[Sent]:
    """The messages of two hosts, of which one comes later, some of either at a time."""
    parts = [list(reversed(first)), list(reversed(other))]
    mixed: list[Sent] = [parts[0].pop() for _ in range(rng.choice([0, 1, 30]))]
    while any(parts):
        part = rng.choice([part for part in parts if part])
        mixed += [part.pop() for _ in range(min(len(part), rng.choice([1, 2, 20])))]
    return mixed


def sent_to(log: LocalLog, messages: Iterable[Sent]) -> None:
    for topic, key, value in messages:
        log.send(topic, key, value, 1)
    assert log.flush(10) == 0


def assert_conserved(table: Mapping[Any, Mapping[str, Any]]) -> None:
    windows: dict[Any, list[Mapping[str, Any]]] = {}
    for row in table.values():
        windows.setdefault((row["host"], row["gpu"], row["boot_id"], row["window_start"]), []).append(row)
    for rows in windows.values():
        for policy in ("equal", "memory", "active"):
            energy = sum(row["active_energy_uj"] + row[f"idle_energy_{policy}_uj"] for row in rows)
            assert {row["device_energy_uj"] for row in rows} == {energy}
            assert {row["covered_ns"] for row in rows} == {sum(row[f"gpu_time_{policy}_ns"] for row in rows)}
        assert all(row[name] >= 0 for row in rows for name in row if name.endswith(("_uj", "_ns")))


@pytest.mark.parametrize("absent_ratio", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_a_loop_that_is_ended_at_any_step_leaves_the_rows_of_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, absent_ratio: float
) -> None:
    rng = random.Random(f"{seed} {absent_ratio}")
    messages = in_bursts(rng, *(HostileHost(rng, absent_ratio, name).messages(seconds=50) for name in "hi"))
    monkeypatch.setattr(stream_loop, "_POLL_S", 0.0)
    whole, log = MemorySink(), LocalLog(tmp_path / "whole")
    sent_to(log, messages)
    assert lived(log, whole)
    log.close()
    sink, log = MemorySink(), LocalLog(tmp_path / "ended")
    ended = 0
    while messages:
        count = rng.choice([1, 5, 30])
        sent_to(log, messages[:count])
        del messages[:count]
        for name, values in (
            ("_POLL_MESSAGES", [1, 7, 50]),
            ("_COMMIT_S", [0.0, 0.02]),
            ("_WRITE_S", [0.0, 0.01]),
            ("_RESTATE_S", [0.0, 0.05, 60.0]),
            ("_BEHIND_MESSAGES", [5, 500]),
        ):
            monkeypatch.setattr(stream_loop, name, rng.choice(values))
        ended += not lived(log, sink, rng.choice([0, 1, 2, 3, 5, 9]))
    assert lived(log, sink)
    log.close()
    assert ended
    assert len(whole.table()) > 100
    assert_conserved(whole.table())
    assert sink.table() == whole.table()
    assert sink.small == whole.small


def test_a_start_that_read_nothing_leaves_what_was_committed(tmp_path: Path) -> None:
    """Nor its note: without it the next start would read all that the bus has."""
    before = Position(7, '{"look_back":3}')
    with closing(LocalLog(tmp_path)) as log:
        sent_to(log, [(SAMPLES, "h", b"{}")] * 9)
        log.commit({SAMPLES: before})
        consumer = LocalConsumer(log, (SAMPLES,), lambda partition: loop.on_assign(partition))  # noqa: PLW0108 - no loop yet
        loop = StreamLoop(consumer, log, MemorySink(), Engine)
        consumer.poll(0, 0)
        stop = Event()
        stop.set()
        loop.run(stop)
        assert log.committed(SAMPLES) == before


def test_units_that_were_written_are_not_read_again(tmp_path: Path) -> None:
    with closing(LocalLog(tmp_path)) as log:
        sent_to(log, HostileHost(random.Random(1), 0.0).messages(seconds=5))
        assert lived(log, MemorySink())
        loop = StreamLoop(LocalConsumer(log, (UNITS,)), log, MemorySink(), Engine)
        assert loop.on_assign(Partition(UNITS, 0)) == log.end_offsets()[UNITS] > 0


@pytest.mark.parametrize("look_back", [10, 900])
def test_a_topic_that_was_made_anew_is_written_from_its_first_message(
    tmp_path: Path, look_back: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Its offsets are lower than what was committed of the one before."""
    messages = HostileHost(random.Random(1), 0.0).messages(seconds=50)
    sinks = {name: MemorySink() for name in ("whole", "anew")}
    for name, sink in sinks.items():
        with closing(LocalLog(tmp_path / name)) as log:
            sent_to(log, messages)
            if name == "anew":
                beyond = Position(1000, f'{{"look_back":{look_back}}}')
                log.commit({SAMPLES: beyond, UNITS: beyond})
            assert lived(log, sink)
            committed = log.committed(SAMPLES)
            assert committed is not None
            assert committed.next_offset == log.end_offsets()[SAMPLES]
    assert len(sinks["whole"].table()) > 100
    assert sinks["anew"].table() == sinks["whole"].table()
    assert sinks["anew"].small == sinks["whole"].small
    assert sum("made anew" in record.getMessage() for record in caplog.records) == 2


def test_a_topic_that_is_made_anew_while_it_is_read_takes_nothing_of_the_one_before_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Following(LocalConsumer):
        """Once it has read its log, another stands in its place."""

        def poll(self, max_messages: int, timeout_s: float) -> Sequence[Fetched]:
            if self._next.get(Partition(SAMPLES, 0)) == logs[0].end_offsets()[SAMPLES]:
                self._log = logs[1]
            return super().poll(max_messages, timeout_s)

    def sent() -> list[LocalLog]:
        for number, name in enumerate("hi"):
            logs[number] = LocalLog(tmp_path / f"{len(list(tmp_path.iterdir()))}")
            sent_to(logs[number], HostileHost(random.Random(name), 0.0, name).messages((60, 20)[number]))
        logs[0].commit({SAMPLES: Position(15, '{"look_back":0}')})
        return list(logs.values())

    logs: dict[int, LocalLog] = {}
    alone, followed = MemorySink(), MemorySink()
    assert all(lived(log, alone) for log in sent())
    for name in ("_WRITE_S", "_COMMIT_S"):  # what was read of the one before waits
        monkeypatch.setattr(stream_loop, name, 1000.0)
    consumer = Following(sent()[0], (SAMPLES,), lambda partition: loop.on_assign(partition))  # noqa: PLW0108 - no loop yet
    loop = StreamLoop(consumer, logs[1], followed, Engine)
    loop.run(Event(), until_idle=True)
    assert len(alone.table()) > 100
    assert followed.table() == alone.table()


def test_a_jump_in_a_partition_that_has_passed_on_is_the_next_one_s_to_tell(tmp_path: Path) -> None:
    class Passing(LocalConsumer):
        """Its partition passes to another stream in the poll in which it had to jump."""

        def poll(self, max_messages: int, timeout_s: float) -> Sequence[Fetched]:
            super().poll(max_messages, timeout_s)
            loop.on_revoke([Partition(SAMPLES, 0)])
            stop.set()
            return []

    stop = Event()
    with closing(LocalLog(tmp_path)) as log:
        sent_to(log, [(SAMPLES, "h", b"{}")])
        log.commit({SAMPLES: Position(7)})
        consumer = Passing(log, (SAMPLES,), lambda partition: loop.on_assign(partition))  # noqa: PLW0108 - no loop yet
        loop = StreamLoop(consumer, log, MemorySink(), Engine)
        loop.run(stop)
        assert not loop.assigned
