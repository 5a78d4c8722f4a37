"""Fill a store to be queried: rows of a fleet that obey conservation, made by the engine, and their sums."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.schema import IDENTITY, SUMS
from wattribute.sinks.store import Store

START: Final = datetime(2026, 6, 1, tzinfo=UTC)
ROWS_PER_WINDOW: Final = 4  # two processes that serve, one that trains, and what nobody held
_INSERT_ROWS: Final = 1_000_000
_KEYS: Final = ("host", "gpu", "gpu_instance", "account", *IDENTITY)

# Every figure comes from a pseudo-random number of the device and second; the parts add up to the whole.
# 8 GPUs a host, 25 teams, 30 models of some 2 versions, and on each host a run that changes every six hours,
# and is resumed once in the middle of these.
_ROWS: Final = """
    WITH
        intDiv(number, 4) AS at,
        toUInt8(number % 4 + 1) AS place,
        at % {gpus:UInt32} AS device,
        intDiv(at, {gpus:UInt32}) * {step_s:UInt32} + {from_s:UInt32} AS second,
        cityHash64(device, second) AS dice,
        toInt64(100000000 + dice % 200000000) AS active_uj,
        toInt64(70000000 + dice % 1000) AS idle_uj,
        toInt64(400000000 + dice % 100000000) AS first_ns,
        700000000 - first_ns AS idle_ns
    SELECT
        toDateTime64(second, 3, 'UTC') AS window_start,
        1000 AS window_ms,
        concat('node-', leftPad(toString(intDiv(device, 8)), 4, '0')) AS host,
        concat('GPU-', leftPad(toString(device), 8, '0')) AS gpu,
        if(device % 4 = 3, 'NVIDIA H100 80GB HBM3', 'NVIDIA H200') AS gpu_model,
        toInt16(-1) AS gpu_instance,
        if(place = 4, 'unheld', 'process') AS account,
        active_uj + idle_uj AS device_energy_uj,
        'boot' AS boot_id,
        if(place = 4, 0, 1000 + place) AS pid,
        if(place = 4, 0, 1) AS process_start_ns,
        '' AS part, '' AS cluster, '' AS container, '' AS pod, '' AS namespace, '' AS job, '' AS user,
        concat('team-', toString(intDiv(device, 8) % 25)) AS team,
        '' AS application, '' AS workload,
        ['inference', 'inference', 'training', ''][place] AS phase,
        if(place = 4, '', concat(['chat-', 'code-', 'next-'][place], toString(device % 10))) AS model,
        if(place < 3, concat('v', toString(device % 2)), '') AS model_version,
        if(place = 3,
            concat('run-', toString(intDiv(device, 8)), '-', toString(intDiv(second, 21600))), '') AS run,
        toUInt32(if(place = 3, intDiv(second, 10800) % 2, 0)) AS attempt,
        'nebius' AS provider,
        'eu-north1' AS region,
        if(intDiv(device, 8) % 2 = 0, 'on_demand', 'spot') AS pricing,
        map('team', team) AS labels,
        [active_uj - 2 * intDiv(active_uj, 3), intDiv(active_uj, 3), intDiv(active_uj, 3), 0][place]
            AS active_energy_uj,
        [first_ns, 200000000, 100000000, 0][place] AS active_time_ns,
        {shares},
        1 AS memory_bytes,
        'counter' AS energy_source,
        if(place = 4, 'none', 'utilization') AS weight_source,
        'environment' AS identity_source,
        1000000000 AS covered_ns,
        intDiv(active_energy_uj, 20) AS error_uj,
        intDiv(active_time_ns, 20) AS error_ns,
        toUInt32(0) AS flags,
        0 AS segment,
        toUInt64(1) AS version,
        0 AS deleted
    FROM numbers({count:UInt64})"""


def _shares() -> str:
    """Of the idle level a tenth is unheld; the first process holds most of the rest, by policy."""
    shares = []
    for policy, part in (("equal", 4), ("memory", 5), ("active", 8)):
        for name, whole, more in (
            (f"idle_energy_{policy}_uj", "idle_uj", ""),
            (f"gpu_time_{policy}_ns", "idle_ns", "active_time_ns + "),
        ):
            tenth, other = f"intDiv({whole}, 10)", f"intDiv({whole}, {part})"
            first = f"{whole} - {tenth} - 2 * {other}"
            shares.append(f"{more}[{first}, {other}, {other}, {tenth}][place] AS {name}")
    return ",\n        ".join(shares)


ROWS: Final = _ROWS.replace("{shares}", _shares())


def fill_windows(sink: ClickHouseSink, gpus: int, seconds: int) -> int:
    """Add windows of one second of each device, and their rollups; return the number of rows. All inserts but
    the last are merged."""
    columns = ", ".join(sink.store.column_types("attribution"))
    each = max(60, _INSERT_ROWS // (gpus * ROWS_PER_WINDOW) // 60 * 60)
    begin = int(START.timestamp())
    for first in range(0, seconds, each):
        if first + each >= seconds:
            _merge(sink.store, "attribution", "attribution_minute")
        count = min(each, seconds - first)
        minutes = range((begin + first) // 60 * 60, begin + first + count, 60)
        buckets = [
            (f"node-{gpu // 8:04}", f"GPU-{gpu:08}", minute) for gpu in range(gpus) for minute in minutes
        ]
        with sink.rollups.writing(buckets):
            sink.store.command(
                f"INSERT INTO attribution ({columns}) SELECT {columns} FROM ({ROWS})",
                {
                    "gpus": gpus,
                    "step_s": 1,
                    "from_s": begin + first,
                    "count": gpus * count * ROWS_PER_WINDOW,
                },
            )
        sink.refresh_rollups()
    return gpus * seconds * ROWS_PER_WINDOW


def fill_outcomes(store: Store, gpus: int, seconds: int) -> int:
    """Add what the processes of ``fill_windows`` report: the engine on each GPU its tokens, every 5 s, except
    for a minute an hour; the runs a checkpoint every 10 minutes, and where they resume. Return the number of
    units."""
    begin = int(START.timestamp())
    params = {"gpus": gpus, "from_s": begin, "count": gpus * (seconds // 5), "seconds": seconds}
    store.command(_UNITS, params)
    store.command(_RUN_EVENTS, params)
    ((units,),) = store.query("SELECT count() FROM unit").rows
    return int(units)


_UNITS: Final = """
    INSERT INTO unit (t, period_ns, host, boot_id, pid, process_start_ns, source, authority, model,
        model_version, phase, unit, quantity, event_id, version)
    WITH
        number % {gpus:UInt32} AS device,
        {from_s:UInt32} + 5 + 5 * intDiv(number, {gpus:UInt32}) AS second,
        cityHash64(device, second) AS dice
    SELECT
        toDateTime64(second, 9, 'UTC'), 5000000000,
        concat('node-', leftPad(toString(intDiv(device, 8)), 4, '0')), 'boot', 1001, 1, 'vllm', 4,
        concat('chat-', toString(device % 10)),
        concat('v', toString(device % 2)), 'inference', told.1, told.2,
        concat(toString(device), ' v', toString(device % 2), ' ', toString(second), '000000000'), 1
    FROM numbers({count:UInt64})
    ARRAY JOIN [('observed_ns', 5e9), ('input_tokens', dice % 9000), ('cached_tokens', dice % 900),
        ('output_tokens', intDiv(dice, 9000) % 3000), ('requests', dice % 7)] AS told
    WHERE (second + 37 * device) % 3600 >= 60"""
_RUN_EVENTS: Final = """
    INSERT INTO run_event (run, attempt, t, event, step, steps)
    WITH
        {from_s:UInt32} + 600 * intDiv(number, intDiv({gpus:UInt32} + 7, 8)) AS second,
        number % intDiv({gpus:UInt32} + 7, 8) AS node,
        intDiv(second, 10800) % 2 AS resumed,
        intDiv(second % 21600, 6) AS step
    SELECT
        concat('run-', toString(node), '-', toString(intDiv(second, 21600))), resumed,
        toDateTime64(second, 9, 'UTC') + toIntervalMillisecond(250),
        if(second % 10800 = 0, 'start', 'checkpoint'),
        if(second % 21600 = 10800, step - 130, step), 3600
    FROM numbers((1 + intDiv({seconds:UInt32}, 600)) * intDiv({gpus:UInt32} + 7, 8))
    WHERE second < {from_s:UInt32} + {seconds:UInt32}"""


def fill_hours(store: Store, gpus: int, hours: int) -> int:
    """Add only the sums of hours and days, merged, each hour 3600 times its first second; return the number
    of rows of hours."""
    keys, sums = ", ".join(_KEYS), ", ".join(SUMS)
    identity = ", ".join(IDENTITY)
    count = gpus * hours * ROWS_PER_WINDOW
    store.command(
        f"INSERT INTO attribution_hour (bucket_start, {keys}, identity, {sums}, window_count, version)"
        f" SELECT window_start, {keys}, sipHash64({identity}),"
        f" {', '.join(f'3600 * {name}' for name in SUMS)},"
        f" 3600, 1 FROM ({ROWS})",
        {"gpus": gpus, "step_s": 3600, "from_s": int(START.timestamp()), "count": count},
    )
    store.command(
        f"INSERT INTO attribution_day (bucket_start, {keys}, identity, {sums}, window_count, version)"
        f" SELECT toStartOfDay(bucket_start) AS day, {keys}, identity,"
        f" {', '.join(f'sum({name})' for name in SUMS)}, sum(window_count), 1"
        f" FROM attribution_hour FINAL GROUP BY day, {keys}, identity"
    )
    _merge(store, "attribution_hour", "attribution_day")
    return count


def _merge(store: Store, *tables: str) -> None:
    """Merge tables, because what a stream writes gets merged by itself: of 2.9 M rows in inserts of two
    seconds, 0.4 % were in no merged part after the last one. Inserts of a million rows are not merged."""
    for table in tables:
        store.command(f"OPTIMIZE TABLE {table}")
