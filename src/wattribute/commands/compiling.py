"""Compile the kernels. Without a cache that takes a minute or two; from the cache they load at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from wattribute.commands.output import note
from wattribute.errors import INTERRUPTED, WattributeError

_PATIENCE_S: Final = 2.0  # from a cache they take 0.4 s
# Numba compiles one function at a time. A second process compiles these, half of the work, into the cache.
_OTHERS: Final = "import wattribute.kernels.ingest, wattribute.kernels.learn"


@contextmanager
def _ending_with_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end the process at once. KeyboardInterrupt was mostly raised in a callback from LLVM, which
    printed it and went on."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield  # the caller handles signals
        return

    def end(*_: object) -> None:
        note("wattribute: interrupted")
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _compile_largest() -> None:
    try:
        import wattribute.kernels.attribute  # noqa: F401
    except RuntimeError as error:  # of numba
        if "cannot cache" not in str(error):
            raise
        raise WattributeError(
            "compiled kernels cannot be saved anywhere: set NUMBA_CACHE_DIR to a folder that can be written"
        ) from error


def compile_kernels() -> None:
    """Compile all kernels, or load them from the cache. Print a line if that takes long. Call it before
    ``wattribute.stream.engine`` is imported, which would compile them too."""
    helpers: list[subprocess.Popen[bytes]] = []

    def hurry() -> None:
        note("compiling the kernels (once) …")
        quiet = subprocess.DEVNULL
        command = [sys.executable, "-c", _OTHERS]
        with suppress(OSError):  # no process can be started: then this one compiles everything
            helpers.append(subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet))  # noqa: S603 - ours

    late = threading.Timer(_PATIENCE_S, hurry)
    late.daemon = True
    late.start()
    try:
        with _ending_with_ctrl_c():
            _compile_largest()
            for helper in helpers:
                helper.wait()
            import wattribute.stream.engine  # noqa: F401
    finally:
        late.cancel()
