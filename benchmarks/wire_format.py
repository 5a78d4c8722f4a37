"""Messages: how fast they are encoded and decoded, and how long they are."""

from __future__ import annotations

import hashlib
from typing import Final

import zstandard

from benchmarks.contender import Figures, check, run, timed_s
from benchmarks.synthetic import GPUS_PER_HOST, Readings, host_name, messages, readings, records
from benchmarks.table import Row
from wattribute.stream.engine import Engine
from wattribute.wire import Encoder

_HOSTS: Final = 16
_BATCH: Final = 256
# samples a message: hz; with 4 processes on each of the 8 GPUs
_SIZES: Final = {112: 10, 832: 100}
_PROCESSES: Final = 4


def encode(hz: int, seconds: int, repetitions: int) -> Figures:
    """Encode a collector's flushes as messages, in plain Python: the collector has no array library."""
    made = readings(GPUS_PER_HOST, hz, seconds, _PROCESSES)
    flushes = [records(made, 0, second) for second in range(seconds)]
    sent: list[bytes] = []

    def task() -> None:
        encoder = Encoder(host_name(0), "boot-1", epoch=1)
        sent[:] = [value for flush in flushes for _, _, value in encoder.encode(flush)]

    (took_s,) = timed_s([task], repetitions)
    samples = sum(map(len, flushes))
    size = sum(map(len, sent))
    packed = sum(len(zstandard.compress(value, 1)) for value in sent)
    return {
        "M samples/s": samples / took_s / 1e6,
        "bytes a sample raw": size / samples,
        "bytes a sample zstd": packed / samples,
        "hash": _hash(sent),
        "expected": _hash([value for _, value in messages(made)]),
    }


def decode(hz: int, seconds: int, repetitions: int) -> Figures:
    """Decode messages of 16 hosts into the series of a new engine: headers, checks, and the ingest kernel."""
    made = readings(_HOSTS * GPUS_PER_HOST, hz, seconds, _PROCESSES)
    values = [value for _, value in messages(made)]
    engines: list[Engine] = []

    def task() -> None:
        engines[:] = [Engine("bench")]
        for begin in range(0, len(values), _BATCH):
            batch = values[begin : begin + _BATCH]
            engines[0].take(range(begin, begin + len(batch)), batch, quiet=True)

    (took_s,) = timed_s([task], repetitions)
    _check_taken(made, engines[0])
    samples = len(values) * GPUS_PER_HOST * (hz + _PROCESSES)
    return {"M samples/s": samples / took_s / 1e6}


def rows(small: bool) -> list[Row]:
    """The rows of the table."""
    found = []
    for samples, hz in _SIZES.items():
        size = {"hz": hz, "repetitions": 1 if small else 5}
        encoded = run(encode, seconds=3 if small else 2000 // hz, **size)
        check(encoded.pop("hash") == encoded.pop("expected"), "messages made by array differ from Encoder's")
        decoded = run(decode, seconds=3 if small else 3000 // hz, **size)
        shown = f"{samples} samples a message"
        rate = encoded.pop("M samples/s")
        found.append(Row("wire", f"encode, {shown}", {"M samples/s": rate, **encoded}))
        found.append(Row("wire", f"decode and ingest, {shown}", decoded))
    return found


def _check_taken(made: Readings, engine: Engine) -> None:
    """Check that every reading is in its series."""
    devices, n = engine.series.devices, made.hz * made.seconds
    check(engine.tables.dropped + engine.duplicate_count == 0, "messages were dropped")
    check(bool((devices.length[: made.devices] == n).all()), "samples are missing")
    for name in ("t_ns", "energy_mj", "power_mw"):
        taken = getattr(devices, name)[: made.devices, :n]
        check(bool((taken == getattr(made, name)[:, :n]).all()), f"{name} differs")


def _hash(values: list[bytes]) -> str:
    return hashlib.sha256(b"".join(values)).hexdigest()
