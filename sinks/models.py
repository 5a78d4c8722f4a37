"""What it costs to serve model versions, and how good they are: the rows of ``wattribute models``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from wattribute.errors import UsageError
from wattribute.sinks.span import Time, span_params, span_times
from wattribute.sinks.store import Readable

COLUMNS: Final = (
    *("model", "model_version", "unmatched", "energy_j", "gpu_hours", "active_ratio", "cost_usd"),
    *("error_j", "error_usd", "coverage_ratio"),
    *("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "requests"),
    *("cost_usd_per_million_output_tokens", "busy_usd_per_million_output_tokens"),
    *("capacity_usd_per_million_output_tokens", "capacity_output_tokens_per_gpu_s"),
    *("fully_loaded_usd_per_million_output_tokens", "amortised_training_usd"),
    *("cost_usd_per_request", "j_per_output_token", "j_per_request"),
    *("token_price_method", "fit_minutes", "fit_r_squared", "input_cost_usd", "output_cost_usd"),
    *("input_price_usd_per_million", "output_price_usd_per_million", "input_j_per_million"),
    *("output_j_per_million", "cache_saving_usd"),
    *("training_energy_j", "training_gpu_hours", "training_cost_usd", "quality", "latency_s", "reasons"),
)
_EXPRESSIONS: Final = {
    "energy_j": "energy_uj / 1e6",
    "error_j": "error_uj / 1e6",
    "gpu_hours": "gpu_time_ns / 3.6e12",
    "training_energy_j": "training_energy_uj / 1e6",
    "training_gpu_hours": "training_gpu_time_ns / 3.6e12",
}
_SELECTED: Final = ", ".join(
    f"{_EXPRESSIONS[name]} AS {name}" if name in _EXPRESSIONS else name for name in COLUMNS
)
_FROM: Final = " FROM model_cost(policy = {policy:String}, since = {since:String}, until = {until:String})"
_HELD: Final = (
    " FROM cost(policy = {policy:String}, since = {since:String}, until = {until:String})"
    " WHERE account = 'process' GROUP BY model, model_version"
)
_COUNTED: Final = f"SELECT count() FROM (SELECT model, model_version{_HELD})"  # noqa: S608 - a text of ours
_DEAREST: Final = (
    f"SELECT model, model_version{_HELD}"
    " ORDER BY if(countIf(cost_usd IS NULL) = 0, sum(cost_usd), NULL) DESC NULLS FIRST, model, model_version"
    " LIMIT {limit:UInt32}"
)

Version = tuple[str, str]
"""A model and its version."""


def model_rows(
    store: Readable, since: Time, until: Time, policy: str, limit: int = 50_000
) -> list[dict[str, Any]]:
    """What each model version cost in [since, until), and what it served for that, ordered by name.

    Each row has the columns COLUMNS (docs/store.md, model_cost): energy in joules, time in hours. None means
    not known, and ``reasons`` says why. Of more than ``limit`` versions, those without a price are kept, then
    the dearest. Raises UsageError for an unknown policy, StoreError.
    """
    # With 720,000 versions the view takes 58 s, and 19 s if it only reads the models of those kept.
    where = f" WHERE model IN (SELECT model FROM ({_DEAREST}))"  # noqa: S608 - a text of ours
    is_cut = _versions_ever(store) > limit and count_versions(store, since, until) > limit
    rows = store.query(
        f"SELECT {_SELECTED}{_FROM}{where if is_cut else ''}"
        " ORDER BY cost_usd + training_cost_usd DESC NULLS FIRST, model, model_version LIMIT {limit:UInt32}",
        {**span_params(policy, since, until), "limit": limit},
    ).dicts()
    # Here, because for each sort key the engine's analysis goes through all that the view consists of.
    return sorted(rows, key=lambda row: (row["model"] == "", row["model"], row["model_version"]))


def count_versions(store: Readable, since: Time, until: Time) -> int:
    """How many model versions, those without a name included, held a GPU in [since, until)."""
    counted: int = store.query(_COUNTED, span_params("equal", since, until)).rows[0][0]
    return counted


def _versions_ever(store: Readable) -> int:
    """How many model versions ever held a GPU. Sums of days answer in 0.05 s; those of a span take 0.9 s."""
    sql = "SELECT uniqExact(model, model_version) FROM measured WHERE account = 'process'"
    ((count,),) = store.query(sql).rows
    return int(count)


def version_rows(
    store: Readable, versions: Sequence[Version], since: Time, until: Time, policy: str
) -> list[dict[str, Any]]:
    """The rows of ``versions``, in their order. Raises UsageError, which names the nearest known version, if
    one was not seen."""
    models, names = map(list, zip(*versions, strict=True))
    rows = store.query(
        f"SELECT {_SELECTED}{_FROM}"
        " WHERE has({models:Array(String)}, model) AND has({versions:Array(String)}, model_version)",
        {**span_params(policy, since, until), "models": models, "versions": names},
    ).dicts()
    found = {(row["model"], row["model_version"]): row for row in rows}
    for version in versions:
        if version not in found:
            raise UsageError(_not_seen(store, version))
    return [found[version] for version in versions]


def _not_seen(store: Readable, version: Version) -> str:
    near = store.query(
        "SELECT model, model_version FROM"
        " (SELECT DISTINCT toString(model) AS model, toString(model_version) AS model_version"
        " FROM attribution_day WHERE model != '')"
        " ORDER BY ngramDistanceCaseInsensitiveUTF8(concat(model, '@', model_version),"
        " concat({model:String}, '@', {version:String})), model, model_version LIMIT 1",
        {"model": version[0], "version": version[1]},
    ).rows
    hint = f"the nearest known is {near[0][0]}@{near[0][1]}" if near else "no model is known yet"
    named = "@".join(version) if version[1] else f"{version[0]} without a version"
    return f"{named} was not seen in this span; {hint}"


def quality_rows(
    store: Readable, versions: Sequence[Version], since: Time, until: Time
) -> dict[Version, dict[tuple[str, str], dict[str, Any]]]:
    """How good and how fast each of ``versions`` was: by (metric, dataset) a row with value, sample_count,
    higher_is_better, is_latency and measured_at (docs/store.md, model_quality)."""
    models = sorted({model for model, _ in versions})
    rows = store.query(
        "SELECT model, model_version, metric, dataset, value, sample_count, higher_is_better, is_latency,"
        " measured_at FROM model_quality(since = {since:String}, until = {until:String})"
        " WHERE has({models:Array(String)}, model) ORDER BY is_latency, metric, dataset",
        {**span_times(since, until), "models": models},
    ).dicts()
    found: dict[Version, dict[tuple[str, str], dict[str, Any]]] = {version: {} for version in versions}
    for row in rows:
        if (row["model"], row["model_version"]) in found:
            found[row["model"], row["model_version"]][row["metric"], row["dataset"]] = row
    return found


def renamed_rows(store: Readable, since: Time, until: Time) -> list[dict[str, Any]]:
    """The latest three processes that changed their model or version in [since, until), latest first: model,
    model_version, next_model, next_version, and ``at``, when the second name began."""
    return store.query(
        "SELECT model, model_version, next_model, next_version, at"
        " FROM renamed_model(since = {since:String}, until = {until:String})"
        " ORDER BY at DESC LIMIT 3",
        span_times(since, until),
    ).dicts()
