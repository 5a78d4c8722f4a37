"""Where slow readings are done."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Submit = Callable[[Callable[[], None] | None], None]
"""Runs one task after the other, elsewhere; None ends it."""


def thread_worker() -> Submit:
    """A thread for the tasks of one device. A daemon: hanging in the driver, it does not hold up the end."""
    tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def work() -> None:
        while (task := tasks.get()) is not None:
            task()

    threading.Thread(target=work, name="slow-lane", daemon=True).start()
    return tasks.put


def inline_worker() -> Submit:
    """No thread: a slow reading is done when it is due. For a simulated clock, which waits for no thread."""

    def submit(task: Callable[[], None] | None) -> None:
        if task is not None:
            task()

    return submit
