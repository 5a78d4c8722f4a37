"""What a figure rests on: the rows of ``wattribute explain``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from wattribute.errors import UsageError
from wattribute.sinks.costs import selected
from wattribute.sinks.schema import UNIT_IDENTITY
from wattribute.sinks.span import Time, span_params
from wattribute.sinks.store import Readable

COLUMNS: Final = ("about", "value", "rows", "energy_j", "gpu_hours", "meaning")
_SOURCES: Final = {  # what is told of: its column
    "account": "toString(account)",
    "energy source": "toString(energy_source)",
    "weight source": "toString(weight_source)",
    "identity source": "identity_source",
    "flag": "toString(arrayJoin(bitmaskToArray(flags)))",
}
_COST: Final = "cost(policy = {policy:String}, since = {since:String}, until = {until:String})"
_NO_TEXTS: Final = ("account", "attempt", "gpu_instance")
_MOST_UNITS: Final = 20


class Evidence:
    """What stands behind the rows of a store that ``wanted`` chooses, by column, in a span, under a
    policy."""

    def __init__(
        self, store: Readable, wanted: Mapping[str, str], since: Time, until: Time, policy: str
    ) -> None:
        """Raises UsageError for a column or a policy that there is not."""
        self._store, self._wanted, self._policy = store, wanted, policy
        self._params: dict[str, Any] = dict(span_params(policy, since, until))
        names = list(wanted)
        expressions, labels = selected(names)
        self._params |= labels
        self._params |= {f"wanted{place}": wanted[name] for place, name in enumerate(names)}
        self._chosen = _all(expressions)

    def figure(self) -> list[dict[str, Any]]:
        """The money, how far off it may be, and how much of the time was seen. Raises UsageError for none."""
        more = "uniqExact(host, boot_id, gpu, window_start), uniqExact(host, gpu),"
        more += " min(window_start), max(window_start + toIntervalMillisecond(window_ms)),"
        more += " uniqExactIf((host, boot_id, pid, process_start_ns), pid != 0),"
        more += " sum(error_uj) / 1e6, sum(error_ns) / 3.6e12"
        ((windows, gpus, first, last, processes, error_j, error_hours, *sums),) = self._attribution(more)
        if not sums[0]:
            raise UsageError(
                "nothing was measured that fits: look for it with 'wattribute cost --by model,run,team'"
            )
        usd, unpriced = self._query(
            f"SELECT sum(cost_usd), countIf(cost_usd IS NULL) FROM {_COST} WHERE {self._chosen}"  # noqa: S608 - as in _query
        )[0]
        span = f"{first:%Y-%m-%dT%H:%M:%SZ} to {last:%Y-%m-%dT%H:%M:%SZ}"
        counted = f"{windows:,} windows of {gpus:,} GPUs and {processes:,} processes, {span}"
        band = (
            f"plus or minus {_percent(error_j, sums[1])} of the energy, {_percent(error_hours, sums[2])} of"
        )
        band += " the time: half-widths, added up as if all windows were off the same way"
        ((covered, whole),) = self._query(
            "SELECT sum(seen), sum(length) FROM (SELECT any(covered_ns) AS seen,"  # noqa: S608 - as in _query
            f" any(window_ms) * 1000000 AS length {self._from()} GROUP BY host, boot_id, gpu, window_start)"
        )
        return [
            told("figure", "unpriced" if unpriced else f"{usd:.6g} USD", counted, *sums),
            told("error band", "95 %", band, None, error_j, error_hours),
            told(
                "coverage", _percent(covered, whole), "of the time of these windows was seen by a collector"
            ),
        ]

    def sources(self, about: str) -> list[tuple[str, int, float, float]]:
        """How much rests on each account, energy source, weight source, identity source or flag: its name,
        rows, joules and GPU hours."""
        rows = self._attribution(f"{_SOURCES[about]} AS value", "GROUP BY value ORDER BY energy DESC, value")
        return [(str(value), count, joules, hours) for value, count, joules, hours in rows]

    def prices(self) -> list[dict[str, Any]]:
        """The prices that were applied, with how long each holds and where it comes from."""
        found = self._query(
            "SELECT used.price_id, amount, priced_in, origin, source, source_date, disputed, hours, joules,"  # noqa: S608 - as in _query
            " models, book.valid_from, book.valid_to"
            " FROM (SELECT price_id, any(price_per_gpu_hour_usd) AS amount, any(currency) AS priced_in,"
            " sum(gpu_time_ns) / 3.6e12 AS hours, sum(energy_uj) / 1e6 AS joules,"
            f" arrayStringConcat(groupUniqArray(gpu_model), ', ') AS models FROM {_COST}"
            f" WHERE {self._chosen} GROUP BY price_id) AS used"
            " LEFT JOIN (SELECT * FROM price FINAL) AS book ON used.price_id = book.price_id"
            " ORDER BY hours DESC"
        )
        rows = []
        for (
            price_id,
            usd,
            currency,
            origin,
            source,
            dated,
            disputed,
            hours,
            joules,
            models,
            begin,
            end,
        ) in found:
            if not price_id:
                advice = f"no price of {models or 'a GPU without a name'}: see 'wattribute cost'"
                rows.append(told("price", "none", advice, None, joules, hours))
                continue
            holds = "" if begin.year == 1970 else f", from {begin:%Y-%m-%d %H:%M}"
            holds += "" if end.year == 2106 else f", until {end:%Y-%m-%d %H:%M}"
            where = f"{price_id}, {origin}: {source}{f' ({dated})' if dated else ''}{holds}"
            value = f"{usd:g} USD/h" if usd is not None else f"in {currency}, not summed"
            rows.append(told("price", value, where + (", disputed" if disputed else ""), None, joules, hours))
        return rows + self._tariffs()

    def _tariffs(self) -> list[dict[str, Any]]:
        """The tariffs of electricity that a price leaves apart."""
        found = self._query(
            "SELECT tariff_id, any(best_tariff.4), any(best_tariff.5), sum(energy_cost_usd),"  # noqa: S608 - as in _query
            f" sum(energy_uj) / 1e6, sum(gpu_time_ns) / 3.6e12 FROM {_COST} WHERE {self._chosen}"
            " AND price_id != '' AND NOT best.12 GROUP BY tariff_id ORDER BY 5 DESC, tariff_id"
        )
        rows = []
        for tariff_id, per_kwh, currency, usd, joules, hours in found:
            if not tariff_id:
                value, meaning = (
                    "none",
                    "electricity is apart, and no tariff holds: 'wattribute price tariff'",
                )
            elif currency != "USD":
                value, meaning = f"in {currency}, not summed", tariff_id
            else:
                value, meaning = f"{per_kwh:g} USD/kWh", f"{usd:.6g} USD of electricity at {tariff_id}"
            rows.append(told("tariff", value, meaning, None, joules, hours))
        return rows

    def units(self, unit: str | None) -> list[dict[str, Any]]:
        """Who counted what came out, whose count was used, and with ``unit`` what one of them cost.

        Empty where the choice is by a column that units do not have. Raises UsageError if one ``unit`` is
        asked."""
        unknown = [name for name in self._wanted if name not in UNIT_IDENTITY and name != "account"]
        if unknown or self._wanted.get("account", "process") != "process":
            if unit is not None:
                raise UsageError(f"units are not known by {unknown[0] if unknown else 'this account'}")
            return []
        chosen = _all(["" if name == "account" else name for name in self._wanted])
        params = self._params | {"unit": unit or ""}
        told_by = self._store.query(
            "SELECT unit, source, authority, sum(quantity) FROM unit FINAL"  # noqa: S608 - as in _query
            " WHERE t >= parseDateTime64BestEffort({since:String}, 3, 'UTC')"
            " AND t < parseDateTime64BestEffort({until:String}, 3, 'UTC')"
            f" AND {{unit:String}} IN ('', unit) AND {chosen} GROUP BY unit, source, authority ORDER BY ALL",
            params,
        ).rows
        rows = []
        for name in list(dict.fromkeys(row[0] for row in told_by))[:_MOST_UNITS]:
            counted: dict[str, float] = dict(
                self._store.query(
                    "SELECT source, sum(quantity)"  # noqa: S608 - as in _query
                    " FROM counted_unit(unit = {unit:String}, since = {since:String}, until = {until:String})"
                    f" WHERE {chosen} GROUP BY source",
                    params | {"unit": name},
                ).rows
            )
            rows += _counts(name, [row[1:] for row in told_by if row[0] == name], counted)
            if name == unit:
                rows += self._unit_cost(name, sum(counted.values()))
        if unit is not None and not rows:
            rows = self._unit_cost(unit, 0.0)
        return rows

    def _unit_cost(self, unit: str, quantity: float) -> list[dict[str, Any]]:
        """What one unit cost: of the processes alone."""
        if not quantity:
            return [told("unit cost", "none", f"no {unit} were counted here: there is nothing to divide by")]
        chosen = _all(["" if name == "account" else name for name in self._wanted])
        ((usd, unpriced, joules, hours, ratio, is_known),) = self._store.query(
            "SELECT sum(cost_usd * covered_time_ratio), countIf(cost_usd IS NULL),"  # noqa: S608 - as in _query
            " sum(energy_uj * covered_energy_ratio) / 1e6,"
            " sum(gpu_time_ns * covered_time_ratio) / 3.6e12 AS hours,"
            " hours * 3.6e12 / nullIf(sum(gpu_time_ns), 0), max(is_known)"
            " FROM covered_cost(policy = {policy:String}, since = {since:String}, until = {until:String},"
            f" unit = {{unit:String}}) WHERE {chosen}",
            self._params | {"unit": unit},
        ).rows
        if not hours:
            return [told("unit cost", "none", f"no GPU time while {unit} were counted here")]
        value = "unpriced" if unpriced else f"{usd / quantity * 1e6:.6g} USD per million"
        of = f" in the {_percent(ratio, 1)} of their GPU time that was counted" if is_known else ""
        meaning = (
            f"cost of its processes{of}, idle included, / {quantity:,.10g} {unit};"
            f" {joules / quantity:.6g} J each"
        )
        return [told("unit cost", value, meaning, None, joules, hours)]

    def _attribution(self, columns: str, group: str = "") -> Sequence[tuple[Any, ...]]:
        return self._query(
            f"SELECT {columns}, count(),"
            f" sum(active_energy_uj + idle_energy_{self._policy}_uj) / 1e6 AS energy,"
            f" sum(gpu_time_{self._policy}_ns) / 3.6e12 {self._from()} {group}"
        )

    def _from(self) -> str:
        return (
            "FROM attribution FINAL WHERE window_start >= parseDateTime64BestEffort({since:String}, 3, 'UTC')"
            f" AND window_start < parseDateTime64BestEffort({{until:String}}, 3, 'UTC') AND {self._chosen}"
        )

    def _query(self, sql: str) -> Sequence[tuple[Any, ...]]:
        """Names of ours and a checked policy stand in the text; values are parameters."""
        return self._store.query(sql, self._params).rows


def told(
    about: str,
    value: str,
    meaning: str,
    rows: int | None = None,
    energy_j: float | None = None,
    gpu_hours: float | None = None,
) -> dict[str, Any]:
    """A line of COLUMNS."""
    return dict(zip(COLUMNS, (about, value, rows, energy_j, gpu_hours, meaning), strict=True))


def _all(columns: Sequence[str]) -> str:
    """That every column has the value that is wanted; an empty name is no condition."""
    texts = [f"toString({name})" if name in _NO_TEXTS else name for name in columns]
    terms = [f"{text} = {{wanted{place}:String}}" for place, text in enumerate(texts) if text]
    return " AND ".join(["1", *terms])


def _counts(
    unit: str, told_by: Sequence[tuple[Any, ...]], counted: Mapping[str, float]
) -> list[dict[str, Any]]:
    rows = []
    for source, authority, quantity in told_by:
        used = counted.get(source, 0.0)
        who = f"counted by {source or 'an unnamed source'}, authority {authority}"
        if used:
            rows.append(told("units used", f"{used:,.10g} {unit}", f"{who}: of {quantity:,.10g} told"))
        else:
            why = "another that counted the same has more" if counted else "outside of the span"
            rows.append(told("units ignored", f"{quantity:,.10g} {unit}", f"{who}: {why}"))
    return rows


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.3g} %" if whole else "0 %"
