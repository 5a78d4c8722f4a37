"""Finding the serving engines of a host, from the processes on its GPUs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.collector.proc_tree import CONTAINERS, Tree, in_pod
from wattribute.collector.command_line import described
from wattribute.collector.endpoints import Processes, Server, assigned, listeners
from wattribute.collector.engines import ENGINES
from wattribute.collector.fetch import Address

VLLM, TGI, LLAMA = (next(e for e in ENGINES if e.name == name) for name in ("vllm", "tgi", "llama.cpp"))
DOCKER = {name: f"0::/system.slice/docker-{digits}.scope\n" for name, digits in CONTAINERS.items()}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path / "proc")
    made.process(1, 0, "systemd")
    made.process(50, 1, "bash")
    return made


def server(pid: int, port: int = 8000) -> Server:
    return Server((pid, pid), Address("127.0.0.1", port), VLLM, "", "")


def served_by(tree: Tree, servers: list[int], pids: list[int]) -> dict[int, int]:
    processes = Processes(tree.root)
    found = assigned(processes, [server(pid, 8000 + pid) for pid in servers], pids)
    return {pid: item.process[0] for pid, item in found.items()}


def test_workers_are_served_by_their_own_ancestor(tree: Tree) -> None:
    """Two vLLM started from one shell: API server, engine core, workers."""
    for first in (100, 200):
        tree.process(first, 50, "vllm")
        tree.process(first + 1, first, "VLLM::EngineCore")
        tree.process(first + 2, first + 1, "VLLM::Worker_TP0")
        tree.process(first + 3, first + 1, "VLLM::Worker_TP1")
    workers = [102, 103, 202, 203]
    assert served_by(tree, [100, 200], workers) == {102: 100, 103: 100, 202: 200, 203: 200}
    # While the second still loads, its workers are not the first one's: they stem from a shell alone.
    assert served_by(tree, [100], workers) == {102: 100, 103: 100}


def test_a_sibling_serves_what_its_launcher_also_started(tree: Tree) -> None:
    """TGI: the launcher starts the router, which listens, and the shards, which compute."""
    tree.process(300, 50, "text-generation")
    tree.process(301, 300, "text-generation-router")
    tree.process(302, 300, "python3")
    tree.process(303, 300, "python3")
    assert served_by(tree, [301], [302, 303]) == {302: 301, 303: 301}
    tree.process(304, 300, "another-router")
    assert served_by(tree, [301, 304], [302, 303]) == {}  # which of the two, nobody knows


def test_a_process_that_is_its_own_server(tree: Tree) -> None:
    tree.process(400, 50, "llama-server")
    assert served_by(tree, [400], [400]) == {400: 400}


def test_in_a_container_and_in_a_pod_they_need_not_be_related(tree: Tree) -> None:
    """As with MPI or Ray: workers whose parent is a daemon of the container, or in another container."""
    tree.process(500, 1, "containerd-shim", DOCKER["shim"])
    tree.process(510, 500, "trtllm-serve", DOCKER["one"])
    tree.process(511, 500, "orted", DOCKER["one"])
    tree.process(512, 511, "python3", DOCKER["one"])
    tree.process(520, 500, "python3", DOCKER["two"])
    assert served_by(tree, [510], [512, 520]) == {512: 510}
    tree.process(600, 500, "api", in_pod("three"))
    tree.process(601, 500, "worker", in_pod("four"))
    assert served_by(tree, [510, 600], [512, 601]) == {512: 510, 601: 600}


def test_a_training_beside_a_server_is_not_its(tree: Tree) -> None:
    """A notebook's container runs a server with its own worker, and a script on the GPU."""
    tree.process(700, 1, "jupyter-lab", DOCKER["one"])
    tree.process(701, 700, "vllm", DOCKER["one"])
    tree.process(702, 701, "VLLM::EngineCore", DOCKER["one"])
    tree.process(703, 700, "train.py", DOCKER["one"])
    assert served_by(tree, [701], [702, 703]) == {702: 701}


