"""Real HTTP servers, found and read, through resets, restarts, outages and bad answers."""

from __future__ import annotations

import itertools
import logging
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.collector.engine_server import EngineServer, engine_server, exposition
from tests.collector.proc_tree import BTIME_S, Tree, in_pod
from wattribute.collector import scraper as module
from wattribute.collector.endpoints import Key
from wattribute.collector.fetch import Address, SilentError, fetch
from wattribute.collector.scraper import Scraper
from wattribute.endpoints import Endpoint
from wattribute.records import Quality, Record, Unit, Workload

S = 1_000_000_000
BEGAN_S = 1_000  # after boot: when watching begins
INODES = itertools.count(7001)


class Host:
    """A host on which time passes only as a test says: a /proc tree, and what is read on it."""

    def __init__(
        self,
        root: Path,
        configured: Sequence[Endpoint] = (),
        ask: Callable[[Address], list[bytes]] = fetch,
    ) -> None:
        self.tree = Tree(root)
        self.tree.process(1, 0, "systemd")
        self.t = (BTIME_S + BEGAN_S) * S
        self.workloads: dict[Key, Workload] = {}
        self.scraper = Scraper(root, self.tree.start_ns, "node-1", self.t, 5 * S, configured, ask)

    def serve(self, pid: int, server: EngineServer, **about: object) -> Key:
        """A server, and its worker, which holds a GPU; the worker's key."""
        self.tree.process(pid, 1, "vllm", listens={next(INODES): ("127.0.0.1", server.port)}, **about)  # type: ignore[arg-type]
        self.tree.process(pid + 1, pid, "VLLM::EngineCore", cgroup=str(about.get("cgroup", "")))
        return pid + 1, self.tree.start_ns(pid + 1) or 0

    def end(self, *pids: int) -> None:
        """Those processes are gone."""
        for pid in pids:
            shutil.rmtree(self.tree.root / str(pid))

    def after(self, seconds: float) -> list[Record]:
        """What is told of the time until then, but for what says that it was observed."""
        self.t += round(seconds * S)
        return self.scraper.read(lambda: self.t, self.workloads)


def quantities(records: Sequence[Record]) -> dict[str, float]:
    return {record.unit: record.quantity for record in records if isinstance(record, Unit)}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "proc")


def counted(server: EngineServer, before: str, after: str) -> None:
    """The server's counter goes on."""
    page = server.pages["/metrics"]
    assert before in page
    server.pages["/metrics"] = page.replace(before, after)


QWEN = "Qwen/Qwen3-0.6B"
INPUT = 'vllm:prompt_tokens_total{engine="1",model_name="facebook/opt-125m"} '
OUTPUT = 'vllm:generation_tokens_total{engine="0",model_name="facebook/opt-125m"} '
SUCCESS = 'vllm:request_success_total{engine="0",finished_reason="stop",model_name="facebook/opt-125m"} '


def test_a_server_is_found_from_its_worker_and_read(host: Host, server: EngineServer) -> None:
    worker = host.serve(100, server, cgroup=in_pod("one"), command=("vllm", "serve", "/models/opt"))
    assert host.scraper.look(host.t, [worker])
    assert host.after(0) == []  # it began before watching did
    counted(server, f"{OUTPUT}19.0", f"{OUTPUT}119.0")
    counted(server, f"{INPUT}5.0", f"{INPUT}35.0")
    counted(server, f"{SUCCESS}2.0", f"{SUCCESS}6.0")
    told = host.after(5)
    assert quantities(told) == {
        "output_tokens": 100.0,
        "input_tokens": 30.0,
        "requests": 4.0,
        "observed_ns": 5e9,
    }
    unit = next(record for record in told if isinstance(record, Unit))
    assert (unit.pid, unit.start_ns) == (100, (BTIME_S + 100) * S)
    assert (unit.model, unit.source, unit.period_ns, unit.t) == ("facebook/opt-125m", "engine", 5 * S, host.t)
    serves = host.scraper.serves()[worker]
    assert serves == ("vllm", "facebook/opt-125m", "", "/models/opt")


