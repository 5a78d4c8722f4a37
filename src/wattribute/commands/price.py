"""``wattribute price``: the price book."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from wattribute.commands.options import ConfigOption, FormatOption, StoreOption
from wattribute.commands.output import Format, Grid, note, write_grid, write_rows
from wattribute.commands.price_options import (
    WHERE,
    CurrencyOption,
    FromOption,
    ProviderOption,
    RegionOption,
    UntilOption,
)
from wattribute.commands.since import parse_time, parse_zone
from wattribute.commands.tariff import tariff
from wattribute.errors import UsageError
from wattribute.settings import load_settings

if TYPE_CHECKING:
    from wattribute.sinks.prices import Price

price = typer.Typer(
    help="What a GPU hour costs: list, add, import, remove; and electricity: tariff.",
    no_args_is_help=True,
    epilog="[bold]For example[/bold]\n\n  wattribute price add --gpu 'NVIDIA H200' --per-gpu-hour 3.6"
    "\n\n  wattribute price list",
)
price.add_typer(tariff, name="tariff")
_COLUMNS: Final = (
    "gpu_model",
    "provider",
    "region",
    "category",
    "price_per_gpu_hour",
    "currency",
    "valid_from",
    "valid_to",
    "origin",
    "form",
    "gpus_per_instance",
    "instance_price",
    "includes_energy",
    "source",
    "source_date",
    "disputed",
    "price_id",
)
_HOW: Final = "How much (one of the ways)"
_GpuOption = Annotated[
    str, typer.Option("--gpu", metavar="NAME", help="The GPU as NVML names it, for example 'NVIDIA H200'.")
]
_TzOption = Annotated[
    str,
    typer.Option("--tz", metavar="ZONE", help="Time zone of times without one.", rich_help_panel=WHERE),
]
_CategoryOption = Annotated[
    str,
    typer.Option(
        "--category",
        "--pricing",
        help="How hosts are charged: on_demand, spot, committed, capacity_block, owned.",
        rich_help_panel=WHERE,
    ),
]


@price.command()
def add(
    gpu: _GpuOption,
    per_gpu_hour: Annotated[
        float | None,
        typer.Option("--per-gpu-hour", metavar="AMOUNT", help="Price of a GPU hour.", rich_help_panel=_HOW),
    ] = None,
    per_instance_hour: Annotated[
        float | None,
        typer.Option(
            "--per-instance-hour",
            metavar="AMOUNT",
            help="Price of an hour of a whole instance; given with --per-gpu-hour, both must agree.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    gpus_per_instance: Annotated[
        int, typer.Option("--gpus-per-instance", metavar="COUNT", rich_help_panel=_HOW)
    ] = 0,
    capital_per_gpu: Annotated[
        float | None,
        typer.Option(
            "--capital-per-gpu",
            metavar="AMOUNT",
            help="What you paid for a GPU, with its share of the host.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    life_years: Annotated[
        float | None,
        typer.Option(
            "--life-years",
            metavar="YEARS",
            help="The years over which it is written off, each hour alike, in use or not.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    includes_energy: Annotated[
        bool | None,
        typer.Option(
            "--includes-energy/--energy-apart",
            help="Whether the price includes electricity, or a tariff adds it.",
            show_default="apart if owned, or by capital",
            rich_help_panel=_HOW,
        ),
    ] = None,
    provider: ProviderOption = "",
    region: RegionOption = "",
    category: _CategoryOption = "",
    form: Annotated[str, typer.Option("--form", help="SXM, PCIe, …: shown, not compared.")] = "",
    currency: CurrencyOption = "USD",
    valid_from: FromOption = None,
    valid_to: UntilOption = None,
    tz: _TzOption = "UTC",
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Add a price of yours. It takes precedence over the bundled ones, also for what is stored already."""
    settings = load_settings({"store": store}, config)
    zone = parse_zone(tz)
    from wattribute.sinks.prices import BEGINNING, END, Price, pays_for_energy, price_per_gpu_hour

    amount = price_per_gpu_hour(
        per_gpu_hour, per_instance_hour, gpus_per_instance, capital_per_gpu, life_years
    )
    made = Price(
        gpu_model=gpu,
        price=amount,
        provider=provider,
        region=region,
        category=category,
        form=form,
        currency=currency,
        instance_price=per_instance_hour,
        gpus_per_instance=gpus_per_instance,
        valid_from=parse_time(valid_from, zone=zone) or BEGINNING,
        valid_to=parse_time(valid_to, zone=zone) or END,
        includes_energy=(
            pays_for_energy(category, capital_per_gpu is not None)
            if includes_energy is None
            else includes_energy
        ),
        source="wattribute price add",
    )
    _add(settings.store, [made])
    where = " ".join(filter(None, (provider, region, category))) or "everywhere"
    apart = "" if made.includes_energy else ", without electricity"
    note(f"{gpu}: {amount:g} {currency} per GPU hour, {where}{apart}")


