"""Which GPUs are billed from when until when, and whether that matches what was measured (docs/store.md,
reconcile)."""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final

from wattribute.errors import UsageError, check_texts, meant
from wattribute.sinks.prices import END, check_minute
from wattribute.sinks.span import Time, span_params, span_times
from wattribute.sinks.store import Readable, Store

PARTS: Final = ("process", "reserved", "unheld", "residual", "unobserved")
RECONCILE_BY: Final = ("host", "gpu_model", "provider", "region", "pricing")
MOST_GPUS: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledHost:
    """GPUs of one model on a host that are billed from ``billed_from`` until before ``billed_to``, whole
    minutes in UTC. An empty ``gpu_model``, 0 ``gpus`` and None mean: as was seen on the host. Raises
    UsageError for invalid values."""

    host: str
    billed_from: datetime
    billed_to: datetime = END
    gpu_model: str = ""
    gpus: int = 0
    provider: str | None = None
    region: str | None = None
    pricing: str | None = None

    def __post_init__(self) -> None:
        check_texts(self)
        if not self.host:
            raise UsageError("the host needs its name, as 'wattribute cost --by host' shows it")
        if not 0 <= self.gpus <= MOST_GPUS:
            raise UsageError(f"{self.host} has {self.gpus} GPUs: it must be 1 to {MOST_GPUS}")
        check_minute("a host must be billed from", self.billed_from)
        check_minute("a host must be billed until", self.billed_to)
        if self.billed_from >= self.billed_to:
            raise UsageError(
                f"billing of {self.host} ends ({self.billed_to:%Y-%m-%dT%H:%M}) before it begins"
            )


def add_billed(store: Store, billed: BilledHost) -> list[str]:
    """Store a declaration, and return remarks for the user. It replaces one of the same host, GPU model and
    beginning.

    Raises UsageError if two would apply at once, or if the GPU model or the number of GPUs is left open and
    what was seen does not tell it."""
    seen = store.query(
        "SELECT gpu_model, uniqExact(gpu) AS gpus, argMax((provider, region, pricing), window_start) AS terms"
        " FROM attribution FINAL WHERE host = {host:String} GROUP BY gpu_model ORDER BY gpu_model",
        {"host": billed.host},
    ).rows
    whole = _completed(billed, {model: (gpus, terms) for model, gpus, terms in seen})
    for other in list_billed(store):
        if (other["host"], other["gpu_model"]) != (whole.host, whole.gpu_model):
            continue
        if other["billed_from"] == whole.billed_from:
            continue
        if other["billed_from"] < whole.billed_to and whole.billed_from < (other["billed_to"] or END):
            raise UsageError(
                f"{whole.host} is billed from {other['billed_from']:%Y-%m-%dT%H:%MZ} already, and both would"
                " count: let one end, with --until, before the other begins; 'wattribute host remove' removes"
                " everything declared for the host"
            )
    store.insert_rows("billed_host", [asdict(whole) | {"version": time.time_ns(), "deleted": 0}])
    return _remarks(store, whole, {model: gpus for model, gpus, _ in seen})


def remove_billed(store: Store, host: str) -> list[str]:
    """Remove everything that is declared for a host. Raises UsageError if nothing is."""
    rows = store.query(
        "SELECT host, gpu_model, billed_from FROM billed_host FINAL WHERE host = {host:String}",
        {"host": host},
    ).dicts()
    if not rows:
        raise UsageError(f"nothing is declared for host {host!r}: 'wattribute host list' shows what is")
    store.insert_rows("billed_host", [row | {"version": time.time_ns(), "deleted": 1} for row in rows])
    return []


def list_billed(store: Readable) -> list[dict[str, Any]]:
    """What is declared, ordered by host. ``billed_to`` is None if there is no end."""
    rows = store.query(
        "SELECT host, gpu_model, gpus, provider, region, pricing, billed_from, billed_to"
        " FROM billed_host FINAL ORDER BY host, gpu_model, billed_from"
    ).dicts()
    return [row | {"billed_to": None if row["billed_to"] == END else row["billed_to"]} for row in rows]


