"""No secret of an environment, a command line, an annotation or an answer of the kubelet leaves the
collector: not in a message, nor in a row, a line that is printed, or an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fake_nvml.library import FakeNvml
from tests.stream.host import stream, table
from wattribute.collector.kubelet import Kubelet
from wattribute.collector.nvml import Nvml
from wattribute.collector.proc import ProcTree
from wattribute.collector.reservations import Reservations
from wattribute.records import Device, Gpu, Process, Record, Workload
from wattribute.rules import parse_rules
from wattribute.stream.engine import Engine
from wattribute.wire import Encoder

NODES = Path(__file__).parents[1] / "data" / "nodes"
NAMES = sorted(path.name for path in NODES.iterdir() if path.is_dir())
T, S = 1_780_001_000_000_000_000, 1_000_000_000
# Rules that look at all there is; one of them for the secret itself.
RULES = parse_rules(
    [{"command": "*hid[d]en*", "team": "found"}, {"command": "/.*/", "image": "*", "application": "all"}]
)


def secrets_of(node: str) -> set[str]:
    """Places of the tree where there are secrets."""
    files = [path for path in (NODES / node).rglob("*") if path.is_file()]
    return {path.name for path in files if b"hidden" in path.read_bytes()}


def test_the_trees_hold_secrets_in_every_place() -> None:
    assert set.union(*map(secrets_of, NAMES)) == {"environ", "cmdline", "pods.json"}


@pytest.mark.parametrize("node", NAMES)
def test_no_secret_is_in_messages_rows_or_what_is_kept(node: str, fake: FakeNvml) -> None:
    answer = NODES / node / "pods.json"
    kubelet = Kubelet(str(answer)) if answer.exists() else None
    assert kubelet is None or kubelet.refresh()
    tree = ProcTree(NODES / node / "proc", kubelet, RULES)
    kept = Reservations(Nvml().gpus, NODES / node / "proc", None, kubelet, RULES)
    kept.refresh()
    gpu = "GPU-fake-0"
    records: list[Record] = [Gpu(t=T, gpu=gpu, name="NVIDIA H200"), *kept.records(T)]
    pids = sorted(int(path.parent.name) for path in (NODES / node).glob("proc/[0-9]*/stat"))
    for pid in pids:
        start_ns = tree.start_ns(pid)
        assert start_ns is not None
        workload = tree.workload(pid, start_ns, T)
        assert isinstance(workload, Workload)
        records.append(workload)
        for tick in range(3):
            t = T + tick * S
            records.append(Process(t=t, gpu=gpu, pid=pid, start_ns=start_ns, period_ns=S, sm_percent=30.0))
    records += [Device(t=T + tick * S, gpu=gpu, energy_mj=1000 + tick * 300_000) for tick in range(4)]
    messages = [value for _, _, value in Encoder("node", "boot", 1).encode(records)]
    assert all(b"hidden" not in message for message in messages)

    engine = Engine("test")
    rows = table(stream(engine, list(enumerate(messages)), [1]))
    found = {row["pid"]: row for row in rows.values() if row["account"] == "process"}
    assert found.keys() == set(pids)
    tables = engine.tables.take()
    assert "dead" not in tables
    assert len(tables["process"]) == len(pids)
    assert "hidden" not in repr((rows, tables))
    # The rule for the secret has done its work, and kept it to itself.
    told = {pid for pid in pids if b"hidden" in (NODES / node / "proc" / str(pid) / "cmdline").read_bytes()}
    teams = {found[pid]["team"] for pid in told}
    assert teams <= {"found", "search", "nlp", "vision"}
    assert "found" in teams or node not in ("bare", "torchrun", "kuberay", "slurm-v1")
    for thing in (tree, kept, kubelet, engine.identities):
        assert "hidden" not in repr(getattr(thing, "__dict__", "")), type(thing)
