"""Names that several queries share. The tables themselves stand in ``migrations``."""

from __future__ import annotations

from typing import Final

from wattribute.errors import UsageError

POLICIES: Final = ("equal", "memory", "active")
LABEL: Final = "labels."
"""So a column that is a label is named: ``labels.tier``."""

TEXT_IDENTITY: Final = (
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
)
IDENTITY: Final = (*TEXT_IDENTITY, "attempt", "labels")
"""What a rollup and ``cost`` keep apart, beside host, gpu, gpu_instance and account."""

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
"""The columns of ``attribution`` that add up. Errors of one process are correlated: half-widths add."""

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
"""The identity that units carry: by these a unit cost can be asked."""


def check_policy(policy: str) -> None:
    """Raises UsageError for one that there is not."""
    if policy not in POLICIES:
        raise UsageError(f"unknown policy {policy!r}: it is one of {', '.join(POLICIES)}")
