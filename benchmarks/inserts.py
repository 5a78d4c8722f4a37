"""How fast chDB stores rows of attribution, through the sink that the stream uses."""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence

from benchmarks.contender import Figures, check, run
from benchmarks.synthetic import GPUS_PER_HOST, messages, readings
from benchmarks.table import Row
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.contract import Column
from wattribute.sinks.store import open_store
from wattribute.stream.engine import Engine

_HZ, _PROCESSES = 10, 4

Batch = Mapping[str, Column]


def into_chdb(hosts: int, seconds: int, inserts: int) -> Figures:
    """Time ``inserts`` writes, each with the rows of ``seconds`` windows of all devices. The Arrow stream and
    noting the rollup buckets are included, the rollups themselves are not."""
    batches = _batches(hosts, seconds, inserts)
    count = sum(len(batch["window_start"]) for batch in batches)
    with tempfile.TemporaryDirectory() as folder:
        sink = ClickHouseSink(open_store(f"chdb://{folder}/store"))
        sink.write_attribution(batches[0])  # the first one finds all caches empty
        times_s, begin = [], resource.getrusage(resource.RUSAGE_SELF)
        for batch in batches[1:]:
            begin_s = time.perf_counter()
            sink.write_attribution(batch)
            times_s.append(time.perf_counter() - begin_s)
        end = resource.getrusage(resource.RUSAGE_SELF)
        # Rows written twice (a window first provisional, then final) count as one.
        (windows,) = sink.store.query(
            "SELECT uniqExact(gpu, window_start) FROM attribution FINAL WHERE account = 'process'"
        ).rows[0]
        (unconserved,) = sink.store.query("SELECT count() FROM conservation").rows[0]
        sink.close()
    check(unconserved == 0, f"{unconserved} windows are not conserved")
    expected = hosts * GPUS_PER_HOST * (seconds * inserts - 1)  # the last second has not passed its end
    check(windows == expected, f"{windows} windows stored, not {expected}")
    cpu_s = end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime
    measured = count - len(batches[0]["window_start"])
    return {
        "M rows/s": measured / sum(times_s) / 1e6,
        "M rows/cpu-s": measured / cpu_s / 1e6,
        "ms an insert": statistics.median(times_s) * 1e3,
        "rows an insert": measured / len(times_s),
    }


def rows(small: bool) -> list[Row]:
    """The rows of the table."""
    many, few = (
        ({"hosts": 2, "seconds": 4, "inserts": 3}, {"hosts": 1, "seconds": 1, "inserts": 3})
        if small
        else ({"hosts": 64, "seconds": 20, "inserts": 12}, {"hosts": 1, "seconds": 1, "inserts": 60})
    )
    return [
        Row("inserts", "into chDB, in bulk", run(into_chdb, **many)),
        Row("inserts", "into chDB, a second of one host at a time", run(into_chdb, **few)),
    ]


def _batches(hosts: int, seconds: int, inserts: int) -> Sequence[Batch]:
    """The rows of an engine after each ``seconds`` of readings, provisional and final."""
    made = readings(hosts * GPUS_PER_HOST, _HZ, seconds * inserts, _PROCESSES)
    values = [value for _, value in messages(made)]
    engine = Engine("bench")
    batches: list[Batch] = []
    for begin in range(0, len(values), hosts * seconds):
        batch = values[begin : begin + hosts * seconds]
        engine.take(range(begin, begin + len(batch)), batch)
        batches += engine.rows()
    return batches
