from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattribute.collector.nvidia_smi_csv import Header, cells, draw_field, time_ns
from wattribute.errors import RecordError


def readings(header: str, line: str) -> dict[str, float]:
    columns = Header.of(cells(header.encode()))
    assert columns is not None
    return columns.readings(cells(line.encode()))


def test_nounits_takes_the_units_of_the_header() -> None:
    assert readings(
        "timestamp, power.draw.instant [mW], memory.used [GiB], clocks.sm", "t, 56120, 2, 1410"
    ) == {
        "power_mw": 56120,
        "memory_used_bytes": 2 << 30,
        "sm_clock_mhz": 1410,
    }


def test_the_unit_of_a_cell_wins_over_that_of_the_header() -> None:
    assert readings("timestamp, power.draw.instant [W]", "t, 56120 mW") == {"power_mw": 56120}


@given(st.integers(0, 9_999_999))
def test_watts_become_milliwatts_exactly(power_mw: int) -> None:
    watts = f"{power_mw // 1000}.{power_mw % 1000:03} W"
    assert readings("timestamp, power.draw.instant [W]", f"t, {watts}") == {"power_mw": power_mw}


@pytest.mark.parametrize(
    "cell", ["[N/A]", "N/A", "[Not Supported]", "[Unknown Error]", "[GPU is lost]", "", "[Not Found]"]
)
def test_a_cell_without_a_reading_is_absent_not_zero(cell: str) -> None:
    header = "timestamp, name, power.draw [W], power.draw.instant [W], utilization.gpu [%]"
    assert readings(header, f"t, {cell}, {cell}, {cell}, {cell}") == {}


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("", "power_mw"),
        ("[N/A]", "power_mw"),
        ("NVIDIA A100-SXM4-80GB", "power_mw"),
        ("NVIDIA A30", "power_mw"),
        ("NVIDIA A800-SXM4-80GB", "power_mw"),
        ("Tesla V100-SXM2-16GB", "power_mw"),
        ("Tesla T4", "power_mw"),
        ("NVIDIA TITAN RTX", "power_mw"),
        ("NVIDIA GeForce RTX 2080 Ti", "power_mw"),
        ("NVIDIA GeForce GTX 1080", "power_mw"),
        ("Quadro RTX 8000", "power_mw"),
        ("NVIDIA H100 80GB HBM3", "power_average_mw"),
        ("NVIDIA H200", "power_average_mw"),
        ("NVIDIA B200", "power_average_mw"),
        ("NVIDIA A10", "power_average_mw"),
        ("NVIDIA A40", "power_average_mw"),
        ("NVIDIA RTX A1000", "power_average_mw"),
        ("NVIDIA RTX A4000", "power_average_mw"),
        ("NVIDIA L4", "power_average_mw"),
        ("NVIDIA GeForce RTX 3090", "power_average_mw"),
        ("NVIDIA GeForce RTX 4090", "power_average_mw"),
        ("Some GPU of tomorrow", "power_average_mw"),
    ],
)
def test_what_power_draw_is_depends_on_the_gpu(name: str, field: str) -> None:
    assert readings("timestamp, power.draw [W], name", f"t, 56.12 W, {name}") == {field: 56120}


def test_an_explicit_column_wins_over_power_draw_while_it_has_a_reading() -> None:
    header = "timestamp, power.draw [W], power.draw.instant [W]"
    assert draw_field("") == "power_mw"
    assert readings(header, "t, 1.00 W, 2.00 W") == {"power_mw": 2000}
    assert readings(header, "t, 1.00 W, [N/A]") == {"power_mw": 1000}


def test_time_is_exact_to_the_last_digit() -> None:
    assert time_ns("2023/07/14 10:12:46.483", UTC, 0) == 1_689_329_566_483_000_000
    assert time_ns("2023/07/14 10:12:46", UTC, 0) == 1_689_329_566_000_000_000
    assert time_ns("2023/07/14 10:12:46.123456789", UTC, 0) == 1_689_329_566_123_456_789


def test_the_hour_that_comes_twice_is_two_hours() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    first = time_ns("2023/10/29 02:30:00.000", berlin, 0)
    assert first == int(datetime(2023, 10, 29, 0, 30, tzinfo=UTC).timestamp()) * 1_000_000_000
    assert time_ns("2023/10/29 02:00:00.000", berlin, first) == first + 1_800_000_000_000
    with pytest.raises(RecordError, match="time runs backwards"):
        time_ns("2023/10/29 01:59:59.999", berlin, first)
    with pytest.raises(RecordError, match="time runs backwards"):  # out of order, and not an hour later
        time_ns("2023/10/29 02:29:59.900", berlin, first)
