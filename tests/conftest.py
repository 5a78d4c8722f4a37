"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kafka_broker import kafka_broker

__all__ = ["kafka_broker"]

# Compiled once, by `make kernels`, which reads this file too, or by whichever process comes first. Those that
# check each index have a folder of their own, for numba's cache does not tell them from the others.
_ROOT = Path(__file__).parents[1]
_CHECKED = "-bounds" if os.environ.get("NUMBA_BOUNDSCHECK") == "1" else ""
_CACHE = _ROOT / ".pytest_cache" / f"kernels{_CHECKED}"
os.environ.setdefault("NUMBA_CACHE_DIR", str(_CACHE))

# Files that take a minute begin: a file's tests run in one process, and one that came last would have it work
# while the others wait.
_LONGEST = (
    *(
        "test_end_to_end.py",
        "test_benchmarks.py",
        "test_answers.py",
        "survival/test_kill_replay.py",
        "test_run.py",
    ),
    *("sinks", "survival", "kafka", "test_docs.py", "bus", "intake", "verify"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first."""
    first = {str(_ROOT / "tests" / name): place for place, name in enumerate(_LONGEST)}

    def place(item: pytest.Item) -> int:
        return next(
            (first[str(path)] for path in (item.path, *item.path.parents) if str(path) in first), len(first)
        )

    items.sort(key=place)
