"""The command ``wattribute``: its subcommands, and how each of them ends.

Exit status 0; 1 where something is wrong, 2 for a wrong option or setting, 130 after Ctrl-C: each with one
line on standard error that says what it is and what to do.
"""

from __future__ import annotations

import errno
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import typer

from wattribute import __version__
from wattribute.commands.check_config import check_config
from wattribute.commands.collect import collect
from wattribute.commands.compare import compare
from wattribute.commands.cost import cost
from wattribute.commands.doctor import doctor
from wattribute.commands.emit import emit
from wattribute.commands.explain import explain
from wattribute.commands.host import host
from wattribute.commands.lineage import lineage
from wattribute.commands.migrate import migrate
from wattribute.commands.models import models
from wattribute.commands.price import price
from wattribute.commands.query import query
from wattribute.commands.reconcile import reconcile
from wattribute.commands.record import record
from wattribute.commands.replay import replay
from wattribute.commands.run import run as run_command
from wattribute.commands.runs import runs
from wattribute.commands.stream import stream
from wattribute.commands.top import top
from wattribute.commands.up import up
from wattribute.commands.verify import verify
from wattribute.commands.watts import watts
from wattribute.errors import UsageError, WattributeError

# typer brings a click of its own since 0.20, and used the installed one before: this finds either.
_ClickException: Final[Any] = typer.BadParameter.__mro__[2]
_INTERRUPTED: Final = 130
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_EXTRAS: Final = {
    "numba": "stream",
    "numpy": "stream",
    "pyarrow": "stream",
    "clickhouse_connect": "stream",
    "chdb": "embedded",
    "opentelemetry": "otlp",
}

