"""How kernels are compiled.

Eagerly, with one signature, cached and without the GIL. No fastmath, because reassociation would break
conservation; no parallel loops, because a partition is the unit of scale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from llvmlite import ir
from numba import njit, types
from numba.core import caching, cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic, overload
from numba.np import arrayobj

# Only kernels call parts. The wrappers to call them from Python took a third of the compilation.
_NO_WRAPPERS: Final[dict[str, Any]] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_TO_INDEX: Final = "fix_integer_index"  # numba's function that adds the length to a negative index

# Numba's class that stamps a cached function with its source. If a later numba lacks it, nothing is cached.
_STAMPED: Final[Any] = getattr(caching, "_SourceFileBackedLocatorMixin", None)
_TEXTS: Final = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).digest()

Function = TypeVar("Function", bound=Callable[..., Any])


@contextmanager
def _in_place_of(owner: Any, name: str, ours: Callable[..., Any]) -> Iterator[None]:
    """Have numba call ``ours`` in this context. The lock keeps others from compiling, and from saving ours as
    numba's."""
    with global_compiler_lock:
        theirs = getattr(owner, name, None)
        setattr(owner, name, ours)
        try:
            yield
        finally:
            setattr(owner, name, theirs)


def _index_as_it_is(context: Any, builder: Any, kind: Any, index: Any, size: Any) -> Any:  # noqa: ARG001
    """Have ``array[i]`` not count from the end where i is negative, because no kernel uses such an index.

    Checking the sign of every index took a fifth of all kernel time: without it a window of four processes
    went from 906 ns to 749, and of one from 180 to 144. Numba omits the check only for unsigned indices,
    which would need a cast in each place. With a numba that checks elsewhere the kernels are the same, as
    slow as before. ``make test-bounds`` finds negative indices."""
    return context.cast(builder, index, kind, types.intp)


def _jit(function: Function, *signature: Any, **options: Any) -> Function:
    """Compile a function, without the GIL, and cache it until the text of any kernel changes. Numba's cache
    checks only the function's own file: after an upgrade that changed a constant or a part in another file,
    kernels used the old one."""
    jit: Any = partial(njit, *signature, nogil=True, **options)
    if _STAMPED is None:
        return jit()(function)  # type: ignore[no-any-return]
    with _in_place_of(_STAMPED, "get_source_stamp", lambda _: _TEXTS):
        return jit(cache=True)(function)  # type: ignore[no-any-return]


def kernel(signature: Any) -> Callable[[Function], Function]:
    """Compile a kernel for the one signature it has; other argument types are an error, never a recompile."""

    def compiled(function: Function) -> Function:
        with _in_place_of(arrayobj, _TO_INDEX, _index_as_it_is):
            return _jit(function, signature)

    return compiled


def allocating_part(function: Function) -> Function:
    """Compile a function that kernels call, and that creates arrays or views."""
    return _jit(function, **_NO_WRAPPERS)


def part(function: Function) -> Function:
    """Compile a function that kernels call. It must not create arrays or views.

    To pass a struct of 20 arrays takes 150 machine words at each call, and 20 references to count. So parts
    are inlined, and compiled without numba's runtime, which counts references: a window of 100 samples and
    one process went from 2885 ns to 716 without the counting, and from 490 to 320 by inlining.
    """
    return _jit(function, forceinline=True, _nrt=False, **_NO_WRAPPERS)


def prefetch(array: Any, place: tuple[int, ...]) -> None:
    """Begin to load ``array[place]`` into the cache, and do not wait for it. Any index is safe.

    For scattered reads in matrices larger than the cache, where the search branches on what it reads, so that
    the processor cannot run ahead: a window of 100 samples went from 325 ns to 207.
    """


@overload(prefetch, inline="always")
def _prefetch(array: Any, place: tuple[int, ...]) -> Any:  # noqa: ARG001 - numba reads their types
    def compiled(array: Any, place: tuple[int, ...]) -> None:
        _emit_prefetch(array, place)  # type: ignore[call-arg]  # numba gives the first

    return compiled


@intrinsic
def _emit_prefetch(context: Any, array: Any, place: Any) -> Any:  # noqa: ARG001
    """LLVM's instruction: https://llvm.org/docs/LangRef.html#llvm-prefetch-intrinsic"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        of = context.make_array(kind)(context, builder, arguments[0])
        indices = cgutils.unpack_tuple(builder, arguments[1])  # type: ignore[no-untyped-call]
        pointer = cgutils.get_item_pointer(context, builder, kind, of, indices)  # type: ignore[no-untyped-call]
        address = builder.bitcast(pointer, cgutils.voidptr_t)
        flag = ir.IntType(32)
        of_type = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, flag, flag, flag])
        instruction = builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], of_type)
        builder.call(instruction, [address, flag(0), flag(3), flag(1)])  # to read, keep it, data
        return context.get_dummy_value()

    return types.void(array, place), generate
