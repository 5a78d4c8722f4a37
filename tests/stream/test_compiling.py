"""The kernels are compiled, whatever else a machine lacks."""

from __future__ import annotations

import subprocess
import threading
import time

import pytest

from wattribute.commands import compiling


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
    engine, _ = compiling.compiled_engine()
    assert (engine.__name__, raised) == ("Engine", [])
