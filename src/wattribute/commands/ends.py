"""Open the two ends of the bus, and stop a command that runs until a signal comes."""

from __future__ import annotations

import faulthandler
import fcntl
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from wattribute.bus import SAMPLES, TOPICS, UNITS, Consumer, OnAssign, OnRevoke, Position, Producer
from wattribute.collector.local_log import LocalLog
from wattribute.collector.log_file import FILE_NAME
from wattribute.commands.output import note
from wattribute.errors import BusError
from wattribute.settings import Settings, local_folder
from wattribute.wire import Encoder

if TYPE_CHECKING:
    from wattribute.collector.kafka_producer import KafkaProducer

_BROKER_S: Final = 10.0
_END_S: Final = 150.0  # a store that does not answer may take 120 s of it
_STUCK: Final = (
    "the bus or the store does not answer, so this cannot end properly. Ending anyway; nothing is lost"
)
_SPOOLING_S: Final = 2.0  # a collector waits no longer for Kafka before it goes on
_STREAMING: Final = f"{FILE_NAME}-streaming"  # locked by the stream that reads this folder
_COLLECTING: Final = f"{FILE_NAME}-collecting"  # locked by every collector that sends through this folder


def open_sending_end(settings: Settings) -> tuple[Producer, LocalLog]:
    """Return the producer of a collector, and the log that numbers its epochs: the local log is both. With
    Kafka the log is the spool, which keeps messages while Kafka is away. Raises BusError, UsageError."""
    folder = local_folder(settings.bus)
    if folder is not None:
        log = _local_log(folder, settings)
        return log, log
    from wattribute.collector.spool import SpoolingProducer

    log = _local_log(Path(settings.spool), settings)
    producer = _kafka_producer(settings)
    try:
        _ensure_topics(producer, settings, (SAMPLES, UNITS), _SPOOLING_S)
    except BusError as error:
        note(f"{error} Meanwhile samples are kept in {settings.spool}")
    return SpoolingProducer(log, producer), log


