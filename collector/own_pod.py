"""Which pod and container this process itself runs in.

The control group does not show it: in version 2 a container sees '/'. The mounts do: the kubelet mounts the
termination message file from /var/lib/kubelet/pods/UID/containers/NAME/HEX, whatever its name inside.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from wattribute.collector.kubelet import Kubelet
    from wattribute.collector.pods import Pod

_MOUNTS: Final = Path("/proc/self/mountinfo")
_CONTAINER: Final = re.compile(
    r"/pods/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})/containers/([^/\s]+)/[0-9a-f]+ /"
)


class Own(NamedTuple):
    """The uid of a pod, and the name of a container in it."""

    uid: str
    container: str


def own_container() -> Own | None:
    """The Kubernetes container that this process runs in; None where it runs in none."""
    try:
        found = _CONTAINER.search(_MOUNTS.read_text(errors="replace"))
    except OSError:
        return None
    return Own(*found.groups()) if found else None


def own_pod(own: Own, kubelet: Kubelet) -> tuple[Pod, str] | None:
    """The pod, and the id of the container in it, from the kubelet; None where it does not list them."""
    pod = kubelet.pod(own.uid) if kubelet.refresh() else None
    names = {} if pod is None else {made.name: identifier for identifier, made in pod.containers.items()}
    return None if pod is None or own.container not in names else (pod, names[own.container])
