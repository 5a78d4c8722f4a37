"""Through a real broker, with streams in processes of their own: the same figures, whoever streams.

One topic of four partitions with six hosts on it, one of them that of the golden trace. Three groups read it:
a process that nothing disturbs, one that is killed again and again, and two at a time.
"""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.kafka_broker import KafkaBroker, jars
from tests.survival.processes import (
    POLICIES,
    Row,
    asked,
    assert_sound,
    completed,
    is_killed,
    ran,
    rows_of,
    started,
    wait_until,
)
from wattribute.bus import DEAD, SAMPLES, STATE, UNITS
from wattribute.collector.kafka_producer import KafkaProducer
from wattribute.collector.local_log import LocalLog
from wattribute.collector.publish import Publisher
from wattribute.collector.spool import SpoolingProducer
from wattribute.collector.trace import read_trace
from wattribute.records import Record, Trace

pytestmark = pytest.mark.long

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
KEY = ("host", "gpu", "gpu_instance", "window_start", "account", "boot_id", "pid", "process_start_ns", "part")
# Of units but one: the group shares out partitions by their number, whatever they hold, so that with as many
# of units one process could get all of those, and the other all samples.
PARTITIONS = {SAMPLES: 4, UNITS: 1, STATE: 1, DEAD: 1}
HOSTS = 5  # besides the golden one
KILLS = 5
# Kafka gives the partitions of a process that was killed to the next one when its session is over: 45 s.
IMPATIENT = """
[kafka]
"session.timeout.ms" = "1500"
"heartbeat.interval.ms" = "300"
"""


class Collected(NamedTuple):
    """What one host's collector sends, flush by flush."""

    origin: Trace
    flushes: Sequence[Sequence[Record]]


class Streamed(NamedTuple):
    """The stores of a stream that nothing disturbed, of the killed one, and of the two that share."""

    one: str
    killed: str
    two: tuple[str, str]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Collected]:
    folder = tmp_path_factory.mktemp("traces")
    simulated = ("--simulate", "--scenario", "churn", "--virtual-time", "--duration", "40")
    for number in range(HOSTS):
        named = ("--host", f"node-{number}", "--seed", str(number))
        ran("record", folder / f"{number}.ndjson", *simulated, *named, "--start", "2026-06-01")
    return [collected(path) for path in [GOLDEN / "exclusive.ndjson", *sorted(folder.iterdir())]]


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """Of these tests alone, for their topics are those of the product, which others make anew."""
    broker = KafkaBroker(jars(), tmp_path_factory.mktemp("own-kafka"))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(scope="module")
