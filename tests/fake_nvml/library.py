"""Builds the fake libnvidia-ml.so.1 and controls it.

``loaded`` loads it into this process first. NVIDIA's binding then asks the dynamic linker for
``libnvidia-ml.so.1`` as it always does, and the linker gives the library of that name that is loaded already:
nothing of the binding is replaced.
"""

from __future__ import annotations

import _ctypes
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fake_library import compiled

NO_INSTANCE = 0xFFFFFFFF
COMPUTE, GRAPHICS, MPS = range(3)
ENERGY, INSTANT, AVERAGE = range(3)
GPU_SCOPE, MODULE_SCOPE = range(2)


def built() -> Path:
    """The folder that holds the fake as libnvidia-ml.so.1. Skips the test where there is no C compiler."""
    return compiled(Path(__file__).with_name("fake_nvml.c"), "libnvidia-ml.so.1")


class FakeNvml:
    """The switches of the fake. ``gpu`` is the device's number."""

    def __init__(self, library: Any) -> None:
        self._library = library
        library.fake_get.restype = ctypes.c_longlong

    def reset(self, gpus: int) -> None:
        """All as at first: ``gpus`` devices like an H200, nobody on them. 0: no driver."""
        self._library.fake_reset(gpus)

    def set(self, gpu: int, **values: int) -> None:
        """Set readings (energy_mj, instant_mw, sm, …) or switch traps (wide_v3, grow, repeat, …)."""
        for key, value in values.items():
            assert self._library.fake_set(gpu, key.encode(), ctypes.c_longlong(value)), key

    def get(self, gpu: int, key: str) -> int:
        """A reading, or what a call was given (last_seen, info_last_seen), or how often (calls)."""
        return int(self._library.fake_get(gpu, key.encode()))

    def fail(self, gpu: int, call: str, code: int) -> None:
        """Let a call, or every call ("*"), fail with ``code``; 0 ends that."""
        self._library.fake_fail(gpu, call.encode(), code)

    def fail_field(self, gpu: int, field: int, scope: int, code: int) -> None:
        """The return code of a field in a scope."""
        self._library.fake_field(gpu, field, scope, code)

    def driver(self, loaded: bool) -> None:
        """Unload the driver, or load it again: handles of before are stale."""
        self._library.fake_driver(int(loaded))

    def process(
        self, gpu: int, pid: int, memory: int, which: int = COMPUTE, instance: int = NO_INSTANCE
    ) -> None:
        """Put a process on one of the device's lists."""
        self._library.fake_process(
            gpu, which, ctypes.c_uint(pid), ctypes.c_ulonglong(memory), ctypes.c_uint(instance)
        )

    def sample(self, gpu: int, pid: int, timestamp_us: int, sm: int, memory: int = 0) -> None:
        """Put a utilisation sample in the driver's buffer."""
        self._library.fake_sample(
            gpu,
            ctypes.c_uint(pid),
            ctypes.c_ulonglong(timestamp_us),
            ctypes.c_uint(sm),
            ctypes.c_uint(memory),
        )

    def instance(self, gpu: int, number: int, slices: int, name: str) -> None:
        """Put a MIG device on the device."""
        self._library.fake_instance(gpu, number, slices, name.encode())

    def activity(self, gpu: int, number: int, busy_ms: float, total_ms: float) -> None:
        """How long a GPU instance was busy, of which time, since it was made: what GPM samples."""
        self._library.fake_activity(gpu, number, ctypes.c_double(busy_ms), ctypes.c_double(total_ms))

    def clear(self, gpu: int) -> None:
        """Take processes, samples and MIG devices away."""
        self._library.fake_clear(gpu)


@contextmanager
def loaded(gpus: int) -> Iterator[FakeNvml]:
    """The fake with ``gpus`` devices, in this process; gone again afterwards, for other tests."""
    import pynvml

    library = ctypes.CDLL(str(built() / "libnvidia-ml.so.1"))
    fake = FakeNvml(library)
    fake.reset(gpus)
    try:
        yield fake
    finally:
        fake.reset(0)
        _ctypes.dlclose(library._handle)
        if pynvml.nvmlLib is not None:
            _ctypes.dlclose(pynvml.nvmlLib._handle)
        pynvml.nvmlLib = None
        pynvml._nvmlGetFunctionPointer_cache.clear()
