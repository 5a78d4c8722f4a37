"""Pods, as the kubelet lists them.

Pure functions over the bytes of its answer. A pod's description contains secrets (environments, arguments,
annotations that repeat all of it). Only names, images, restart counts, and the labels and annotations that
the tables below or the settings name leave this file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from wattribute.records import clean
from wattribute.rules import TAGS

TAG_PREFIX: Final = "wattribute.dev/"
"""Labels and annotations with this prefix tag a pod, as variables WATTRIBUTE_… tag a process."""
_TAGS: Final = {f"{TAG_PREFIX}{field.replace('_', '-')}": field for field in TAGS}
_SPACE: Final = re.compile(r"[ \t\r\n]*")

# Labels that name a run of the cluster, the outermost first: the Job of a JobSet has both.
_RUNS: Final = (
    "training.kubeflow.org/job-name",
    "jobset.sigs.k8s.io/jobset-name",
    "volcano.sh/job-name",
    "workflows.argoproj.io/workflow",
    "batch.kubernetes.io/job-name",
    "job-name",  # the same before Kubernetes 1.27
)
_WORKLOADS: Final = (
    "leaderworkerset.sigs.k8s.io/name",
    "serving.kserve.io/inferenceservice",
    "ray.io/cluster",
)
_APPLICATIONS: Final = ("app.kubernetes.io/part-of", "app.kubernetes.io/name", "app")
_LABELS: Final = {
    "app_component": "app.kubernetes.io/component",
    "app_instance": "app.kubernetes.io/instance",
    "app_version": "app.kubernetes.io/version",
    "jobset_job": "jobset.sigs.k8s.io/replicatedjob-name",
    "kubeflow_replica": "training.kubeflow.org/replica-type",
    "kueue_queue": "kueue.x-k8s.io/queue-name",
    "llm_d_role": "llm-d.ai/role",
    "llm_d_serving": "llm-d.ai/inference-serving",
    "ray_cluster": "ray.io/cluster",
    "ray_group": "ray.io/group",
    "ray_node_type": "ray.io/node-type",
}


class Container(NamedTuple):
    """A container of a pod. ``restarts``: how often the kubelet restarted it."""

    name: str
    image: str
    restarts: int


class Pod(NamedTuple):
    """To whom a pod belongs. ``tags`` are explicit, ``says`` follows from labels and owner; both are by field
    of a Workload. ``restarts``: how often its whole job was restarted, where known. ``containers`` are by the
    id that is in control groups, ``images`` by the container's name."""

    namespace: str
    name: str
    tags: Mapping[str, str]
    says: Mapping[str, str]
    labels: Mapping[str, str]
    restarts: int | None
    containers: Mapping[str, Container]
    images: Mapping[str, str]
    is_over: bool


class Listing(NamedTuple):
    """Pods by uid, and how many entries of the list could not be used."""

    pods: Mapping[str, Pod]
    unusable: int


def read_pods(
    raw: bytes, kept_labels: Iterable[str] = (), breathe: Callable[[], None] = lambda: None
) -> Listing:
    """The pods of a PodList; ``breathe`` is called after each.

    Raises ValueError where ``raw`` is not a PodList; its text shows nothing of ``raw``.
    """
    kept = tuple(kept_labels)
    pods: dict[str, Pod] = {}
    unusable = 0
    try:
        for item in _items(raw.decode()):
            metadata = _object(_object(item).get("metadata"))
            uid, name = _text(metadata.get("uid")), _text(metadata.get("name"))
            if uid and name:
                pods[uid] = _pod(name, metadata, _object(item), kept)
            else:
                unusable += 1
            breathe()
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("the answer is not JSON") from None
    return Listing(pods, unusable)


def _items(text: str) -> Iterator[Any]:
    """The items of a list, one at a time.

    Parsing a list of 8 MB at once stops every thread for 250 ms, and its objects keep Python's garbage
    collector busy. Parsed one by one, its pods take 107 ms together, and 1 ms or less each.
    """
    decode = json.JSONDecoder().raw_decode
    is_empty, place = False, _after(text, 0)
    if text[place : place + 1] != "{":
        raise ValueError("the answer is not a list of pods")
    place = _after(text, place + 1)
    while text[place : place + 1] == '"':
        key, place = decode(text, place)
        place = _after(text, _after(text, place) + 1)  # after the colon
        if key == "items" and text[place : place + 1] == "[":
            place = _after(text, place + 1)
            while text[place : place + 1] != "]":
                item, place = decode(text, place)
                yield item
                place = _after(text, place)
                if text[place : place + 1] == ",":
                    place = _after(text, place + 1)
            return
        value, place = decode(text, place)
        is_empty = is_empty or (key == "items" and value is None)  # as Go writes an empty list
        place = _after(text, place)
        if text[place : place + 1] == ",":
            place = _after(text, place + 1)
    if not is_empty or text[place : place + 1] != "}":
        raise ValueError("the answer is not a list of pods")


