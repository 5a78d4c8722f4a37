"""The texts of the store's views, put together from parts and from the views that they query."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final

# Ordered so that a view comes after the views that it queries.
VIEWS: Final = (
    *("conservation", "measured", "attempt", "price_book", "price_edge", "tariff_book"),
    *("priced_usage", "cost", "cost_over_time", "cost_as_of", "cost_by_policy"),
    *("lesser_unit", "counted_unit", "unit_coverage", "covered_cost", "covered_cost_as_of", "unit_cost"),
    *("attempt_progress", "attempt_cost", "run_cost"),
    *(
        "model_watts",
        "model_minute",
        "model_throughput",
        "amortised_training",
        "model_quality",
        "renamed_model",
    ),
    *("model_cost", "billed", "reconcile"),
)
# How views are written: comparisons in their upper levels are in if, multiIf or nullIf, not in AND or OR, and
# joins are USING several columns, not ON, which is an AND as well. For each operand of AND and OR the engine
# hashes everything below its columns: 50 operands above covered_cost took 0.8 (AND) to 1.3 s (OR) more to
# analyse, in if nothing; model_cost takes 0.94 s without them, and took 1.42, and its last 20 were 7 % of it.
# A scalar mentions another one as rarely as possible: that is analysed again at each mention, with everything
# that it mentions itself.
_ONE_BUCKET: Final = {
    "{step:String}": "'all'",
    "{tz:String}": "'UTC'",
    "    bucket_start,\n    * EXCEPT": "    * EXCEPT",
}
_PART: Final = re.compile(r"\{\{(\w+)\}\}")
_AS_KNOWN_NOW: Final = {"{as_of:String}": "'2200-01-01'"}
# ClickHouse analyses a parameterised view within another one twice, and again twice at each further level:
# 0.2 s of processor time each for priced_usage. So instead of querying a view, others contain its text, with
# the parameters filled in.
_ASKED: Final = re.compile(
    r"\b(FROM|JOIN)\s+(\w+)\(\s*((?:\w+\s*=\s*(?:\{\w+:String\}|'[^'\\]*')\s*,?\s*)+)\)", re.IGNORECASE
)
_GIVEN: Final = re.compile(r"(\w+)\s*=\s*(\{\w+:String\}|'[^'\\]*')")
_COMMENT: Final = re.compile(r"--|//|/\*|#")
_FILLED_IN: Final[dict[str, dict[str, str]]] = {
    "cost": _ONE_BUCKET | _AS_KNOWN_NOW,
    "cost_over_time": _AS_KNOWN_NOW,
    "cost_as_of": _ONE_BUCKET,
    "covered_cost": _AS_KNOWN_NOW,
    "cost_by_policy": {"[{policy:String}]": "['equal', 'memory', 'active']"},
    "attempt_cost": _ONE_BUCKET,
    "model_minute": {"{unit:String}": "'output_tokens,input_tokens,cached_tokens'"},
}


@cache  # views contain others: building all texts takes 19 ms if each is built once, 40 ms otherwise
def view(name: str) -> str:
    """The statement that creates a view, with its parts and the texts of other views filled in."""
    made_of = "priced_usage" if name.startswith("cost") else name.removesuffix("_as_of")
    sql = _text(made_of)
    while _PART.search(sql):
        sql = _PART.sub(lambda mention: part(mention[1]), sql)
    for before, after in _FILLED_IN.get(name, {}).items():
        sql = sql.replace(before, after)
    sql = _ASKED.sub(_text_of_asked, sql)
    return sql.replace(f"VIEW {made_of} ", f"VIEW {name} ")


def select_of(name: str) -> str:
    """The SELECT of a view. Other views contain it, and so does, in parentheses, the statement that creates
    the view in the store."""
    return view(name).partition(f" VIEW {name} AS")[2]


def part(name: str) -> str:
    """The text of a part, which replaces its name in views."""
    return _text(f"{name}.part").rstrip()


def in_full(sql: str) -> str:
    """A statement with the views that it queries replaced by their texts, because the engine analyses a
    parameterised view twice: that reduced processor time from 0.34 to 0.22 s for cost, from 2.2 to 1.2 for
    unit_cost, from 3.5 to 2.5 for model_cost. A view queried with values, as users do, is not replaced if the
    statement has comments, because it may be in one."""
    commented = _COMMENT.search(sql) is not None
    return _ASKED.sub(
        lambda asked: (
            _text_of_asked(asked) if asked[2] in VIEWS and ("{" in asked[3] or not commented) else asked[0]
        ),
        sql,
    )


def _text_of_asked(asked: re.Match[str]) -> str:
    text = select_of(asked[2])
    given = dict(_GIVEN.findall(asked[3]))  # of a name given twice the last counts, as for the engine
    for name, value in given.items():
        text = text.replace(f"{{{name}:String}}", value)
    return f"{asked[1]} ({text})"


def _text(name: str) -> str:
    return (files("wattribute.sinks") / "views" / f"{name}.sql").read_text(encoding="utf-8")
