"""The kernels, with learning, against polars and ClickHouse that compute only the plain ratio.

The plain ratio: what the counter gained in a window of 1 s, split by the SM time that was read in it. It has
no learned watts, no idle level, no policies, no cuts within a window, no whole numbers and no error band.
Both peers interpolate the counter at the edges of the windows, and both give the same energies."""

from __future__ import annotations

import tempfile
from typing import Final

import clickhouse_connect
import numpy as np
from numpy.typing import NDArray

from benchmarks.contender import Figures, check, compared, rounds_of, timed_s
from benchmarks.kernel import attribution
from benchmarks.synthetic import I64, SECOND_NS, START_NS, Readings, counter_uj, readings
from benchmarks.table import Bar, Row
from wattribute.kernels import result as r

F64 = NDArray[np.float64]

# hz, devices, seconds
_FULL: Final = ((10, 64, 2000), (100, 64, 400))
_SMALL: Final = ((10, 4, 20),)
_ROUNDS: Final = 3
_PROCESSES: Final = 4
_BARS: Final = (Bar("times polars", 3.0), Bar("times ClickHouse", 10.0))
_TABLES: Final = {
    "samples": "device Int64, t_ns Int64, energy_mj Int64",
    "records": "device Int64, process Int64, t_ns Int64, sm Float64",
    "ratio": "device Int64, window Int64, process Int64, energy_mj Float64",
}
_SPLIT: Final = """
    INSERT INTO ratio
    WITH
        windows AS (
            SELECT device, intDiv(t_ns, 1000000000) AS window, min(t_ns) AS first_ns, max(t_ns) AS last_ns,
                min(energy_mj) AS first_mj, max(energy_mj) AS last_mj
            FROM samples
            GROUP BY device, window
        ),
        edges AS (
            SELECT device, window, lagInFrame(last_ns) OVER before AS before_ns,
                lagInFrame(last_mj) OVER before AS before_mj,
                if(before_ns = 0, first_mj, before_mj + (first_mj - before_mj)
                    * (window * 1000000000 - before_ns) / (first_ns - before_ns)) AS at_mj
            FROM windows
            WINDOW before AS (PARTITION BY device ORDER BY window ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
        ),
        gains AS (
            SELECT device, window, leadInFrame(at_mj) OVER after - at_mj AS gain_mj
            FROM edges
            WINDOW after AS (PARTITION BY device ORDER BY window ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING)
        ),
        used AS (SELECT device, intDiv(t_ns, 1000000000) AS window, process, sm FROM records),
        sums AS (SELECT device, window, sum(sm) AS all_sm FROM used GROUP BY device, window)
    SELECT device, window, process, gain_mj * sm / all_sm
    FROM used
    INNER JOIN sums USING (device, window)
    INNER JOIN gains USING (device, window)
    WHERE window < {until:Int64}
"""


def by_kernel(hz: int, devices: int, seconds: int, repetitions: int) -> Figures:
    """The kernels, with learning, into exact rows."""
    made = readings(devices, hz, seconds, _PROCESSES)
    ready = attribution(made, learns=True)
    (took_s,) = timed_s([ready.call], repetitions)
    rows = ready.out[:, : ready.call()]
    split_uj = rows[r.ACTIVE_ENERGY].sum() + rows[r.IDLE_EQUAL].sum()
    check(split_uj == _gains_uj(made).sum(), "the rows do not add up to the counters")
    return _rate(made, took_s)


def by_polars(hz: int, devices: int, seconds: int, repetitions: int) -> Figures:
    """polars, lazy frames in one thread."""
    from benchmarks.peers_polars import frames, ratio_by_polars  # noqa: PLC0415 - polars may be absent

    made = readings(devices, hz, seconds, _PROCESSES)
    given = frames(made)
    (took_s,) = timed_s([lambda: ratio_by_polars(made, given)], repetitions)
    _check(made, ratio_by_polars(made, given))
    return _rate(made, took_s)


def by_clickhouse(hz: int, devices: int, seconds: int, repetitions: int) -> Figures:
    """ClickHouse, in this process and in one thread, from tables in memory into another."""
    from benchmarks.peers_polars import frames  # noqa: PLC0415 - polars may be absent

    made = readings(devices, hz, seconds, _PROCESSES)
    given = frames(made)
    with tempfile.TemporaryDirectory() as folder:
        client = clickhouse_connect.get_client(interface="chdb", path=folder, settings={"max_threads": 1})
        for name, columns in _TABLES.items():
            client.command(f"CREATE TABLE {name} ({columns}) ENGINE = Memory")
        client.insert_arrow("samples", given.samples.collect().to_arrow())
        client.insert_arrow("records", given.records.drop("bytes").collect().to_arrow())

        def split() -> None:
            client.command("TRUNCATE TABLE ratio")
            client.command(_SPLIT, parameters={"until": START_NS // SECOND_NS + seconds})

        (took_s,) = timed_s([split], repetitions)
        found = client.query_arrow("SELECT energy_mj FROM ratio ORDER BY device, window, process")
        client.close()
    _check(made, found.column(0).to_numpy())
    return _rate(made, took_s)


_CONTENDERS: Final = {"kernel": by_kernel, "polars": by_polars, "ClickHouse": by_clickhouse}


def rows(small: bool) -> list[Row]:
    """The rows of the table."""
    found = []
    for hz, devices, seconds in _SMALL if small else _FULL:
        size = {"hz": hz, "devices": devices, "seconds": seconds, "repetitions": 1 if small else 3}
        figures = compared(rounds_of(_CONTENDERS, 1 if small else _ROUNDS, **size))
        shown = f"{hz} Hz, {_PROCESSES} processes a GPU, learning"
        found.append(Row("plain ratio", shown, figures, _BARS if hz == 10 else []))
    return found


def _gains_uj(made: Readings) -> I64:
    """What each counter gained in each window, from its first sample on: (devices, seconds)."""
    edges_ns = START_NS + np.arange(made.seconds + 1) * SECOND_NS
    return np.stack([np.diff(counter_uj(made, device, edges_ns)) for device in range(made.devices)])


def _check(made: Readings, energy_mj: F64) -> None:
    """Check the result of a peer: energies by device, window and process."""
    sm_percent = made.sm_percent[:, :, : made.seconds].transpose(0, 2, 1).astype(np.float64)
    due_mj = _gains_uj(made)[:, :, None] / 1e3 * sm_percent / sm_percent.sum(axis=2, keepdims=True)
    # the counter in whole microjoules is up to 1 less at each edge
    is_right = np.allclose(energy_mj.reshape(due_mj.shape), due_mj, rtol=1e-9, atol=2e-3)
    check(is_right, "the energies of a peer are wrong")


def _rate(made: Readings, took_s: float) -> Figures:
    return {"M samples/s": made.t_ns.size / took_s / 1e6}
