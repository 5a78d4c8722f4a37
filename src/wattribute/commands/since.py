"""Parse times, durations and time zones as people write them, for every command."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final, overload
from zoneinfo import ZoneInfo, available_timezones

from wattribute.errors import UsageError, meant

EXAMPLES: Final = (
    "2026-06-01, 2026-06, 2026-06-01T08:00Z, today, monday, 'last month', or an age: 30m (minutes), 12h, 7d"
)
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_LENGTH: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_MONTH: Final = re.compile(r"(\d{4})-(\d{2})")
_MAX_S: Final = 100 * 366 * 86_400.0
_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def parse_zone(name: str) -> tzinfo:
    """A time zone by its IANA name; UTC needs no time zone database. Raises UsageError."""
    if name == "UTC":
        return UTC
    try:
        if name in available_timezones():
            return ZoneInfo(name)
    except (OSError, ValueError):
        pass  # a name that is no zone may not even be a valid file name
    # Suggest places only: PST is near to MST, and GMT+2 to Etc/GMT+2, which is two hours behind UTC.
    places = [place for place in available_timezones() if "/" in place and not place.startswith("Etc/")]
    hint = meant(name, ["UTC", *sorted(places)], "write UTC or a name like Europe/Berlin")
    raise UsageError(f"time zone {name!r} is not known; {hint}")


@overload
def parse_time(text: str, now: datetime | None = None, zone: tzinfo = UTC) -> datetime: ...
@overload
def parse_time(text: str | None, now: datetime | None = None, zone: tzinfo = UTC) -> datetime | None: ...
def parse_time(text: str | None, now: datetime | None = None, zone: tzinfo = UTC) -> datetime | None:
    """A time, in UTC. None stays None. Raises UsageError.

    ISO 8601, in ``zone`` unless it says otherwise; an age such as 30m, 12h, 7d; or the beginning of a day,
    week, month or year: today, yesterday, monday (the latest one), 'last week', 'this month', 2026-06.
    """
    if text is None:
        return None
    now = now or datetime.now(UTC)
    word = " ".join(text.lower().split())
    if word == "now":
        return now.astimezone(UTC)
    if _length(text):
        return (now - timedelta(seconds=parse_duration_s(text))).astimezone(UTC)
    try:
        day = _day(word, now.astimezone(zone).date())
        at = datetime.fromisoformat(text.strip()) if day is None else datetime.combine(day, time())
        return (at.replace(tzinfo=zone) if at.tzinfo is None else at).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{text!r} is not a time: write {EXAMPLES}") from error


def _day(word: str, today: date) -> date | None:
    """The day that a word names; None where it is none of them. Raises ValueError, OverflowError."""
    monday, first = today - timedelta(days=today.weekday()), today.replace(day=1)
    days = {
        "today": today,
        "yesterday": today - timedelta(days=1),
        "this week": monday,
        "last week": monday - timedelta(days=7),
        "this month": first,
        "last month": (first - timedelta(days=1)).replace(day=1),
        "this year": today.replace(month=1, day=1),
        "last year": today.replace(year=today.year - 1, month=1, day=1),
    }
    days |= {name: today - timedelta(days=(today.weekday() - at) % 7) for at, name in enumerate(_WEEKDAYS)}
    month = _MONTH.fullmatch(word)
    return date(int(month[1]), int(month[2]), 1) if month else days.get(word)


def parse_span(
    since: str | None, until: str | None, zone: tzinfo = UTC
) -> tuple[datetime | None, datetime | None]:
    """Both ends of a span, in UTC. Raises UsageError where it would be empty."""
    now = datetime.now(UTC)
    begin, end = parse_time(since, now, zone), parse_time(until, now, zone)
    if begin is not None and end is not None and begin >= end:
        shown = [f"{at.astimezone(zone):%Y-%m-%dT%H:%M:%S%z}".replace("+0000", "Z") for at in (begin, end)]
        raise UsageError(
            f"the span from {shown[0]} until {shown[1]} is empty: --since must be before --until"
        )
    return begin, end


def _length(text: str) -> re.Match[str] | None:
    """A number with a unit. Not 1M, which is a month elsewhere: people would get the cost of a minute."""
    word = text.strip()
    return None if word.endswith("M") else _LENGTH.fullmatch(word.lower())


def parse_duration_s(text: str) -> float:
    """Seconds: a number, or one with ms, s, m, h, d or w. Raises UsageError."""
    match = _length(text) or re.fullmatch(r"(\d+(?:\.\d+)?)()", text.strip())
    if not match:
        raise UsageError(
            f"{text!r} is not a duration: write seconds, or a number with ms, s, m (minutes), h, d or w,"
            " like 90s or 10m"
        )
    seconds = float(match.group(1)) * _UNIT_S[match.group(2) or "s"]
    if not 0 < seconds <= _MAX_S:
        raise UsageError(f"{text!r}: a duration must be more than 0, and at most {_MAX_S / 86_400:,.0f} days")
    return seconds
