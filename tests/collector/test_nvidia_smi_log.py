from __future__ import annotations

import gzip
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.needs import missing
from wattribute.collector.nvidia_smi_log import (
    looks_like_nvidia_smi_log,
    option_workload,
    read_nvidia_smi_log,
)
from wattribute.collector.trace import Line
from wattribute.errors import UsageError, WattributeError
from wattribute.records import Device, Exit, Gpu, Process, Record, Trace, Workload, as_json, parse

ROOT = Path(__file__).parents[2]
SC24 = ROOT.parent / "shared" / "data" / "sc24"
GOLDEN = ROOT / "tests" / "data" / "golden" / "exclusive.ndjson"
T = 1_689_329_566_483_000_000  # 2023/07/14 10:12:46.483 UTC
MS = 1_000_000
HEADER = "timestamp, power.draw.instant [W]\n"


def sc24_log(name: str) -> Path:
    path = SC24 / name / "nvidia-smi.csv"
    if not path.exists():
        missing(f"the SC24 readings are not at {SC24}")
    return path


def log(tmp_path: Path, content: str, name: str = "power.csv") -> Path:
    path = tmp_path / name
    path.write_text(content)
    return path


def records(items: list[Line]) -> list[Record]:
    assert [item for item in items if item.error is not None] == []
    return [item.record for item in items if item.record is not None]


def devices(items: list[Line]) -> list[Device]:
    return [item.record for item in items if isinstance(item.record, Device)]


def bad_in(items: list[Line]) -> list[tuple[int, str]]:
    return [(item.number, item.error) for item in items if item.error is not None]


@pytest.mark.parametrize(("name", "lines"), [("a100-square", 966), ("a100-step", 1246)])
def test_published_logs_are_read_whole_and_exactly(name: str, lines: int) -> None:
    path = sc24_log(name)
    assert looks_like_nvidia_smi_log(path)
    items = list(read_nvidia_smi_log(path, host="h1"))
    read = devices(items)
    assert records(items)[0] == Trace(version=1, host="h1")
    assert [type(record) for record in records(items)[1:3]] == [Gpu, Device]
    assert len(read) == lines - 1
    cells = [line.split(", ") for line in path.read_text().splitlines()[1:]]
    assert [device.power_mw for device in read] == [int(Decimal(cell[-1]) * 1000) for cell in cells]
    assert [device.sm_percent for device in read] == [float(cell[1]) for cell in cells]
    assert {device.gpu for device in read} == {"log:nvidia-smi:0"}
    assert all(before.t < after.t for before, after in pairwise(read))


def test_a_workload_holds_a_published_log_from_its_first_reading_to_its_last() -> None:
    path = sc24_log("a100-square")
    workload = option_workload({"model": "square", "run": "r1"})
    everything = records(list(read_nvidia_smi_log(path, host="h1", workload=workload)))
    read = [record for record in everything if isinstance(record, Device)]
    held = [record for record in everything if isinstance(record, Process)]
    assert held[0].t - (held[0].period_ns or 0) == read[0].t
    assert all(b.t - (b.period_ns or 0) == a.t for a, b in pairwise(held))
    assert everything[-1] == Exit(t=read[-1].t, pid=0, start_ns=0)
    assert held[-1].t == read[-1].t


def test_units_in_header_and_cells_any_order(tmp_path: Path) -> None:
    path = log(
        tmp_path,
        "power.draw.average [W], memory.used [MiB], index, pstate, uuid, utilization.memory [%], name, "
        "timestamp, temperature.gpu, clocks.current.sm [MHz], enforced.power.limit [W], utilization.gpu [%], "
        "memory.total [MiB], power.draw.instant [W], total_energy_consumption [mJ]\n"
        "301.25 W, 71000 MiB, 3, P0, GPU-77, 40 %, NVIDIA H200, 2023/07/14 10:12:46.483, 61, 1980 MHz, "
        "700.00 W, 71 %, 143771 MiB, 298.01 W, 123456789\n",
    )
    assert records(list(read_nvidia_smi_log(path, host="h1"))) == [
        Trace(version=1, host="h1"),
        Gpu(
            t=T, gpu="GPU-77", name="NVIDIA H200", index=3, memory_bytes=143771 << 20, power_limit_mw=700_000
        ),
        Device(
            t=T,
            gpu="GPU-77",
            energy_mj=123456789,
            power_mw=298_010,
            power_average_mw=301_250,
            sm_percent=71.0,
            memory_percent=40.0,
            memory_used_bytes=71000 << 20,
            temperature_c=61,
            sm_clock_mhz=1980,
        ),
    ]


