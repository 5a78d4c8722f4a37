"""The command ``wattribute``: its subcommands, exit status and error lines.

The exit status is 0 for success, 1 for an error, 2 for a wrong option or setting, 130 after Ctrl-C. Every
failure prints one line on standard error that says what is wrong and what to do.
"""

from __future__ import annotations

import errno
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any, Final, NamedTuple

import typer

from wattribute import __version__
from wattribute.errors import INTERRUPTED, UsageError, WattributeError, printable, unusable

# Since 0.20 typer contains its own click; older versions use the installed one. This finds either.
_ClickException: Final[Any] = typer.BadParameter.__mro__[2]
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_CLOSED: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
_EMBEDDED: Final = "'wattribute[embedded]'"
_STREAM: Final = f"{_EMBEDDED}, or 'wattribute[stream]' for a ClickHouse server"
# What to install where a module is missing.
_EXTRAS: Final = {
    "numba": _STREAM,
    "numpy": _STREAM,
    "pyarrow": _STREAM,
    "clickhouse_connect": _STREAM,
    "chdb": _EMBEDDED,
    "opentelemetry": "'wattribute[otlp]'",
}

_RUN, _ASK, _KEEP = "Run", "Ask", "Keep"


class _Command(NamedTuple):
    """A subcommand: a function, or an app with subcommands of its own, in a module of its name."""

    panel: str
    examples: Sequence[str] = ()
    has_arguments_of_another: bool = False  # what follows is for the command that it starts


_COMMANDS: Final[Mapping[str, _Command]] = {
    "up": _Command(
        _RUN,
        (
            "wattribute up",
            "wattribute up --simulate --duration 1m",
            "wattribute up --replay recorded.ndjson.zst",
        ),
    ),
    "run": _Command(
        _RUN,
        (
            "wattribute run --model llama --model-version v3 --run sft-7 -- python train.py --lr 1e-4",
            r"wattribute run --run sft-7 --progress 'step (\d+)/(\d+)' --checkpoint 'saved (\d+)' "
            "-- python train.py",
            "wattribute run --simulate -- sleep 5",
        ),
        has_arguments_of_another=True,
    ),
    "collect": _Command(
        _RUN, ("wattribute collect --bus kafka://broker:9092", "wattribute collect --fast-hz 100")
    ),
    "stream": _Command(
        _RUN, ("wattribute stream --bus kafka://broker:9092 --store clickhouse://w@ch:8123/wattribute",)
    ),
    "record": _Command(
        _RUN,
        (
            "wattribute record node-1.ndjson.zst --duration 10m",
            "wattribute record churn.ndjson --simulate --scenario churn --virtual-time --duration 10m",
        ),
    ),
    "replay": _Command(
        _RUN,
        (
            "wattribute replay node-1.ndjson.zst",
            "wattribute replay nvidia-smi.csv --workload model=llama,run=r1 --timezone Europe/Berlin",
            "cat part1.zst part2.zst | wattribute replay -",
        ),
    ),
    "emit": _Command(_RUN),
    "top": _Command(_ASK, ("wattribute top", "wattribute top --format json")),
    "cost": _Command(
        _ASK,
        (
            "wattribute cost --since 24h",
            "wattribute cost --by team,run --since 2026-06-01 --until 2026-07-01 --policy memory",
            "wattribute cost --by day,team --since 'last month' --tz Europe/Berlin",
            "wattribute cost --by model,model_version --unit output_tokens --format json",
        ),
    ),
    "reconcile": _Command(
        _ASK,
        (
            "wattribute reconcile --since 'last month' --until 'this month'",
            "wattribute reconcile --by provider --invoice 8412.50 --since 2026-06 --until 2026-07",
        ),
    ),
    "models": _Command(
        _ASK, ("wattribute models --since 24h", "wattribute models --policy active --format csv")
    ),
    "compare": _Command(
        _ASK,
        (
            "wattribute compare chat@v1 chat@v2",
            "wattribute compare chat@v1 chat@v2 --since 7d --format json",
        ),
    ),
    "watts": _Command(_ASK, ("wattribute watts --since 7d", "wattribute watts --format csv > watts.csv")),
    "runs": _Command(_ASK, ("wattribute runs --since 7d", "wattribute runs --policy memory --format json")),
    "query": _Command(
        _ASK,
        (
            "wattribute query 'SELECT model, sum(active_energy_uj) FROM attribution FINAL GROUP BY model'",
            "wattribute query 'SELECT * FROM conservation'  (no row: every window adds up)",
            "wattribute query --format csv < question.sql",
        ),
    ),
    "explain": _Command(
        _ASK,
        (
            "wattribute explain --model llama --since 24h",
            "wattribute explain --run r1 --policy memory",
            "wattribute explain --gpu GPU-59097160-… --window 2026-06-01T08:00:05Z",
        ),
    ),
    "price": _Command(_KEEP),
    "lineage": _Command(_KEEP),
    "host": _Command(_KEEP),
    "doctor": _Command(_KEEP, ("wattribute doctor", "wattribute doctor --format json")),
    "verify": _Command(
        _KEEP,
        (
            "wattribute verify",
            "wattribute verify additive drift --seeds 3 --format json",
            "wattribute verify --gpu --trace h200.ndjson.gz",
        ),
    ),
    "check-config": _Command(_KEEP, ("wattribute check-config --config wattribute.toml",)),
    "migrate": _Command(_KEEP, ("wattribute migrate --plan --store clickhouse://w@ch:8123/wattribute",)),
}