def test_the_group_is_where_a_server_may_be(tree: Tree) -> None:
    tree.process(100, 50, "vllm")
    tree.process(101, 100, "VLLM::EngineCore")
    tree.process(102, 100, "resource_tracker")
    tree.process(110, 50, "sleep")
    processes = Processes(tree.root)
    assert processes.group_of(101) == {100, 101, 102}
    assert processes.group_of(999) == set()


def test_listening_sockets_are_found_once_known_ports_first(tree: Tree) -> None:
    sockets = {
        71: ("0.0.0.0", 9123),
        72: ("127.0.0.1", 8000),
        73: ("::", 30000),
        74: ("10.1.2.3", 7777),
    }
    tree.process(100, 50, "vllm", listens=sockets)
    tree.process(101, 100, "worker", listens={71: sockets[71]})  # inherited, and younger
    tree.process(102, 100, "another", listens={75: ("127.0.0.1", 8000)})  # by SO_REUSEPORT
    tree.process(103, 100, "elsewhere", listens={90: ("127.0.0.1", 8002)}, namespace="net:[1]")
    problems: set[str] = set()
    found = listeners(Processes(tree.root), [101, 102, 100, 103], tree.start_ns, problems)
    places = [
        (item.process[0], item.address.host, item.address.port, item.address.namespace) for item in found
    ]
    assert places == [
        (100, "127.0.0.1", 8000, ""),
        (103, "127.0.0.1", 8002, f"{tree.root}/103/ns/net"),
        (100, "::1", 30000, ""),
        (100, "10.1.2.3", 7777, ""),
        (100, "127.0.0.1", 9123, ""),
    ]
    assert problems == set()


def test_who_listens_where_another_server_does_is_told(tree: Tree) -> None:
    tree.process(100, 50, "vllm", listens={71: ("0.0.0.0", 8000), 72: ("127.0.0.1", 8001)})
    tree.process(110, 50, "vllm", listens={73: ("0.0.0.0", 8000)})  # by SO_REUSEPORT
    found = listeners(Processes(tree.root), [110, 100], tree.start_ns, set())
    assert [(item.process[0], item.address.port, item.rival, item.is_at_all) for item in found] == [
        (100, 8000, 110, True),
        (100, 8001, 0, False),
    ]


def test_sockets_that_are_closed_to_this_user_are_said(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.process(100, 50, "vllm", listens={71: ("0.0.0.0", 8000)})

    def closed(path: str) -> list[str]:
        raise PermissionError(path)

    monkeypatch.setattr(os, "listdir", closed)
    problems: set[str] = set()
    assert listeners(Processes(tree.root), [100], tree.start_ns, problems) == []
    assert "CAP_SYS_PTRACE" in problems.pop()


@pytest.mark.parametrize(
    ("engine", "command", "environ", "alias", "path"),
    [
        (
            VLLM,
            ("/usr/bin/python3", "/opt/bin/vllm", "serve", "org/m", "--api-key", "s3cret"),
            {},
            "org/m",
            "org/m",
        ),
        (VLLM, ("vllm", "serve", "--port", "80", "--model=/models/m"), {}, "m", "/models/m"),
        (
            VLLM,
            ("python3", "-m", "a", "--model", "org/m", "--served-model-name", "chat"),
            {},
            "chat",
            "org/m",
        ),
        (TGI, ("text-generation-router",), {"MODEL_ID": "org/t", "HF_TOKEN": "s3cret"}, "org/t", "org/t"),
        (LLAMA, ("llama-server", "-m", "/srv/m.gguf", "-a", "mine"), {}, "mine", "/srv/m.gguf"),
        (LLAMA, ("llama-server", "-m", "https://u:s3cret@host/m.gguf"), {}, "", ""),
        (LLAMA, ("llama-server", "--port", "8080"), {}, "", ""),
    ],
)
def test_model_and_path_come_from_allow_listed_options_alone(
    tree: Tree, engine: object, command: tuple[str, ...], environ: dict[str, str], alias: str, path: str
) -> None:
    tree.process(100, 50, command=command, environ=environ)
    found = described(tree.root, (100, 1), Address("127.0.0.1", 8000), engine)  # type: ignore[arg-type]
    assert (found.alias, found.model_path) == (alias, path)
    assert "s3cret" not in repr(found)
