"""Kafka for the end-to-end rows, in a process of its own: librdkafka's mock cluster, and its feeder.

The mock keeps the last 5 MiB of a partition, so messages are sent only as far ahead of the reader as fits.
The reader notes how far it is in a file, with one number for each partition."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from confluent_kafka import Producer

from benchmarks.contender import Figures
from benchmarks.synthetic import (
    GPUS_PER_HOST,
    I64,
    SECOND_NS,
    START_NS,
    Readings,
    counter_uj,
    host_name,
    messages,
    readings,
)
from tests.bus.mock_kafka import MockKafka
from wattribute.bus import DEAD, SAMPLES, STATE, UNITS

PARTITIONS: Final = 4
_AHEAD_BYTES: Final = 3 << 20
_PAUSE_S: Final = 0.001


def progress(path: Path) -> I64:
    """The file in which the reader notes how many messages of each partition it has read."""
    if not path.exists():
        path.write_bytes(bytes(8 * PARTITIONS))
    found: I64 = np.memmap(path, np.int64, "r+", shape=(PARTITIONS,))
    return found


def feed(path: str, hosts: int, hz: int, processes: int, seconds: int) -> Figures:
    """Make all messages, start the cluster and print its address, their number and energy; then send them as
    they are read. Ends at a line on standard input."""
    made = readings(hosts * GPUS_PER_HOST, hz, seconds, processes)
    queues: list[list[tuple[int, bytes]]] = [[] for _ in range(PARTITIONS)]
    for host, value in messages(made):
        queues[host % PARTITIONS].append((host, value))
    ahead = max(1, _AHEAD_BYTES // max(len(value) for _, value in queues[0]))
    read = progress(Path(path))
    cluster = MockKafka()
    for topic in (SAMPLES, UNITS, STATE, DEAD):
        cluster.create(topic, PARTITIONS if topic == SAMPLES else 1)
    print(cluster.servers, sum(map(len, queues)), _closed_energy_uj(made), flush=True)
    producer = Producer({"bootstrap.servers": cluster.servers, "linger.ms": 5, "acks": 1})
    _send(producer, queues, read, ahead)
    sys.stdin.readline()
    cluster.close()
    return {}


def _closed_energy_uj(made: Readings) -> int:
    """The energy of all windows that the messages close: no sample passes the end of the last second."""
    closed_ns = np.array([START_NS, START_NS + (made.seconds - 1) * SECOND_NS])
    return sum(int(np.diff(counter_uj(made, device, closed_ns))[0]) for device in range(made.devices))


def _send(producer: Any, queues: list[list[tuple[int, bytes]]], read: I64, ahead: int) -> None:
    sent = [0] * len(queues)
    while any(done < len(queue) for done, queue in zip(sent, queues, strict=True)):
        for number, queue in enumerate(queues):
            until = min(len(queue), int(read[number]) + ahead)
            for host, value in queue[sent[number] : until]:
                producer.produce(SAMPLES, value, host_name(host), number)
            sent[number] = max(sent[number], until)
        producer.poll(0)
        time.sleep(_PAUSE_S)
    producer.flush(30.0)
