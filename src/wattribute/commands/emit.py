"""``wattribute emit``: report units that came out, quality scores, or the progress of a run."""

from __future__ import annotations

import os
import uuid
from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from wattribute.collector.identity import attempt as attempt_of
from wattribute.collector.identity import environment_of
from wattribute.collector.own_pod import own_container, own_pod
from wattribute.collector.told import record_of
from wattribute.commands.ends import open_producer, own_encoder
from wattribute.commands.options import BusOption, ConfigOption, HostOption, attempt_given, whose
from wattribute.commands.output import note
from wattribute.commands.since import parse_duration_s, parse_time
from wattribute.errors import BusError, RecordError, UsageError
from wattribute.settings import Settings, load_settings, local_folder

emit = typer.Typer(
    help="Report units that came out, quality scores, or the progress of a run.",
    no_args_is_help=True,
    epilog="[bold]For example[/bold]\n\n  wattribute emit unit images 64 --model sdxl --model-version v3"
    "\n\n  wattribute emit run checkpoint --run sft-7 --step 1200 --steps 5000",
)
_FLUSH_S: Final = 10.0

ModelOption = Annotated[str, whose("--model", "WATTRIBUTE_MODEL")]
VersionOption = Annotated[str, whose("--model-version", "WATTRIBUTE_MODEL_VERSION")]
RunOption = Annotated[str, whose("--run", "WATTRIBUTE_RUN", "WATTRIBUTE_RUN_ID")]
AttemptOption = Annotated[
    int | None,
    whose(
        "--attempt",
        "WATTRIBUTE_ATTEMPT",
        about="Which start of the run this is, from 0.",
        default="what Kubernetes, Slurm and torchrun count",
    ),
]
PhaseOption = Annotated[str, whose("--phase", "WATTRIBUTE_PHASE", about="inference, training, …")]
AtOption = Annotated[
    str | None, typer.Option("--at", metavar="TIME", help="When it happened.", show_default="now")
]


@emit.command()
def unit(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="UNIT", help="output_tokens, requests, steps, images, …")],
    quantity: Annotated[float, typer.Argument(metavar="QUANTITY", help="How many of them came out.")],
    period: Annotated[
        str | None,
        typer.Option("--period", metavar="10s|5m", help="The time up to --at in which they came out."),
    ] = None,
    model: ModelOption = "",
    model_version: VersionOption = "",
    run: RunOption = "",
    attempt: AttemptOption = None,
    phase: PhaseOption = "",
    source: Annotated[
        str,
        typer.Option(
            "--source",
            help="Who counted them. Only one source counts: engine, else span, client, gateway, others.",
        ),
    ] = "emit",
    event_id: Annotated[
        str | None,
        typer.Option(
            "--event-id",
            help="A name for this report: sent again under it, it counts once.",
            show_default="a new one",
        ),
    ] = None,
    at: AtOption = None,
    host: HostOption = None,
    bus: BusOption = None,
    config: ConfigOption = None,
) -> None:
    """Report that units came out: tokens, requests, steps, images. 'cost --unit' divides by them."""
    if not (model + run).strip():
        raise UsageError(
            "units need a model or a run: give --model or --run, or set WATTRIBUTE_MODEL or WATTRIBUTE_RUN"
        )
    told: dict[str, Any] = {"unit": name, "quantity": quantity, "phase": phase, "source": source}
    if period is not None:
        told["period_ns"] = round(parse_duration_s(period) * 1e9)
    told |= {"event_id": event_id or uuid.uuid4().hex}
    told |= {"model": model, "model_version": model_version, "run": run}
    settings = load_settings({"bus": bus, "host": host}, config)
    counted = _counted(context, attempt, run, settings) if run else None
    _send("unit", told | {"attempt": counted}, at, settings)