def streamed(
    own_broker: KafkaBroker, hosts: Sequence[Collected], tmp_path_factory: pytest.TempPathFactory
) -> Streamed:
    folder = tmp_path_factory.mktemp("streams")
    bus = f"kafka://{own_broker.servers}"
    made = Streamed(
        f"chdb://{folder}/one", f"chdb://{folder}/killed", (f"chdb://{folder}/a", f"chdb://{folder}/b")
    )
    (folder / "wattribute.toml").write_text(IMPATIENT)
    stream = ("stream", "--bus", bus, "--config", folder / "wattribute.toml", "--store")
    rng = random.Random(4)
    with ExitStack() as stack:
        producer = KafkaProducer(own_broker.servers)
        producer.ensure_topics(PARTITIONS, replication=1, timeout_s=30)
        log = LocalLog(folder / "spool")
        spool = stack.enter_context(closing(SpoolingProducer(log, producer)))
        publishers = [Publisher(spool, log, host.origin.host, host.origin.boot_id) for host in hosts]
        pair = [started(*stream, store, kafka_group="two") for store in made.two]
        for process in pair:
            stack.enter_context(process)  # waits for its end
            stack.callback(process.kill)
        wait_until(lambda: members(own_broker, "two") == 2, pair[0])
        seconds = max(len(host.flushes) for host in hosts)
        for kill in range(KILLS):
            process = started(*stream, made.killed, kafka_group="killed")
            send(publishers, hosts, seconds * kill // KILLS, seconds * (kill + 1) // KILLS)
            if kill == KILLS - 1:  # so that it left something, however slow the machine is
                wait_until(partial(has_rows_by_now, made.killed), process)
            assert is_killed(process, rng.uniform(2, 5))
        assert spool.flush(30) == 0
        for store, process in zip(made.two, pair, strict=True):
            wait_until(partial(has_rows, store), process)
            process.send_signal(signal.SIGTERM)
            completed(process)
    assert has_rows(made.killed)
    for store, group in ((made.one, "one"), (made.killed, "killed"), (made.two[0], "two")):
        ran(*stream, store, "--until-idle", kafka_group=group)
    return made


def test_the_golden_trace_comes_out_exactly(streamed: Streamed) -> None:
    expected = json.loads((GOLDEN / "expected.json").read_bytes())
    price = ("--per-gpu-hour", str(expected["price_per_gpu_hour_usd"]), "--provider", "golden")
    ran("price", "add", "--gpu", "NVIDIA H200", *price, "--store", streamed.one)
    assert_sound(streamed.one)
    of_host = "FROM attribution FINAL WHERE host = 'golden-1'"
    windows, units, *by_policy = asked(
        streamed.one,
        f"SELECT uniqExact(window_start) AS n {of_host}",
        "SELECT model, sum(quantity) AS n FROM unit FINAL WHERE host = 'golden-1' GROUP BY model",
        *(
            f"SELECT model, sum(active_energy_uj + idle_energy_{policy}_uj) AS energy_uj,"
            f" sum(gpu_time_{policy}_ns) AS gpu_time_ns {of_host} GROUP BY model"
            for policy in POLICIES
        ),
        *(
            f"SELECT model, sum(cost_usd) AS usd FROM cost(policy = '{policy}', since = '2020-01-01',"
            " until = '2100-01-01') WHERE host = 'golden-1' GROUP BY model"
            for policy in POLICIES
        ),
    )
    assert windows == [{"n": expected["window_count"]}]
    due = {**expected["process"], "": expected["unheld"]}
    assert {row["model"]: row["n"] for row in units} == {
        model: part["output_tokens"] for model, part in expected["process"].items()
    }
    for rows, costs in zip(by_policy[:3], by_policy[3:], strict=True):
        assert {row["model"]: (row["energy_uj"], row["gpu_time_ns"]) for row in rows} == {
            model: (part["energy_uj"], part["gpu_time_ns"]) for model, part in due.items()
        }
        found = {row["model"] or "unheld": row["usd"] for row in costs}
        assert found == pytest.approx(expected["cost_usd"], abs=1e-9)


def test_a_stream_that_is_killed_again_and_again_leaves_the_same_rows(streamed: Streamed) -> None:
    assert_sound(streamed.killed)
    left, due = rows_of(streamed.killed), rows_of(streamed.one)
    for table, rows in due.items():
        assert left[table] == rows, table


def test_two_streams_that_share_the_partitions_write_what_one_writes(streamed: Streamed) -> None:
    merged: dict[tuple[object, ...], Row] = {}
    for store in streamed.two:
        (rows,) = asked(store, "SELECT * FROM attribution ORDER BY version")
        assert rows
        for row in rows:
            key = tuple(row[name] for name in KEY)
            if key not in merged or merged[key]["version"] <= row["version"]:
                merged[key] = row
    left = [row for row in merged.values() if not row["deleted"]]
    (due,) = asked(streamed.one, "SELECT * FROM attribution FINAL ORDER BY ALL")

    def ordered(rows: Sequence[Row]) -> list[Row]:
        return sorted(rows, key=lambda row: [str(row[name]) for name in KEY])

    assert ordered(left) == ordered(due)


def collected(path: Path) -> Collected:
    """A trace as its collector would have sent it: a flush each second."""
    origin: Trace | None = None
    seconds: dict[int, list[Record]] = {}
    for line in read_trace(path):
        if isinstance(line.record, Trace):
            origin = line.record
        elif line.record is not None:
            seconds.setdefault(line.record.t // 1_000_000_000, []).append(line.record)
    assert origin is not None
    return Collected(origin, list(seconds.values()))


def send(publishers: Sequence[Publisher], hosts: Sequence[Collected], begin: int, end: int) -> None:
    """Send the flushes from ``begin`` to ``end`` of all hosts, side by side."""
    for second in range(begin, min(end, max(len(host.flushes) for host in hosts))):
        for publisher, host in zip(publishers, hosts, strict=True):
            if second < len(host.flushes):
                publisher(host.flushes[second])


def members(broker: KafkaBroker, group: str) -> int:
    """How many members of a group have been given partitions."""
    admin = AdminClient({"bootstrap.servers": broker.servers})
    try:
        described = admin.describe_consumer_groups([group], request_timeout=10)[group].result()
    except KafkaException:  # the group is only being made, or its coordinator
        return 0
    return sum(bool(member.assignment.topic_partitions) for member in described.members)


def has_rows_by_now(store: str) -> bool:
    """As ``has_rows``, of a store that may be yet to come."""
    try:
        return has_rows(store)
    except AssertionError:
        return False


def has_rows(store: str) -> bool:
    """Whether a stream that runs has written anything."""
    ((row,),) = asked(store, "SELECT count() AS n FROM attribution")
    return bool(row["n"])
