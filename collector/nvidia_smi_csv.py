"""The CSV lines of nvidia-smi: columns, units, readings and times, as ``--format=csv`` writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Final

from wattribute.errors import RecordError

# Unit -> its factor to the record's unit (mW, mJ, bytes, %, °C, MHz). "" is for a column without a unit in
# cell and header, and means the unit that nvidia-smi uses for it.
_POWER: Final = {"": 1000, "W": 1000, "mW": 1}
_ENERGY: Final = {"": 1, "mJ": 1, "J": 1000}
_MEMORY: Final = {"": 1 << 20, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_PERCENT: Final = {"": 1, "%": 1}
_TEMPERATURE: Final = {"": 1, "C": 1}
_CLOCK: Final = {"": 1, "MHz": 1}
# Column -> (field, units). Of two columns for one field the upper one counts, if its cell has a reading.
_READINGS: Final[dict[str, tuple[str, Mapping[str, int]]]] = {
    "total_energy_consumption": ("energy_mj", _ENERGY),
    "power.draw.instant": ("power_mw", _POWER),
    "power.draw.average": ("power_average_mw", _POWER),
    "power.draw": ("", _POWER),  # one of the two above: draw_field
    "utilization.gpu": ("sm_percent", _PERCENT),
    "utilization.memory": ("memory_percent", _PERCENT),
    "memory.used": ("memory_used_bytes", _MEMORY),
    "temperature.gpu": ("temperature_c", _TEMPERATURE),
    "clocks.current.sm": ("sm_clock_mhz", _CLOCK),
    "clocks.sm": ("sm_clock_mhz", _CLOCK),
    "memory.total": ("memory_bytes", _MEMORY),
    "power.limit": ("power_limit_mw", _POWER),
    "enforced.power.limit": ("power_limit_mw", _POWER),
}
# nvidia-smi accepts both names
_SAME: Final = {"gpu_uuid": "uuid", "gpu_name": "name", "gpu_bus_id": "pci.bus_id"}
COLUMNS: Final = {"timestamp", "uuid", "index", "pci.bus_id", "name", *_READINGS}
"""The columns that are read; all others are ignored."""

_COLUMN: Final = re.compile(r"([\w.]+)(?:\s*\[(.+)\])?", re.ASCII)
_QUANTITY: Final = re.compile(r"(-?\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z%]*)", re.ASCII)
_TIME: Final = re.compile(r"(\d{4})/(\d\d)/(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?", re.ASCII)
# GPUs whose power.draw is instantaneous: GA100 and all before Ampere (nvml.h, nvmlDeviceGetPowerUsage).
# NVIDIA used the names Tesla, Quadro, TITAN and GTX only before Ampere.
_INSTANT_DRAW: Final = re.compile(
    r"\b(Tesla|Quadro|TITAN|GTX|GT|RTX 20\d\d|T4G?|T\d{3,4}"
    r"|A100X?|A30X?|A800|170HX|V100S?|GV100|P100|P40|P4)\b",
    re.IGNORECASE,
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)


def cells(line: bytes) -> list[str]:
    """The cells of a line; bytes that are not UTF-8 become replacement characters."""
    text = line.decode(errors="replace").removeprefix("\ufeff")  # some editors begin a file with this mark
    return [cell.strip() for cell in text.split(",")]


def column(cell: str) -> tuple[str, str]:
    """Name and unit of a header cell such as ``power.draw [W]``; ('', '') for any other cell."""
    match = _COLUMN.fullmatch(cell)
    return (_SAME.get(match[1], match[1]), match[2] or "") if match else ("", "")


def is_time(cell: str) -> bool:
    """Whether a cell is a timestamp as nvidia-smi writes it."""
    return _TIME.fullmatch(cell) is not None


class Header:
    """The columns of a log: the place of each, and its unit ('' if the header gives none)."""

    def __init__(self, columns: list[tuple[str, str]]) -> None:
        self._with_unit: set[str] = set()  # columns in which a cell had a unit
        self.count = len(columns)
        self.place = {name: place for place, (name, _) in enumerate(columns)}
        self.unit = dict(columns)

    @classmethod
    def of(cls, line: list[str]) -> Header | None:
        """The header in the cells of a line; None if they are not one. A header has the column timestamp."""
        columns = [column(cell) for cell in line]
        return cls(columns) if any(name == "timestamp" for name, _ in columns) else None

    def text(self, line: list[str], name: str) -> str:
        """The text in a column; '' where the log has no such column or nvidia-smi could not read it."""
        place = self.place.get(name)
        if place is None:
            return ""
        cell = line[place]
        # [N/A], [Not Supported], [Unknown Error], [GPU is lost], … mean that nvidia-smi could not read it
        return "" if cell == "N/A" or (cell[:1] == "[" and cell[-1:] == "]") else cell

    def readings(self, line: list[str], name_before: str = "") -> dict[str, float]:
        """Record field -> value in the record's unit, without absent values. Where the line has no GPU name,
        ``name_before`` is used. Raises RecordError."""
        values: dict[str, float] = {}
        gpu_name = self.text(line, "name") or name_before
        for name, (field, units) in _READINGS.items():
            if text := self.text(line, name):
                value, unit = _quantity(name, text, self.unit[name], units)
                if unit:
                    self._with_unit.add(name)
                elif name in self._with_unit:  # a killed log may end with "3" of "300.00 W"
                    raise RecordError(
                        f"{name} is {text[:40]!r}, without the unit that it had before: it may be cut off"
                    )
                values.setdefault(field or draw_field(gpu_name), value)
        return values


def draw_field(gpu_name: str) -> str:
    """The record field that ``power.draw`` fills.

    It is the 1 s average on Ampere (except GA100) and newer, and instantaneous on GA100 and older (nvml.h,
    nvmlDeviceGetPowerUsage). Without a name it is taken as instantaneous.
    """
    return "power_mw" if not gpu_name or _INSTANT_DRAW.search(gpu_name) else "power_average_mw"


def time_ns(text: str, zone: tzinfo, previous_ns: int) -> int:
    """Unix time of a timestamp in a zone. Raises RecordError if invalid or not after ``previous_ns``."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise RecordError(f"timestamp is {text[:40]!r}, not like 2023/07/14 10:12:46.483")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction_ns = int((match[7] or "").ljust(9, "0"))
    passes = []
    for fold in (0, 1):
        try:
            local = datetime(year, month, day, hour, minute, second, tzinfo=zone, fold=fold)
        except ValueError as problem:
            raise RecordError(f"timestamp {text}: {problem}") from problem
        passes.append((local - _EPOCH) // _SECOND * 1_000_000_000 + fraction_ns)
    first, second_pass = passes
    if first > previous_ns:
        return first
    # When summer time ends, an hour comes twice: a time that runs back by about an hour is in the second
    # pass. A line that is 0.1 s out of order is not: otherwise the hour between would be billed.
    if second_pass > previous_ns and previous_ns - first >= (second_pass - first) / 2:
        return second_pass
    raise RecordError(f"time runs backwards or stands still: {text} is not after this GPU's last reading")


def _quantity(name: str, text: str, header_unit: str, units: Mapping[str, int]) -> tuple[float, str]:
    """The value of a cell, in the record's unit, and the unit in the cell."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise RecordError(f"{name} is {text[:40]!r}, not a number")
    unit = match[2] or header_unit
    factor = units.get(unit)
    if factor is None:
        raise RecordError(f"{name} is in {unit[:20]!r}, not in {' or '.join(filter(None, units))}")
    exact = Decimal(match[1]) * factor  # 56.12 W is 56120 mW; in binary 0.29 W would be 289.99…
    return float(exact) if units is _PERCENT else round(exact), match[2]