def test_time_zones(tmp_path: Path) -> None:
    path = log(tmp_path, HEADER + "2023/07/14 10:12:46.483, 1 W\n")
    for name, hours in (("UTC", 0), ("Europe/Berlin", 2), ("America/New_York", -4)):
        (device,) = devices(list(read_nvidia_smi_log(path, host="h1", zone=ZoneInfo(name))))
        assert device.t == T - hours * 3_600_000 * MS


def test_several_gpus_are_told_apart_and_share_the_process(tmp_path: Path) -> None:
    path = log(
        tmp_path,
        "timestamp, index, power.draw.instant [W], utilization.gpu [%]\n"
        "2023/07/14 10:12:46.483, 0, 1 W, 10 %\n2023/07/14 10:12:46.485, 1, 2 W, 20 %\n"
        "2023/07/14 10:12:47.483, 0, 3 W, 30 %\n2023/07/14 10:12:47.485, 1, 4 W, 40 %\n",
    )
    workload = option_workload({"model": "m", "attempt": "2"})
    items = list(read_nvidia_smi_log(path, host="h1", workload=workload))
    zero, one = "log:power:0", "log:power:1"
    assert [(item.number, item.record) for item in items] == [
        (1, Trace(version=1, host="h1")),
        (2, Gpu(t=T, gpu=zero, index=0)),
        (2, Workload(t=T, pid=0, start_ns=0, model="m", attempt=2, identity_source="option")),
        (2, Device(t=T, gpu=zero, power_mw=1000, sm_percent=10.0)),
        (3, Gpu(t=T + 2 * MS, gpu=one, index=1)),
        (3, Device(t=T + 2 * MS, gpu=one, power_mw=2000, sm_percent=20.0)),
        (4, Process(t=T + 1000 * MS, gpu=zero, pid=0, start_ns=0, period_ns=1000 * MS, sm_percent=30.0)),
        (4, Device(t=T + 1000 * MS, gpu=zero, power_mw=3000, sm_percent=30.0)),
        (5, Process(t=T + 1002 * MS, gpu=one, pid=0, start_ns=0, period_ns=1000 * MS, sm_percent=40.0)),
        (5, Device(t=T + 1002 * MS, gpu=one, power_mw=4000, sm_percent=40.0)),
        (5, Exit(t=T + 1002 * MS, pid=0, start_ns=0)),
    ]
    with pytest.raises(UsageError, match="the log has several GPUs"):
        list(read_nvidia_smi_log(path, host="h1", gpu="GPU-mine"))


def test_every_record_could_stand_in_a_trace(tmp_path: Path) -> None:
    path = log(tmp_path, HEADER + "2023/07/14 10:12:46.483, 1 W\n2023/07/16 10:12:46.483, 1 W\n")
    workload = option_workload({"team": "t"})
    everything = records(list(read_nvidia_smi_log(path, host="h1", gpu="GPU-mine", workload=workload)))
    assert [parse(as_json(record)) for record in everything] == everything
    assert {record.gpu for record in everything if isinstance(record, Gpu | Device | Process)} == {"GPU-mine"}
    said = [record for record in everything if isinstance(record, Workload)]
    assert [(record.t, record.team, record.pid, record.identity_source) for record in said] == [
        (T, "t", 0, "option"),
        (T + 172_800_000 * MS, "t", 0, "option"),
    ]


