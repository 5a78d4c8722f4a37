"""The pod (by the kubelet) or job (by Slurm) to which each GPU is assigned, even if nothing runs on it.

Both sources are read in a thread of their own, which delays no sampling.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from wattribute.collector.identity import Group, identity
from wattribute.collector.nvml import GpuReader
from wattribute.collector.pod_resources import Given, list_given
from wattribute.collector.pods import Container
from wattribute.collector.slurm import jobs_gpus
from wattribute.errors import WattributeError
from wattribute.records import NO_INSTANCE, Reservation
from wattribute.rules import Rule

if TYPE_CHECKING:
    from wattribute.collector.kubelet import Kubelet

_PERIOD_S: Final = 30.0  # looking for Slurm's jobs takes 26 µs for every process of the host
_REPEAT_NS: Final = 60_000_000_000
_STALE_S: Final = 75.0  # an answer that is older is not repeated, so its reservations lapse

Place = tuple[str, int]
"""gpu, gpu_instance"""
Owners = Mapping[Place, Reservation]


class _Told(NamedTuple):
    reservation: Reservation
    at_ns: int


class Reservations:
    """Tracks to whom each GPU is assigned; a GPU that several share is reserved for none of them.

    ``start`` reads in the background, ``refresh`` reads now; ``records`` never waits. ``failures`` counts
    failed readings; ``problem`` describes the last in one line. Assigned devices that are not in ``gpus`` are
    ignored.
    """

    def __init__(
        self,
        gpus: Sequence[GpuReader],
        proc: Path,
        socket: Path | None,
        kubelet: Kubelet | None = None,
        rules: Sequence[Rule] = (),
    ) -> None:
        self.failures = 0
        self.problem = ""
        self._gpus, self._proc, self._socket, self._kubelet, self._rules = gpus, proc, socket, kubelet, rules
        self._sources: dict[str, Callable[[], Owners | None]] = {"slurm": self._slurm, "kubelet": self._pods}
        self._answers: dict[str, tuple[float, Owners]] = {}  # by source: time of its last answer, and owners
        self._told: dict[Place, _Told] = {}
        self._closing = threading.Event()

    def start(self) -> None:
        """Read now and every 30 s."""
        threading.Thread(target=self._work, name="reservations", daemon=True).start()

    def close(self) -> None:
        """Stop reading."""
        self._closing.set()

    def refresh(self) -> None:
        """Read now."""
        for name, ask in self._sources.items():
            try:
                owners = ask()
            except (WattributeError, OSError) as error:
                self.failures += 1
                self.problem = str(error)
                continue
            if owners is not None:
                self._answers[name] = (time.monotonic(), owners)

    def records(self, now_ns: int) -> list[Reservation]:
        """The reservations that have changed; those that have not are repeated every 60 s."""
        fresh = [
            owners for at_s, owners in list(self._answers.values()) if time.monotonic() - at_s < _STALE_S
        ]
        if not fresh:
            return []
        given = {place: owner for owners in fresh for place, owner in owners.items()}
        records: list[Reservation] = []
        for place, owner in given.items():
            told = self._told.get(place)
            if told is None or told.reservation != owner or abs(now_ns - told.at_ns) >= _REPEAT_NS:
                records.append(owner)
        if len(fresh) == len(self._answers):
            whole = {(gpu.uuid, NO_INSTANCE) for gpu in self._gpus}
            for gpu, gpu_instance in sorted((whole | self._told.keys()) - given.keys()):
                nobody = Reservation(t=0, gpu=gpu, gpu_instance=gpu_instance)
                told = self._told.get((gpu, gpu_instance))
                if told is None or told.reservation != nobody:
                    records.append(nobody)
        for owner in records:
            self._told[owner.gpu, owner.gpu_instance] = _Told(owner, now_ns)
        return [replace(owner, t=now_ns) for owner in records]

    def _work(self) -> None:
        while not self._closing.is_set():
            self.refresh()
            self._closing.wait(_PERIOD_S)

    def _pods(self) -> Owners | None:
        """GPUs that the kubelet has assigned; None where it has no pod-resources socket."""
        if self._socket is None or not (self._socket.exists() or "kubelet" in self._answers):
            return None
        return self._by_place(
            (device_id, fields)
            for given in list_given(self._socket)
            if given.resource.startswith("nvidia.com/") and (fields := self._of_pod(given)) is not None
            for device_id in given.device_ids
        )

    def _of_pod(self, given: Given) -> dict[str, Any] | None:
        """The fields of a Reservation, from the kubelet's list of pods; where that lacks the pod, names only.

        None for a pod that is over: before Kubernetes 1.34 its devices stay listed while the pod is kept."""
        found = self._kubelet.named(given.namespace, given.pod) if self._kubelet else None
        if found is None:
            names = {"namespace": given.namespace, "pod": given.pod, "container": given.container}
            return {**names, "identity_source": "kubernetes"}
        uid, pod = found
        if pod.is_over:
            return None
        known = (number for number, container in pod.containers.items() if container.name == given.container)
        number = next(known, given.container)
        waiting = Container(given.container, pod.images.get(given.container, ""), 0)
        pod = pod._replace(containers={number: waiting, **pod.containers})
        return identity({}, Group(container=number, pod=uid), pod, self._rules)

    def _slurm(self) -> Owners | None:
        """GPUs that Slurm has assigned; None as long as no Slurm job was seen on this host."""
        jobs = list(jobs_gpus(self._proc, self._rules))
        if not jobs and "slurm" not in self._answers:
            return None
        # With MIG, Slurm numbers the instances, and only its configuration knows which number is which.
        split = any(gpu.mig_uuids for gpu in self._gpus)
        return self._by_place((gpu, fields) for gpu, fields in jobs if not (split and gpu.isdecimal()))

    def _by_place(self, given: Iterable[tuple[str, dict[str, Any]]]) -> Owners:
        places = self._places()
        owners: dict[Place, list[Reservation]] = {}
        for device_id, fields in given:
            # For a time-sliced GPU the device plugin assigns GPU-…::0, GPU-…::1 and so on.
            place = places.get(device_id.partition("::")[0])
            if place is None:
                continue
            owner = Reservation(t=0, gpu=place[0], gpu_instance=place[1], **fields)
            if owner not in owners.setdefault(place, []):
                owners[place].append(owner)
        return {place: shared[0] for place, shared in owners.items() if len(shared) == 1}

    def _places(self) -> dict[str, Place]:
        """GPU and instance by each name of a device: its UUID, its NVML index, which is Slurm's number, and
        its file, which is its name in GKE's device plugin."""
        places: dict[str, Place] = {}
        for gpu in self._gpus:
            file, index = f"nvidia{gpu.file_number}", gpu.identity.index
            places |= dict.fromkeys((gpu.uuid, file, str(index)), (gpu.uuid, NO_INSTANCE))
            for uuid, gpu_instance in gpu.mig_uuids.items():
                places |= dict.fromkeys((uuid, f"{file}/gi{gpu_instance}"), (gpu.uuid, gpu_instance))
        return places
