"""Rows of the small tables, as messages bring them, until they are written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

import orjson

from wattribute.records import Gap, Host, Quality, Record, Run, Unit, Workload

# Where several sources count the same outcome, the greatest authority counts (docs/store.md, unit).
_AUTHORITY: Final = {"engine": 4, "span": 3, "client": 2, "gateway": 1}
_MINUTE_NS: Final = 60_000_000_000


class Tables:
    """Collects rows; ``origin`` names where the messages come from (a file, or topic and partition)."""

    def __init__(self, origin: str, version_base: int) -> None:
        self.origin = origin
        self.offset = 0  # of the message being read
        self.dropped = 0  # records and readings that cannot be used
        self._version_base = version_base
        self._rows: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)

    def take(self) -> dict[str, list[Mapping[str, Any]]]:
        """The rows collected since the last call, by table."""
        rows = {table: rows for table, rows in self._rows.items() if rows}
        self._rows.clear()
        return rows

    def dead_letters(self) -> list[tuple[str, bytes]]:
        """The dead letters among the rows collected, as (key, message) for their topic."""
        return [(self.origin, orjson.dumps(row)) for row in self._rows["dead"]]

    def dead(self, offset: int, reason: str, excerpt: bytes, count: int = 1) -> None:
        """Add a dead letter: what cannot be used, where it is and why."""
        self.dropped += count
        text = excerpt.decode("utf-8", "replace")
        row = {"origin": self.origin, "position": offset, "t": 0, "reason": reason, "excerpt": text}
        self._rows["dead"].append(row)

    def uncounted(self, offset: int, host: str, from_ns: int, to_ns: int, what: str) -> None:
        """Add a gap: a span whose readings do not count."""
        reason = f"{what}, at {self.origin} {offset}"
        self._gap(host, Gap(t=to_ns, from_ns=from_ns, to_ns=to_ns, reason=reason), offset)

    def note(self, host: str, boot_id: str, record: Record, position: str) -> None:
        """Keep the row of a record that has a table; ``position`` names it in its host's stream."""
        version = self._version_base | self.offset
        if isinstance(record, Unit):
            self._rows["unit"].append(_unit_row(host, boot_id, record, position, version))
        elif isinstance(record, Quality):
            self._rows["quality"].append(_row(record))
        elif isinstance(record, Run):
            self._rows["run_event"].append(_row(record))
        elif isinstance(record, Gap):
            self._gap(host, record, self.offset)
        elif isinstance(record, Host):
            self._rows["host"].append(_host_row(host, record, version))
        elif isinstance(record, Workload):
            row = _row(record, without=("t", "start_ns", "cluster"))
            row |= {"host": host, "boot_id": boot_id, "process_start_ns": record.start_ns, "version": version}
            self._rows["process"].append(row)

    def _gap(self, host: str, gap: Gap, offset: int) -> None:
        self._rows["gap"].append(
            {
                "host": host,
                "gpu": gap.gpu,
                "gap_start": gap.from_ns,
                "gap_end": gap.to_ns,
                "reason": gap.reason,
                "version": self._version_base | offset,
            }
        )


def _row(record: Record, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a record that have a value."""
    values = {f.name: getattr(record, f.name) for f in fields(record) if f.name not in without}
    return {name: value for name, value in values.items() if value is not None}


def _unit_row(host: str, boot_id: str, unit: Unit, position: str, version: int) -> dict[str, Any]:
    row = _row(unit, without=("start_ns",))
    # With its time, because two recordings of one host may both begin with epoch 0, sequence number 1.
    row |= {"host": host, "boot_id": boot_id, "position": f"{position} {unit.t}", "version": version}
    row["process_start_ns"] = unit.start_ns or 0
    row["authority"] = _AUTHORITY.get(unit.source, 0)
    return row


def _host_row(host: str, record: Host, version: int) -> dict[str, Any]:
    return {
        "host": host,
        "cluster": record.cluster,
        "provider": record.provider,
        "region": record.region,
        "pricing": record.pricing,
        "owner_team": record.team or record.labels.get("team", ""),
        "labels": dict(record.labels),
        "valid_from": record.t // _MINUTE_NS * 60,
        "version": version,
    }
