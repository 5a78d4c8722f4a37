"""Workers that do the slow readings."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol

Task = Callable[[], None]


class Worker(Protocol):
    """Does one task after another."""

    def submit(self, task: Task | None) -> None:
        """Queue a task; None ends the worker."""

    def leave(self) -> None:
        """Continue with the next task in another thread: the current task hangs and keeps its thread."""


class ThreadWorker:
    """A daemon thread: while it hangs in the driver, it does not block the end of the program."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._threads = 0
        self.leave()

    def submit(self, task: Task | None) -> None:
        """See ``Worker``."""
        self._tasks.put(task)

    def leave(self) -> None:
        """See ``Worker``."""
        self._threads += 1
        threading.Thread(target=self._work, args=(self._threads,), name="slow-lane", daemon=True).start()

    def _work(self, number: int) -> None:
        while number == self._threads and (task := self._tasks.get()) is not None:
            task()


class InlineWorker:
    """No thread: it does a task at once. For a simulated clock, which waits for no thread."""

    def submit(self, task: Task | None) -> None:
        """See ``Worker``."""
        if task is not None:
            task()

    def leave(self) -> None:
        """Never called: no task is running while another is due."""
        raise RuntimeError("an inline worker has no thread to leave: it does each task at once")
