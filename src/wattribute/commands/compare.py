"""``wattribute compare``: which of two model versions is cheaper, and whether it is as good."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from wattribute.commands.cost import cut_notes
from wattribute.commands.options import (
    ConfigOption,
    FormatOption,
    PolicyOption,
    SinceOption,
    StoreOption,
    TzOption,
    UntilOption,
)
from wattribute.commands.output import Format, Grid, decimals_for, shown_number, write_grid, write_rows
from wattribute.commands.since import parse_span, parse_zone
from wattribute.errors import UsageError
from wattribute.settings import load_settings

if TYPE_CHECKING:
    from wattribute.sinks.model_comparison import Difference, Measures

_COLUMNS: Final = ("figure", "first", "second", "difference_ratio", "band", "better")
_FIGURES: Final = {  # heading -> column of models
    "busy USD per million output tokens": "busy_usd_per_million_output_tokens",
    "at best USD per million output tokens": "capacity_usd_per_million_output_tokens",
    "fully loaded USD per million output tokens": "fully_loaded_usd_per_million_output_tokens",
    "USD per million input tokens": "input_price_usd_per_million",
    "USD per million output tokens, without input": "output_price_usd_per_million",
    "output tokens": "output_tokens",
    "active ratio": "active_ratio",
}
_BETTER: Final = {-1: "first", 0: "same", 1: "second", None: ""}
VersionArgument = Annotated[str, typer.Argument(metavar="MODEL@VERSION", show_default=False)]


def compare(
    first: VersionArgument,
    second: VersionArgument,
    since: SinceOption = None,
    until: UntilOption = None,
    tz: TzOption = "UTC",
    policy: PolicyOption = "equal",
    shape: FormatOption = Format.table,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Two model versions side by side: which is cheaper, and is it as good?

    A difference within the error band, or too small for the number of samples, counts as none. Metrics that
    are not a share of samples, and latencies, are shown without a verdict.
    """
    settings = load_settings({"store": store}, config)
    begin, end = parse_span(since, until, parse_zone(tz))
    versions = [_version(first), _version(second)]
    if versions[0] == versions[1]:
        raise UsageError(f"both versions are {first}: name two different ones")
    from wattribute.sinks import model_comparison
    from wattribute.sinks.models import quality_rows, version_rows
    from wattribute.sinks.query_server import open_store_for_reading

    with closing(open_store_for_reading(settings.store)) as opened:
        rows = version_rows(opened, versions, begin, end, policy)
        measures = quality_rows(opened, versions, begin, end)
        cut = cut_notes(opened, begin, end)
    one, other = (measures[version] for version in versions)
    headline = model_comparison.money(rows[0], rows[1])
    told = model_comparison.qualities(one, other)
    plain = [
        model_comparison.Difference(heading, rows[0][name], rows[1][name], None, None)
        for heading, name in _FIGURES.items()
        if rows[0][name] is not None or rows[1][name] is not None
    ]
    joules = model_comparison.energy(rows[0], rows[1])
    found = [*([headline[1]] if headline else []), *([joules] if joules else []), *plain, *told]
    if shape is not Format.table:
        write_rows([_object(difference) for difference in found], shape, _COLUMNS)
        return
    names = [" ".join(filter(None, version)) for version in versions]
    notes = [model_comparison.coverage_note(row) for row in rows] + [
        model_comparison.mix_note(rows[0], rows[1])
    ]
    says = conclusion(names, headline, joules, told, (one, other), not any(notes[:2]))
    write_grid(_grid(found, names, [note for note in notes if note] + cut + says))


