"""Options that a price and a tariff have in common."""

from __future__ import annotations

from typing import Annotated, Final

import typer

WHERE: Final = "Where and when it holds (left out: everywhere, always)"

ProviderOption = Annotated[str, typer.Option("--provider", rich_help_panel=WHERE)]
RegionOption = Annotated[str, typer.Option("--region", rich_help_panel=WHERE)]
CurrencyOption = Annotated[str, typer.Option("--currency", help="USD alone is summed.")]
FromOption = Annotated[
    str | None,
    typer.Option("--from", metavar="TIME", help="From this whole minute on, by --tz.", rich_help_panel=WHERE),
]
UntilOption = Annotated[
    str | None,
    typer.Option("--until", metavar="TIME", help="Until before this minute, by --tz.", rich_help_panel=WHERE),
]
