"""Whose the processes of whole nodes are: /proc trees and kubelet answers in tests/data/nodes, laid out as
the software that they are named after lays them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wattribute.collector.kubelet import Kubelet
from wattribute.collector.proc import ProcTree
from wattribute.records import Workload, as_json, parse
from wattribute.rules import parse_rules

NODES = Path(__file__).parents[1] / "data" / "nodes"
PIDS = [(path.parent.parent.parent.name, int(path.parent.name)) for path in NODES.glob("*/proc/[0-9]*/stat")]


def kubelet_of(node: str) -> Kubelet | None:
    answer = NODES / node / "pods.json"
    if not answer.exists():
        return None
    kubelet = Kubelet(str(answer), kept_labels=["statefulset"])
    assert kubelet.refresh(), kubelet.problem
    return kubelet


def workload_of(node: str, pid: int, rules: object = None) -> Workload:
    tree = ProcTree(NODES / node / "proc", kubelet_of(node), parse_rules(rules or []))
    start_ns = tree.start_ns(pid)
    assert start_ns is not None
    workload = tree.workload(pid, start_ns, 7)
    assert workload is not None
    assert parse(as_json(workload)) == workload
    return workload


@pytest.mark.parametrize(
    ("node", "pid", "due"),
    [
        (
            "kubernetes-v1-containerd",
            2101,
            {
                "identity_source": "kubernetes",
                "namespace": "search",
                "pod": "chat-7d9f8b6c5d-x2x9q",
                "container": "vllm",
                "workload": "chat",  # its Deployment's name, without the hash of the ReplicaSet
                "application": "chat",
                "model": "qwen3-8b",
                "run": "",
                "attempt": None,
                "labels": {"owner_kind": "Deployment", "llm_d_role": "decode", "llm_d_serving": "true"},
            },
        ),
        (
            "kubernetes-v1-containerd",
            2102,  # in a PyTorchJob: before W&B; torchrun's "none" is none
            {
                "identity_source": "kubernetes",
                "namespace": "research",
                "pod": "rank-sft-worker-1",
                "container": "pytorch",
                "run": "rank-sft",
                "job": "rank-sft",
                "workload": "rank-sft",
                "attempt": 2001,  # the container's second restart, torchrun's first
                "labels": {"owner_kind": "PyTorchJob", "kubeflow_replica": "worker", "kueue_queue": "h200"},
            },
        ),
        (
            "kubernetes-v1-crio",
            2201,
            {
                "identity_source": "tag",
                "namespace": "vision",
                "pod": "detector-0",
                "container": "triton",
                "workload": "detector",
                "model": "lab/yolo@v9",  # the annotation, which takes characters that a label does not
                "model_version": "v9",
                "team": "vision",
                "run": "",
                "attempt": None,  # a service that was started again is no attempt of a run
            },
        ),
        (
            "kubernetes-v1-crio",
            2202,  # which the kubelet has from a file
            {
                "identity_source": "kubernetes",
                "namespace": "monitoring",
                "pod": "dcgm-exporter-gpu-7",
                "workload": "",
            },
        ),
        (
            "kubernetes-v2-containerd",
            2301,  # Kubernetes names the run before MLflow; the JobSet before its Job
            {
                "identity_source": "kubernetes",
                "pod": "embed-workers-0-1-k2x7p",
                "run": "embed",
                "job": "embed",
                "attempt": 1,
                "labels": {"owner_kind": "Job", "jobset_job": "workers"},
            },
        ),
        (
            "kubernetes-v2-containerd",
            2302,  # a notebook: Kubernetes knows where it is, MLflow which run
            {
                "identity_source": "mlflow",
                "pod": "ada-0",
                "workload": "ada",
                "run": "77aa",
                "attempt": 0,
                "labels": {"owner_kind": "StatefulSet", "statefulset": "ada"},
            },
        ),
        (
            "kubernetes-v2-crio",
            2401,
            {
                "identity_source": "kubernetes",
                "pod": "nightly-eval-29300040-9zq4d",
                "container": "eval",
                "run": "nightly-eval-29300040",
                "attempt": 1,
            },
        ),
        (
            "kubernetes-v2-crio",
            2402,  # the tag of the process before the label of the pod
            {
                "identity_source": "tag",
                "pod": "rank-0-1",
                "workload": "rank",
                "model": "rank",
                "model_version": "v2",
            },
        ),
        (
            "slurm-v1",
            2501,  # whose environment may not be read
            {"identity_source": "slurm", "job": "772", "run": "772", "user": "4054321", "attempt": None},
        ),
        (
            "slurm-v2",
            2601,
            {
                "identity_source": "slurm",
                "cluster": "alps",
                "team": "nlp",
                "workload": "pretrain",
                "job": "771",
                "run": "771",
                "attempt": 1,
                "labels": {"slurm_step": "0", "slurm_partition": "h200"},
            },
        ),
        (
            "kuberay",
            2701,  # a RayJob: Kubernetes before Ray
            {
                "identity_source": "kubernetes",
                "pod": "tune-raycluster-9k2vq-h200-worker-4xk2p",
                "run": "tune",
                "job": "tune",
                "workload": "tune",
                "labels": {
                    "owner_kind": "RayCluster",
                    "ray_cluster": "tune-raycluster-9k2vq",
                    "ray_group": "h200",
                    "ray_node_type": "worker",
                },
            },
        ),
        (
            "kuberay",
            2702,  # a RayService
            {"identity_source": "kubernetes", "workload": "chat", "run": "", "attempt": None},
        ),
        (
            "kuberay",
            2703,  # a job that was sent to a cluster that stays
            {"identity_source": "ray", "workload": "shared", "run": "raysubmit_9", "job": "raysubmit_9"},
        ),
        ("torchrun", 2810, {"identity_source": "torchrun", "run": "sft-5", "attempt": 0}),
        (
            "torchrun",
            2801,
            {"identity_source": "process", "run": "group-bbbbbbbb-2800-1780000200", "attempt": 1},
        ),
        (
            "torchrun",
            2802,
            {"identity_source": "process", "run": "group-bbbbbbbb-2800-1780000200", "attempt": 1},
        ),
        ("torchrun", 2820, {"identity_source": "process", "run": "group-bbbbbbbb-2820-1780000320"}),
        ("bare", 2901, {"identity_source": "process", "run": "group-cccccccc-2901-1780000050"}),
        ("bare", 2902, {"identity_source": "process", "run": "group-cccccccc-2901-1780000050"}),
        (
            "bare",
            2903,
            {
                "identity_source": "tag",
                "model": "rank",
                "run": "rank-7",
                "team": "search",
                "attempt": 3,
                "command": "python3 search.py",
            },
        ),
        (
            "bare",
            2904,
            {
                "identity_source": "wandb",
                "container": "4d0c9b7e" * 8,
                "run": "w9",
                "labels": {"wandb_project": "p1"},
            },
        ),
    ],
)
def test_identity_and_source(node: str, pid: int, due: dict[str, Any]) -> None:
    workload = workload_of(node, pid)
    assert {name: getattr(workload, name) for name in due} == due


def test_every_process_of_the_trees_gives_a_record() -> None:
    assert len(PIDS) >= 25
    for node, pid in PIDS:
        workload_of(node, pid)


def test_workers_of_a_job_on_two_hosts_are_one_run() -> None:
    workers = [workload_of("slurm-v2", 2601), workload_of("slurm-v2-second", 2602)]
    assert {(worker.run, worker.attempt, worker.cluster) for worker in workers} == {("771", 1, "alps")}
    assert workers[0].start_ns != workers[1].start_ns


def test_without_the_kubelet_a_pod_has_its_uid_and_its_container_an_id() -> None:
    tree = ProcTree(NODES / "kubernetes-v2-containerd" / "proc")
    workload = tree.workload(2302, tree.start_ns(2302) or 0, 7)
    assert workload is not None
    assert (workload.pod, workload.container[:8]) == ("42222222-2222-4333-8444-555555555555", "d00dd00d")
    assert (workload.namespace, workload.run, workload.identity_source) == ("", "77aa", "mlflow")


RULES = [
    {"command": "*vllm serve Qwen/*", "model": "qwen3-8b", "team": "serving"},
    {
        "command": r"/ipykernel_launcher\b/",
        "namespace": "notebooks",
        "team": "science",
        "phase": "interactive",
    },
    {"image": "registry.lab/eval:*", "container": "eval", "model": "evaluated", "run": "not this"},
    {"user": "4054321", "team": "ada", "application": "bench"},
    {"command": "*", "team": "never"},
]


@pytest.mark.parametrize(
    ("node", "pid", "due"),
    [
        ("bare", 2901, {"model": "qwen3-8b", "team": "serving", "run": "", "identity_source": "rule"}),
        (
            "kubernetes-v2-containerd",
            2302,  # where model and run are known already, they and their source stay
            {"team": "science", "phase": "interactive", "run": "77aa", "identity_source": "mlflow"},
        ),
        (
            "kubernetes-v2-crio",
            2401,
            {"model": "evaluated", "run": "nightly-eval-29300040", "identity_source": "kubernetes"},
        ),
        ("bare", 2903, {"team": "search", "application": "bench", "model": "rank", "identity_source": "tag"}),
        # Of two rules that say the same, the first; a rule for a team names no run
        ("torchrun", 2820, {"team": "ada", "run": "group-bbbbbbbb-2820-1780000320"}),
    ],
)
def test_rules_say_what_is_still_empty(node: str, pid: int, due: dict[str, str]) -> None:
    workload = workload_of(node, pid, RULES)
    assert {name: getattr(workload, name) for name in due} == due
