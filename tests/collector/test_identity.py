from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattribute.collector import identity, pods
from wattribute.records import Workload, as_json, parse
from wattribute.settings import load_settings


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("0::/", identity.Group()),
        ("0::/docker/" + "ab" * 32, identity.Group(container="ab" * 32)),
        ("0::/system.slice/docker-" + "ab" * 32 + ".scope", identity.Group(container="ab" * 32)),
        ("0::/machine.slice/libpod-" + "cd" * 32 + ".scope/container", identity.Group(container="cd" * 32)),
        (  # cgroupfs driver, version 1
            "5:memory:/kubepods/besteffort/pod11111111-2222-3333-4444-555555555555/" + "ef" * 32,
            identity.Group("ef" * 32, "11111111-2222-3333-4444-555555555555"),
        ),
        (  # containerd told a systemd path by a cgroupfs kubelet: colons in the path
            "0::/system.slice/containerd.service/kubepods-burstable-pod"
            "11111111_2222_3333_4444_555555555555.slice:cri-containerd:" + "ef" * 32,
            identity.Group("ef" * 32, "11111111-2222-3333-4444-555555555555"),
        ),
        (  # a pod that the kubelet has from a file
            "0::/kubepods/burstable/pod0123456789abcdef0123456789abcdef/" + "ef" * 32,
            identity.Group("ef" * 32, "0123456789abcdef0123456789abcdef"),
        ),
        (  # a node that is itself a container: the inner one counts
            "0::/docker/"
            + "ab" * 32
            + "/kubelet/kubepods/pod11111111-2222-3333-4444-555555555555/"
            + "ef" * 32,
            identity.Group("ef" * 32, "11111111-2222-3333-4444-555555555555"),
        ),
        (
            "0::/system.slice/n1_slurmstepd.scope/job_5/step_extern/user",
            identity.Group(job="5", step="extern"),
        ),
        ("0::/user.slice/job_5/step_1", identity.Group()),  # not Slurm's
        ("0::/docker/" + "ab" * 33, identity.Group()),  # 66 digits are no container id
    ],
)
def test_group(path: str, expected: identity.Group) -> None:
    assert identity.group(path.encode() + b"\n") == expected


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        ("python3 -u -m torch.distributed.run --token S", "python3 torch.distributed.run"),
        ("/usr/bin/python3 -X importtime -W ignore /a/b/train.py S", "python3 train.py"),
        ("python3 -c S", "python3"),
        ("python3 -mthing --token S", "python3"),
        ("python3 -um thing --token S", "python3"),
        ("python3 --unknown S", "python3"),
        ("python3", "python3"),
        ("python3 -m", "python3"),
        ("bash -c S", "comm"),
        ("/srv/server --token S", "comm"),
        ("", "comm"),
    ],
)
def test_command_shows_no_argument(cmdline: str, expected: str) -> None:
    raw = cmdline.replace(" ", "\0").encode() + b"\0"
    assert identity.command(b"comm\n", raw) == expected


def test_title_that_was_set_over_the_arguments_is_not_shown() -> None:
    assert identity.command(b"python\n", b"python train.py --token S\0\0\0") == "python"


def test_the_page_names_all_that_is_read_and_kept(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "trace.md").read_text().partition("## Whose a process is")[2]
    keys = {key.removeprefix("WATTRIBUTE") for key in identity.ENVIRONMENT_KEYS} - {
        *("_RUN_ID", "MLFLOW_EXPERIMENT_ID"),  # told as another spelling
        *("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_JOB_ACCOUNT", "SLURM_CLUSTER_NAME"),  # in words
    }
    kept = {*pods._LABELS, *(key for key in (*pods._RUNS, *pods._APPLICATIONS) if "/" in key)}
    missing = [name for name in sorted(keys | kept) if f"`{name}`" not in page]
    assert missing == ["_MODEL"]
    assert "`WATTRIBUTE_MODEL`" in page
    (tmp_path / "wattribute.toml").write_text(page.partition("```toml\n")[2].partition("```")[0])
    assert len(load_settings({}, tmp_path / "wattribute.toml", {"HOME": "/home/ada"}).rules) == 2


def test_the_attempt_that_a_tag_tells_comes_before_what_launchers_count() -> None:
    environ = identity.environment(
        b"WATTRIBUTE_RUN=r\0TORCHELASTIC_RESTART_COUNT=2\0WATTRIBUTE_ATTEMPT=5\0SLURM_RESTART_COUNT=1\0"
    )
    assert identity.identity(environ, identity.Group())["attempt"] == 5


def test_job_and_step_of_the_control_group_come_before_those_that_the_environment_claims() -> None:
    environ = identity.environment(b"SLURM_JOB_ID=1\0SLURM_STEP_ID=2\0")
    found = identity.identity(environ, identity.Group(job="5", step="3"))
    assert (found["job"], found["run"], found["labels"]) == ("5", "5", {"slurm_step": "3"})


def test_what_a_process_says_comes_before_the_labels_of_its_pod() -> None:
    labels = {"wandb_project": "pod", "queue": "q"}
    pod = pods.Pod("ns", "p", {}, {}, labels, None, {}, {}, is_over=False)
    found = identity.identity({"WANDB_PROJECT": "process"}, identity.Group(), pod)
    assert found["labels"] == {"wandb_project": "process", "queue": "q"}


def test_of_a_key_that_is_there_twice_the_first_counts_as_for_the_process_itself() -> None:
    assert identity.environment(b"WATTRIBUTE_RUN=a\0WATTRIBUTE_RUN=b\0") == {"WATTRIBUTE_RUN": "a"}


@pytest.mark.parametrize(
    ("job", "launcher", "attempt"),
    [("2", "999", 2_999), ("2", "1500", 2_999), ("3", "0", 3_000), ("999999999", "0", 4_294_967_295)],
)
def test_starts_of_a_job_and_of_its_launcher_stay_in_order_and_within_what_a_record_takes(
    job: str, launcher: str, attempt: int
) -> None:
    environ = {"SLURM_RESTART_COUNT": job, "TORCHELASTIC_RESTART_COUNT": launcher}
    assert identity.attempt(environ) == attempt


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_give_a_record_that_can_be_read(environ: bytes, cgroup: bytes, cmdline: bytes) -> None:
    tagged = environ + b"\0WATTRIBUTE_MODEL=" + environ + b"\0SLURM_RESTART_COUNT=" + environ
    fields = identity.identity(identity.environment(tagged), identity.group(cgroup))
    workload = Workload(t=1, pid=1, start_ns=0, command=identity.command(environ, cmdline), **fields)
    assert parse(as_json(workload)) == workload
