"""Builds the fake libcuda.so.1. A process finds it by LD_LIBRARY_PATH, before any real one."""

from __future__ import annotations

from pathlib import Path

from tests.fake_library import compiled


def built() -> Path:
    """The folder that holds the fake as libcuda.so.1. Skips the test where there is no C compiler."""
    return compiled(Path(__file__).with_name("fake_cuda.c"), "libcuda.so.1")
