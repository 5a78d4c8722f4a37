"""An endpoint that is read: what is known of it, and to whom its units belong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from wattribute.collector.endpoints import Key, Server
from wattribute.collector.engines import Engine, Served
from wattribute.collector.fetch import Address
from wattribute.collector.scrape import Latencies, Tally, Whose
from wattribute.endpoints import Endpoint
from wattribute.records import Workload

_NOTHING: Final = Workload(t=0, pid=0, start_ns=0)


class Serves(NamedTuple):
    """Engine and model that a server gives for its processes on GPUs; '' where unknown, or several models."""

    engine: str
    model: str
    model_version: str
    model_path: str


@dataclass(slots=True)
class Target:
    """An endpoint that is read."""

    address: Address
    tally: Tally
    server: Server | None = None
    endpoint: Endpoint | None = None
    group: tuple[Key, ...] = ()  # the processes on GPUs that it serves
    tag: Workload = _NOTHING  # the tag of one of these processes
    engine: Engine | None = None
    served: frozenset[Served] = frozenset()
    latencies: Latencies = field(default_factory=Latencies)
    due_ns: int = 0
    wait_ns: int = 0
    problem: str = ""  # why it is not read at present
    told_unusable: bool = False

    def whose(self, workloads: Mapping[Key, Workload]) -> Whose:
        """To whom its units belong: from the tags of the processes that it serves, or else the settings, its
        counters, or its command line. The last tag still counts when these end before the server."""
        if tags := [workloads[key] for key in self.group if key in workloads]:
            self.tag = next((item for item in tags if item.model), tags[0])
        return self._whose(self.tag)

    def _whose(self, tag: Workload) -> Whose:
        endpoint = self.endpoint or Endpoint(url="")
        named = any(served.model for served in self.served)
        alias = self.server.alias if self.server and not named else ""
        return Whose(
            pid=self.server.process[0] if self.server else None,
            start_ns=self.server.process[1] if self.server else None,
            pod=tag.pod or endpoint.pod,
            application=tag.application,
            phase=tag.phase or "inference",
            model=tag.model or endpoint.model or alias,
            model_version=tag.model_version or endpoint.model_version,
            run=tag.run,
            attempt=tag.attempt,
        )

    def serves(self) -> Serves:
        """What is known of the processes that the endpoint serves."""
        whose = self._whose(_NOTHING)
        one = next(iter(self.served)) if len(self.served) == 1 else Served("", "")
        several = len({served.model for served in self.served}) > 1
        return Serves(
            self.engine.name if self.engine else "",
            "" if several else whose.model or one.model,
            "" if several else whose.model_version or one.model_version,
            self.server.model_path if self.server else "",
        )
