"""The collector as the command assembles it: rules, kubelet and reservations, beside real processes."""

from __future__ import annotations

import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from subprocess import PIPE, Popen

import grpc

from tests.collector.readings import LOST
from tests.collector.test_reservations import CHAT, pod
from tests.fake_nvml.library import FakeNvml
from wattribute.commands.source import open_kubelet, open_source
from wattribute.records import Record, Reservation, Workload
from wattribute.settings import load_settings

PODS = Path(__file__).parents[1] / "data" / "nodes" / "kubernetes-v1-containerd" / "pods.json"
HOME = {"HOME": "/home/ada"}


def test_what_a_collector_tells_of_a_process_and_of_a_gpu_without_one(fake: FakeNvml) -> None:
    config = f"""
        kubelet = "{PODS}"
        kubelet_token = "/none"
        [[rules]]
        command = "*--serve-qwen*"
        model = "qwen3-8b"
    """
    child = Popen([sys.executable, "-c", "input()", "--serve-qwen", "--key=hidden"], stdin=PIPE)
    with child, tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "wattribute.toml").write_text(config)
        socket = Path(folder) / "kubelet.sock"
        handler = grpc.unary_unary_rpc_method_handler(lambda request, context: pod(CHAT, "GPU-fake-1"))
        server = grpc.server(ThreadPoolExecutor(1))
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": handler}),)
        )
        server.add_insecure_port(f"unix://{socket}")
        server.start()
        environ = HOME | {"WATTRIBUTE_POD_RESOURCES": str(socket)}
        settings = load_settings({}, Path(folder) / "wattribute.toml", environ)
        fake.process(0, child.pid, 1 << 30)
        told: list[Record] = []
        stop = threading.Event()

        def emit(records: object) -> None:
            told.extend(records)  # type: ignore[arg-type]
            if {type(record) for record in told} >= {Workload, Reservation}:
                stop.set()

        with closing(open_source(settings, simulate=False, scenario=None, seed=1)) as source:
            source.sampler(settings, emit).run(stop, 60)
        server.stop(None).wait()
        child.kill()
    workload = next(record for record in told if isinstance(record, Workload))
    assert (workload.pid, workload.model, workload.identity_source) == (child.pid, "qwen3-8b", "rule")
    given = {record.gpu: record for record in told if isinstance(record, Reservation)}
    assert (given["GPU-fake-1"].pod, given["GPU-fake-0"].pod) == (CHAT[1], "")
    assert "hidden" not in repr(told)


def test_the_kubelet_is_asked_in_a_pod_and_where_the_settings_name_it(tmp_path: Path) -> None:
    def of(**environ: str) -> object:
        named = {f"WATTRIBUTE_{name.upper()}": value for name, value in environ.items()}
        return open_kubelet(load_settings({}, None, HOME | named))

    token = tmp_path / "token"
    assert of(kubelet_token=str(token)) is None
    token.write_text("t")
    assert of(kubelet_token=str(token)) is not None
    assert of(kubelet_token=str(token), kubelet="off") is None
    assert of(kubelet_token=str(tmp_path / "none"), kubelet="http://127.0.0.1:10255/pods") is not None


def test_a_gpu_that_cannot_be_read_at_the_start_is_told(fake: FakeNvml) -> None:
    fake.fail(1, "nvmlDeviceGetHandleByIndex_v2", LOST)
    settings = load_settings({"host": "node"}, None, HOME)
    with closing(open_source(settings, simulate=False, scenario=None, seed=1)) as source:
        told = "(without 1 that cannot be read: start again once 'wattribute doctor' finds it)"
        assert source.shown() == f"1 × NVIDIA Fake {told} on node"
