"""Which version is cheaper and as good: what is said, and what is not said where figures cannot tell."""

from __future__ import annotations

import math
from typing import Any

import pytest

from wattribute.commands.compare import conclusion
from wattribute.sinks.model_comparison import (
    chance_band,
    coverage_note,
    dominated,
    energy,
    mix_note,
    money,
    qualities,
)

V1, V2, V3 = ("m", "v1"), ("m", "v2"), ("m", "v3")


def cost(version: str, per_million: float | None, error: float = 0.01, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": "m",
        "model_version": version,
        "cost_usd_per_million_output_tokens": per_million,
    }
    row |= {"cost_usd_per_request": None, "cost_usd": 100.0, "error_usd": 100 * error, "reasons": {}}
    row |= {
        "j_per_output_token": None if per_million is None else per_million / 2,
        "energy_j": 10.0,
        "error_j": 0.5,
    }
    return row | {"input_tokens": 3e6, "output_tokens": 1e6} | more


def found(
    value: float, count: int | None = 400, higher: bool = True, latency: bool = False
) -> dict[str, Any]:
    return {"value": value, "sample_count": count, "higher_is_better": higher, "is_latency": latency}


def share(value: float, count: int | None = 400) -> dict[tuple[str, str], dict[str, Any]]:
    return {("resolved_ratio", "support"): found(value, count)}


def test_the_band_of_two_shares_by_hand() -> None:
    # Agresti and Caffo: 284 of 400 and 292 of 400, with a success and a failure added to each
    one, other = 285 / 402, 293 / 402
    half = 1.96 * math.sqrt(one * (1 - one) / 402 + other * (1 - other) / 402)
    band = chance_band("resolved_ratio", found(284 / 400), found(292 / 400))
    assert band == pytest.approx(half + (8 / 400 - 8 / 402))
    assert chance_band("m", found(1.0, 1), found(0.0, 1)) > 1  # type: ignore[operator]
    rates = (found(284 / 400, higher=False), found(292 / 400, higher=False))
    assert chance_band("refusal_rate", *rates) == band


