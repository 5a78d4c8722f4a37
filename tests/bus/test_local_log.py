"""What the local log promises beyond the contract of every bus."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wattribute.bus import SAMPLES, STATE, UNITS, Partition, Position, Skip
from wattribute.collector import local_log as module
from wattribute.collector.local_consumer import LocalConsumer
from wattribute.collector.local_log import Dropped, LocalLog
from wattribute.errors import BusAwayError, BusError

PLACE = Partition(SAMPLES, 0)
KIB = 1024


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LocalLog]:
    made = LocalLog(tmp_path / "bus")
    yield made
    made.close()


def fill(log: LocalLog, topic: str, count: int, start: int = 0, value_bytes: int = 4000) -> None:
    """Message n is made of the byte n, at time n ms."""
    for number in range(start, start + count):
        log.send(topic, "host", bytes([number % 256]) * value_bytes, number)
    assert log.flush(5.0) == 0


def offsets(log: LocalLog, topic: str = SAMPLES) -> list[int]:
    return [message.offset for message in log.read(topic, 0, 10_000)]


def test_the_folder_and_its_files_are_the_owners_alone(tmp_path: Path) -> None:
    log = LocalLog(tmp_path / "deep" / "bus")
    fill(log, SAMPLES, 1)
    assert stat.S_IMODE((tmp_path / "deep" / "bus").stat().st_mode) == 0o700
    files = list((tmp_path / "deep" / "bus").iterdir())
    assert {file.name for file in files} == {"bus.sqlite", "bus.sqlite-wal", "bus.sqlite-shm"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    log.close()


def test_offsets_go_on_after_a_restart(tmp_path: Path) -> None:
    for start in (0, 3, 6):
        log = LocalLog(tmp_path)
        fill(log, SAMPLES, 3, start)
        assert log.end_offsets() == {SAMPLES: start + 3}
        assert [message.timestamp_ms for message in log.read(SAMPLES, 0, 100)] == list(range(start + 3))
        log.close()


def test_nothing_is_there_before_flush_and_close_flushes(tmp_path: Path) -> None:
    log, other = LocalLog(tmp_path), LocalLog(tmp_path)
    log.send(SAMPLES, "host", b"x", 1)
    assert other.read(SAMPLES, 0, 10) == []
    log.close()
    assert [message.value for message in other.read(SAMPLES, 0, 10)] == [b"x"]
    other.close()


_WRITER = """
import os, sys
from pathlib import Path
from wattribute.collector.local_log import LocalLog
log = LocalLog(Path(sys.argv[1]))
for number in range(int(sys.argv[2])):
    log.send("wattribute.samples", "host", b"x" * 4000, number)
    assert log.flush(5.0) == 0
