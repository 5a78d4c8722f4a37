"""Decode messages into what the ingest kernel takes (buffers, layouts, events), and into rows of small
tables.

What cannot be used becomes a dead letter with its offset and reason; the messages around it are kept.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress
from struct import Struct
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from wattribute.errors import RecordError
from wattribute.kernels import headers as h
from wattribute.kernels import messages as k
from wattribute.kernels.series import PROCESS, Batch
from wattribute.records import (
    End,
    Exit,
    Gap,
    Gpu,
    Host,
    Instance,
    Process,
    Quality,
    Record,
    Reservation,
    Run,
    Unit,
    Workload,
    parse,
    shown,
)
from wattribute.stream.fleet import FleetWatts
from wattribute.stream.headers import Headers
from wattribute.stream.identity import Identities
from wattribute.stream.instances import Instances, slices_of
from wattribute.stream.reservations import Reservations
from wattribute.stream.series import DeviceKey, HolderKey, Series
from wattribute.stream.tables import Tables
from wattribute.wire import DEVICE_COLUMNS, GPUS_MOST, MAGIC, PREFIX, PROCESS_COLUMNS, PROCESSES_MOST, SCHEMA

_LAYOUTS_MOST: Final = 10_000
_EXITS_MOST: Final = 100_000  # an exit may come before the process's first record on a device
_MESSAGE_MOST_BYTES: Final = 16 << 20
EXCERPT_BYTES: Final = 200
_SET_BACK_NS: Final = 1_000_000_000  # an epoch may begin this much earlier: the clock was not set back then
_REPEATED_MOST_NS: Final = 100_000_000_000
_GAP_AHEAD_NS: Final = 86_400_000_000_000  # a gap may end later than its record, where a clock was set back
_FIRST_T: Final = Struct("<q")  # the first column contains the times


class Pending:
    """Decoded messages, in order, until the ingest kernel takes them."""

    def __init__(self) -> None:
        # Flat arrays, not lists of tuples: Python's garbage collector went through all those objects, which
        # took a tenth of all time.
        self.messages: array[int]  # seven numbers a message, see ``kernels.messages``
        self.events: array[int]  # four numbers an event
        self.joined = b""  # the bytes of all messages that consist of whole words
        self.clear()

    def clear(self) -> None:
        """Begin again: the kernel has taken them."""
        self.messages, self.events = array("q"), array("q")

    def add_events(self, host_row: int, offset: int, events: Iterable[tuple[int, int, int, int]]) -> None:
        """Add a message with its events for the kernel; nothing, if it has none."""
        begin = len(self.events) // 4
        for event in events:
            self.events.extend(event)
        end = len(self.events) // 4
        if end > begin:
            self.messages.extend((k.EVENTS_MESSAGE, host_row, offset, begin, end, 0, 0))


class Decoder:
    """Decodes the messages of one partition; remembers the headers it has seen.

    ``settle`` is called with the messages so far before a new identity is noted, because what that does not
    change must be attributed without it. After that ``begin_anew`` is called with the row of a host whose
    clock was set back, and whose readings are to be forgotten."""

    def __init__(
        self,
        series: Series,
        identities: Identities,
        tables: Tables,
        settle: Callable[[Pending], None],
        begin_anew: Callable[[int], None],
        fleet: FleetWatts,
    ) -> None:
        self.series = series
        self.identities = identities
        self.tables = tables
        self._settle = settle
        self._begin_anew = begin_anew
        self._fleet = fleet
        self._headers = Headers()
        self._exits: dict[tuple[str, str, int, int], int] = {}
        self._reservations = Reservations(series, identities)
        self._instances = Instances(series)

    def forget_headers(self) -> None:
        """Forget all headers, so that they are parsed again: rows that they name may have been freed."""
        self._headers.forget()

    def batch(self, pending: Pending) -> Batch:
        """Return what the ingest kernel takes, made of decoded messages."""
        joined, headers = pending.joined, self._headers
        messages = np.frombuffer(pending.messages, np.int64).reshape(-1, 7)
        # Host by host: hosts are independent, and a host's series then stay in the cache
        # (8 us -> 2 us a message of 80 samples, 20 hosts).
        messages = messages[np.argsort(messages[:, k.HOST], kind="stable")]
        return Batch(
            words=np.frombuffer(joined, "<i8"),
            halves=np.frombuffer(joined, "<i4"),
            floats=np.frombuffer(joined, "<f4"),
            messages=messages,
            events=np.array(pending.events).reshape(-1, 4),
            layouts=np.array(headers.layouts, np.int64).reshape(-1, k.LAYOUT_COLUMNS),
            device_ids=np.array(headers.device_ids, np.int32),
            holder_ids=np.array(headers.holder_ids, np.int32),
        )

    def decode(self, offsets: Sequence[int], values: Sequence[bytes]) -> Pending:
        """Decode messages in order; those that cannot be used go to the dead letters."""
        if len(self._headers) > _LAYOUTS_MOST:
            self.forget_headers()
        batch = Pending()
        sizes = np.fromiter(map(len, values), np.int64, len(values))
        whole = (sizes % 8 == 0) & (sizes <= _MESSAGE_MOST_BYTES)
        sizes[~whole] = 0
        batch.joined = b"".join(values if whole.all() else compress(values, whole.tolist()))
        found, clear = self._headers.recognise(batch.joined, sizes, offsets)
        if clear:
            batch.messages.frombytes(found.tobytes())
            return batch
        words = (np.cumsum(sizes) - sizes) // 8
        for offset, value, row, word in zip(offsets, values, found, words.tolist(), strict=True):
            self.tables.offset = offset
            try:
                if value[:4] == MAGIC:
                    self._samples(batch, offset, value, row, word)
                else:
                    self._records(batch, offset, value)
            except RecordError as error:
                self.tables.dead(offset, str(error), value[:EXCERPT_BYTES])
            except (RecursionError, TypeError, ValueError, OverflowError, LookupError) as error:
                # Whatever other error a hostile message causes must not come back at every restart.
                self.tables.dead(
                    offset, f"the message cannot be read: {type(error).__name__}", value[:EXCERPT_BYTES]
                )
        return batch

    def _samples(
        self, batch: Pending, offset: int, value: bytes, found: NDArray[np.int64], word: int
    ) -> None:
        """Add a samples message, which begins at ``word`` of the joined bytes, as it was recognised."""
        if found[k.KIND] == h.OF_RECORDS:
            raise RecordError(
                f"a samples message of {len(value)} bytes; it must be a multiple of 8, up to 16 MiB"
            )
        if found[k.KIND] == h.CUT:
            raise RecordError("a samples message with a header that is cut short")
        _, header_bytes, epoch, _, device_rows, process_rows = PREFIX.unpack_from(value)
        begin = PREFIX.size + header_bytes
        if found[k.KIND] == h.NEW_HEADER:
            found = self._recognise(value, offset)
            if found[k.KIND] == h.NEW_HEADER:  # no message before this one had it either
                self._parse_header(value[PREFIX.size : begin])
                found = self._recognise(value, offset)
            found[k.WORD] += word
        if found[k.KIND] == h.WRONG_SIZE:
            size = f"{len(value) - begin} bytes of columns"
            raise RecordError(
                f"a samples message with {size} for {device_rows} device rows and {process_rows} process rows"
            )
        host_row = int(found[k.HOST])
        self._note_epoch(batch, offset, host_row, epoch)
        if device_rows and self._headers.has_begun(host_row, epoch):
            self._follow_clock(batch, host_row, _FIRST_T.unpack_from(value, begin)[0])
        batch.messages.extend((k.SAMPLES_MESSAGE, *found[k.HOST :].tolist()))

    def _recognise(self, value: bytes, offset: int) -> NDArray[np.int64]:
        found, _ = self._headers.recognise(value, np.array([len(value)]), [offset])
        row: NDArray[np.int64] = found[0]
        return row

    def _parse_header(self, text: bytes) -> None:
        obj = _json(text)
        if not isinstance(obj.get("gpus"), list) or not isinstance(obj.get("processes"), list):
            raise RecordError("a samples header without the lists 'gpus' and 'processes'")
        if len(obj["gpus"]) > GPUS_MOST or len(obj["processes"]) > PROCESSES_MOST:
            raise RecordError(
                f"a samples header with more than {GPUS_MOST} gpus or {PROCESSES_MOST} processes"
            )
        host, boot_id = _origin(obj)
        device_names = _names(obj.get("device"), DEVICE_COLUMNS, ("t", "gpu"))
        process_names = _names(obj.get("process"), PROCESS_COLUMNS, ("t", "process"))
        # parse() checks the values in a header, as it checks a line of a trace.
        gpus = [parse({"kind": "gpu", "t": 1, "gpu": gpu}) for gpu in obj["gpus"]]
        device_rows = [self._device(host, boot_id, gpu.gpu) for gpu in gpus if isinstance(gpu, Gpu)]
        holder_rows = []
        for item in obj["processes"]:
            if not (
                isinstance(item, list)
                and len(item) == 4
                and type(item[0]) is int
                and 0 <= item[0] < len(gpus)
            ):
                raise RecordError("a samples header with a process that is not [gpu, instance, pid, start]")
            names = {"gpu_instance": item[1], "pid": item[2], "start_ns": item[3]}
            process = parse({"kind": "process", "t": 1, "gpu": obj["gpus"][item[0]], **names})
            if isinstance(process, Process):
                key = HolderKey(process.gpu_instance, process.pid, process.start_ns)
                known = (device_rows[item[0]], key) in self.series.holder_rows
                row = self.series.holder_row(device_rows[item[0]], key)
                exit_ns = self._exits.get((host, boot_id, process.pid, process.start_ns))
                if not known:  # a known holder gets an event, in its turn
                    if exit_ns is not None:
                        self.series.holders.exit_ns[row] = exit_ns
                    self._know_watts([row])
                holder_rows.append(row)
        self._headers.add(
            text, self.series.host_row(host), device_rows, holder_rows, device_names, process_names
        )

    def _device(self, host: str, boot_id: str, gpu: str) -> int:
        return self.series.device_row(DeviceKey(host, boot_id, gpu))

    def _note_epoch(self, batch: Pending, offset: int, host_row: int, epoch: int) -> None:
        """Note a collector's epoch; a collector that started anew leaves a gap."""
        if self._headers.note_epoch(host_row, epoch):
            batch.add_events(host_row, offset, [(k.EPOCH, 0, 0, 0)])

    def _follow_clock(self, batch: Pending, host_row: int, t: int) -> None:
        """At the first reading of an epoch: if the wall clock was set back, note that the time up to where it
        stood is repeated. If that is a long time, forget all readings, and let new ones take their place:
        otherwise nothing would be seen of the host until then. For that long the driver does not report SM
        time either."""
        self._settle(batch)
        back_ns = int(self.series.hosts.now_ns[host_row]) - t
        if t > 0 and _SET_BACK_NS < back_ns <= _REPEATED_MOST_NS:
            batch.add_events(host_row, self.tables.offset, [(k.REPEAT, 0, t, 0)])
        elif t > 0 and back_ns > _REPEATED_MOST_NS:
            self._begin_anew(host_row)
            self._reservations.begin_anew(host_row)
            self._instances.begin_anew(host_row)
        self._headers.go_on(host_row)

    def _records(self, batch: Pending, offset: int, value: bytes) -> None:
        if len(value) > _MESSAGE_MOST_BYTES:
            raise RecordError(f"a message of {len(value)} bytes, more than 16 MiB")
        obj = _json(value)
        host, boot_id = _origin(obj)
        epoch, seq = obj.get("epoch"), obj.get("seq")
        if type(epoch) is not int or type(seq) is not int or not isinstance(obj.get("records"), list):
            raise RecordError("a message without epoch, seq and records")
        host_row = self.series.host_row(host)
        self._note_epoch(batch, offset, host_row, epoch)
        for index, item in enumerate(obj["records"]):
            try:
                record = parse(item)
                if self._is_news(host, boot_id, record):
                    self._settle(batch)
                events = self._events(host, boot_id, record)
                batch.add_events(host_row, offset, events)
                self.tables.note(host, boot_id, record, f"{epoch}:{seq}:{index}")
            except RecordError as error:
                self.tables.dead(offset, f"record {index}: {error}", value[:EXCERPT_BYTES])

    def _is_news(self, host: str, boot_id: str, record: Record) -> bool:
        """Whether a record may change what is known, so that all messages before it must be taken in
        first."""
        if isinstance(record, Instance):
            return not self._instances.goes_on(self._device(host, boot_id, record.gpu), record)
        return isinstance(record, Reservation) or self.identities.is_news(host, boot_id, record)

    def _events(self, host: str, boot_id: str, record: Record) -> list[tuple[int, int, int, int]]:
        """Return the kernel events of a rare record."""
        boot = (host, boot_id)
        if isinstance(record, Exit):
            if len(self._exits) >= _EXITS_MOST:
                self._exits.pop(next(iter(self._exits)))
            self._exits[host, boot_id, record.pid, record.start_ns] = record.t
            holders = self.series.holders_of((*boot, record.pid, record.start_ns))
            return [(k.EXIT, row, record.t, 0) for row in holders]
        if isinstance(record, End):
            return [(k.END, 0, 0, 0)]
        if isinstance(record, Gap):
            if record.to_ns > record.t + _GAP_AHEAD_NS:
                raise RecordError("a gap that ends more than a day after the time of its record")
            rows = (
                [self._device(host, boot_id, record.gpu)]  # of which there may be no reading yet
                if record.gpu
                else [row for key, row in self.series.device_rows.items() if (key.host, key.boot_id) == boot]
            )
            return [(k.GAP, row, record.from_ns, record.to_ns) for row in rows]
        if isinstance(record, Reservation):
            return self._reservations.note(self._device(host, boot_id, record.gpu), record)
        if isinstance(record, Instance):
            return self._instances.note(self._device(host, boot_id, record.gpu), record)
        since_ns: int | None = None
        priors: list[tuple[int, int, int, int]] = []
        devices: Iterable[int] = ()
        if isinstance(record, Workload):
            process = (host, boot_id, record.pid, record.start_ns)
            since_ns = self.identities.note_workload(self.series, process, record)
            devices = self.series.devices_of(process)
            priors = self._know_watts(self.series.holders_of(process))
        elif isinstance(record, Host):
            since_ns = self.identities.note_host(host, record)
            devices = [row for key, row in self.series.device_rows.items() if key.host == host]
        elif isinstance(record, Gpu):
            device = DeviceKey(host, boot_id, record.gpu)
            if self.identities.note_gpu(device, record):
                row = self._device(host, boot_id, record.gpu)
                self.series.devices.slices[row] = slices_of(record.name)
                since_ns, devices = 0, [row]
                priors = self._know_watts(self.series.holders_on(row)) + self._instances.size_up(row)
        elif not isinstance(record, Run | Unit | Quality):
            raise RecordError(f"a {record.kind} record cannot be in a JSON message")
        touched = sorted(devices) if since_ns is not None else []
        return priors + [(k.TOUCH, row, since_ns or 0, 0) for row in touched]

    def _know_watts(self, holders: Iterable[int]) -> list[tuple[int, int, int, int]]:
        """Set the watts of processes to what their model was seen to draw; return events for those where that
        is news."""
        events: list[tuple[int, int, int, int]] = []
        series = self.series
        for row in holders:
            device, key = series.holder_keys[row]
            own = series.device_keys[device]
            named = self.identities.model((own.host, own.boot_id, key.pid, key.start_ns))
            prior = self._fleet.of(self.identities.gpu_model(own), *named)
            if series.holders.account[row] == PROCESS and prior != (
                series.holders.watts[row], series.holders.watts_sd[row]
            ):  # fmt: skip
                series.holders.watts[row], series.holders.watts_sd[row] = prior
                events.append((k.PRIOR, row, 0, 0))
        return events


def _json(text: bytes) -> dict[str, Any]:
    try:
        obj = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RecordError(f"not JSON: {error}") from None
    if not isinstance(obj, dict):
        raise RecordError("not a JSON object")
    if obj.get("schema") != SCHEMA:
        raise RecordError(f"schema {shown(obj.get('schema'))}; this program reads schema {SCHEMA}")
    return obj


def _origin(obj: Mapping[str, Any]) -> tuple[str, str]:
    trace = parse(
        {"kind": "trace", "version": 1, "t": 1, "host": obj.get("host"), "boot_id": obj.get("boot_id")}
    )
    return getattr(trace, "host", ""), getattr(trace, "boot_id", "")


def _names(names: object, known: Mapping[str, str], needed: Sequence[str]) -> list[str]:
    """Return the names of a section's columns: some of the known ones, in their order; if any, then the
    needed too."""
    if not isinstance(names, list) or names != [name for name in known if name in names]:
        raise RecordError(f"a samples header with unknown or misordered columns: {str(names)[:80]}")
    if names and not set(needed) <= set(names):
        raise RecordError(f"a samples header without the columns {', '.join(needed)}")
    return names
