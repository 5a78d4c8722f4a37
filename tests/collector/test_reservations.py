"""Whom GPUs are given to: a real gRPC server on a unix socket, and recorded /proc trees of Slurm."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.fake_nvml.library import FakeNvml
from wattribute.collector import pod_resources, reservations
from wattribute.collector.kubelet import Kubelet
from wattribute.collector.nvml import Nvml
from wattribute.collector.reservations import Reservations
from wattribute.errors import WattributeError
from wattribute.records import Reservation, as_json, parse
from wattribute.rules import parse_rules

NODES = Path(__file__).parents[1] / "data" / "nodes"
NO_JOBS = NODES / "bare" / "proc"
S = 1_000_000_000
CHAT = ("search", "chat-7d9f8b6c5d-x2x9q", "vllm")
RANK = ("research", "rank-sft-worker-1", "pytorch")


def field(number: int, value: bytes | str | int) -> bytes:
    """A field as protobuf writes it; none of these is longer than 127 bytes, but what holds others."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    raw = value.encode() if isinstance(value, str) else value
    length = bytes([len(raw)]) if len(raw) < 128 else bytes([len(raw) & 127 | 128, len(raw) >> 7])
    return bytes([number << 3 | 2]) + length + raw


def pod(owner: tuple[str, str, str], *device_ids: str, resource: str = "nvidia.com/gpu") -> bytes:
    """A pod of one container, as the kubelet writes it: with CPUs, memory and topology too."""
    topology = field(3, field(1, field(1, 1)))
    devices = field(2, field(1, resource) + b"".join(field(2, device) for device in device_ids) + topology)
    cpus, memory = field(3, b"\x01\x02\x03"), field(4, field(1, "memory") + field(2, 100))
    namespace, name, container = owner
    resources = field(1, container) + devices + cpus + memory
    return field(1, field(1, name) + field(2, namespace) + field(3, resources))


