"""What ends while the kernels are compiled."""

from __future__ import annotations

import subprocess
import sys

_INTERRUPTED_BY_LLVM = """
import ctypes, os, signal
from wattribute.commands import compiling

@ctypes.CFUNCTYPE(None)
def called_back():
    os.kill(os.getpid(), signal.SIGINT)

compiling._compile_largest = called_back
compiling.compiled_engine()
"""


def test_ctrl_c_ends_what_compiles() -> None:
    """LLVM calls Python back when a kernel is done, and that is when Python first hears of Ctrl-C."""
    command = [sys.executable, "-c", _INTERRUPTED_BY_LLVM]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "wattribute: interrupted\n")