def reconcile_rows(store: Readable, by: str, since: Time, until: Time, policy: str) -> list[dict[str, Any]]:
    """What is billed in [since, until), beside the parts that it was used for, by one of RECONCILE_BY, the
    dearest first.

    Each row has that column, billed_gpu_hours, process_usd, reserved_usd, unheld_usd, residual_usd,
    unobserved_usd, parts_usd, billed_usd, difference_usd, difference_ratio (of billed_usd; None where that is
    0), difference_gpu_hours, unobserved_gpu_hours, unpriced_gpu_hours (of those billed) and is_declared. As
    in ``cost_rows``, money is None if any time in it has no price. Raises UsageError, StoreError.
    """
    if by not in RECONCILE_BY:
        raise UsageError(f"reconcile by {by!r} is not known; {meant(by, RECONCILE_BY)}")
    money = ", ".join(
        f"if(countIf({name}_usd IS NULL AND {name}_ns != 0) = 0, ifNull(sum({name}_usd), 0), NULL) AS {name}"
        for name in (*PARTS, "billed")
    )
    rows = store.query(
        f"SELECT {by} AS about, {money}, sum(billed_ns) / 3.6e12 AS hours,"  # noqa: S608 - names of ours
        " sum(difference_ns) / 3.6e12 AS difference_hours, sum(unobserved_ns) / 3.6e12 AS unobserved_hours,"
        " sumIf(billed_ns, price_per_gpu_hour_usd IS NULL) / 3.6e12 AS unpriced_hours,"
        " max(is_declared) AS declared"
        " FROM reconcile(policy = {policy:String}, since = {since:String}, until = {until:String})"
        " GROUP BY about ORDER BY billed DESC, hours DESC, about",
        span_params(policy, since, until),
    ).dicts()
    answers = []
    for row in rows:
        billed, told = row["billed"], [row[name] for name in PARTS]
        parts = None if None in told else sum(told)
        difference = None if parts is None or billed is None else billed - parts
        answers.append(
            {
                by: row["about"],
                "billed_gpu_hours": row["hours"],
                **{f"{name}_usd": row[name] for name in PARTS},
                "parts_usd": parts,
                "billed_usd": billed,
                "difference_usd": difference,
                "difference_ratio": difference / billed if difference is not None and billed else None,
                "difference_gpu_hours": row["difference_hours"],
                "unobserved_gpu_hours": row["unobserved_hours"],
                "unpriced_gpu_hours": row["unpriced_hours"],
                "is_declared": bool(row["declared"]),
            }
        )
    return answers


def replaced_gpus(store: Readable, since: Time, until: Time) -> list[tuple[str, str, int]]:
    """Host, GPU model and number of GPUs seen, where nothing is declared and some of them were never seen at
    the same time: all are billed from the first to the last window, though one may have replaced another."""
    rows = store.query(
        "SELECT host, gpu_model, count() FROM"
        " (SELECT host, gpu_model, min(first_at) AS begin, max(last_at) AS end FROM measured"
        " WHERE (host, gpu_model) NOT IN (SELECT host, gpu_model FROM billed_host FINAL)"
        " GROUP BY host, gpu_model, gpu)"
        " GROUP BY host, gpu_model HAVING max(begin) >= min(end)"
        " AND min(begin) < parseDateTime64BestEffort({until:String}, 3, 'UTC')"
        " AND max(end) > parseDateTime64BestEffort({since:String}, 3, 'UTC') ORDER BY host, gpu_model",
        span_times(since, until),
    ).rows
    return [(host, gpu_model, gpus) for host, gpu_model, gpus in rows]


def _completed(billed: BilledHost, seen: Mapping[str, tuple[int, tuple[str, str, str]]]) -> BilledHost:
    """The declaration, with what was seen on the host where it leaves something open. Raises UsageError."""
    named = sorted(filter(None, seen))
    if not billed.gpu_model and len(named) != 1:
        found = (
            f"has {' and '.join(named)}: say which" if named else "was not seen yet: say which GPUs it has"
        )
        raise UsageError(f"host {billed.host!r} {found}, with --gpu 'NVIDIA …'")
    model = billed.gpu_model or named[0]
    gpus, terms = seen.get(model, (0, ("", "", "")))
    if not (billed.gpus or gpus):
        raise UsageError(
            f"no {model} on host {billed.host!r} was seen yet: say how many are billed, with --gpus 8"
        )
    said = (billed.provider, billed.region, billed.pricing)
    provider, region, pricing = (
        theirs if mine is None else mine for mine, theirs in zip(said, terms, strict=True)
    )
    return replace(
        billed, gpu_model=model, gpus=billed.gpus or gpus, provider=provider, region=region, pricing=pricing
    )


def _remarks(store: Readable, billed: BilledHost, seen: Mapping[str, int]) -> list[str]:
    remarks = []
    if seen and billed.gpu_model not in seen:
        remarks.append(
            f"{billed.host} was seen with {', '.join(sorted(seen))}, never with {billed.gpu_model}"
        )
    if seen.get(billed.gpu_model, 0) > billed.gpus:
        remarks.append(
            f"{seen[billed.gpu_model]} {billed.gpu_model} were seen on {billed.host}, more than the"
            f" {billed.gpus} that are billed"
        )
    if not seen:
        hosts = [row[0] for row in store.query("SELECT DISTINCT host FROM attribution_day FINAL").rows]
        near = difflib.get_close_matches(billed.host, hosts, 1, 0.75)
        if near:
            remarks.append(f"no host named {billed.host!r} was seen yet; {near[0]!r} was")
    return remarks
