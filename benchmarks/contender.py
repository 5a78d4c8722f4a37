"""A contender: a function of this package that returns figures, run in a Python process of its own.

Each gets a fresh process, so that none inherits the memory, the caches or the threads of another."""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
Figures = dict[str, Any]
"""The result of a contender, in types that JSON has."""

# One thread each: the comparison is of work, not of how many cores it is spread over.
_ONE_THREAD: Final = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_TIMEOUT_S: Final = 900.0  # the longest runs forty views and commands four times each on 10 M rows


class ContenderError(Exception):
    """A contender failed, or its result was wrong; its standard error says more."""


def run(contender: Callable[..., Figures], **arguments: Any) -> Figures:
    """Run a contender in a process of its own, and return its figures. Raises ContenderError."""
    name = f"{contender.__module__}:{contender.__qualname__}"
    done = subprocess.run(
        command(contender, **arguments),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise ContenderError(f"{name} {arguments} ended with status {done.returncode}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def command(contender: Callable[..., Figures], **arguments: Any) -> list[str]:
    """The command line that runs a contender."""
    name = f"{contender.__module__}:{contender.__qualname__}"
    return [sys.executable, "-m", "benchmarks.contender", name, json.dumps(arguments)]


def environment() -> dict[str, str]:
    """The environment of a contender."""
    return {**os.environ, **_ONE_THREAD}


def timed_s(tasks: Sequence[Callable[[], object]], repetitions: int) -> list[float]:
    """The median seconds of each task. They run in turn, so that a slow moment of the machine affects all.
    The first turn, which touches memory for the first time, is not counted."""
    times_s: list[list[float]] = [[] for _ in tasks]
    for _ in range(repetitions + 1):
        for task, took_s in zip(tasks, times_s, strict=True):
            begin_s = time.perf_counter()
            task()
            took_s.append(time.perf_counter() - begin_s)
    return [statistics.median(took_s[1:]) for took_s in times_s]


def rounds_of(
    contenders: Mapping[str, Callable[..., Figures]], count: int, **arguments: Any
) -> list[dict[str, Figures]]:
    """The figures of some contenders by name. In each round all run, one after the other."""
    return [{name: run(one, **arguments) for name, one in contenders.items()} for _ in range(count)]


def compared(rounds: Sequence[Mapping[str, Figures]]) -> Figures:
    """The rate of each contender, and how many times the rate of each other one the first has. Ratios are
    taken within a round, because that is the same moment; of all rounds the median counts."""
    rates = {name: [one[name]["M samples/s"] for one in rounds] for name in rounds[0]}
    figures = {f"M samples/s {name}": statistics.median(rate) for name, rate in rates.items()}
    first, *others = rates
    for name in others:
        ratios = [mine / theirs for mine, theirs in zip(rates[first], rates[name], strict=True)]
        figures[f"times {name}"] = statistics.median(ratios)
    return figures


def check(true: bool, what: str) -> None:
    """Refuse to report the speed of a wrong result."""
    if not true:
        raise ContenderError(f"wrong result: {what}")


def main(name: str, arguments: str) -> None:
    """Run the contender ``module:function`` and print its figures."""
    module, _, function = name.partition(":")
    figures = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