def test_identities_come_again_each_minute_and_when_they_change(tmp_path: Path) -> None:
    content = "timestamp, power.limit [W]\n" + "".join(
        f"2023/07/14 10:{minute:02}:{second:02}.000, {300 if minute < 2 else 250} W\n"
        for minute in range(3)
        for second in (0, 30, 40)
    )
    workload = option_workload({"model": "m"})
    everything = records(list(read_nvidia_smi_log(log(tmp_path, content), host="h1", workload=workload)))
    start = everything[1].t
    said = [record for record in everything if isinstance(record, Gpu)]
    assert [((gpu.t - start) // (1000 * MS), gpu.power_limit_mw) for gpu in said] == [
        (0, 300_000),
        (60, 300_000),
        (120, 250_000),
    ]
    owners = [record.t - start for record in everything if isinstance(record, Workload)]
    assert owners == [0, 60_000 * MS, 120_000 * MS]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("2023/07/14 10:12:46.583", "the line has 1 cells where the header has 2"),
        ("2023/07/14 10:12:46.583, 5 W, 6 W", "3 cells"),
        ("2023/07/14 10:12:46.483, 5 W", "time runs backwards"),  # the same time again
        ("2023/07/14 10:12:46.482, 5 W", "time runs backwards"),
        ("2023-07-14 10:12:46.583, 5 W", "timestamp is '2023-07-14 10:12:46.583'"),
        ("2023/13/14 10:12:46.583, 5 W", "month must be in 1..12"),
        ("[Unknown Error], 5 W", "timestamp is ''"),
        ("2223/07/14 10:12:46.583, 5 W", "is outside"),
        ("2023/07/14 10:12:46.583, NaN", "'NaN', not a number"),
        ("2023/07/14 10:12:46.583, 1e3 W", "not a number"),
        ("2023/07/14 10:12:46.583, ٣ W", "not a number"),
        ("2023/07/14 10:12:46.583, -5 W", "power_mw -5000 is outside"),
        ("2023/07/14 10:12:46.583, 2147483632 W", "power_mw"),
        ("2023/07/14 10:12:46.583, 5 BTU", "in 'BTU', not in W or mW"),
        ("2023/07/14 10:12:46.583, 30", "without the unit that it had before"),  # of 300.00 W
        ("Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost.", "1 cells"),
    ],
)
def test_a_bad_line_is_told_and_its_neighbours_kept(tmp_path: Path, bad: str, reason: str) -> None:
    path = log(tmp_path, f"{HEADER}2023/07/14 10:12:46.483, 5 W\n{bad}\n\n2023/07/14 10:12:46.683, 7 W\n")
    items = list(read_nvidia_smi_log(path, host="h1", workload=option_workload({"model": "m"})))
    ((number, error),) = bad_in(items)
    assert number == 3
    assert reason in error
    assert [(item.number, item.record.t) for item in items if isinstance(item.record, Device)] == [
        (2, T),
        (5, T + 200 * MS),
    ]
    assert [item.record.period_ns for item in items if isinstance(item.record, Process)] == [200 * MS]


@pytest.mark.parametrize("column", ["pci.bus_id", "gpu_bus_id"])
def test_gpus_are_told_apart_by_their_bus_ids_where_nothing_else_does(tmp_path: Path, column: str) -> None:
    path = log(
        tmp_path,
        f"timestamp, {column}, power.draw.instant [W]\n"
        "2023/07/14 10:12:46.483, 00000000:1A:00.0, 1 W\n2023/07/14 10:12:46.485, 00000000:3B:00.0, 2 W\n"
        "2023/07/14 10:12:47.483, 00000000:1A:00.0, 3 W\n2023/07/14 10:12:47.485, [GPU is lost], 4 W\n",
    )
    items = list(read_nvidia_smi_log(path, host="h1"))
    assert [(device.gpu[-1], device.power_mw) for device in devices(items)] == [
        ("0", 1000),
        ("1", 2000),
        ("0", 3000),
    ]
    assert bad_in(items) == [(5, "pci.bus_id is missing: the line's GPU is unknown")]


def test_a_line_without_its_gpu_is_bad(tmp_path: Path) -> None:
    path = log(
        tmp_path,
        "timestamp, index, uuid\n2023/07/14 10:12:46.483, 0, [Unknown Error]\n"
        "2023/07/14 10:12:46.483, x, GPU-1\n2023/07/14 10:12:46.483, 99999, GPU-1\n"
        "2023/07/14 10:12:46.483, 1, GPU-1\n",
    )
    items = list(read_nvidia_smi_log(path, host="h1"))
    assert [(number, error.split()[0]) for number, error in bad_in(items)] == [
        (2, "uuid"),
        (3, "index"),
        (4, "index"),
    ]
    assert devices(items) == [Device(t=T, gpu="GPU-1")]


def test_logs_put_together_may_repeat_or_change_the_header(tmp_path: Path) -> None:
    path = log(
        tmp_path,
        f"\ufeff{HEADER}2023/07/14 10:12:46.483, 5 W\n{HEADER}2023/07/14 10:12:46.583, 6 W\n"
        "power.draw.instant [W], timestamp\n7 W, 2023/07/14 10:12:46.683\n",
    )
    items = list(read_nvidia_smi_log(path, host="h1"))
    assert bad_in(items) == []
    assert [device.power_mw for device in devices(items)] == [5000, 6000, 7000]
    assert sum(isinstance(item.record, Trace) for item in items) == 1


