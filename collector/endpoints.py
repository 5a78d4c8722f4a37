"""Finds where the serving engines of this host show their counters, starting from the processes on its GPUs.

An engine's API process holds no GPU, but its workers do. So the search goes from each process on a GPU to its
ancestors, to their other children, and to all processes of its container and pod; then to the TCP sockets on
which any of these listen; and then to what answers there. Only this machine is contacted, in the network
namespace of the listening process.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from wattribute.collector.engines import ENGINES, Engine
from wattribute.collector.fetch import Address
from wattribute.collector.identity import Group, group
from wattribute.collector.proc import read_file

Key = tuple[int, int]
"""pid, start_ns"""

# Processes with many descendants that have nothing in common.
_LAUNCHERS: Final = frozenset(
    (
        *("systemd", "init", "tini", "dumb-init", "containerd-shim", "conmon", "supervisord", "slurmstepd"),
        *("cron", "sshd", "sshd-session", "login", "su", "sudo", "tmux: server", "screen"),
        *("bash", "sh", "dash", "zsh", "fish"),
    )
)
_LISTENS: Final = b"0A"
_DESCRIPTORS_MAX: Final = 65_536
_PORTS: Final = frozenset(port for engine in ENGINES for port in engine.ports)
_FARTHEST: Final = 4
_KERNEL: Final = b"2"  # the parent of the kernel's threads, which are most processes of many hosts
_group: Final = lru_cache(4096)(group)
_OTHERS: Final = "sockets of other users cannot be seen: run the collector as root, or with CAP_SYS_PTRACE"


class Member(NamedTuple):
    """A process with its parent and its name."""

    pid: int
    parent: int
    name: str


@dataclass(frozen=True, slots=True)
class Listener:
    """A process and an address on which it listens. ``is_at_all``: it listens on all addresses, and
    ``address`` is a loopback address. ``rival``: the pid of another process, not its child, that listens
    there on a socket of its own (SO_REUSEPORT), so that the two answer by turns; 0: none."""

    process: Key
    address: Address
    rival: int = field(default=0, compare=False)
    is_at_all: bool = field(default=False, compare=False)


class _Socket(NamedTuple):
    host: str
    port: int
    is_at_all: bool


@dataclass(frozen=True, slots=True)
class Server:
    """An engine's API process, and the address of its counters."""

    process: Key
    address: Address
    engine: Engine
    alias: str
    """Its model's name, from its command line or environment; '' where these do not name it."""
    model_path: str