def conclusion(
    names: list[str],
    headline: tuple[str, Difference] | None,
    joules: Difference | None,
    told: list[Difference],
    measures: tuple[Measures, Measures],
    is_covered: bool,
) -> list[str]:
    """Say in sentences what the figures show, and what they cannot show."""
    lines = []
    cheaper = None
    if headline is not None and not is_covered:
        lines.append(f"cost {headline[0]}: cannot be compared, see above")
    elif headline is not None:
        cheaper = headline[1].better
        lines.append(f"cost {_apart(names, headline[0], headline[1], 'cheaper', 'dearer')}")
    if joules is not None and is_covered:
        lines.append(f"energy {_apart(names, 'per output token', joules, 'less', 'more')}")
    judged = [difference for difference in told if difference.better is not None]
    lines += [_judged(names, difference, measures) for difference in judged]
    if not judged:
        lines.append(
            "quality: cannot be compared: no metric is known for both that is a share of counted samples"
        )
    elif cheaper is not None:
        lines.append(_together(names, cheaper, {difference.better for difference in judged}))
    return lines


def _apart(names: list[str], per: str, difference: Difference, less: str, more: str) -> str:
    """By how much the second differs from the first; no percentage where the first is 0."""
    first, second = difference.first or 0.0, difference.second or 0.0
    if not first:
        if not difference.better:
            return f"{per}: no significant difference: {names[0]} has 0"
        return f"{per}: {names[1]} is {more}: {second:.4g} {difference.figure}, and {names[0]} 0"
    by = f"{abs(100 * (second / first - 1)):.1f} %"
    band = f"the error band is ±{100 * (difference.band or 0.0) / first:.1f} %"
    if not difference.better:
        return f"{per}: no significant difference: {by}, and {band}"
    return f"{per}: {names[1]} is {by} {less if difference.better == 1 else more}; {band}"


def _judged(names: list[str], difference: Difference, measures: tuple[Measures, Measures]) -> str:
    counts = _counts(difference.figure, measures)
    if not difference.better:
        return (
            f"quality: no significant difference in {difference.figure} with {counts} samples: up to"
            f" {difference.band:.2g} may be chance"
        )
    better = names[max(0, difference.better)]
    return f"quality: {better} is better in {difference.figure}, beyond chance ({counts} samples)"


def _together(names: list[str], cheaper: int, verdicts: set[int | None]) -> str:
    if verdicts == {0}:
        return (
            "so: no significant difference in cost or quality"
            if not cheaper
            else f"so: {names[max(0, cheaper)]}: cheaper, and as good"
        )
    if 1 in verdicts and -1 in verdicts:
        return "so: each is better in something: it depends on what counts"
    better = 1 if 1 in verdicts else -1
    if not cheaper:
        return f"so: {names[max(0, better)]}: it costs the same, and is better"
    if cheaper == better:
        return f"so: {names[max(0, better)]}: cheaper, and better"
    return f"so: {names[max(0, better)]} is better and dearer: is it worth it?"


def _counts(figure: str, measures: tuple[Measures, Measures]) -> str:
    for metric, dataset in measures[0]:
        if figure == (f"{metric} on {dataset}" if dataset else metric):
            return " and ".join(f"{side[metric, dataset]['sample_count']:,}" for side in measures)
    return "the"


def _version(text: str) -> tuple[str, str]:
    model, at, version = text.rpartition("@")
    if not at:
        model, version = text, ""
    if not model:
        raise UsageError(f"{text!r} names no model: write MODEL@VERSION, for example chat@v2")
    return model, version


def _object(difference: Difference) -> dict[str, Any]:
    return {
        "figure": difference.figure,
        "first": difference.first,
        "second": difference.second,
        "difference_ratio": difference.ratio,
        "band": difference.band,
        "better": _BETTER[difference.better],
    }


def _grid(found: list[Difference], names: list[str], notes: list[str]) -> Grid:
    return Grid(
        headers=["", *names, "difference", "band", "better"],
        rows=[
            [
                difference.figure,
                *(
                    shown_number(value, decimals_for([difference.first, difference.second]))
                    for value in (difference.first, difference.second)
                ),
                "-" if difference.ratio is None else f"{100 * difference.ratio:+.1f} %",
                "-" if difference.band is None else f"±{difference.band:.2g}",
                names[max(0, difference.better)] if difference.better else _BETTER[difference.better] or "-",
            ]
            for difference in found
        ],
        numeric=frozenset({1, 2, 3, 4}),
        notes=notes,
    )
