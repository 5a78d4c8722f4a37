"""The format of messages: little-endian columns after a small header that names them (docs/bus.md).

A message has one of two forms; its first byte says which:

    W…   samples: prefix | header | device columns | process columns
    {…   JSON: {"schema", "host", "boot_id", "epoch", "seq", "records": [trace records]}, for rare records

    prefix   32 bytes, ``PREFIX``: magic, header bytes, epoch, seq, device rows, process rows
    header   JSON, padded with spaces to 8 bytes: {"schema", "host", "boot_id", "gpus": [uuid],
             "processes": [[gpu, gpu_instance, pid, start_ns]], "device": [column], "process": [column]}
    columns  8-byte columns first, then 4-byte ones, each padded to 8 bytes; ``gpu`` and ``process`` are
             indices into the header's lists; -1 means absent; a column without values is left out

Identities are in the header because it hardly ever changes: a reader that has seen the same bytes before
need not parse them again (a message is then 2 to 4 times cheaper, `benchmarks/`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import orjson

from wattribute.bus import SAMPLES, UNITS
from wattribute.records import Device, Process, Quality, Record, Unit, as_json

SCHEMA: Final = 1
MAGIC: Final = b"WSB1"
PREFIX: Final = struct.Struct("<4sIqqII")
SENT_MOST_BYTES: Final = 512 << 10
"""Largest size of a message with several records: Kafka refuses more than 1 MB by default."""
GPUS_MOST: Final = 1024
PROCESSES_MOST: Final = 4096

# name -> struct's code: q and i are 8 and 4 byte integers, f a 4 byte float; 8-byte columns first.
DEVICE_COLUMNS: Final = {
    "t": "q",
    "energy_mj": "q",
    "memory_used_bytes": "q",
    "gpu": "i",
    "power_mw": "i",
    "power_average_mw": "i",
    "temperature_c": "i",
    "sm_clock_mhz": "i",
    "sm_percent": "f",
    "memory_percent": "f",
}
PROCESS_COLUMNS: Final = {
    "t": "q",
    "period_ns": "q",
    "memory_used_bytes": "q",
    "process": "i",
    "sm_percent": "f",
    "memory_percent": "f",
}
ABSENT: Final = -1


def padded(size: int) -> int:
    """The next multiple of 8."""
    return (size + 7) & ~7


class Encoder:
    """Makes messages of one host's records, each with the host's epoch and the next sequence number.

    Records that exceed the limits of one message are sent as several, in order. How they are divided depends
    on the records alone, because epoch, sequence number and place in the message identify a unit."""

    def __init__(self, host: str, boot_id: str, epoch: int, seq: int = 0) -> None:
        self.host = host
        self.boot_id = boot_id
        self.epoch = epoch
        self.seq = seq

    def encode(self, records: Iterable[Record]) -> list[tuple[str, str, bytes]]:
        """Messages (topic, key, value) of the records: rare ones, then samples, then units."""
        devices: list[Device] = []
        processes: list[Process] = []
        rare: list[Record] = []
        outcomes: dict[str, list[Record]] = {}
        for record in records:
            if isinstance(record, Device):
                devices.append(record)
            elif isinstance(record, Process):
                processes.append(record)
            elif isinstance(record, Unit | Quality):
                outcomes.setdefault(record.model, []).append(record)
            else:
                rare.append(record)
        messages: list[tuple[str, str, bytes]] = []
        if rare:
            messages.extend((SAMPLES, self.host, value) for value in self._json(rare))
        if devices or processes:
            messages.extend((SAMPLES, self.host, value) for value in self._samples(devices, processes))
        for model, group in outcomes.items():
            messages.extend((UNITS, model, value) for value in self._json(group))
        return messages

    def _next_seq(self) -> int:
        self.seq += 1
        return self.seq

    def _json(self, records: Sequence[Record]) -> Iterator[bytes]:
        for texts in _together([orjson.dumps(as_json(record)) for record in records]):
            yield orjson.dumps(
                {
                    "schema": SCHEMA,
                    "host": self.host,
                    "boot_id": self.boot_id,
                    "epoch": self.epoch,
                    "seq": self._next_seq(),
                    "records": [orjson.Fragment(text) for text in texts],
                }
            )

    def _samples(self, devices: Sequence[Device], processes: Sequence[Process]) -> list[bytes]:
        # The rows of a GPU are adjacent, so that a reader takes them as one run.
        runs: dict[str, list[Device]] = {}
        for device in devices:
            runs.setdefault(device.gpu, []).append(device)
        gpus = {gpu: index for index, gpu in enumerate(runs)}
        holders: dict[tuple[int, int, int, int], int] = {}
        # Rows have the order of the layout. They are written out because access by name took twice the time.
        device_rows = [
            (
                r.t,
                r.energy_mj,
                r.memory_used_bytes,
                gpu,
                r.power_mw,
                r.power_average_mw,
                r.temperature_c,
                r.sm_clock_mhz,
                r.sm_percent,
                r.memory_percent,
            )
            for gpu, run in enumerate(runs.values())
            for r in run
        ]
        process_rows = [
            (
                r.t,
                r.period_ns,
                r.memory_used_bytes,
                holders.setdefault(
                    (gpus.setdefault(r.gpu, len(gpus)), r.gpu_instance, r.pid, r.start_ns), len(holders)
                ),
                r.sm_percent,
                r.memory_percent,
            )
            for r in processes
        ]
        device_names, device_bytes = _columns(DEVICE_COLUMNS, device_rows)
        process_names, process_bytes = _columns(PROCESS_COLUMNS, process_rows)
        header = orjson.dumps(
            {
                "schema": SCHEMA,
                "host": self.host,
                "boot_id": self.boot_id,
                "gpus": list(gpus),
                "processes": list(holders),
                "device": device_names,
                "process": process_names,
            }
        )
        header = header.ljust(padded(len(header)))
        size = PREFIX.size + len(header) + sum(map(len, device_bytes)) + sum(map(len, process_bytes))
        is_too_large = size > SENT_MOST_BYTES or len(gpus) > GPUS_MOST or len(holders) > PROCESSES_MOST
        if is_too_large and len(devices) + len(processes) > 1:
            # Rounded up and down, so that neither half is empty.
            device_half, process_half = len(devices) // 2, (len(processes) + 1) // 2
            first = self._samples(devices[:device_half], processes[:process_half])
            return first + self._samples(devices[device_half:], processes[process_half:])
        prefix = PREFIX.pack(MAGIC, len(header), self.epoch, self._next_seq(), len(devices), len(processes))
        return [b"".join((prefix, header, *device_bytes, *process_bytes))]


def _together(texts: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The records of each message, in order; a record that is too large gets a message of its own."""
    together: list[bytes] = []
    size = 0
    for text in texts:
        if together and size + len(text) > SENT_MOST_BYTES:
            yield together
            together, size = [], 0
        together.append(text)
        size += len(text) + 1
    if together:
        yield together


def _columns(
    layout: dict[str, str], rows: Sequence[tuple[float | None, ...]]
) -> tuple[list[str], list[bytes]]:
    """Name and bytes of each column that has any value."""
    names: list[str] = []
    columns: list[bytes] = []
    turned = zip(*rows, strict=True)
    for (name, code), values in zip(layout.items(), turned, strict=bool(rows)):
        packing = f"<{len(values)}{code}"
        try:
            column = struct.pack(packing, *values)
        except struct.error:  # some are None: to look for None first would double the time
            if values.count(None) == len(values):
                continue
            column = struct.pack(packing, *[ABSENT if value is None else value for value in values])
        names.append(name)
        columns.append(column.ljust(padded(len(column)), b"\0"))
    return names, columns
