"""Whose a process is, from what /proc says of it: control groups, environment, command line.

Pure functions over the bytes of those files. An environment and a command line hold secrets: only the
values of allow-listed keys and the name of a script leave this file.
"""

from __future__ import annotations

import pwd
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

_TEXT_MAX: Final = 256  # a name; a record would take 1024
_ATTEMPT_MAX: Final = (1 << 32) - 1

# Field -> keys; the first that has a value gives it. A Slurm account is whom Slurm charges: a team.
_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "cluster": ("SLURM_CLUSTER_NAME",),
    "team": ("WATTRIBUTE_TEAM", "SLURM_JOB_ACCOUNT"),
    "application": ("WATTRIBUTE_APPLICATION",),
    "workload": ("WATTRIBUTE_WORKLOAD", "SLURM_JOB_NAME"),
    "phase": ("WATTRIBUTE_PHASE",),
    "model": ("WATTRIBUTE_MODEL",),
    "model_version": ("WATTRIBUTE_MODEL_VERSION",),
}
# identity_source -> keys that name the run. In order of trust: the explicit tag, then who scheduled the
# process, then who tracks it, then its launcher.
_RUN: Final[dict[str, tuple[str, ...]]] = {
    "tag": ("WATTRIBUTE_RUN", "WATTRIBUTE_RUN_ID"),
    "slurm": ("SLURM_JOB_ID",),
    "ray": ("RAY_JOB_SUBMISSION_ID",),
    "mlflow": ("MLFLOW_RUN_ID",),
    "wandb": ("WANDB_RUN_ID",),
    "torchrun": ("TORCHELASTIC_RUN_ID",),
}
_ATTEMPT: Final = ("WATTRIBUTE_ATTEMPT", "SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
# MLFLOW_TRACKING_URI is left out with intent: it may hold a password.
_LABELS: Final[dict[str, tuple[str, ...]]] = {
    "slurm_step": ("SLURM_STEP_ID",),
    "slurm_partition": ("SLURM_JOB_PARTITION",),
    "slurm_array_job": ("SLURM_ARRAY_JOB_ID",),
    "slurm_array_task": ("SLURM_ARRAY_TASK_ID",),
    "ray_cluster": ("RAY_CLUSTER_NAME",),
    "mlflow_experiment": ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"),
    "mlflow_model": ("MLFLOW_ACTIVE_MODEL_ID",),
    "wandb_entity": ("WANDB_ENTITY",),
    "wandb_project": ("WANDB_PROJECT",),
    "wandb_group": ("WANDB_RUN_GROUP",),
    "wandb_name": ("WANDB_NAME",),
    "wandb_sweep": ("WANDB_SWEEP_ID",),
}
ENVIRONMENT_KEYS: Final = frozenset(
    key for keys in (*_FIELDS.values(), *_RUN.values(), _ATTEMPT, *_LABELS.values()) for key in keys
)
"""The only keys of an environment that are read."""
_KEYS_BYTES: Final = {key.encode(): key for key in ENVIRONMENT_KEYS}

_CONTAINER: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
# With dashes (cgroupfs), underscores (systemd slices), or 32 digits (pods that the kubelet has from a file).
_POD: Final = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?![0-9a-f])")
_SLURM: Final = re.compile(r"slurm.*/job_([0-9]+)(?:/step_([^/]+))?")
_PYTHON: Final = re.compile(r"(?:python|pypy)[0-9.]*")
_PYTHON_FLAG: Final = re.compile(r"-[bBdEiIOPqsSuvx]+")  # those without a value


class Group(NamedTuple):
    """What the control group of a process says: '' where it does not."""

    container: str = ""
    pod: str = ""
    job: str = ""
    step: str = ""


