"""From a broker into a store: how many samples a consumer handles in a second of processor time.

The consumer's process runs what `wattribute stream` runs: KafkaConsumer, StreamLoop, engine, kernels and
sink, with the threads of librdkafka, and of chDB if that is the store. Its user and system time are counted
from before the first poll to after the last write, commit and rollup. The broker, its feeder, and a server
are other processes on the same cores: their time is not counted."""

from __future__ import annotations

import json
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.clickhouse_server import serve
from benchmarks.contender import ROOT, Figures, check, command, environment, run
from benchmarks.feeder import feed, progress
from benchmarks.synthetic import I64
from benchmarks.table import Bar, Row
from wattribute.bus import SAMPLES, UNITS, Fetched, Partition
from wattribute.collector.kafka_producer import KafkaProducer
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.store import open_store
from wattribute.stream.engine import Engine
from wattribute.stream.kafka_consumer import KafkaConsumer
from wattribute.stream.loop import StreamLoop

_BAR: Final = 5.0
_PER_CPU_S: Final = "M samples/cpu-s"
# Hosts, hz, processes a GPU, seconds of readings, and how many of these are not measured: a stream keeps the
# past hour, and until that is full, the operating system must provide every page to which it writes.
_FULL: Final = (
    (16, 10, 1, 12_000, 6_700),
    (16, 10, 4, 9_000, 6_700),
    (128, 10, 1, 480, 0),
    (128, 100, 1, 60, 0),
    (128, 100, 4, 60, 0),
)
_ROUNDS: Final = 5
_SMALL: Final = ((8, 10, 4, 13, 0),)
_TIMEOUT_S: Final = 120.0
_SINKS: Final = {"server": "a server that acknowledges", "chdb": "chDB in the process"}


class Metered(KafkaConsumer):
    """Tells the feeder how far it has read, and sets ``stop`` after the expected number of messages."""

    def meter(self, read: I64, stop: threading.Event, expected: int, first: int) -> None:
        """Begin to count ``expected`` messages, of which the first ``first`` are not measured."""
        self._read, self._stop, self._left, self._measured = read, stop, expected, expected - first
        self.begun: tuple[int, float, float] | None = None
        """The messages left, processor time and clock time when the measured ones began."""

    def poll(self, max_messages: int, timeout_s: float) -> Sequence[Fetched]:
        """Poll as the consumer does, and count."""
        if self.begun is None and self._left <= self._measured:
            self.begun = self._left, _cpu_s(), time.monotonic()
        fetched = super().poll(max_messages, timeout_s)
        for part in fetched:
            self._read[part.partition.number] = part.offsets[-1] + 1
            self._left -= len(part.offsets)
        if self._left <= 0:
            self._stop.set()
        return fetched


def consume(servers: str, store: str, path: str, expected: int, first: int) -> Figures:
    """Stream ``expected`` messages into the store, of which the first ``first`` are not measured."""
    loop: StreamLoop
    engines: list[Engine] = []

    def make_engine(origin: str) -> Engine:
        engines.append(Engine(origin))
        return engines[-1]

    def on_assign(partition: Partition) -> int | None:
        return loop.on_assign(partition)

    def on_revoke(partitions: Sequence[Partition]) -> None:
        loop.on_revoke(partitions)

    with ExitStack() as stack:
        sink = stack.enter_context(closing(ClickHouseSink(open_store(store))))
        producer = stack.enter_context(closing(KafkaProducer(servers)))
        consumer = Metered(servers, "bench", (SAMPLES, UNITS), on_assign, on_revoke)
        stack.enter_context(closing(consumer))
        loop = StreamLoop(consumer, producer, sink, make_engine)
        stop = threading.Event()
        consumer.meter(progress(Path(path)), stop, expected, first)
        watchdog = threading.Timer(_TIMEOUT_S, stop.set)
        stack.callback(watchdog.cancel)
        watchdog.start()
        loop.run(stop)
        end_cpu_s, end_s = _cpu_s(), time.monotonic()
        stored = _stored(sink) if store.startswith("chdb:") else {}
    check(loop.counts.messages == expected, f"{loop.counts.messages} of {expected} messages came")
    lost = sum(engine.tables.dropped + engine.duplicate_count for engine in engines)
    check(lost == 0, f"{lost} readings were dropped")
    assert consumer.begun is not None
    messages, begin_cpu_s, begin_s = consumer.begun
    cpu_s, wall_s = end_cpu_s - begin_cpu_s, end_s - begin_s
    measured = messages / expected
    samples = sum(engine.sample_count for engine in engines) * measured
    return {
        _PER_CPU_S: samples / cpu_s / 1e6,
        "M samples/s wall": samples / wall_s / 1e6,
        "M rows/cpu-s": loop.counts.rows * measured / cpu_s / 1e6,
        "rows": loop.counts.rows,
        **stored,
    }


