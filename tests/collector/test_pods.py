"""Pods in the kubelet's list: what is kept of them, and what is no list."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattribute.collector.pods import read_pods

NODE = Path(__file__).parents[1] / "data" / "nodes" / "kubernetes-v1-containerd"
PODS = (NODE / "pods.json").read_bytes()


def test_only_named_labels_are_kept() -> None:
    pods = read_pods(PODS).pods
    assert "hidden" in PODS.decode()
    assert "hidden" not in repr(pods)
    kept = read_pods(PODS, ["training.kubeflow.org/replica-index"]).pods
    assert [pod.labels.get("training.kubeflow.org/replica-index") for pod in kept.values()] == [None, "1"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["items", "kind", "metadata", "uid", "name", "labels"]), inner)
    ),
    max_leaves=20,
)


@given(JSON, st.sampled_from([None, 1]))
def test_any_json_is_a_list_of_pods_or_refused(made: object, indent: int | None) -> None:
    listed = {"kind": "PodList", "metadata": made, "items": made}
    text = json.dumps(listed, indent=indent)
    if isinstance(made, list):
        pods, unusable = read_pods(text.encode())
        named = [item for item in made if isinstance(item, dict)]
        assert len(made) - len(named) <= unusable <= len(made) - len(pods)
    elif made is None:
        assert read_pods(text.encode()) == ({}, 0)
    else:
        with pytest.raises(ValueError, match="the answer is not a list of pods"):
            read_pods(text.encode())
    with contextlib.suppress(ValueError):
        read_pods(json.dumps(made).encode())


@given(st.integers(0, len(PODS) - 1))
def test_a_list_that_is_cut_short_is_refused_or_whole(end: int) -> None:
    with contextlib.suppress(ValueError):
        assert len(read_pods(PODS[:end]).pods) == 2
