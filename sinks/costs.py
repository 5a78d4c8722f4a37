"""What things cost: the rows of ``wattribute cost`` and ``wattribute runs`` (docs/store.md)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from wattribute.errors import UsageError, meant
from wattribute.sinks.schema import IDENTITY, LABEL, POLICIES, UNIT_IDENTITY
from wattribute.sinks.span import (
    BUCKET,
    COUNTED,
    STEPS,
    UNTIL,
    Time,
    by_name,
    span_params,
    span_times,
    time_text,
)
from wattribute.sinks.store import Readable
from wattribute.sinks.unallocated import FIGURES, charged, unobserved_rows
from wattribute.sinks.view_texts import part

_BY: Final = ("host", "gpu", "gpu_instance", *(name for name in IDENTITY if name != "labels"))
_SPAN: Final = (
    "since = {since:String}, until = {until:String}, step = {step:String}, tz = {tz:String},"
    " as_of = {as_of:String}"
)
UNIT_COLUMNS: Final = (
    *("quantity", "covered_cost_usd", "cost_usd_per_unit", "cost_usd_per_million", "j_per_unit"),
    *("coverage_ratio", "training_quantity"),
)
_PARTS: Final = "parts"
_TRAINS: Final = part("trains")
_KINDS: Final = (f"NOT {_TRAINS}", _TRAINS)


def cost_rows(
    store: Readable,
    by: Sequence[str],
    since: Time,
    until: Time,
    policy: str,
    unit: str | None = None,
    tz: str = "UTC",
    as_of: Time = None,
    unallocated: str = "separate",
) -> list[dict[str, Any]]:
    """Cost of [since, until) by the columns ``by`` (also ``labels.<name>``, and one of hour, day, week and
    month in the calendar of ``tz``) and by account, with the prices known at ``as_of``. ``unallocated`` says
    who pays for what nobody used (``charged``). What is billed for a declared host, but was not seen, has the
    account unobserved.

    Each row has the ``by`` columns, account, active_energy_j, idle_energy_j, energy_j, gpu_hours,
    active_cost_usd, idle_cost_usd, cost_usd; with ``unit`` also quantity, covered_cost_usd,
    cost_usd_per_unit, cost_usd_per_million, j_per_unit, coverage_ratio. Money is None if any part of the row
    has no price; a quotient is None if there are no units. A quotient leaves out what was spent while units
    were not counted: covered_cost_usd is the rest, which it divides, and coverage_ratio is the part of the
    GPU time that this covers, None if it is not known. Serving and training are kept apart: if both counted
    the unit, quantity and quotients are of serving alone, and training_quantity is the quantity of training.
    Only rows of processes have units; units for which no process was seen have a row with the account
    unmatched. Raises UsageError for an unknown column or policy, StoreError.
    """
    by = without_account(by)
    _check(by, unit)
    params = span_params(policy, since, until) | _calendar(by, tz, as_of)
    view = f"priced_usage(policy = {{policy:String}}, {_SPAN})"
    priced = _charged_rows(store, by, view, (policy,), params, unallocated, unit is not None)[policy]
    return priced if unit is None else _with_units(store, priced, by, unit, params)


def policy_costs(
    store: Readable,
    by: Sequence[str],
    since: Time,
    until: Time,
    tz: str = "UTC",
    as_of: Time = None,
    unallocated: str = "separate",
) -> dict[str, list[dict[str, Any]]]:
    """The rows of ``cost_rows``, without units, under every policy, by its name, from one query."""
    by = without_account(by)
    _check(by, None)
    params = span_times(since, until) | _calendar(by, tz, as_of)
    return _charged_rows(store, by, f"cost_by_policy({_SPAN})", POLICIES, params, unallocated)


def without_account(by: Iterable[str]) -> list[str]:
    """Each column once, without account, which every row has anyway."""
    return [name for name in dict.fromkeys(by) if name != "account"]


def _calendar(by: Sequence[str], tz: str, as_of: Time) -> dict[str, str]:
    steps = [name for name in by if name in STEPS]
    return {"step": steps[0] if steps else "all", "tz": tz, "as_of": time_text(as_of, UNTIL)}


def _charged_rows(
    store: Readable,
    by: Sequence[str],
    view: str,
    policies: Sequence[str],
    params: dict[str, str],
    unallocated: str,
    with_parts: bool = False,
) -> dict[str, list[dict[str, Any]]]:
    """For each policy the rows of ``view``, and of what no collector saw, as in ``cost_rows``. With
    ``with_parts`` each row also has two parts, serving and training: how many rows, USD and joules."""
    expressions, labels = selected(by)
    names = [f"by{place}" for place in range(len(by))]
    chosen = "".join(f"{e} AS {n}, " for e, n in zip(expressions, names, strict=True))
    together = ", ".join([*names, "holder"])
    rows = store.query(
        f"SELECT policy, {chosen} account AS holder,"  # noqa: S608 - names from _BY; values are parameters
        # the time of 100,000 GPUs exceeds 64 bits after a day and two hours
        " sum(toInt128(active_energy_uj)) / 1e6, sum(toInt128(idle_energy_uj)) / 1e6,"
        " sum(toInt128(energy_uj)) / 1e6, sum(toInt128(gpu_time_ns)) / 3.6e12,"
        " if(countIf(cost_usd IS NULL) = 0, sum(active_cost_usd), NULL),"
        " if(countIf(cost_usd IS NULL) = 0, sum(idle_cost_usd), NULL),"
        " if(countIf(cost_usd IS NULL) = 0, sum(cost_usd), NULL)"
        f"{''.join(_part_sums(kind) for kind in _KINDS) if with_parts else ''}"
        f" FROM {view} GROUP BY policy, {together} ORDER BY {together}",
        params | labels,
    ).rows
    columns = [*by, "account", *FIGURES, *([_PARTS] if with_parts else [])]
    rows = [(*row[:-2], row[-2:]) for row in rows] if with_parts else rows
    unobserved = unobserved_rows(store, by, params)
    found = {}
    for policy in policies:
        priced = [by_name(columns, row[1:]) for row in rows if row[0] == policy]
        found[policy] = charged([*priced, *unobserved], by, unallocated)
    return found


def selected(by: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The SQL of columns by name, and its parameters: the names of labels. Raises UsageError for an unknown
    column."""
    expressions, params = [], {}
    for place, name in enumerate(by):
        if name.startswith(LABEL) and name != LABEL:
            params[f"label{place}"] = name.removeprefix(LABEL)
            expressions.append(f"labels[{{label{place}:String}}]")
        elif name in (*_BY, *STEPS, "account"):
            expressions.append(BUCKET if name in STEPS else name)
        else:
            known = (*_BY, f"{LABEL}<name>", *STEPS)
            raise UsageError(f"column {name!r} is not known; {meant(name, known)}")
    return expressions, params