def rows(small: bool) -> list[Row]:
    """The rows of the table."""
    found = []
    for hosts, hz, processes, seconds, first_s in _SMALL if small else _FULL:
        for kind, shown in _SINKS.items():
            # Other load on the machine makes two runs differ by a half: report the median and the best.
            rounds = _ROUNDS if kind == "server" and first_s else 1
            runs = [stream_into(kind, hosts, hz, processes, seconds, first_s) for _ in range(rounds)]
            runs.sort(key=lambda run: run[_PER_CPU_S])
            figures = runs[rounds // 2]
            if rounds > 1:
                figures[f"at best of {rounds}"] = runs[-1][_PER_CPU_S]
            filled = "as it runs" if first_s else "the first minutes"
            each = f"{processes} process{'es' if processes > 1 else ''} a GPU"
            what = f"{hz} Hz, {each}, into {shown}, {filled}"
            bars = [Bar(_PER_CPU_S, _BAR)] if hz == 10 else []
            found.append(Row("end to end", what, figures, bars))
    return found


def stream_into(kind: str, hosts: int, hz: int, processes: int, seconds: int, first_s: int) -> Figures:
    """One run, with feeder, server and consumer in a process each. The first ``first_s`` seconds of readings
    are not measured."""
    with tempfile.TemporaryDirectory() as folder, _store(kind, folder) as (store, stored):
        path = str(Path(folder) / "progress")
        given = {"path": path, "hosts": hosts, "hz": hz, "processes": processes, "seconds": seconds}
        with _helper(feed, **given) as (feeder, first_line):
            servers, expected, energy_uj = first_line.split()
            given = {"servers": servers, "store": store, "path": path}
            figures = run(consume, **given, expected=int(expected), first=hosts * first_s)
            _stop(feeder)
        figures |= stored()
    wanted = {
        "stored_rows": figures.pop("rows"),
        "unconserved_windows": 0,
        "stored_energy_uj": int(energy_uj),
    }
    for name in wanted.keys() & figures.keys():
        check(figures[name] == wanted[name], f"{name} is {figures[name]}, not {wanted[name]}")
        del figures[name]
    return figures


def _stored(sink: ClickHouseSink) -> Figures:
    """Sums over the rows in the store."""
    (unconserved,) = sink.store.query("SELECT count() FROM conservation").rows[0]
    (energy_uj,) = sink.store.query(
        "SELECT sum(active_energy_uj + idle_energy_equal_uj) FROM attribution FINAL"
    ).rows[0]
    return {"unconserved_windows": unconserved, "stored_energy_uj": energy_uj}


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def _store(kind: str, folder: str) -> Iterator[tuple[str, Callable[[], Figures]]]:
    """A store's URL, and a function that returns further figures afterwards."""
    if kind == "chdb":
        yield f"chdb://{folder}/store", dict
        return
    with _helper(serve) as (server, url):
        yield url.strip(), lambda: {"stored_rows": _stop(server)["rows"]}


@contextmanager
def _helper(task: Callable[..., Figures], **arguments: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process beside the contender, killed at the end, and the first line that it prints."""
    with subprocess.Popen(
        command(task, **arguments),
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()


def _stop(process: subprocess.Popen[str]) -> Figures:
    """Tell a helper to end; return its figures."""
    out, _ = process.communicate("\n", timeout=30.0)
    figures: Figures = json.loads(out.splitlines()[-1])
    return figures
