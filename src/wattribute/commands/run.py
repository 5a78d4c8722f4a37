"""``wattribute run``: run a command under a tag, and print what it cost."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from wattribute.collector.identity import Group, environment, environment_of, identity
from wattribute.collector.identity import attempt as attempt_of
from wattribute.commands.ends import is_collected, own_boot_id
from wattribute.commands.measuring import AddPrices, Measuring, Own, Telling
from wattribute.commands.options import (
    BusOption,
    ConfigOption,
    FastHzOption,
    HostOption,
    PolicyOption,
    ScenarioOption,
    SeedOption,
    SimulateOption,
    StoreOption,
    attempt_given,
)
from wattribute.commands.output import Format, check_file, note
from wattribute.commands.passing import ENDING, NOT_FOUND, Command, NotStartedError, end_as
from wattribute.commands.progress import Lines, Patterns, Progress, follow, pattern, written
from wattribute.commands.run_options import (
    AttemptOption,
    CheckpointOption,
    CommandArgument,
    ModelOption,
    OutputFormatOption,
    OutputOption,
    PhaseOption,
    PriceOption,
    ProgressFileOption,
    ProgressOption,
    ResumeOption,
    RunOption,
    StepsOption,
    TeamOption,
    VersionOption,
)
from wattribute.commands.run_report import add_price, notes_of, report_rows, write_file, write_report
from wattribute.commands.source import Source, load_host_settings, open_command_host
from wattribute.errors import RecordError, UsageError, WattributeError
from wattribute.records import NAME_MAX, Record, clean, parse
from wattribute.settings import Settings, local_folder
from wattribute.sinks.schema import check_policy

if TYPE_CHECKING:
    from wattribute.sinks.earlier import Earlier
    from wattribute.sinks.store import Readable

# Of several processes that a launcher starts together, the first reports the progress.
_COUNTS: Final = ("SLURM_NTASKS", "WORLD_SIZE")
_RANKS: Final = ("RANK", "SLURM_PROCID")
_WITHIN: Final = "WATTRIBUTE_WITHIN"  # the attempt that a command belongs to, if we report its start and end


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run, whose it is, and how to measure it."""

    words: Sequence[str]
    is_named: bool  # by whoever started it, or by a scheduler or tracker
    whose: Mapping[str, str]  # run, model, model_version, team, phase; empty where nobody said
    attempt: int | None
    patterns: Patterns
    progress_file: Path | None
    file_bytes: int  # its size now: earlier attempts wrote this, and made these steps
    steps: int | None
    settings: Settings
    source: Callable[[], Source] | None  # None: a collector of this machine measures
    price: float | None
    policy: str
    output: Path | None
    shape: Format

    @property
    def run(self) -> str:
        """The name of the run."""
        return self.whose["run"]


def run(
    context: typer.Context,
    command: CommandArgument,
    model: ModelOption = "",
    model_version: VersionOption = "",
    name: RunOption = "",
    team: TeamOption = "",
    phase: PhaseOption = "training",
    attempt: AttemptOption = None,
    progress: ProgressOption = None,
    checkpoint: CheckpointOption = None,
    resume: ResumeOption = None,
    progress_file: ProgressFileOption = None,
    steps: StepsOption = None,
    price: PriceOption = None,
    policy: PolicyOption = "equal",
    output: OutputOption = None,
    shape: OutputFormatOption = Format.json,
    simulate: SimulateOption = False,
    scenario: ScenarioOption = None,
    seed: SeedOption = 1,
    host: HostOption = None,
    fast_hz: FastHzOption = None,
    store: StoreOption = None,
    bus: BusOption = None,
    config: ConfigOption = None,
) -> None:
    """Run a command under a tag, and print what it cost to standard error when it ends.

    All processes that it starts are tagged. Its input, output, signals and exit status stay as they are.
    Where no collector of this machine sends to the bus, it samples the GPUs itself while the command runs:
    that needs no daemon and no special rights.
    """
    if (checkpoint or resume or progress_file) and not progress:
        raise UsageError("--checkpoint, --resume and --progress-file need --progress")
    if scenario is not None and not simulate:
        raise UsageError("--scenario needs --simulate")
    check_policy(policy)  # before anything has run
    options = {"store": store, "bus": bus, "host": host, "fast_hz": fast_hz}
    settings = load_host_settings(options, config, simulate)
    collected = is_collected(settings)
    if collected and simulate:
        raise UsageError(
            f"a collector already sends to {settings.bus}: for --simulate, name another --store or --bus"
        )
    if output is not None:
        check_file("--output", output)
    named = name if clean(name) else _name()
    whose = {"run": named or _made_up_name(command[0]), "model": model, "model_version": model_version}
    whose |= {"team": team, "phase": phase}
    counted = _counted(context, attempt, named)
    _check(whose, counted, steps)
    whose = {key: clean(text) for key, text in whose.items()}  # as collectors read it from an environment
    plan = Plan(
        words=command,
        is_named=bool(named),
        whose=whose,
        attempt=counted,
        patterns=Patterns(
            pattern("--progress", progress, 1, 2),
            pattern("--checkpoint", checkpoint, 0, 1),
            pattern("--resume", resume, 1, 1),
        ),
        progress_file=progress_file,
        file_bytes=0 if progress_file is None else written(progress_file),
        steps=steps,
        settings=settings,
        source=None if collected else lambda: open_command_host(settings, simulate, scenario, seed),
        price=price,
        policy=policy,
        output=output,
        shape=shape,
    )
    end_as(_run(plan))


