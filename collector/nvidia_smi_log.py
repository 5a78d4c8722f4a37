"""The log of ``nvidia-smi --query-gpu=timestamp,… --format=csv`` as trace records (docs/trace.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any, Final, cast

from wattribute.collector import nvidia_smi_csv as csv
from wattribute.collector.trace import Line, bad_line, raw_lines
from wattribute.errors import RecordError, UsageError, WattributeError, meant
from wattribute.records import (
    PERIOD_MAX_NS,
    TRACE_VERSION,
    Device,
    Exit,
    Gpu,
    Process,
    Record,
    Trace,
    Workload,
    parse,
)

# Identities are repeated this often, as by a live collector, so that a bounded look-back finds them.
_REPEAT_NS: Final = 60_000_000_000
MADE_UP: Final = "log:"
"""The prefix of the names of GPUs for which the log has no UUID."""
_OPTION_KEYS: Final = [
    item.name
    for item in fields(Workload)
    if item.name not in ("t", "pid", "start_ns", "identity_source", "labels")
]


def looks_like_nvidia_smi_log(path: Path | str) -> bool:
    """Whether the first line of a file names columns of nvidia-smi, or contains its kind of timestamp.

    False for standard input (``-``), which cannot be examined without consuming it. Raises WattributeError
    where the file cannot be read.
    """
    if str(path) == "-":
        return False
    for _, raw, _ in raw_lines(path):
        return is_log_line(raw)
    return False


def is_log_line(raw: bytes) -> bool:
    """Whether a line names columns of nvidia-smi, or contains its kind of timestamp."""
    return any(csv.column(cell)[0] in csv.COLUMNS or csv.is_time(cell) for cell in csv.cells(raw))


def option_workload(values: Mapping[str, str]) -> Workload:
    """The workload that an option ``model=…,run=…`` describes. Raises UsageError where it is not valid."""
    obj: dict[str, Any] = dict(values)
    for key in values:
        if key not in _OPTION_KEYS:
            raise UsageError(f"a workload has no field {key!r}; {meant(key, _OPTION_KEYS)}")
    if values.get("attempt", "").isdecimal():
        obj["attempt"] = int(values["attempt"])
    obj |= {"kind": Workload.kind, "t": 1, "pid": 0, "start_ns": 0, "identity_source": "option"}
    try:
        return cast(Workload, parse(obj))
    except RecordError as problem:
        raise UsageError(f"the workload cannot be used: {problem}") from problem


def read_nvidia_smi_log(
    path: Path | str,
    *,
    host: str,
    gpu: str | None = None,
    zone: tzinfo = UTC,
    workload: Workload | None = None,
) -> Iterator[Line]:
    """The items of a log, like those of ``read_trace``: trace, gpu and device records, or a bad line and the
    reason. Columns may be in any order; a repeated header is accepted; a cell without a reading is absent.

    ``gpu`` names the log's only GPU. Without it a GPU's name is its uuid, or ``log:<file stem>:<number>``,
    where the number is its index, or else its place among the bus ids, or else 0. Times are in ``zone``.
    ``workload``, from ``option_workload``, makes the log one process (pid 0) that holds each GPU from its
    first reading to its last. Raises WattributeError, at the first item, where the file cannot be read or
    does not begin with a header that has a timestamp; UsageError where ``gpu`` would name several GPUs.
    """
    name = Path(path).name.removesuffix(".gz").removesuffix(".zst")
    stem = Path(name).stem.encode(errors="replace").decode()  # a file name may be no UTF-8, but a field must
    log = _Log(stem, gpu, zone, workload)
    header: csv.Header | None = None
    number = 0
    for number, raw, error in raw_lines(path):
        cells = csv.cells(raw)
        if error is None and (new_header := csv.Header.of(cells)):
            if b"\r" in raw:
                raise WattributeError(
                    f"{path}: the lines end with a carriage return alone: convert them to line feeds"
                )
            if header is None:
                yield Line(number, Trace(version=TRACE_VERSION, host=host))
            header = new_header
        elif header is None:
            raise WattributeError(f"{path}: {error or _no_header(cells)}")
        elif error is not None:
            yield bad_line(number, error, raw)
        else:
            try:
                records = log.row(header, cells)
            except RecordError as problem:
                yield bad_line(number, str(problem), raw)
                continue
            for record in records:
                yield Line(number, record)
    if header is None:
        raise WattributeError(f"{path} is empty: it contains no nvidia-smi log")
    for record in log.end():
        yield Line(number, record)


@dataclass(slots=True)
class _Seen:
    """When a GPU was last read, and how and when it was last described."""

    t: int
    described: dict[str, str | float]
    described_t: int


class _Log:
    """The state while a log is read: turns the cells of a line into records."""

    def __init__(self, stem: str, gpu: str | None, zone: tzinfo, workload: Workload | None) -> None:
        self._stem = stem
        self._gpu = gpu
        self._zone = zone
        self._workload = workload
        self._workload_t = 0
        self._seen: dict[str, _Seen] = {}  # by the log's own name of the GPU
        self._places: dict[str, int] = {}  # by bus id, in the order of the log

    def row(self, header: csv.Header, cells: list[str]) -> list[Record]:
        """The records of one line. Raises RecordError; then nothing of the line counts."""
        if len(cells) != header.count:
            raise RecordError(f"the line has {len(cells)} cells where the header has {header.count}")
        own_name, index = self._identity(header, cells)
        seen = self._seen.get(own_name)
        if self._gpu is not None and seen is None and self._seen:
            raise UsageError(
                f"the log has several GPUs, and --gpu {self._gpu} can name only one: leave --gpu out"
            )
        gpu = self._gpu or own_name
        t = csv.time_ns(header.text(cells, "timestamp"), self._zone, seen.t if seen else 0)
        described: dict[str, str | float] = dict(seen.described) if seen else {"gpu": gpu}
        readings = header.readings(cells, str(described.get("name", "")))
        if name := header.text(cells, "name"):
            described["name"] = name
        if index is not None:
            described["index"] = index
        for field in ("memory_bytes", "power_limit_mw"):
            if field in readings:
                described[field] = readings.pop(field)
        device = cast(Device, parse({"kind": Device.kind, "t": t, "gpu": gpu, **readings}))

        records: list[Record] = []
        described_t = seen.described_t if seen else 0
        if seen is None or described != seen.described or t - described_t >= _REPEAT_NS:
            records.append(parse({"kind": Gpu.kind, "t": t, **described}))
            described_t = t
        self._seen[own_name] = _Seen(t, described, described_t)
        if self._workload is not None:
            if t - self._workload_t >= _REPEAT_NS:
                records.append(replace(self._workload, t=t))
                self._workload_t = t
            if seen is not None:
                records.append(_held(device, seen.t))
        # The device comes last: its time is what closes windows, and by then its holder is known.
        return [*records, device]

    def end(self) -> list[Record]:
        """The records after the last line: the process ends with the last reading."""
        if self._workload is None or not self._seen:
            return []
        return [Exit(t=max(seen.t for seen in self._seen.values()), pid=0, start_ns=0)]

    def _identity(self, header: csv.Header, cells: list[str]) -> tuple[str, int | None]:
        """The log's name of the GPU of a line, and its index. NVIDIA's own example query distinguishes GPUs
        only by bus id, so their order gives a number: taken as one, eight GPUs would cost as much as one."""
        index_text = header.text(cells, "index")
        if index_text and not re.fullmatch("[0-9]{1,5}", index_text):
            raise RecordError(f"index is {index_text[:40]!r}, not a number")
        index = int(index_text) if index_text else None
        known = next((name for name in ("uuid", "index", "pci.bus_id") if name in header.place), "")
        if known and not header.text(cells, known):
            raise RecordError(f"{known} is missing: the line's GPU is unknown")
        if known == "uuid":
            return header.text(cells, known), index
        place = index or 0
        if known == "pci.bus_id":
            place = self._places.setdefault(header.text(cells, known), len(self._places))
        return f"{MADE_UP}{self._stem}:{place}", index


def _held(device: Device, since_ns: int) -> Process:
    """The record of the process between two readings. A process holds a GPU from its first record -
    period_ns: this record first comes with the second reading, so the process begins at the first."""
    return Process(
        t=device.t,
        gpu=device.gpu,
        pid=0,
        start_ns=0,
        period_ns=min(device.t - since_ns, PERIOD_MAX_NS),
        sm_percent=device.sm_percent,
        memory_percent=device.memory_percent,
        memory_used_bytes=device.memory_used_bytes,
    )


def _no_header(cells: list[str]) -> str:
    if any(csv.is_time(cell) for cell in cells):
        return "the header is missing: log again without noheader, or put the header line in front"
    return "the first line is not an nvidia-smi header with a timestamp: log with --query-gpu=timestamp,…"
