"""Made-up devices: what a collector would read of them, as arrays and as messages, with a fixed seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wattribute.records import Device, Process, Record
from wattribute.wire import PREFIX, Encoder

SEED: Final = 42
SECOND_NS: Final = 1_000_000_000
START_NS: Final = 1_780_000_000 * SECOND_NS  # a whole second, and minute
GPUS_PER_HOST: Final = 8
RECORD_AT_NS: Final = 950_000_000  # into each second: when the slow lane read the processes
_JITTER_NS: Final = 1_000_000
_MEAN_MW: Final = 350_000
_IDLE_MW: Final = 60_000

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Readings:
    """Devices over ``seconds``: samples (devices, n), and for each process a record per second and one beyond
    the last window, with memory and SM percent, which is never 0 (devices, processes, seconds + 1)."""

    hz: int
    seconds: int
    t_ns: I64
    energy_mj: I64
    power_mw: I32
    memory_bytes: I64
    sm_percent: F32

    @property
    def devices(self) -> int:
        """The number of devices."""
        return int(self.t_ns.shape[0])

    @property
    def processes(self) -> int:
        """The number of processes on each device."""
        return int(self.sm_percent.shape[1])

    @property
    def windows(self) -> int:
        """How many windows of 1 s end within the readings, over all devices."""
        return self.devices * self.seconds

    def record_ns(self) -> I64:
        """When the processes were read, (seconds + 1)."""
        return START_NS + np.arange(self.seconds + 1) * SECOND_NS + RECORD_AT_NS


def readings(devices: int, hz: int, seconds: int, processes: int) -> Readings:
    """Make readings: a sample every 1 / hz s with up to 1 ms of jitter, the last beyond the last window. The
    counter grows at random, and with what the processes do, each with its own watts."""
    rng = np.random.default_rng(SEED)
    n = hz * seconds + 1
    t_ns = np.arange(n, dtype=np.int64) * (SECOND_NS // hz) + rng.integers(0, _JITTER_NS, (devices, n))
    t_ns += START_NS
    memory_bytes = rng.integers(1 << 30, 40 << 30, (devices, processes, seconds + 1))
    sm_percent = rng.integers(1, 60, (devices, processes, seconds + 1)).astype(np.float32)
    record = (np.arange(n) * (SECOND_NS // hz) + SECOND_NS - RECORD_AT_NS) // SECOND_NS
    energy_mj = rng.integers(_IDLE_MW // hz, 2 * _IDLE_MW // hz, (devices, n))
    for process in range(processes):
        per_percent_mj = rng.integers(500, 6_000 // processes, (devices, 1)) // hz
        energy_mj += sm_percent[:, process, record].astype(np.int64) * per_percent_mj
    np.cumsum(energy_mj, axis=1, out=energy_mj)
    power_mw = rng.integers(0, 2 * _MEAN_MW, (devices, n), dtype=np.int32)
    return Readings(hz, seconds, t_ns, energy_mj, power_mw, memory_bytes, sm_percent)


def counter_uj(made: Readings, device: int, at_ns: I64) -> I64:
    """The counter of a device at some times, interpolated in integers; before the first sample its value."""
    t_ns, energy_mj = made.t_ns[device], made.energy_mj[device]
    at_ns = np.clip(at_ns, t_ns[0], t_ns[-1])
    after = np.clip(np.searchsorted(t_ns, at_ns, side="right"), 1, len(t_ns) - 1)
    from_ns, from_mj = t_ns[after - 1], energy_mj[after - 1]
    gain_uj = (energy_mj[after] - from_mj) * 1000
    found: I64 = from_mj * 1000 + gain_uj * (at_ns - from_ns) // (t_ns[after] - from_ns)
    return found


def records(made: Readings, host: int, second: int) -> list[Record]:
    """The records that the collector of a host of 8 GPUs emits at its flush after ``second``."""
    flush: list[Record] = []
    gpus = range(host * GPUS_PER_HOST, (host + 1) * GPUS_PER_HOST)
    for tick in range(second * made.hz, (second + 1) * made.hz):
        for gpu in gpus:
            slow = tick % made.hz == made.hz - 1  # readings of the slow lane go with one sample a second
            flush.append(
                Device(
                    t=int(made.t_ns[gpu, tick]),
                    gpu=_uuid(gpu),
                    energy_mj=int(made.energy_mj[gpu, tick]),
                    power_mw=int(made.power_mw[gpu, tick]),
                    power_average_mw=_MEAN_MW,
                    sm_percent=71.0,
                    memory_percent=40.0,
                    memory_used_bytes=100 << 30 if slow else None,
                    temperature_c=61 if slow else None,
                    sm_clock_mhz=1980 if slow else None,
                )
            )
    for gpu in gpus:
        flush.extend(
            Process(
                t=START_NS + second * SECOND_NS + RECORD_AT_NS,
                gpu=_uuid(gpu),
                pid=1000 + gpu * made.processes + number,
                start_ns=START_NS - 1,
                period_ns=SECOND_NS,
                sm_percent=float(made.sm_percent[gpu, number, second]),
                memory_percent=30.0,
                memory_used_bytes=int(made.memory_bytes[gpu, number, second]),
            )
            for number in range(made.processes)
        )
    return flush


def messages(made: Readings) -> Iterator[tuple[int, bytes]]:
    """(host, message) of all hosts, second by second: the bytes that ``Encoder`` makes of ``records``, but
    much faster, by writing what changes into the message of the first second."""
    hosts = made.devices // GPUS_PER_HOST
    templates = [bytearray(_encoded(made, host)) for host in range(hosts)]
    views = [_View(template) for template in templates]
    for second in range(made.seconds):
        for host in range(hosts):
            views[host].set(made, host, second)
            yield host, bytes(templates[host])


def host_name(host: int) -> str:
    """The name of the n-th host."""
    return f"node-{host:04}"


class _View:
    """The places of a message that change from second to second."""

    def __init__(self, message: bytearray) -> None:
        _, header_bytes, _, _, rows, process_rows = PREFIX.unpack_from(message)
        self._message = message
        begin = PREFIX.size + header_bytes
        self._t = np.frombuffer(message, "<i8", rows, begin)
        self._energy = np.frombuffer(message, "<i8", rows, begin + 8 * rows)
        # three columns of 8 bytes, then gpu, then power; row counts are multiples of 8, so nothing is padded
        self._power = np.frombuffer(message, "<i4", rows, begin + 28 * rows)
        process_begin = begin + (3 * 8 + 7 * 4) * rows
        self._process_t = np.frombuffer(message, "<i8", process_rows, process_begin)
        self._process_memory = np.frombuffer(message, "<i8", process_rows, process_begin + 16 * process_rows)
        self._process_sm = np.frombuffer(message, "<f4", process_rows, process_begin + 28 * process_rows)

    def set(self, made: Readings, host: int, second: int) -> None:
        """Turn it into the message of a second: samples GPU by GPU, then processes."""
        gpus = slice(host * GPUS_PER_HOST, (host + 1) * GPUS_PER_HOST)
        ticks = slice(second * made.hz, (second + 1) * made.hz)
        magic, header_bytes, epoch, _, rows, process_rows = PREFIX.unpack_from(self._message)
        PREFIX.pack_into(self._message, 0, magic, header_bytes, epoch, second + 1, rows, process_rows)
        self._t[:] = made.t_ns[gpus, ticks].reshape(-1)
        self._energy[:] = made.energy_mj[gpus, ticks].reshape(-1)
        self._power[:] = made.power_mw[gpus, ticks].reshape(-1)
        self._process_t[:] = START_NS + second * SECOND_NS + RECORD_AT_NS
        self._process_memory[:] = made.memory_bytes[gpus, :, second].reshape(-1)
        self._process_sm[:] = made.sm_percent[gpus, :, second].reshape(-1)


def _encoded(made: Readings, host: int) -> bytes:
    ((_, _, value),) = Encoder(host_name(host), "boot-1", epoch=1).encode(records(made, host, 0))
    return value


def _uuid(gpu: int) -> str:
    return f"GPU-{gpu:08x}-0000-4000-8000-000000000000"