@contextmanager
def collecting(settings: Settings) -> Iterator[None]:
    """Hold the lock that ``is_collected`` looks at, for the length of a with statement."""
    lock = os.open(_log_folder(settings) / _COLLECTING, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def is_collected(settings: Settings) -> bool:
    """Whether a collector of this machine sends to the bus."""
    return _is_locked(_log_folder(settings) / _COLLECTING)


def tell_of_another(settings: Settings) -> None:
    """Warn if a collector of this machine already sends to the bus. Call it before ``collecting``."""
    if is_collected(settings):
        note(
            f"another collector of this machine already sends to {settings.bus}: while both run, the counts"
            " of serving engines are reported twice; end one of them"
        )


def is_used(folder: Path) -> bool:
    """Whether a collector sends to a local log, or a stream reads it."""
    return _is_locked(folder / _COLLECTING) or _is_locked(folder / _STREAMING)


def _is_locked(file: Path) -> bool:
    try:
        lock = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # there is no lock yet, or this user may not open it
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def own_boot_id() -> str:
    """The id of the current boot of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def own_encoder(settings: Settings) -> Encoder:
    """An encoder of records that no collector sends. Its epoch is below all of theirs, so that these records
    do not look like a restart of the host's collector."""
    return Encoder(settings.host, own_boot_id(), epoch=0)


def open_producer(settings: Settings) -> Producer:
    """A producer for a few messages, without a spool. Raises BusError, UsageError."""
    folder = local_folder(settings.bus)
    if folder is not None:
        return _local_log(folder, settings)
    producer = _kafka_producer(settings)
    try:
        _ensure_topics(producer, settings, (SAMPLES, UNITS), _BROKER_S)
    except BaseException:
        producer.close()
        raise
    return producer


@contextmanager
def receiving_end(
    settings: Settings, on_assign: OnAssign, on_revoke: OnRevoke
) -> Iterator[tuple[Consumer, Producer]]:
    """A consumer of samples and units, and a producer of state and dead letters. Raises BusError."""
    folder = local_folder(settings.bus)
    if folder is not None:
        from wattribute.collector.local_consumer import LocalConsumer

        with closing(_local_log(folder, settings)) as log, _streaming(folder):
            yield LocalConsumer(log, (SAMPLES, UNITS), on_assign), log
        return
    from wattribute.stream.kafka_consumer import KafkaConsumer

    with closing(_kafka_producer(settings)) as producer:
        _ensure_topics(producer, settings, TOPICS, _BROKER_S)
        servers, config = _servers(settings), _config(settings)
        with closing(
            KafkaConsumer(servers, settings.kafka_group, (SAMPLES, UNITS), on_assign, on_revoke, config)
        ) as consumer:
            yield consumer, producer


@contextmanager
def _streaming(folder: Path) -> Iterator[None]:
    """Be the only stream that reads a local log: it keeps one read position, for one store."""
    lock = os.open(folder / _STREAMING, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusError(
                f"another 'wattribute up' or 'stream' reads the local log in {folder}; stop it first"
            ) from None
        yield
    finally:
        os.close(lock)


@contextmanager
def stopping(within_s: float = _END_S) -> Iterator[threading.Event]:
    """An event that SIGTERM or Ctrl-C sets; a second one ends the process at once, unless it comes with the
    first, as timeout sends it.

    So does the first, if the with statement has not ended ``within_s`` after it. On a machine that had been
    frozen for minutes, librdkafka once did not return from leaving its group. It may hold Python's lock
    then, which faulthandler's thread does not need. What was not committed will be done again."""
    stop = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    with Path(os.devnull).open("w") as nowhere, ExitStack() as stack:

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)
            faulthandler.dump_traceback_later(within_s, exit=True, file=nowhere)
            # In another thread, because what this handler interrupted may hold the lock of the event.
            threading.Thread(target=stop.set, daemon=True).start()
            for number in numbers:
                signal.signal(number, signal.SIG_DFL)
            stack.callback(faulthandler.cancel_dump_traceback_later)
            teller = threading.Timer(0.9 * within_s, note, [_STUCK])
            teller.daemon = True
            teller.start()
            stack.callback(teller.cancel)

        for number in numbers:
            stack.callback(signal.signal, number, signal.signal(number, on_signal))
        yield stop


class Worker:
    """A task in a thread of its own. If it fails, ``stop`` is set, ``error`` has its exception, and ``join``
    raises that."""

    def __init__(self, task: Callable[[], object], stop: threading.Event, name: str) -> None:
        self._task = task
        self._stop = stop
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wait(self, most_s: float | None = None) -> None:
        """Wait for the end of the task, whether or not it fails."""
        self._thread.join(most_s)

    def join(self) -> None:
        """Wait for the end of the task, and raise its error."""
        self.wait()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            self._task()
        except BaseException as error:
            self.error = error
            self._stop.set()


def _log_folder(settings: Settings) -> Path:
    """The folder of the local bus, or of the spool in front of Kafka."""
    return local_folder(settings.bus) or Path(settings.spool)


def _local_log(folder: Path, settings: Settings) -> LocalLog:
    log = LocalLog(folder, max_bytes=settings.spool_max_bytes)
    if log.quarantined is not None:
        note(
            f"the local log in {folder} was damaged: it was moved to {log.quarantined}, and a new one was"
            " started"
        )
    return log


def _kafka_producer(settings: Settings) -> KafkaProducer:
    from wattribute.collector.kafka_producer import KafkaProducer

    return KafkaProducer(_servers(settings), _config(settings))


def _ensure_topics(
    producer: KafkaProducer, settings: Settings, topics: Sequence[str], timeout_s: float
) -> None:
    # Only samples are many enough to be shared. A group assigns partitions by number, whatever they hold:
    # with as many partitions of units, one of two streams got all units and the other all samples.
    partitions = dict.fromkeys(topics, 1) | {SAMPLES: settings.kafka_partitions}
    producer.ensure_topics(partitions, replication=settings.kafka_replication, timeout_s=timeout_s)


def _servers(settings: Settings) -> str:
    return settings.bus.removeprefix("kafka://").strip("/")


def _config(settings: Settings) -> dict[str, str]:
    password = {"sasl.password": settings.kafka_password} if settings.kafka_password else {}
    return {**settings.kafka, **password}


def why_not_made(folder: Path) -> str:
    """Why a missing folder cannot be created; empty if it can."""
    # lexists, because there may be a dangling link
    above = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryDirectory(dir=above):
            return ""
    except OSError as error:
        return f"{folder} cannot be created: {above}: {error.strerror}"


def check_bus(settings: Settings) -> str:
    """Describe the state of the bus. Raises BusError where it does not answer."""
    folder = local_folder(settings.bus)
    if folder is None:
        with closing(_kafka_producer(settings)) as producer:
            producer.check(_BROKER_S)
        return f"{settings.bus} answers"
    if not folder.exists():
        if reason := why_not_made(folder):
            raise BusError(f"{reason}; choose another --bus")
        return f"there is none in {folder} yet: 'wattribute up' or 'collect' creates it"
    with closing(LocalLog(folder, max_bytes=settings.spool_max_bytes, set_aside=False)) as log:
        ends, dropped = log.end_offsets(), log.dropped_messages()
        ends = {topic: end for topic, end in ends.items() if topic in (SAMPLES, UNITS)}  # streams read these
        waiting = sum(end - (log.committed(topic) or Position(0)).next_offset for topic, end in ends.items())
    lost = f", {dropped:,} were dropped before they were read" if dropped else ""
    return f"{folder}: {sum(ends.values()):,} messages so far, {waiting:,} not yet in the store{lost}"