class Node:
    """A kubelet's socket. ``given`` is what it answers."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "kubelet.sock"
        self.given = b""
        self.code: grpc.StatusCode | None = None
        handler = grpc.unary_unary_rpc_method_handler(self._list)
        self._handler = grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": handler})
        self.start()

    def start(self) -> None:
        self.server = grpc.server(ThreadPoolExecutor(2))
        self.server.add_generic_rpc_handlers((self._handler,))
        self.server.add_insecure_port(f"unix://{self.socket}")
        self.server.start()

    def _list(self, request: bytes, context: Any) -> bytes:
        if self.code:
            context.abort(self.code, "hidden")
        assert request == b""
        return self.given


@pytest.fixture
def node() -> Iterator[Node]:
    with tempfile.TemporaryDirectory() as folder:  # the path of a socket has at most 107 bytes
        made = Node(Path(folder))
        yield made
        made.server.stop(None).wait()


def known_pods() -> Kubelet:
    kubelet = Kubelet(str(NODES / "kubernetes-v1-containerd" / "pods.json"))
    assert kubelet.refresh()
    return kubelet


def told(kept: Reservations, t_s: int) -> dict[tuple[str, int], tuple[str, str]]:
    kept.refresh()
    records = kept.records(t_s * S)
    assert all(parse(as_json(record)) == record and record.t == t_s * S for record in records)
    return {(record.gpu, record.gpu_instance): (record.pod, record.job) for record in records}


def test_a_pod_that_has_a_gpu_is_told_with_all_that_the_kubelet_knows(fake: FakeNvml, node: Node) -> None:
    node.given = pod(CHAT, "GPU-fake-0") + pod(("batch", "starting", "main"), "GPU-fake-1")
    rules = parse_rules([{"image": "vllm/*", "team": "serving"}])
    kept = Reservations(Nvml().gpus, NO_JOBS, node.socket, known_pods(), rules)
    kept.refresh()
    assert kept.records(5 * S) == [
        Reservation(
            t=5 * S,
            gpu="GPU-fake-0",
            container="vllm",
            pod="chat-7d9f8b6c5d-x2x9q",
            namespace="search",
            team="serving",
            application="chat",
            workload="chat",
            model="qwen3-8b",
            identity_source="kubernetes",
            labels={"owner_kind": "Deployment", "llm_d_role": "decode", "llm_d_serving": "true"},
        ),
        Reservation(
            t=5 * S,
            gpu="GPU-fake-1",
            container="main",
            pod="starting",
            namespace="batch",
            identity_source="kubernetes",
        ),
    ]


def test_it_is_told_again_each_minute_and_when_it_changes(fake: FakeNvml, node: Node) -> None:
    kept = Reservations(Nvml().gpus, NO_JOBS, node.socket, known_pods())
    node.given = pod(CHAT, "GPU-fake-0")
    assert told(kept, 0 + 1) == {("GPU-fake-0", -1): (CHAT[1], ""), ("GPU-fake-1", -1): ("", "")}
    assert told(kept, 60) == {}
    assert told(kept, 61) == {("GPU-fake-0", -1): (CHAT[1], "")}
    node.given = pod(RANK, "GPU-fake-0", "GPU-fake-1")
    assert told(kept, 62) == {
        ("GPU-fake-0", -1): (RANK[1], "rank-sft"),
        ("GPU-fake-1", -1): (RANK[1], "rank-sft"),
    }
    node.given = pod(CHAT, "GPU-fake-0")
    assert told(kept, 63) == {("GPU-fake-0", -1): (CHAT[1], ""), ("GPU-fake-1", -1): ("", "")}
    assert told(kept, 123) == {("GPU-fake-0", -1): (CHAT[1], "")}


def test_a_gpu_that_several_share_is_given_to_nobody_alone(fake: FakeNvml, node: Node) -> None:
    kept = Reservations(Nvml().gpus, NO_JOBS, node.socket, known_pods())
    node.given = (
        pod(CHAT, "GPU-fake-0::0") + pod(RANK, "GPU-fake-0::1") + pod(RANK, "GPU-fake-1::0", "GPU-fake-1::1")
    )
    assert told(kept, 1) == {("GPU-fake-0", -1): ("", ""), ("GPU-fake-1", -1): (RANK[1], "rank-sft")}


def test_a_pod_that_is_over_holds_no_gpu(fake: FakeNvml, node: Node, tmp_path: Path) -> None:
    listed = json.loads((NODES / "kubernetes-v1-containerd" / "pods.json").read_text())
    listed["items"][1]["status"]["phase"] = "Succeeded"
    (tmp_path / "pods.json").write_text(json.dumps(listed))
    kubelet = Kubelet(str(tmp_path / "pods.json"))
    assert kubelet.refresh()
    kept = Reservations(Nvml().gpus, NO_JOBS, node.socket, kubelet)
    node.given = pod(RANK, "GPU-fake-0", "GPU-fake-1") + pod(CHAT, "GPU-fake-0")
    assert told(kept, 1) == {("GPU-fake-0", -1): (CHAT[1], ""), ("GPU-fake-1", -1): ("", "")}


def test_mig_devices_and_the_names_of_gkes_plugin(fake: FakeNvml, node: Node) -> None:
    fake.instance(0, 1, 3, "NVIDIA H200 MIG 3g.71gb")
    fake.instance(0, 2, 4, "NVIDIA H200 MIG 4g.71gb")
    fake.set(0, mig=1)
    nvml = Nvml()
    nvml.gpus[0].read_slow(lambda: S)
    kept = Reservations(nvml.gpus, NO_JOBS, node.socket, known_pods())
    node.given = pod(CHAT, "MIG-fake-0-1", resource="nvidia.com/mig-4g.71gb") + pod(
        RANK, "nvidia1", "nvidia0/gi1"
    )
    node.given += pod(RANK, "GPU-gone") + pod(RANK, "card0", resource="amd.com/gpu")
    assert told(kept, 1) == {
        ("GPU-fake-0", 2): (CHAT[1], ""),
        ("GPU-fake-0", 1): (RANK[1], "rank-sft"),
        ("GPU-fake-1", -1): (RANK[1], "rank-sft"),
        ("GPU-fake-0", -1): ("", ""),
    }


def test_gkes_plugin_names_a_gpu_by_its_file_which_nvml_may_number_otherwise(
    fake: FakeNvml, node: Node
) -> None:
    fake.set(0, file_number=1)
    fake.set(1, file_number=0)
    kept = Reservations(Nvml().gpus, NO_JOBS, node.socket, known_pods())
    node.given = pod(CHAT, "nvidia0") + pod(RANK, "nvidia1")
    assert told(kept, 1) == {("GPU-fake-1", -1): (CHAT[1], ""), ("GPU-fake-0", -1): (RANK[1], "rank-sft")}


def test_a_kubelet_that_goes_away_is_not_spoken_for(
    fake: FakeNvml, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Reservations(Nvml().gpus, NO_JOBS, node.socket, known_pods())
    node.given = pod(CHAT, "GPU-fake-0")
    assert len(told(kept, 1)) == 2
    node.code = grpc.StatusCode.UNAVAILABLE
    assert told(kept, 61) == {("GPU-fake-0", -1): (CHAT[1], "")}  # what was known a moment ago
    monkeypatch.setattr(reservations, "_STALE_S", 0.0)
    assert told(kept, 121) == {}  # it lapses by itself
    assert kept.failures == 2


@pytest.mark.parametrize("given", [b"hidden", field(1, b"\xff\xff"), field(1, field(3, b"\x0a\x7f"))])
def test_an_answer_that_cannot_be_read_is_an_error_that_shows_nothing_of_it(node: Node, given: bytes) -> None:
    node.given = given
    with pytest.raises(WattributeError) as raised:
        pod_resources.list_given(node.socket)
    assert "hidden" not in str(raised.value)
    node.code = grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(WattributeError, match=r"PERMISSION_DENIED; let this user"):
        pod_resources.list_given(node.socket)


def test_where_there_is_neither_kubelet_nor_slurm_nothing_is_told(fake: FakeNvml, tmp_path: Path) -> None:
    kept = Reservations(Nvml().gpus, NO_JOBS, tmp_path / "none.sock")
    assert told(kept, 1) == {}
    assert kept.failures == 0


def test_without_the_extra_it_says_what_to_install(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError(name)

    pod_resources.message_classes.cache_clear()
    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(WattributeError, match=r"pip install 'wattribute\[kubernetes\]'"):
        pod_resources.list_given(node.socket)


def test_jobs_of_slurm_have_the_gpus_that_their_environment_names(fake: FakeNvml) -> None:
    fake.reset(4)
    kept = Reservations(Nvml().gpus, NODES / "slurm-v2" / "proc", None)
    kept.refresh()
    records = kept.records(S)
    assert {record.gpu: (record.job, record.attempt) for record in records} == {
        "GPU-fake-0": ("771", 1),
        "GPU-fake-1": ("771", 1),
        "GPU-fake-2": ("", None),
        "GPU-fake-3": ("780", None),  # whose script runs nothing on it
    }
    assert records[-2] == Reservation(
        t=S,
        gpu="GPU-fake-3",
        cluster="alps",
        job="780",
        user="4054322",
        team="vision",
        workload="tune",
        run="780",
        identity_source="slurm",
    )


def test_a_job_on_a_second_host_has_the_gpus_of_its_step_there(fake: FakeNvml) -> None:
    kept = Reservations(Nvml().gpus, NODES / "slurm-v2-second" / "proc", None)
    assert told(kept, 1) == {("GPU-fake-0", -1): ("", "771"), ("GPU-fake-1", -1): ("", "771")}


def written(folder: Path, job: int, step: str, environ: str) -> Path:
    """A /proc tree with one process of a job."""
    process = folder / str(1000 + job)
    process.mkdir(parents=True)
    (process / "cgroup").write_text(f"0::/system.slice/slurmstepd.scope/job_{job}/step_{step}/user/task_0\n")
    (process / "environ").write_bytes(environ.replace(" ", "\0").encode())
    return folder


@pytest.mark.parametrize(
    ("step", "environ", "due"),
    [
        ("batch", "SLURM_JOB_GPUS=0-1", {"GPU-fake-0", "GPU-fake-1"}),
        ("0", "SLURM_JOB_GPUS=0 SLURM_STEP_GPUS=1", {"GPU-fake-1"}),
        ("0", "SLURM_JOB_GPUS=0", set()),  # perhaps of the host of the batch script
        ("0", "CUDA_VISIBLE_DEVICES=GPU-fake-1", {"GPU-fake-1"}),
        ("0", "CUDA_VISIBLE_DEVICES=1", set()),  # counts within the job
        ("batch", "SLURM_JOB_GPUS=0-99999999999,a,,-1", set()),
        ("batch", "", set()),
    ],
)
def test_which_gpus_slurms_variables_name(
    fake: FakeNvml, tmp_path: Path, step: str, environ: str, due: set[str]
) -> None:
    kept = Reservations(Nvml().gpus, written(tmp_path, 7, step, environ), None)
    assert {gpu for (gpu, _), (_, job) in told(kept, 1).items() if job == "7"} == due


def test_a_job_that_ended_gives_its_gpus_back(fake: FakeNvml, tmp_path: Path) -> None:
    import shutil

    kept = Reservations(Nvml().gpus, written(tmp_path, 7, "batch", "SLURM_JOB_GPUS=0"), None)
    assert told(kept, 1) == {("GPU-fake-0", -1): ("", "7"), ("GPU-fake-1", -1): ("", "")}
    shutil.rmtree(tmp_path / "1007")
    assert told(kept, 2) == {("GPU-fake-0", -1): ("", "")}