@price.command()
def remove(
    gpu: _GpuOption,
    provider: ProviderOption = "",
    region: RegionOption = "",
    category: _CategoryOption = "",
    valid_from: FromOption = None,
    tz: _TzOption = "UTC",
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove a price of yours, named by the options that added it. 'cost --as-of' still knows it."""
    settings = load_settings({"store": store}, config)
    zone = parse_zone(tz)
    from wattribute.sinks.prices import BEGINNING, Price

    told = Price(
        gpu_model=gpu,
        price=0,
        provider=provider,
        region=region,
        category=category,
        valid_from=parse_time(valid_from, zone=zone) or BEGINNING,
        deleted=True,
    )
    _add(settings.store, [told])
    note(f"{gpu}: the price is removed")


@price.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="CSV with a header: gpu_model, price, provider, …")
    ],
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Add the prices of a CSV file, all or none.

    Its columns: gpu_model, and one of price (of a GPU-hour), instance_price with gpus_per_instance, or
    capital_per_gpu with life_years. Where they matter: provider, region, category, form, currency,
    valid_from, valid_to, includes_energy, source, source_date, disputed, deleted.

    What 'price list --format csv' writes is such a file too: the bundled prices in it that you changed become
    yours, and the others stay as they are. A price that is to begin at another time is another one: keep its
    old line, with deleted true.
    """
    settings = load_settings({"store": store}, config)
    from wattribute.sinks.prices import read_prices

    prices = read_prices(file)
    if not prices:
        raise UsageError(f"{file} contains no new price")
    _add(settings.store, prices)
    note(f"added {len(prices)} prices from {file}")


@price.command("list")
def list_(shape: FormatOption = Format.table, store: StoreOption = None, config: ConfigOption = None) -> None:
    """Every price in the book, with its source; without a store, the bundled ones."""
    settings = load_settings({"store": store}, config)
    from wattribute.sinks.folder import folder_of
    from wattribute.sinks.prices import list_prices
    from wattribute.sinks.query_server import open_store_for_reading

    folder = folder_of(settings.store)
    if folder is not None and not folder.exists():
        rows = _bundled_rows()
    else:
        with closing(open_store_for_reading(settings.store)) as opened:
            rows = list_prices(opened)
    if shape is Format.table:
        write_grid(_grid(rows))
    else:
        write_rows(rows, shape, _COLUMNS)


def _add(store: str, prices: Sequence[Price]) -> None:
    from wattribute.sinks.query_server import add_prices_to

    for remark in add_prices_to(store, prices):
        note(f"note: {remark}")


def _bundled_rows() -> list[dict[str, Any]]:
    from wattribute.sinks.prices import BEGINNING, END, bundled

    rows = [
        asdict(item)
        | {
            "price_per_gpu_hour": item.price,
            "valid_from": None if item.valid_from == BEGINNING else item.valid_from,
            "valid_to": None if item.valid_to == END else item.valid_to,
            "origin": "bundled",
            "price_id": f"bundled|{item.price_id}",
        }
        for item in bundled()
    ]
    return [{name: row[name] for name in _COLUMNS} for row in rows]


def _grid(rows: Sequence[dict[str, Any]]) -> Grid:
    headers = [
        "GPU",
        "provider",
        "region",
        "pricing",
        "per GPU hour",
        "currency",
        "from (UTC)",
        "until (UTC)",
        "origin",
        "source",
    ]
    cells = [
        [
            row["gpu_model"],
            row["provider"] or "any",
            row["region"] or "any",
            row["category"] or "any",
            f"{row['price_per_gpu_hour']:.4f}" + ("" if row["includes_energy"] else " + electricity"),
            row["currency"],
            f"{row['valid_from']:%Y-%m-%d %H:%M}" if row["valid_from"] else "",
            f"{row['valid_to']:%Y-%m-%d %H:%M}" if row["valid_to"] else "",
            row["origin"] + (" (disputed)" if row["disputed"] else ""),
            f"{row['source']} ({row['source_date']})" if row["source_date"] else row["source"],
        ]
        for row in rows
    ]
    styles = ["bold" if row["origin"] == "user" else "" for row in rows]
    return Grid(headers, cells, frozenset({4}), styles, spare=(9, 5, 8, 7, 6))
