"""What a figure rests on: the rows of ``wattribute explain``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

from wattribute.errors import UsageError
from wattribute.sinks.costs import check_unit, priced_kind, selected
from wattribute.sinks.rollup import retention_days
from wattribute.sinks.schema import UNIT_IDENTITY
from wattribute.sinks.span import COUNTED, Time, held_window_ms, span_params
from wattribute.sinks.store import Readable

COLUMNS: Final = ("about", "value", "rows", "energy_j", "gpu_hours", "meaning")
_SOURCES: Final = ("account", "energy source", "weight source", "identity source", "flag")
_COST: Final = "cost(policy = {policy:String}, since = {since:String}, until = {until:String})"
_NO_TEXTS: Final = ("account", "attempt", "gpu_instance")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_UNITS: Final = 20
_MOST_SHARING: Final = 20


class Evidence:
    """What the figure of some rows rests on: those with the values ``wanted``, by column, in a span, under a
    policy."""

    def __init__(
        self, store: Readable, wanted: Mapping[str, str], since: Time, until: Time, policy: str
    ) -> None:
        """Raises UsageError for an unknown column or policy."""
        self._store, self._wanted, self._policy = store, wanted, policy
        self._params: dict[str, Any] = dict(span_params(policy, since, until))
        names = list(wanted)
        expressions, labels = selected(names)
        self._params |= labels
        self._params |= {f"wanted{place}": wanted[name] for place, name in enumerate(names)}
        self._chosen = _all(expressions)

    def figure(self) -> list[dict[str, Any]]:
        """The money, its error band, and how much of the time was seen. Raises UsageError without rows."""
        ((windows, gpus, first, last, covered, whole),) = self._query(
            "SELECT count(), uniqExact(host, gpu), min(window_start), max(ended),"  # noqa: S608 - as in _query
            # the time of 100,000 GPUs exceeds 64 bits after a day and two hours
            " sum(toInt128(seen)), sum(toInt128(length))"
            " FROM (SELECT host, gpu, window_start, any(covered_ns) AS seen,"
            " window_start + toIntervalMillisecond(any(window_ms)) AS ended,"
            f" any(window_ms) * 1000000 AS length {self._from()} GROUP BY host, boot_id, gpu, window_start)"
        )
        days = retention_days(self._store)
        if not windows:
            older = f"; windows older than {days} days (retention_days) are deleted" if days else ""
            look = "'wattribute cost --by model,run,team' shows what there is"
            raise UsageError(f"nothing was measured that matches: {look}{older}")
        ((processes, *sums),) = (row[6:] for row in self._grouped if row[5])
        count, joules, hours, error_j, error_hours = sums
        unpriced = any(row[3] for row in self._priced)
        usd = sum(row[4] for row in self._priced)
        span = f"{first:%Y-%m-%dT%H:%M:%SZ} to {last:%Y-%m-%dT%H:%M:%SZ}"
        counted = f"windows: {windows:,}, GPUs: {gpus:,}, processes: {processes:,}; {span}"
        band = f"plus or minus {_percent(error_j, joules)} of the energy, {_percent(error_hours, hours)} of"
        band += " the time: half-widths, added up as if all windows erred in the same direction"
        gone_hours = sum(row[11] for row in self._priced) - hours
        gone_joules = sum(row[12] for row in self._priced) - joules
        in_sums = "of deleted windows: included in the money, prices and units, but in no other figure here"
        gone = []
        if days and gone_hours > 1e-9:
            gone.append(told("retention_days", str(days), in_sums, None, gone_joules, gone_hours))
        return [
            told("figure", "unpriced" if unpriced else f"{usd:.6g} USD", counted, count, joules, hours),
            *gone,
            told("error band", "95 %", band, None, error_j, error_hours),
            told(
                "coverage", _percent(covered, whole), "of the time of these windows was seen by a collector"
            ),
        ]

    def sources(self, about: str) -> list[tuple[str, int, float, float]]:
        """How much rests on each account, energy source, weight source, identity source or flag (``about``):
        its name, rows, joules and GPU hours, most joules first."""
        place = _SOURCES.index(about)
        found: defaultdict[str, list[tuple[int, float, float]]] = defaultdict(list)
        for row in self._grouped:
            if row[5]:
                continue
            bits = [1 << bit for bit in range(32) if row[4] >> bit & 1]
            for value in bits if about == "flag" else [row[place]]:
                found[str(value)].append(row[7:10])
        rows = [(value, *_summed(parts)) for value, parts in found.items()]
        return sorted(rows, key=lambda row: (-row[2], row[0]))

    @cached_property
    def _grouped(self) -> Sequence[tuple[Any, ...]]:
        """Sums by all of _SOURCES at once, and one row (is_all) of everything: reading ten million rows five
        times took 8 s."""
        return self._query(
            "SELECT toString(account), toString(energy_source), toString(weight_source), identity_source,"
            " flags, grouping(flags) AS is_all,"
            " uniqExactIf((host, boot_id, pid, process_start_ns), account = 'process'), count(),"
            f" sum(toInt128(active_energy_uj + idle_energy_{self._policy}_uj)) / 1e6,"
            f" sum(toInt128(gpu_time_{self._policy}_ns)) / 3.6e12,"
            " sum(toInt128(error_uj)) / 1e6, sum(toInt128(error_ns)) / 3.6e12"
            f" {self._from()} GROUP BY GROUPING SETS"
            " ((account, energy_source, weight_source, identity_source, flags), ())"
        )

    @cached_property
    def _priced(self) -> Sequence[tuple[Any, ...]]:
        """Sums by price and tariff: of all queries here the most expensive, and three methods need it."""
        return self._query(
            "SELECT price_id, tariff_id, best.12, countIf(cost_usd IS NULL), sum(ifNull(cost_usd, 0)),"  # noqa: S608 - as in _query
            " price_per_gpu_hour_usd, currency, best_tariff.4, best_tariff.5,"
            " sum(ifNull(energy_cost_usd, 0)), groupUniqArray(gpu_model),"
            " sum(toInt128(gpu_time_ns)) / 3.6e12, sum(toInt128(energy_uj)) / 1e6"
            f" FROM {_COST} WHERE {self._chosen}"
            " GROUP BY price_id, tariff_id, best.12, price_per_gpu_hour_usd, currency, best_tariff.4,"
            " best_tariff.5"
        )

    def split(self) -> list[dict[str, Any]]:
        """How the energy above the idle level was split on devices that processes shared, and what simpler
        methods would have given. Shows all processes that shared them, not only those asked for."""
        in_span = (
            "window_start >= parseDateTime64BestEffort({since:String}, 3, 'UTC')"
            " AND window_start < parseDateTime64BestEffort({until:String}, 3, 'UTC')"
            " AND weight_source IN ('utilization', 'gpm')"
        )
        rows = self._query(
            "SELECT any(model), any(model_version), pid, sum(active_energy_uj) / 1e6 AS joules,"  # noqa: S608 - as in _query
            " sum(active_time_ns) / 1e9, sum(by_time) / 1e6, sum(by_heads) / 1e6, sum(error_uj) / 1e6,"
            " count()"
            " FROM (SELECT *, sum(active_energy_uj) OVER shared AS whole,"
            " whole / count() OVER shared AS by_heads,"
            # the ratio first: 3,299 J x 5.67 s, in uJ and ns, exceeds 64 bits
            " whole * (active_time_ns / sum(active_time_ns) OVER shared) AS by_time"
            f" FROM attribution FINAL WHERE {in_span} AND (host, gpu, window_start) IN"
            f" (SELECT host, gpu, window_start FROM attribution FINAL WHERE {in_span} AND {self._chosen})"
            " WINDOW shared AS (PARTITION BY host, boot_id, gpu, window_start))"
            " GROUP BY host, boot_id, gpu, pid, process_start_ns"
            f" ORDER BY joules DESC, pid LIMIT {_MOST_SHARING + 1}"
        )
        found = []
        for model, version, pid, joules, busy_s, by_time, by_heads, error_j, count in rows[:_MOST_SHARING]:
            name = f"{model} {version}".strip() or "no model"
            watts = f" at {joules / busy_s / 100:.3g} W per percent" if busy_s else ""
            meaning = f"{busy_s:.4g} s of SM time{watts}: {joules:.4g} ± {error_j:.4g} J above idle;"
            meaning += f" by SM time alone it would be {by_time:.4g} J, in equal parts {by_heads:.4g} J"
            found.append(told("split", f"{name}, pid {pid}", meaning, count, joules))
        if len(rows) > _MOST_SHARING:
            found.append(told("split", "others", f"got less: the {_MOST_SHARING} that got most are shown"))
        return found

    def prices(self) -> list[dict[str, Any]]:
        """The prices and tariffs that were applied, with when each price is valid and where it comes from."""
        alike: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for row in self._priced:
            alike[row[0]].append(row)
        book = {
            row[0]: row[1:]
            for row in self._store.query(
                "SELECT price_id, origin, source, source_date, disputed, valid_from, valid_to"
                " FROM price FINAL WHERE has({ids:Array(String)}, price_id)",
                {"ids": list(alike)},
            ).rows
        }
        rows = []
        for price_id, parts in alike.items():
            hours, joules = _summed(part[11:13] for part in parts)
            if price_id not in book:
                models = ", ".join(sorted({model for part in parts for model in part[10]}))
                advice = f"no price for {models or 'a GPU without a name'}: see 'wattribute cost'"
                rows.append(told("price", "none", advice, None, joules, hours))
                continue
            origin, source, dated, disputed, begin, end = book[price_id]
            usd, currency = parts[0][5:7]
            holds = "" if begin.year == 1970 else f", from {begin:%Y-%m-%d %H:%M}"
            holds += "" if end.year == 2106 else f", until {end:%Y-%m-%d %H:%M}"
            said = " ".join(filter(None, (source, f"({dated})" if dated else "")))
            where = f"{price_id}, {origin}{f': {said}' if said else ''}{holds}"
            value = f"{usd:g} USD/h" if usd is not None else f"in {currency}, not summed"
            rows.append(told("price", value, where + (", disputed" if disputed else ""), None, joules, hours))
        return sorted(rows, key=lambda row: -row["gpu_hours"]) + self._tariffs()

    def _tariffs(self) -> list[dict[str, Any]]:
        """The tariffs that were applied, for electricity that a price excludes."""
        alike: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for row in self._priced:
            if row[0] and not row[2]:
                alike[row[1]].append(row)
        rows = []
        for tariff_id, parts in alike.items():
            usd, hours, joules = _summed((part[9], *part[11:13]) for part in parts)
            per_kwh, currency = parts[0][7:9]
            if not tariff_id:
                value, meaning = (
                    "none",
                    "the price excludes electricity, and no tariff applies: 'wattribute price tariff add'",
                )
            elif currency != "USD":
                value, meaning = f"in {currency}, not summed", tariff_id
            else:
                value, meaning = f"{per_kwh:g} USD/kWh", f"{usd:.6g} USD of electricity at {tariff_id}"
            rows.append(told("tariff", value, meaning, None, joules, hours))
        return sorted(rows, key=lambda row: (-row["energy_j"], row["meaning"]))

    def units(self, unit: str | None) -> list[dict[str, Any]]:
        """Who counted units, whose count was used, and with ``unit`` what one of them cost.

        Empty if rows are chosen by a column that units do not have; with ``unit`` that raises UsageError, as
        several units do."""
        if unit is not None:
            check_unit(unit)
        unknown = [name for name in self._wanted if name not in UNIT_IDENTITY and name != "account"]
        if unknown or self._wanted.get("account", "process") != "process":
            if unit is not None:
                raise UsageError(
                    f"units cannot be chosen by {unknown[0] if unknown else 'this account'}: leave out --unit"
                )
            return []
        columns = ["" if name == "account" else name for name in self._wanted]
        chosen = _all(columns)
        params = self._params | {"unit": unit or ""}
        # a count that names no version may be of this one, as counted_unit decides
        place = columns.index("model_version") if "model_version" in columns else -1
        named = f"{{wanted{place}:String}}"
        maybe = chosen.replace(f"model_version = {named}", f"model_version IN ('', {named})")
        told_by = self._store.query(
            "SELECT unit, source, authority, sum(quantity) FROM unit FINAL"  # noqa: S608 - as in _query
            f" WHERE {COUNTED}"
            " AND unit != 'observed_ns' AND position(unit, ',') = 0"
            f" AND {{unit:String}} IN ('', unit) AND {maybe} GROUP BY unit, source, authority ORDER BY ALL",
            params,
        ).rows
        names = list(dict.fromkeys(row[0] for row in told_by))[:_MOST_UNITS]
        counted: dict[str, dict[bool, dict[str, float]]] = {name: {} for name in names}
        for name, source, trains, quantity in self._store.query(
            "SELECT unit, source, is_training, sum(quantity)"  # noqa: S608 - as in _query
            " FROM counted_unit(unit = {unit:String}, since = {since:String}, until = {until:String})"
            f" WHERE {chosen} GROUP BY unit, source, is_training",
            params | {"unit": ",".join(names)},
        ).rows:
            counted[name].setdefault(bool(trains), {})[source] = quantity
        rows = []
        for name in names:
            lines = [row[1:] for row in told_by if row[0] == name]
            for kind in sorted(counted[name]):
                rows += _used(name, lines, counted[name][kind], kind and len(counted[name]) > 1)
            rows += _ignored(name, lines, {source for used in counted[name].values() for source in used})
            if name == unit:
                rows += self._unit_cost(name, {k: sum(used.values()) for k, used in counted[name].items()})
        if unit is not None and not names:
            rows = self._unit_cost(unit, {})
        return rows

    def _unit_cost(self, unit: str, counted: Mapping[bool, float]) -> list[dict[str, Any]]:
        """What one unit cost: only processes count, those that serve or those that train."""
        if not any(counted.values()):
            return [told("unit cost", "none", f"no {unit} were counted here: there is nothing to divide by")]
        chosen = _all(["" if name == "account" else name for name in self._wanted])
        spent = {
            bool(trains): row
            for trains, *row in self._store.query(
                "SELECT is_training, sum(cost_usd * covered_time_ratio), countIf(cost_usd IS NULL),"  # noqa: S608 - as in _query
                " sum(energy_uj * covered_energy_ratio) / 1e6,"
                " sum(gpu_time_ns * covered_time_ratio) / 3.6e12 AS hours,"
                " hours * 3.6e12 / nullIf(sum(toInt128(gpu_time_ns)), 0), max(is_known)"
                " FROM covered_cost(policy = {policy:String}, since = {since:String}, until = {until:String},"
                f" unit = {{unit:String}}) WHERE {chosen} GROUP BY is_training",
                self._params | {"unit": unit},
            ).rows
        }
        kind = priced_kind(counted, spent)
        none: Sequence[Any] = (0.0, 0, 0.0, 0.0, None, 0)
        usd, unpriced, joules, hours, ratio, is_known = none if kind is None else spent[kind]
        quantity = 0.0 if kind is None else counted[kind]
        if not hours or not quantity:
            return [told("unit cost", "none", f"no GPU time while {unit} were counted here")]
        value = "unpriced" if unpriced else f"{usd / quantity * 1e6:.6g} USD per million"
        of = f" in the {_percent(ratio, 1)} of their GPU time when units were counted" if is_known else ""
        meaning = (
            f"cost of its processes{of}, idle included, / {quantity:,.10g} {unit};"
            f" {joules / quantity:.6g} J each"
        )
        return [told("unit cost", value, meaning, None, joules, hours)]

    def _from(self) -> str:
        return (
            "FROM attribution FINAL WHERE window_start >= parseDateTime64BestEffort({since:String}, 3, 'UTC')"
            f" AND window_start < parseDateTime64BestEffort({{until:String}}, 3, 'UTC') AND {self._chosen}"
        )

    def _query(self, sql: str) -> Sequence[tuple[Any, ...]]:
        """The rows of a query. Its text has only our names and a checked policy; values are parameters."""
        return self._store.query(sql, self._params).rows


def told(
    about: str,
    value: str,
    meaning: str,
    rows: int | None = None,
    energy_j: float | None = None,
    gpu_hours: float | None = None,
) -> dict[str, Any]:
    """A row with COLUMNS."""
    return dict(zip(COLUMNS, (about, value, rows, energy_j, gpu_hours, meaning), strict=True))


def gpu_named(store: Readable, beginning: str) -> str:
    """The name of the one GPU that begins with ``beginning``, as 'wattribute top' shows it; ``beginning``
    itself if there is none. Raises UsageError if there are several, or for an empty text."""
    if not beginning:
        raise UsageError("--gpu is empty: write the beginning of a GPU's name, as 'wattribute top' shows it")
    found = store.query(
        "SELECT DISTINCT gpu FROM attribution_day WHERE startsWith(gpu, {beginning:String}) ORDER BY gpu",
        {"beginning": beginning},
    ).rows
    gpus = [gpu for (gpu,) in found]
    if beginning in gpus or not gpus:
        return beginning
    if len(gpus) > 1:
        shown = f"{', '.join(gpus[:3])}{', …' if gpus[3:] else ''}"
        raise UsageError(f"--gpu {beginning!r} begins {len(gpus)} names: {shown}; write more of the name")
    return str(gpus[0])


def window_at(store: Readable, at: datetime) -> tuple[datetime, datetime]:
    """The start and end of the window that contains a time. Raises StoreError."""
    length = timedelta(milliseconds=held_window_ms(store) or 1)
    begin = at - (at - _EPOCH) % length
    return begin, begin + length


def _all(columns: Sequence[str]) -> str:
    """The condition that every column has the wanted value; an empty name adds none."""
    texts = [f"toString({name})" if name in _NO_TEXTS else name for name in columns]
    terms = [f"{text} = {{wanted{place}:String}}" for place, text in enumerate(texts) if text]
    return " AND ".join(["1", *terms])


def _used(
    unit: str, told_by: Sequence[tuple[Any, ...]], used: Mapping[str, float], is_apart: bool
) -> list[dict[str, Any]]:
    rows = []
    known = {source: (authority, whole) for source, authority, whole in told_by}
    for source, quantity in sorted(used.items()):
        authority, whole = known.get(source, ("-", quantity))
        who = f"counted by {source or 'an unnamed source'}, authority {authority}: of {whole:,.10g} reported"
        apart = "; of training, which is kept apart from serving" if is_apart else ""
        rows.append(told("units used", f"{quantity:,.10g} {unit}", who + apart))
    return rows


def _ignored(unit: str, told_by: Sequence[tuple[Any, ...]], used: Collection[str]) -> list[dict[str, Any]]:
    why = "another source that counted the same ranks higher, or it names no version where several held a GPU"
    if not used:
        why = "outside the span, or it names no version where several held a GPU"
    return [
        told(
            "units ignored",
            f"{quantity:,.10g} {unit}",
            f"counted by {source or 'an unnamed source'}, authority {authority}: {why}",
        )
        for source, authority, quantity in told_by
        if source not in used
    ]


def _summed(parts: Iterable[Sequence[Any]]) -> tuple[Any, ...]:
    return tuple(sum(column) for column in zip(*parts, strict=True))


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.3g} %" if whole else "0 %"
