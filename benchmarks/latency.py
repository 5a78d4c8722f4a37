"""How soon a window can be queried: from sending the message that passes its end, to its rows."""

from __future__ import annotations

import random
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from benchmarks.contender import Figures, check, run
from benchmarks.synthetic import GPUS_PER_HOST, SECOND_NS, SEED, START_NS, messages, readings
from benchmarks.table import Bar, Row
from wattribute.bus import SAMPLES
from wattribute.collector.local_log import LocalLog
from wattribute.commands.ends import Worker
from wattribute.commands.streaming import opened_stream
from wattribute.settings import load_settings
from wattribute.sinks.store import Store
from wattribute.stream import loop as loop_module

_BAR_MS: Final = 100.0
_HZ, _PROCESSES = 10, 4
_PAUSE_S: Final = (0.15, 0.35)  # uneven, so that it never keeps pace with the loop
_ROLLUP_S: Final = 5.0
_POLL_S: Final = 0.001
_TIMEOUT_S: Final = 30.0
_QUESTION: Final = """SELECT uniqExact(gpu) FROM attribution
    WHERE window_start = fromUnixTimestamp64Milli({ms:Int64}) AND host = 'node-0000'"""


def through_one_process(windows: int) -> Figures:
    """Measure a host of 8 GPUs with local log, stream and chDB in one process, as in `wattribute up`.

    A message of one second of samples is sent every 0.15 to 0.35 s. The delay includes the query. Rollups are
    refreshed twelve times as often as by default, so that some refreshes fall into the run."""
    loop_module.ROLLUP_S = _ROLLUP_S  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings({"bus": f"local://{folder}/bus", "store": f"chdb://{folder}/store"})
        delays_s: list[float] = []
        with opened_stream(settings) as (sink, loop, _):
            stop = threading.Event()
            reader = sink.store.reader()

            def ask() -> None:
                delays_s.extend(_ask(Path(folder) / "bus", reader, windows))
                stop.set()

            asking = Worker(ask, stop, "asking")
            loop.run(stop)
            asking.join()
            reader.close()
    return {
        "ms median": statistics.median(delays_s) * 1e3,
        "ms 95th percentile": statistics.quantiles(delays_s, n=20)[-1] * 1e3,
        "ms at most": max(delays_s) * 1e3,
    }


def rows(small: bool) -> list[Row]:
    """The rows of the table."""
    figures = run(through_one_process, windows=5 if small else 80)
    bar = Bar("ms 95th percentile", _BAR_MS, at_most=True)
    return [Row("latency", "sent to queryable, local log and chDB in one process", figures, [bar])]


def _ask(folder: Path, reader: Store, windows: int) -> list[float]:
    """The delay of each window except the first two, which are slow because everything happens first."""
    made = readings(GPUS_PER_HOST, _HZ, windows + 3, _PROCESSES)
    pauses = random.Random(SEED)
    log = LocalLog(folder)
    delays_s = []
    for second, (_, value) in enumerate(messages(made)):
        time.sleep(pauses.uniform(*_PAUSE_S))
        begin_s = time.monotonic()
        log.send(SAMPLES, "node-0000", value, (START_NS + second * SECOND_NS) // 1_000_000)
        check(log.flush(1.0) == 0, "the local log did not accept a message")
        if second == 0:
            continue  # the first message ends no window
        passed = {"ms": (START_NS + (second - 1) * SECOND_NS) // 1_000_000}
        while reader.query(_QUESTION, passed).rows != [(GPUS_PER_HOST,)]:
            time.sleep(_POLL_S)
            check(time.monotonic() < begin_s + _TIMEOUT_S, "a window did not come in time")
        delays_s.append(time.monotonic() - begin_s)
    log.close()
    return delays_s[2:]
