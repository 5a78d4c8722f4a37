"""Headers as the kernel finds them: many, of many hosts, forgotten and met again."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from tests.stream.host import SECOND_NS, START_NS, table
from wattribute.records import Device, Process, Record
from wattribute.stream.engine import Engine
from wattribute.wire import Encoder

HOSTS = 150


def flush(host: int, second: int, processes: Sequence[int]) -> list[Record]:
    t = START_NS + second * SECOND_NS
    gpus = [f"GPU-{host}-{n}" for n in range(1 + host % 3)]
    made: list[Record] = [
        Device(t=t + tick * 100_000_000, gpu=gpu, energy_mj=1 + second * 1000 + tick * 100)
        for gpu in gpus
        for tick in range(10)
    ]
    return made + [
        Process(t=t, gpu=gpus[0], pid=pid, start_ns=START_NS, period_ns=SECOND_NS, sm_percent=5.0)
        for pid in processes
    ]


def test_every_host_keeps_its_own_whatever_comes_between() -> None:
    """Hosts whose names begin alike, processes that come and go, garbage and cut messages in between."""
    rng = random.Random(3)
    encoders = [Encoder(f"a-host-with-a-long-name-{n:04}", "boot-1", epoch=1 + n) for n in range(HOSTS)]
    good: list[bytes] = []
    mixed: list[tuple[bytes, bool]] = []
    for second in range(4):
        for host, encoder in enumerate(encoders):
            processes = rng.sample(range(100, 110), rng.randrange(1, 4))
            for _, _, value in encoder.encode(flush(host, second, processes)):
                good.append(value)
                mixed.append((value, True))
                wrong = (value[:-8], value[:40], value[:-3], value[:4], b"WSB1", b"{}", b"")
                mixed += [(piece, False) for piece in wrong if rng.random() < 0.1]
    alone = Engine("t")
    alone.take(range(len(good)), good)
    whole = table(alone.rows())
    assert alone.tables.dropped == 0
    assert len({key[0] for key in whole}) == HOSTS

    engine, offset, rows = Engine("t"), 0, []
    numbers = np.cumsum([is_good for _, is_good in mixed]) - 1
    while offset < len(mixed):
        part = mixed[offset : offset + rng.choice([1, 7, 300])]
        # Those that are wrong bear the offset of the good one before them: versions are then the same.
        engine.take(numbers[offset : offset + len(part)].tolist(), [value for value, _ in part])
        offset += len(part)
        rows += engine.rows()
        if rng.random() < 0.1:
            engine.decoder.forget_headers()
    assert engine.tables.dropped == sum(not is_good for _, is_good in mixed)
    assert table(rows) == whole