def _app(asked: str) -> typer.Typer:
    """Build the command with all its subcommands, or with ``asked`` alone if that is one: importing all takes
    half a second."""
    app = typer.Typer(
        name="wattribute",
        help="What each training run, model version and inference costs on GPUs: in joules, GPU time and"
        " money.",
        epilog="Begin with: [bold]wattribute up --simulate[/bold], then [bold]wattribute cost[/bold]",
        rich_markup_mode="rich",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        callback=_everywhere,
    )
    for name in [asked] if asked in _COMMANDS else _COMMANDS:
        _add(app, name, _COMMANDS[name])
    return app


def _add(app: typer.Typer, name: str, command: _Command) -> None:
    """Add a subcommand, or an app of several."""
    attribute = name.replace("-", "_")
    found = getattr(import_module(f"wattribute.commands.{attribute}"), attribute)
    if isinstance(found, typer.Typer):
        for part in found.registered_commands:
            part.help = _help_of(part.callback)
        app.add_typer(found, name=name, rich_help_panel=command.panel)
        return
    shown = ("[bold]For example[/bold]", *command.examples)
    app.command(
        name,
        help=_help_of(found),
        epilog="\n\n".join(shown),  # typer makes paragraphs at empty lines
        rich_help_panel=command.panel,
        context_settings={"allow_interspersed_args": not command.has_arguments_of_another},
    )(found)


def _help_of(function: Callable[..., Any] | None) -> str:
    """A function's docstring, without the source's line breaks."""
    paragraphs = inspect.cleandoc(function.__doc__ or "" if function else "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"wattribute {__version__}")
        raise typer.Exit


def _everywhere(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_say_version, is_eager=True),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the program an error came from.")
    ] = False,
) -> None:
    del version, debug  # ``run`` has already handled --debug, wherever it was written


def main() -> None:
    """Run the command of this process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit status."""
    # The arguments of the command that ``wattribute run`` starts are not ours.
    ours = arguments.index("--") if "--" in arguments else 1 if arguments[:1] == ["run"] else len(arguments)
    debug = "--debug" in arguments[:ours]
    _set_up_output(debug)
    try:
        kept = [*(part for part in arguments[:ours] if part != "--debug"), *arguments[ours:]]
        status = _app(next(iter(kept), ""))(kept, prog_name="wattribute", standalone_mode=False)
        sys.stdout.flush()
        if status == INTERRUPTED:  # typer returns this after Ctrl-C
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # The reader has closed the pipe. Without this, Python complains when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        what, status = _ending(error)
        if what:
            sys.stderr.write(f"wattribute: {printable(' '.join(what.split()))}\n")
        return status


def _set_up_output(debug: bool) -> None:
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed, as by >&-: reads nothing, output is lost
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - it is open until the end
    for stream_ in (sys.stdout, sys.stderr):
        if hasattr(stream_, "reconfigure"):
            stream_.reconfigure(errors="replace")  # a terminal that has no µ gets a question mark
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(logging.Formatter("wattribute: %(message)s"))
    if not debug:
        # Errors that libraries log reach the user as ours too, and librdkafka logs one ten times a second.
        shown.addFilter(
            lambda line: line.name.startswith("wattribute.") and "[rdkafka#" not in line.getMessage()
        )
    logging.basicConfig(level=logging.WARNING, handlers=[shown])


def _ending(error: BaseException) -> tuple[str, int]:
    """The line to print for an error, and the exit status."""
    what, status = f"this is a bug in wattribute: {type(error).__name__}: {error}; --debug shows where", 1
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        what, status = "interrupted", INTERRUPTED
    elif isinstance(error, WattributeError):
        what, status = str(error), 2 if isinstance(error, UsageError) else 1
    elif isinstance(error, _ClickException):
        what, status = _usage(error), error.exit_code
    elif isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _EXTRAS:
        what = f"this needs {error.name}: pip install {_EXTRAS[(error.name or '').partition('.')[0]]}"
    elif isinstance(error, OSError) and error.errno in _CLOSED and error.filename is not None:
        what = unusable(error)
    elif isinstance(error, OSError) and error.errno in _FULL:
        what = f"cannot write the output: {error.strerror}"
    return what, status


def _usage(error: Any) -> str:
    """The message of click in one line; empty where click has already shown the help."""
    what = error.format_message().rstrip(".").replace(": Value error, ", ": ")  # pydantic's words, in typer
    path = error.ctx.command_path if getattr(error, "ctx", None) else "wattribute"
    where = path.removeprefix("wattribute").strip()
    return f"{where + ': ' if where else ''}{what}; see '{path} --help'" if what else ""
