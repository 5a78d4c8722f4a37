"""A /proc tree in a folder: processes, their control groups, and the sockets on which they listen."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

CONTAINERS = {
    name: digit * 64 for name, digit in zip(("one", "two", "three", "four", "shim"), "abcde", strict=True)
}
POD = "11111111-2222-3333-4444-555555555555"
BTIME_S = 1_780_000_000


def in_pod(container: str) -> str:
    """The control group of a container that containerd runs in the pod."""
    pod = POD.replace("-", "_")
    return f"0::/kubepods.slice/kubepods-pod{pod}.slice/cri-containerd-{CONTAINERS[container]}.scope\n"


class Tree:
    """Made as the kernel shows it, without what nobody asks for. All is in one network namespace: this
    process's, unless ``namespaces`` says otherwise."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "sys/kernel/random").mkdir(parents=True)
        (root / "sys/kernel/random/boot_id").write_text("boot-1\n")
        (root / "stat").write_text(f"cpu 1\nbtime {BTIME_S}\n")
        self._listening: dict[int, tuple[str, int]] = {}

    def process(
        self,
        pid: int,
        parent: int,
        name: str = "python3",
        cgroup: str = "0::/user.slice\n",
        command: tuple[str, ...] = (),
        environ: Mapping[str, str] | None = None,
        listens: Mapping[int, tuple[str, int]] | None = None,
        namespace: str = "",
        started_s: int | None = None,
    ) -> None:
        """``listens``: address and port by inode; the socket's file is one of the process's descriptors."""
        folder = self.root / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "net").mkdir()
        (folder / "ns").mkdir()
        ticks = (pid if started_s is None else started_s) * os.sysconf("SC_CLK_TCK")
        after = " ".join(["S", str(parent), *["0"] * 15, "1", "0", str(ticks)])
        (folder / "stat").write_text(f"{pid} ({name}) {after}\n")
        (folder / "comm").write_text(f"{name}\n")
        (folder / "cgroup").write_text(cgroup)
        (folder / "cmdline").write_bytes(b"".join(f"{word}\0".encode() for word in command or (name,)))
        environ = environ or {}
        (folder / "environ").write_bytes(b"".join(f"{k}={v}\0".encode() for k, v in environ.items()))
        (folder / "status").write_text("Uid:\t0\t0\t0\t0\n")
        (folder / "ns/net").symlink_to(namespace or Path("/proc/self/ns/net").readlink())
        for number, inode in enumerate(listens or {}):
            (folder / f"fd/{number + 3}").symlink_to(f"socket:[{inode}]")
        (folder / "fd/0").symlink_to("/dev/null")
        self._listening |= listens or {}
        for other in self.root.glob("[0-9]*"):  # a namespace has one table
            (other / "net/tcp").write_text(self._table(socket.AF_INET))
            (other / "net/tcp6").write_text(self._table(socket.AF_INET6))

    def start_ns(self, pid: int) -> int | None:
        """As ProcTree tells it."""
        stat = self.root / str(pid) / "stat"
        if not stat.exists():
            return None
        ticks = int(stat.read_text().rpartition(")")[2].split()[19])
        return BTIME_S * 10**9 + ticks * (10**9 // os.sysconf("SC_CLK_TCK"))

    def _table(self, family: socket.AddressFamily) -> str:
        lines = [
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
        ]
        for inode, (host, port) in self._listening.items():
            if (":" in host) == (family == socket.AF_INET6):
                packed = socket.inet_pton(family, host)
                words = [packed[at : at + 4] for at in range(0, len(packed), 4)]
                digits = "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
                none = "0" * len(digits)
                for state in ("0A", "01"):  # the second is a connection, of which there may be thousands
                    number = inode if state == "0A" else inode + 1_000_000
                    lines.append(
                        f"   0: {digits}:{port:04X} {none}:0000 {state} 00000000:00000000 00:00000000"
                        f" 00000000     0        0 {number} 1 0000000000000000 100 0 0 10 0"
                    )
        return "\n".join(lines) + "\n"
