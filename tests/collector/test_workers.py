"""The threads of the slow lane."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from wattribute.collector.workers import InlineWorker, ThreadWorker

_SOON_S = 30.0  # a bound for a machine that is stuck, not a time that is expected


def noting(done: list[str], what: str, event: threading.Event) -> Callable[[], None]:
    def task() -> None:
        done.append(what)
        event.set()

    return task


def test_tasks_are_done_in_order_by_one_thread() -> None:
    worker, last = ThreadWorker(), threading.Event()
    done: list[tuple[int, int]] = []

    def note(number: int) -> None:
        done.append((number, threading.get_ident()))

    for number in range(10):
        worker.submit(partial(note, number))
    worker.submit(last.set)
    worker.submit(None)
    assert last.wait(_SOON_S)
    assert [number for number, _ in done] == list(range(10))
    assert len({thread for _, thread in done}) == 1


def test_a_worker_goes_on_without_the_task_that_hangs() -> None:
    worker, begun, hang, done = ThreadWorker(), threading.Event(), threading.Event(), list[str]()
    after, at_last = threading.Event(), threading.Event()
    hung: list[threading.Thread] = []

    def hanging() -> None:
        hung.append(threading.current_thread())
        begun.set()
        hang.wait()
        done.append("hanging")

    worker.submit(hanging)
    worker.submit(noting(done, "behind it", after))
    assert begun.wait(_SOON_S)
    assert not after.is_set()
    worker.leave()
    assert after.wait(_SOON_S)
    hang.set()
    hung[0].join(_SOON_S)
    assert not hung[0].is_alive()  # the thread that was left ends with its task
    worker.submit(noting(done, "later", at_last))
    assert at_last.wait(_SOON_S)
    worker.submit(None)
    assert done == ["behind it", "hanging", "later"]


def test_inline_tasks_are_done_at_once() -> None:
    worker, done = InlineWorker(), list[int]()
    worker.submit(lambda: done.append(1))
    assert done == [1]
    worker.submit(None)
    with pytest.raises(RuntimeError):
        worker.leave()
