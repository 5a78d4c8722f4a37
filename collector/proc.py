"""Processes as /proc shows them: when each began and ended, and to whom it belongs."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from wattribute.collector.identity import (
    Seen,
    command,
    command_line,
    environment,
    group,
    identity,
    user_name,
)
from wattribute.errors import WattributeError
from wattribute.records import Exit, Workload
from wattribute.rules import Rule

if TYPE_CHECKING:
    from wattribute.collector.kubelet import Kubelet

_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
# 8 MiB: some 50,000 sockets of net/tcp; an environment has at most 2 MiB at the usual stack limit. Files are
# read in pieces: one read of 8 MiB maps and clears that much, so a process's stat took 50 µs instead of 10.
_FILE_PIECES_MAX: Final = 128
_PIECE_BYTES: Final = 64 << 10
_REAL_PROC: Final = Path("/proc")
# The kubelet lists a container a moment after it began. Waiting for that costs nothing: the first identity of
# a process also applies to the time before.
_KUBELET_WAIT_NS: Final = 10_000_000_000
_ANCESTORS_MOST: Final = 8  # each may have written its title over its environment
_LATE_MOST_NS: Final = 3_600_000_000_000  # docs/bus.md, Windows: older windows are not restated


class _Stat(NamedTuple):
    """Fields of /proc/PID/stat. ``leads_session``: the process has a session of its own."""

    parent: int
    group: int
    leads_session: bool
    start_ns: int


class _Watched(NamedTuple):
    start_ns: int
    pidfd: int | None  # None: /proc shows its end


class ProcTree:
    """The processes under a /proc tree. A process is (boot_id, pid, start_ns): a pid alone is reused.

    ``kubelet`` knows the pods; ``rules`` name what nothing else names. A process for which ``start_ns`` was
    called is watched until it ends. On the real /proc a pidfd shows the end; a recorded tree, or one of
    another pid namespace, is read file by file. Raises WattributeError where ``root`` is not a /proc.
    """

    def __init__(
        self, root: Path = _REAL_PROC, kubelet: Kubelet | None = None, rules: Sequence[Rule] = ()
    ) -> None:
        self._root = root
        self._kubelet = kubelet
        self._rules = rules
        try:
            self.boot_id = (root / "sys/kernel/random/boot_id").read_text().strip()
            stat = (root / "stat").read_bytes()
        except (OSError, UnicodeDecodeError) as problem:
            raise WattributeError(f"cannot read {root}: {problem}; mount the host's /proc there") from problem
        # Read once: the kernel derives it from the wall clock, whose steps must not change start times.
        self._boot_ns = _boot_ns(stat, root)
        self._watched: dict[int, _Watched] = {}
        self._ended: list[tuple[int, int]] = []  # (pid, start_ns) that exits() will report
        # Workloads without their pod, which the kubelet has not listed yet, with the time of the first call.
        self._untold: dict[tuple[int, int], Workload] = {}
        self._launches: dict[tuple[int, int], str] = {}  # kept: a group's first process may end earlier

    def start_ns(self, pid: int) -> int | None:
        """Unix time at which the process began, to a clock tick (10 ms); None if no such process exists."""
        watched = self._watched.get(pid)
        if watched is not None:
            if self._lives(pid, watched):
                return watched.start_ns
            self._end(pid)  # it has ended, and another process may have its pid by now
        return self._watch(pid)

    def workload(self, pid: int, start_ns: int, t: int) -> Workload | None:
        """To whom the process belongs at ``t``; None if it has ended, or while its pod is awaited from the
        kubelet. What may not be read stays empty: an unprivileged collector cannot read the environment of
        another user's process. A workload that waited for its pod has the time of the first call for it."""
        environ = self._environment(pid)
        within = group(self._read(pid, "cgroup"))
        cmdline = self._read(pid, "cmdline")
        name = command(self._read(pid, "comm"), cmdline)
        user = user_of(self._read(pid, "status"))
        launch = self._launch(pid, start_ns, is_worker="TORCHELASTIC_RESTART_COUNT" in environ)
        # Checked last: this proves that all of the above was read from this process.
        watched = self._watched.get(pid, _Watched(start_ns, None))
        if watched.start_ns != start_ns or not self._lives(pid, watched):
            return None
        seen = Seen(command_line(cmdline) or name, user, launch)
        pod = self._kubelet.pod(within.pod, within.container) if self._kubelet and within.pod else None
        fields = identity(environ, within, pod, self._rules, seen)
        workload = Workload(t=t, pid=pid, start_ns=start_ns, command=name, **fields)
        if not self._kubelet or not within.pod or (pod and within.container in ("", *pod.containers)):
            untold = self._untold.pop((pid, start_ns), None)
            # And not later than now: the clock may have been set back.
            return replace(workload, t=min(t, max(untold.t, t - _LATE_MOST_NS))) if untold else workload
        workload = replace(workload, t=self._untold.get((pid, start_ns), workload).t)
        self._untold[pid, start_ns] = workload
        return workload if t - workload.t >= _KUBELET_WAIT_NS else None

    def exits(self, now_ns: int) -> list[Exit | Workload]:
        """The watched processes that ended since the last call, as of ``now_ns``, each once. Where the
        kubelet has not listed a process's pod in time, its workload without the pod comes first."""
        gone = [pid for pid, watched in self._watched.items() if not self._lives(pid, watched)]
        for pid in gone:
            self._end(pid)
        ended, self._ended = self._ended, []
        records: list[Exit | Workload] = []
        for pid, start_ns in ended:
            self._launches.pop((pid, start_ns), None)
            if untold := self._untold.pop((pid, start_ns), None):
                records.append(untold)
            records.append(Exit(t=now_ns, pid=pid, start_ns=start_ns))
        return records

    def close(self) -> None:
        """Stop watching."""
        for watched in self._watched.values():
            _close(watched.pidfd)
        self._watched.clear()

    def _watch(self, pid: int) -> int | None:
        pidfd = None
        if self._root == _REAL_PROC:
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:  # it ended, an old kernel, a seccomp filter, no descriptor left: use /proc
                pidfd = None
        # In this order: if the pidfd's process still lives after the reading, that process was read.
        start_ns = self.living_since_ns(pid)
        if start_ns is None or (pidfd is not None and _has_ended(pidfd)):
            _close(pidfd)
            return None
        self._watched[pid] = _Watched(start_ns, pidfd)
        return start_ns

    def _lives(self, pid: int, watched: _Watched) -> bool:
        if watched.pidfd is not None:
            return not _has_ended(watched.pidfd)
        return self.living_since_ns(pid) == watched.start_ns

    def _end(self, pid: int) -> None:
        watched = self._watched.pop(pid)
        _close(watched.pidfd)
        self._ended.append((pid, watched.start_ns))

    def living_since_ns(self, pid: int) -> int | None:
        """As ``start_ns``, without watching the process. Can be called from any thread."""
        stat = self._stat(pid)
        return None if stat is None else stat.start_ns

    def _stat(self, pid: int) -> _Stat | None:
        """The process's stat; None where it has ended."""
        stat = self._read(pid, "stat")
        # PID (COMM) STATE …: COMM may contain spaces and parentheses, so count from the last ')'.
        fields = stat[stat.rfind(b")") + 1 :].split()
        try:
            parent, group, session = (int(field) for field in fields[1:4])
            state, threads, start_ticks = fields[0], int(fields[17]), int(fields[19])
        except (IndexError, ValueError):
            return None
        # A zombie has ended; but one with other threads is alive: only its first thread has ended.
        if state in (b"X", b"x") or (state == b"Z" and threads <= 1):
            return None
        return _Stat(parent, group, session == pid, self._boot_ns + start_ticks * _TICK_NS)

    def _launch(self, pid: int, start_ns: int, is_worker: bool) -> str:
        """A name for the process group that a process was launched in: what a shell starts with one command.

        torchrun gives each worker its own session, so for a worker torchrun's group is named."""
        known = self._launches.get((pid, start_ns))
        if known is None:
            stat = self._stat(pid)
            if stat is not None and is_worker and stat.leads_session and stat.parent > 1:
                stat = self._stat(stat.parent) or stat
            first = self._stat(stat.group) if stat is not None else None
            began_ns = first.start_ns if first else start_ns
            number = stat.group if stat is not None else pid
            known = f"group-{self.boot_id[:8]}-{number}-{began_ns // 1_000_000_000}"
            self._launches[pid, start_ns] = known
        return known

    def _environment(self, pid: int) -> dict[str, str]:
        """The allow-listed variables of a process. Where the process wrote its title over its environment, as
        setproctitle does in vLLM's and SGLang's workers, the parent's variables fill in what is lost; but not
        those of a parent of another user or control group: sudo passes on hardly any of its variables."""
        found: dict[str, str] = {}
        for _ in range(_ANCESTORS_MOST):
            raw = self._read(pid, "environ")
            found = {**environment(raw), **found}
            stat = self._stat(pid) if _is_written_over(raw) else None
            if stat is None or self._origin(stat.parent) != self._origin(pid):
                break
            pid = stat.parent
        return found

    def _origin(self, pid: int) -> tuple[bytes, str]:
        return self._read(pid, "cgroup"), user_of(self._read(pid, "status"))

    def _read(self, pid: int, name: str) -> bytes:
        return read_file(self._root, pid, name)


