"""Where the figures come from: the machine, the versions and the date."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

_PACKAGES: Final = (
    *("numba", "numpy", "polars", "pyarrow", "orjson", "zstandard"),
    *("confluent-kafka", "clickhouse-connect", "chdb"),
)


def machine() -> dict[str, str]:
    """Facts by name."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "wattribute": _revision(),
        "processor": f"{len(os.sched_getaffinity(0))} cores of {_processor()}, last-level cache {_cache()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "load": f"{os.getloadavg()[0]:.1f} before the run",
        "system": f"{platform.system()} {platform.release()}",
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in _PACKAGES)]
        ),
    }


def _revision() -> str:
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--tags"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return _version("wattribute")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _cache() -> str:
    try:
        sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
        return max((path.read_text().strip() for path in sizes), key=lambda text: int(text[:-1]))
    except (OSError, ValueError):
        return "an unknown size"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
