"""Which training runs a model version came from, and over which life of the version their cost is spread."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from wattribute.errors import UsageError, check_texts
from wattribute.sinks.store import Readable, Store
from wattribute.sinks.view_texts import part

_ROUNDING: Final = 1e-9  # so that three thirds make a whole
_LATEST: Final = datetime(2106, 2, 7, tzinfo=UTC)  # the last day that a DateTime of the store can hold


@dataclass(frozen=True, slots=True)
class Lineage:
    """``share_ratio`` of the cost of ``run`` belongs to a model version, and is spread evenly over its life
    [life_from, life_to). A share of 0 removes an earlier entry. Raises UsageError for invalid values."""

    model: str
    model_version: str
    run: str
    life_from: datetime
    life_to: datetime
    share_ratio: float = 1.0

    def __post_init__(self) -> None:
        check_texts(self)
        if not self.model or not self.run:
            raise UsageError("lineage needs a model and a run: give --model and --run")
        if not (math.isfinite(self.share_ratio) and 0 <= self.share_ratio <= 1):
            raise UsageError(f"the share is {self.share_ratio:g}: it must be from 0 to 1")
        if self.life_to > _LATEST or self.life_from < datetime(1970, 1, 1, tzinfo=UTC):
            raise UsageError(f"a life must lie between 1970 and {_LATEST:%Y-%m-%d}")
        if self.life_from >= self.life_to:
            raise UsageError(
                f"the life ends ({_shown(self.life_to)}) before it begins ({_shown(self.life_from)})"
            )


def add_lineage(store: Store, made: Lineage) -> list[str]:
    """Store which run a model version came from; this replaces an earlier entry for the two. Returns remarks
    for the user.

    Raises UsageError if the shares of a run would add up to more than 1.
    """
    others = [
        row
        for row in list_lineage(store)
        if row["run"] == made.run and (row["model"], row["model_version"]) != (made.model, made.model_version)
    ]
    taken = math.fsum(row["share_ratio"] for row in others)
    if made.share_ratio > 0 and taken + made.share_ratio > 1 + _ROUNDING:
        holders = ", ".join(f"{row['model']} {row['model_version']} {row['share_ratio']:g}" for row in others)
        raise UsageError(
            f"of run {made.run}, {taken:g} is assigned already ({holders}): at most"
            f" {max(0.0, 1 - taken):.4g} is left, not {made.share_ratio:g}"
        )
    store.insert_rows("lineage", [{**asdict(made), "version": time.time_ns()}])
    return _remarks(store, made)


def life_began(store: Readable, model: str, model_version: str, run: str) -> tuple[datetime, str] | None:
    """When a version's life begins if nobody declares it, and why: on the day on which it was first seen to
    serve, because what it served before today bears its part of the training too; else on the day on which
    its run was last seen. None if neither was seen. Raises StoreError."""
    ((served, serving, trained, training),) = store.query(
        "SELECT minIf(bucket_start, serves), countIf(serves), maxIf(bucket_start, trains),"  # noqa: S608 - a text of ours
        " countIf(trains)"
        " FROM (SELECT bucket_start, run = {run:String} AS trains,"
        " model = {model:String} AND model_version = {version:String}"
        f" AND NOT {part('trains')} AS serves"
        " FROM attribution_day FINAL WHERE run = {run:String} OR model = {model:String})",
        {"model": model, "version": model_version, "run": run},
    ).rows
    if serving:
        return served, "it was first seen to serve then"
    return (trained, f"run {run} was last seen then") if training else None


def list_lineage(store: Readable) -> list[dict[str, Any]]:
    """Every entry in force: model, model_version, run, share_ratio, life_from, life_to, and is_seen: whether
    anything of the run was measured."""
    return store.query(
        "SELECT model, model_version, run, share_ratio, life_from, life_to,"
        " run IN (SELECT run FROM attribution_day WHERE run IN (SELECT run FROM lineage)) AS is_seen"
        " FROM lineage FINAL WHERE share_ratio > 0 ORDER BY model, model_version, run"
    ).dicts()


def _remarks(store: Store, made: Lineage) -> list[str]:
    if not made.share_ratio:
        return []
    near = store.query(
        "SELECT run, ngramDistanceCaseInsensitiveUTF8(run, {run:String}) AS distance"
        " FROM (SELECT DISTINCT toString(run) AS run FROM attribution_day WHERE run != '')"
        " ORDER BY run = {run:String} DESC, distance LIMIT 1",
        {"run": made.run},
    ).rows
    if near and near[0][0] == made.run:
        return []
    known = f"; one named {near[0][0]} is known" if near and near[0][1] < 0.6 else ""
    return [f"no run {made.run} was seen yet: until it is, its cost is not known{known}"]


def _shown(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%MZ}"
