"""Compiles the stand-ins for the driver's libraries."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.needs import missing


@functools.cache
def compiled(source: Path, name: str) -> Path:
    """The folder that holds a C file as the shared library ``name``. Skips the test without a C compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        missing(f"no C compiler (cc) to build the fake {name}")
    folder = Path(tempfile.mkdtemp(prefix=f"{source.stem}_"))
    atexit.register(shutil.rmtree, folder)
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    subprocess.run(
        [str(compiler), *flags, f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)], check=True
    )
    return folder
