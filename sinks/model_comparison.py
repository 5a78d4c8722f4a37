"""Which of two model versions is cheaper, and whether it is as good, as far as the figures show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_Z: Final = 1.96  # 95 %
_LEAST_COVERAGE: Final = 0.9
_SAME_MIX: Final = 1.2  # ratio of their input tokens per output token: beyond this they did different work
HEADLINE: Final = (
    ("cost_usd_per_million_output_tokens", "USD per million output tokens", "per output token"),
    ("cost_usd_per_request", "USD per request", "per request"),
)

Row = Mapping[str, Any]
Measures = Mapping[tuple[str, str], Row]


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of two versions. A difference up to ``band`` may be chance or error; None: not known.
    ``better`` is -1 if the first is better, 1 if the second is, 0 if the difference is within the band, and
    None if the band is not known."""

    figure: str
    first: float | None
    second: float | None
    band: float | None
    better: int | None

    @property
    def ratio(self) -> float | None:
        """The difference, as a fraction of the first; None if one is not known or the first is 0."""
        if self.first is None or self.second is None or not self.first:
            return None
        return self.second / self.first - 1


def money(first: Row, second: Row) -> tuple[str, Difference] | None:
    """What the cost is per, and its difference, for the first of HEADLINE that both have; None for none."""
    for name, heading, per in HEADLINE:
        if first[name] is not None and second[name] is not None:
            band = sum(row[name] * _error_ratio(row, "error_usd", "cost_usd") for row in (first, second))
            return per, _difference(heading, first[name], second[name], band, higher_is_better=False)
    return None


def energy(first: Row, second: Row) -> Difference | None:
    """The energy of an output token of each; None if one is not known."""
    name = "j_per_output_token"
    if first[name] is None or second[name] is None:
        return None
    band = sum(row[name] * _error_ratio(row, "error_j", "energy_j") for row in (first, second))
    return _difference("J per output token", first[name], second[name], band, higher_is_better=False)


def qualities(first: Measures, second: Measures) -> list[Difference]:
    """The differences in every measure that both have, latencies included, for which no band is known."""
    found = []
    for metric, dataset in first.keys() & second.keys():
        one, other = first[metric, dataset], second[metric, dataset]
        name = f"{metric} on {dataset}" if dataset else metric
        higher = bool(one["higher_is_better"])
        band = None if one["is_latency"] else chance_band(metric, one, other)
        if band is None:
            found.append(Difference(name, one["value"], other["value"], None, None))
        else:
            found.append(_difference(name, one["value"], other["value"], band, higher))
    return sorted(found, key=lambda difference: difference.figure)


def chance_band(metric: str, first: Row, second: Row) -> float | None:
    """The greatest difference of two shares of samples that may be chance (95 %; Agresti and Caffo 2000: one
    success and one failure are added to each). None for other metrics: outside 0 to 1, without a sample
    count, or a loss."""
    low, high = sorted((first["value"], second["value"]))
    is_share = first["higher_is_better"] or metric.endswith(("_ratio", "_rate"))
    if not (is_share and low >= 0 and high <= 1 and first["sample_count"] and second["sample_count"]):
        return None
    counts = [row["sample_count"] + 2 for row in (first, second)]
    shares = [
        (row["value"] * row["sample_count"] + 1) / count
        for row, count in zip((first, second), counts, strict=True)
    ]
    variance = sum(share * (1 - share) / count for share, count in zip(shares, counts, strict=True))
    # the band is around the difference with the added samples, which is nearer to 0
    drawn_in: float = abs((first["value"] - second["value"]) - (shares[0] - shares[1]))
    return _Z * math.sqrt(variance) + drawn_in


def dominated(rows: Sequence[Row], measures: Mapping[tuple[str, str], Measures]) -> list[tuple[Row, Row]]:
    """Versions that are dearer per output token than another, beyond the error, and no better in any measure
    that both have: each with the cheapest such other. Latency counts as a measure, but they must have another
    in common too. ``measures`` has those of each (model, version). Leaves out versions whose cost cannot be
    compared, because too little of their time has counts, or because they did other work."""
    priced = [
        row
        for row in rows
        if row["cost_usd_per_million_output_tokens"] is not None and row["model"] and not coverage_note(row)
    ]
    priced.sort(key=lambda row: float(row["cost_usd_per_million_output_tokens"]))
    found = []
    for place, row in enumerate(priced):
        mine = measures[row["model"], row["model_version"]]
        for other in priced[:place]:
            compared = money(other, row)
            theirs = measures[other["model"], other["model_version"]]
            if compared is None or compared[1].better != -1 or mix_note(other, row):
                continue
            if not _any_quality(mine, theirs):
                continue
            if not any(_exceeds(mine[name], theirs[name]) for name in mine.keys() & theirs.keys()):
                found.append((row, other))
                break
    return found


def coverage_note(row: Row) -> str:
    """Why the cost of a version cannot be compared; empty if it can."""
    name = f"{row['model']} {row['model_version']}"
    coverage = row.get("coverage_ratio")
    if coverage is not None and coverage < _LEAST_COVERAGE:
        return f"{name}: only {100 * coverage:.0f} % of its time has counts, too little to compare its cost"
    if row["cost_usd_per_million_output_tokens"] is None and row["cost_usd_per_request"] is None:
        return f"{name}: {row['reasons'].get('cost_usd_per_million_output_tokens', 'no cost of a token')}"
    return ""


def mix_note(first: Row, second: Row) -> str:
    """Why tokens of the two cannot be compared, if they served such different work; else empty."""
    if not all(row[name] for row in (first, second) for name in ("input_tokens", "output_tokens")):
        return ""
    mixes = [row["input_tokens"] / row["output_tokens"] for row in (first, second)]
    if max(mixes) <= _SAME_MIX * min(mixes):
        return ""
    return (
        f"they served different work: {mixes[0]:.3g} and {mixes[1]:.3g} input tokens for each output token;"
        " compare the prices of input and output tokens too"
    )


def _error_ratio(row: Row, error: str, of: str) -> float:
    return row[error] / row[of] if row[of] and row[error] else 0.0


def _difference(figure: str, first: float, second: float, band: float, higher_is_better: bool) -> Difference:
    more = second - first if higher_is_better else first - second
    better = 0 if abs(more) <= band else (1 if more > 0 else -1)
    return Difference(figure, first, second, band, better)


def _any_quality(mine: Measures, theirs: Measures) -> bool:
    return any(not mine[name]["is_latency"] for name in mine.keys() & theirs.keys())


def _exceeds(mine: Row, theirs: Row) -> bool:
    if mine["higher_is_better"]:
        return bool(mine["value"] > theirs["value"])
    return bool(mine["value"] < theirs["value"])
