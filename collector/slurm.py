"""Which GPUs Slurm has assigned to the jobs on this host, from control groups and environments in /proc."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from wattribute.collector.identity import Group, Seen, command_line, environment, group, identity
from wattribute.collector.proc import read_file, user_of
from wattribute.rules import Rule

_RANGE: Final = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
_GPUS_MAX: Final = 64


def jobs_gpus(root: Path, rules: Sequence[Rule]) -> Iterator[tuple[str, dict[str, Any]]]:
    """GPUs of the jobs under a /proc tree, each with the fields of a Reservation. A GPU is a UUID, or Slurm's
    number. A job without a process that can be read, or whose processes name no GPU, is not found."""
    told: set[tuple[str, str]] = set()
    of_job: dict[str, dict[str, Any]] = {}
    for pid in sorted(int(entry.name) for entry in root.iterdir() if entry.name.isdecimal()):
        within = group(read_file(root, pid, "cgroup"))
        if not within.job:
            continue
        environ = environment(read_file(root, pid, "environ"))
        for gpu in _gpus(environ, within.step):
            if (within.job, gpu) in told:
                continue
            if within.job not in of_job:
                environ.pop("SLURM_STEP_ID", None)  # the job is meant, not one of its steps
                user = user_of(read_file(root, pid, "status"))
                seen = Seen(command_line(read_file(root, pid, "cmdline")), user)
                of_job[within.job] = identity(environ, Group(job=within.job), None, rules, seen)
            told.add((within.job, gpu))
            yield gpu, of_job[within.job]


def _gpus(environ: Mapping[str, str], step: str) -> list[str]:
    """The GPUs that Slurm's variables name for a process of a step.

    SLURM_STEP_GPUS has the numbers of the step's GPUs on this host. SLURM_JOB_GPUS has those of the job on
    the host of its batch script, and other hosts may inherit it. CUDA_VISIBLE_DEVICES counts within the
    device control group, so only its UUIDs are used.
    """
    numbers = environ.get("SLURM_STEP_GPUS", "")
    if not numbers and not step.isdecimal():
        numbers = environ.get("SLURM_JOB_GPUS", "")
    found = [
        number for part in numbers.split(",") if (span := _RANGE.fullmatch(part)) for number in _span(span)
    ]
    if not found:
        visible = environ.get("CUDA_VISIBLE_DEVICES", "")
        found = [part for part in visible.split(",") if part.startswith(("GPU-", "MIG-"))]
    return found[:_GPUS_MAX]


def _span(span: re.Match[str]) -> list[str]:
    first = int(span[1])
    return [str(number) for number in range(first, min(int(span[2] or first), first + _GPUS_MAX) + 1)]