@pytest.mark.parametrize(("compress", "suffix"), [(gzip.compress, ".gz"), (zstandard.compress, ".zst")])
def test_compressed_logs(tmp_path: Path, compress: type[bytes], suffix: str) -> None:
    path = tmp_path / f"power.csv{suffix}"
    content = compress((HEADER + "2023/07/14 10:12:46.483, 5 W\n").encode())
    path.write_bytes(content)
    assert looks_like_nvidia_smi_log(path)
    assert devices(list(read_nvidia_smi_log(path, host="h1"))) == [
        Device(t=T, gpu="log:power:0", power_mw=5000)
    ]
    path.write_bytes(content[:-2])
    ((_, error),) = bad_in(list(read_nvidia_smi_log(path, host="h1")))
    assert "cut off" in error


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("2023/07/14 10:12:46.483, 5 W\n", "without noheader"),
        ("power.draw [W], index\n5 W, 0\n", "not an nvidia-smi header with a timestamp"),
        ("hello\n", "not an nvidia-smi header"),
        (f"{HEADER}2023/07/14 10:12:46.483, 5 W\n".replace("\n", "\r"), "carriage return alone"),
    ],
)
def test_a_file_that_is_no_log_is_an_error_in_one_line(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(WattributeError, match=reason) as caught:
        list(read_nvidia_smi_log(log(tmp_path, content), host="h1"))
    assert "power.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WattributeError, match="cannot read"):
        list(read_nvidia_smi_log(tmp_path / "absent.csv", host="h1"))
    with pytest.raises(WattributeError, match="cannot read"):
        looks_like_nvidia_smi_log(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (HEADER, True),
        ("index, power.draw [W]\n", True),
        ("2023/07/14 10:12:46.483, 5 W\n", True),  # so that its reader can say what is missing
        ("t,watts\n1,2\n", False),
        ("", False),
        ('{"kind":"trace","timestamp":1}\n', False),
    ],
)
def test_which_reader_a_file_needs(tmp_path: Path, content: str, expected: bool) -> None:
    assert looks_like_nvidia_smi_log(log(tmp_path, content)) is expected
    assert not looks_like_nvidia_smi_log(GOLDEN)
    assert not looks_like_nvidia_smi_log("-")


def test_a_wrong_workload_is_refused() -> None:
    with pytest.raises(UsageError, match="no field 'modle'; did you mean model"):
        option_workload({"modle": "x"})
    with pytest.raises(UsageError, match="attempt is 'x', not a whole number"):
        option_workload({"attempt": "x"})
    with pytest.raises(UsageError, match="no field 'pid'"):
        option_workload({"pid": "1"})
    with pytest.raises(UsageError, match="control characters"):
        option_workload({"model": "a\nb"})


@given(st.lists(st.text(max_size=60), max_size=6))
def test_any_lines_cost_only_themselves(tmp_path_factory: pytest.TempPathFactory, garbage: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.csv"
    content = (
        HEADER + "2023/07/14 10:12:46.483, 5 W\n" + "\n".join(garbage) + "\n2023/07/14 10:12:46.583, 6 W\n"
    )
    path.write_bytes(content.encode(errors="surrogatepass"))
    items = list(read_nvidia_smi_log(path, host="h1"))
    assert [device.power_mw for device in devices(items)] == [5000, 6000]
    assert all((item.record is None) == (item.error is not None) for item in items)


def test_a_name_that_could_not_be_read_for_once_changes_nothing(tmp_path: Path) -> None:
    """``power.draw`` of an H100 stays the 1 s average."""
    rows = [
        f"2026/06/01 10:00:0{second}.000, GPU-1, {name}, 300.00 W"
        for second, name in enumerate(["NVIDIA H100", "[Unknown Error]", "NVIDIA H100"])
    ]
    path = log(tmp_path, "\n".join(["timestamp, uuid, name, power.draw [W]", *rows]))
    read = devices(list(read_nvidia_smi_log(path, host="h")))
    assert [(device.power_average_mw, device.power_mw) for device in read] == [(300_000, None)] * 3