def test_while_a_server_loads_nothing_is_observed(host: Host, server: EngineServer) -> None:
    """It listens 600 s after it began, and answers 20 s later, having served meanwhile."""
    host.tree.process(100, 1, "vllm", started_s=BEGAN_S + 60)
    host.tree.process(101, 100, "VLLM::EngineCore", started_s=BEGAN_S + 61)
    worker = (101, host.tree.start_ns(101) or 0)
    for _ in range(66):
        host.after(10)
        assert not host.scraper.look(host.t, [worker])
    page, server.pages["/metrics"] = server.pages["/metrics"], ""
    host.end(100)
    listens = {next(INODES): ("127.0.0.1", server.port)}
    host.tree.process(100, 1, "vllm", listens=listens, started_s=BEGAN_S + 60)
    host.after(10)
    assert not host.scraper.look(host.t, [worker])  # it answers, and shows no counters yet
    silent_ns = host.t
    server.pages["/metrics"] = page
    host.after(10)
    assert host.scraper.look(host.t, [worker])
    told = [record for record in host.after(2) if isinstance(record, Unit)]
    assert quantities(told)["output_tokens"] == 26
    assert {record.period_ns for record in told} == {host.t - silent_ns}
    assert quantities(told)["observed_ns"] == host.t - silent_ns


def test_a_server_that_is_started_anew_is_counted_once_and_wholly(host: Host, server: EngineServer) -> None:
    """On the same port, and with counters that have gone beyond those of before."""
    worker = host.serve(100, server)
    host.scraper.look(host.t, [worker])
    host.after(0)
    counted(server, f"{OUTPUT}19.0", f"{OUTPUT}29.0")
    assert quantities(host.after(5))["output_tokens"] == 10
    inode = next(INODES)
    host.end(100, 101)
    assert host.after(5) == []  # it is gone, and so is its endpoint
    listens = {inode: ("127.0.0.1", server.port)}
    host.tree.process(200, 1, "vllm", listens=listens, started_s=BEGAN_S + 11)
    host.tree.process(201, 200, "VLLM::EngineCore", started_s=BEGAN_S + 12)
    counted(server, f"{OUTPUT}29.0", f"{OUTPUT}500.0")
    assert host.scraper.look(host.t, [(201, host.tree.start_ns(201) or 0)])
    told = [record for record in host.after(5) if isinstance(record, Unit)]
    assert quantities(told)["output_tokens"] == 507  # all of both engines, since its start
    assert quantities(told)["observed_ns"] == 4e9
    assert {(record.pid, record.period_ns) for record in told} == {(200, 4 * S)}


@pytest.mark.parametrize(
    ("name", "totals"),
    [
        ("vllm", {"input_tokens": 122, "output_tokens": 26, "cached_tokens": 64, "requests": 3}),
        ("ray_vllm", {"input_tokens": 58, "output_tokens": 300}),
        ("sglang", {"input_tokens": 5, "output_tokens": 32, "cached_tokens": 1, "requests": 1}),
        ("sglang_streaming", {"input_tokens": 178, "output_tokens": 8, "requests": 1}),
        ("tensorrt_llm", {"input_tokens": 1_240, "output_tokens": 15_500, "requests": 155}),
        ("nim", {"input_tokens": 109, "output_tokens": 174, "requests": 5}),
        ("tgi", {"input_tokens": 662, "output_tokens": 3_423, "requests": 109}),
        ("llama_cpp", {"input_tokens": 207_179, "output_tokens": 1_426, "cached_tokens": 129_725}),
        ("ik_llama_cpp", {"input_tokens": 6_886, "output_tokens": 3_469}),
        ("triton", {"requests": 3}),
    ],
)
def test_each_engine_through_a_reset_and_a_restart(host: Host, name: str, totals: dict[str, int]) -> None:
    """Its exposition with every figure two, three, … times as large, over HTTP."""
    path = {"tensorrt_llm": "/prometheus/metrics", "nim": "/v1/metrics"}.get(name, "/metrics")

    def shows(server: EngineServer, times: int) -> None:
        lines = exposition(name).splitlines()
        split = [line.rpartition(" ") for line in lines if line and not line.startswith(("#", "process_"))]
        server.pages[path] = "".join(f"{series} {float(value) * times}\n" for series, _, value in split)

    def came_out() -> dict[str, float]:
        sums: dict[str, float] = {}
        for record in host.after(5):
            if isinstance(record, Unit) and record.unit != "observed_ns":
                sums[record.unit] = sums.get(record.unit, 0.0) + record.quantity
        return sums

    with engine_server() as made:
        shows(made, 2)
        host.scraper.look(host.t, [host.serve(100, made)])
        assert came_out() == {}
        shows(made, 5)
        assert came_out() == {unit: 3 * total for unit, total in totals.items()}
        assert came_out() == {}
        shows(made, 1)  # a reset
        assert came_out() == totals
        host.end(100, 101)
        assert came_out() == {}
        listens = {next(INODES): ("127.0.0.1", made.port)}
        host.tree.process(200, 1, "engine", listens=listens, started_s=BEGAN_S + 26)
        host.tree.process(201, 200, "worker", started_s=BEGAN_S + 26)
        shows(made, 7)  # a restart, and more already than there was before
        host.scraper.look(host.t, [(201, host.tree.start_ns(201) or 0)])
        assert came_out() == {unit: 7 * total for unit, total in totals.items()}


