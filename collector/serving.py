"""The processes of this host, with the models that their serving engines name, and the engines' units."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wattribute.collector.clock import STEP_NS
from wattribute.collector.proc import ProcTree
from wattribute.endpoints import Endpoint
from wattribute.records import LABELS_MAX, Exit, Record, Workload

if TYPE_CHECKING:
    from wattribute.collector.endpoints import Key
    from wattribute.collector.scraper import Scraper
    from wattribute.collector.target import Serves

_LOG: Final = logging.getLogger(__name__)
_S: Final = 1_000_000_000
_SETTLE_S: Final = 2.0  # workers appear one after another
_LOOK_S, _LOOK_MAX_S = 5.0, 120.0  # an engine may load for minutes before it listens
_NEVER: Final = 1 << 62
_GONE_NS: Final = 120 * _S
# A late identity restates up to 1 h (docs/bus.md, Windows); 10 min of that are for its transport.
_BACK_NS: Final = 3_000 * _S


@dataclass(slots=True)
class _OnGpu:
    """A process that was seen on a device."""

    seen_ns: int
    own: Workload | None = None  # its workload from /proc
    first_ns: int = 0  # when that was first sent
    late: bool = True  # its server's model was not sent yet


class Serving:
    """Takes the place of ``tree`` and adds models to its processes. ``period_s`` is the time between two
    readings of an endpoint; ``now_ns`` returns the clock's time.

    A server's model also applies to the processes that compute it, from when they were first seen, unless
    they name a model themselves. The reading thread starts with the first process on a GPU, or at once where
    endpoints are ``configured``.
    """

    def __init__(
        self,
        tree: ProcTree,
        root: Path,
        host: str,
        period_s: float,
        configured: Sequence[Endpoint],
        now_ns: Callable[[], int],
    ) -> None:
        self.boot_id = tree.boot_id
        self.scraper: Scraper | None = None
        self._tree, self._root, self._host = tree, root, host
        self._period_s, self._configured, self._clock_ns = period_s, tuple(configured), now_ns
        self._since_ns = now_ns()
        self._stepped_ns = 0  # by how much the wall clock was set since then
        self._lock = threading.Lock()
        self._on_gpus: dict[Key, _OnGpu] = {}
        self._serves: dict[Key, Serves] = {}
        self._told: list[Record] = []
        self._stop = threading.Event()
        self._news = threading.Event()  # a process came to a GPU
        self._thread: threading.Thread | None = None

    def start_ns(self, pid: int) -> int | None:
        """When the process started; None if no process has that pid."""
        start_ns = self._tree.start_ns(pid)
        if start_ns is not None:
            now_ns = self._clock_ns()
            with self._lock:
                seen = self._on_gpus.get((pid, start_ns))
                if seen is None:
                    self._on_gpus[pid, start_ns] = _OnGpu(now_ns)
                    self._news.set()
                else:
                    seen.seen_ns = now_ns
        return start_ns

    def workload(self, pid: int, start_ns: int, t: int) -> Workload | None:
        """To whom it belongs, as known at ``t``; None if it has ended or the answer is not ready yet."""
        own = self._tree.workload(pid, start_ns, t)
        with self._lock:
            seen, serves = self._on_gpus.get((pid, start_ns)), self._serves.get((pid, start_ns))
            if own is not None and seen is not None:
                seen.own, seen.first_ns = own, seen.first_ns or t
        return own if own is None or serves is None else _named(own, serves)

    def exits(self, now_ns: int) -> Sequence[Exit | Workload]:
        """The processes asked for above that ended since the last call, with workloads still due."""
        told: list[Exit | Workload] = []
        ended = self._tree.exits(now_ns)
        with self._lock:
            for record in ended:
                key = record.pid, record.start_ns
                self._on_gpus.pop(key, None)
                serves = self._serves.get(key)
                told.append(_named(record, serves) if serves and isinstance(record, Workload) else record)
        return told

    def outcomes(self, now_ns: int) -> Sequence[Record]:
        """The engines' records since the last call; ``now_ns``: the sampler's time."""
        stepped_ns = now_ns - self._clock_ns()
        if abs(stepped_ns - self._stepped_ns) > STEP_NS:  # less: this call is only late
            self._stepped_ns = stepped_ns
        if self._thread is None and (self._configured or self._on_gpus):
            self._thread = threading.Thread(target=self._run, name="scraper", daemon=True)
            self._thread.start()
        with self._lock:
            told, self._told = self._told, []
            late = self._late(now_ns)
        if self._stepped_ns:
            told = [replace(record, t=record.t + self._stepped_ns) for record in told]
        return [*late, *told]

    def _late(self, now_ns: int) -> list[Record]:
        """Workloads of processes whose server was found since the last call. They apply from when each
        process was first sent, because it loaded the model before its server could answer."""
        named: list[Record] = []
        for key, serves in self._serves.items():
            seen = self._on_gpus.get(key)
            if seen is not None and seen.late and seen.own is not None and serves.model:
                seen.late = False
                named.append(replace(_named(seen.own, serves), t=max(seen.first_ns, now_ns - _BACK_NS)))
        return named

    def close(self) -> None:
        """Stop reading and watching."""
        self._stop.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(1.0)
        self._tree.close()

    def _run(self) -> None:
        try:
            self._follow()
        except Exception as problem:  # no error here may stop the sampling
            _LOG.warning("serving engines are no longer read; report this bug in wattribute: %r", problem)

    def _follow(self) -> None:
        from wattribute.collector.scraper import Scraper  # noqa: PLC0415 - only where a GPU is in use

        self.scraper = scraper = Scraper(
            self._root,
            self._tree.living_since_ns,
            self._host,
            self._since_ns,
            round(self._period_s * _S),
            self._configured,
        )
        look_s, look_due_ns, looked_ns = _LOOK_S, 0, 0
        while not self._stop.is_set():
            if self._news.is_set():
                self._news.clear()
                self._stop.wait(min(_SETTLE_S, self._period_s))
                look_s, look_due_ns = _LOOK_S, looked_ns + round(_LOOK_S * _S)
            with self._lock:
                self._forget()
                on_gpus = list(self._on_gpus)
                workloads = {key: seen.own for key, seen in self._on_gpus.items() if seen.own is not None}
            if self._clock_ns() >= look_due_ns:
                looked_ns = self._clock_ns()
                all_served = scraper.look(looked_ns, on_gpus)
                look_due_ns = _NEVER if all_served else self._clock_ns() + round(look_s * _S)
                look_s = min(3 * look_s, _LOOK_MAX_S)
            before = _answering(scraper)
            told = scraper.read(self._clock_ns, workloads)
            serves = scraper.serves()
            with self._lock:
                self._told += told
                self._serves = serves
            # A server may have restarted at another address, or an endpoint may prove to be a known server.
            if before != _answering(scraper):
                look_s, look_due_ns = _LOOK_S, self._clock_ns() + round(_SETTLE_S * _S)
            dues = [look_due_ns, *(target.due_ns for target in scraper.targets.values())]
            self._news.wait(min(_LOOK_MAX_S, max(0.01, (min(dues) - self._clock_ns()) / _S)))

    def _forget(self) -> None:
        now_ns = self._clock_ns()
        gone = [key for key, seen in self._on_gpus.items() if now_ns - seen.seen_ns > _GONE_NS]
        for key in gone:
            del self._on_gpus[key]


def _answering(scraper: Scraper) -> set[int]:
    return {id(target) for target in scraper.targets.values() if not target.problem}


def _named(own: Workload, serves: Serves) -> Workload:
    """The workload, with its server's model where it names none itself."""
    labels = {"engine": serves.engine, "model_path": serves.model_path}
    labels = {**{name: text for name, text in labels.items() if text}, **own.labels}
    if len(labels) > LABELS_MAX:
        labels = dict(own.labels)
    named = replace(own, labels=labels, phase=own.phase or "inference")
    if own.model or not serves.model:
        return named
    return replace(
        named,
        model=serves.model,
        model_version=own.model_version or serves.model_version,
        identity_source="engine",
    )
