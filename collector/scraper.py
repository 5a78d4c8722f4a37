"""Finds the serving engines of this host, reads the counters of each in turn, and makes records of them.

All of this runs in a thread beside the sampling: nothing is urgent, and nothing may disturb the sampling.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wattribute.collector.command_line import described, silent_engine
from wattribute.collector.endpoints import Key, Listener, Processes, Server, assigned, listeners
from wattribute.collector.engines import ENGINES, METRICS, Reading, ScrapeError, parsed, reading
from wattribute.collector.fetch import Address, NamespaceError, SilentError, fetch, own_addresses
from wattribute.collector.proc import read_file
from wattribute.collector.scrape import Tally, units
from wattribute.collector.target import Serves, Target
from wattribute.endpoints import Endpoint
from wattribute.records import Record, Workload

_LOG: Final = logging.getLogger(__name__)
_S: Final = 1_000_000_000
_ASK_AGAIN_NS: Final = 10 * _S  # wait where no engine answered; it doubles each time
_ASK_AGAIN_MAX_NS: Final = 600 * _S
_ASKING_S: Final = 5.0  # time to ask listeners in one call of ``look``; the next call asks the rest
_FAILING_MAX_NS: Final = 60 * _S
_LATENCIES_NS: Final = 60 * _S
_PATHS: Final = tuple(dict.fromkeys(engine.path for engine in ENGINES))
_TORCHRUN: Final = b"TORCHELASTIC_RUN_ID="


@dataclass(slots=True)
class Counts:
    """How many readings were made, and how many failed or had unusable samples."""

    readings: int = 0
    failures: int = 0
    unusable_samples: int = 0


@dataclass(slots=True)
class _Asked:
    """The server found where a process listens, if any, and when no engine last answered there."""

    server: Server | None
    silent_ns: int
    again_ns: int = 0
    wait_ns: int = 0


class Scraper:
    """Finds endpoints and reads them. ``start_ns`` returns when a process began, None where none exists;
    ``since_ns`` is when watching began. Each problem is logged once."""

    def __init__(
        self,
        root: Path,
        start_ns: Callable[[int], int | None],
        host: str,
        since_ns: int,
        period_ns: int,
        configured: Sequence[Endpoint] = (),
        ask: Callable[[Address], list[bytes]] = fetch,
    ) -> None:
        self.counts = Counts()
        self.targets: dict[tuple[Key | None, Address], Target] = {}
        self.problems: set[str] = set()
        self._root, self._start_ns, self._host, self._ask = root, start_ns, host, ask
        self._since_ns, self._period_ns, self._configured = since_ns, period_ns, configured
        self._looked_ns = since_ns
        self._asked: dict[Listener, _Asked] = {}
        self._rivals: dict[Address, int] = {}  # by address, the pid of a second process that listens there
        self._own: dict[str, frozenset[str]] = {}  # by host in the settings, its addresses on this machine
        self._named: dict[Address, Key] = {}  # by endpoint in the settings, the process that listens there

    def look(self, t: int, on_gpus: Sequence[Key]) -> bool:
        """Find the servers of the processes on GPUs at ``t``; return whether each process has one.

        Processes that torchrun started are left out: they train, and their sockets do not speak HTTP."""
        on_gpus = [key for key in on_gpus if _TORCHRUN not in read_file(self._root, key[0], "environ")]
        if not on_gpus:
            self._retarget({})
            self._looked_ns = t
            return True
        processes = Processes(self._root)
        near = set().union(*(processes.group_of(pid) for pid, _ in on_gpus)) - {os.getpid()}  # our intake
        problems: set[str] = set()
        found = listeners(processes, near, self._start_ns, problems)
        self._asked = {key: asked for key, asked in self._asked.items() if key in found}
        ports = {item.address.port for item in found}
        for host in {item.host for item in self._configured if item.port in ports}:
            if (own := own_addresses(host)) is not None:
                self._own[host] = own
        self._named = {_address(named): item.process for item in found for named in self._endpoints(item)}
        found.sort(key=self._turn)
        until_s = time.monotonic() + _ASKING_S
        servers: dict[Key, Server] = {}  # one per process: all of its addresses show the same counters
        for item in found:
            if item.rival:
                problems.add(f"pid {item.process[0]}: {_by_turns(item.address.port, item.rival)}")
            elif item.process not in servers and (server := self._server(t, item, until_s, problems)):
                servers[item.process] = server
        self._rivals = {_place(self._places(item)[0]): item.rival for item in found if item.rival}
        by_pid = assigned(processes, list(servers.values()), [pid for pid, _ in on_gpus])
        groups: dict[Server, list[Key]] = {}
        for key in on_gpus:
            if key[0] in by_pid:
                groups.setdefault(by_pid[key[0]], []).append(key)
        self._retarget(groups)
        self._looked_ns = t
        for problem in problems - self.problems:
            _LOG.warning("serving engines: %s", problem)
        self.problems |= problems
        return len(by_pid) == len({pid for pid, _ in on_gpus})

    def read(self, now_ns: Callable[[], int], workloads: Mapping[Key, Workload]) -> list[Record]:
        """Read every target that is due; return its records."""
        told: list[Record] = []
        for key, target in list(self.targets.items()):
            process = target.server.process if target.server else None
            if process is not None and self._start_ns(process[0]) != process[1]:
                told += target.latencies.told(now_ns(), target.whose(workloads))
                del self.targets[key]
                if target.endpoint:
                    target.tally.belongs_to(None)
                    another = Target(target.address, target.tally, endpoint=target.endpoint)
                    self.targets[None, target.address] = another
            elif now_ns() >= target.due_ns:
                told += self._read(target, now_ns, workloads)
        return told

    def serves(self) -> dict[Key, Serves]:
        """Engine and model of each process on a GPU for which a server was found."""
        known = [target for target in self.targets.values() if target.engine]
        return {key: target.serves() for target in known for key in target.group}

    def _server(self, t: int, listener: Listener, until_s: float, problems: set[str]) -> Server | None:
        """The engine that answers there; where none answered, ask again only at growing intervals."""
        # A new listener was silent up to the last look: an engine that loads for minutes serves nothing.
        asked = self._asked.setdefault(listener, _Asked(None, self._looked_ns))
        places = self._places(listener)  # they change once a name in the settings can be resolved
        is_known = asked.server is not None and asked.server.address in places
        if is_known or t < asked.again_ns or time.monotonic() >= until_s:
            return asked.server
        wait_ns = min(max(2 * asked.wait_ns, _ASK_AGAIN_NS), _ASK_AGAIN_MAX_NS)
        server: Server | None = None
        is_named = bool(self._endpoints(listener))
        for address in places:
            try:
                lines = self._ask(address)
                said = reading(parsed(lines)) if lines else None
            except NamespaceError as problem:
                problems.add(f"pid {listener.process[0]} listens on port {address.port}, but {problem}")
                break
            except SilentError:
                break
            except ScrapeError:
                continue
            # NIM's proxy hands on, at a path of its own, what the engine behind it is read for anyway
            if said is not None and (is_named or address.path in (METRICS, said.engine.path)):
                server = described(self._root, listener.process, address, said.engine)
                break
        silent_ns = asked.silent_ns if server is not None else t
        self._asked[listener] = _Asked(server, silent_ns, t + wait_ns, wait_ns)
        if server is None and (advice := silent_engine(self._root, listener.process)):
            problems.add(advice)
        return server

    def _turn(self, listener: Listener) -> tuple[bool, bool, int]:
        """Sort key for the order of asking: endpoints of the settings, then servers, then who waited longest.
        A worker may have dozens of sockets that do not answer, and each costs its whole timeout."""
        asked = self._asked.get(listener, _Asked(None, 0))
        return not self._endpoints(listener), asked.server is None, asked.again_ns

    def _places(self, listener: Listener) -> list[Address]:
        """The addresses at which to ask a listener."""
        named = [_address(endpoint) for endpoint in self._endpoints(listener)]
        return named[:1] or [listener.address._replace(path=path) for path in _PATHS]

    def _endpoints(self, listener: Listener) -> list[Endpoint]:
        """The endpoints of the settings that are at a listener's address."""
        address = listener.address
        found: list[Endpoint] = []
        for item in self._configured if not address.namespace else ():
            own = self._own.get(item.host, frozenset())
            if item.port == address.port and (address.host in own or (own and listener.is_at_all)):
                found.append(item)
        return found

    def _retarget(self, groups: Mapping[Server, Sequence[Key]]) -> None:
        """Make the targets: these servers, earlier servers until they end, and the endpoints of the settings,
        each once, even if its address has changed."""
        known, self.targets = list(self.targets.values()), {}
        for server, keys in groups.items():
            endpoint = next((item for item in self._configured if _address(item) == server.address), None)
            target = next((item for item in known if _reads(item, server)), None)
            if target is None:
                silent_ns = max(asked.silent_ns for asked in self._asked.values() if asked.server == server)
                target = self._target(server.address, silent_ns)
            if target.server is None:
                target.tally.belongs_to(server.process[1])
            target.address, target.server = server.address, server
            target.endpoint, target.group = endpoint, tuple(keys)
            self.targets[server.process, server.address] = target
        # A server without workers at present is read until it ends.
        processes = {process for process, _ in self.targets}
        taken = {address for _, address in self.targets}
        for target in known:
            if target.server and target.server.process not in processes and target.address not in taken:
                self.targets[target.server.process, target.address] = target
        taken = {address for _, address in self.targets}
        processes = {process for process, _ in self.targets}
        for item in self._configured:
            if (address := _address(item)) not in taken and self._named.get(address) not in processes:
                target = next((item for item in known if item.address == address), self._target(address))
                target.endpoint = item
                self.targets[None, address] = target

    def _target(self, address: Address, silent_ns: int = 0) -> Target:
        return Target(address, Tally(self._since_ns, silent_ns))

    def _read(
        self, target: Target, now_ns: Callable[[], int], workloads: Mapping[Key, Workload]
    ) -> list[Record]:
        self.counts.readings += 1
        rival = self._rivals.get(_place(target.address))
        try:
            if rival and self._start_ns(rival) is not None:
                raise ScrapeError(_by_turns(target.address.port, rival))
            samples = parsed(self._ask(target.address))
            t = now_ns()
            said = reading(samples)
            if said is None:
                raise ScrapeError("the endpoint answers, but without counters of a known engine")
        except ScrapeError as problem:
            self._failed(target, str(problem), now_ns())
            return []
        if target.problem:
            _LOG.warning("%s: the endpoint answers again", target.address)
        target.problem, target.wait_ns = "", self._period_ns
        due_ns = target.due_ns + self._period_ns
        target.due_ns = due_ns if due_ns > t else t + self._period_ns
        self._note_unusable(target, said)
        target.engine, target.served = said.engine, frozenset(said.served)
        start_ns = target.server.process[1] if target.server else said.started_ns
        interval = target.tally.take(t, said, start_ns)
        whose = target.whose(workloads)
        told: list[Record] = []
        if interval is not None:
            told += units(interval, whose, self._name(target))
            target.latencies.add(interval)
        begin_ns = target.latencies.begin_ns
        if begin_ns is not None and t - begin_ns >= _LATENCIES_NS:
            told += target.latencies.told(t, whose)
        return told

    def _name(self, target: Target) -> str:
        """A name that is unique to this server, on this host and on others."""
        place = "/".join(map(str, target.server.process)) if target.server else str(target.address)
        return f"engine {self._host} {place}"

    def _failed(self, target: Target, problem: str, t: int) -> None:
        self.counts.failures += 1
        if not target.problem:
            _LOG.warning("%s: %s; it is asked again, and logged when it answers", target.address, problem)
        target.problem = problem
        target.wait_ns = min(2 * max(target.wait_ns, self._period_ns), _FAILING_MAX_NS)
        target.due_ns = t + target.wait_ns

    def _note_unusable(self, target: Target, said: Reading) -> None:
        self.counts.unusable_samples += said.unusable
        if said.unusable and not target.told_unusable:
            target.told_unusable = True
            _LOG.warning(
                "%s: %d samples are NaN, negative or there twice: they are left out",
                target.address,
                said.unusable,
            )


def _address(endpoint: Endpoint) -> Address:
    return Address(endpoint.host, endpoint.port, endpoint.path, endpoint.tls, token_file=endpoint.token_file)


def _place(address: Address) -> Address:
    return Address(address.host, address.port, namespace=address.namespace)


def _by_turns(port: int, rival: int) -> str:
    return f"pid {rival} listens on port {port} too, and both answer by turns: give each its own port"


def _reads(target: Target, server: Server) -> bool:
    """Whether a target is the server's, at any address, or was so far a bare endpoint at its address."""
    return target.server.process == server.process if target.server else target.address == server.address


def shown(scraper: Scraper) -> Iterator[str]:
    """The targets in words, one line each."""
    for target in scraper.targets.values():
        whose, serves = target.whose({}), target.serves()
        pid = f" of pid {whose.pid}" if whose.pid is not None else ""
        model = f" serves {serves.model}" if serves.model else ""
        yield f"{serves.engine or 'an endpoint'} at {target.address}{pid}{model}"
