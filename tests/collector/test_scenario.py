"""A scenario file is read, or refused in one line that says what is wrong and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattribute.collector.scenario import load_scenario
from wattribute.errors import UsageError


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[host]\nname = 3", "host: name: 3 is not a text"),
        ("[host]\nnmae = 'h'", "host: unknown key 'nmae'; did you mean name?"),
        ("[hosts]\nname = 'h'", "unknown key 'hosts'; did you mean host?"),
        ("[host]\nregion = 'x'", "host: name is missing"),
        ("gpu = 4", "the section [host] is missing"),
        ("[host]\nname='h'", "the scenario has no [[gpu]]: add one"),
        ("[host]\nname='h'\n[gpu]\ncount=2", "gpu is not a list of tables: write [[gpu]]"),
        ("[host]\nname='h'\n[[gpu]]\nidle_w = nan", "gpu 1: idle_w: nan is outside 0 to 5000"),
        ("[host]\nname='h'\n[[gpu]]\ncount = true", "gpu 1: count: True is not a whole number"),
        ("[host]\nname='h'\n[[gpu]]\nutilization_lag_ms = [1]", "[1] is not a list of two numbers"),
        (
            "[host]\nname='h'\n[[gpu]]\n[[tenant]]\nname='a'\ngpus=[1]",
            "tenant 1 (a): gpus: there is no device 1",
        ),
        ("[host]\nname='h'\n[[gpu]]\n[[tenant]]\nname='a'\ngpus=[]", "tenant 1 (a): gpus: [] is not a list"),
        (
            "[host]\nname='h'\n[[gpu]]\n[[tenant]]\nname='a'\ngpus=[0]\npattern='servr'",
            "tenant 1 (a): pattern: 'servr' is none of 'serve', 'train', 'idle'",
        ),
        (
            "[host]\nname='h'\n[[gpu]]\n[[tenant]]\nname='a'\ngpus=[0]\nunits={requests='x'}",
            "tenant 1 (a): units.requests: 'x' is not a number",
        ),
        (
            "[host]\nname='h'\nrepeat_s=9\n[[gpu]]\n[[tenant]]\nname='a'\ngpus=[0]\nstop_s=10",
            "tenant 1 (a): stop_s 10 is after repeat_s 9",
        ),
        (
            "[host]\nname='h'\n[[gpu]]\n[[tenant]]\nname='a'\ngpus=[0]\nstart_s=5\nstop_s=4",
            "tenant 1 (a): start_s, fail_s, restart_s, stop_s must rise",
        ),
        (
            "[host]\nname='h'\n[[gpu]]\n[[tenant]]\nname='a'\ngpus=[0]\nfail_s=5",
            "tenant 1 (a): fail_s and restart_s go together",
        ),
        (
            "[host]\nname='h'\n[[gpu]]\n[[tenant]]\nname='a'\ngpus=[0]\nmemory_gib=200",
            "tenant 1 (a): memory_gib: tenants hold 200 of 139.4 GiB on device 0",
        ),
        (
            "[host]\nname='h'\npid_range=[7,7]\n[[gpu]]\n[[tenant]]\nname='a'\ngpus=[0]\n"
            "[[tenant]]\nname='b'\ngpus=[0]",
            "host: pid_range has fewer than 2 pids",
        ),
        ("[host]\nname='h'\nbeside='demo'", "host (h): beside: 'demo' is not a list of texts"),
        (
            "[host]\nname='h'\n[[gpu]]\n[[tenant]]\nname='a'\ngpus=[0]\ncommand=true\nstop_s=4",
            "tenant 1 (a): a command cannot have start_s, stop_s, run or units",
        ),
        (
            "[host]\nname='h'\n[[gpu]]\n"
            + "[[tenant]]\nname='a'\ngpus=[0]\nmemory_gib=1\ncommand=true\n" * 2,
            "several tenants have command = true: only one may",
        ),
        (
            "[host]\nname='h'\n[[gpu]]\ninstances=[4,4]",
            "gpu 0: the instances have 8 slices, but a device has 7",
        ),
        (
            "[host]\nname='h'\n[[gpu]]\ninstances=[3]\n[[tenant]]\nname='a'\ngpus=[0]",
            "tenant 1 (a): instance: device 0 has 1, counted from 0",
        ),
        ("[host\n", "not a TOML file"),
        (f"[host]\nname = {'[' * 3000}", "not a TOML file"),
        (f"[host]\ngpus = 1{'0' * 5000}", "not a TOML file"),
    ],
)
def test_a_bad_scenario_gives_one_clear_line(tmp_path: Path, toml: str, said: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(toml)
    with pytest.raises(UsageError) as caught:
        load_scenario(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_scenario_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "marked.toml"
    path.write_text("\ufeff[host]\nname='h'\n[[gpu]]", encoding="utf-8")
    assert load_scenario(str(path)).host.name == "h"


def test_a_scenario_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bundled scenario 'demp'; there are churn, demo"):
        load_scenario("demp")
    with pytest.raises(UsageError, match="cannot read the scenario: No such file"):
        load_scenario(str(tmp_path / "none.toml"))