def run_rows(
    store: Readable, since: Time, until: Time, policy: str, run: str | None = None
) -> list[dict[str, Any]]:
    """What each run cost in [since, until), the dearest first; with ``run``, only that one.

    Each row has run, model, model_version, team, attempts, outcome, energy_j, gpu_hours, cost_usd,
    cost_usd_per_hour, wasted_usd, wasted_most_usd, position, target_position, cost_usd_per_step, j_per_step,
    projected_cost_usd, projected_end (docs/store.md, run_cost). None means not known. Raises UsageError for
    an unknown policy, StoreError.
    """
    return store.query(
        "SELECT run, model, model_version, team, attempts, outcome,"  # noqa: S608 - a text of ours
        " energy_uj / 1e6 AS energy_j,"
        " gpu_time_ns / 3.6e12 AS gpu_hours, cost_usd, cost_usd_per_hour, wasted_usd, wasted_most_usd,"
        " position, target_position, cost_usd_per_step, j_per_step, projected_cost_usd, projected_end"
        " FROM run_cost(policy = {policy:String}, since = {since:String}, until = {until:String})"
        + ("" if run is None else " WHERE run = {run:String}")
        + " ORDER BY cost_usd DESC NULLS LAST, energy_j DESC, run",
        span_params(policy, since, until) | ({} if run is None else {"run": run}),
    ).dicts()


def run_places(store: Readable, since: Time, until: Time) -> dict[str, list[str]]:
    """The places of each run that was seen in several Kubernetes namespaces or clusters on the days of
    [since, until): 'cluster/namespace', or the one of them that is known. Raises StoreError."""
    shown = "concat(cluster, if(cluster = '' OR namespace = '', '', '/'), namespace)"
    return _shared_names(store, ("cluster", "namespace"), shown, since, until)


def run_teams(store: Readable, since: Time, until: Time) -> dict[str, list[str]]:
    """The teams of each run for which several held GPUs on the days of [since, until). Raises StoreError."""
    return _shared_names(store, ("team",), "toString(team)", since, until)


