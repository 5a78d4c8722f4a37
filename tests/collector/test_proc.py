from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.collector.proc_tree import Tree
from wattribute.collector.proc import ProcTree
from wattribute.errors import WattributeError
from wattribute.records import Exit, Workload, as_json, parse

NODE = Path(__file__).parents[1] / "data" / "proc" / "node"
BOOT_NS = 1_780_000_000_000_000_000  # btime of the recorded tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the recorded tree that a test may change."""
    return Path(shutil.copytree(NODE, tmp_path / "proc"))


def workload_of(pid: int, root: Path = NODE) -> Workload:
    processes = ProcTree(root)
    start_ns = processes.start_ns(pid)
    assert start_ns is not None
    workload = processes.workload(pid, start_ns, 7)
    assert workload is not None
    return workload


def test_start_is_boot_time_plus_ticks_whatever_the_name() -> None:
    processes = ProcTree(NODE)
    assert processes.boot_id == "5f0f1c2e-6a0b-4d2e-9d53-0c1a4b8e7f60"
    # 1001 is called "py) R (x 1": fields are counted from the last parenthesis
    assert processes.start_ns(1001) == BOOT_NS + 123_450_000_000
    assert processes.start_ns(4) is None


def test_a_zombie_is_gone_unless_it_has_threads() -> None:
    processes = ProcTree(NODE)
    assert processes.start_ns(1008) is None
    assert processes.start_ns(1009) == BOOT_NS + 923_450_000_000


def test_tagged_process_in_docker_on_cgroup_v1() -> None:
    assert workload_of(1001) == Workload(
        t=7,
        pid=1001,
        start_ns=BOOT_NS + 123_450_000_000,
        container="4d0c9b7e" * 8,
        user="4054321",  # a uid without a name
        team="search",
        application="chat",
        workload="chat-serving",
        phase="inference",
        model="qwen3-8b",
        model_version="v7",
        run="tagged-run",
        identity_source="tag",
        command="python3.11 serve.py",
        labels={"wandb_project": "p1"},
    )


def test_kubernetes_pod_with_a_tracked_run() -> None:
    workload = workload_of(1002)
    assert workload.container == "a1b2c3d4" * 8
    assert workload.pod == "8a5e6f1c-0b2d-4c3e-9f10-a1b2c3d4e5f6"
    assert (workload.run, workload.identity_source) == ("5e3f", "mlflow")  # before W&B, before torchrun
    assert workload.labels == {"mlflow_experiment": "tuning"}
    assert workload.command == "python vllm.entrypoints.openai.api_server"
    assert workload.user == "root"


def test_nested_crio_container_without_a_run() -> None:
    workload = workload_of(1003)
    assert (workload.container, workload.pod) == ("0f1e2d3c" * 8, "11111111-2222-3333-4444-555555555555")
    assert (workload.run, workload.identity_source) == ("", "kubernetes")
    assert workload.command == "tritonserver"


def test_slurm_job_wins_over_tracker_and_launcher() -> None:
    workload = workload_of(1004)
    assert (workload.job, workload.run, workload.identity_source) == ("771", "771", "slurm")
    assert workload.attempt == 2001  # the second restart of the job, the first of its launcher in that
    assert (workload.team, workload.workload, workload.cluster) == ("nlp", "pretrain", "alps")
    assert workload.labels == {"slurm_step": "0", "slurm_partition": "h200"}
    assert workload.command == "python3 train.py"


def test_environment_that_may_not_be_read_leaves_cgroup_and_user() -> None:
    assert not (NODE / "1005" / "environ").exists()
    workload = workload_of(1005)
    assert (workload.job, workload.run, workload.identity_source) == ("772", "772", "slurm")
    assert (workload.user, workload.command) == ("4054322", "namd3")
    assert workload.labels == {"slurm_step": "batch"}


