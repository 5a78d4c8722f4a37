"""What a fleet has seen models draw: where attribution begins with processes that are known by name."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stream import host as made_host
from tests.stream.host import GPU, START_NS, Made, messages, stream, table
from tests.stream.test_engine import check_as_reference
from wattribute.errors import UsageError
from wattribute.records import Workload
from wattribute.stream.engine import Engine
from wattribute.stream.fleet import FleetWatts, load_fleet_watts

KNOWN = {
    ("NVIDIA H200", "dense", "v1"): (6.0, 0.6),
    ("NVIDIA H200", "sparse", ""): (1.5, 0.2),
    ("NVIDIA H100", "other", ""): (9.0, 0.1),
}
HEAD = "gpu_model,model,model_version,watts_per_percent,spread_w\n"
NAMES = [("dense", "v1"), ("dense", "v2"), ("sparse", ""), ("other", ""), ("", "")]


def make(seed: int, seconds: int, processes: int) -> Made:
    """Processes of which it is told at some time what model they run; of some nothing is known."""
    rng = random.Random(seed)
    made = made_host.make(seed, seconds, processes)
    for number in range(processes):
        model, version = rng.choice(NAMES)
        if ("NVIDIA H200", model, version) in KNOWN:
            made.history.priors[f"p{number}"] = KNOWN["NVIDIA H200", model, version]
        flush = made.flushes[rng.randrange(seconds)]
        told = Workload(t=START_NS, pid=100 + number, start_ns=7, model=model, model_version=version)
        flush.insert(rng.randrange(len(flush) + 1), told)
    return made


def engine() -> Engine:
    return Engine("test", fleet=FleetWatts(KNOWN))


cases = st.fixed_dictionaries(
    {"seed": st.integers(0, 1 << 30), "seconds": st.integers(3, 24), "processes": st.integers(1, 5)}
)


@settings(max_examples=40)
@given(case=cases)
def test_rows_are_what_the_reference_says(case: dict[str, Any]) -> None:
    made = make(**case)
    rows = table(stream(engine(), messages(made.flushes), [7]))
    check_as_reference(made, rows)


@settings(max_examples=20)
@given(case=cases, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_how_messages_are_cut_into_batches_changes_nothing(case: dict[str, Any], sizes: list[int]) -> None:
    sent = messages(make(**case).flushes)
    whole = table(stream(engine(), sent, [len(sent)]))
    assert table(stream(engine(), sent, sizes)) == whole


def test_a_file_is_what_the_command_writes(tmp_path: Path) -> None:
    file = tmp_path / "watts.csv"
    file.write_text(
        "gpu_model,model,model_version,watts_per_percent,spread_w,busy_hours,gpus\n"
        "NVIDIA H200,dense,v1,5.0,1.2,30,4\nNVIDIA H200,idle,,0,0,1,1\nNVIDIA H200,wild,,5,40,1,1\n"
    )
    fleet = load_fleet_watts(str(file))
    # 20 % of 5 W, and 1.2 W
    assert fleet.of("NVIDIA H200", "dense", "v1") == pytest.approx((5.0, 1.5621), abs=1e-4)
    assert fleet.of("NVIDIA H200", "idle", "") == (0.1, 0.1)
    assert fleet.of("NVIDIA H200", "wild", "") == (5.0, 3.0)
    assert fleet.of("NVIDIA H100", "dense", "v1") == fleet.of("NVIDIA H200", "", "") == (4.0, 3.0)
    assert load_fleet_watts("").of("NVIDIA H200", "dense", "v1") == (4.0, 3.0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no column gpu_model"),
        ("gpu_model,model,model_version,watts_per_percent\n", "has no column spread_w"),
        (HEAD + "a,b,c,nan,1\n", "line 2: watts_per_percent is 'nan'"),
        (HEAD + "a,b,c,1,-1\n", "line 2: spread_w is '-1'"),
        (HEAD + "a,b,c\n", "line 2: watts_per_percent is None"),
        ("\x00", "has no column gpu_model"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "watts.csv"
    file.write_text(text)
    with pytest.raises(UsageError, match=why):
        load_fleet_watts(str(file))
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_fleet_watts(str(tmp_path / "none.csv"))


def test_it_is_of_this_gpu() -> None:
    """Of one that is told late which it is, too: what is known is applied to what came before."""
    made = make(5, 20, 3)
    sent = messages(made.flushes)
    late = messages(
        [
            *[flush[1:] if flush[0] is made.flushes[0][0] else flush for flush in made.flushes],
            made.flushes[0][:1],
        ]
    )
    rows, later = (table(stream(engine(), which, [3])) for which in (sent, late))
    assert {key: row["active_energy_uj"] for key, row in rows.items()} == {
        key: row["active_energy_uj"] for key, row in later.items()
    }
    assert made.history.priors
    assert GPU in {row["gpu"] for row in rows.values()}
