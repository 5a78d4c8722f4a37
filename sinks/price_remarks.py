"""Remarks for a user who adds a price: names that nearly match, gaps, instances taken for GPUs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, Final

from wattribute.sinks.store import Readable

if TYPE_CHECKING:
    from wattribute.sinks.prices import Price

_SHOWN: Final = 3
_WORD: Final = re.compile(r"[a-z0-9]+")
CATEGORIES: Final = ("on_demand", "spot", "committed", "capacity_block", "owned", "serverless")
_PLACE: Final = ("provider", "region", "pricing")
_TOO_DEAR_RATIO: Final = 4  # times the dearest other price of the GPU: an instance has 2, 4 or 8 GPUs


def remarks_on(
    store: Readable,
    prices: Sequence[Price],
    bundled: Sequence[Price],
    alike: Mapping[tuple[str, ...], Sequence[Mapping[str, Any]]],
) -> list[str]:
    """Remarks on prices just added. ``alike`` has the rows of all prices of the user, by (GPU, provider,
    region, category), each ordered by beginning."""
    seen = store.query("SELECT DISTINCT gpu_model, provider, region, pricing FROM attribution_day").rows
    gpus = {other.gpu_model for other in bundled} | {gpu for gpu, *_ in seen}
    categories = {*CATEGORIES, *(pricing for *_, pricing in seen)}
    told = [(other.gpu_model, other.currency, other.price) for other in bundled]
    new = {(price.gpu_model, price.price) for price in prices}
    told += [
        (row["gpu_model"], row["currency"], row["effective_price"])
        for row in chain.from_iterable(alike.values())
        if row["effective_price"] is not None and (row["gpu_model"], row["effective_price"]) not in new
    ]
    dearest: dict[tuple[str, str], float] = {}
    for gpu, currency, amount in told:
        dearest[gpu, currency] = max(amount, dearest.get((gpu, currency), 0.0))
    nearly_gpu = {name: _nearly("GPU", name, gpus) for name in {price.gpu_model for price in prices}}
    nearly_category = {
        name: _nearly("category", name, categories) for name in {price.category for price in prices}
    }
    remarks = [
        remark
        for price in prices
        for remark in (
            _currency(price),
            _instance(price, dearest.get((price.gpu_model, price.currency))),
            nearly_gpu[price.gpu_model],
            nearly_category[price.category],
        )
    ]
    places = ((price.gpu_model, price.provider, price.region, price.category) for price in prices)
    for place in dict.fromkeys(places):
        remarks += _gaps(alike[place])
    for gpu in dict.fromkeys(price.gpu_model for price in prices):
        hosts = [tuple(host) for model, *host in seen if model == gpu]
        remarks.append(_for_other_hosts(gpu, [place for model, *place in alike if model == gpu], hosts))
    if any(not price.includes_energy for price in prices):
        ((tariffs,),) = store.query("SELECT count() FROM tariff_book").rows
        if not tariffs:
            remarks.append(
                "there is no tariff yet: costs at a price that excludes electricity stay unpriced until one"
                " is added with 'wattribute price tariff add'"
            )
    return [remark for remark in dict.fromkeys(remarks) if remark]


def _currency(price: Price) -> str:
    if price.currency == "USD":
        return ""
    return f"{price.gpu_model} is priced in {price.currency}: only USD is summed, so its cost stays unpriced"


def _instance(price: Price, dearest: float | None) -> str:
    if dearest is None or price.price < _TOO_DEAR_RATIO * dearest or not price.price:
        return ""
    return (
        f"{price.price:g} per GPU-hour of {price.gpu_model} is far above its other prices:"
        " is it the price of an instance?"
    )


def _for_other_hosts(gpu: str, places: Iterable[Sequence[str]], hosts: Sequence[tuple[str, ...]]) -> str:
    """A remark where no price is for any host that has the GPU. Both say provider, region and pricing."""
    if not hosts or any(
        all(not wanted or wanted == said for wanted, said in zip(place, host, strict=True))
        for place in places
        for host in hosts
    ):
        return ""
    shown = "; ".join(
        ", ".join(f"{name} {said}" if said else f"no {name}" for name, said in zip(_PLACE, host, strict=True))
        for host in sorted(hosts)[:_SHOWN]
    )
    return (
        f"none of your prices of {gpu} is for the hosts on which it was measured ({shown}): leave provider,"
        " region and category out of the price, or set 'provider', 'region' and 'pricing' on those hosts"
    )


def _nearly(what: str, name: str, known: Iterable[str]) -> str:
    folded = {other.casefold(): other for other in known if other}
    if not name or name in folded.values():
        return ""
    near = difflib.get_close_matches(name.casefold(), folded, 1, 0.75)
    words = set(_WORD.findall(name.casefold()))  # for names like H200, without NVIDIA, or a100 80gb
    near = near or sorted(other for other in folded if words and words <= set(_WORD.findall(other)))
    shown = " or ".join(repr(folded[other]) for other in near[:_SHOWN])
    return f"no {what} named {name!r} was seen yet; one named {shown} is known" if near else ""


def _gaps(alike: Sequence[Mapping[str, Any]]) -> list[str]:
    """A remark for each gap between two prices of the same GPU, provider, region and category."""
    return [
        f"{later['gpu_model']} has no price for this place and category from"
        f" {earlier['valid_to']:%Y-%m-%dT%H:%MZ}"
        f" to {later['valid_from']:%Y-%m-%dT%H:%MZ}"
        for earlier, later in pairwise(alike)
        if earlier["valid_to"] < later["valid_from"]
    ]
