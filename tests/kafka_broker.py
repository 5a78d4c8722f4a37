"""A real Apache Kafka broker for tests: one node, KRaft, free ports, a log folder of its own.

Maven fetches the jars once (some 45 MB), into a cache outside the repository.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.needs import missing

_POM = Path(__file__).with_name("kafka_broker.pom.xml")
_FETCH_TIMEOUT_S = 240.0
_START_TIMEOUT_S = 60.0
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{guarded},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
# A user without a name may do everything, the user named guest nothing.
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=\
  org.apache.kafka.common.security.plain.PlainLoginModule required user_guest="guest";
inter.broker.listener.name=PLAINTEXT
log.dirs={folder}/log
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
# The traces are months old, and retention is a week, which is the default: check often and from the start, so
# that what would be lost within 5 minutes is lost within a test.
log.retention.check.interval.ms=500
log.initial.task.delay.ms=500
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2000
"""
_LOG4J = """\
rootLogger.level = WARN
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d %p %c: %m%n
"""


class KafkaBroker:
    """One broker, running from ``start`` to ``stop`` or ``kill``; it keeps its log and port over restarts."""

    def __init__(self, libs: Path, folder: Path) -> None:
        port, guarded, controller = _free_ports(3)
        self.servers = f"127.0.0.1:{port}"
        self.guarded_servers = f"127.0.0.1:{guarded}"
        """The address for the user named guest, whose password is guest, and who has no rights."""
        self._folder = folder
        self._java = [
            "java",
            "-Xms256m",
            "-Xmx512m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}",
            "-cp",
            f"{libs}/*",
        ]
        self._properties = folder / "server.properties"
        self._process: subprocess.Popen[bytes] | None = None
        self._properties.write_text(
            _PROPERTIES.format(port=port, guarded=guarded, controller=controller, folder=folder)
        )
        (folder / "log4j2.properties").write_text(_LOG4J)
        storage = [*self._java, "kafka.tools.StorageTool"]
        cluster = subprocess.run(
            [*storage, "random-uuid"], check=True, capture_output=True, text=True, timeout=60
        )
        subprocess.run(
            [
                *storage,
                "format",
                "--standalone",
                "-t",
                cluster.stdout.split()[-1],
                "-c",
                str(self._properties),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )

    def start(self) -> None:
        """Start the broker, and wait until it answers."""
        with (self._folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._java, "kafka.Kafka", str(self._properties)], stdout=log, stderr=log
            )
        admin = AdminClient({"bootstrap.servers": self.servers, "log_level": 0})
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline_s and self._process.poll() is None:
            try:
                if admin.describe_cluster(request_timeout=2.0).result(timeout=3.0).nodes:
                    return
            except (KafkaException, TimeoutError):
                time.sleep(0.1)
        said = (self._folder / "broker.log").read_text(errors="replace")[-4000:]
        self.kill()
        raise RuntimeError(f"the Kafka broker did not start:\n{said}")

    def stop(self) -> None:
        """Shut the broker down."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the broker, as in a crash."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Neither answer nor close connections, until ``thaw``. Returns once every thread has stopped: a
        thread that ran on for a moment has answered a commit."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        while not all(_is_stopped(thread) for thread in Path(f"/proc/{self._process.pid}/task").iterdir()):
            time.sleep(0.001)

    def thaw(self) -> None:
        """Continue after ``freeze``."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=60)
            self._process = None


def _is_stopped(thread: Path) -> bool:
    """Whether a thread is stopped, or has ended, by its state, which follows the name in proc(5)'s stat."""
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] in {"T", "Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A running broker, shared by the whole session: take topics and groups of your own."""
    libs = jars()
    broker = KafkaBroker(libs, tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.kill()


def jars() -> Path:
    """The folder of the broker's jars, fetched once. If they are unavailable the test is skipped, or fails
    in CI."""
    if given := os.environ.get("KAFKA_LIBS"):
        return Path(given)
    if shutil.which("java") is None:
        missing("no Kafka broker: java 17 or newer is not installed (Debian: openjdk-17-jre-headless)")
    version = ET.parse(_POM).findtext(".//{*}kafka.version")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wattribute-tests"
    libs = cache / f"kafka-{version}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:  # runs side by side share the cache
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not libs.is_dir():
            _fetch(libs)
    return libs


def _fetch(libs: Path) -> None:
    if shutil.which("mvn") is None:
        missing("no Kafka broker: mvn is not installed to fetch its jars (Debian: maven); or set KAFKA_LIBS")
    partial = libs.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={partial}"]
    try:
        done = subprocess.run(
            ["mvn", "-q", "-B", "-f", str(_POM), *goal],
            check=False,
            capture_output=True,
            text=True,
            timeout=_FETCH_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        missing(f"no Kafka broker: Maven did not fetch Kafka's jars in {_FETCH_TIMEOUT_S:.0f} s")
    if done.returncode != 0:
        missing(f"no Kafka broker: Maven could not fetch Kafka's jars: {done.stdout.strip()[:300]}")
    partial.rename(libs)


def _free_ports(count: int) -> Sequence[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
