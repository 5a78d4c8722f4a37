"""Plain HTTP: units, qualities and run events as JSON, one object, or one per line."""

from __future__ import annotations

import uuid
from dataclasses import fields
from typing import Any, Final

import orjson

from wattribute.collector.told import Told, record_of
from wattribute.errors import RecordError, meant
from wattribute.records import KINDS, Record, shown

PATHS: Final = {"/v1/units": "unit", "/v1/quality": "quality", "/v1/runs": "run"}
_LINES_MOST: Final = 50_000
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "unit": {"source": "emit"},
    "quality": {"source": "emit"},
    "run": {},
}


def read_plain(path: str, body: bytes, told: Told, now_ns: int) -> bytes:
    """Take in the records of a request, all of them or none; return the body of the answer.

    Raises RecordError, which names line and field; FullError.
    """
    kind = PATHS[path]
    told.ensure_room()
    moved = told.health.moved
    records = [
        told.at_a_credible_time(record, now_ns, str(getattr(record, "application", "")))
        for record in _records(kind, body, now_ns)
    ]
    told.put(records)
    answer = {"accepted": len(records)}
    if told.health.moved > moved:
        answer["put_at_receipt"] = told.health.moved - moved
    return orjson.dumps(answer) + b"\n"


def _records(kind: str, body: bytes, now_ns: int) -> list[Record]:
    try:
        return [_record(kind, orjson.loads(body), now_ns)]
    except orjson.JSONDecodeError as error:
        lines = [(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
        if len(lines) < 2:
            raise RecordError(f"not a JSON object: {error.msg}" if lines else "the body is empty") from None
    if len(lines) > _LINES_MOST:
        raise RecordError(f"the body has {len(lines):,} lines; send {_LINES_MOST:,} at most")
    records = []
    for number, line in lines:
        try:
            records.append(_record(kind, orjson.loads(line), now_ns))
        except orjson.JSONDecodeError as error:
            raise RecordError(f"line {number}: not a JSON object: {error.msg}") from None
        except RecordError as error:
            raise RecordError(f"line {number}: {error}") from None
    return records


def _record(kind: str, obj: object, now_ns: int) -> Record:
    if not isinstance(obj, dict):
        raise RecordError("not a JSON object")
    names = [item.name for item in fields(KINDS[kind])]
    for name in obj:
        if name not in names and name != "kind":
            raise RecordError(f"unknown field {shown(name)}; {meant(name, names)}")
    if obj.get("kind", kind) != kind:
        raise RecordError(f"kind is {shown(obj['kind'])}; this path accepts only {kind}")
    if kind != "run" and not obj.get("model") and not obj.get("run"):
        raise RecordError("no owner is named: set model or run")
    given = (
        {"t": now_ns} | _DEFAULTS[kind] | {name: value for name, value in obj.items() if value is not None}
    )
    if kind == "unit" and not given.get("event_id"):
        given["event_id"] = uuid.uuid4().hex
    return record_of(kind, given)
