"""What comes out of everything that is replayed into one store: it is conserved, and it is true."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.needs import missing
from tests.survival.conftest import SHARED, Recorded, recorded
from tests.survival.processes import POLICIES, asked, assert_sound, ran

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "exclusive.ndjson"
# One GPU and two tenants that never meet, three times a minute.
ALONE = """
[host]
name = "alone-1"
repeat_s = 20
[[gpu]]
[[tenant]]
name = "first"
gpus = [0]
start_s = 2.3
stop_s = 8.1
watts_per_sm_percent = 4.2
sm_percent = 70
[[tenant]]
name = "second"
gpus = [0]
pattern = "train"
start_s = 10.77
stop_s = 16.5
watts_per_sm_percent = 3.1
sm_percent = 90
"""
SC24 = ("a100-square", "a100-step")


class Soaked(NamedTuple):
    """One store and the simulated hosts that are in it."""

    store: str
    hosts: Sequence[Recorded]


@pytest.fixture(scope="module")
def soaked(churn: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Soaked:
    folder = tmp_path_factory.mktemp("soak")
    store = f"chdb://{folder}/store"
    (folder / "alone.toml").write_text(ALONE)
    demo, alone = recorded(folder, "demo", "1m"), recorded(folder, folder / "alone.toml", "2m")
    ran("replay", demo.trace, churn.trace, alone.trace, GOLDEN, "--store", store)
    for name in SC24:
        log = SHARED / "sc24" / name / "nvidia-smi.csv"
        if log.exists():
            ran("replay", log, "--host", name, "--workload", f"model={name},run=r1", "--store", store)
    return Soaked(store, (demo, churn, alone))


def test_everything_in_the_store_is_conserved_under_every_policy(soaked: Soaked) -> None:
    assert_sound(soaked.store)
    (hosts,) = asked(soaked.store, "SELECT DISTINCT host FROM attribution FINAL ORDER BY host")
    assert {"churn-1", "demo-1", "golden-1"} <= {row["host"] for row in hosts}


def test_attributed_energy_is_the_difference_of_the_counter_to_the_microjoule(soaked: Soaked) -> None:
    for host in soaked.hosts:
        truth = json.loads(host.truth.read_bytes())
        readings = devices_of(host)
        for policy in POLICIES:
            (rows,) = asked(
                soaked.store,
                f"SELECT gpu, sum(active_energy_uj + idle_energy_{policy}_uj) AS uj,"
                f" sum(gpu_time_{policy}_ns) AS ns"
                f" FROM attribution FINAL WHERE host = '{truth['host']}' GROUP BY gpu",
            )
            found = {row["gpu"]: (row["uj"], row["ns"]) for row in rows}
            assert found == {
                gpu: ((last["energy_mj"] - first["energy_mj"]) * 1000, last["t"] - first["t"])
                for gpu, (first, last) in readings.items()
            }
        for gpu in truth["gpus"]:
            # The counter is published every 100 ms or so: what was drawn since the last time is not in it.
            first, last = readings[gpu["gpu"]]
            assert (last["energy_mj"] - first["energy_mj"]) * 1000 == pytest.approx(
                gpu["total_uj"], rel=0.005
            )


def test_a_process_that_held_a_gpu_alone_gets_what_it_drew(soaked: Soaked) -> None:
    """Its own active energy and the whole idle level of the GPU while it lived, 77.7 W and 38 W of context.

    The truth steps at a start and an end; the counter shows it up to 0.1 s later, and energy is taken to be
    drawn evenly between two of its changes: that is some 30 J of 300 W.
    """
    alone = soaked.hosts[-1]
    truth = json.loads(alone.truth.read_bytes())
    ends_ns = {
        (record["pid"], record["start_ns"]): record["t"]
        for record in records_of(alone)
        if record["kind"] == "exit"
    }
    (rows,) = asked(
        soaked.store,
        "SELECT pid, process_start_ns, sum(active_energy_uj + idle_energy_equal_uj) AS uj,"
        " sum(gpu_time_equal_ns) AS ns, groupUniqArray(weight_source) AS sources"
        f" FROM attribution FINAL WHERE host = '{truth['host']}' AND account = 'process'"
        " GROUP BY pid, process_start_ns",
    )
    found = {(row["pid"], row["process_start_ns"]): row for row in rows}
    assert len(found) == len(ends_ns) == 12
    for process in truth["gpus"][0]["processes"]:
        key = (process["pid"], process["start_ns"])
        row, lived_ns = found[key], ends_ns[key] - key[1]
        assert row["sources"] == ["exclusive"]
        assert row["ns"] == pytest.approx(lived_ns, abs=20_000_000)
        drawn_uj = process["active_uj"] + 115_700 * lived_ns // 1_000_000
        assert row["uj"] == pytest.approx(drawn_uj, abs=30_000_000)


@pytest.mark.parametrize(("name", "off_ratio"), [("a100-square", -0.007), ("a100-step", -0.058)])
def test_a_log_is_attributed_to_its_own_integral(soaked: Soaked, name: str, off_ratio: float) -> None:
    """All of what the log says, and how far that is from the meter over the span which the meter covers.

    The sensor of an A100 sees 25 ms of each 100 ms. What the square wave draws in between comes right only as
    far as its phases even out: to 0.7 % here on the whole, while single seconds are off by 28 % rms. And each
    card has a gain of its own, of which its readings say nothing: this one shows 0.957 of the power less
    1.8 W, so the steps come out 5.8 % low. Neither can be known from a log, so neither is corrected.
    """
    folder = SHARED / "sc24" / name
    if not folder.exists():
        missing(f"there is no {folder}")
    t_ns, watts = power_log(folder / "nvidia-smi.csv", "power.draw.instant [W]")
    ((row,),) = asked(
        soaked.store,
        "SELECT sum(active_energy_uj + idle_energy_memory_uj) / 1e6 AS j, sum(gpu_time_memory_ns) AS ns,"
        f" groupUniqArray(model) AS models FROM attribution FINAL WHERE host = '{name}'",
    )
    assert row["models"] == [name]
    assert row["ns"] == t_ns[-1] - t_ns[0]
    assert row["j"] == pytest.approx(joules(t_ns, watts), rel=0.001)
    meter_ns, meter_watts = power_log(folder / "meter.csv", "power_w")
    inside = (t_ns > meter_ns[0]) & (t_ns < meter_ns[-1])
    span_ns = np.concatenate([meter_ns[:1], t_ns[inside], meter_ns[-1:]])
    shown = joules(span_ns, np.interp(span_ns, t_ns, watts))
    metered = joules(meter_ns, meter_watts)
    assert shown / metered - 1 == pytest.approx(off_ratio, abs=0.001)


def records_of(host: Recorded) -> list[dict[str, Any]]:
    with host.trace.open("rb") as lines:
        return [json.loads(line) for line in lines]


def devices_of(host: Recorded) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """The first and the last reading of each GPU."""
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for record in records_of(host):
        if record["kind"] == "device":
            first, _ = found.get(record["gpu"], (record, record))
            found[record["gpu"]] = (first, record)
    return found


def power_log(path: Path, column: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Times in ns and watts of the readings in a log; its times are taken as UTC."""
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines, skipinitialspace=True))
    times = [row["timestamp"].replace("/", "-").replace(" ", "T") for row in rows]
    t_ns = np.array(times, "datetime64[ns]").astype(np.int64)
    return t_ns, np.array([float(row[column].removesuffix(" W")) for row in rows])


def joules(t_ns: NDArray[np.int64], watts: NDArray[np.float64]) -> float:
    """The integral of power by trapezoids."""
    return float(np.trapezoid(watts, t_ns / 1e9 - t_ns[0] / 1e9))