class Processes:
    """All processes of a /proc tree at one moment, except the kernel's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._within: dict[int, Group] = {}
        self._sharing: dict[str, set[int]] | None = None  # by container and by pod
        self.members: dict[int, Member] = {}
        self._children: dict[int, list[int]] = {}
        for entry in os.scandir(root):
            if entry.name.isdecimal():
                pid = int(entry.name)
                # PID (COMM) STATE PPID …: COMM may contain spaces and parentheses.
                name, _, rest = read_file(root, pid, "stat").partition(b"(")[2].rpartition(b")")
                words = rest.split(None, 2)
                if len(words) > 1 and words[1].isdigit() and words[1] != _KERNEL:
                    member = Member(pid, int(words[1]), name.decode(errors="replace"))
                    self.members[pid] = member
                    self._children.setdefault(member.parent, []).append(pid)

    def within(self, pid: int) -> Group:
        """Container and pod of a process. Read on demand: on a bare machine most are never needed."""
        if pid not in self._within:
            self._within[pid] = _group(read_file(self.root, pid, "cgroup"))
        return self._within[pid]

    def ancestors(self, pid: int) -> list[int]:
        """The process, its parent and so on, up to a launcher or the edge of its container."""
        line: list[int] = []
        member = self.members.get(pid)
        while member is not None and member.pid > 1 and member.pid not in line:
            if line and (
                member.name in _LAUNCHERS or self.within(member.pid).container != self.within(pid).container
            ):
                break
            line.append(member.pid)
            member = self.members.get(member.parent)
        return line

    def group_of(self, pid: int) -> set[int]:
        """All processes that may serve what the process computes."""
        if pid not in self.members:
            return set()
        line, within = self.ancestors(pid), self.within(pid)
        found = set(line).union(*(self._children.get(ancestor, ()) for ancestor in line))
        for name in (within.container, within.pod):
            if name:
                found |= self._with(name)
        return found

    def _with(self, name: str) -> set[int]:
        """The processes of a container or pod."""
        if self._sharing is None:
            self._sharing = {}
            for pid in self.members:
                within = self.within(pid)
                for place in {within.container, within.pod}:
                    self._sharing.setdefault(place, set()).add(pid)
        return self._sharing[name]

    def distance(self, server: int, pid: int) -> tuple[int, int]:
        """How far a server is from a process on a GPU: 0 for the process itself or an ancestor, 1 for a child
        of an ancestor (each with the steps to that ancestor), 2 for the same container, 3 for the same pod, 4
        for none of these."""
        line = self.ancestors(pid)
        if server in line:
            return 0, line.index(server)
        if server not in self.members or pid not in self.members:
            return _FARTHEST, 0
        parent, one, other = self.members[server].parent, self.within(server), self.within(pid)
        if parent in line:
            return 1, line.index(parent)
        if one.container and one.container == other.container:
            return 2, 0
        return (3 if one.pod and one.pod == other.pod else _FARTHEST), 0


def assigned(processes: Processes, servers: Sequence[Server], pids: Iterable[int]) -> dict[int, Server]:
    """The server of each process on a GPU that has one.

    It is the process itself or its nearest ancestor that is a server. Without one, it is the single nearest
    server that has no process on a GPU yet; where several are equally near, or none is, it stays unknown."""
    found: dict[int, Server] = {}
    others: list[int] = []
    for pid in pids:
        near = [(processes.distance(server.process[0], pid), server) for server in servers]
        own = [item for item in near if item[0][0] == 0]
        if own:
            found[pid] = min(own, key=lambda item: item[0])[1]
        else:
            others.append(pid)
    free = [server for server in servers if server not in found.values()]
    for pid in others:
        ranks = [(processes.distance(server.process[0], pid)[0], server) for server in free]
        nearest = min((rank for rank, _ in ranks), default=_FARTHEST)
        at_it = [server for rank, server in ranks if rank == nearest]
        if nearest < _FARTHEST and len(at_it) == 1:
            found[pid] = at_it[0]
    return found


def listeners(
    processes: Processes, pids: Iterable[int], start_ns: Callable[[int], int | None], problems: set[str]
) -> list[Listener]:
    """Where these processes listen, known ports first, each address once: with the process that began first,
    where several share it. What cannot be seen is added to ``problems``."""
    root = processes.root
    home = _namespace(Path("/proc"), os.getpid())
    tables: dict[str, dict[int, _Socket]] = {}
    holders: dict[tuple[str, str, int], dict[Key, set[int]]] = {}
    for pid in pids:
        try:
            inodes = set(_sockets(root, pid))
        except PermissionError:
            problems.add(_OTHERS)
            continue
        except OSError:
            continue
        if not inodes:
            continue
        namespace = _namespace(root, pid)
        if namespace not in tables:
            tables[namespace] = _listening(root, pid)
        listening = inodes & tables[namespace].keys()
        if not listening or (began_ns := start_ns(pid)) is None:
            continue
        for inode in listening:
            host, port, _ = tables[namespace][inode]
            of_place = holders.setdefault((namespace, host, port), {})
            of_place.setdefault((pid, began_ns), set()).add(inode)
    found = []
    for (namespace, host, port), of_place in holders.items():
        process = min(of_place, key=lambda key: key[1])
        apart = (pid for (pid, _), inodes in of_place.items() if inodes.isdisjoint(of_place[process]))
        rival = next((pid for pid in apart if process[0] not in processes.ancestors(pid)), 0)
        file = "" if namespace == home else f"{root}/{process[0]}/ns/net"
        is_at_all = any(tables[namespace][inode].is_at_all for inode in of_place[process])
        found.append(Listener(process, Address(host, port, namespace=file), rival, is_at_all))
    return sorted(found, key=lambda item: (item.address.port not in _PORTS, item.address.port))


def _namespace(root: Path, pid: int) -> str:
    try:
        return os.readlink(f"{root}/{pid}/ns/net")  # noqa: PTH115 - a target, not a path
    except OSError:
        return ""


def _sockets(root: Path, pid: int) -> Iterator[int]:
    folder = f"{root}/{pid}/fd"
    for name in os.listdir(folder)[:_DESCRIPTORS_MAX]:  # noqa: PTH208 - names alone, of thousands
        try:
            target = os.readlink(f"{folder}/{name}")  # noqa: PTH115
        except FileNotFoundError:  # closed in the meantime
            continue
        if target.startswith("socket:["):
            yield int(target[8:-1])


def _listening(root: Path, pid: int) -> dict[int, _Socket]:
    """The listening sockets in the network namespace of a process, by inode."""
    found: dict[int, _Socket] = {}
    for name in ("net/tcp", "net/tcp6"):
        for line in read_file(root, pid, name).splitlines()[1:]:
            words = line.split()
            if len(words) > 9 and words[3] == _LISTENS:
                host, _, port = words[1].partition(b":")
                try:
                    found[int(words[9])] = _Socket(_address(host), int(port, 16), not host.strip(b"0"))
                except ValueError:
                    continue
    return found


def _address(digits: bytes) -> str:
    """The address at which a listener is reached; the kernel writes addresses in words of its byte order."""
    raw = bytes.fromhex(digits.decode())
    words = struct.unpack(f">{len(raw) // 4}I", raw)
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    if not any(packed):
        return "127.0.0.1" if len(packed) == 4 else "::1"
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
