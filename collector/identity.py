"""To whom a process belongs, from /proc (control groups, environment, command line), from the kubelet, and
from the rules in the settings.

Pure functions. Environments and command lines contain secrets: only values of allow-listed keys and the name
of a script leave this file. Rules may match a command line, but the names that they give are the settings'.
"""

from __future__ import annotations

import pwd
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from wattribute.collector.pods import Pod
from wattribute.records import NAME_MAX, clean
from wattribute.rules import COMMAND_MAX, TAGS, Rule, said

_GPUS_TEXT_MAX: Final = 4096  # 64 UUIDs; they are in no record
_ATTEMPT_MAX: Final = (1 << 32) - 1
_RESTARTS_MAX: Final = 1000  # of a launcher within one start of its job

# WATTRIBUTE_TEAM, WATTRIBUTE_MODEL, …
_TAGS: Final[dict[str, tuple[str, ...]]] = {
    **{field: (f"WATTRIBUTE_{field.upper()}",) for field in TAGS},
    "run": ("WATTRIBUTE_RUN", "WATTRIBUTE_RUN_ID"),
}
# identity_source -> field -> keys; the first key with a value counts. In order of trust: what scheduled the
# process, what tracks it, its launcher. A Slurm account is what Slurm charges, hence a team.
_SOURCES: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "slurm": {
        "cluster": ("SLURM_CLUSTER_NAME",),
        "team": ("SLURM_JOB_ACCOUNT",),
        "workload": ("SLURM_JOB_NAME",),
        "job": ("SLURM_JOB_ID",),
        "run": ("SLURM_JOB_ID",),
    },
    "ray": {"job": ("RAY_JOB_SUBMISSION_ID",), "run": ("RAY_JOB_SUBMISSION_ID",)},
    "mlflow": {"run": ("MLFLOW_RUN_ID",)},
    "wandb": {"run": ("WANDB_RUN_ID",)},
    "torchrun": {"run": ("TORCHELASTIC_RUN_ID",)},
}
_SLURM_RESTARTS: Final = "SLURM_RESTART_COUNT"
_TORCHRUN_RESTARTS: Final = "TORCHELASTIC_RESTART_COUNT"
# MLFLOW_TRACKING_URI is left out on purpose: it may contain a password.
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
# Which GPUs Slurm assigned: read for reservations, and part of no record.
GPU_KEYS: Final = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES")
ENVIRONMENT_KEYS: Final = frozenset(
    (
        *(key for fields in (_TAGS, *_SOURCES.values(), _LABELS) for keys in fields.values() for key in keys),
        *(_SLURM_RESTARTS, _TORCHRUN_RESTARTS, *GPU_KEYS),
    )
)
"""The only keys of an environment that are read."""
_KEYS_BYTES: Final = {key.encode(): key for key in ENVIRONMENT_KEYS}
_FIELDS: Final = ("cluster", "job", *_TAGS)

_CONTAINER: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
# With dashes (cgroupfs), underscores (systemd slices), or 32 digits (static pods, from a file).
_POD: Final = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?![0-9a-f])")
_SLURM: Final = re.compile(r"slurm.*/job_([0-9]+)(?:/step_([^/]+))?")
_PYTHON: Final = re.compile(r"(?:python|pypy)[0-9.]*")
_PYTHON_FLAG: Final = re.compile(r"-[bBdEiIOPqsSuvx]+")  # flags without a value


class Group(NamedTuple):
    """What the path of a process's control group contains; '' where it does not."""

    container: str = ""
    pod: str = ""
    job: str = ""
    step: str = ""


class Seen(NamedTuple):
    """What else is known of a process. ``launch`` names the process group that it was launched in;
    ``command_line`` is only for rules."""

    command_line: str = ""
    user: str = ""
    launch: str = ""


def group(raw: bytes) -> Group:
    """The group in the text of /proc/PID/cgroup, of version 1, 2 or both.

    Docker, containerd, CRI-O and podman put the container's 64 hexadecimal digits in the path, the kubelet
    puts the pod's uid there, and Slurm puts job and step. The innermost container and pod count.
    """
    container = pod = job = step = ""
    for line in raw.decode(errors="replace").splitlines():
        path = line.split(":", 2)[-1]
        container = next(reversed(_CONTAINER.findall(path)), container)
        pod = next(reversed(_POD.findall(path)), pod)
        if slurm := _SLURM.search(path):
            job, step = slurm[1], clean(slurm[2] or "") or step
    return Group(container, pod.replace("_", "-"), job, step)


def environment(raw: bytes) -> dict[str, str]:
    """The allow-listed variables of /proc/PID/environ that have a value; nothing else is kept."""
    values: dict[str, str] = {}
    for entry in raw.split(b"\0"):
        name, _, value = entry.partition(b"=")
        key = _KEYS_BYTES.get(name)
        most = _GPUS_TEXT_MAX if key in GPU_KEYS else NAME_MAX
        if key is not None and (text := clean(value.decode(errors="replace"), most)):
            values.setdefault(key, text)  # the first of a repeated key, as getenv returns
    if values.get("TORCHELASTIC_RUN_ID") == "none":  # torchrun's default, in every single-node job
        del values["TORCHELASTIC_RUN_ID"]
    return values


