"""Builds the fake libcuda.so.1. A process finds it by LD_LIBRARY_PATH, before any real one."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.survival.conftest import missing


@functools.cache
def built() -> Path:
    """The folder that holds the fake as libcuda.so.1. Skips the test where there is no C compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        missing("no C compiler (cc) to build the fake libcuda.so.1")
    folder = Path(tempfile.mkdtemp(prefix="fake_cuda_"))
    atexit.register(shutil.rmtree, folder)
    source = Path(__file__).with_name("fake_cuda.c")
    target = folder / "libcuda.so.1"
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(
        [str(compiler), *flags, f"-Wl,-soname,{target.name}", "-o", str(target), str(source)], check=True
    )
    return folder
