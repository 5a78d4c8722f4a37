"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.kafka_broker import kafka_broker

__all__ = ["kafka_broker"]

# The kernels are compiled once, by `make kernels`, which reads this file too, or by the first process. Those
# that check bounds have a folder of their own, because numba's cache does not tell them from the others.
_ROOT = Path(__file__).parents[1]
_CHECKED = "-bounds" if os.environ.get("NUMBA_BOUNDSCHECK") == "1" else ""
_CACHE = _ROOT / ".pytest_cache" / f"kernels{_CHECKED}"
os.environ.setdefault("NUMBA_CACHE_DIR", str(_CACHE))

# A slow example is no fault of what it tests: on a busy machine a pause of 0.3 s failed one.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Files that take a minute come first: a file's tests run in one process, and if a long file came last, the
# other processes would wait for it.
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
