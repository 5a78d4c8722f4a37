"""Use a GPU by CUDA's driver API: the few calls that a load of ``wattribute verify --gpu`` makes.

They go through ctypes: libcuda.so.1 comes with the driver wherever there is a GPU, and these calls are the
same since CUDA 11. NVIDIA's binding (cuda-bindings) is for one major version of CUDA, which has to fit the
host's driver: a dependency that is right on one host would be wrong on the next.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from typing import Any, Final

from wattribute.errors import WattributeError

THREADS: Final = 256
"""The threads in each block that is launched."""

# CUdevice_attribute
_MULTIPROCESSORS: Final = 16
_MAJOR, _MINOR = 75, 76
_LEAST_MAJOR: Final = 8
_BLOCKING_SYNC: Final = 4  # CUctx_flags
_JIT_ERROR_LOG, _JIT_ERROR_LOG_BYTES = 5, 6  # CUjit_option

# CUdevice, CUcontext, CUmodule, CUfunction and CUstream
_Device, _Handle, _Address = c_int, c_void_p, c_uint64
_CALLS: Final[Mapping[str, tuple[Any, ...]]] = {
    "cuInit": (c_uint,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuDeviceGet": (POINTER(_Device), c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, _Device),
    "cuDevicePrimaryCtxSetFlags_v2": (_Device, c_uint),
    "cuDevicePrimaryCtxRetain": (POINTER(_Handle), _Device),
    "cuDevicePrimaryCtxRelease_v2": (_Device,),
    "cuCtxSetCurrent": (_Handle,),
    "cuCtxSynchronize": (),
    "cuModuleLoadDataEx": (POINTER(_Handle), c_char_p, c_uint, POINTER(c_int), POINTER(c_void_p)),
    "cuModuleGetFunction": (POINTER(_Handle), _Handle, c_char_p),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (POINTER(_Address), c_size_t),
    "cuMemsetD32_v2": (_Address, c_uint, c_size_t),
    "cuMemFree_v2": (_Address,),
    # the kernel; blocks and threads in three directions; shared memory, stream, parameters, more options
    "cuLaunchKernel": (
        *(_Handle, *6 * (c_uint,)),
        *(c_uint, _Handle, POINTER(c_void_p), POINTER(c_void_p)),
    ),
}

_NO_GPU: Final = "CUDA sees no GPU here: see what nvidia-smi -L and CUDA_VISIBLE_DEVICES say"
_ADVICE: Final[Mapping[int, str]] = {  # by CUresult
    2: "too little memory is free on the GPU: free some",
    46: "another process has the GPU for itself: nvidia-smi -c DEFAULT lets processes share it",
    100: _NO_GPU,
    101: _NO_GPU,
    221: "the driver's libnvidia-ptxjitcompiler.so.1 is missing: install all of the driver",
    222: "the driver is older than 450: install a newer one",
    802: "the GPU is not ready: make sure that nvidia-fabricmanager runs",
    803: "libcuda.so.1 and the kernel's driver are of different versions: reboot, or install the driver anew",
    999: "reload the driver, or reboot: nvidia-smi and dmesg say more",
}
_ADVICE_ELSE: Final = "nvidia-smi and dmesg say more"


class Gpu:
    """The first GPU that CUDA shows (``CUDA_VISIBLE_DEVICES``), in use by this process.

    Use it in one thread. Raises WattributeError if no GPU can be used; each method raises it if the driver
    refuses. ``multiprocessors``: how many the GPU has.
    """

    def __init__(self) -> None:
        self._library = _library()
        self._call("cuInit", 0)
        device, context = _Device(), _Handle()
        self._call("cuDeviceGet", byref(device), 0)
        self._device = device
        major, minor = self._attribute(_MAJOR), self._attribute(_MINOR)
        if major < _LEAST_MAJOR:
            raise WattributeError(
                f"the GPU's compute capability is {major}.{minor}: an A100 or newer is needed (8.0)"
            )
        self.multiprocessors = self._attribute(_MULTIPROCESSORS)
        # Sleep while waiting for the GPU: three loads that spin would keep the collector from its CPU.
        self._call("cuDevicePrimaryCtxSetFlags_v2", device, _BLOCKING_SYNC)
        self._call("cuDevicePrimaryCtxRetain", byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._addresses: list[int] = []

    def kernel(self, ptx: bytes, name: str) -> c_void_p:
        """A kernel from PTX source, compiled for this GPU."""
        module, function = _Handle(), _Handle()
        log = ctypes.create_string_buffer(4096)
        options = (c_int * 2)(_JIT_ERROR_LOG, _JIT_ERROR_LOG_BYTES)
        values = (c_void_p * 2)(ctypes.addressof(log), len(log))
        code = self._library.cuModuleLoadDataEx(byref(module), ptx, len(options), options, values)
        self._check("cuModuleLoadDataEx", code, log.value.decode(errors="replace"))
        self._call("cuModuleGetFunction", byref(function), module, name.encode())
        return function

    def allocate(self, size_bytes: int, word: int) -> int:
        """Allocate memory, filled with a word of 32 bits; return its address."""
        free_bytes, total_bytes, address = c_size_t(), c_size_t(), _Address()
        self._call("cuMemGetInfo_v2", byref(free_bytes), byref(total_bytes))
        if size_bytes > free_bytes.value:
            needed, free, total = (
                f"{count / 2**30:.1f}" for count in (size_bytes, free_bytes.value, total_bytes.value)
            )
            raise WattributeError(
                f"{needed} GiB of the GPU's memory are needed, but {free} of {total} are free: free some"
            )
        self._call("cuMemAlloc_v2", byref(address), size_bytes)
        self._addresses.append(address.value)
        self._call("cuMemsetD32_v2", address, word, size_bytes // 4)
        return address.value

    def launch(self, kernel: c_void_p, blocks: int, *parameters: c_uint32 | c_uint64) -> None:
        """Run a kernel, after those launched before, in blocks of ``THREADS`` threads."""
        places = (c_void_p * len(parameters))(*map(ctypes.addressof, parameters))
        self._call("cuLaunchKernel", kernel, blocks, 1, 1, THREADS, 1, 1, 0, None, places, None)

    def wait(self) -> None:
        """Sleep until all that was launched has run."""
        self._call("cuCtxSynchronize")

    def close(self) -> None:
        """Free all memory, and release the GPU."""
        for address in self._addresses:
            self._call("cuMemFree_v2", address)
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def _attribute(self, number: int) -> int:
        value = c_int()
        self._call("cuDeviceGetAttribute", byref(value), number, self._device)
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        self._check(name, getattr(self._library, name)(*arguments))

    def _check(self, call: str, code: int, log: str = "") -> None:
        if code == 0:
            return
        name = c_char_p()
        self._library.cuGetErrorName(code, byref(name))
        error = name.value.decode() if name.value else f"error {code}"
        said = f" ({' '.join(log.split())})" if log else ""
        raise WattributeError(f"{call} failed: {error}{said}: {_ADVICE.get(code, _ADVICE_ELSE)}")


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise WattributeError(
            "there is no CUDA driver (libcuda.so.1): install NVIDIA's driver; a container needs "
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        ) from error
    for name, types in _CALLS.items():
        try:
            call = getattr(library, name)
        except AttributeError as error:
            raise WattributeError(
                f"the CUDA driver has no {name}: it is older than 450; install a newer one"
            ) from error
        call.argtypes, call.restype = types, c_int
    return library
