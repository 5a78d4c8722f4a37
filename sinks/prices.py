"""The price book: what a GPU-hour costs, by place, category and time.

With the bundled prices there are costs in money from the start; each price names its source and its date. A
user's own price always wins over a bundled one.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from importlib.resources import files
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from wattribute.errors import UsageError, check_texts, meant
from wattribute.sinks.currencies import check_amount, check_currency
from wattribute.sinks.price_remarks import remarks_on
from wattribute.sinks.store import Readable, Store

BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
END: Final = datetime(2106, 2, 7, 6, 28, tzinfo=UTC)  # the last whole minute of ClickHouse's DateTime
YEAR_HOURS: Final = 365 * 24
OWNED: Final = "owned"
_LISTED_PRICE: Final = "price_per_gpu_hour"  # the heading in 'price list' of what a price file calls 'price'
_LISTED_ONLY: Final = ("origin", "price_id")
_BOOK_RECORDED: Final = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A price per GPU-hour. An empty provider, region or category applies to any. It is valid from
    ``valid_from`` until before ``valid_to``, whole minutes in UTC. With ``deleted`` it removes the price of
    the same GPU, place, category and beginning. Raises UsageError for invalid values."""

    gpu_model: str
    price: float
    provider: str = ""
    region: str = ""
    category: str = ""
    form: str = ""
    currency: str = "USD"
    instance_price: float | None = None
    gpus_per_instance: int = 0
    valid_from: datetime = BEGINNING
    valid_to: datetime = END
    includes_energy: bool = True
    source: str = ""
    source_date: str = ""
    disputed: bool = False
    deleted: bool = False

    def __post_init__(self) -> None:
        check_texts(self)
        if not self.gpu_model:
            raise UsageError("a price needs the GPU's name as NVML gives it, for instance 'NVIDIA H200'")
        for name, amount in (("instance price", self.instance_price or 0.0), ("price", self.price)):
            check_amount(f"{name} of {self.gpu_model}", amount)
        check_currency(self.currency)
        whole("gpus_per_instance", self.gpus_per_instance)
        check_minute("a price must be valid from", self.valid_from)
        check_minute("a price must be valid to", self.valid_to)
        if self.valid_from >= self.valid_to:
            raise UsageError(f"the price ends ({self.valid_to:%Y-%m-%dT%H:%M}) before it begins")
        self._check_instance()

    def _check_instance(self) -> None:
        if self.instance_price is None:
            return
        if self.gpus_per_instance < 1:
            raise UsageError(
                f"an instance of {self.gpu_model} needs its number of GPUs: give gpus_per_instance"
            )
        if abs(self.price * self.gpus_per_instance - self.instance_price) > 0.01 * self.instance_price:
            shown = self.instance_price / self.gpus_per_instance
            raise UsageError(
                f"{self.price:g} per GPU-hour does not match {self.instance_price:g} for an instance of"
                f" {self.gpus_per_instance} {self.gpu_model}: that is {shown:g} per GPU-hour"
            )

    @property
    def price_id(self) -> str:
        """Its place, category, GPU and beginning. A second price with the same id replaces it."""
        begins = "" if self.valid_from == BEGINNING else f"{self.valid_from:%Y-%m-%dT%H:%M}"
        return f"{self.provider}|{self.region}|{self.category}|{self.gpu_model}|{begins}"


def add_prices(store: Store, prices: Sequence[Price]) -> list[str]:
    """Store a user's prices, all or none, and return remarks for the user.

    A price of the same GPU, provider, region, category and beginning replaces the earlier one, or removes it.
    Raises UsageError if two would be valid at once, or if there is none to remove.
    """
    stored = store.query(
        "SELECT price_id, provider, region, category, gpu_model, valid_from, valid_to,"
        " currency, effective_price"
        " FROM price FINAL WHERE origin = 'user'"
    ).dicts()
    book = {row["price_id"]: row for row in stored}
    rows = [_row(price, "user", datetime.now(UTC), time.time_ns()) for price in prices]
    # What is removed or replaced cannot overlap with anything, whatever the order of ``prices``.
    for row in rows:
        if row["deleted"] and book.pop(row["price_id"], None) is None:
            raise UsageError(
                f"you have added no price of {row['gpu_model']} with this provider, region, category and"
                " beginning: 'wattribute price list' shows yours first"
            )
    added = {row["price_id"]: row for row in rows if not row["deleted"]}
    book |= added
    alike = _alike(book.values())
    for of_one in alike.values():
        for earlier, later in pairwise(of_one):
            _check_overlap(earlier, later, later["price_id"] in added)
    store.insert_rows("price", rows)
    told = [price for price in prices if not price.deleted]
    return remarks_on(store, told, bundled(), alike)


