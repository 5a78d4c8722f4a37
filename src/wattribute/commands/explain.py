"""``wattribute explain``: what a figure rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from wattribute.commands.options import (
    POLICIES,
    SPAN,
    ConfigOption,
    FormatOption,
    PolicyOption,
    SinceOption,
    StoreOption,
    TzOption,
    UntilOption,
    asked,
)
from wattribute.commands.output import Format, Grid, shown_number, write_grid, write_rows
from wattribute.commands.since import parse_span, parse_time, parse_zone
from wattribute.errors import UsageError
from wattribute.settings import load_settings
from wattribute.sinks.schema import check_policy

if TYPE_CHECKING:
    from wattribute.sinks.store import Readable

# The bits of attribution.flags (kernels/result.py): the name of each, and what it means.
FLAGS: Final[Mapping[int, str]] = {
    1: "provisional: the window may still change",
    2: "gap: samples are missing in the window; that part is residual",
    4: "reset: the energy counter was reset in the window; power fills in the energy of that time",
    8: "no energy: the energy of part of the window is not known, and is missing from it",
    16: "scaled: the holders' SM time was more than the window, and was scaled down",
    32: "no SM time: several held the GPU and nobody's SM time is known; their active energy is residual",
    64: "partial: only part of the window was observed, as in the first and last window of a collector",
    128: "disputed: the energy counter and the power readings are further apart than sensors are",
    256: "repeated: the clock was set back; what was used the second time is residual",
}
_ACCOUNTS: Final = {
    "process": "a process held the GPU",
    "reserved": "the GPU was assigned to a pod or job, which ran nothing on it",
    "unheld": "nobody held the GPU",
    "residual": "it cannot be split: see the flags",
}
_ENERGY_SOURCES: Final = {
    "counter": "the hardware's energy counter",
    "instant": "integrated instantaneous power: no counter",
    "average": "integrated 1 s average power: no counter, no instantaneous power",
    "module": "the power of a whole module (GPU and CPU)",
    "none": "no energy was read",
}
_WEIGHT_SOURCES: Final = {
    "exclusive": "the only holder: nothing had to be split",
    "accounting": "split by the driver's accounting",
    "utilization": "split by SM time × the watts that each process was seen to draw",
    "gpm": "split by how busy each MIG instance was × the watts that it was seen to draw",
    "memory": "split by memory held: no SM time",
    "equal": "no SM time: only a share of the idle level",
    "none": "not split: nobody held it, or it cannot be split",
}
_IDENTITY_SOURCES: Final = {
    "": "nothing says whose it is",
    "tag": "WATTRIBUTE_… in the environment of the process, or on its pod",
    "kubernetes": "the pod that it runs in",
    "slurm": "the Slurm job that it runs in",
    "ray": "the Ray job that it runs in",
    "mlflow": "MLflow's variables in its environment",
    "wandb": "the variables of Weights & Biases in its environment",
    "torchrun": "torchrun's variables in its environment",
    "rule": "a rule in the configuration",
    "engine": "the serving engine that the process computes for",
    "container": "the container that it runs in: nothing else is known",
    "process": "its user and command: nothing else is known",
    "option": "an option of the command that read it",
    "simulated": "the simulated host said so",
}
_MEANINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "account": _ACCOUNTS,
    "energy source": _ENERGY_SOURCES,
    "weight source": _WEIGHT_SOURCES,
    "identity source": _IDENTITY_SOURCES,
}
_SHOWN_AT_ONCE: Final = ("model", "model_version", "run", "team", "host", "gpu", "account")

_Chosen = Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=SPAN)]


def explain(
    model: _Chosen = None,
    model_version: _Chosen = None,
    run: _Chosen = None,
    team: _Chosen = None,
    host: _Chosen = None,
    gpu: Annotated[
        str | None, asked("--gpu", "The UUID, or how it begins, as 'top' shows it.", "UUID")
    ] = None,
    account: Annotated[str | None, asked("--account", "", "process|reserved|unheld|residual")] = None,
    where: Annotated[
        list[str] | None,
        asked("--where", "Any other column of 'wattribute cost --by'. May be repeated.", "COLUMN=VALUE"),
    ] = None,
    unit: Annotated[
        str | None, asked("--unit", "What one of this unit cost, and who counted it.", "NAME")
    ] = None,
    window: Annotated[
        str | None, asked("--window", "Only the window in which this time lies.", "TIME")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    tz: TzOption = "UTC",
    policy: PolicyOption = "equal",
    shape: FormatOption = Format.table,
    store: StoreOption = None,
    config: ConfigOption = None,
) -> None:
    """Show what a figure of cost rests on: windows, sources used and ignored, flags, policy, prices, error
    band."""
    settings = load_settings({"store": store}, config)
    check_policy(policy)
    values = (model, model_version, run, team, host, gpu, account)
    wanted = {name: value for name, value in zip(_SHOWN_AT_ONCE, values, strict=True) if value is not None}
    wanted |= _others(where or ())
    if wanted.get("account", "process") not in _ACCOUNTS:
        also = "; 'wattribute reconcile' shows what no collector saw" if account == "unobserved" else ""
        raise UsageError(f"account {account!r} has no rows: choose one of {', '.join(_ACCOUNTS)}{also}")
    zone = parse_zone(tz)
    at = parse_time(window, zone=zone)
    if at is not None and (since or until):
        raise UsageError("--window cannot be combined with --since or --until")
    begin, end = parse_span(since, until, zone)
    from wattribute.sinks.evidence import COLUMNS, gpu_named, window_at
    from wattribute.sinks.query_server import open_store_for_reading

    with closing(open_store_for_reading(settings.store)) as opened:
        if gpu is not None:
            wanted["gpu"] = gpu_named(opened, gpu)
        if at is not None:
            begin, end = window_at(opened, at)
        rows = explain_rows(opened, wanted, begin, end, policy, unit, window is not None)
    if shape is Format.table:
        write_grid(_grid(rows, wanted))
    else:
        write_rows(rows, shape, COLUMNS)


def explain_rows(
    store: Readable,
    wanted: Mapping[str, str],
    since: datetime | None,
    until: datetime | None,
    policy: str,
    unit: str | None = None,
    is_one: bool = False,
) -> list[dict[str, Any]]:
    """One row for each thing that the figure rests on; for one window (``is_one``), also how its energy was
    split. Raises UsageError where nothing was measured."""
    from wattribute.sinks.evidence import Evidence, told

    evidence = Evidence(store, wanted, since, until, policy)
    rows = evidence.figure()
    for about, meanings in _MEANINGS.items():
        rows += [
            told(about, value or "none", meanings.get(value, ""), count, joules, hours)
            for value, count, joules, hours in evidence.sources(about)
        ]
    for bit, count, joules, hours in evidence.sources("flag"):
        name, _, meaning = FLAGS.get(int(bit), f"bit {bit}: newer than this program").partition(": ")
        rows.append(told("flag", name, meaning, count, joules, hours))
    rows.append(told("policy", policy, POLICIES[policy]))
    if is_one:
        rows += evidence.split()
    return rows + evidence.prices() + evidence.units(unit)


def _grid(rows: Sequence[Mapping[str, Any]], wanted: Mapping[str, str]) -> Grid:
    cells = [
        [
            row["about"],
            row["value"],
            "" if row["rows"] is None else f"{row['rows']:,}",
            "" if row["energy_j"] is None else shown_number(row["energy_j"], 3),
            "" if row["gpu_hours"] is None else shown_number(row["gpu_hours"], 6),
            row["meaning"],
        ]
        for row in rows
    ]
    shown = ", ".join(f"{name} {value}" for name, value in wanted.items()) or "everything"
    headers = ("about", "value", "rows", "energy J", "GPU hours", "meaning")
    styles = ["bold" if row["about"] in ("figure", "unit cost") else "" for row in rows]
    notes = ["lines of the same name together make up the figure; but a row may have several flags, or none"]
    title = f"What the cost of {shown} rests on"
    return Grid(headers, cells, frozenset({2, 3, 4}), styles, title, notes, (4, 2))


def _others(where: Sequence[str]) -> dict[str, str]:
    """COLUMN=VALUE, by column. Raises UsageError."""
    found = {}
    for text in where:
        name, equals, value = text.partition("=")
        if not equals or name in ("hour", "day", "week", "month"):
            raise UsageError(
                f"--where {text!r} must have the form COLUMN=VALUE, like pod=chat-0 or labels.tier=gold"
            )
        found[name.strip()] = value
    return found
