"""Processes whose pod the kubelet tells late, or never."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stream.host import stream, table
from wattribute.collector.kubelet import Kubelet
from wattribute.collector.proc import ProcTree
from wattribute.records import Device, Exit, Gpu, Process, Workload
from wattribute.stream.engine import Engine
from wattribute.wire import Encoder

NODES = Path(__file__).parents[1] / "data" / "nodes"


class Answer:
    """A kubelet's answer in a file that a test may change."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "pods.json"
        self.kubelet = Kubelet(str(self.path))
        self.tree = ProcTree(NODES / "kubernetes-v2-crio" / "proc", self.kubelet)
        self.start_ns = self.tree.start_ns(2401) or 0

    def come(self, **changed: str) -> None:
        text = (NODES / "kubernetes-v2-crio" / "pods.json").read_text()
        for old, new in changed.items():
            text = text.replace(old, new)
        self.path.write_text(text)
        assert self.kubelet.refresh()

    def workload(self, t_s: float) -> Workload | None:
        return self.tree.workload(2401, self.start_ns, round(t_s * 1e9))


def test_a_pod_is_waited_for_and_then_told_as_from_the_beginning(tmp_path: Path) -> None:
    answer = Answer(tmp_path)
    assert not answer.kubelet.refresh()
    assert answer.workload(100) is None
    answer.come()
    late = answer.workload(101)
    assert late is not None
    assert (late.t, late.pod) == (100_000_000_000, "nightly-eval-29300040-9zq4d")
    told = answer.workload(111)
    assert told is not None
    assert told.t == 111_000_000_000  # what changes from now on holds from now on


def test_a_kubelet_that_stays_away_holds_nothing_up(tmp_path: Path) -> None:
    answer = Answer(tmp_path)
    assert answer.workload(100) is None
    early = answer.workload(110)
    assert early is not None
    assert (early.t, early.pod) == (100_000_000_000, "51111111-2222-4333-8444-555555555555")
    answer.come()
    late = answer.workload(4000)
    assert late is not None
    assert (late.t, late.pod) == (400_000_000_000, "nightly-eval-29300040-9zq4d")  # 1 h back at most


def test_a_process_that_ends_before_the_kubelet_answers_is_told_with_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Answer(tmp_path)
    assert answer.workload(100) is None
    monkeypatch.setattr("wattribute.collector.proc.read_file", lambda *_: b"")
    records = answer.tree.exits(101_000_000_000)
    assert [type(record) for record in records] == [Workload, Exit]
    assert records[0].t == 100_000_000_000
    assert answer.tree.exits(102_000_000_000) == []


def test_a_container_that_was_started_again_is_another_attempt(tmp_path: Path) -> None:
    answer = Answer(tmp_path)
    answer.come()
    first = answer.workload(100)
    answer.come(**{'"restartCount": 1': '"restartCount": 2'})
    again = answer.workload(110)
    assert first is not None and again is not None
    assert (first.run, first.attempt) == (again.run, 1)
    assert again.attempt == 2


def test_what_comes_late_is_in_the_rows_of_before(tmp_path: Path) -> None:
    answer = Answer(tmp_path)
    begin_s = 1_780_001_000
    encoder = Encoder("node", answer.tree.boot_id, 1)
    messages: list[bytes] = []
    for second in range(16):
        t = (begin_s + second) * 1_000_000_000
        if second == 13:
            answer.come()
        workload = answer.workload(begin_s + second)
        process = Process(t=t, gpu="G", pid=2401, start_ns=answer.start_ns, period_ns=10**9, sm_percent=50.0)
        device = Device(t=t, gpu="G", energy_mj=1_000_000 + second * 300_000)
        records = [
            *([] if workload is None else [workload]),
            Gpu(t=t, gpu="G", name="NVIDIA H200"),
            process,
            device,
        ]
        messages += [value for _, _, value in encoder.encode(records)]
    rows = table(stream(Engine("test"), list(enumerate(messages)), [1]))
    pods = {row["pod"] for row in rows.values() if row["account"] == "process"}
    assert pods == {"nightly-eval-29300040-9zq4d"}
