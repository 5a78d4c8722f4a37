"""Which price holds, told once more in plain Python."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from wattribute.sinks.prices import Price

Terms = tuple[str, str, str]
"""Provider, region and pricing of a host."""


def price_in_force(prices: Iterable[Price], gpu_model: str, terms: Terms, at: datetime) -> Price | None:
    """Of the prices that hold and fit, that which says most of where; None where there is none."""
    fitting = [
        price
        for price in prices
        if price.gpu_model == gpu_model
        and price.valid_from <= at < price.valid_to
        and all(
            mine in ("", its)
            for mine, its in zip((price.provider, price.region, price.category), terms, strict=True)
        )
    ]
    rank = [(bool(p.provider), bool(p.region), bool(p.category)) for p in fitting]
    return fitting[rank.index(max(rank))] if fitting else None
