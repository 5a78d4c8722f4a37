"""Rows as one Arrow stream, which ClickHouse and chDB read at a fraction of the cost of single rows.

Text columns are dictionaries with the smallest index type; columns that share their codes share the indices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wattribute.errors import StoreError
from wattribute.sinks.contract import Coded, CodedLabels, Column

_LABELS: Final = pa.map_(pa.string(), pa.string())
_TYPES: Final[dict[str, pa.DataType]] = {
    "Bool": pa.bool_(),
    "Int16": pa.int16(),
    "Int32": pa.int32(),
    "Int64": pa.int64(),
    "Array(Int64)": pa.list_(pa.int64()),
    "UInt8": pa.uint8(),
    "UInt16": pa.uint16(),
    "UInt32": pa.uint32(),
    "UInt64": pa.uint64(),
    "Float64": pa.float64(),
    "DateTime('UTC')": pa.timestamp("s", "UTC"),
    "DateTime64(3, 'UTC')": pa.timestamp("ms", "UTC"),
    "DateTime64(9, 'UTC')": pa.timestamp("ns", "UTC"),
    "Map(LowCardinality(String), String)": _LABELS,
}


def column_batch(columns: Mapping[str, Column], types: Mapping[str, str]) -> pa.RecordBatch:
    """A batch of the columns that ``types`` names, with their ClickHouse types. Raises StoreError if lengths
    differ, or if a column does not fit its type."""
    indices = _Indices()
    arrays = [_array(name, columns[name], kind, indices) for name, kind in types.items()]
    try:
        return pa.record_batch(arrays, names=list(types))
    except ValueError as error:  # pyarrow's own errors are ValueErrors too
        raise StoreError(f"cannot store rows: {error}") from error


def says_something(column: Column) -> bool:
    """Whether any row may have a value other than the default of its type."""
    if isinstance(column, Coded | CodedLabels):
        return any(column.values)
    # Mostly the first row decides. Counting is faster than any(), which converts each value to bool.
    return bool(len(column) and (column[0] or np.count_nonzero(column)))


def value_batch(columns: Mapping[str, Sequence[Any]], types: Mapping[str, str]) -> pa.RecordBatch:
    """A batch of columns of plain values, of equal length. A time is a datetime, or an integer in the unit of
    its column (seconds, ms or ns). Raises StoreError for a value that does not fit its column."""
    arrays = []
    for name, values in columns.items():
        kind = _type(types[name])
        plain = [sorted(value.items()) for value in values] if kind == _LABELS else values
        try:
            arrays.append(pa.array(plain, type=kind))
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            raise StoreError(f"column {name}: {error}") from error
    return pa.record_batch(arrays, names=list(columns))


def stream(batch: pa.RecordBatch, before: bytes = b"") -> memoryview:
    """An Arrow IPC stream of the batch, with ``before`` in front of it. Its size is determined first: growing
    a buffer, and copying both parts into another, took half as long as everything else."""
    size = pa.MockOutputStream()
    _write(batch, size)
    buffer = pa.allocate_buffer(len(before) + size.size())
    with pa.FixedSizeBufferWriter(buffer) as sink:
        sink.write(before)
        _write(batch, sink)
    return memoryview(buffer)


class _Indices:
    """Converts the codes of a batch to indices of the smallest type, once for all columns that share them."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int], pa.Array] = {}

    def of(self, name: str, codes: NDArray[np.int32], count: int) -> pa.Array:
        key = (id(codes), count)
        made = self._made.get(key)
        if made is None:
            if len(codes) and not (codes.min() >= 0 and codes.max() < count):
                raise StoreError(f"column {name} has a code outside its {count} values")
            made = self._made[key] = pa.array(codes.astype(_index_type(count), copy=False))
        return made


def _array(name: str, column: Column, kind: str, indices: _Indices) -> pa.Array:
    if isinstance(column, CodedLabels):
        maps = pa.array([sorted(value.items()) for value in column.values], type=_LABELS)
        return maps.take(indices.of(name, column.codes, len(column.values)))
    if isinstance(column, Coded):
        return _dictionary(name, column, indices)
    target = pa.int8() if kind.startswith("Enum8") else _type(kind)
    try:
        array = pa.array(column)
        if array.type == target:
            return array
        return array.view(target) if pa.types.is_timestamp(target) else array.cast(target)
    except (pa.ArrowException, ValueError) as error:
        raise StoreError(f"column {name}: {error}") from error


def _dictionary(name: str, column: Coded, indices: _Indices) -> pa.Array:
    """A text column as an Arrow dictionary. ClickHouse requires its texts to be distinct."""
    places: dict[str, int] = {}
    remap = [places.setdefault(value, len(places)) for value in column.values]
    codes = indices.of(name, column.codes, len(remap))
    if len(places) < len(remap):
        codes = pa.array(np.array(remap, dtype=_index_type(len(places)))).take(codes)
    return pa.DictionaryArray.from_arrays(codes, pa.array(list(places), type=pa.string()), safe=False)


def _index_type(count: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if count <= 1 << 8 else np.uint16 if count <= 1 << 16 else np.uint32


def _type(kind: str) -> pa.DataType:
    return _TYPES.get(
        kind.removeprefix("Nullable(").removesuffix(")") if "Nullable" in kind else kind, pa.string()
    )


def _write(batch: pa.RecordBatch, sink: Any) -> None:
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