def list_prices(store: Readable) -> list[dict[str, Any]]:
    """Every price in the book, the user's first."""
    return store.query(
        "SELECT gpu_model, provider, region, category,"
        " coalesce(effective_price, contracted_price, list_price) AS price_per_gpu_hour, currency,"
        " if(price.valid_from = toDateTime(0, 'UTC'), NULL, price.valid_from) AS valid_from,"
        " if(price.valid_to = toDateTime(4294967280, 'UTC'), NULL, price.valid_to) AS valid_to,"
        " toString(price.origin) AS origin, form, gpus_per_instance, instance_price, includes_energy,"
        " source, source_date, disputed, price_id"
        " FROM price FINAL"
        " ORDER BY price.origin DESC, gpu_model, provider, region, category, price.valid_from"
    ).dicts()


def read_prices(path: Path) -> list[Price]:
    """The prices in a CSV file with a header: gpu_model and price, and any other field of Price. The file may
    also be one that 'price list' has written: bundled prices that are unchanged in it are left out.

    Raises UsageError, which names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Excel begins a file with a byte order mark
    except OSError as error:
        raise UsageError(f"cannot read the prices in {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: save it as 'CSV UTF-8'") from error
    return _parse(text, str(path), bundled())


def parse_time(text: str) -> datetime:
    """The time in an ISO date or time; in UTC unless it has an offset. Raises UsageError."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a time like 2026-06-01 or 2026-06-01T08:00Z") from error
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def load_bundled(store: Store) -> None:
    """Make the bundled prices in the store those of this program; leave a user's prices alone."""
    stored = store.query(
        "SELECT price_id, form, currency, list_price, valid_from, valid_to, source, source_date, disputed"
        " FROM price FINAL WHERE origin = 'bundled'"
    ).dicts()
    old = {row["price_id"]: row for row in stored}
    new = {row["price_id"]: row for row in (_row(price, "bundled", _BOOK_RECORDED, 0) for price in bundled())}
    now = datetime.now(UTC)
    added = [row for key, row in new.items() if key not in old]
    if added:  # prices that another version has removed are known again from now on, not for the time between
        gone = {key for (key,) in store.query("SELECT price_id FROM price_history WHERE deleted").rows}
        added = [row | ({"recorded_at": now} if row["price_id"] in gone else {}) for row in added]
    changed = [
        row | {"recorded_at": now}
        for key, row in new.items()
        if key in old and any(row[c] != old[key][c] for c in old[key])
    ]
    taken = [
        {"price_id": key, "origin": "bundled", "recorded_at": now, "version": 0, "deleted": 1}
        for key in old.keys() - new.keys()
    ]
    store.insert_rows("price", [*added, *changed, *taken])


def bundled() -> list[Price]:
    """The prices that come with the program."""
    return _parse((files("wattribute.sinks") / "prices.csv").read_text(encoding="utf-8"), "prices.csv")


def _parse(text: str, name: str, in_book: Sequence[Price] = ()) -> list[Price]:
    separator = ";" if ";" in text.partition("\n")[0] else ","  # Excel writes ; where numbers have a comma
    reader = csv.DictReader(io.StringIO(text), delimiter=separator)
    known = [*(item.name for item in fields(Price)), "capital_per_gpu", "life_years"]
    columns = ["price" if column == _LISTED_PRICE else column for column in reader.fieldnames or ()]
    reader.fieldnames = columns
    for place, column in enumerate(columns):
        if column in columns[:place]:
            raise UsageError(f"{name}: the column {column!r} appears twice")
        if column not in known and column not in _LISTED_ONLY:
            raise UsageError(f"{name}: unknown column {column!r}; {meant(column, known)}")
    prices: dict[str, tuple[int, Price]] = {}
    for row in _rows(reader, name):
        try:
            if None in row:
                raise UsageError(f"it has more fields than the header, which names {len(row) - 1}")
            texts = {key: value for key, value in row.items() if value and key not in _LISTED_ONLY}
            price = price_of(texts)
            if row.get("origin") == "bundled" and price in in_book:
                continue
            line, _ = prices.setdefault(price.price_id, (reader.line_num, price))
            if line != reader.line_num:
                raise UsageError(
                    f"it has the GPU, place, category and beginning of line {line}: keep one of the two"
                )
        except UsageError as error:
            raise UsageError(f"{name} line {reader.line_num}: {error}") from error
    return [price for _, price in prices.values()]


