"""``wattribute price tariff``: what electricity costs where a price does not include it."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Final
from zoneinfo import ZoneInfo

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
from wattribute.settings import load_settings

tariff = typer.Typer(
    help="What electricity costs, for prices that do not include it: add, list, remove.",
    no_args_is_help=True,
    epilog="[bold]For example[/bold]\n\n  wattribute price tariff add --per-kwh 0.31 --from-hour 6"
    " --to-hour 22 --tz Europe/Berlin --pue 1.3",
)
_COLUMNS: Final = (
    "provider",
    "region",
    "price_per_kwh",
    "currency",
    "node_power_ratio",
    "pue_ratio",
    "time_zone",
    "from_hour",
    "to_hour",
    "days",
    "valid_from",
    "valid_to",
    "source",
    "tariff_id",
)
_FromHourOption = Annotated[
    int,
    typer.Option("--from-hour", metavar="HOUR", help="From this hour of the day on.", rich_help_panel=WHERE),
]
_ToHourOption = Annotated[
    int,
    typer.Option(
        "--to-hour",
        metavar="HOUR",
        help="Until before this hour; of the next day if not later.",
        rich_help_panel=WHERE,
    ),
]
_DaysOption = Annotated[
    str,
    typer.Option(
        "--days",
        metavar="DAYS",
        help="The days on which it begins, for example mon-fri or sat,sun.",
        rich_help_panel=WHERE,
    ),
]
_TzOption = Annotated[
    str,
    typer.Option("--tz", metavar="ZONE", help="Time zone of hours, days and times.", rich_help_panel=WHERE),
]


@tariff.command()
def add(
    per_kwh: Annotated[float, typer.Option("--per-kwh", metavar="AMOUNT", help="Price of one kWh.")],
    pue: Annotated[
        float, typer.Option("--pue", metavar="RATIO", help="Power of the site divided by that of its nodes.")
    ] = 1.0,
    node_power_ratio: Annotated[
        float,
        typer.Option(
            "--node-power-ratio",
            metavar="RATIO",
            help="Power of a node divided by that of its GPUs, which is what is measured.",
        ),
    ] = 1.0,
    currency: CurrencyOption = "USD",
    provider: ProviderOption = "",
    region: RegionOption = "",
    from_hour: _FromHourOption = 0,
    to_hour: _ToHourOption = 24,
    days: _DaysOption = "mon-sun",
    tz: _TzOption = "UTC",
    valid_from: FromOption = None,
    valid_to: UntilOption = None,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Add a tariff. If a price excludes energy, a kWh of the GPU costs per_kwh x node_power_ratio x pue."""
    settings = load_settings({"store": store}, config)
    zone = parse_zone(tz)
    from wattribute.sinks.prices import BEGINNING, END
    from wattribute.sinks.query_server import add_tariffs_to
    from wattribute.sinks.tariffs import Tariff, parse_days, shown_days

    made = Tariff(
        price_per_kwh=per_kwh,
        provider=provider,
        region=region,
        currency=currency,
        node_power_ratio=node_power_ratio,
        pue_ratio=pue,
        time_zone=tz,
        from_hour=from_hour,
        to_hour=to_hour,
        days=parse_days(days),
        valid_from=parse_time(valid_from, zone=zone) or BEGINNING,
        valid_to=parse_time(valid_to, zone=zone) or END,
        source="wattribute price tariff add",
    )
    for remark in add_tariffs_to(settings.store, [made]):
        note(f"note: {remark}")
    where = " ".join(filter(None, (provider, region))) or "everywhere"
    hours = f"{from_hour} to {to_hour} h on {shown_days(made.days)} ({tz})"
    note(f"{per_kwh * node_power_ratio * pue:g} {currency} for each kWh of a GPU, {where}, {hours}")


@tariff.command()
def remove(
    provider: ProviderOption = "",
    region: RegionOption = "",
    from_hour: _FromHourOption = 0,
    to_hour: _ToHourOption = 24,
    days: _DaysOption = "mon-sun",
    tz: _TzOption = "UTC",
    valid_from: FromOption = None,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove a tariff, named by the options that it was added with. 'cost --as-of' still knows it."""
    settings = load_settings({"store": store}, config)
    zone = parse_zone(tz)
    from wattribute.sinks.prices import BEGINNING
    from wattribute.sinks.query_server import add_tariffs_to
    from wattribute.sinks.tariffs import Tariff, parse_days

    told = Tariff(
        price_per_kwh=0,
        provider=provider,
        region=region,
        time_zone=tz,
        from_hour=from_hour,
        to_hour=to_hour,
        days=parse_days(days),
        valid_from=parse_time(valid_from, zone=zone) or BEGINNING,
        deleted=True,
    )
    add_tariffs_to(settings.store, [told])
    note("the tariff is removed")


@tariff.command("list")
def list_(shape: FormatOption = Format.table, store: StoreOption = None, config: ConfigOption = None) -> None:
    """Every tariff, as it is known now."""
    settings = load_settings({"store": store}, config)
    from wattribute.sinks.prices import BEGINNING, END
    from wattribute.sinks.query_server import open_store_for_reading
    from wattribute.sinks.tariffs import list_tariffs, shown_days

    with closing(open_store_for_reading(settings.store)) as opened:
        rows = [
            row
            | {
                "days": shown_days(row["days"]),
                "valid_from": None if row["valid_from"] == BEGINNING else row["valid_from"],
                "valid_to": None if row["valid_to"] == END else row["valid_to"],
            }
            for row in list_tariffs(opened)
        ]
    if shape is not Format.table:
        write_rows(rows, shape, _COLUMNS)
        return
    cells = [
        [
            row["provider"] or "any",
            row["region"] or "any",
            f"{row['price_per_kwh']:.4f}",
            row["currency"],
            f"{row['node_power_ratio']:g}",
            f"{row['pue_ratio']:g}",
            f"{row['from_hour']} to {row['to_hour']}",
            row["days"],
            row["time_zone"],
            *(
                f"{row[edge].astimezone(ZoneInfo(row['time_zone'])):%Y-%m-%d %H:%M}" if row[edge] else ""
                for edge in ("valid_from", "valid_to")
            ),
        ]
        for row in rows
    ]
    headers = [
        "provider",
        "region",
        "per kWh",
        "currency",
        "node",
        "PUE",
        "hours",
        "days",
        "time zone",
        "from",
        "until",
    ]
    notes = [] if rows else ["there is no tariff yet: wattribute price tariff add"]
    write_grid(Grid(headers, cells, frozenset({2, 4, 5}), notes=notes))