def _after(text: str, place: int) -> int:
    """The index of the first character after the white space at ``place``."""
    space = _SPACE.match(text, place)
    return space.end() if space else place


def _pod(name: str, metadata: dict[str, Any], item: dict[str, Any], kept: tuple[str, ...]) -> Pod:
    labels, annotations = _object(metadata.get("labels")), _object(metadata.get("annotations"))
    found = {**labels, **annotations}  # annotations may have values that labels may not: Qwen/Qwen3-8B
    status = _object(item.get("status"))
    kind, owner = _owner(metadata, _text(labels.get("pod-template-hash")))
    says = _said(labels, kind, owner)
    of_ours = {label: text for label, key in _LABELS.items() if (text := _text(labels.get(key)))}
    if kind:
        of_ours["owner_kind"] = kind
    restarts = _text(found.get("jobset.sigs.k8s.io/restart-attempt"))
    images = {
        _text(container.get("name")): _text(container.get("image"))
        for place in ("containers", "initContainers", "ephemeralContainers")
        for container in _objects(_object(item.get("spec")).get(place))
    }
    return Pod(
        namespace=_text(metadata.get("namespace")),
        name=name,
        tags={field: text for key, field in _TAGS.items() if (text := _text(found.get(key)))},
        says={field: text for field, text in says.items() if text},
        labels=of_ours | {_text(key): text for key in kept if (text := _text(found.get(key)))},
        restarts=int(restarts) if re.fullmatch("[0-9]{1,6}", restarts) else None,
        containers=_containers(status, images),
        images=images,
        is_over=_text(status.get("phase")) in ("Succeeded", "Failed"),
    )


def _said(labels: dict[str, Any], kind: str, owner: str) -> dict[str, str]:
    """The fields of a Workload that labels and owner give."""
    run = next((text for key in _RUNS if (text := _text(labels.get(key)))), "")
    workload = next((text for key in _WORKLOADS if (text := _text(labels.get(key)))), "") or owner
    if resource := _text(labels.get("ray.io/originated-from-cr-name")):
        workload = resource
        if _text(labels.get("ray.io/originated-from-crd")) == "RayJob":
            run = resource
    elif kind.endswith("Job") and not run:
        run = owner
    return {
        "model": _text(labels.get("llm-d.ai/model")),
        "run": run,
        "job": run,
        "workload": run or workload,
        "application": next((text for key in _APPLICATIONS if (text := _text(labels.get(key)))), ""),
    }


def _owner(metadata: dict[str, Any], template_hash: str) -> tuple[str, str]:
    """Kind and name of what controls a pod; for a Deployment's ReplicaSet, the Deployment."""
    owners = _objects(metadata.get("ownerReferences"))
    owner = next((owner for owner in owners if owner.get("controller") is True), owners[0] if owners else {})
    kind, name = _text(owner.get("kind")), _text(owner.get("name"))
    if kind == "Node":  # a static pod, which the kubelet has from a file
        return "", ""
    if kind == "ReplicaSet" and template_hash and name.endswith(f"-{template_hash}"):
        return "Deployment", name.removesuffix(f"-{template_hash}")
    return kind, name


def _containers(status: dict[str, Any], images: Mapping[str, str]) -> dict[str, Container]:
    """Containers by the hexadecimal digits of their id, which is 'containerd://4d0c…'."""
    found: dict[str, Container] = {}
    for place in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"):
        for container in _objects(status.get(place)):
            name = _text(container.get("name"))
            identifier = _text(container.get("containerID")).rpartition("//")[2]
            restarts = container.get("restartCount")
            if name and identifier:
                image = images.get(name) or _text(container.get("image"))
                count = restarts if type(restarts) is int and 0 <= restarts < 1_000_000 else 0
                found[identifier] = Container(name, image, count)
    return found


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return clean(value) if isinstance(value, str) else ""
