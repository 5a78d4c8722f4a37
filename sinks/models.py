"""What model versions cost for what they serve, and how good they are: the rows of ``wattribute models``."""

from __future__ import annotations

from typing import Any, Final

from wattribute.sinks.costs import Time, span_params
from wattribute.sinks.store import Readable

COLUMNS: Final = (
    *("model", "model_version", "unmatched", "energy_j", "gpu_hours", "active_ratio", "cost_usd", "error_usd"),
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
    "gpu_hours": "gpu_time_ns / 3.6e12",
    "training_energy_j": "training_energy_uj / 1e6",
    "training_gpu_hours": "training_gpu_time_ns / 3.6e12",
}


def model_rows(store: Readable, since: Time, until: Time, policy: str, limit: int = 0) -> list[dict[str, Any]]:
    """What each model version cost in [since, until), and for what it served, by name.

    Each row has the columns COLUMNS (docs/store.md, model_cost): energy in joules, time in hours; None is what
    is not known, and ``reasons`` says why. ``limit`` keeps the dearest so many; 0 keeps all. Raises UsageError
    for a policy that there is not, StoreError.
    """
    selected = ", ".join(f"{_EXPRESSIONS[name]} AS {name}" if name in _EXPRESSIONS else name for name in COLUMNS)
    kept = "" if not limit else " ORDER BY cost_usd + training_cost_usd DESC NULLS FIRST LIMIT {limit:UInt32}"
    return store.query(
        f"SELECT * FROM (SELECT {selected}"  # noqa: S608 - names from COLUMNS; values are parameters
        " FROM model_cost(policy = {policy:String}, since = {since:String}, until = {until:String})"
        f"{kept}) ORDER BY model = '', model, model_version",
        {**span_params(policy, since, until), "limit": limit},
    ).dicts()
