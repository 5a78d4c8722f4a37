"""The options of ``wattribute run`` that no other command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from wattribute.commands.options import WHOSE, whose
from wattribute.commands.output import Format
from wattribute.sinks.currencies import AMOUNT_MOST

_FAR: Final = "How far it is"


def _regex(name: str, about: str, default: str | bool = False) -> Any:
    return typer.Option(name, metavar="REGEX", help=about, rich_help_panel=_FAR, show_default=default)


CommandArgument = Annotated[
    list[str], typer.Argument(metavar="-- COMMAND…", help="What to run, with its arguments.")
]
ModelOption = Annotated[
    str, whose("--model", "WATTRIBUTE_MODEL", about="The model that is trained or served.")
]
VersionOption = Annotated[str, whose("--model-version", "WATTRIBUTE_MODEL_VERSION")]
RunOption = Annotated[
    str,
    whose(
        "--run",
        *("WATTRIBUTE_RUN", "WATTRIBUTE_RUN_ID"),
        about="Name of the run; started again under the same name, it is the next attempt.",
        default="from Slurm, W&B, …, else by command and time",
    ),
]
TeamOption = Annotated[str, whose("--team", "WATTRIBUTE_TEAM")]
PhaseOption = Annotated[
    str, whose("--phase", "WATTRIBUTE_PHASE", about="training, inference, …", default=True)
]
AttemptOption = Annotated[
    int | None,
    typer.Option(
        "--attempt",
        min=0,
        envvar="WATTRIBUTE_ATTEMPT",
        help="Which start of the run this is, from 0.",
        rich_help_panel=WHOSE,
        show_default="as Slurm and torchrun count, else the next after the last in the store",
    ),
]
ProgressOption = Annotated[
    str | None,
    _regex("--progress", "Matches the step in a line of output; a second group, the number of steps."),
]
CheckpointOption = Annotated[
    str | None,
    _regex("--checkpoint", "Matches a line that says that a checkpoint was saved; a group, its step."),
]
ResumeOption = Annotated[
    str | None,
    _regex("--resume", "Matches the step that the run resumes from.", "the last checkpoint reported"),
]
ProgressFileOption = Annotated[
    Path | None,
    typer.Option(
        "--progress-file",
        metavar="FILE",
        help="Look for these in this file, and leave the output alone.",
        rich_help_panel=_FAR,
    ),
]
StepsOption = Annotated[
    int | None,
    typer.Option("--steps", min=1, help="How many steps the run has in all.", rich_help_panel=_FAR),
]
PriceOption = Annotated[
    float | None,
    typer.Option(
        "--price-per-gpu-hour",
        metavar="USD",
        min=0,
        max=AMOUNT_MOST,
        help="Add this price to the price book, for the GPUs that it held, as 'price add' does.",
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", metavar="FILE", help="Also write the cost to this file, as rows for programs."),
]
OutputFormatOption = Annotated[Format, typer.Option("--format", help="Format of the rows in --output.")]
