"""Field values of a device, by a request that is built once.

The binding's nvmlDeviceGetFieldValues builds the request each time, and its answer is read through attributes
that are written in Python: 9 of the 15 µs of a reading, which is 0.17 % of a core with 8 GPUs at 10 Hz. So
this module calls the library itself, with an array that is kept, and reads the values in place by ctypes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Final

from wattribute.collector.nvml_calls import FUNCTION_NOT_FOUND, SUCCESS

_TYPES: Final = (  # in the order of nvmlValueType_t
    ctypes.c_double,
    ctypes.c_uint,
    ctypes.c_ulong,
    ctypes.c_ulonglong,
    ctypes.c_longlong,
    ctypes.c_int,
    ctypes.c_ushort,
)


class FieldValue:
    """One value in the array, with its own return code and its type."""

    def __init__(self, entry: Any, array: ctypes.Array[Any], place: int) -> None:
        at = place * ctypes.sizeof(entry)
        self._code = ctypes.c_uint.from_buffer(array, at + entry.nvmlReturn.offset)
        self._type = ctypes.c_uint.from_buffer(array, at + entry.valueType.offset)
        self._values = [kind.from_buffer(array, at + entry.value.offset) for kind in _TYPES]

    @property
    def code(self) -> int:
        """The value's own nvmlReturn_t."""
        return self._code.value

    @property
    def number(self) -> float | None:
        """The value; None where its type is none of NVML's."""
        kind = self._type.value
        return self._values[kind].value if kind < len(_TYPES) else None


class FieldValues:
    """Reads ``fields`` of a device, each (field id, scope). An answer is valid until the next call."""

    def __init__(self, binding: Any, fields: Sequence[tuple[int, int]]) -> None:
        entry = binding.c_nvmlFieldValue_t
        self._binding = binding
        self._array = (entry * len(fields))()
        for value, (field, scope) in zip(self._array, fields, strict=True):
            value.fieldId, value.scopeId = field, scope
        self._values = tuple(FieldValue(entry, self._array, place) for place in range(len(fields)))
        self._function = getattr(binding.nvmlLib, "nvmlDeviceGetFieldValues", None)

    def __call__(self, handle: Any) -> tuple[FieldValue, ...]:
        """The values, in order. Raises the binding's NVMLError, as the binding's functions do."""
        code = FUNCTION_NOT_FOUND
        if self._function is not None:
            code = self._function(handle, len(self._values), self._array)
        if code != SUCCESS:
            raise self._binding.NVMLError(code)
        return self._values