def test_permission_denied_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    readable = os.open

    def denied(path: str, *arguments: Any, **options: Any) -> int:
        if path.endswith("/environ"):
            raise PermissionError(13, "Permission denied")
        return readable(path, *arguments, **options)

    monkeypatch.setattr(os, "open", denied)
    workload = workload_of(1001)
    assert (workload.identity_source, workload.model, workload.user) == ("container", "", "4054321")


def test_ray_job_with_a_tagged_model() -> None:
    workload = workload_of(1006)
    assert (workload.job, workload.run) == ("raysubmit_9", "raysubmit_9")
    assert (workload.model, workload.identity_source) == ("llama-3", "tag")
    assert workload.command == "ray::train"


def test_torchrun_id_and_text_that_is_none() -> None:
    workload = workload_of(1007)
    assert (workload.run, workload.attempt, workload.identity_source) == ("elastic-5", 4, "torchrun")
    assert workload.labels == {"wandb_name": "\ufffd\ufffd [31mred"}
    assert workload.command == "python3.12"
    assert parse(as_json(workload)) == workload


def test_no_secret_leaves_environment_or_command_line() -> None:
    secret = b"hidden"
    holders = {path.parent.name for path in NODE.glob("[0-9]*/*") if secret in path.read_bytes()}
    assert holders == {"1001", "1002", "1004", "1006", "1007"}
    processes = ProcTree(NODE)
    for pid in map(int, holders):
        assert "hidden" not in repr(workload_of(pid))
        processes.workload(pid, processes.start_ns(pid) or 0, 1)
    assert "hidden" not in repr(vars(processes))


def test_another_process_under_the_pid_is_not_described(tree: Path) -> None:
    processes = ProcTree(tree)
    start_ns = processes.start_ns(1001)
    assert start_ns is not None
    assert processes.workload(1001, start_ns + 10_000_000, 7) is None
    shutil.rmtree(tree / "1001")
    assert processes.workload(1001, start_ns, 7) is None


def test_exits_in_a_tree_are_told_once_and_forgotten(tree: Path) -> None:
    processes = ProcTree(tree)
    first, second = processes.start_ns(1001), processes.start_ns(1002)
    assert first is not None and second is not None
    assert processes.exits(10) == []
    shutil.rmtree(tree / "1001")
    assert processes.exits(11) == [Exit(t=11, pid=1001, start_ns=first)]
    assert processes.exits(12) == []
    assert processes.start_ns(1001) is None


def test_reused_pid_is_an_exit_and_a_new_process(tree: Path) -> None:
    processes = ProcTree(tree)
    old = processes.start_ns(1002)
    assert old is not None
    stat = tree / "1002" / "stat"
    stat.write_text(stat.read_text().replace(" 22345 ", " 99999 "))
    assert processes.start_ns(1002) == BOOT_NS + 999_990_000_000
    assert processes.exits(20) == [Exit(t=20, pid=1002, start_ns=old)]
    assert processes.exits(21) == []
    shutil.rmtree(tree / "1002")
    assert processes.exits(22) == [Exit(t=22, pid=1002, start_ns=BOOT_NS + 999_990_000_000)]


@pytest.mark.parametrize("broken", ["", "1001 (x", "1001 (x) S 1", "1001 (x) S " + "x " * 30])
def test_broken_stat_is_no_process(tree: Path, broken: str) -> None:
    (tree / "1001" / "stat").write_text(broken)
    assert ProcTree(tree).start_ns(1001) is None


@pytest.mark.parametrize("missing", ["stat", "sys/kernel/random/boot_id"])
def test_a_root_that_is_no_proc_is_an_error_in_one_line(tree: Path, missing: str) -> None:
    (tree / missing).unlink()
    with pytest.raises(WattributeError, match="mount the host's /proc") as caught:
        ProcTree(tree)
    assert "\n" not in str(caught.value)