def group(raw: bytes) -> Group:
    """The group in the text of /proc/PID/cgroup, of version 1, 2 or both.

    Docker, containerd, CRI-O and podman put the container's 64 hexadecimal digits in the path, the kubelet
    the pod's uid, Slurm job and step. Of nested containers and pods the innermost counts.
    """
    container = pod = job = step = ""
    for line in raw.decode(errors="replace").splitlines():
        path = line.split(":", 2)[-1]
        container = next(reversed(_CONTAINER.findall(path)), container)
        pod = next(reversed(_POD.findall(path)), pod)
        if slurm := _SLURM.search(path):
            job, step = slurm[1], _clean(slurm[2] or "") or step
    return Group(container, pod.replace("_", "-"), job, step)


def environment(raw: bytes) -> dict[str, str]:
    """The allow-listed keys of /proc/PID/environ that have a value; nothing else of it is kept."""
    values: dict[str, str] = {}
    for entry in raw.split(b"\0"):
        name, _, value = entry.partition(b"=")
        key = _KEYS_BYTES.get(name)
        if key is not None and (text := _clean(value.decode(errors="replace"))):
            values.setdefault(key, text)  # of a key given twice getenv returns the first
    if values.get("TORCHELASTIC_RUN_ID") == "none":  # torchrun's default: every single-node job has it
        del values["TORCHELASTIC_RUN_ID"]
    return values


def identity(environ: Mapping[str, str], within: Group) -> dict[str, Any]:
    """The fields of a Workload that environment and control group give.

    ``identity_source`` names where model and run came from: ``tag``, a scheduler, a tracker, ``torchrun``;
    where nothing names either, the closest thing that is known: ``kubernetes``, ``container``, ``process``.
    """
    known = dict(environ)
    if within.job:  # what the kernel says wins over what the environment claims
        known["SLURM_JOB_ID"] = within.job
    if within.step:
        known["SLURM_STEP_ID"] = within.step
    found: dict[str, Any] = {field: _first(known, keys) for field, keys in _FIELDS.items()}
    runs = ((source, _first(known, keys)) for source, keys in _RUN.items())
    source, run = next(((source, run) for source, run in runs if run), ("", ""))
    if found["model"] or found["model_version"]:
        source = "tag"
    if not source:
        source = "kubernetes" if within.pod else "container" if within.container else "process"
    attempt = _first(known, _ATTEMPT)
    return found | {
        "container": within.container,
        "pod": within.pod,
        "job": _first(known, ("SLURM_JOB_ID", "RAY_JOB_SUBMISSION_ID")),
        "run": run,
        "attempt": int(attempt) if re.fullmatch("[0-9]{1,9}", attempt) else None,
        "identity_source": source,
        "labels": {label: text for label, keys in _LABELS.items() if (text := _first(known, keys))},
    }


def command(comm: bytes, cmdline: bytes) -> str:
    """A short name: the kernel's for the process; for Python the interpreter and its script or module.

    Arguments are never shown. Where an option's meaning is not certain nothing after it is: it could be a
    value, and a value could be a secret.
    """
    name = _clean(comm.decode(errors="replace"))
    first, *arguments = cmdline.decode(errors="replace").split("\0")
    interpreter = first.rsplit("/", 1)[-1]
    if not _PYTHON.fullmatch(interpreter):
        return name
    words = iter(arguments)
    for word in words:
        if word == "-m":
            return _clean(f"{interpreter} {next(words, '')}")
        if word in ("-W", "-X"):
            next(words, None)
        elif not _PYTHON_FLAG.fullmatch(word):
            script = "" if word.startswith("-") else word.rsplit("/", 1)[-1]
            return _clean(f"{interpreter} {script}")
    return interpreter


@lru_cache(maxsize=1024)
def user_name(uid: int) -> str:
    """The name of a user, the number as text where this machine knows none."""
    try:
        return _clean(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)


def _first(values: Mapping[str, str], keys: tuple[str, ...]) -> str:
    return next((values[key] for key in keys if key in values), "")


def _clean(text: str) -> str:
    """A text that a record takes: no control characters, not long."""
    return "".join(c if c.isprintable() else " " for c in text[:_TEXT_MAX]).strip()
