"""What models were seen to draw per percent of SM time, by GPU model: what a fleet knows about a process
before this stream has seen it work."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from wattribute.errors import UsageError
from wattribute.kernels.series import WATTS_PRIOR, WATTS_PRIOR_SD

_DEFAULT: Final = (WATTS_PRIOR, WATTS_PRIOR_SD)
_NAMED: Final = ("gpu_model", "model", "model_version")
_MEASURED: Final = ("watts_per_percent", "spread_w")
_MOST_W: Final = 100.0
# The least standard deviation. What was seen before does not repeat exactly: batches and lengths differ, and
# what is idle where a process is alone is known to 7 %. With 10 % the worst process was 3.6 % off, with 20 %
# it is 1.8, and the band of those that never pause covers all, not 88 % (wattribute verify, known).
_LEAST_RATIO: Final = 0.2
_LEAST_W: Final = 0.1  # a process that works draws something: by 0 W nothing could be split


class FleetWatts:
    """Watts per percent, and their standard deviation, by (GPU model, model, version)."""

    def __init__(self, known: Mapping[tuple[str, str, str], tuple[float, float]] | None = None) -> None:
        self._known = dict(known or {})

    def of(self, gpu_model: str, model: str, model_version: str) -> tuple[float, float]:
        """Return what a process of that model draws on that GPU; for an unknown model, what any process may
        draw."""
        return self._known.get((gpu_model, model, model_version), _DEFAULT) if model else _DEFAULT


def fleet_prior(watts: float, spread_w: float) -> tuple[float, float]:
    """Return watts per percent and their standard deviation, from the mean and the spread that a fleet has
    seen."""
    sd_w = math.hypot(spread_w, _LEAST_RATIO * watts)
    return max(watts, _LEAST_W), min(max(sd_w, _LEAST_W), WATTS_PRIOR_SD)


def load_fleet_watts(path: str) -> FleetWatts:
    """Read what ``wattribute watts --format csv`` wrote; nothing where ``path`` is empty. Raises UsageError,
    which names file and line."""
    if not path:
        return FleetWatts()
    known: dict[tuple[str, str, str], tuple[float, float]] = {}
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            lacks = [name for name in (*_NAMED, *_MEASURED) if name not in (reader.fieldnames or ())]
            if lacks:
                raise UsageError(
                    f"watts_file {path} has no column {lacks[0]}: 'wattribute watts --format csv' writes it"
                )
            for row in reader:
                watts, spread_w = (_number(path, reader.line_num, name, row[name]) for name in _MEASURED)
                gpu_model, model, version = (row[name] or "" for name in _NAMED)
                known[gpu_model, model, version] = fleet_prior(watts, spread_w)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or "it is not CSV in UTF-8"
        raise UsageError(f"watts_file {path} cannot be read: {why}") from None
    return FleetWatts(known)


def _number(path: str, line: int, name: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= _MOST_W:
        raise UsageError(f"watts_file {path}, line {line}: {name} is {text!r}; it must be 0 to {_MOST_W:g} W")
    return value