def _shared_names(
    store: Readable, columns: Sequence[str], shown: str, since: Time, until: Time
) -> dict[str, list[str]]:
    """The ``shown`` values of each run that has several in ``columns``. A run is known only by its name, so
    this may be several runs of the same name."""
    known = " OR ".join(f"{name} != ''" for name in columns)
    rows = store.query(
        f"SELECT run, arraySort(groupUniqArray({shown})) FROM attribution_day FINAL"  # noqa: S608 - names of ours
        f" WHERE run != '' AND ({known})"
        " AND bucket_start >= toStartOfDay(greatest(parseDateTime64BestEffort({since:String}, 3, 'UTC'),"
        " toDateTime64(0, 3, 'UTC')))"
        " AND bucket_start < parseDateTime64BestEffort({until:String}, 3, 'UTC')"
        f" GROUP BY run HAVING uniqExact({', '.join(columns)}) > 1 ORDER BY run",
        span_times(since, until),
    ).rows
    return {run: list(of) for run, of in rows}


def attempt_rows(store: Readable, run: str, policy: str) -> list[dict[str, Any]]:
    """What each attempt of a run cost, in order.

    Each row has run, attempt, model, model_version, team, outcome, started, ended, used_from, used_until,
    energy_j, gpu_hours, cost_usd, wasted_usd, wasted_most_usd, position, target_position (docs/store.md,
    attempt_cost), and steps, the number that it made. None means not known. Raises UsageError for an unknown
    policy, StoreError.
    """
    return store.query(
        "SELECT run, attempt, model, model_version, team, outcome,"
        " if(outcome = '', NULL, started) AS started, ended, used_from, used_until,"
        " energy_uj / 1e6 AS energy_j, gpu_time_ns / 3.6e12 AS gpu_hours, cost_usd,"
        " if(outcome = '', NULL, wasted_usd) AS wasted_usd,"
        " if(outcome = '', NULL, wasted_most_usd) AS wasted_most_usd,"
        " if(outcome = '', NULL, position) AS position, target_position,"
        " if(outcome = '', NULL, position - origin_position) AS steps"
        " FROM attempt_cost(policy = {policy:String}, since = {since:String}, until = {until:String})"
        " WHERE run = {run:String} ORDER BY attempt",
        span_params(policy, None, None) | {"run": run},
    ).dicts()


def counted_units(store: Readable, since: Time, until: Time) -> list[str]:
    """The units that were counted in [since, until), by name; 50 at most. Raises StoreError."""
    return [
        unit
        for (unit,) in store.query(
            "SELECT DISTINCT toString(unit) AS unit FROM unit"  # noqa: S608 - a constant
            f" WHERE unit != 'observed_ns' AND {COUNTED} ORDER BY unit LIMIT 50",
            span_times(since, until),
        ).rows
    ]


def _part_sums(kind: str) -> str:
    return (
        f", (countIf({kind}), if(countIf({kind} AND cost_usd IS NULL) = 0, sumIf(cost_usd, {kind}), NULL),"
        f" sumIf(toInt128(energy_uj), {kind}) / 1e6)"
    )


def priced_kind(counted: Mapping[bool, float], held: Collection[bool]) -> bool | None:
    """What a unit is priced as: serving (False) or training (True), the first that counted it and ``held`` a
    GPU; None if neither did."""
    return next((kind for kind in (False, True) if kind in counted and kind in held), None)


