"""From a serving engine's counters to the table ``unit``: the commands themselves, on a fake NVML, a real
server and a real /proc, through a reset, a restart of the server and one of the collector."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.collector.test_serving import engine
from tests.fake_library import compiled
from tests.needs import need
from tests.survival.processes import asked, ran

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
_PATIENCE_S = 90.0
_QUICK = {"scrape_s": "0.2", "slow_s": "0.2", "flush_s": "0.2"}
_LINES = """
vllm:prompt_tokens_total{{engine="0",model_name="chat"}} {0}
vllm:generation_tokens_total{{engine="0",model_name="chat"}} {1}
vllm:prompt_tokens_cached_total{{engine="0",model_name="chat"}} {2}
vllm:request_success_total{{engine="0",finished_reason="stop",model_name="chat"}} {3}
"""


@pytest.fixture(scope="module")
def nvml() -> Path:
    """A folder with the fake libnvidia-ml.so.1 of the benchmarks: eight GPUs with the processes FAKE_PIDS."""
    return compiled(ROOT / "benchmarks" / "eight_gpus.c", "libnvidia-ml.so.1")


class Page:
    """What an engine shows: input, output, cached tokens and requests."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.show(0, 0, 0, 0)

    def show(self, *counts: int) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(_LINES.format(*counts))
        new.replace(self.path)

    def read_twice(self, *counts: int) -> None:
        """Show them, and come back when they have been read, and read again."""
        self.show(*counts)
        served = Path(f"{self.path}.served")
        until(lambda: served.exists() and served.read_text().count(_LINES.format(*counts)) >= 2)


def until(done: Callable[[], bool]) -> None:
    end_s = time.monotonic() + _PATIENCE_S
    while not done():
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.05)


