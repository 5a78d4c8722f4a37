"""Where slow readings are done."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol

Task = Callable[[], None]


class Worker(Protocol):
    """Does one task after the other."""

    def submit(self, task: Task | None) -> None:
        """Queue a task; None ends the worker."""

    def leave(self) -> None:
        """Go on with the next task elsewhere: the one at hand hangs, and keeps the place where it is."""


class _Thread:
    """A daemon thread: hanging in the driver, it does not hold up the end."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._threads = 0
        self.leave()

    def submit(self, task: Task | None) -> None:
        self._tasks.put(task)

    def leave(self) -> None:
        self._threads += 1
        threading.Thread(target=self._work, args=(self._threads,), name="slow-lane", daemon=True).start()

    def _work(self, number: int) -> None:
        while number == self._threads and (task := self._tasks.get()) is not None:
            task()


class _Inline:
    def submit(self, task: Task | None) -> None:
        if task is not None:
            task()

    def leave(self) -> None:
        raise RuntimeError("a task that is done at once cannot be left")


def thread_worker() -> Worker:
    """A thread of its own."""
    return _Thread()


def inline_worker() -> Worker:
    """No thread: a slow reading is done when it is due. For a simulated clock, which waits for no thread."""
    return _Inline()
