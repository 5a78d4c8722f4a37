"""The parameters that the views share, and the length of the windows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

from wattribute.sinks.schema import check_policy

if TYPE_CHECKING:
    from wattribute.sinks.store import Readable

_SINCE: Final = "1970-01-01"
UNTIL: Final = "2200-01-01"  # later than any record that is accepted
STEPS: Final = ("hour", "day", "week", "month")
BUCKET: Final = "(toUnixTimestamp(bucket_start), timeZoneOffset(toDateTime(bucket_start, {tz:String})))"
"""When a bucket begins, and by how many seconds the clock of ``tz`` is then ahead of UTC. The offset comes
from the engine, which also cuts the buckets, and not from Python: where the operating system had the time
zone rules of 2025, days of Vancouver from November 2026 on were shown as the day before."""
_SINCE_AT: Final = "parseDateTime64BestEffort({since:String}, 9, 'UTC')"
_UNTIL_AT: Final = "parseDateTime64BestEffort({until:String}, 3, 'UTC')"
COUNTED: Final = (
    f"(key_hour = 0 OR key_hour BETWEEN intDiv(toUnixTimestamp64Milli({_SINCE_AT}), 3600000)"
    f" AND intDiv(toUnixTimestamp64Milli({_UNTIL_AT}), 3600000) + 1)"
    f" AND t - toIntervalNanosecond(period_ns) < {_UNTIL_AT}"
    f" AND if(period_ns = 0, t >= {_SINCE_AT}, t > {_SINCE_AT})"
)
"""The condition for rows of the table ``unit`` that reach into a span; ``key_hour`` avoids reading others."""

Time = datetime | str | None


def span_params(policy: str, since: Time, until: Time) -> dict[str, str]:
    """The parameters ``policy``, ``since`` and ``until`` of a view. Raises UsageError for an unknown
    policy."""
    check_policy(policy)
    return {"policy": policy, **span_times(since, until)}


def span_times(since: Time, until: Time) -> dict[str, str]:
    """The parameters ``since`` and ``until`` of a view without a policy."""
    return {"since": time_text(since, _SINCE), "until": time_text(until, UNTIL)}


def time_text(at: Time, default: str) -> str:
    """A time as a text that the views read, in UTC; ``default`` for None. A text is returned as it is."""
    if at is None:
        return default
    if isinstance(at, str):
        return at
    return (at if at.tzinfo is None else at.astimezone(UTC)).strftime("%Y-%m-%d %H:%M:%S.%f")


def by_name(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """The values of a row by column name. The values of steps, which are selected by ``BUCKET``, become times
    of that clock."""
    return {name: _bucket_time(*of) if name in STEPS else of for name, of in zip(names, values, strict=True)}


def held_window_ms(store: Readable) -> int | None:
    """The length of the windows in the store, in ms; None without windows. It is not part of a row's key: if
    the same time were written in windows of another length, it would be stored twice."""
    rows = store.query("SELECT window_ms FROM attribution LIMIT 1").rows
    return rows[0][0] if rows else None


def _bucket_time(at_s: int, ahead_s: int) -> datetime:
    return datetime.fromtimestamp(at_s, timezone(timedelta(seconds=ahead_s)))
