"""Messages to the byte: the encoder against the layout read off the text at the head of ``wire.py``."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattribute import wire
from wattribute.bus import SAMPLES, UNITS
from wattribute.records import Device, Gap, Process, Record, Unit, as_json
from wattribute.stream.engine import Engine
from wattribute.wire import ABSENT, PREFIX, Encoder

HOST, BOOT, EPOCH = "node-1", "boot-1", 1_790_000_000
EIGHT = (("t", "q"), ("energy_mj", "q"), ("memory_used_bytes", "q"))
DEVICE = (
    *EIGHT,
    *((name, "i") for name in ("gpu", "power_mw", "power_average_mw", "temperature_c", "sm_clock_mhz")),
    *((name, "f") for name in ("sm_percent", "memory_percent")),
)
PROCESS = (
    *((name, "q") for name in ("t", "period_ns", "memory_used_bytes")),
    ("process", "i"),
    *((name, "f") for name in ("sm_percent", "memory_percent")),
)


Sample = Device | Process


def expected(seq: int, devices: Sequence[Device], processes: Sequence[Process]) -> bytes:
    """The message value by value; slow, and plain."""
    gpus = list(dict.fromkeys([r.gpu for r in devices] + [r.gpu for r in processes]))
    by_gpu = [device for gpu in gpus for device in devices if device.gpu == gpu]
    holders = [(gpus.index(r.gpu), r.gpu_instance, r.pid, r.start_ns) for r in processes]
    known = list(dict.fromkeys(holders))
    names: dict[str, list[str]] = {"device": [], "process": []}
    body = b""
    for kind, layout, records, index in (
        ("device", DEVICE, list[Sample](by_gpu), [gpus.index(device.gpu) for device in by_gpu]),
        ("process", PROCESS, list[Sample](processes), [known.index(holder) for holder in holders]),
    ):
        for name, code in layout:
            values = index if name in ("gpu", "process") else [getattr(record, name) for record in records]
            if all(value is None for value in values):
                continue
            names[kind].append(name)
            for value in values:
                body += struct.pack("<" + code, ABSENT if value is None else value)
            body += b"\0" * (-len(body) % 8)
    header = orjson.dumps(
        {"schema": 1, "host": HOST, "boot_id": BOOT, "gpus": gpus, "processes": known, **names}
    )
    header += b" " * (-len(header) % 8)
    prefix = struct.pack("<4sIqqII", b"WSB1", len(header), EPOCH, seq, len(devices), len(processes))
    return prefix + header + body


def maybe(least: int, most: int) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(least, most)


PERCENT = st.none() | st.floats(0, 100)
GPU = st.sampled_from(["GPU-a", "GPU-b", "GPU-c"])
TIME = st.integers(1, 1 << 61)
DEVICES = st.builds(
    Device,
    t=TIME,
    gpu=GPU,
    energy_mj=maybe(0, 1 << 52),
    power_mw=maybe(0, 10_000_000),
    power_average_mw=maybe(0, 10_000_000),
    sm_percent=PERCENT,
    memory_percent=PERCENT,
    memory_used_bytes=maybe(0, 1 << 62),
    temperature_c=maybe(-100, 200),
    sm_clock_mhz=maybe(0, 100_000),
)
PROCESSES = st.builds(
    Process,
    t=TIME,
    gpu=GPU,
    pid=st.integers(0, 3),
    start_ns=st.integers(0, 1),
    period_ns=maybe(1, 1 << 40),
    gpu_instance=st.integers(-1, 1),
    sm_percent=PERCENT,
    memory_percent=PERCENT,
    memory_used_bytes=maybe(0, 1 << 62),
)


@given(st.lists(DEVICES | PROCESSES, min_size=1, max_size=20))
def test_samples_are_the_bytes_of_the_layout(records: list[Sample]) -> None:
    encoder = Encoder(HOST, BOOT, EPOCH, seq=6)
    devices = [record for record in records if isinstance(record, Device)]
    processes = [record for record in records if isinstance(record, Process)]
    assert encoder.encode(records) == [(SAMPLES, HOST, expected(7, devices, processes))]


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        (Device(t=5, gpu="GPU-a"), {"device": ["t", "gpu"], "process": []}),
        (Process(t=5, gpu="GPU-a", pid=1, start_ns=2), {"device": [], "process": ["t", "process"]}),
    ],
)
def test_columns_that_are_absent_are_left_out(record: Record, columns: dict[str, list[str]]) -> None:
    ((_, _, value),) = Encoder(HOST, BOOT, EPOCH).encode([record])
    header = orjson.loads(value[32 : 32 + int.from_bytes(value[4:8], "little")])
    assert {name: header[name] for name in columns} == columns


def test_a_value_that_does_not_fit_is_no_silent_wrap() -> None:
    with pytest.raises(struct.error):
        Encoder(HOST, BOOT, EPOCH).encode([Device(t=5, gpu="GPU-a", power_mw=1 << 31)])


def test_what_is_rare_goes_first_and_units_by_model() -> None:
    device = Device(t=5, gpu="GPU-a", energy_mj=1)
    gap = Gap(t=5, from_ns=1, to_ns=4)
    units = [Unit(t=5, model=model, unit="requests", quantity=1.0) for model in ("m1", "m2", "m1")]
    messages = Encoder(HOST, BOOT, EPOCH).encode([device, units[0], gap, *units[1:]])
    assert [(topic, key) for topic, key, _ in messages] == [
        (SAMPLES, HOST),
        (SAMPLES, HOST),
        (UNITS, "m1"),
        (UNITS, "m2"),
    ]
    rare, samples, first, second = (value for _, _, value in messages)
    assert orjson.loads(rare)["records"] == [as_json(gap)]
    assert samples == expected(2, [device], [])
    assert [orjson.loads(value)["seq"] for value in (rare, first, second)] == [1, 3, 4]
    assert [record["model"] for record in orjson.loads(first)["records"]] == ["m1", "m1"]


def test_so_many_units_are_messages_that_kafka_takes_each_named_by_what_it_is() -> None:
    units = [
        Unit(t=5, model="m", unit="images", quantity=1.0, application="a" * (n % 300)) for n in range(6_000)
    ]
    messages = [value for _, _, value in Encoder(HOST, BOOT, EPOCH).encode(units)]
    read = [orjson.loads(value) for value in messages]
    assert max(map(len, messages)) < 600_000
    assert [message["seq"] for message in read] == [1, 2, 3]
    assert [record for message in read for record in message["records"]] == [as_json(u) for u in units]
    assert [value for _, _, value in Encoder(HOST, BOOT, EPOCH).encode(units)] == messages


def test_so_many_processes_are_messages_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SENT_MOST_BYTES", 150_000)  # and so many samples
    devices = [Device(t=5 + n, gpu="GPU-a", energy_mj=n) for n in range(2)]
    processes = [
        Process(t=5 + n, gpu="GPU-a", pid=pid, start_ns=2, period_ns=1, sm_percent=1)
        for n in range(2)
        for pid in range(5_000)
    ]
    encoder, decoded = Encoder("host-1", BOOT, EPOCH), Engine("test")
    messages = [value for _, _, value in encoder.encode([*devices, *processes])]
    assert len(messages) > 2
    assert max(map(len, messages)) <= 150_000
    decoded.take(range(len(messages)), messages)
    assert (decoded.tables.dropped, decoded.sample_count) == (0, 2)
    counts = [PREFIX.unpack_from(value)[3:] for value in messages]
    assert [seq for seq, _, _ in counts] == [*range(1, len(messages) + 1)]
    assert sum(rows for _, _, rows in counts) == 10_000


def test_a_record_that_is_too_large_by_itself_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SENT_MOST_BYTES", 1)
    records = [
        Device(t=5, gpu="GPU-a"),
        Process(t=5, gpu="GPU-a", pid=1, start_ns=2),
        Gap(t=5, from_ns=1, to_ns=4),
    ]
    assert len(Encoder(HOST, BOOT, EPOCH).encode(records)) == 3
