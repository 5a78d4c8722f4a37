"""What electricity costs, for GPUs whose price excludes it: by place, hour and day of the week."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from wattribute.errors import UsageError, check_texts
from wattribute.sinks.currencies import check_amount, check_currency
from wattribute.sinks.prices import BEGINNING, END, check_minute, number, parse_time, shown_time, truth, whole
from wattribute.sinks.store import Readable, Store

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WEEK_HOURS: Final = 168


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """A price per kWh, on each of ``days`` (0 is Monday) from ``from_hour`` until before ``to_hour``, which
    is on the next day if it is not later, in ``time_zone``. An empty provider or region applies to any.

    The energy of GPUs is multiplied by ``node_power_ratio`` (node ÷ GPUs) and ``pue_ratio`` (site ÷ nodes).
    With ``deleted`` it removes the tariff of the same place, hours and beginning. Raises UsageError for
    invalid values."""

    price_per_kwh: float
    provider: str = ""
    region: str = ""
    currency: str = "USD"
    node_power_ratio: float = 1.0
    pue_ratio: float = 1.0
    time_zone: str = "UTC"
    from_hour: int = 0
    to_hour: int = 24
    days: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    valid_from: datetime = BEGINNING
    valid_to: datetime = END
    source: str = ""
    deleted: bool = False

    def __post_init__(self) -> None:
        check_texts(self)
        check_amount("price of a kWh", self.price_per_kwh)
        for name, ratio in (("node power ratio", self.node_power_ratio), ("PUE", self.pue_ratio)):
            if not 1 <= ratio <= 100:
                raise UsageError(f"the {name} is {ratio:g}: it must be from 1 to 100, like 1.25")
        check_currency(self.currency)
        if not (0 <= self.from_hour <= 23 and 1 <= self.to_hour <= 24) or self.from_hour == self.to_hour:
            raise UsageError(
                f"a tariff must apply from an hour of 0 to 23 until another of 1 to 24, not {self.from_hour}"
                f" to {self.to_hour}"
            )
        if not self.days:
            raise UsageError("a tariff must apply on at least one day of the week")
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise UsageError(
                f"time zone {self.time_zone!r} is not known; write one like Europe/Berlin"
            ) from error
        check_minute("a tariff must apply from", self.valid_from)
        check_minute("a tariff must apply until", self.valid_to)
        if self.valid_from >= self.valid_to:
            raise UsageError(f"the tariff ends ({self.valid_to:%Y-%m-%dT%H:%M}) before it begins")

    @property
    def tariff_id(self) -> str:
        """Its place, time zone, hours, days and beginning. A second tariff with the same id replaces it."""
        begins = "" if self.valid_from == BEGINNING else f"{self.valid_from:%Y-%m-%dT%H:%M}"
        hours = f"{self.from_hour}-{self.to_hour}"
        return f"{self.provider}|{self.region}|{self.time_zone}|{hours}|{shown_days(self.days)}|{begins}"

    def week_hours(self) -> frozenset[int]:
        """The hours of the week in which it applies, counted from Monday 0:00."""
        end = self.to_hour if self.to_hour > self.from_hour else self.to_hour + 24
        hours = range(self.from_hour, end)
        return frozenset((24 * day + hour) % _WEEK_HOURS for day in self.days for hour in hours)


def add_tariffs(store: Store, tariffs: Sequence[Tariff]) -> list[str]:
    """Store tariffs, all or none, and return remarks for the user. Earlier versions stay on record. Raises
    UsageError if two would apply at once, or if there is none to remove."""
    book = {tariff.tariff_id: tariff for tariff in (_tariff(row) for row in list_tariffs(store))}
    for tariff in tariffs:
        if tariff.deleted:
            if book.pop(tariff.tariff_id, None) is None:
                raise UsageError(
                    "there is no tariff with this provider, region, time zone, hours, days and beginning:"
                    " 'wattribute price tariff list' shows all tariffs"
                )
            continue
        for other in book.values():
            _check_overlap(tariff, other)
        book[tariff.tariff_id] = tariff
    recorded_at, version = datetime.now(UTC), time.time_ns()
    store.insert_rows("tariff", [_row(tariff, recorded_at, version) for tariff in tariffs])
    tariffs = [tariff for tariff in tariffs if not tariff.deleted]
    remarks = [_uncovered(tariff, book.values()) for tariff in tariffs]
    remarks += [
        f"a kWh is priced in {tariff.currency}: only USD is summed, so costs that include it stay unpriced"
        for tariff in tariffs
        if tariff.currency != "USD"
    ]
    return [remark for remark in dict.fromkeys(remarks) if remark]


def list_tariffs(store: Readable) -> list[dict[str, Any]]:
    """Every tariff as it is known now; ``days`` are numbers, 0 for Monday."""
    rows = store.query(
        "SELECT provider, region, price_per_kwh, currency, node_power_ratio, pue_ratio, time_zone, from_hour,"
        " to_hour, days, valid_from, valid_to, source, tariff_id FROM tariff_book"
        " WHERE known_until > now64(3) ORDER BY provider, region, tariff_book.valid_from, from_hour"
    ).dicts()
    return [row | {"days": tuple(day - 1 for day in row["days"])} for row in rows]


def tariff_of(texts: Mapping[str, str]) -> Tariff:
    """A tariff from texts by field name. Raises UsageError."""
    values: dict[str, Any] = dict(texts)
    for name in ("price_per_kwh", "node_power_ratio", "pue_ratio"):
        if name in values:
            values[name] = number(name, values[name])
    for name in ("from_hour", "to_hour"):
        if name in values:
            values[name] = whole(name, number(name, values[name]))
    for name in ("valid_from", "valid_to"):
        if name in values:
            values[name] = parse_time(values[name])
    if "deleted" in values:
        values["deleted"] = truth("deleted", values["deleted"])
    if "days" in values:
        values["days"] = parse_days(values["days"])
    return Tariff(**values)


def parse_days(text: str) -> tuple[int, ...]:
    """The days in a text like 'mon-fri,sun', as numbers, 0 for Monday. Raises UsageError."""
    days: set[int] = set()
    for part in text.casefold().split(","):
        first, dash, last = part.strip().partition("-")
        try:
            begin = DAYS.index(first[:3])
            end = DAYS.index(last[:3]) if dash else begin
        except ValueError as error:
            raise UsageError(f"days must be mon to sun, like mon-fri or sat,sun, not {text!r}") from error
        days.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return tuple(sorted(days))


def shown_days(days: Iterable[int]) -> str:
    """Days as a text that ``parse_days`` reads."""
    return ",".join(DAYS[day] for day in days)


def _tariff(row: Mapping[str, Any]) -> Tariff:
    return Tariff(**{name: value for name, value in row.items() if name != "tariff_id"})


def _row(tariff: Tariff, recorded_at: datetime, version: int) -> dict[str, Any]:
    changes = _offsets(tariff)
    return {
        **{name: getattr(tariff, name) for name in Tariff.__slots__},
        "days": [day + 1 for day in tariff.days],
        "deleted": int(tariff.deleted),
        "tariff_id": tariff.tariff_id,
        "offset_from": [at for at, _ in changes],
        "offset_s": [offset for _, offset in changes],
        "recorded_at": recorded_at,
        "version": version,
    }


def _offsets(tariff: Tariff) -> list[tuple[int, int]]:
    """The offsets of the time zone while the tariff is valid: (Unix time from which it applies, s ahead of
    UTC)."""
    zone = ZoneInfo(tariff.time_zone)

    def ahead_s(at_s: int) -> int:
        offset = (BEGINNING + timedelta(seconds=at_s)).astimezone(zone).utcoffset()
        return int((offset or timedelta()).total_seconds())

    day_s, end = 86_400, int(tariff.valid_to.timestamp())
    at = int(tariff.valid_from.timestamp())
    changes = [(0, ahead_s(at))]
    while at < end:
        step = at + day_s
        if ahead_s(step) != changes[-1][1]:
            low, high = at, step
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if ahead_s(middle) == changes[-1][1] else (low, middle)
            changes.append((high, ahead_s(high)))
        at = step
    return changes


def _check_overlap(new: Tariff, old: Tariff) -> None:
    if (new.provider, new.region) != (old.provider, old.region) or new.tariff_id == old.tariff_id:
        return
    if not (new.valid_from < old.valid_to and old.valid_from < new.valid_to):
        return
    where = _place(new)
    if new.time_zone != old.time_zone:
        raise UsageError(
            f"{where} already has tariffs in time zone {old.time_zone}: a place must have one time zone,"
            f" not {new.time_zone} too"
        )
    if new.week_hours() & old.week_hours():
        hours = f"{old.from_hour} to {old.to_hour} on {shown_days(old.days)}"
        raise UsageError(
            f"the tariff for {where} overlaps the one from {hours}, valid from {shown_time(old.valid_from)}:"
            " let one end, with --until, before the other begins, or remove that one"
            " ('wattribute price tariff remove')"
        )


def _uncovered(tariff: Tariff, book: Iterable[Tariff]) -> str:
    beside = [
        other
        for other in book
        if (other.provider, other.region) == (tariff.provider, tariff.region)
        and other.valid_from < tariff.valid_to
        and tariff.valid_from < other.valid_to
    ]
    missing = _WEEK_HOURS - len(frozenset[int]().union(*(other.week_hours() for other in beside)))
    if not missing:
        return ""
    hours = f"{missing} of {_WEEK_HOURS} hours of the week"
    return f"{hours} have no tariff for {_place(tariff)}: what is used then stays unpriced"


def _place(tariff: Tariff) -> str:
    return " ".join(filter(None, (tariff.provider, tariff.region))) or "any place"