log.send("wattribute.samples", "host", b"never flushed", 0)
os.kill(os.getpid(), 9)
"""


def writer(folder: Path, count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _WRITER, str(folder), str(count)])


def test_what_was_flushed_outlives_the_process(tmp_path: Path) -> None:
    assert writer(tmp_path, 20).wait(60) == -9
    log = LocalLog(tmp_path)
    assert offsets(log) == list(range(20))
    assert log.quarantined is None
    log.close()


def test_a_reader_follows_a_writer_in_another_process(log: LocalLog, tmp_path: Path) -> None:
    consumer = LocalConsumer(log, [SAMPLES])
    process = writer(tmp_path / "bus", 300)
    found: list[int] = []
    while len(found) < 300:
        (fetched,) = consumer.poll(1000, 60.0)
        found += fetched.offsets
        consumer.commit({PLACE: Position(found[-1] + 1)})  # two processes write, in turn
    assert process.wait(60) == -9
    assert found == list(range(300))


def test_the_end_of_another_process_leaves_the_log_to_a_process_that_has_it_twice(tmp_path: Path) -> None:
    """As ``wattribute up`` has it, beside which ``emit`` comes and goes."""
    reader, writer = LocalLog(tmp_path), LocalLog(tmp_path)
    fill(writer, SAMPLES, 1)
    code = (
        "import sys; from pathlib import Path; from wattribute.collector.local_log import LocalLog;"
        " log = LocalLog(Path(sys.argv[1])); log.send('wattribute.units', 'm', b'x', 1);"
        " assert log.flush(5.0) == 0; log.close()"
    )
    for count in range(1, 4):
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
        assert (tmp_path / "bus.sqlite-wal").exists()
        fill(writer, SAMPLES, 1, count)
        assert reader.end_offsets() == {SAMPLES: count + 1, UNITS: count}
        assert offsets(reader, UNITS) == list(range(count))
    writer.close()
    reader.close()
    after = LocalLog(tmp_path)
    assert after.quarantined is None
    assert after.end_offsets() == {SAMPLES: 4, UNITS: 3}
    after.close()


def test_committed_messages_make_room_first(tmp_path: Path) -> None:
    log = LocalLog(tmp_path, max_bytes=480 * KIB)
    fill(log, UNITS, 50)  # the oldest, but nobody has read them
    fill(log, SAMPLES, 50)
    log.commit({SAMPLES: Position(40)})
    fill(log, SAMPLES, 40, 50)
    assert offsets(log, UNITS) == list(range(50))
    left = offsets(log)
    assert 0 < left[0] <= 40
    assert left == list(range(left[0], 90))
    assert (log.dropped(), log.dropped_messages()) == ([], 0)
    log.close()


def test_what_is_dropped_unread_is_listed_exactly(tmp_path: Path) -> None:
    log = LocalLog(tmp_path, max_bytes=400 * KIB)
    fill(log, SAMPLES, 60)
    log.commit({SAMPLES: Position(10)})
    for start in range(60, 400, 20):
        fill(log, SAMPLES, 20, start)
    left = offsets(log)
    assert left == list(range(left[0], 400))
    assert 200 < left[0] < 399
    listed = [Dropped(SAMPLES, 10, left[0], 10, left[0] - 1)]
    assert log.dropped() == listed
    assert log.dropped_messages() == left[0] - 10
    log.close()

    log = LocalLog(tmp_path, max_bytes=400 * KIB)
    assert log.dropped() == listed
    log.forget_dropped(listed)
    assert log.dropped() == []
    fill(log, SAMPLES, 100, 400)
    first = offsets(log)[0]
    assert [(drop.from_offset, drop.to_offset) for drop in log.dropped()] == [(left[0], first)]
    assert log.dropped_messages() == first - 10
    log.close()


def test_the_file_stays_within_its_bound(tmp_path: Path) -> None:
    log = LocalLog(tmp_path, max_bytes=400 * KIB)
    for start in range(0, 1000, 10):
        fill(log, SAMPLES, 10, start, value_bytes=9000)
    log.close()
    # A flush is written before room is made: the file may be longer by one flush.
    assert (tmp_path / "bus.sqlite").stat().st_size <= 400 * KIB + 2 * 10 * 12 * KIB


def test_a_reader_is_told_what_it_missed(tmp_path: Path) -> None:
    log = LocalLog(tmp_path, max_bytes=400 * KIB)
    consumer = LocalConsumer(log, [SAMPLES])
    fill(log, SAMPLES, 10)
    assert [batch.offsets for batch in consumer.poll(5, 1.0)] == [[0, 1, 2, 3, 4]]
    fill(log, SAMPLES, 300, 10)
    (fetched,) = consumer.poll(10_000, 1.0)
    assert list(consumer.skipped()) == [Skip(PLACE, 5, fetched.offsets[0])]
    assert list(fetched.offsets) == list(range(fetched.offsets[0], 310))
    log.close()


def test_state_keeps_the_newest_of_each_key_and_is_never_dropped(tmp_path: Path) -> None:
    log = LocalLog(tmp_path, max_bytes=400 * KIB)
    consumer = LocalConsumer(log, [STATE])
    for number in range(40):
        log.send(STATE, f"gpu-{number % 4}", b"%d" % number, number)
        if number % 3 == 0:
            assert log.flush(5.0) == 0
    fill(log, SAMPLES, 300)
    newest = [b"%d" % number for number in range(36, 40)]  # of keys that come by turns
    assert list(consumer.read_all(STATE)) == newest
    (fetched,) = consumer.poll(100, 1.0)
    assert list(fetched.values) == newest
    assert list(consumer.skipped()) == []  # compaction loses nothing
    assert consumer.end_offset(Partition(STATE, 0)) == 40
    log.close()


def test_a_long_backlog_does_not_starve_the_other_topics(log: LocalLog) -> None:
    fill(log, SAMPLES, 100)
    fill(log, UNITS, 100)
    consumer = LocalConsumer(log, [SAMPLES, UNITS])
    topics = [batch.partition.topic for _ in range(4) for batch in consumer.poll(10, 1.0)]
    assert topics == [SAMPLES, UNITS, SAMPLES, UNITS]


def test_the_epoch_grows_with_every_start_even_from_an_empty_file(tmp_path: Path) -> None:
    epochs = []
    for _ in range(3):
        log = LocalLog(tmp_path / "one")
        epochs.append(log.next_epoch())
        log.close()
    assert epochs[1:] == [epochs[0] + 1, epochs[0] + 2]
    fresh = LocalLog(tmp_path / "two")
    assert fresh.next_epoch() >= epochs[0]
    fresh.close()


@pytest.mark.parametrize("damage", ["overwritten", "not a database", "torn"])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: str) -> None:
    log = LocalLog(tmp_path)
    fill(log, SAMPLES, 100)
    log.close()
    file = tmp_path / "bus.sqlite"
    content = bytearray(file.read_bytes())
    if damage == "overwritten":
        content[5 * 4096 : 40 * 4096] = b"\xa5" * (35 * 4096)
    elif damage == "not a database":
        content[:] = b"something else altogether, and long enough to be read as a header" * 20
    else:
        del content[len(content) // 2 :]
    file.write_bytes(content)
    with pytest.raises(BusError, match=r"bus.sqlite is damaged; "):
        LocalLog(tmp_path, set_aside=False)
    assert file.read_bytes() == content
    log = LocalLog(tmp_path)
    assert log.quarantined is not None
    assert log.quarantined.name.startswith("bus.sqlite.corrupt-")
    assert log.quarantined.read_bytes() == content
    assert log.end_offsets() == {}
    fill(log, SAMPLES, 3)
    log.close()
    log = LocalLog(tmp_path)
    assert (log.quarantined, offsets(log)) == (None, [0, 1, 2])
    log.close()


def test_a_full_disk_is_an_error_of_one_line_and_loses_nothing(log: LocalLog) -> None:
    fill(log, SAMPLES, 10)
    log._connection.execute("PRAGMA max_page_count = 40")
    for number in range(10, 60):
        log.send(SAMPLES, "host", bytes([number]) * 4000, number)
    with pytest.raises(BusError, match=r"bus.sqlite: database or disk is full; free some space") as caught:
        log.flush(1.0)
    assert "\n" not in str(caught.value)
    assert offsets(log) == list(range(10))
    log._connection.execute("PRAGMA max_page_count = 1000000")
    assert log.flush(1.0) == 0
    assert offsets(log) == list(range(60))


def test_what_cannot_be_written_at_the_end_is_told_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CLOSE_S", 0.05)
    log = LocalLog(tmp_path)
    log._connection.execute("PRAGMA max_page_count = 1")  # SQLite takes the present size
    for number in range(3):
        log.send(SAMPLES, "host", bytes(1 << 20), number)
    with pytest.raises(BusError, match=r"disk is full; .*; 3 messages that waited in memory are lost$"):
        log.close()
    other = sqlite3.connect(tmp_path / "bus.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    log = LocalLog(tmp_path)
    log.send(SAMPLES, "host", b"x", 1)
    with pytest.raises(BusError, match=r"another process has locked it .*; 1 messages that waited in memory"):
        log.close()
    other.close()


def test_so_many_messages_as_are_sent_at_once_are_written(log: LocalLog) -> None:
    """None is refused while there is room on the disk: more than are queued are written before the flush."""
    for number in range(100):
        log.send(SAMPLES, "host", bytes(1 << 20), number)
    assert log.flush(5.0) == 0
    assert offsets(log) == list(range(100))


def test_messages_that_cannot_be_written_do_not_pile_up_for_ever(log: LocalLog, tmp_path: Path) -> None:
    value = bytes(1 << 20)
    other = sqlite3.connect(tmp_path / "bus" / "bus.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BusAwayError, match="64 MiB wait to be written"):
        for _ in range(65):
            log.send(SAMPLES, "host", value, 1)
    other.execute("COMMIT")
    other.close()
    assert log.flush(5.0) == 0
    assert log.end_offsets() == {SAMPLES: 64}
    log._connection.execute("PRAGMA max_page_count = 1")  # SQLite takes the present size
    with pytest.raises(BusAwayError, match="disk is full; free some space"):
        for _ in range(65):
            log.send(SAMPLES, "host", value, 1)
    log._connection.execute("PRAGMA max_page_count = 1000000")
    assert log.flush(5.0) == 0
    assert log.end_offsets() == {SAMPLES: 128}


def test_a_disk_without_room_to_open_it_is_full_and_not_at_fault(tmp_path: Path) -> None:
    LocalLog(tmp_path / "bus").close()
    opening = (
        "import resource, sys; from pathlib import Path; from wattribute.collector.local_log import LocalLog;"
        "from wattribute.errors import BusAwayError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"  # no file grows far
        "try: LocalLog(Path(sys.argv[1]))\n"
        "except BusAwayError as error: print(error)"
    )
    command = [sys.executable, "-c", opening, str(tmp_path / "bus")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert "free some space" in done.stdout


def test_a_stuck_writer_is_waited_for_in_bounded_time(log: LocalLog, tmp_path: Path) -> None:
    fill(log, SAMPLES, 1)
    other = sqlite3.connect(tmp_path / "bus" / "bus.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    log.send(SAMPLES, "host", b"waits", 1)
    assert log.flush(0.05) == 1
    assert offsets(log) == [0]
    other.execute("COMMIT")
    other.close()
    assert log.flush(0.05) == 0
    assert offsets(log) == [0, 1]


def test_a_file_of_a_later_layout_is_left_alone(tmp_path: Path) -> None:
    LocalLog(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "bus.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(BusError, match="layout is version 99, this program knows 1"):
        LocalLog(tmp_path)
    assert [file.name for file in tmp_path.iterdir() if "corrupt" in file.name] == []
