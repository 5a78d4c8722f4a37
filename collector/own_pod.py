"""Which pod and container this very process runs in.

Its control group does not say: in version 2 a container sees '/'. Its mounts do: the kubelet mounts the file
of the termination message from /var/lib/kubelet/pods/UID/containers/NAME/HEX, whatever it is called inside.
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
    """The container of Kubernetes that this process runs in; None where it is none."""
    try:
        found = _CONTAINER.search(_MOUNTS.read_text(errors="replace"))
    except OSError:
        return None
    return Own(*found.groups()) if found else None


def own_pod(own: Own, kubelet: Kubelet) -> tuple[Pod, str] | None:
    """The pod, and the id of the container in it, as the kubelet has them; None where it does not tell."""
    pod = kubelet.pod(own.uid) if kubelet.refresh() else None
    names = {} if pod is None else {made.name: identifier for identifier, made in pod.containers.items()}
    return None if pod is None or own.container not in names else (pod, names[own.container])