app = typer.Typer(
    name="wattribute",
    help="What each training run, model version and inference costs on GPUs: in joules, GPU time and money.",
    epilog="Begin with: [bold]wattribute up --simulate[/bold], then [bold]wattribute cost[/bold]",
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(panel: str, function: Callable[..., None], *examples: str, **context: bool) -> None:
    """Make a function a subcommand. Its docstring is the help, without the source's line breaks."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    shown = ("[bold]For example[/bold]", *examples)
    app.command(
        help="\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs),
        epilog="\n\n".join(shown),  # typer makes a paragraph of what an empty line parts
        rich_help_panel=panel,
        context_settings=context or None,
    )(function)


_RUN, _ASK, _KEEP = "Run", "Ask", "Keep"
_add(
    _RUN,
    up,
    "wattribute up",
    "wattribute up --simulate --duration 1m",
    "wattribute up --replay recorded.ndjson.zst",
)
_add(
    _RUN,
    run_command,
    "wattribute run --model llama --model-version v3 --run sft-7 -- python train.py --lr 1e-4",
    r"wattribute run --run sft-7 --progress 'step (\d+)/(\d+)' --checkpoint 'saved (\d+)' -- python train.py",
    "wattribute run --simulate -- sleep 5",
    allow_interspersed_args=False,  # what follows the command is the command's
)
_add(_RUN, collect, "wattribute collect --bus kafka://broker:9092", "wattribute collect --fast-hz 100")
_add(_RUN, stream, "wattribute stream --bus kafka://broker:9092 --store clickhouse://w@ch:8123/wattribute")
_add(
    _RUN,
    record,
    "wattribute record node-1.ndjson.zst --duration 10m",
    "wattribute record churn.ndjson --simulate --scenario churn --virtual-time --duration 10m",
)
_add(
    _RUN,
    replay,
    "wattribute replay node-1.ndjson.zst",
    "wattribute replay nvidia-smi.csv --workload model=llama,run=r1 --timezone Europe/Berlin",
    "cat part1.zst part2.zst | wattribute replay -",
)
app.add_typer(emit, name="emit", rich_help_panel=_RUN)
_add(_ASK, top, "wattribute top", "wattribute top --format json")
_add(
    _ASK,
    cost,
    "wattribute cost --since 24h",
    "wattribute cost --by team,run --since 2026-06-01 --until 2026-07-01 --policy memory",
    "wattribute cost --by day,team --since 'last month' --tz Europe/Berlin",
    "wattribute cost --by model,model_version --unit output_tokens --format json",
)
_add(
    _ASK,
    reconcile,
    "wattribute reconcile --since 'last month' --until 'this month'",
    "wattribute reconcile --by provider --invoice 8412.50 --since 2026-06 --until 2026-07",
)
_add(_ASK, models, "wattribute models --since 24h", "wattribute models --policy active --format csv")
_add(
    _ASK,
    compare,
    "wattribute compare chat@v1 chat@v2",
    "wattribute compare chat@v1 chat@v2 --since 7d --format json",
)
_add(_ASK, watts, "wattribute watts --since 7d", "wattribute watts --format csv > watts.csv")
_add(_ASK, runs, "wattribute runs --since 7d", "wattribute runs --policy memory --format json")
_add(
    _ASK,
    query,
    "wattribute query 'SELECT model, sum(active_energy_uj) FROM attribution FINAL GROUP BY model'",
    "wattribute query 'SELECT * FROM conservation'  (no row: the parts are the whole)",
    "wattribute query --format csv < question.sql",
)
_add(
    _ASK,
    explain,
    "wattribute explain --model llama --since 24h",
    "wattribute explain --run r1 --policy memory",
    "wattribute explain --gpu GPU-59097160-… --window 2026-06-01T08:00:05Z",
)
app.add_typer(price, name="price", rich_help_panel=_KEEP)
app.add_typer(lineage, name="lineage", rich_help_panel=_KEEP)
app.add_typer(host, name="host", rich_help_panel=_KEEP)
_add(_KEEP, doctor, "wattribute doctor", "wattribute doctor --format json")
_add(_KEEP, verify, "wattribute verify", "wattribute verify additive drift --seeds 3 --format json")
_add(_KEEP, check_config, "wattribute check-config --config wattribute.toml")
_add(_KEEP, migrate, "wattribute migrate --plan --store clickhouse://w@ch:8123/wattribute")


@app.callback()
def _everywhere(
    version: Annotated[bool, typer.Option("--version", help="Say which version this is.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the program an error arose.")] = False,
) -> None:
    del debug  # ``run`` has taken it, wherever it stood
    if version:
        typer.echo(f"wattribute {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command of this process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit status."""
    # What a command that we are to run is given is not for us.
    ours = arguments.index("--") if "--" in arguments else 1 if arguments[:1] == ["run"] else len(arguments)
    debug = "--debug" in arguments[:ours]
    _set_up_output(debug)
    try:
        kept = [*(part for part in arguments[:ours] if part != "--debug"), *arguments[ours:]]
        status = app(kept, prog_name="wattribute", standalone_mode=False)
        sys.stdout.flush()
        if status == _INTERRUPTED:  # typer makes that of Ctrl-C
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # Whoever read has enough. Python would complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        what, status = _ending(error)
        if what:
            sys.stderr.write(f"wattribute: {' '.join(what.split())}\n")
        return status


def _set_up_output(debug: bool) -> None:
    for stream_ in (sys.stdout, sys.stderr):
        if hasattr(stream_, "reconfigure"):
            stream_.reconfigure(errors="replace")  # a terminal that has no µ gets a question mark
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(logging.Formatter("wattribute: %(message)s"))
    if not debug:
        # What libraries log comes as an error of ours too: librdkafka alone says it ten times a second.
        shown.addFilter(
            lambda line: line.name.startswith("wattribute.") and "[rdkafka#" not in line.getMessage()
        )
    logging.basicConfig(level=logging.WARNING, handlers=[shown])


def _ending(error: BaseException) -> tuple[str, int]:
    """What is said of an error, and the exit status."""
    what, status = f"this is a bug in wattribute: {type(error).__name__}: {error}; --debug shows where", 1
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        what, status = "interrupted", _INTERRUPTED
    elif isinstance(error, WattributeError):
        what, status = str(error), 2 if isinstance(error, UsageError) else 1
    elif isinstance(error, _ClickException):
        what, status = _usage(error), error.exit_code
    elif isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _EXTRAS:
        extra = _EXTRAS[(error.name or "").partition(".")[0]]
        what = f"this needs {error.name}: pip install 'wattribute[{extra}]'"
    elif isinstance(error, OSError) and error.errno in _FULL:
        what = f"cannot write what is to be shown: {error.strerror}"
    return what, status


def _usage(error: Any) -> str:
    """What click says, in one line; empty where it has shown the help already."""
    what = error.format_message().rstrip(".").replace(": Value error, ", ": ")  # whose words those are
    path = error.ctx.command_path if getattr(error, "ctx", None) else "wattribute"
    where = path.removeprefix("wattribute").strip()
    return f"{where + ': ' if where else ''}{what}; see '{path} --help'" if what else ""
