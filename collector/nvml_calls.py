"""How NVML fails, and what each failure means for a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from wattribute.errors import WattributeError
from wattribute.records import is_plausible

IMPLAUSIBLE: Final = -1
"""The code under which an answer is counted that came without an error but cannot be true."""

# nvmlReturn_t by number (nvml.h), so that a simulated binding need not define the names.
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
"""With these codes no device answers until NVML is restarted."""
# TIMEOUT, IRQ_ISSUE, GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND
_DEVICE_GONE: Final = frozenset({10, 11, 15, 16, 28})

_Number = TypeVar("_Number", int, float)


class GpuError(WattributeError):
    """A device, or all of NVML, does not answer. ``code`` is the nvmlReturn_t."""

    def __init__(self, gpu: str, call: str, code: int, text: str) -> None:
        super().__init__(f"GPU {gpu}: {call} failed: {text} (NVML {code})")
        self.code = code


class DeviceCalls:
    """NVML calls on one handle of one device. A call that the device does not support is tried only once; a
    call that has succeeded counts as supported, even if it fails later.

    ``current`` returns whether the handle belongs to the running NVML session; ``count`` is called with call
    and code of every failure. ``failed_code`` is the code that put the device out, 0 while it answers.
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
        """The answer of the call ``name``; None where the device does not support it or it failed (counted).

        Where ``empty`` is given, it is returned for NOT_FOUND; ``function`` replaces the binding's function.
        Raises GpuError where the device is out.
        """
        # A stale handle would fail with INVALID_ARGUMENT and make its calls look unsupported.
        if not self._current():
            raise self.out(name, UNINITIALIZED, "NVML was restarted")
        if name in self._absent:
            return None
        function = function or getattr(self.binding, name, None)
        if function is None:  # not in the binding: the same as not supported
            self._absent.add(name)
            return None
        for _ in range(3):  # a list may grow after the binding asked for its size
            try:
                answer = function(self._handle if handle is None else handle, *args)
                self._present.add(name)
                return answer
            except self.binding.NVMLError as error:
                code, text = error.value, str(error)
            if code != INSUFFICIENT_SIZE:
                break
        # The binding first expects INSUFFICIENT_SIZE, so an empty list makes it raise SUCCESS.
        if empty is not None and code in (NOT_FOUND, SUCCESS):
            self._present.add(name)
            return empty
        self.answered(name, code, text)
        if code in _ABSENT and name not in self._present:
            self._absent.add(name)
        return None

    def answered(self, call: str, code: int, text: str) -> bool:
        """Whether ``code`` is success; otherwise count it. Raises GpuError where it puts the device out."""
        if code == SUCCESS:
            return True
        if code in DRIVER_GONE or code in _DEVICE_GONE:
            raise self.out(call, code, text)
        self._count(call, code)
        return False

    def sane(self, call: str, field: str, value: _Number | None) -> _Number | None:
        """``value``, the answer of ``call`` for the record field ``field``; None, and counted, where it is
        implausible for that field: the whole record would be refused."""
        if value is None or is_plausible(field, value):
            return value
        self.implausible(call)
        return None

    def implausible(self, call: str) -> None:
        """Count an answer that cannot be true."""
        self._count(call, IMPLAUSIBLE)

    def out(self, call: str, code: int, text: str) -> GpuError:
        """Note that the device is out, count the failure, and return the error to raise."""
        self.failed_code = code
        self._count(call, code)
        return GpuError(self._uuid, call, code, text)

    def absent(self, name: str) -> bool:
        """Whether the device was found not to support the call."""
        return name in self._absent

    def present(self, name: str) -> bool:
        """Whether the call has succeeded before."""
        return name in self._present

    def forget_absent(self) -> None:
        """Try again the calls that the device was found not to support."""
        self._absent.clear()

    def probe_anew(self) -> None:
        """Forget which calls the device supports."""
        self._absent.clear()
        self._present.clear()
