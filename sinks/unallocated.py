"""What nobody used, and who pays for it: nobody, as a line of its own, the host's owner, or all tenants in
proportion."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

from wattribute.errors import UsageError
from wattribute.sinks.schema import LABEL
from wattribute.sinks.span import BUCKET, STEPS, by_name
from wattribute.sinks.store import Readable

WAYS: Final = ("separate", "owner", "tenants")
TENANTS: Final = ("process", "reserved")
FIGURES: Final = (
    *("active_energy_j", "idle_energy_j", "energy_j", "gpu_hours"),
    *("active_cost_usd", "idle_cost_usd", "cost_usd"),
)
_BILLED: Final = ("host", "gpu_model", "provider", "region", "pricing")
_OF_HOST: Final = ("team", "cluster")
_NUMBERS: Final = {"attempt": 0, "gpu_instance": -1}

Row = dict[str, Any]


def unobserved_rows(store: Readable, by: Sequence[str], params: Mapping[str, str]) -> list[Row]:
    """What is billed for declared hosts, but no collector saw, as rows of ``cost_rows`` with the account
    unobserved.

    Only declared hosts have such rows: for others it is not known what is billed beyond what was seen. Raises
    StoreError."""
    if not store.query("SELECT count() FROM billed_host FINAL").rows[0][0]:
        return []
    params = dict(params)
    chosen = []
    for place, name in enumerate(by):
        if name.startswith(LABEL):
            params[f"label{place}"] = name.removeprefix(LABEL)
            chosen.append(f"described.labels[{{label{place}:String}}]")
        elif name in _BILLED:
            chosen.append(f"billed.{name}")
        elif name in _OF_HOST:
            chosen.append(f"described.{name}")
        else:
            chosen.append(BUCKET if name in STEPS else str(_NUMBERS.get(name, "''")))
    names = [f"by{place}" for place in range(len(by))]
    selected = "".join(f"{e} AS {n}, " for e, n in zip(chosen, names, strict=True))
    rows = store.query(
        f"SELECT {selected} sum(toInt128(unobserved_ns)) / 3.6e12 AS hours,"  # noqa: S608 - names of ours; values are parameters
        " if(countIf(price_per_gpu_hour_usd IS NULL) = 0,"
        " sum(price_per_gpu_hour_usd * toFloat64(unobserved_ns)) / 3.6e12, NULL)"
        " FROM billed(since = {since:String}, until = {until:String}, step = {step:String}, tz = {tz:String},"
        " as_of = {as_of:String}) AS billed LEFT JOIN"
        " (SELECT host, argMaxIf(owner_team, valid_from, owner_team != '') AS team,"
        " argMaxIf(cluster, valid_from, cluster != '') AS cluster, argMax(labels, valid_from) AS labels"
        " FROM host FINAL GROUP BY host) AS described ON billed.host = described.host"
        f" WHERE is_declared AND unobserved_ns > 0 GROUP BY {', '.join(['is_declared', *names])}"
        " ORDER BY ALL",
        params,
    ).rows
    return [
        by_name(by, row[: len(by)])
        | {"account": "unobserved", **dict.fromkeys(FIGURES[:3], 0.0), "gpu_hours": row[-2]}
        | {"active_cost_usd": None if row[-1] is None else 0.0, "idle_cost_usd": row[-1], "cost_usd": row[-1]}
        for row in rows
    ]


def charged(rows: Sequence[Row], by: Sequence[str], way: str) -> list[Row]:
    """The rows, with what nobody used charged according to ``way``. Unless that is ``separate``, which leaves
    the rows as they are, each then has ``charged_usd``, a part of its cost.

    ``owner``: charged to the team of the host, in its line, or in a new one with the account owner.
    ``tenants``: charged to all tenants of the same step, in proportion to their cost. Rows without an owner
    or a price stay as they are; so does a step whose tenants cost nothing, or include one without a price.
    All columns keep their sums. Raises UsageError."""
    if way not in WAYS:
        raise UsageError(f"--unallocated {way!r} is not known: it is one of {', '.join(WAYS)}")
    if way == "separate":
        return list(rows)
    if way == "owner" and "team" not in by:
        raise UsageError("--unallocated owner charges teams: add --by team")
    kept = [dict(row) | {"charged_usd": 0.0 if row["cost_usd"] is not None else None} for row in rows]
    return _to_owners(kept, by) if way == "owner" else _to_tenants(kept, by)


def _to_owners(rows: list[Row], by: Sequence[str]) -> list[Row]:
    paid: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if row["account"] in TENANTS and row["cost_usd"] is not None:
            paid.setdefault(tuple(row[name] for name in by), row)
    left = []
    for row in rows:
        if row["account"] in TENANTS or not row["team"] or row["cost_usd"] is None:
            left.append(row)
            continue
        key = tuple(row[name] for name in by)
        if key not in paid:
            paid[key] = dict(row) | {"account": "owner", **dict.fromkeys(FIGURES, 0.0), "charged_usd": 0.0}
            left.append(paid[key])
        _add(paid[key], {name: Fraction(row[name]) for name in FIGURES})
    return left


def _to_tenants(rows: list[Row], by: Sequence[str]) -> list[Row]:
    steps = [name for name in by if name in STEPS]
    together: defaultdict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        together[tuple(row[name] for name in steps)].append(row)
    left = []
    for alike in together.values():
        tenants = [row for row in alike if row["account"] in TENANTS]
        costs = [row["cost_usd"] for row in tenants]
        # The share of an unpriced tenant is not known, and others would pay it: one whose own cost was 7 USD
        # was charged 77 USD more.
        whole = Fraction() if None in costs else sum(map(Fraction, costs), Fraction())
        if not whole:
            left += alike
            continue
        nobodys = [row for row in alike if row["account"] not in TENANTS and row["cost_usd"] is not None]
        sums = {name: sum((Fraction(row[name]) for row in nobodys), Fraction()) for name in FIGURES}
        for row in tenants:
            ratio = Fraction(row["cost_usd"]) / whole
            _add(row, {name: amount * ratio for name, amount in sums.items()})
        left += [row for row in alike if row["account"] in TENANTS or row["cost_usd"] is None]
    return left


def _add(row: Row, amounts: Mapping[str, Fraction]) -> None:
    for name, amount in amounts.items():
        row[name] = float(Fraction(row[name]) + amount)
    row["charged_usd"] = float(Fraction(row["charged_usd"]) + amounts["cost_usd"])