def _rows(reader: csv.DictReader[str], name: str) -> Iterator[dict[str, str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise UsageError(f"{name} line {reader.line_num + 1}: {error}") from error


def pays_for_energy(category: str, of_capital: bool) -> bool:
    """Whether a price includes electricity if nothing says so: not that of an owned GPU."""
    return category != OWNED and not of_capital


def price_of(texts: Mapping[str, str]) -> Price:
    """A price from texts by field name. Raises UsageError."""
    values: dict[str, Any] = dict(texts)
    if "gpu_model" not in values:
        raise UsageError("gpu_model is missing: write the GPU's name as NVML gives it")
    for name in ("price", "instance_price", "capital_per_gpu", "life_years", "gpus_per_instance"):
        if name in values:
            values[name] = number(name, values[name])
    if "gpus_per_instance" in values:
        values["gpus_per_instance"] = whole("gpus_per_instance", values["gpus_per_instance"])
    of_capital = "capital_per_gpu" in values
    values["price"] = price_per_gpu_hour(
        values.get("price"),
        values.get("instance_price"),
        values.get("gpus_per_instance", 0),
        values.pop("capital_per_gpu", None),
        values.pop("life_years", None),
    )
    values.setdefault("includes_energy", str(pays_for_energy(values.get("category", ""), of_capital)))
    values["includes_energy"] = truth("includes_energy", values["includes_energy"])
    for name in ("disputed", "deleted"):
        if name in values:
            values[name] = truth(name, values[name])
    for name in ("valid_from", "valid_to"):
        if name in values:
            values[name] = parse_time(values[name])
    return Price(**values)


def price_per_gpu_hour(
    price: float | None,
    instance_price: float | None,
    gpus_per_instance: int,
    capital_per_gpu: float | None,
    life_years: float | None,
) -> float:
    """What a GPU-hour costs. The price may be given as that, per instance, or as what a GPU was bought for
    and how many years of 8760 hours it serves: capital is spread over every hour, not only those in use.
    Raises UsageError."""
    if (capital_per_gpu is None) != (life_years is None):
        raise UsageError("capital per GPU and its life in years must be given together")
    if capital_per_gpu is not None and life_years is not None:
        if price is not None or instance_price is not None:
            raise UsageError("give a price by the hour or the capital, not both")
        if not (math.isfinite(capital_per_gpu) and capital_per_gpu >= 0):
            raise UsageError(f"a capital of {capital_per_gpu:g} per GPU: it must be 0 or more")
        if not (math.isfinite(life_years) and life_years > 0):
            raise UsageError(f"a life of {life_years} years: it must be more than 0")
        return capital_per_gpu / (life_years * YEAR_HOURS)
    if price is not None:
        return price
    if instance_price is None:
        raise UsageError("no price is given: give it per GPU-hour, per instance, or as capital and life")
    if gpus_per_instance < 1:
        raise UsageError(
            "the price of an instance needs its number of GPUs: --gpus-per-instance, or gpus_per_instance in"
            " a file"
        )
    return instance_price / gpus_per_instance


def number(name: str, text: str) -> float:
    """The number in a text. Raises UsageError if it is not one; ``name`` is what the error calls it."""
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{name} is {text!r}, not a number") from error


def whole(name: str, value: float) -> int:
    """The number as an int. Raises UsageError unless it is whole and from 0 to 65,535."""
    if not (0 <= value <= 65_535 and value == math.floor(value)):
        raise UsageError(f"{name} is {value:.15g}, not a whole number from 0 to 65,535")
    return int(value)


def check_minute(what: str, at: datetime) -> None:
    """Raise UsageError unless a time is a whole minute from BEGINNING to END. ``what`` begins the error."""
    if at.second or at.microsecond:
        raise UsageError(f"{what} a whole minute, not {at:%Y-%m-%dT%H:%M:%S.%f}")
    if not BEGINNING <= at <= END:
        raise UsageError(f"{what} a time between 1970 and 2106, not {at:%Y-%m-%d}")


def truth(name: str, text: str) -> bool:
    """Whether a text means yes. Raises UsageError if it is neither yes nor no."""
    if text.casefold() not in ("1", "true", "yes", "0", "false", "no"):
        raise UsageError(f"{name} is {text!r}: write yes or no")
    return text.casefold() in ("1", "true", "yes")


def _row(price: Price, origin: str, recorded_at: datetime, version: int) -> dict[str, Any]:
    row = {item.name: getattr(price, item.name) for item in fields(Price)}
    amount = row.pop("price")
    return row | {
        "price_id": f"{origin}|{price.price_id}",
        "origin": origin,
        "list_price": amount if origin == "bundled" else None,
        "effective_price": amount if origin == "user" else None,
        "recorded_at": recorded_at,
        "version": version,
        "deleted": int(price.deleted),
    }


def _alike(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, ...], list[Mapping[str, Any]]]:
    """The rows of prices by (GPU, provider, region, category), ordered by beginning."""
    found: defaultdict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=itemgetter("valid_from")):
        found[row["gpu_model"], row["provider"], row["region"], row["category"]].append(row)
    return found


def _check_overlap(earlier: Mapping[str, Any], later: Mapping[str, Any], is_later_new: bool) -> None:
    begin, end = later["valid_from"], earlier["valid_to"]
    if begin >= end:
        return
    if is_later_new:
        new, old = later, earlier
        advice = f"end that one first: add it again with --until {shown_time(begin)}"
    else:
        new, old = earlier, later
        advice = f"end this one with --until {shown_time(begin)}"
    raise UsageError(
        f"the price of {new['gpu_model']} from {shown_time(new['valid_from'])} overlaps the one from"
        f" {shown_time(old['valid_from'])} to {shown_time(old['valid_to'])}; {advice}, or remove that"
        " one ('wattribute price remove'; in a file, its line with deleted true)"
    )


def shown_time(at: datetime) -> str:
    if at in (BEGINNING, END):
        return "the beginning of time" if at == BEGINNING else "the end of time"
    return f"{at:%Y-%m-%dT%H:%MZ}"
