"""Commands in processes of their own, which may be killed, and what they left in a store."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
import unittest.mock
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from wattribute import cli

POLICIES = ("equal", "memory", "active")
TABLES = (
    *("attribution", "attribution_minute", "attribution_hour", "attribution_day"),
    *("unit", "quality", "run_event", "process", "host", "gap", "dead"),
)
_PATIENCE_S = 200.0  # kernels that are compiled first, on a busy machine

# A process takes 2 s to start, most of it to load what asks the store. What each command says and how it ends
# is the same here; what it loads, and how it meets a terminal or a pipe, is test_cli's.
_ASKING = (
    "query",
    "cost",
    "reconcile",
    "models",
    "compare",
    "watts",
    "runs",
    "explain",
    "lineage",
    "host",
    "price",
)

# One process opens a chDB folder at a time, so each store is asked in a process of its own.
_ASK = """
import sys, orjson
from wattribute.sinks.query_server import open_store_for_reading
reader = open_store_for_reading(sys.argv[1])
answers = [reader.query(sql).dicts() for sql in sys.argv[2:]]
sys.stdout.buffer.write(orjson.dumps(answers))
"""

Row = dict[str, Any]


def started(*arguments: str | Path, **settings: str) -> subprocess.Popen[str]:
    """A command that has begun to run; ``settings`` are those it has no options for."""
    return subprocess.Popen(
        _command(arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(settings),
    )


def completed(process: subprocess.Popen[str]) -> str:
    """What a command that has to succeed said until its end."""
    try:
        _, said = process.communicate(timeout=_PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0, said
    return said


def ran(*arguments: str | Path, status: int = 0, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command that has to end with ``status``; what it said. One that but asks runs in this process."""
    if arguments[0] in _ASKING:
        done = _ran_here([*map(str, arguments)], _environment(settings))
    else:
        done = subprocess.run(
            _command(arguments),
            capture_output=True,
            text=True,
            env=_environment(settings),
            timeout=_PATIENCE_S,
            check=False,
        )
    assert done.returncode == status, done.stderr
    return done


def _ran_here(arguments: list[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    out, err = io.StringIO(), io.StringIO()
    with (
        unittest.mock.patch.dict(os.environ, environ, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = cli.run(arguments)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def is_killed(process: subprocess.Popen[str], after_s: float) -> bool:
    """Kill a command after a while; False where it had ended, successfully, by then."""
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        process.kill()
    _, said = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode in (0, -signal.SIGKILL), said
    return process.returncode != 0


def wait_until(holds: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    """Wait until something holds while commands go on."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while not holds():
        for process in processes:
            assert process.poll() is None, completed(process)
        assert time.monotonic() < deadline_s, "it takes too long"
        time.sleep(0.02)


def asked(store: str, *questions: str) -> list[list[Row]]:
    """What a store answers to each question."""
    answer = subprocess.run([sys.executable, "-c", _ASK, store, *questions], capture_output=True, check=False)
    assert answer.returncode == 0, answer.stderr.decode()
    rows: list[list[Row]] = orjson.loads(answer.stdout)
    return rows


def rows_of(store: str, tables: Sequence[str] = TABLES) -> dict[str, list[Row]]:
    """All rows of some tables, versions too."""
    questions = [f"SELECT * FROM {table} FINAL ORDER BY ALL" for table in tables]
    return dict(zip(tables, asked(store, *questions), strict=True))


def assert_sound(store: str) -> None:
    """The parts are the whole, in every window and under every policy, and no rollup is behind."""
    unbalanced, behind, rows, *sums = asked(
        store,
        "SELECT * FROM conservation",
        "SELECT * FROM dirty_bucket FINAL",
        "SELECT count() AS n FROM attribution FINAL",
        *(
            "SELECT sum(active_energy_uj) AS active_uj, sum(idle_energy_memory_uj) AS idle_uj,"
            f" sum(gpu_time_active_ns) AS ns, sum(error_uj) AS error_uj FROM {table} FINAL"
            for table in TABLES[:4]
        ),
    )
    assert unbalanced == []
    assert behind == []
    assert rows[0]["n"] > 0
    assert all(level == sums[0] for level in sums)


def _command(arguments: Sequence[str | Path]) -> list[str]:
    return [sys.executable, "-m", "wattribute", *map(str, arguments)]


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WATTRIBUTE_")}
    return environ | {f"WATTRIBUTE_{name.upper()}": value for name, value in settings.items()}
