"""Times and durations as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from wattribute.errors import UsageError

_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_LENGTH: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_MAX_S: Final = 100 * 366 * 86_400.0


def parse_time(text: str | None, now: datetime | None = None) -> datetime | None:
    """A time in UTC: ISO 8601 (UTC unless it says otherwise), ``now``, ``today``, ``yesterday``, or an age
    such as 30m, 12h, 7d. None stays None. Raises UsageError."""
    if text is None:
        return None
    now = now or datetime.now(UTC)
    word = text.strip().lower()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    words = {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}
    if word in words:
        return words[word]
    if _LENGTH.fullmatch(word):
        return now - timedelta(seconds=parse_duration_s(word))
    try:
        at = datetime.fromisoformat(text.strip())
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text!r} is not a time: write 2026-06-01, 2026-06-01T08:00Z, or an age as 12h"
        ) from error


def parse_span(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """Both ends of a span. Raises UsageError where it would be empty."""
    now = datetime.now(UTC)
    begin, end = parse_time(since, now), parse_time(until, now)
    if begin is not None and end is not None and begin >= end:
        raise UsageError(f"the span from {begin:%Y-%m-%dT%H:%M:%SZ} until {end:%Y-%m-%dT%H:%M:%SZ} is empty")
    return begin, end


def parse_duration_s(text: str) -> float:
    """Seconds: a number, or one with ms, s, m, h, d or w. Raises UsageError."""
    word = text.strip().lower()
    match = _LENGTH.fullmatch(word) or re.fullmatch(r"(\d+(?:\.\d+)?)()", word)
    seconds = float(match.group(1)) * _UNIT_S[match.group(2) or "s"] if match else 0.0
    if not 0 < seconds <= _MAX_S:
        raise UsageError(f"{text!r} is not a duration: write 30, 90s, 10m or 2h")
    return seconds
