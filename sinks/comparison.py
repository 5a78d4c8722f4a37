"""Whose cost changes with the policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wattribute.sinks.costs import policy_costs, without_account
from wattribute.sinks.schema import POLICIES
from wattribute.sinks.span import Time
from wattribute.sinks.store import Readable
from wattribute.sinks.unallocated import TENANTS


def policy_rows(
    store: Readable,
    by: Sequence[str],
    since: Time,
    until: Time,
    tz: str = "UTC",
    as_of: Time = None,
    unallocated: str = "separate",
) -> list[dict[str, Any]]:
    """What each tenant costs under every policy in [since, until), the greatest difference first.

    Each row has the ``by`` columns, equal_usd, memory_usd, active_usd, difference_usd (the greatest minus the
    least) and difference_ratio (that ÷ the least). Money is None if a part has no price; the ratio is None
    then, and if the least is 0. Raises UsageError, StoreError.
    """
    by = without_account(by)
    found: dict[tuple[Any, ...], dict[str, list[float | None]]] = {}
    for policy, costs in policy_costs(store, by, since, until, tz, as_of, unallocated).items():
        for row in costs:
            if row["account"] in (*TENANTS, "owner"):
                key = tuple(row[name] for name in by)
                found.setdefault(key, {}).setdefault(policy, []).append(row["cost_usd"])
    rows = [_compared(dict(zip(by, key, strict=True)), costs) for key, costs in found.items()]
    return sorted(rows, key=lambda row: (row["difference_usd"] is None, -(row["difference_usd"] or 0)))


def _compared(row: dict[str, Any], costs: dict[str, list[float | None]]) -> dict[str, Any]:
    sums = {policy: _sum(costs.get(policy, [])) for policy in POLICIES}
    known = [amount for amount in sums.values() if amount is not None]
    difference = max(known) - min(known) if len(known) == len(POLICIES) else None
    return {
        **row,
        **{f"{policy}_usd": amount for policy, amount in sums.items()},
        "difference_usd": difference,
        "difference_ratio": difference / min(known) if difference is not None and min(known) else None,
    }


def _sum(amounts: Sequence[float | None]) -> float | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(amounts) else None