@emit.command()
def quality(
    metric: Annotated[str, typer.Argument(metavar="METRIC", help="mmlu, resolved_ratio, …")],
    value: Annotated[float, typer.Argument(metavar="VALUE")],
    model: ModelOption = "",
    model_version: VersionOption = "",
    run: RunOption = "",
    samples: Annotated[
        int | None, typer.Option("--samples", help="How many samples it was measured on.")
    ] = None,
    dataset: Annotated[
        str, typer.Option("--dataset", help="The dataset it was measured on.", show_default=False)
    ] = "",
    lower_is_better: Annotated[
        bool, typer.Option("--lower-is-better", help="Lower is better, as for a loss.")
    ] = False,
    at: AtOption = None,
    host: HostOption = None,
    bus: BusOption = None,
    config: ConfigOption = None,
) -> None:
    """Report how good a model version is, as an evaluation found it."""
    if not (model + run).strip():
        raise UsageError(
            "a score needs a model or a run: give --model or --run, or set WATTRIBUTE_MODEL or WATTRIBUTE_RUN"
        )
    told: dict[str, Any] = {"metric": metric, "value": value, "higher_is_better": not lower_is_better}
    told |= {"sample_count": samples, "dataset": dataset, "source": "emit"}
    told |= {"model": model, "model_version": model_version, "run": run}
    _send("quality", told, at, load_settings({"bus": bus, "host": host}, config))


@emit.command()
def run(
    context: typer.Context,
    event: Annotated[str, typer.Argument(metavar="start|checkpoint|finish|fail")],
    name: RunOption = "",
    attempt: AttemptOption = None,
    step: Annotated[
        int | None,
        typer.Option("--step", help="The step reached; with start, the step it resumes from."),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="How many steps the run has in all.")] = None,
    at: AtOption = None,
    host: HostOption = None,
    bus: BusOption = None,
    config: ConfigOption = None,
) -> None:
    """Report how far a training run is: 'wattribute runs' derives waste and the projected end from it."""
    if not name:
        raise UsageError("the run has no name: give --run or set WATTRIBUTE_RUN")
    settings = load_settings({"bus": bus, "host": host}, config)
    told = {"run": name, "event": event, "step": step, "steps": steps}
    _send("run", told | {"attempt": _counted(context, attempt, name, settings)}, at, settings)


def _counted(context: typer.Context, attempt: int | None, run: str, settings: Settings) -> int:
    """The attempt as given, or as the collector counts it from environment and kubelet: they must agree."""
    given = attempt_given(context, attempt, run)
    if given is not None:
        return given
    own = own_container()
    environ = environment_of(run, os.environ)
    if own is None:
        return attempt_of(environ) or 0
    from wattribute.commands.source import open_kubelet

    kubelet = open_kubelet(settings)
    found = None if kubelet is None else own_pod(own, kubelet)
    if found is not None:
        return attempt_of(environ, *found) or 0
    counted = attempt_of(environ) or 0
    why = "kubelet is off"
    if kubelet is not None:
        why = kubelet.problem.partition(";")[0] or "the kubelet does not list this pod"
    note(
        f"note: reported as attempt {counted}, because it is not known how often Kubernetes has restarted"
        f" this container ({why}): give --attempt, or set WATTRIBUTE_ATTEMPT for the whole container"
    )
    return counted


def _send(kind: str, told: dict[str, Any], at: str | None, settings: Settings) -> None:
    moment = parse_time(at) or datetime.now(UTC)
    t_ms = round(moment.timestamp() * 1000)
    # Strip spaces, as a collector does: these values may come from the environment of a process.
    named = {key: value.strip() if isinstance(value, str) else value for key, value in told.items()}
    try:
        record = record_of(kind, {**named, "t": t_ms * 1_000_000})
    except RecordError as error:
        raise UsageError(str(error)) from error
    folder = local_folder(settings.bus)
    is_new = folder is not None and not folder.exists()
    with closing(open_producer(settings)) as producer:
        for topic, key, value in own_encoder(settings).encode([record]):
            producer.send(topic, key, value, t_ms)
        if producer.flush(_FLUSH_S):
            raise BusError(f"the bus {settings.bus} did not accept it within {_FLUSH_S:g} s; send it again")
    if is_new:
        note(f"note: created a new bus in {folder}: make sure that 'wattribute up' or 'stream' reads it")