def read_file(root: Path, pid: int, name: str) -> bytes:
    """A file of a process under a /proc tree; b'' where it may not be read or the process has ended."""
    try:
        descriptor = os.open(f"{root}/{pid}/{name}", os.O_RDONLY)
    except OSError:
        return b""
    try:
        pieces = (os.read(descriptor, _PIECE_BYTES) for _ in range(_FILE_PIECES_MAX))
        return b"".join(takewhile(bool, pieces))
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _is_written_over(environ: bytes) -> bool:
    """Whether entries were overwritten with nothing; no program starts with an empty entry."""
    return environ.startswith(b"\0") or b"\0\0" in environ


def _boot_ns(stat: bytes, root: Path) -> int:
    for line in stat.splitlines():
        name, _, seconds = line.partition(b" ")
        if name == b"btime" and seconds.strip().isdigit():
            return int(seconds) * 1_000_000_000
    raise WattributeError(f"{root}/stat has no btime: mount the host's /proc there")


def user_of(status: bytes) -> str:
    """The user in the text of /proc/PID/status."""
    for line in status.splitlines():
        if line.startswith(b"Uid:"):
            uid = line.split()[1:2]  # the real UID; the effective, saved and file system UIDs follow
            return user_name(int(uid[0])) if uid and uid[0].isdigit() else ""
    return ""


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _close(pidfd: int | None) -> None:
    if pidfd is not None:
        os.close(pidfd)
