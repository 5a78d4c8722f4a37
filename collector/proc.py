"""Processes as /proc shows them: when one began, when it ended, and whose it is."""

from __future__ import annotations

import os
import select
from itertools import takewhile
from pathlib import Path
from typing import Final, NamedTuple, Self

from wattribute.collector.identity import command, environment, group, identity, user_name
from wattribute.errors import WattributeError
from wattribute.records import Exit, Workload

_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
# 4 MiB: the kernel's bound on an environment is 2 at the usual stack limit. By the piece, because to ask for
# all of it at once maps and clears as much: a process's stat then took 50 µs instead of 10.
_FILE_PIECES_MAX: Final = 64
_PIECE_BYTES: Final = 64 << 10
_REAL_PROC: Final = Path("/proc")


class _Watched(NamedTuple):
    start_ns: int
    pidfd: int | None  # None: its end is seen in /proc


class ProcTree:
    """The processes under a /proc tree. A process is (boot_id, pid, start_ns): a pid alone is reused.

    A process that ``start_ns`` was asked about is watched until it ends. On the real /proc a pidfd tells
    that; a tree that is a recording, or another pid namespace's, is looked at file by file. Raises
    WattributeError where ``root`` is no /proc.
    """

    def __init__(self, root: Path = _REAL_PROC) -> None:
        self._root = root
        try:
            self.boot_id = (root / "sys/kernel/random/boot_id").read_text().strip()
            stat = (root / "stat").read_bytes()
        except (OSError, UnicodeDecodeError) as problem:
            raise WattributeError(f"cannot read {root}: {problem}; mount the host's /proc there") from problem
        # Read once: the kernel derives it from the wall clock, and a step of that must not rename processes.
        self._boot_ns = _boot_ns(stat, root)
        self._watched: dict[int, _Watched] = {}
        self._ended: list[tuple[int, int]] = []  # (pid, start_ns) that exits() has yet to report

    def start_ns(self, pid: int) -> int | None:
        """Unix time at which the process began, to a clock tick (10 ms); None if there is none now."""
        watched = self._watched.get(pid)
        if watched is not None:
            if self._lives(pid, watched):
                return watched.start_ns
            self._end(pid)  # gone, and perhaps another has its pid by now
        return self._watch(pid)

    def workload(self, pid: int, start_ns: int, t: int) -> Workload | None:
        """Whose the process is at ``t``; None if it is gone. What may not be read stays empty: the
        environment of another user's process is closed to an unprivileged collector."""
        environ = environment(self._read(pid, "environ"))
        within = group(self._read(pid, "cgroup"))
        name = command(self._read(pid, "comm"), self._read(pid, "cmdline"))
        user = _user(self._read(pid, "status"))
        # Checked last: then all of the above was this process's.
        watched = self._watched.get(pid, _Watched(start_ns, None))
        if watched.start_ns != start_ns or not self._lives(pid, watched):
            return None
        return Workload(t=t, pid=pid, start_ns=start_ns, user=user, command=name, **identity(environ, within))

    def exits(self, now_ns: int) -> list[Exit]:
        """The watched processes that ended since the last call, as of ``now_ns``; each is told once."""
        gone = [pid for pid, watched in self._watched.items() if not self._lives(pid, watched)]
        for pid in gone:
            self._end(pid)
        ended, self._ended = self._ended, []
        return [Exit(t=now_ns, pid=pid, start_ns=start_ns) for pid, start_ns in ended]

    def close(self) -> None:
        """Stop watching."""
        for watched in self._watched.values():
            _close(watched.pidfd)
        self._watched.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _watch(self, pid: int) -> int | None:
        pidfd = None
        if self._root == _REAL_PROC:
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:  # gone, an old kernel, a seccomp filter, no descriptor left: /proc will tell
                pidfd = None
        # In this order: if the pidfd's process lives after the reading, the reading was of it.
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
        """As ``start_ns``, of a process that is not to be watched; from any thread."""
        stat = self._read(pid, "stat")
        # PID (COMM) STATE …: the name may itself hold spaces and parentheses, so count from the last ')'.
        fields = stat[stat.rfind(b")") + 1 :].split()
        try:
            state, threads, start_ticks = fields[0], int(fields[17]), int(fields[19])
        except (IndexError, ValueError):
            return None
        # A zombie has ended; one with threads is alive, only its first thread has left.
        if state in (b"X", b"x") or (state == b"Z" and threads <= 1):
            return None
        return self._boot_ns + start_ticks * _TICK_NS

    def _read(self, pid: int, name: str) -> bytes:
        """A file of a process, b'' where it may not be read or the process is gone."""
        try:
            descriptor = os.open(f"{self._root}/{pid}/{name}", os.O_RDONLY)
        except OSError:
            return b""
        try:
            pieces = (os.read(descriptor, _PIECE_BYTES) for _ in range(_FILE_PIECES_MAX))
            return b"".join(takewhile(bool, pieces))
        except OSError:
            return b""
        finally:
            os.close(descriptor)


def _boot_ns(stat: bytes, root: Path) -> int:
    for line in stat.splitlines():
        name, _, seconds = line.partition(b" ")
        if name == b"btime" and seconds.strip().isdigit():
            return int(seconds) * 1_000_000_000
    raise WattributeError(f"{root}/stat has no btime: mount the host's /proc there")


def _user(status: bytes) -> str:
    for line in status.splitlines():
        if line.startswith(b"Uid:"):
            uid = line.split()[1:2]  # the real one; the effective, saved and file system's follow
            return user_name(int(uid[0])) if uid and uid[0].isdigit() else ""
    return ""


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _close(pidfd: int | None) -> None:
    if pidfd is not None:
        os.close(pidfd)