def _run(plan: Plan) -> int:
    """Run the command and report on it; return its exit status."""
    word = plan.words[0]
    if not _may_be_there(word):
        _say(f"cannot run {word}: there is no such command")
        return NOT_FOUND
    command = Command()
    progress = Progress(plan.whose, plan.patterns, plan.steps)
    is_first = next((os.environ[name] for name in _RANKS if name in os.environ), "0") == "0"
    told: Callable[[], list[Record]] = progress.records if is_first else list
    with ExitStack() as stack:
        source: Source | None = None
        measuring: Measuring | None = None
        try:
            if plan.source is None:
                measuring = Telling(plan.settings, plan.run, told)
            else:
                source = stack.enter_context(closing(plan.source()))
                measuring = Own(plan.settings, source, plan.run, told)
            measuring.begin()
        except UsageError:
            command.release()
            raise
        except WattributeError as error:
            _say(f"nothing is measured: {error}")
        try:
            attempt = _start(plan, command, progress, measuring)
        except NotStartedError as error:
            command.release()
            _say(str(error))
            os._exit(error.status)  # the threads that have begun must not delay it
        status = _wait(plan, command, progress, source)
        if measuring is not None:
            told_to_leave = threading.Thread(target=_leave_if_told, args=(measuring, status), daemon=True)
            told_to_leave.start()
            _report(plan, measuring, attempt, source)
    return status


def _may_be_there(word: str) -> bool:
    """Whether there is such a command. True if that cannot be read: to start it then gives the reason."""
    try:
        return shutil.which(word, os.F_OK) is not None or ("/" in word and Path(word).exists())
    except OSError:
        return True


def _start(plan: Plan, command: Command, progress: Progress, measuring: Measuring | None) -> int:
    """Start the command; return the number of its attempt. Raises NotStartedError."""
    attempt, earlier = plan.attempt, None
    if measuring is not None and plan.is_named:
        earlier = measuring.earlier(command.check)
        _point_out(plan, earlier)
    if attempt is None:
        # Processes that are started together cannot know whether the attempts in the store are earlier ones.
        are_several = any(os.environ.get(name, "1") != "1" for name in _COUNTS)
        known = None if earlier is None or are_several else earlier.attempt
        attempt = 0 if known is None else known + 1
    is_within = os.environ.get(_WITHIN) == _within(plan, attempt)
    # What outlives the attempt in which it was started, as with sbatch or setsid, is no longer part of it.
    is_part = is_within and (earlier is None or attempt not in earlier.ended)
    reached = earlier.reached.get(attempt) if earlier and is_within else None
    progress.start(attempt, earlier.checkpoint_step if earlier else None, is_part, reached)
    reads_output = plan.patterns and plan.progress_file is None
    reader = (lambda: Lines(progress.read).feed) if reads_output else None
    command.start(plan.words, _tagged(plan, attempt, measuring is not None), reader)
    return attempt


def _wait(plan: Plan, command: Command, progress: Progress, source: Source | None) -> int:
    """Wait for the command's end; return its exit status."""
    simulated = source.simulated if source else None
    if simulated is not None:
        simulated.start_command(command.pid)
    ended = threading.Event()
    follower = None
    if plan.progress_file is not None:
        arguments = (plan.progress_file, Lines(progress.read), ended, plan.file_bytes)
        follower = threading.Thread(target=follow, args=arguments, name="progress", daemon=True)
        follower.start()
    status = command.wait()
    if simulated is not None:
        simulated.end_command(command.pid)
    ended.set()
    if follower is not None:
        follower.join()
    progress.end(status)
    command.forget()
    if plan.patterns and progress.step is None:
        _say("no step was read: --progress matched no line")
    if progress.told_before is not None:
        _say(
            f"its steps do not count, because this attempt had reached step {progress.told_before:,} before;"
            " if they are other steps, give it another --run"
        )
    if progress.went_back:
        _say(
            f"{progress.went_back:,} steps were below an earlier one and do not count: if each epoch counts"
            " from 0 again, let --progress match a step that does not"
        )
    if progress.unread:
        _say(f"{progress.unread:,} groups that matched were not a whole number")
    return status