def test_two_engines_of_vllm_count_the_tokens_that_their_clients_were_told_of(host: Host) -> None:
    """Pages of a real server, and of the one after it; data/engines/README.md has what the clients read."""
    with engine_server(exposition("vllm_data_parallel")) as made:
        assert host.scraper.look(host.t, [host.serve(100, made)])
        assert host.after(5) == []  # what came out before anybody watched
        made.pages["/metrics"] = exposition("vllm_data_parallel_later")
        assert quantities(host.after(5)) == {
            "input_tokens": 5_265,
            "output_tokens": 1_427 + 3,  # the 3 of requests that were given up
            "cached_tokens": 3_328,
            "requests": 53,
            "observed_ns": 5e9,
        }
        host.end(100, 101)
        made.pages["/metrics"] = exposition("vllm_data_parallel_restarted")
        listens = {next(INODES): ("127.0.0.1", made.port)}
        host.tree.process(200, 1, "vllm", listens=listens, started_s=BEGAN_S + 11)
        host.tree.process(201, 200, "VLLM::EngineCore_DP0", started_s=BEGAN_S + 12)
        assert host.scraper.look(host.t, [(201, host.tree.start_ns(201) or 0)])
        assert quantities(host.after(5)) == {
            "input_tokens": 3_757,
            "output_tokens": 1_090,
            "cached_tokens": 2_048,
            "requests": 40,
            "observed_ns": 4e9,
        }


def test_a_counter_that_is_reset_within_a_process_takes_no_others_along(
    host: Host, server: EngineServer
) -> None:
    worker = host.serve(100, server)
    host.scraper.look(host.t, [worker])
    host.after(0)
    counted(server, f"{OUTPUT}19.0", f"{OUTPUT}3.0")
    found = quantities(host.after(5))
    assert found["output_tokens"] == 3  # the 7 of the other engine came out before
    assert "observed_ns" not in found  # what came out before the reset nobody knows
    counted(server, f"{OUTPUT}3.0", f"{OUTPUT}4.0")
    assert quantities(host.after(5)) == {"output_tokens": 1.0, "observed_ns": 5e9}


def test_while_a_server_fails_it_is_asked_less_and_said_once(
    host: Host, server: EngineServer, caplog: pytest.LogCaptureFixture
) -> None:
    worker = host.serve(100, server)
    host.scraper.look(host.t, [worker])
    host.after(0)
    page, server.pages["/metrics"] = server.pages["/metrics"], "vllm:generation_tokens_total{ garbage"
    with caplog.at_level(logging.WARNING):
        assert [record for _ in range(60) for record in host.after(5)] == []
    assert [text.partition("metrics: ")[2] for text in caplog.messages] == [
        "the answer is not in Prometheus' text format (ValueError);"
        " it is asked again, and logged when it answers"
    ]
    assert host.scraper.counts.failures == 7  # at 5, 15, 35, 75, 135, 195, 255 s
    server.pages["/metrics"] = page.replace(f"{OUTPUT}19.0", f"{OUTPUT}719.0")
    told = [record for _ in range(12) for record in host.after(5)]
    assert quantities(told[:2])["output_tokens"] == 700
    assert sum(
        record.quantity for record in told if isinstance(record, Unit) and record.unit == "observed_ns"
    ) == (host.t - (BTIME_S + BEGAN_S) * S)
    assert caplog.messages[-1].endswith("the endpoint answers again")


