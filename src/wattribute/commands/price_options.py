"""Options that a price and a tariff have in common."""

from __future__ import annotations

from typing import Annotated, Final

import typer

WHERE: Final = "Where and when it applies (default: everywhere, always)"

ProviderOption = Annotated[str, typer.Option("--provider", rich_help_panel=WHERE)]
RegionOption = Annotated[str, typer.Option("--region", rich_help_panel=WHERE)]
CurrencyOption = Annotated[str, typer.Option("--currency", help="Only USD is added up in sums.")]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="TIME", help="Valid from this whole minute on, in --tz.", rich_help_panel=WHERE
    ),
]
UntilOption = Annotated[
    str | None,
    typer.Option(
        "--until", metavar="TIME", help="Valid until before this minute, in --tz.", rich_help_panel=WHERE
    ),
]