def on_the_gpus(nvml: Path, worker: int) -> dict[str, str]:
    """The environment of a command for which the process ``worker`` holds all eight GPUs."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WATTRIBUTE_")}
    environ |= {f"WATTRIBUTE_{name.upper()}": value for name, value in _QUICK.items()}
    return environ | {"LD_LIBRARY_PATH": str(nvml), "FAKE_PIDS": ",".join([str(worker)] * 8)}


@contextmanager
def collecting(folder: Path, nvml: Path, worker: int) -> Iterator[None]:
    """``collect``, while the process ``worker`` holds all eight GPUs."""
    environ = on_the_gpus(nvml, worker)
    command = [sys.executable, "-m", "wattribute", "collect", "--bus", f"local://{folder}/bus"]
    with subprocess.Popen(command, env=environ, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0, said
    assert "readings of serving engines" in said


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, nvml: Path) -> str:
    need("chdb")
    folder = tmp_path_factory.mktemp("engines")
    page = Page(folder / "page")
    with engine(page.path) as (_, _, worker):
        page.show(1000, 500, 300, 9)  # before anybody watched
        with collecting(folder, nvml, worker):
            page.read_twice(1000, 500, 300, 9)
            page.read_twice(1100, 540, 320, 11)  # + 100, 40, 20, 2
            page.read_twice(30, 10, 5, 1)  # a reset: + 30, 10, 5, 1
            page.read_twice(60, 20, 5, 2)  # + 30, 10, 0, 1
        page.show(900, 900, 90, 90)  # while no collector runs
        with collecting(folder, nvml, worker):
            page.read_twice(900, 900, 90, 90)
            page.read_twice(907, 903, 91, 91)  # + 7, 3, 1, 1
    store = f"chdb://{folder}/store"
    for _ in range(2):  # the second time all is read again, and nothing counts twice
        ran("stream", "--bus", f"local://{folder}/bus", "--store", store, "--from-beginning", "--until-idle")
    return store


def test_what_came_out_is_in_the_store_exactly(store: str) -> None:
    rows = asked(store, "SELECT unit, model, source, sum(quantity) AS n FROM unit FINAL GROUP BY ALL")[0]
    found = {row["unit"]: (row["model"], row["source"], row["n"]) for row in rows}
    observed = found.pop("observed_ns")
    assert found == {
        "input_tokens": ("chat", "engine", 167),
        "output_tokens": ("chat", "engine", 63),
        "cached_tokens": ("chat", "engine", 26),
        "requests": ("chat", "engine", 5),
    }
    assert observed[2] > 0
    assert asked(store, "SELECT * FROM dead FINAL")[0] == []


def test_the_time_that_is_known_has_a_hole_where_no_collector_ran(store: str) -> None:
    (rows,) = asked(
        store,
        "SELECT end_ns - toInt64(period_ns) AS begin_ns, toUnixTimestamp64Nano(t) AS end_ns, quantity,"
        " period_ns FROM unit FINAL WHERE unit = 'observed_ns' ORDER BY t",
    )
    assert all(row["quantity"] == row["period_ns"] for row in rows)
    holes = [after["begin_ns"] - row["end_ns"] for row, after in pairwise(rows)]
    assert all(hole >= 0 for hole in holes)
    assert sum(hole > 0 for hole in holes) == 2  # the reset, and the collector that was away


def test_the_process_on_the_gpus_bears_the_model_of_the_server_that_holds_none(store: str) -> None:
    rows, unit, processes = asked(
        store,
        "SELECT DISTINCT model, identity_source, phase FROM attribution FINAL WHERE account = 'process'",
        "SELECT DISTINCT pid, process_start_ns FROM unit FINAL",
        "SELECT DISTINCT pid FROM attribution FINAL WHERE account = 'process'",
    )
    assert rows == [{"model": "chat", "identity_source": "engine", "phase": "inference"}]
    assert len(unit) == 1  # the API server
    assert unit[0]["pid"] not in {row["pid"] for row in processes}


def test_a_token_has_a_cost(store: str) -> None:
    out = json.loads(
        ran("cost", "--by", "model", "--unit", "output_tokens", "--store", store, "--format", "json").stdout
    )
    row = next(row for row in out if row["model"] == "chat")
    assert row["quantity"] == 63
    assert row["j_per_unit"] > 0


def test_doctor_says_which_engines_it_finds(nvml: Path, tmp_path: Path) -> None:
    page = Page(tmp_path / "page")
    page.path.write_text(page.path.read_text() + 'vllm:generation_tokens_total{model_name="other"} NaN\n')
    places = ("--store", f"chdb://{tmp_path}/store", "--bus", f"local://{tmp_path}/bus")
    with engine(tmp_path / "page") as (api, port, worker):
        command = [sys.executable, "-m", "wattribute", "doctor", *places, "--format", "json"]
        environ = on_the_gpus(nvml, worker)
        done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    findings = [item for item in json.loads(done.stdout) if item["part"] == "engines"]
    assert [(item["state"], item["finding"]) for item in findings] == [
        ("ok", f"vllm at http://127.0.0.1:{port}/metrics of pid {api} serves chat"),
        ("weak", "samples left out because they are NaN, negative or repeated: 1"),
    ]
    assert "NaN" not in done.stderr


def test_doctor_says_what_is_wrong_with_an_endpoint_of_the_settings(nvml: Path, tmp_path: Path) -> None:
    (tmp_path / "wattribute.toml").write_text("[[endpoints]]\nurl = 'http://127.0.0.1:9/metrics'\n")
    places = ("--store", f"chdb://{tmp_path}/store", "--bus", f"local://{tmp_path}/bus")
    command = [sys.executable, "-m", "wattribute", "doctor", *places, "--format", "json"]
    environ = on_the_gpus(nvml, os.getpid())
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (finding,) = [item for item in json.loads(done.stdout) if item["part"] == "engines"]
    assert finding["state"] == "broken"
    assert (
        "http://127.0.0.1:9/metrics: the endpoint cannot be reached: Connection refused" in finding["finding"]
    )
    assert "asked again" not in done.stderr  # as a collector would


def test_a_recorded_trace_holds_what_came_out(nvml: Path, tmp_path: Path) -> None:
    Page(tmp_path / "page")
    trace = tmp_path / "trace.ndjson"
    with engine(tmp_path / "page") as (_, _, worker):
        command = [sys.executable, "-m", "wattribute", "record", str(trace), "--duration", "4s"]
        environ = on_the_gpus(nvml, worker)
        subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=True)
    units = [
        record for line in trace.read_text().splitlines() if (record := json.loads(line))["kind"] == "unit"
    ]
    assert {record["unit"] for record in units} == {"observed_ns"}


def test_a_second_collector_says_that_what_engines_count_comes_twice(nvml: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wattribute", "collect", "--bus", f"local://{tmp_path}/bus"]
    environ = on_the_gpus(nvml, os.getpid()) | {"WATTRIBUTE_SCRAPE_S": "0", "WATTRIBUTE_INTAKE": "off"}
    said = []
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as first:
        try:
            assert first.stderr is not None
            said.append(first.stderr.readline())
            second = [*command, "--duration", "1s"]
            said.append(
                subprocess.run(second, env=environ, capture_output=True, text=True, check=True).stderr
            )
        finally:
            first.terminate()
    assert ["another collector of this machine already sends" in text for text in said] == [False, True]
    assert "are reported twice; end one of them" in said[1]
