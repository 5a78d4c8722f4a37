"""The options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from wattribute.collector.identity import environment_of
from wattribute.commands.output import Format
from wattribute.errors import UsageError

PLACES: Final = "Where things are"
SPAN: Final = "Which span and rows"
HOST: Final = "What is collected"
WHOSE: Final = "Whose it is"
POLICIES: Final = {
    "equal": "idle energy and time of a GPU are split evenly over its holders",
    "memory": "idle energy and time of a GPU are split over its holders by the memory they hold",
    "active": "idle energy and time of a GPU are split over its holders by the work they do",
}


def asked(name: str, about: str, metavar: str | None = None) -> Any:
    """An option that says which span and rows a query is about."""
    return typer.Option(name, metavar=metavar, help=about, rich_help_panel=SPAN)


def whose(name: str, *variables: str, about: str = "", default: str | bool = False) -> Any:
    """An option that says whose something is, which the environment may say too."""
    return typer.Option(name, envvar=list(variables), help=about, rich_help_panel=WHOSE, show_default=default)


def policy_note(policy: str) -> str:
    """The line under a table that says who pays for idle time."""
    return f"policy {policy}: {POLICIES[policy]}"


def check_there(file: Path) -> None:
    """Raise UsageError if a file to read does not exist; - is standard input."""
    if str(file) != "-" and not file.exists():
        raise UsageError(f"there is no file {file}")


def attempt_given(context: typer.Context, attempt: int | None, run: str) -> int | None:
    """The attempt of --attempt, or of WATTRIBUTE_ATTEMPT if that belongs to this run. A run started within
    another inherits the other's variable, and would report one attempt however often it is started."""
    source = context.get_parameter_source("attempt")
    is_typed = source is not None and source.name == "COMMANDLINE"
    return attempt if is_typed or "WATTRIBUTE_ATTEMPT" in environment_of(run, os.environ) else None


StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="chdb:///folder or clickhouse://user@host:8123/database.",
        rich_help_panel=PLACES,
        show_default="chdb://~/.local/share/wattribute/store",
    ),
]
BusOption = Annotated[
    str | None,
    typer.Option(
        "--bus",
        metavar="URL",
        help="local:///folder or kafka://broker:9092.",
        rich_help_panel=PLACES,
        show_default="local://, beside the store",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The configuration file.",
        rich_help_panel=PLACES,
        show_default="wattribute.toml, if it is here",
    ),
]
FormatOption = Annotated[
    Format, typer.Option("--format", help="table is for people; json is one array of objects.")
]
SinceOption = Annotated[
    str | None,
    asked(
        "--since",
        "From this time on: 2026-06-01, 2026-06, 2026-06-01T08:00Z, today, yesterday, monday, 'last month',"
        " or an age: 30m (minutes), 12h, 7d. A day, week or month means its beginning.",
        "TIME",
    ),
]
UntilOption = Annotated[str | None, asked("--until", "Up to this time, which is not included.", "TIME")]
PolicyOption = Annotated[
    str,
    asked(
        "--policy",
        "How the idle part of a shared GPU is split: evenly, by memory held, or by work done.",
        "|".join(POLICIES),
    ),
]
SimulateOption = Annotated[
    bool,
    typer.Option("--simulate", help="Use a simulated GPU host instead of this one.", rich_help_panel=HOST),
]
ScenarioOption = Annotated[
    str | None,
    typer.Option(
        "--scenario",
        metavar="NAME|FILE.toml",
        help="What the simulated host runs: demo, churn, or a file.",
        rich_help_panel=HOST,
        show_default="demo",
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", help="The same seed gives the same simulated host.", rich_help_panel=HOST)
]
HostOption = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="NAME",
        help="The name of this host.",
        rich_help_panel=HOST,
        show_default="its name",
    ),
]
FastHzOption = Annotated[
    float | None,
    typer.Option(
        "--fast-hz",
        metavar="HZ",
        help="Readings of energy and power a second, 1 to 100.",
        rich_help_panel=HOST,
        show_default="10",
    ),
]
DurationOption = Annotated[
    str | None,
    typer.Option("--duration", metavar="TIME", help="End after this time: 30, 90s, 10m."),
]
TzOption = Annotated[
    str,
    asked(
        "--tz",
        "Time zone of days, weeks and months, and of times without one: Europe/Berlin, …",
        "ZONE",
    ),
]
