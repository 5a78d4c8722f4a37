"""Names that several queries share. The tables themselves are defined in ``migrations``."""

from __future__ import annotations

from typing import Final

from wattribute.errors import UsageError

POLICIES: Final = ("equal", "memory", "active")
LABEL: Final = "labels."
"""The prefix of a column that is a label, like ``labels.tier``."""

IDENTITY: Final = (
    "gpu_model",
    "part",
    "cluster",
    "container",
    "pod",
    "namespace",
    "job",
    "user",
    "team",
    "application",
    "workload",
    "phase",
    "model",
    "model_version",
    "run",
    "provider",
    "region",
    "pricing",
    "attempt",
    "labels",
)
"""The columns by which a rollup and ``cost`` group, besides host, gpu, gpu_instance and account."""

SUMS: Final = (
    "active_energy_uj",
    "idle_energy_equal_uj",
    "idle_energy_memory_uj",
    "idle_energy_active_uj",
    "active_time_ns",
    "gpu_time_equal_ns",
    "gpu_time_memory_ns",
    "gpu_time_active_ns",
    "error_uj",
    "error_ns",
)
"""The columns of ``attribution`` that are summed. Errors of one process are correlated: half-widths add."""

UNIT_IDENTITY: Final = (
    "host",
    "pod",
    "model",
    "model_version",
    "run",
    "attempt",
    "part",
    "application",
    "phase",
)
"""The identity columns of units: unit costs can be grouped by these."""


def check_policy(policy: str) -> None:
    """Raise UsageError for an unknown policy."""
    if policy not in POLICIES:
        raise UsageError(f"unknown policy {policy!r}: it is one of {', '.join(POLICIES)}")
