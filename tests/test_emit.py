"""What applications tell by ``wattribute emit``, through to what a step and an image cost."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stream import host as made_host
from tests.survival.processes import ran
from wattribute import cli
from wattribute.bus import SAMPLES, UNITS
from wattribute.collector import own_pod
from wattribute.collector.identity import environment
from wattribute.collector.local_log import LocalLog
from wattribute.records import Quality, Run, Unit
from wattribute.stream.engine import Engine
from wattribute.wire import Encoder

AT = "2026-05-28T12:00:00Z"


@pytest.mark.long
def test_what_is_told_comes_to_the_store_and_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, store = f"local://{tmp_path}/bus", f"chdb://{tmp_path}/store"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")

    def emitted(*arguments: str) -> None:
        ran("emit", *arguments, bus=bus, model="sdxl", model_version="v3", run="sft ;'7")

    for _ in range(2):  # said again, for nobody knows whether it was heard
        emitted("unit", "images", "64", "--event-id", "batch 1", "--at", AT)
    emitted("unit", "images", "6", "--period", "10s", "--run", "", "--at", AT)
    emitted("quality", "loss", "0.25", "--lower-is-better", "--samples", "400")
    emitted("run", "checkpoint", "--step", "1200", "--steps", "5000", "--at", AT)

    ran("stream", "--bus", bus, "--store", store, "--until-idle")

    def asked(sql: str) -> object:
        return json.loads(ran("query", sql, "--store", store, "--format", "json").stdout)

    assert asked("SELECT run, attempt, period_ns, quantity, source FROM unit FINAL ORDER BY run") == [
        {"run": "", "attempt": 0, "period_ns": 10_000_000_000, "quantity": 6, "source": "emit"},
        {"run": "sft ;'7", "attempt": 2, "period_ns": 0, "quantity": 64, "source": "emit"},
    ]
    assert asked(
        "SELECT model, model_version, metric, value, higher_is_better, sample_count FROM quality FINAL"
    ) == [
        {
            "model": "sdxl",
            "model_version": "v3",
            "metric": "loss",
            "value": 0.25,
            "higher_is_better": False,
            "sample_count": 400,
        }
    ]
    assert asked("SELECT run, attempt, event, step, steps FROM run_event FINAL") == [
        {"run": "sft ;'7", "attempt": 2, "event": "checkpoint", "step": 1200, "steps": 5000}
    ]


def test_what_is_told_of_another_run_is_not_of_the_attempt_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a run, whose name and attempt the environment has, another one is told of."""
    monkeypatch.setenv("WATTRIBUTE_RUN", "outer")
    monkeypatch.setenv("WATTRIBUTE_ATTEMPT", "3")
    for words in (["unit", "images", "4"], ["run", "finish"], ["run", "finish", "--attempt", "1"]):
        for run in ("outer", "other"):
            assert cli.run(["emit", *words, "--run", run, "--bus", f"local://{tmp_path}"]) == 0

    with closing(LocalLog(tmp_path)) as log:
        messages = [*log.read(UNITS, 0, 10), *log.read(SAMPLES, 0, 10)]
    told = [json.loads(message.value) for message in messages]
    found = [(record["run"], record.get("attempt", 0)) for message in told for record in message["records"]]
    assert found == [("outer", 3), ("other", 0), ("outer", 3), ("other", 0), ("outer", 1), ("other", 1)]


