"""What applications tell by ``wattribute emit``, through to what a step and an image cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stream import host as made_host
from tests.survival.processes import ran
from wattribute import cli
from wattribute.records import Quality, Run, Unit
from wattribute.stream.engine import Engine
from wattribute.wire import Encoder

AT = "2026-05-28T12:00:00Z"


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


@settings(max_examples=30, deadline=None)
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
        (["run", "start"], "--run or WATTRIBUTE_RUN"),
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


def test_where_the_bus_is_away_it_says_so() -> None:
    said = ran("emit", "unit", "images", "8", "--model", "m", "--bus", "kafka://127.0.0.1:1", status=1).stderr
    assert said.startswith("wattribute: ")
    assert "127.0.0.1:1" in said
    assert len(said.splitlines()) == 1
