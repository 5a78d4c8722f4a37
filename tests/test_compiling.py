"""The kernels are compiled: whatever a machine lacks, when one has changed, and until Ctrl-C."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from wattribute import kernels
from wattribute.commands import compiling

_INTERRUPTED_BY_LLVM = """
import ctypes, os, signal
from wattribute.commands import compiling

@ctypes.CFUNCTYPE(None)
def called_back():
    os.kill(os.getpid(), signal.SIGINT)

compiling._compile_largest = called_back
compiling.compile_kernels()
"""


def test_where_no_helper_may_be_started_the_kernels_are_compiled_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    raised: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    monkeypatch.setattr(compiling, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(compiling, "_compile_largest", lambda: time.sleep(0.3))
    monkeypatch.setattr(subprocess, "Popen", refused)
    compiling.compile_kernels()
    assert raised == []


def test_a_kernel_is_compiled_anew_where_a_constant_in_another_file_has_changed(tmp_path: Path) -> None:
    package = tmp_path / "wattribute" / "kernels"
    package.mkdir(parents=True)
    (tmp_path / "wattribute" / "__init__.py").touch()
    for name in ("__init__.py", "jit.py"):
        shutil.copy(Path(kernels.__file__).with_name(name), package)
    (package / "asks.py").write_text(
        "from numba import types\n"
        "from wattribute.kernels.jit import kernel\n"
        "from wattribute.kernels.limits import LIMIT\n"
        "limit = kernel(types.int64())(lambda: LIMIT)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", "from wattribute.kernels.asks import limit; print(limit())"]
    for limit in ("1", "2"):
        (package / "limits.py").write_text(f"LIMIT = {limit}\n")
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert told.stdout == f"{limit}\n"


def test_ctrl_c_ends_what_compiles() -> None:
    """LLVM calls Python back when a kernel is done, and that is when Python first hears of Ctrl-C."""
    command = [sys.executable, "-c", _INTERRUPTED_BY_LLVM]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "wattribute: interrupted\n")