def test_spaces_around_a_name_are_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector takes none from the environment of the process that is told of."""
    monkeypatch.setenv("WATTRIBUTE_RUN", "sft-7 ")
    assert cli.run(["emit", "run", "start", "--bus", f"local://{tmp_path}"]) == 0
    with closing(LocalLog(tmp_path)) as log:
        (message,) = log.read(SAMPLES, 0, 10)
    (record,) = json.loads(message.value)["records"]
    assert record["run"] == environment(b"WATTRIBUTE_RUN=sft-7 \0")["WATTRIBUTE_RUN"] == "sft-7"


def test_a_name_of_spaces_alone_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WATTRIBUTE_RUN", " ")
    for told in (("unit", "steps", "5"), ("quality", "mmlu", "0.5")):
        assert cli.run(["emit", *told, "--bus", f"local://{tmp_path}"]) == 2
        assert "WATTRIBUTE_RUN" in capsys.readouterr().err


@settings(max_examples=30)
@given(seed=st.integers(0, 1 << 30), places=st.lists(st.integers(0, 20), max_size=5))
def test_what_is_told_changes_nothing_of_what_was_measured(seed: int, places: list[int]) -> None:
    """It comes from the same host, but is no restart of its collector: that would be a gap."""
    made = made_host.make(seed, seconds=20, processes=2)
    sent = [(10 * offset, value) for offset, value in made_host.messages(made.flushes)]
    t = made_host.START_NS
    told = [
        Run(t=t, run="r", event="start"),
        Unit(t=t, unit="images", quantity=1.0, model="m", event_id="1"),
        Quality(t=t, metric="q", value=1.0, model="m"),
    ]
    between = [
        (10 * place + 1 + number, value)
        for place in set(places)
        for number, (_, _, value) in enumerate(Encoder("host-1", "boot-1", epoch=0).encode(told))
    ]
    whole = made_host.table(made_host.stream(Engine("test"), sent, [3], end=False))
    assert (
        made_host.table(made_host.stream(Engine("test"), sorted([*sent, *between]), [4], end=False)) == whole
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["unit", "images", "nan", "--model", "m"], "quantity nan is outside"),
        (["unit", "images", "--model", "m", "--", "-1"], "quantity -1.0 is outside"),
        (["unit", "images", "many", "--model", "m"], "QUANTITY"),
        (["unit", "images", "1"], "--model or --run"),
        (["unit", "images", "1", "--model", "m\x1b[2J"], "control characters"),
        (["unit", "images", "1", "--model", "m", "--period", "soon"], "is not a duration"),
        (["quality", "mmlu", "0.5"], "--model or --run"),
        (["run", "halt", "--run", "r"], "none of start, checkpoint, finish, fail"),
        (["run", "start"], "give --run or set WATTRIBUTE_RUN"),
        (["run", "start", "--run", "r", "--step", "-1"], "step -1 is outside"),
        (
            ["run", "checkpoint", "--run", "r", "--step", "8", "--steps", "7"],
            "step 8 lies beyond",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    for name in ("WATTRIBUTE_MODEL", "WATTRIBUTE_RUN", "WATTRIBUTE_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WATTRIBUTE_BUS", f"local://{tmp_path}/bus")
    assert cli.run(["emit", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "bus").exists()


PODS = Path(__file__).parent / "data" / "nodes" / "kubernetes-v1-containerd" / "pods.json"
MOUNTS = """\
868 857 0:45 / /proc rw,relatime - proc proc rw
870 857 259:1 /var/lib/kubelet/pods/{pod}/etc-hosts /etc/hosts rw - ext4 /dev/sda1 rw
871 859 259:1 /var/lib/kubelet/pods/{pod}/containers/{name}/e3d5dec7 /dev/termination-log rw - ext4 /dev/v rw
"""


@pytest.mark.parametrize(
    ("given", "attempt", "said"),
    [
        ({}, 2, ""),
        ({"TORCHELASTIC_RESTART_COUNT": "3"}, 2003, ""),
        ({"WATTRIBUTE_ATTEMPT": "7"}, 7, ""),
        ({"WATTRIBUTE_KUBELET": "off"}, 0, "reported as attempt 0"),
        ({"WATTRIBUTE_KUBELET": "/nowhere/pods"}, 0, "No such file"),
        (
            {"WATTRIBUTE_KUBELET": "http://127.0.0.1:1/pods", "SLURM_RESTART_COUNT": "4"},
            4,
            "Connection refused",
        ),
    ],
)
def test_in_a_pod_the_attempt_is_the_one_that_kubernetes_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, str],
    attempt: int,
    said: str,
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(pod="21111111-2222-4333-8444-555555555555", name="pytorch"))
    monkeypatch.setattr(own_pod, "_MOUNTS", mounts)
    bus = tmp_path / "bus"
    bus.mkdir()  # that it was made would be told of too
    for name, value in {"WATTRIBUTE_KUBELET": str(PODS), **given}.items():
        monkeypatch.setenv(name, value)
    assert cli.run(["emit", "run", "start", "--run", "r", "--bus", f"local://{bus}"]) == 0
    assert said in (err := capsys.readouterr().err)
    assert len(err.splitlines()) == bool(said)
    with closing(LocalLog(bus)) as log:
        (message,) = log.read(SAMPLES, 0, 10)
    (record,) = json.loads(message.value)["records"]
    assert (record["run"], record.get("attempt", 0)) == ("r", attempt)


@pytest.mark.long
def test_where_the_bus_is_away_it_says_so() -> None:
    said = ran("emit", "unit", "images", "8", "--model", "m", "--bus", "kafka://127.0.0.1:1", status=1).stderr
    assert said.startswith("wattribute: ")
    assert "127.0.0.1:1" in said
    assert len(said.splitlines()) == 1
