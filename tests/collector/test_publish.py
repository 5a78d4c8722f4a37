"""What the sampler hands on, as it arrives on the bus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from wattribute.bus import SAMPLES, UNITS
from wattribute.collector import local_log
from wattribute.collector.local_log import LocalLog
from wattribute.collector.publish import Publisher
from wattribute.records import Device, Exit, Unit
from wattribute.wire import PREFIX

T = 1_790_000_000_000_000_000
SECOND = 1_000_000_000


def rare(log: LocalLog) -> list[dict[str, Any]]:
    """The JSON messages among the samples."""
    messages = log.read(SAMPLES, 0, 10_000)
    return [orjson.loads(message.value) for message in messages if message.value.startswith(b"{")]


def test_each_flush_is_on_the_bus_at_once_with_the_time_of_its_newest_record(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    publisher = Publisher(log, log, "h", "boot")
    publisher(
        [
            Device(t=T, gpu="G", energy_mj=1),
            Device(t=T + SECOND, gpu="G", energy_mj=2),
            Unit(t=T, unit="requests", quantity=1.0, model="m"),
        ]
    )
    (samples,) = log.read(SAMPLES, 0, 10)
    (units,) = log.read(UNITS, 0, 10)
    assert (samples.key, samples.timestamp_ms) == ("h", (T + SECOND) // 1_000_000)
    assert (units.key, units.timestamp_ms) == ("m", (T + SECOND) // 1_000_000)
    assert (publisher.message_count, publisher.unsent_messages) == (2, 0)
    log.close()


def test_a_start_and_a_set_clock_begin_epochs(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    first = Publisher(log, log, "h", "boot")
    for clock_epoch in (5, 5, 7):
        first([Device(t=T, gpu="G")], clock_epoch)
    Publisher(log, log, "h", "boot")([Device(t=T, gpu="G")], 7)
    epochs, numbers = [], []
    for message in log.read(SAMPLES, 0, 10):
        _, _, epoch, seq, _, _ = PREFIX.unpack_from(message.value)
        epochs.append(epoch)
        numbers.append(seq)
    assert [epoch - epochs[0] for epoch in epochs] == [0, 0, 1, 2]
    assert numbers == [1, 2, 1, 1]
    log.close()


def test_what_made_room_unread_is_reported_as_a_gap_once(tmp_path: Path) -> None:
    log = LocalLog(tmp_path, max_bytes=1 << 20)
    for second in range(400):  # as an earlier life left it, while Kafka was away
        log.send(SAMPLES, "h", bytes(8192), (T + second * SECOND) // 1_000_000)
        log.flush(1)
    dropped = log.dropped_messages()
    assert dropped > 0
    publisher = Publisher(log, log, "h", "boot")
    publisher([Exit(t=T + 400 * SECOND, pid=1, start_ns=1)])
    publisher([Exit(t=T + 401 * SECOND, pid=1, start_ns=1)])
    last_but_one, last = rare(log)
    (gap,) = [record for record in last_but_one["records"] if record["kind"] == "gap"]
    assert (gap["from_ns"], gap["to_ns"]) == (T, T + (dropped - 1) * SECOND)
    assert gap["reason"].startswith(f"{dropped} messages of the collector were lost: its log was full")
    assert [record["kind"] for record in last["records"]] == ["exit"]
    log.close()


def test_lost_units_are_counted_and_are_no_gap_of_the_gpus(tmp_path: Path) -> None:
    log = LocalLog(tmp_path, max_bytes=1 << 20)
    for second in range(400):
        log.send(UNITS, "m", bytes(8192), (T + second * SECOND) // 1_000_000)
        log.flush(1)
    dropped = log.dropped_messages()
    publisher = Publisher(log, log, "h", "boot")
    publisher([Exit(t=T + 400 * SECOND, pid=1, start_ns=1)])
    assert [record["kind"] for message in rare(log) for record in message["records"]] == ["exit"]
    assert publisher.lost_messages == {UNITS: dropped}
    assert log.dropped() == []
    log.close()


def test_a_full_disk_is_waited_for_and_what_memory_does_not_hold_is_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_log, "_QUEUED_MAX_BYTES", 100_000)
    log = LocalLog(tmp_path)
    publisher = Publisher(log, log, "h", "boot")

    def publish(seconds: range, clock_epoch: int = 0) -> None:
        for second in seconds:
            devices = [Device(t=T + second * SECOND, gpu=f"G{n}", energy_mj=second) for n in range(400)]
            publisher(devices, clock_epoch)  # some 10 kB

    publish(range(3))
    (pages,) = log._connection.execute("PRAGMA page_count").fetchone()
    log._connection.execute(f"PRAGMA max_page_count = {pages}")
    publish(range(3, 40), clock_epoch=3)  # and the clock is set meanwhile
    assert len(log.read(SAMPLES, 0, 1000)) < 8
    log._connection.execute("PRAGMA max_page_count = 1000000")
    publish(range(40, 43), clock_epoch=3)
    times = [m.timestamp_ms for m in log.read(SAMPLES, 0, 1000) if not m.value.startswith(b"{")]
    kept = [(ms * 1_000_000 - T) // SECOND for ms in times]
    lost = sorted({*range(43)} - {*kept})
    assert kept[:7] == [*range(7)]
    assert kept[-3:] == [40, 41, 42]
    assert len(lost) == publisher.lost_messages[SAMPLES]
    (gap,) = [record for message in rare(log) for record in message["records"] if record["kind"] == "gap"]
    assert ((gap["from_ns"] - T) // SECOND, (gap["to_ns"] - T) // SECOND) == (lost[0] - 1, lost[-1])
    log.close()
