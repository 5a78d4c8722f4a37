"""A collector that ends in order: what it read is final then, whenever rows are asked for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stream import host as made_host
from wattribute.records import Device, End, Process, Record
from wattribute.stream.engine import Engine
from wattribute.wire import Encoder

SECOND_NS = made_host.SECOND_NS
START_NS = made_host.START_NS


def readings(from_s: int, to_s: int) -> list[list[Record]]:
    """300 W, held by one process; the last second is not complete."""
    flushes: list[list[Record]] = []
    for second in range(from_s, to_s):
        t = START_NS + second * SECOND_NS
        flushes.append(
            [
                Device(t=t + k * SECOND_NS // 10, gpu="g", energy_mj=10**6 + 300_000 * second + 30_000 * k)
                for k in range(10)
            ]
        )
        flushes[-1].append(Process(t=t + SECOND_NS // 2, gpu="g", pid=9, start_ns=7, period_ns=SECOND_NS))
    return flushes


def messages(*epochs: list[list[Record]]) -> list[made_host.Message]:
    """Of one collector after the other."""
    values = []
    for number, flushes in enumerate(epochs):
        encoder = Encoder("host-1", "boot-1", epoch=1 + number)
        values += [value for flush in flushes for _, _, value in encoder.encode(flush)]
    return list(enumerate(values))


def total_uj(rows: Any) -> int:
    return int(sum(row["active_energy_uj"] + row["idle_energy_equal_uj"] for row in rows.values()))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_all_is_final_when_the_collector_has_ended(size: int) -> None:
    flushes = readings(0, 20)
    sent = messages([*flushes, [End(t=flushes[-1][9].t)]])
    rows = made_host.table(made_host.stream(Engine("test"), sent, [size], end=False))
    assert not any(row["flags"] & 1 for row in rows.values())
    assert total_uj(rows) == 300_000_000 * 20 - 30_000_000  # to the last reading
    engine = Engine("test")
    engine.take([offset for offset, _ in sent], [value for _, value in sent])
    assert made_host.table(engine.rows(restate=False, provisional=False)) == rows


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_collector_that_starts_again_goes_on_from_there(size: int) -> None:
    flushes = readings(0, 20)
    sent = messages([*flushes, [End(t=flushes[-1][9].t)]], readings(22, 40))
    rows = made_host.table(made_host.stream(Engine("test"), sent, [size], end=False))
    provisional = {row["window_start"] for row in rows.values() if row["flags"] & 1}
    assert provisional == {(START_NS // SECOND_NS + second) * 1000 for second in range(29, 39)}
    assert total_uj(rows) == 300_000_000 * 39
    assert {row["account"] for row in rows.values() if row["flags"] & 2} == {"process", "residual"}