def _report(plan: Plan, measuring: Measuring, attempt: int, source: Source | None) -> None:
    """Say what it cost. Nothing that fails here changes how the command ended."""
    simulated = source is not None and source.simulated is not None

    def ask(store: Readable, add: AddPrices) -> None:
        if plan.price is not None:
            add_price(store, plan.run, plan.price, add)
        rows = report_rows(store, plan.run, attempt, plan.policy)
        if not any(row["attempt"] == attempt for row in rows):
            _say("it was not seen on a GPU" + ("" if measuring.complaints() else ": nothing to pay"))
        if rows:
            write_report(rows, notes_of(store, rows, plan.policy), plan.run, simulated)
        if plan.output is not None:
            write_file(rows, plan.shape, plan.output)

    try:
        measuring.end(ask)
        for complaint in measuring.complaints():
            _say(complaint)
    except ModuleNotFoundError as error:
        _say(f"what it cost is not known: this needs {error.name}: pip install 'wattribute[embedded]'")
    except WattributeError as error:
        _say(f"what it cost is not known: {error}")
    except Exception as error:  # a bug in wattribute must not look like a failure of the command
        _say(f"what it cost is not known, because of a bug in wattribute: {type(error).__name__}: {error}")


def _leave_if_told(measuring: Measuring, status: int) -> None:
    """If a signal comes that ends us, end as the command did, without waiting for what it cost."""
    signal.sigwait({number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN})
    _say("not waiting for what it cost: 'wattribute runs' shows it once the bus is read into the store")
    measuring.leave()
    os._exit(status if status >= 0 else 128 - status)  # the threads of the store would delay us


def _check(whose: Mapping[str, str], attempt: int | None, steps: int | None) -> None:
    """Raise UsageError for what records cannot hold, or what collectors would cut in an environment."""
    for key, text in whose.items():
        if len(text) > NAME_MAX:
            raise UsageError(f"{key} is {len(text):,} characters long; {NAME_MAX} at most")
    try:
        parse({"kind": "workload", "t": 1, "pid": 1, "start_ns": 1, **whose, "attempt": attempt})
        parse({"kind": "run", "t": 1, "run": whose["run"], "event": "start", "steps": steps})
    except RecordError as error:
        raise UsageError(str(error)) from error


def _name() -> str:
    """What a scheduler, tracker or launcher calls the run; empty where none does."""
    raw = b"\0".join(f"{key}={value}".encode(errors="replace") for key, value in os.environ.items())
    named: str = identity(environment(raw), Group())["run"]
    return named


def _counted(context: typer.Context, attempt: int | None, run: str) -> int | None:
    """Which start of the run it is; None if nobody gave or counts that."""
    given = attempt_given(context, attempt, run)
    return attempt_of(environment_of(run, os.environ)) if given is None else given


def _made_up_name(word: str) -> str:
    moment = f"{datetime.now():%Y%m%d-%H%M%S}"  # noqa: DTZ005 - a name, for people
    # A script may start several in a second, and machines of a fleet may do so at once, each as pid 1.
    return f"{Path(word).name[: NAME_MAX // 2]}-{moment}-{secrets.token_hex(2)}"


def _within(plan: Plan, attempt: int) -> str:
    bus = plan.settings.bus
    if local_folder(bus) is not None:  # on another machine, as with srun, that folder is another bus
        bus = f"{own_boot_id()} {bus}"
    return f"{attempt} {bus} {plan.run}"


def _tagged(plan: Plan, attempt: int, is_told: bool) -> dict[str, str]:
    """The command's environment. ``is_told``: whether we report its start and end."""
    tags = {f"WATTRIBUTE_{key.upper()}": value for key, value in plan.whose.items() if value}
    tags |= {"WATTRIBUTE_ATTEMPT": str(attempt)} | ({_WITHIN: _within(plan, attempt)} if is_told else {})
    tags |= {"WATTRIBUTE_STORE": plan.settings.store, "WATTRIBUTE_BUS": plan.settings.bus}
    # Without SPT_NOENV, setproctitle overwrites the environment of a program as others read it.
    return {"SPT_NOENV": "1", **os.environ, **tags}


def _point_out(plan: Plan, earlier: Earlier | None) -> None:
    """Print what a person should know before the command starts."""
    if earlier is None and plan.attempt is None:
        _say(f"earlier attempts of run {plan.run} are not known: give --attempt to say which this is")
    model = plan.whose["model"]
    if earlier is not None and model and any(other != model for other in earlier.models):
        others = ", ".join(other for other in earlier.models if other != model)
        _say(
            f"run {plan.run} was used for {others} before, and both costs are added up;"
            " give --run another name if this is another run"
        )


def _say(text: str) -> None:
    with suppress(OSError):  # a closed terminal must not change how the command ended
        note(f"wattribute: {text}")
