"""What models draw per percent of SM time: the rows of ``wattribute watts``."""

from __future__ import annotations

from typing import Any, Final

from wattribute.sinks.span import Time, span_times
from wattribute.sinks.store import Readable

COLUMNS: Final = (
    *("gpu_model", "model", "model_version", "watts_per_percent", "spread_w", "busy_hours", "gpus"),
)


def watts_rows(store: Readable, since: Time, until: Time) -> list[dict[str, Any]]:
    """The COLUMNS of each GPU model and model version, over whole hours that begin in [since, until)
    (docs/store.md, model_watts). Raises UsageError, StoreError."""
    return store.query(
        f"SELECT {', '.join(COLUMNS)} FROM model_watts(since = {{since:String}}, until = {{until:String}})"  # noqa: S608 - names from COLUMNS
        " ORDER BY gpu_model, model, model_version LIMIT 100000",
        span_times(since, until),
    ).dicts()