def test_stat_without_btime_is_an_error(tree: Path) -> None:
    (tree / "stat").write_text("cpu 1 2 3\n")
    with pytest.raises(WattributeError, match="no btime"):
        ProcTree(tree)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "WATTRIBUTE_MODEL": "m1", "AWS_SECRET_ACCESS_KEY": "hidden"}
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # now it has its own environment
        yield process
        process.kill()


def await_exits(processes: ProcTree, t: int) -> list[Exit | Workload]:
    for _ in range(500):
        if exits := processes.exits(t):
            return exits
        time.sleep(0.01)
    return []


def test_a_real_process_from_start_to_end(child: subprocess.Popen[bytes]) -> None:
    with closing(ProcTree()) as processes:
        start_ns = processes.start_ns(child.pid)
        assert start_ns is not None
        workload = processes.workload(child.pid, start_ns, 5)
        assert workload is not None
        assert (workload.model, workload.identity_source) == ("m1", "tag")
        assert "hidden" not in repr(workload)
        assert processes.exits(6) == []
        child.kill()
        # seen before anybody has waited for it, so while it is a zombie in /proc
        assert await_exits(processes, 7) == [Exit(t=7, pid=child.pid, start_ns=start_ns)]
        assert processes.start_ns(child.pid) is None
        assert processes.exits(8) == []


def test_a_kernel_without_pidfd_is_no_obstacle(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    processes = ProcTree()
    start_ns = processes.start_ns(child.pid)
    assert start_ns is not None
    assert processes.exits(1) == []
    child.kill()
    assert await_exits(processes, 2) == [Exit(t=2, pid=child.pid, start_ns=start_ns)]


def test_a_process_that_writes_its_title_over_its_environment_has_that_of_its_parent() -> None:
    # What setproctitle does to a worker of vLLM's and SGLang's; SLURM_JOB_ID stands behind what it reaches.
    worker = (
        "import ctypes, sys\n"
        "words = open('/proc/self/stat').read().rpartition(')')[2].split()\n"
        "start, end = int(words[47]), int(words[48])\n"
        "reaches = ctypes.string_at(start, end - start).index(b'SLURM_JOB_ID=')\n"
        "ctypes.memset(start, 0, reaches - 1)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    server = (
        "import os, subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {worker!r}], env={{**os.environ, 'SLURM_JOB_ID': '8'}})\n"
    )
    tags = {"WATTRIBUTE_MODEL": "chat", "WATTRIBUTE_MODEL_VERSION": "v3", "WATTRIBUTE_TEAM": "support"}
    with subprocess.Popen(
        [sys.executable, "-c", server], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=tags
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        workload = workload_of(int(children), Path("/proc"))
        assert (workload.model, workload.model_version, workload.team) == ("chat", "v3", "support")
        assert (workload.run, workload.identity_source) == ("8", "tag")


def test_what_a_title_wrote_over_is_not_taken_from_another_user_s_process(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "proc")
    tree.process(50, 1, "sudo", environ={"WATTRIBUTE_TEAM": "of-who-called-sudo"})
    tree.process(60, 50, "VLLM::APIServer")
    tree.process(61, 60, "VLLM::Worker")
    for pid in (60, 61):
        (tree.root / f"{pid}/environ").write_bytes(b"\0" * 40)
        (tree.root / f"{pid}/status").write_text("Uid:\t7\t7\t7\t7\n")
    assert workload_of(61, tree.root).team == ""
    (tree.root / "50/status").write_text("Uid:\t7\t7\t7\t7\n")
    assert workload_of(61, tree.root).team == "of-who-called-sudo"


def test_no_descriptor_is_left_open(child: subprocess.Popen[bytes]) -> None:
    def open_descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_descriptors()
    processes = ProcTree()
    for _ in range(3):
        processes.start_ns(child.pid)
        processes.start_ns(1 << 30)  # no such process
    assert open_descriptors() == before + 1
    processes.close()
    assert open_descriptors() == before
