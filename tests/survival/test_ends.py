"""A command that is told to end does, whatever librdkafka and the broker do."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.kafka_broker import KafkaBroker
from tests.survival.processes import ran, started, wait_until
from wattribute.bus import UNITS, Fetched, Position
from wattribute.collector.local_log import LocalLog
from wattribute.errors import BusAwayError
from wattribute.stream.kafka_consumer import KafkaConsumer

PATIENCE_S = 120.0

# ctypes.PyDLL keeps Python's lock while it calls, as confluent_kafka does in some calls.
_HANGS = """
import ctypes, os, signal
from wattribute.commands.ends import stopping
with stopping(within_s=1.0) as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    stop.wait()
    print("told", flush=True)
    {library}(None).sleep(1000)
"""


# A handler runs within whatever the main thread is at, and threading.Event has a lock.
_WITHIN_THE_EVENT = """
import os, signal
from wattribute.commands.ends import stopping
with stopping(within_s=10.0) as stop:
    with stop._cond:
        os.kill(os.getpid(), signal.SIGTERM)
    stop.wait()
    print("told")
"""
_WITHIN_THE_HANDLER = """
import os, signal, threading
from wattribute.commands.ends import stopping
notify_all = threading.Condition.notify_all
def interrupted(condition):
    threading.Condition.notify_all = notify_all
    os.kill(os.getpid(), signal.SIGTERM)
    notify_all(condition)
with stopping(within_s=10.0) as stop:
    threading.Condition.notify_all = interrupted
    os.kill(os.getpid(), signal.SIGTERM)
    stop.wait()
    print("told")
"""


@pytest.mark.parametrize("script", [_WITHIN_THE_EVENT, _WITHIN_THE_HANDLER])
def test_a_signal_is_heard_whenever_it_comes(script: str) -> None:
    """timeout sends SIGTERM twice, to its command and to their group: a stream waited for itself for ever."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "told\n", "")


@pytest.mark.parametrize("library", ["ctypes.PyDLL", "ctypes.CDLL"])
def test_a_call_that_never_returns_does_not_keep_a_process_from_its_end(library: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _HANGS.format(library=library)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "told\n")
    assert "Traceback" not in done.stderr
    assert ("so this cannot end properly" in done.stderr) == (library == "ctypes.CDLL")


def test_a_local_bus_has_one_stream(tmp_path: Path) -> None:
    """Its position is of one store: what a second stream takes would be missing in the store of the first."""
    bus = f"local://{tmp_path / 'bus'}"
    ran("emit", "unit", "images", "3", "--model", "m", "--bus", bus)
    first = started("stream", "--bus", bus, "--store", f"chdb://{tmp_path / 'store'}")
    try:
        assert first.stderr is not None
        while "streaming" not in (line := first.stderr.readline()):
            assert line, "it ended"
        other = ("--bus", bus, "--store", f"chdb://{tmp_path / 'other'}")
        said = ran("stream", *other, status=1).stderr
        assert said.endswith(f"reads the local log in {tmp_path / 'bus'}; stop it first\n")
        said = ran("up", "--simulate", "--fresh", *other, status=1).stderr
        assert said.endswith("is in use: stop what collects into it or streams from it first\n")
        first.kill()
        first.communicate()
        ran("stream", "--until-idle", *other)
    finally:
        first.kill()


def test_a_stream_says_at_its_end_what_it_could_not_use(tmp_path: Path) -> None:
    log = LocalLog(tmp_path / "bus")
    for text in (b"{", b"x"):
        log.send(UNITS, "m", text, 1)
    log.close()
    where = ("--bus", f"local://{tmp_path / 'bus'}", "--store", f"chdb://{tmp_path / 'store'}")
    assert (
        "2 dead letters: 'wattribute query' of the table dead" in ran("stream", "--until-idle", *where).stderr
    )
    assert "dead" not in ran("stream", "--until-idle", *where).stderr


def test_a_stream_ends_though_its_broker_is_frozen(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    """Stopped as by SIGSTOP it keeps its connections and answers nothing."""
    bus, store = f"kafka://{kafka_broker.servers}", f"chdb://{tmp_path / 'store'}"
    ran("emit", "unit", "images", "3", "--model", "m", "--bus", bus)
    group = Consumer({"bootstrap.servers": kafka_broker.servers, "group.id": "frozen"})
    stream = started("stream", "--bus", bus, "--store", store, kafka_group="frozen", kafka_partitions="1")
    try:
        wait_until(lambda: has_committed(group), stream)
        kafka_broker.freeze()
        stream.send_signal(signal.SIGTERM)
        _, said = stream.communicate(timeout=PATIENCE_S)
        assert stream.returncode in (0, 1)
        assert "Traceback" not in said
    finally:
        kafka_broker.thaw()
        stream.kill()
        stream.communicate()
        group.close()


def test_a_commit_that_nobody_answers_is_given_up(kafka_broker: KafkaBroker) -> None:
    """librdkafka would wait for it without end, and leaving the group would wait for that."""
    ran("emit", "unit", "images", "3", "--model", "m", "--bus", f"kafka://{kafka_broker.servers}")
    consumer = KafkaConsumer(kafka_broker.servers, "unanswered", [UNITS])
    try:
        fetched: Sequence[Fetched] = ()
        deadline_s = time.monotonic() + PATIENCE_S
        while not fetched and time.monotonic() < deadline_s:
            fetched = consumer.poll(1, 0.1)
        positions = {part.partition: Position(part.offsets[-1] + 1) for part in fetched}
        assert positions
        kafka_broker.freeze()
        for _ in range(2):  # the second waits for the first
            with pytest.raises(BusAwayError, match="does not accept the commit: Local: Timed out"):
                consumer.commit(positions)
    finally:
        consumer.close()  # it is frozen still
        kafka_broker.thaw()


def has_committed(group: Consumer) -> bool:
    """Of any partition: another test may have made the topic with several."""
    try:
        numbers = group.list_topics(UNITS, timeout=10).topics[UNITS].partitions
        places = group.committed([TopicPartition(UNITS, number) for number in numbers], timeout=10)
        return any(place.offset > 0 for place in places)
    except KafkaException:  # the broker makes the topic of the groups at the first question
        return False
