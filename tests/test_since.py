"""Times as people write them, in the time zone that they live in."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from wattribute.commands.since import parse_duration_s, parse_span, parse_time, parse_zone
from wattribute.errors import UsageError

NOW = datetime(
    2026, 3, 29, 22, 30, tzinfo=UTC
)  # in Berlin a Monday, half past midnight; summer began that day
BERLIN = parse_zone("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "utc", "berlin"),
    [
        ("today", "2026-03-29T00:00", "2026-03-29T22:00"),
        ("yesterday", "2026-03-28T00:00", "2026-03-28T23:00"),
        ("monday", "2026-03-23T00:00", "2026-03-29T22:00"),
        ("Sunday", "2026-03-29T00:00", "2026-03-28T23:00"),
        ("this week", "2026-03-23T00:00", "2026-03-29T22:00"),
        ("last  week", "2026-03-16T00:00", "2026-03-22T23:00"),
        ("this month", "2026-03-01T00:00", "2026-02-28T23:00"),
        ("last month", "2026-02-01T00:00", "2026-01-31T23:00"),
        ("this year", "2026-01-01T00:00", "2025-12-31T23:00"),
        ("last year", "2025-01-01T00:00", "2024-12-31T23:00"),
        ("2026-06", "2026-06-01T00:00", "2026-05-31T22:00"),
        ("2026-06-01", "2026-06-01T00:00", "2026-05-31T22:00"),
        ("2026-06-01T08:00", "2026-06-01T08:00", "2026-06-01T06:00"),
        ("2026-06-01T08:00Z", "2026-06-01T08:00", "2026-06-01T08:00"),
        ("2026-06-01T08:00+02:00", "2026-06-01T06:00", "2026-06-01T06:00"),
        ("90m", "2026-03-29T21:00", "2026-03-29T21:00"),
        ("24h", "2026-03-28T22:30", "2026-03-28T22:30"),
        ("2w", "2026-03-15T22:30", "2026-03-15T22:30"),
        ("now", "2026-03-29T22:30", "2026-03-29T22:30"),
    ],
)
def test_a_time_in_words_is_of_the_zone_that_is_asked_for(text: str, utc: str, berlin: str) -> None:
    assert parse_time(text, NOW) == datetime.fromisoformat(utc).replace(tzinfo=UTC)
    assert parse_time(text, NOW, BERLIN) == datetime.fromisoformat(berlin).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        *("2026-13", "2026-13-01", "0000-01", "0001-01-01T00:00+14:00x", "last friday", "tomorrow"),
        *("", "3", "1M", "1y", "-5m", "'; DROP TABLE price"),
    ],
)
def test_what_is_no_time_is_answered_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not a time: write 2026-06-01, .*'last month'"):
        parse_time(text, NOW, BERLIN)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Europe/berlin", "did you mean Europe/Berlin"),
        ("Berlin", "did you mean"),
        ("utc", r"did you mean UTC\?"),
        ("GMT+2", "write UTC or a name like Europe/Berlin"),  # Etc/GMT+2 is two hours behind
        ("../../etc/passwd", "is not known"),
        ("", "write UTC or a name like Europe/Berlin"),
        ("Mars\0", "is not known"),
        ("America", "is not known"),  # a folder of zones
    ],
)
def test_a_zone_that_there_is_not_is_refused(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        parse_zone(name)


def test_a_span_that_is_empty_says_which_it_is() -> None:
    with pytest.raises(UsageError, match=r"from 2026-06-02T00:00:00\+0200 until 2026-06-01T00:00:00\+0200"):
        parse_span("2026-06-02", "2026-06-01", BERLIN)
    assert parse_span(None, None) == (None, None)


def test_durations() -> None:
    assert [parse_duration_s(text) for text in ("30", "1.5s", "10m", "250ms")] == [30, 1.5, 600, 0.25]
    for text in ("-1", "inf", "1e9", "300y", "", "10M", "10min", "1h30m"):
        with pytest.raises(
            UsageError, match=r"is not a duration: .* ms, s, m \(minutes\), h, d or w, like 90s"
        ):
            parse_duration_s(text)
    for text in ("0", "99999d"):
        with pytest.raises(UsageError, match="a duration must be more than 0, and at most 36,600 days"):
            parse_duration_s(text)