def _with_units(
    store: Readable, priced: list[dict[str, Any]], by: Sequence[str], unit: str, params: dict[str, str]
) -> list[dict[str, Any]]:
    selected = "".join(f"{name}, " for name in by)
    counted: defaultdict[tuple[Any, ...], dict[bool, float]] = defaultdict(dict)
    for *group, trains, quantity in store.query(
        f"SELECT {selected} is_training, sum(quantity) AS counted"  # noqa: S608 - names from UNIT_IDENTITY
        " FROM counted_unit(unit = {unit:String}, since = {since:String}, until = {until:String})"
        f" GROUP BY {selected} is_training ORDER BY {selected} is_training",
        {"unit": unit, "since": params["since"], "until": params["until"]},
    ).rows:
        counted[tuple(group)][bool(trains)] = quantity
    covered = _covered(store, by, {**params, "unit": unit})
    for row in priced:
        parts = row.pop(_PARTS, None)
        if row["account"] != "process":
            row.update(_quotients(None, row["cost_usd"], row["energy_j"], None))
            continue
        key = tuple(row[name] for name in by)
        held = [bool(kind) for kind in (0, 1) if parts[kind][0]]
        quantities = counted.get(key) or {}
        kind = priced_kind(quantities, held)
        of = bool(held[0]) if kind is None else kind
        usd, joules, ratio = covered.get((*key, of), (*parts[of][1:], None))
        # what is charged to a line is part of its unit cost, like its own cost
        if row.get("charged_usd"):
            usd *= row["cost_usd"] / (row["cost_usd"] - row["charged_usd"])
            joules *= row["energy_j"] / sum(part[2] for part in parts) if joules else 1
        row.update(_quotients(None if kind is None else quantities.pop(kind), usd, joules, ratio))
        row["training_quantity"] = quantities.pop(True, None) if kind is False and True in held else None
    for names, left in counted.items():
        if not left:
            continue
        unmatched = dict(zip(by, names, strict=True)) | {"account": "unmatched"}
        unmatched |= dict.fromkeys(FIGURES, 0.0) | dict.fromkeys(UNIT_COLUMNS)
        priced.append(unmatched | {"quantity": sum(left.values())})
    return priced


def _covered(
    store: Readable, by: Sequence[str], params: dict[str, str]
) -> dict[tuple[Any, ...], tuple[float | None, float | None, float | None]]:
    """By group of processes, and whether they train: USD and joules of the time in which their units were
    counted, and which part of the GPU time that is. Empty unless it is known of some server when its units
    were counted (unit observed_ns): computing costs a second time is expensive."""
    if not store.query("SELECT 1 FROM unit WHERE unit = 'observed_ns' LIMIT 1").rows:
        return {}
    columns = [*by, "is_training"]
    names = [f"by{place}" for place in range(len(columns))]
    selected = ", ".join(f"{name} AS {alias}" for name, alias in zip(columns, names, strict=True))
    rows = store.query(
        f"SELECT {selected}, if(countIf(cost_usd IS NULL) = 0, sum(cost_usd * covered_time_ratio), NULL),"  # noqa: S608
        " sum(energy_uj * covered_energy_ratio) / 1e6,"
        " sum(gpu_time_ns * covered_time_ratio) / sum(toInt128(gpu_time_ns))"
        " FROM covered_cost_as_of(policy = {policy:String}, since = {since:String}, until = {until:String},"
        " unit = {unit:String}, as_of = {as_of:String})"
        f" GROUP BY {', '.join(names)} HAVING max(is_known) AND sum(toInt128(gpu_time_ns)) > 0",
        params,
    ).rows
    return {(*row[:-4], bool(row[-4])): (row[-3], row[-2], row[-1]) for row in rows}


def _quotients(
    quantity: float | None, cost_usd: float | None, energy_j: float | None, coverage_ratio: float | None
) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(UNIT_COLUMNS)
    found |= {"quantity": quantity, "coverage_ratio": coverage_ratio}
    found["covered_cost_usd"] = cost_usd if quantity else None
    if quantity and coverage_ratio != 0:
        found["cost_usd_per_unit"] = None if cost_usd is None else cost_usd / quantity
        found["cost_usd_per_million"] = None if cost_usd is None else cost_usd / quantity * 1e6
        found["j_per_unit"] = None if energy_j is None else energy_j / quantity
    return found


def check_unit(unit: str) -> None:
    """Raise UsageError for an empty name, and for several names: cached tokens are input tokens too, and must
    not be added to them."""
    if not unit:
        raise UsageError("--unit is empty: name what was counted, for example output_tokens")
    if "," in unit:
        raise UsageError(f"--unit {unit}: ask for one unit at a time")


def _check(by: Sequence[str], unit: str | None) -> None:
    steps = [name for name in by if name in STEPS]
    if len(steps) > 1:
        raise UsageError(f"cost by {' and '.join(steps)} is two calendar steps at once: ask for one of them")
    if unit is None:
        return
    check_unit(unit)
    for name in by:
        if name in STEPS:
            raise UsageError(
                f"units cannot be shown by {name} yet: leave out --unit, or ask for one {name}"
                " with --since and --until"
            )
        if name not in UNIT_IDENTITY:
            raise UsageError(f"units have no column {name}; with --unit use {', '.join(UNIT_IDENTITY)}")
