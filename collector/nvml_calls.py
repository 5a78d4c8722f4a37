"""How NVML fails, and what each failure means for a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from wattribute.errors import WattributeError
from wattribute.records import is_plausible

IMPLAUSIBLE: Final = -1
"""The code that counts an answer which came without an error and cannot be true."""

# nvmlReturn_t by number (nvml.h), so that a simulated binding need not repeat the names.
SUCCESS: Final = 0
UNINITIALIZED: Final = 1
NO_PERMISSION: Final = 4
NOT_FOUND: Final = 6
INSUFFICIENT_SIZE: Final = 7
DRIVER_NOT_LOADED: Final = 9
LIBRARY_NOT_FOUND: Final = 12
FUNCTION_NOT_FOUND: Final = 13
LIB_RM_VERSION_MISMATCH: Final = 18
UNKNOWN: Final = 999

# INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH, DEPRECATED
_ABSENT: Final = frozenset({2, 3, 4, 13, 25, 26})
DRIVER_GONE: Final = frozenset({UNINITIALIZED, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH})
"""No device answers until NVML is started anew."""
# TIMEOUT, IRQ_ISSUE, GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND
_DEVICE_GONE: Final = frozenset({10, 11, 15, 16, 28})

_Number = TypeVar("_Number", int, float)


class GpuError(WattributeError):
    """A device, or all of NVML, does not answer. ``code`` is the nvmlReturn_t."""

    def __init__(self, gpu: str, call: str, code: int, text: str) -> None:
        super().__init__(f"GPU {gpu}: {call} failed: {text} (NVML {code})")
        self.code = code


class DeviceCalls:
    """NVML calls on one handle of one device. What the device does not have is asked once; what answered once
    it has, whatever it says later.

    ``current`` tells whether the handle is still of the running NVML session; ``count`` is told of every
    failure, by call and code. ``failed_code`` is the code that put the device out, 0 while it answers.
    """

    def __init__(
        self,
        binding: Any,
        uuid: str,
        handle: Any,
        current: Callable[[], bool],
        count: Callable[[str, int], None],
    ) -> None:
        self.binding = binding
        self.failed_code = 0
        self._uuid = uuid
        self._handle = handle
        self._current = current
        self._count = count
        self._absent: set[str] = set()
        self._present: set[str] = set()

    def __call__(
        self,
        name: str,
        *args: Any,
        handle: Any = None,
        empty: Any = None,
        function: Callable[..., Any] | None = None,
    ) -> Any:
        """The answer of the call ``name``; None where the device has no such call, or it failed (counted).

        Where ``empty`` is given it is the answer to NOT_FOUND; ``function`` takes the place of the binding's.
        Raises GpuError where the device is out.
        """
        # A stale handle would fail as INVALID_ARGUMENT and make its calls look absent.
        if not self._current():
            raise self.out(name, UNINITIALIZED, "NVML was started anew")
        if name in self._absent:
            return None
        function = function or getattr(self.binding, name, None)
        if function is None:  # a binding without it is the same as a driver without it
            self._absent.add(name)
            return None
        for _ in range(3):  # a list may grow between the binding's question for its size and its reading
            try:
                answer = function(self._handle if handle is None else handle, *args)
                self._present.add(name)
                return answer
            except self.binding.NVMLError as error:
                code, text = error.value, str(error)
            if code != INSUFFICIENT_SIZE:
                break
        # The binding expects INSUFFICIENT_SIZE at first, so an empty list makes it raise SUCCESS.
        if empty is not None and code in (NOT_FOUND, SUCCESS):
            self._present.add(name)
            return empty
        self.answered(name, code, text)
        if code in _ABSENT and name not in self._present:
            self._absent.add(name)
        return None

    def answered(self, call: str, code: int, text: str) -> bool:
        """Whether ``code`` is success; else count it. Raises GpuError where it puts the device out."""
        if code == SUCCESS:
            return True
        if code in DRIVER_GONE or code in _DEVICE_GONE:
            raise self.out(call, code, text)
        self._count(call, code)
        return False

    def sane(self, call: str, field: str, value: _Number | None) -> _Number | None:
        """The answer of ``call``, for the field of that name of a record; None, and counted, where a record
        cannot have it: the whole record would be refused."""
        if value is None or is_plausible(field, value):
            return value
        self.implausible(call)
        return None

    def implausible(self, call: str) -> None:
        """Count an answer that cannot be true."""
        self._count(call, IMPLAUSIBLE)

    def out(self, call: str, code: int, text: str) -> GpuError:
        """Note that the device is out, count it, and give the error to raise."""
        self.failed_code = code
        self._count(call, code)
        return GpuError(self._uuid, call, code, text)

    def absent(self, name: str) -> bool:
        """Whether the device was found not to have the call."""
        return name in self._absent

    def present(self, name: str) -> bool:
        """Whether the call has answered before."""
        return name in self._present

    def forget_absent(self) -> None:
        """Ask again for what the device was found not to have."""
        self._absent.clear()

    def probe_anew(self) -> None:
        """Forget which calls the device has."""
        self._absent.clear()
        self._present.clear()