@pytest.mark.parametrize(
    ("metric", "one", "other"),
    [
        ("perplexity", found(7.0, higher=False), found(6.0, higher=False)),
        ("loss", found(0.3, higher=False), found(0.2, higher=False)),
        ("mmlu", found(0.6, None), found(0.7)),
        ("mmlu", found(0.6, 0), found(0.7)),
        ("score", found(1.2), found(0.7)),
        ("score", found(-0.2), found(0.7)),
    ],
)
def test_what_is_no_counted_share_has_no_band(
    metric: str, one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert chance_band(metric, one, other) is None
    (difference,) = qualities({(metric, ""): one}, {(metric, ""): other})
    assert difference.better is None


@pytest.mark.parametrize(
    ("costs", "shares", "said"),
    [
        ((1.0, 0.8), (0.71, 0.73), "so: m v2: cheaper, and as good"),
        ((0.8, 1.0), (0.71, 0.73), "so: m v1: cheaper, and as good"),
        ((1.0, 0.8), (0.60, 0.80), "so: m v2: cheaper, and better"),
        ((1.0, 0.8), (0.80, 0.60), "so: m v1 is better and dearer: is it worth it?"),
        ((1.0, 1.015), (0.80, 0.60), "so: m v1: it costs the same, and is better"),
        ((1.0, 1.015), (0.71, 0.73), "so: no significant difference in cost or quality"),
    ],
)
def test_the_conclusion(costs: tuple[float, float], shares: tuple[float, float], said: str) -> None:
    rows = [cost(version, amount) for version, amount in zip(("v1", "v2"), costs, strict=True)]
    measures = (share(shares[0]), share(shares[1]))
    lines = conclusion(
        ["m v1", "m v2"], money(rows[0], rows[1]), None, qualities(*measures), measures, is_covered=True
    )
    assert lines[-1] == said


def test_the_sentences_name_the_difference_its_band_and_the_counts() -> None:
    measures = (share(0.71), share(0.73, 500))
    headline = money(cost("v1", 1.0), cost("v2", 0.8))
    lines = conclusion(
        ["m v1", "m v2"],
        headline,
        energy(cost("v1", 1.0), cost("v2", 0.8)),
        qualities(*measures),
        measures,
        is_covered=True,
    )
    assert lines == [
        "cost per output token: m v2 is 20.0 % cheaper; the error band is ±1.8 %",
        "energy per output token: m v2 is 20.0 % less; the error band is ±9.0 %",
        "quality: no significant difference in resolved_ratio on support with 400 and 500 samples:"
        " up to 0.059 may be chance",
        "so: m v2: cheaper, and as good",
    ]


def test_what_costs_nothing_is_cheaper_whichever_comes_first() -> None:
    measures = (share(0.71, None), share(0.73, None))
    said = {}
    for costs in ((0.0, 2.5), (2.5, 0.0), (0.0, 0.0)):
        rows = [cost(version, amount) for version, amount in zip(("v1", "v2"), costs, strict=True)]
        headline = money(rows[0], rows[1])
        said[costs] = conclusion(["m v1", "m v2"], headline, None, [], measures, is_covered=True)[0]
    assert said == {
        (0.0, 2.5): "cost per output token: m v2 is dearer: 2.5 USD per million output tokens, and m v1 0",
        (2.5, 0.0): "cost per output token: m v2 is 100.0 % cheaper; the error band is ±1.0 %",
        (0.0, 0.0): "cost per output token: no significant difference: m v1 has 0",
    }


def test_without_counts_or_coverage_nothing_is_concluded() -> None:
    few = cost("v2", 0.8, coverage_ratio=0.62)
    assert coverage_note(few) == "m v2: only 62 % of its time has counts, too little to compare its cost"
    assert coverage_note(cost("v2", 0.8, coverage_ratio=0.89)) != ""
    assert coverage_note(cost("v2", 0.8, coverage_ratio=0.9)) == ""
    measures = (share(0.71, None), share(0.73, None))
    lines = conclusion(
        ["m v1", "m v2"], money(cost("v1", 1.0), few), None, qualities(*measures), measures, is_covered=False
    )
    assert lines == [
        "cost per output token: cannot be compared, see above",
        "quality: cannot be compared: no metric is known for both that is a share of counted samples",
    ]


def test_where_one_has_no_tokens_requests_are_compared_or_nothing() -> None:
    silent = cost("v1", None, reasons={"cost_usd_per_million_output_tokens": "no output tokens were counted"})
    assert money(silent, cost("v2", 1.0)) is None
    assert coverage_note(silent) == "m v1: no output tokens were counted"
    asked = [row | {"cost_usd_per_request": 2.0} for row in (silent, cost("v2", 1.0))]
    for first, second in (asked, asked[::-1]):
        compared = money(first, second)
        assert compared is not None
        assert compared[0] == "per request"


def test_a_token_of_other_work_is_no_measure() -> None:
    assert mix_note(cost("v1", 1.0), cost("v2", 1.0)) == ""
    assert mix_note(cost("v1", 1.0), cost("v2", 1.0, input_tokens=3.59e6)) == ""
    assert mix_note(cost("v1", 1.0), cost("v2", 1.0, input_tokens=3.61e6)) != ""
    other = cost("v2", 1.0, input_tokens=30e6)
    assert mix_note(cost("v1", 1.0), other).startswith("they served different work: 3 and 30 input tokens")


def test_who_is_dearer_and_no_better() -> None:
    rows = [cost("v1", 1.0), cost("v2", 0.8), cost("v3", 0.9), cost("v4", None), cost("v5", 1.0)]
    measures: dict[tuple[str, str], dict[tuple[str, str], dict[str, Any]]] = {
        V1: share(0.7),
        V2: share(0.7),
        V3: share(0.8),
        ("m", "v4"): share(0.1),
        ("m", "v5"): {("mmlu", ""): found(0.1)},  # measured by something else
    }
    assert [(row["model_version"], other["model_version"]) for row, other in dominated(rows, measures)] == [
        ("v1", "v2")
    ]
    # v1 answers faster than both
    for version, seconds in ((V1, 0.1), (V2, 0.2), (V3, 0.3)):
        measures[version] = measures[version] | {("ttft_p95_s", ""): found(seconds, 9, False, latency=True)}
    assert dominated(rows, measures) == []
    # no more than the error dearer
    close = [cost("v1", 0.81), cost("v2", 0.8)]
    assert dominated(close, {V1: share(0.7), V2: share(0.7)}) == []


@pytest.mark.parametrize("told", [{"coverage_ratio": 0.5}, {"input_tokens": 9e6}])
def test_what_cannot_be_compared_is_not_called_dearer(told: dict[str, Any]) -> None:
    measures = {V1: share(0.7), V2: share(0.7)}
    assert dominated([cost("v1", 0.9), cost("v2", 0.8)], measures)
    assert dominated([cost("v1", 0.9) | told, cost("v2", 0.8)], measures) == []
    assert dominated([cost("v1", 0.9), cost("v2", 0.8) | told], measures) == []