def test_bad_samples_are_counted_and_said_once(
    host: Host, server: EngineServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.pages["/metrics"] += f"{OUTPUT}NaN\n{INPUT}-1\n"
    worker = host.serve(100, server)
    host.scraper.look(host.t, [worker])
    for _ in range(5):
        host.after(5)
    assert host.scraper.counts.unusable_samples == 10
    assert len([text for text in caplog.messages if "left out" in text]) == 1


def test_latencies_are_told_once_a_minute(host: Host, server: EngineServer) -> None:
    worker = host.serve(100, server)
    host.scraper.look(host.t, [worker])
    host.after(0)
    ttft = 'vllm:time_to_first_token_seconds_bucket{engine="0",le="%s",model_name="facebook/opt-125m"} %s'
    for bound in ("0.5", "0.75", "+Inf"):
        counted(server, ttft % (bound, "1.0"), ttft % (bound, "101.0"))
    told = [(host.t, record) for _ in range(24) for record in host.after(5) if isinstance(record, Quality)]
    found = {record.metric: record for _, record in told}
    assert [record.metric for _, record in told] == ["ttft_p50_s", "ttft_p95_s"]
    assert found["ttft_p50_s"].value == pytest.approx(0.375)  # half way from 0.25 to 0.5
    assert found["ttft_p95_s"].value == pytest.approx(0.4875)
    assert (found["ttft_p50_s"].sample_count, found["ttft_p50_s"].t) == (100, (BTIME_S + BEGAN_S + 60) * S)


def test_a_tag_of_the_workers_names_the_model(host: Host, server: EngineServer) -> None:
    worker = host.serve(100, server)
    host.workloads[worker] = Workload(
        t=host.t, pid=worker[0], start_ns=worker[1], model="support-chat", model_version="v3", run="r1",
        application="shop", pod="p",
    )  # fmt: skip
    host.scraper.look(host.t, [worker])
    host.after(0)
    counted(server, f"{OUTPUT}19.0", f"{OUTPUT}20.0")
    (unit,) = [r for r in host.after(5) if isinstance(r, Unit) and r.unit == "output_tokens"]
    assert (unit.model, unit.model_version, unit.run, unit.application, unit.pod) == (
        *("support-chat", "v3", "r1", "shop", "p"),
    )
    host.workloads.clear()  # the worker has ended, and its server has not
    host.end(worker[0])
    counted(server, f"{OUTPUT}20.0", f"{OUTPUT}25.0")
    (last,) = [r for r in host.after(5) if isinstance(r, Unit) and r.unit == "output_tokens"]
    assert (last.model, last.model_version, last.run, last.quantity) == ("support-chat", "v3", "r1", 5.0)
    assert host.scraper.serves()[worker].model == "facebook/opt-125m"  # of what bears no tag


def test_an_engine_s_own_path_is_found(host: Host) -> None:
    """trtllm-serve answers with JSON at /metrics."""
    with engine_server(exposition("tensorrt_llm"), path="/prometheus/metrics") as server:
        server.pages["/metrics"] = '[{"iter": 1}]'
        worker = host.serve(100, server)
        assert host.scraper.look(host.t, [worker])
        (target,) = host.scraper.targets.values()
        assert target.address.path == "/prometheus/metrics"


def test_a_server_that_calls_its_model_undefined_is_named_by_its_command_line(host: Host) -> None:
    """trtllm-serve, which answers clients under the last part of the path."""
    with engine_server(path="/prometheus/metrics") as server:
        page = exposition("tensorrt_llm").replace(QWEN, "undefined").replace('"trtllm"', '"undefined"')
        server.pages["/prometheus/metrics"] = page
        listens = {next(INODES): ("127.0.0.1", server.port)}
        command = ("trtllm-serve", "serve", "/models/Qwen3-8B", "--port", str(server.port))
        host.tree.process(100, 1, "python", command=command, listens=listens)
        host.tree.process(101, 100, "worker")
        worker = (101, host.tree.start_ns(101) or 0)
        assert host.scraper.look(host.t, [worker])
        host.after(0)
        server.pages["/prometheus/metrics"] = page.replace(" 15500.0", " 15600.0")
        (unit,) = [r for r in host.after(5) if isinstance(r, Unit) and r.unit == "output_tokens"]
        assert (unit.model, unit.quantity) == ("Qwen3-8B", 100.0)
        assert host.scraper.serves()[worker][:2] == ("tensorrt-llm", "Qwen3-8B")


def test_what_a_proxy_hands_on_of_an_engine_is_no_second_server(host: Host) -> None:
    """NIM 2 shows the counters of the engine behind its proxy, at a path of its own."""
    container = f"0::/docker/{'a' * 64}\n"
    with engine_server(exposition("vllm")) as made, engine_server(path="/v1/metrics") as proxy:
        proxy.pages["/v1/metrics"] = exposition("vllm")
        for pid, name, server in ((100, "vllm", made), (101, "worker", None), (102, "nginx", proxy)):
            listens = {next(INODES): ("127.0.0.1", server.port)} if server else {}
            host.tree.process(pid, 1, name, cgroup=container, listens=listens)
        assert host.scraper.look(host.t, [(101, host.tree.start_ns(101) or 0)])
        assert [target.address.port for target in host.scraper.targets.values()] == [made.port]
        assert "/v1/metrics" in {path for path, _ in proxy.requests}


def test_what_is_no_engine_is_asked_less_and_less(host: Host, server: EngineServer) -> None:
    server.pages["/metrics"] = "python_info 1\n"
    worker = host.serve(100, server)
    for _ in range(100):
        assert not host.scraper.look(host.t, [worker])
        host.t += 10 * S
    asked = [path for path, _ in server.requests]
    assert set(asked) == {"/metrics", "/prometheus/metrics", "/v1/metrics"}
    assert 15 <= len(asked) <= 30
    assert host.after(5) == []


def test_asking_around_ends_after_a_while_and_goes_on_the_next_time(
    host: Host, server: EngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = host.serve(100, server)
    monkeypatch.setattr(module, "_ASKING_S", 0.0)
    assert not host.scraper.look(host.t, [worker])
    assert server.requests == []
    monkeypatch.setattr(module, "_ASKING_S", 5.0)
    assert host.scraper.look(host.t, [worker])


def test_a_server_is_found_behind_many_sockets_that_do_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers listen for each other; each such socket is waited for 2 s, and is asked again and again."""
    served, now_s = Counting(50_000), 0.0

    def ask(address: Address) -> list[bytes]:
        nonlocal now_s
        now_s += 2.0
        return served.ask(address)

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now_s))
    host = Host(tmp_path / "proc", ask=ask)
    silent = {inode: ("127.0.0.1", 40_000 + inode) for inode in range(70)}
    host.tree.process(100, 1, "vllm", listens=silent | {70: ("127.0.0.1", 50_000)})
    looks = 0
    while not host.scraper.targets and looks < 100:
        host.scraper.look(host.t, [(100, host.tree.start_ns(100) or 0)])
        host.t += 120 * S
        looks += 1
    assert looks <= 71 / 2


def test_who_does_not_answer_at_all_is_asked_once(host: Host, server: EngineServer) -> None:
    worker = host.serve(100, server)
    asked: list[str] = []

    def ask(address: Address) -> list[bytes]:
        asked.append(address.path)
        raise SilentError("it does not answer")

    scraper = Scraper(host.tree.root, host.tree.start_ns, "node-1", host.t, 5 * S, ask=ask)
    assert not scraper.look(host.t, [worker])
    assert asked == ["/metrics"]


def test_what_torchrun_started_is_left_alone(host: Host, server: EngineServer) -> None:
    """The store through which its processes meet listens too, and would complain of a GET."""
    listens = {next(INODES): ("127.0.0.1", server.port)}
    host.tree.process(300, 1, "torchrun", listens=listens)
    host.tree.process(301, 300, environ={"TORCHELASTIC_RUN_ID": "none"})
    assert host.scraper.look(host.t, [(301, host.tree.start_ns(301) or 0)])
    assert server.requests == []


def test_an_engine_that_shows_nothing_is_said_once_with_what_to_do(
    host: Host, server: EngineServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.pages.clear()
    command = ("python3", "-m", "sglang.launch_server", "--api-key", "s3cret")
    worker = host.serve(100, server, command=command)
    for _ in range(50):
        host.scraper.look(host.t, [worker])
        host.t += 10 * S
    assert caplog.messages == [
        "serving engines: pid 100 looks like sglang: start it with --enable-metrics to have it read"
    ]


def test_endpoints_of_the_settings_need_no_process(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    with engine_server(exposition("tgi")) as server:
        named = Endpoint(url=server.url, model="opt", model_version="v2", pod="p", token_file=str(token))
        host = Host(tmp_path / "proc", [named])
        host.scraper.look(host.t, [])
        assert host.after(0) == []
        counted(server, "tgi_request_generated_tokens_sum 3423", "tgi_request_generated_tokens_sum 3523")
        told = [record for record in host.after(5) if isinstance(record, Unit)]
        assert quantities(told) == {"output_tokens": 100.0, "observed_ns": 5e9}
        assert {(r.model, r.model_version, r.pod, r.pid) for r in told} == {("opt", "v2", "p", None)}
        assert server.requests[0][1]["Authorization"] == "Bearer s3cret"
        assert "s3cret" not in repr(told)


def test_an_endpoint_of_the_settings_is_the_server_that_is_found_there(tmp_path: Path) -> None:
    with engine_server(exposition("vllm")) as server:
        url = f"http://localhost:{server.port}/metrics"
        host = Host(tmp_path / "proc", [Endpoint(url=url, model="mine")])
        worker = host.serve(100, server)
        host.scraper.look(host.t, [worker])
        (target,) = host.scraper.targets.values()
        assert target.group == (worker,)
        assert host.scraper.serves() == {}  # nothing was read yet
        host.after(0)
        assert host.scraper.serves()[worker].model == "mine"
        counted(server, f"{OUTPUT}19.0", f"{OUTPUT}20.0")
        told = [record for record in host.after(5) if isinstance(record, Unit)]
        assert {(record.pid, record.model) for record in told} == {(100, "mine")}


class Counting:
    """In the place of a server at ``ports``, which has given out 1,000 tokens more each time it is asked."""

    def __init__(self, *ports: int) -> None:
        self.ports = set(ports)
        self.given = 0
        self.started = f"process_start_time_seconds {BTIME_S + BEGAN_S + 1}"

    def ask(self, address: Address) -> list[bytes]:
        if address.port not in self.ports:
            raise SilentError("it does not answer")
        self.given += 1_000
        text = f'{self.started}\nvllm:generation_tokens_total{{model_name="chat"}} {self.given}'
        return text.encode().splitlines()


@pytest.mark.parametrize("name", ["127.0.0.1", socket.gethostname()])
def test_an_endpoint_of_the_settings_counts_once_whether_its_server_is_found_or_not(
    tmp_path: Path, name: str
) -> None:
    """Before its worker is on a GPU, with it, and while it is not seen; by a name of this machine too."""
    served = Counting(8000)
    host = Host(tmp_path / "proc", [Endpoint(url=f"http://{name}:8000/metrics")], served.ask)
    host.tree.process(BEGAN_S + 1, 1, "vllm", listens={7: ("127.0.0.1", 8000)})
    host.tree.process(BEGAN_S + 2, BEGAN_S + 1, "VLLM::EngineCore")
    worker = BEGAN_S + 2, host.tree.start_ns(BEGAN_S + 2) or 0
    host.t += 5 * S
    came_out = 0.0
    for on_gpus in ([], [], [worker], [worker], [], [], [worker]):
        host.scraper.look(host.t, on_gpus)
        came_out += quantities(host.after(5)).get("output_tokens", 0.0)
        assert [target.endpoint is None for target in host.scraper.targets.values()] == [False]
    assert came_out == served.given


@pytest.mark.parametrize(
    ("started", "history"), [("", 1_000), (f"process_start_time_seconds {BTIME_S + BEGAN_S + 1}.0004", 0)]
)
def test_nothing_is_lost_when_the_server_at_an_endpoint_is_found(
    tmp_path: Path, started: str, history: int
) -> None:
    """It does not say when it began, as with several processes, or not to the nanosecond as /proc does."""
    served = Counting(8000)
    served.started = started
    host = Host(tmp_path / "proc", [Endpoint(url="http://127.0.0.1:8000/metrics")], served.ask)
    host.tree.process(BEGAN_S + 1, 1, "vllm", listens={7: ("127.0.0.1", 8000)})
    host.tree.process(BEGAN_S + 2, BEGAN_S + 1, "VLLM::EngineCore")
    host.t += 5 * S
    came_out = 0.0
    for on_gpus in ([], [], [(BEGAN_S + 2, host.tree.start_ns(BEGAN_S + 2) or 0)]):
        host.scraper.look(host.t, on_gpus)
        came_out += quantities(host.after(5)).get("output_tokens", 0.0)
    assert came_out == served.given - history


def test_what_the_next_server_at_an_endpoint_counts_before_it_is_found_counts(tmp_path: Path) -> None:
    served = Counting(8000)
    served.started = ""
    host = Host(tmp_path / "proc", [Endpoint(url="http://127.0.0.1:8000/metrics")], served.ask)
    came_out: list[float] = []
    for pid in (BEGAN_S + 10, BEGAN_S + 60):
        host.t = (BTIME_S + pid + 2) * S
        served.given = 0
        host.tree.process(pid, 1, "vllm", listens={pid: ("127.0.0.1", 8000)})
        host.tree.process(pid + 1, pid, "VLLM::EngineCore")
        worker = (pid + 1, host.tree.start_ns(pid + 1) or 0)
        for on_gpus in ([worker], [worker]) if not came_out else ([], [], [worker]):
            host.scraper.look(host.t, on_gpus)
            came_out.append(quantities(host.after(5)).get("output_tokens", 0.0))
        if len(came_out) == 2:
            assert sum(came_out) == served.given
            host.end(pid, pid + 1)
            served.ports.clear()
            host.after(5)
            served.ports.add(8000)
    assert sum(came_out[2:]) == served.given


def test_an_endpoint_whose_name_cannot_be_resolved_for_a_while_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Counting(8000)
    served.started = ""
    names: dict[str, frozenset[str]] = {}

    def ask(address: Address) -> list[bytes]:
        if address.host not in ("127.0.0.1", *names):
            raise SilentError("its name cannot be resolved")
        return served.ask(address)

    monkeypatch.setattr(module, "own_addresses", names.get)
    host = Host(tmp_path / "proc", [Endpoint(url="http://gpu-7.example:8000/metrics")], ask)
    host.tree.process(100, 1, "vllm", listens={7: ("127.0.0.1", 8000)})
    worker = (100, host.tree.start_ns(100) or 0)
    reached = []
    for resolves in (False, True, True, False, True):
        names.clear()
        names.update({"gpu-7.example": frozenset({"127.0.0.1"})} if resolves else {})
        host.t += 60 * S
        host.scraper.look(host.t, [worker])
        host.after(60)
        reached.append([str(target.address) for target in host.scraper.targets.values()])
    named, found = "http://gpu-7.example:8000/metrics", "http://127.0.0.1:8000/metrics"
    assert reached == [[found, named], [named], [named], [named], [named]]


def test_an_endpoint_is_the_server_that_listens_at_its_address_and_not_one_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = {"127.0.0.1": Counting(8000), "10.0.0.5": Counting(8000)}
    monkeypatch.setattr(module, "own_addresses", lambda host: frozenset({host}))
    endpoint = Endpoint(url="http://10.0.0.5:8000/metrics")
    host = Host(tmp_path / "proc", [endpoint], lambda address: servers[address.host].ask(address))
    for pid, at in ((100, "127.0.0.1"), (110, "10.0.0.5")):
        host.tree.process(pid, 1, "vllm", listens={pid: (at, 8000)})
        host.tree.process(pid + 1, pid, "VLLM::EngineCore")
    host.scraper.look(host.t, [(pid, host.tree.start_ns(pid) or 0) for pid in (101, 111)])
    reached = {key and key[0]: address.host for key, address in host.scraper.targets}
    assert reached == {100: "127.0.0.1", 110: "10.0.0.5"}


def test_a_server_with_two_addresses_counts_once(tmp_path: Path) -> None:
    """One of which answers later; beside a process on a GPU that is not its worker."""
    served = Counting(9000)
    host = Host(tmp_path / "proc", ask=served.ask)
    places = {7: ("127.0.0.1", 8000), 8: ("127.0.0.1", 9000)}
    host.tree.process(BEGAN_S + 1, 1, "vllm", in_pod("one"), listens=places)
    host.tree.process(BEGAN_S + 2, BEGAN_S + 1, "VLLM::EngineCore", in_pod("one"))
    host.tree.process(BEGAN_S + 3, 1, "python3", in_pod("one"))
    on_gpus = [(pid, host.tree.start_ns(pid) or 0) for pid in (BEGAN_S + 2, BEGAN_S + 3)]
    host.t += 5 * S
    came_out = 0.0
    for _ in range(3):
        host.scraper.look(host.t, on_gpus)
        came_out += quantities(host.after(20)).get("output_tokens", 0.0)
        assert [target.group for target in host.scraper.targets.values()] == [(on_gpus[0],)]
        served.ports = {8000, 9000}
    assert came_out == served.given


@pytest.mark.parametrize("other", ["localhost:8000/metrics", "127.0.0.1:9000/metrics"])
def test_a_server_that_the_settings_name_twice_counts_once(tmp_path: Path, other: str) -> None:
    served = Counting(8000, 9000)
    named = [Endpoint(url="http://127.0.0.1:8000/metrics"), Endpoint(url=f"http://{other}")]
    host = Host(tmp_path / "proc", named, served.ask)
    places = {7: ("127.0.0.1", 8000), 8: ("127.0.0.1", 9000)}
    host.tree.process(BEGAN_S + 1, 1, "vllm", listens=places)
    host.tree.process(BEGAN_S + 2, BEGAN_S + 1, "VLLM::EngineCore")
    worker = (BEGAN_S + 2, host.tree.start_ns(BEGAN_S + 2) or 0)
    host.t += 5 * S
    came_out = 0.0
    for on_gpus in ([worker], [worker], [], [worker]):
        host.scraper.look(host.t, on_gpus)
        told = host.after(5)
        came_out += sum(r.quantity for r in told if isinstance(r, Unit) and r.unit == "output_tokens")
    assert came_out == served.given


def test_of_two_servers_that_answer_by_turns_none_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel chooses between sockets of SO_REUSEPORT: each turn looked like a server that began anew."""
    shown = itertools.cycle((10_000, 9_000))
    name = 'vllm:generation_tokens_total{model_name="chat"}'
    host = Host(tmp_path / "proc", ask=lambda _: [f"{name} {next(shown)}".encode()])
    host.tree.process(100, 1, "vllm", listens={7: ("127.0.0.1", 8000)})
    host.scraper.look(host.t, [(100, host.tree.start_ns(100) or 0)])
    host.after(5)
    host.tree.process(110, 1, "vllm", listens={8: ("127.0.0.1", 8000)})
    host.scraper.look(host.t, [(pid, host.tree.start_ns(pid) or 0) for pid in (100, 110)])
    assert [host.after(60) for _ in range(4)] == [[], [], [], []]
    assert "pid 110 listens on port 8000 too" in caplog.text
    host.end(110)
    host.scraper.look(host.t, [(100, host.tree.start_ns(100) or 0)])
    assert quantities(host.after(60))["observed_ns"] == 300e9  # what its own counters show, it counted since


def test_nor_is_an_endpoint_of_the_settings_at_which_they_do(tmp_path: Path) -> None:
    shown = itertools.cycle((10_000, 9_000))
    name = 'vllm:generation_tokens_total{model_name="chat"}'
    endpoint = Endpoint(url="http://localhost:8000/metrics")
    host = Host(tmp_path / "proc", [endpoint], lambda _: [f"{name} {next(shown)}".encode()])
    for pid in (100, 110):
        host.tree.process(pid, 1, "vllm", listens={pid: ("127.0.0.1", 8000)})
    host.scraper.look(host.t, [(pid, host.tree.start_ns(pid) or 0) for pid in (100, 110)])
    assert [host.after(60) for _ in range(4)] == [[], [], [], []]
    host.end(110)  # whether anybody looks again or not
    assert [len(host.after(60)) for _ in range(2)] == [0, 1]


def test_several_models_of_one_server_name_no_worker(host: Host) -> None:
    with engine_server(exposition("triton")) as server:
        worker = host.serve(100, server)
        host.scraper.look(host.t, [worker])
        host.after(0)
        assert host.scraper.serves()[worker] == ("triton", "", "", "")
        counted(server, 'model="densenet_onnx",version="1"} 3', 'model="densenet_onnx",version="1"} 5')
        told = [record for record in host.after(5) if isinstance(record, Unit)]
        assert {(r.model, r.model_version, r.quantity) for r in told if r.unit == "requests"} == {
            ("densenet_onnx", "1", 2.0)
        }


def test_a_million_units_of_restarts_have_names_of_their_own(host: Host, server: EngineServer) -> None:
    worker = host.serve(100, server)
    host.scraper.look(host.t, [worker])
    told: list[Unit] = []
    for step in range(50):
        counted(server, f"{OUTPUT}{19 + step}.0", f"{OUTPUT}{20 + step}.0")
        told += [record for record in host.after(5) if isinstance(record, Unit)]
    keys = [(record.unit, record.model, record.event_id) for record in told]
    assert len(keys) == len(set(keys)) == 2 * 49