def identity(
    environ: Mapping[str, str],
    within: Group,
    pod: Pod | None = None,
    rules: Sequence[Rule] = (),
    seen: Seen = Seen(),  # noqa: B008 - a tuple
) -> dict[str, Any]:
    """The fields of a Workload that environment, control group, pod and rules give.

    Each field comes from the first source that has it: tags of the process, tags of the pod, Kubernetes,
    Slurm, Ray, MLflow, W&B, torchrun, the rules, the process group. ``identity_source`` names the source of
    model and run; where no source names either, it is the closest thing known: ``kubernetes``,
    ``container``, ``process``.
    """
    known = dict(environ)
    if within.job:  # the kernel takes precedence over the environment
        known["SLURM_JOB_ID"] = within.job
    if within.step:
        known["SLURM_STEP_ID"] = within.step
    container = pod.containers.get(within.container) if pod else None
    place = {
        "container": container.name if container else within.container,
        "pod": pod.name if pod else within.pod,
        "namespace": pod.namespace if pod else "",
        "user": seen.user,
    }
    asked = {**place, "command": seen.command_line, "image": container.image if container else ""}
    source = "kubernetes" if within.pod else "container" if within.container else "process"
    found: dict[str, str] = {}
    named = ""  # the first source that gave model or run
    told = [*_told(known, pod), ("rule", said(rules, asked))]
    for teller, says in told:
        named = named or (teller if says.keys() & {"model", "model_version", "run"} else "")
        found = {**says, **found}
    if not named and source == "process" and seen.launch:
        found["run"] = seen.launch
    labels = {label: text for label, keys in _LABELS.items() if (text := _first(known, keys))}
    return {
        **place,
        **{field: found.get(field, "") for field in _FIELDS},
        "attempt": attempt(known, pod, within.container) if found.get("run") else None,
        "identity_source": named or source,
        "labels": {**(pod.labels if pod else {}), **labels},
    }


def attempt(environ: Mapping[str, str], pod: Pod | None = None, container: str = "") -> int | None:
    """Which start of its run a process belongs to, from 0; None where nothing counts starts.

    It is the tag; without one, how often the job was restarted by Kubernetes, or else by Slurm, and by
    torchrun within it. Where both are counted, job × 1000 + torchrun keeps all starts apart and in order.
    """
    tag = _first(environ, _TAGS["attempt"]) or (pod.tags.get("attempt", "") if pod else "")
    if (told := _count(tag)) is not None:
        return told
    outer = _count(environ.get(_SLURM_RESTARTS, ""))
    if pod is not None:
        of_container = pod.containers.get(container)
        restarts = of_container.restarts if of_container else None
        outer = pod.restarts if pod.restarts is not None else restarts if restarts is not None else outer
    inner = _count(environ.get(_TORCHRUN_RESTARTS, ""))
    if outer is None or inner is None:
        return outer if inner is None else inner
    return min(outer * _RESTARTS_MAX + min(inner, _RESTARTS_MAX - 1), _ATTEMPT_MAX)


def environment_of(run: str, environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment as it applies to ``run``: its attempt belongs to the run that it names, so it is left
    out where ``run`` is another one."""
    if _first(environ, _TAGS["run"]) in ("", run):
        return environ
    return {key: value for key, value in environ.items() if key not in _TAGS["attempt"]}


def _told(environ: Mapping[str, str], pod: Pod | None) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The names that each source except the rules gives, the most trusted source first."""
    yield "tag", _values(environ, _TAGS)
    if pod is not None:
        yield "tag", pod.tags
        yield "kubernetes", pod.says
    for source, fields in _SOURCES.items():
        yield source, _values(environ, fields)


def _values(environ: Mapping[str, str], fields: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    return {field: text for field, keys in fields.items() if (text := _first(environ, keys))}


def _count(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None


def command_line(cmdline: bytes) -> str:
    """The words of /proc/PID/cmdline, for rules to match. They may be secrets: no record or error has any."""
    return cmdline[:COMMAND_MAX].replace(b"\0", b" ").decode(errors="replace").strip()


def command(comm: bytes, cmdline: bytes) -> str:
    """A short name: the kernel's name of the process; for Python the interpreter and its script or module.

    Arguments are never shown. After an option of unknown meaning nothing is shown: the next word could be its
    value, and a value could be a secret.
    """
    name = clean(comm.decode(errors="replace"))
    first, *arguments = cmdline.decode(errors="replace").split("\0")
    interpreter = first.rsplit("/", 1)[-1]
    if not _PYTHON.fullmatch(interpreter):
        return name
    words = iter(arguments)
    for word in words:
        if word == "-m":
            return clean(f"{interpreter} {next(words, '')}")
        if word in ("-W", "-X"):
            next(words, None)
        elif not _PYTHON_FLAG.fullmatch(word):
            script = "" if word.startswith("-") else word.rsplit("/", 1)[-1]
            return clean(f"{interpreter} {script}")
    return interpreter


@lru_cache(maxsize=1024)
def user_name(uid: int) -> str:
    """The name of a user; the number as text where this machine has no name for it."""
    try:
        return clean(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)


def _first(values: Mapping[str, str], keys: tuple[str, ...]) -> str:
    return next((values[key] for key in keys if key in values), "")
