"""What people ask, by the command: whose is it, by which day, is it the bill, and what does that rest on."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from typing import Any

import pytest

from tests.needs import need
from tests.survival.processes import POLICIES, ran

pytestmark = pytest.mark.long

PARTS = ("process_usd", "reserved_usd", "unheld_usd", "residual_usd", "unobserved_usd")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with 50 seconds of the simulated demo."""
    need("chdb")
    folder = tmp_path_factory.mktemp("demo")
    ran("record", folder / "demo.ndjson", "--simulate", "--virtual-time", "--duration", "50s")
    ran("replay", folder / "demo.ndjson", "--store", f"chdb://{folder}/store")
    return f"chdb://{folder}/store"


def asked(store: str, *arguments: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(ran(*arguments, "--store", store, "--format", "json").stdout)
    return rows


@pytest.mark.parametrize("policy", POLICIES)
def test_the_parts_of_the_demo_are_what_is_billed(demo: str, policy: str) -> None:
    (row,) = asked(demo, "reconcile", "--policy", policy)
    (span,) = asked(
        demo,
        "query",
        "SELECT dateDiff('ms', min(window_start), max(window_start)) + 1000 AS ms, uniq(gpu) AS gpus,"
        " any(price_per_gpu_hour) AS price FROM attribution, price_book"
        " WHERE price_book.provider = 'nebius' AND category = 'on_demand' AND region = 'eu-north1'"
        " AND price_book.gpu_model = 'NVIDIA H200'",
    )
    billed = span["price"] * span["ms"] * span["gpus"] / 3.6e6
    assert row["billed_usd"] == pytest.approx(billed, abs=1e-9)
    assert math.fsum(row[name] for name in PARTS) == pytest.approx(billed, abs=1e-9)
    assert row["difference_usd"] == pytest.approx(0, abs=1e-9)
    costs = asked(demo, "cost", "--by", "host", "--policy", policy)
    for cost in costs:
        assert row[f"{cost['account']}_usd"] == pytest.approx(cost["cost_usd"], abs=1e-9)


def test_a_bill_and_a_declared_host(demo: str) -> None:
    """The demo's four GPUs, declared to be billed for an hour before it too, and ever after."""
    (span,) = asked(
        demo,
        "query",
        "SELECT toStartOfMinute(min(window_start) - toIntervalHour(1)) AS t,"
        " max(window_start) + toIntervalSecond(1) AS end FROM attribution",
    )
    until = ("--until", span["end"])
    try:
        done = ran("host", "add", "demo-1", "--from", span["t"], "--store", demo)
        assert "demo-1 is billed from" in done.stderr
        (declared,) = asked(demo, "host", "list")
        assert (declared["gpus"], declared["pricing"]) == (4, "on_demand")
        assert "NVIDIA H200" in ran("host", "list", "--store", demo).stdout
        (row,) = asked(demo, "reconcile", *until)
        assert row["is_declared"]
        assert row["unobserved_usd"] > row["process_usd"] > 0
        assert row["unobserved_gpu_hours"] == pytest.approx(4, abs=4 / 60)
        assert math.fsum(row[name] for name in PARTS) == pytest.approx(row["billed_usd"], abs=1e-9)
        parts = asked(demo, "cost", "--by", "day,team", *until)
        assert math.fsum(part["cost_usd"] for part in parts) == pytest.approx(row["billed_usd"], abs=1e-9)
        assert {part["account"] for part in parts} == {"process", "unheld", "residual", "unobserved"}
        table = ran("reconcile", "--invoice", "100", *until, "--store", demo).stdout
        assert re.search(r"^demo-1 +[\d.]+ ", table, re.MULTILINE)
        assert re.search(r"^total +[\d.]+ ", table, re.MULTILINE)
        assert re.search(r"^invoice 100.00 USD - billed [\d.]+ USD = \+[\d.]+ USD", table, re.MULTILINE)
    finally:
        ran("host", "remove", "demo-1", "--store", demo)


def test_whoever_pays_for_what_nobody_used_the_total_is_the_same(demo: str) -> None:
    def total(*more: str) -> float:
        return math.fsum(row["cost_usd"] for row in asked(demo, "cost", "--by", "team,model", *more))

    whole = total()
    for way in ("owner", "tenants"):
        assert total("--unallocated", way) == pytest.approx(whole, abs=1e-9)
    rows = asked(demo, "cost", "--by", "team", "--unallocated", "tenants")
    assert {row["account"] for row in rows} == {"process"}
    assert all(row["charged_usd"] > 0 for row in rows)
    owners = [
        row for row in asked(demo, "cost", "--by", "team", "--unallocated", "owner") if row["charged_usd"]
    ]
    assert [(row["team"], row["account"]) for row in owners] == [("platform", "owner")]
    table = ran("cost", "--by", "team", "--unallocated", "owner", "--store", demo).stdout
    assert "of which charged USD" in table
    assert "charged USD: what nobody used, to the team of its host" in table


def test_whose_bill_changes(demo: str) -> None:
    rows = asked(demo, "cost", "--by", "team", "--compare-policies")
    changes = [row["difference_usd"] for row in rows]
    assert changes == sorted(changes, reverse=True)
    assert changes[0] > 0
    sums = [math.fsum(row[f"{policy}_usd"] for row in rows) for policy in POLICIES]
    assert sums == pytest.approx([sums[0]] * 3)
    table = ran("cost", "--by", "team", "--compare-policies", "--store", demo).stdout
    assert table.splitlines()[0].split()[:2] == ["team", "equal"]


def test_by_calendar_in_a_time_zone(demo: str) -> None:
    by_day = asked(demo, "cost", "--by", "day,team", "--tz", "Asia/Kolkata", "--since", "last month")
    assert all(row["day"].endswith("T00:00:00+05:30") for row in by_day)
    table = ran("cost", "--by", "month,team", "--tz", "Asia/Kolkata", "--store", demo).stdout
    assert re.search(r"^\d{4}-\d{2} +\w", table, re.MULTILINE)
    assert "each month follows the calendar of Asia/Kolkata" in table
    assert "ends (Asia/Kolkata)" in ran("runs", "--tz", "Asia/Kolkata", "--store", demo).stdout


@pytest.mark.parametrize("command", ["models", "runs", "watts", "cost"])
def test_a_time_without_a_zone_is_one_of_the_calendar(demo: str, command: str) -> None:
    """Half past five hours before it would be that time in UTC."""
    (span,) = asked(
        demo,
        "query",
        "SELECT formatDateTime(toStartOfHour(min(window_start)), '%Y-%m-%dT%H:%i', 'Asia/Kolkata') AS begin"
        " FROM attribution",
    )
    assert asked(demo, command, "--since", span["begin"], "--tz", "Asia/Kolkata")
    assert not asked(demo, command, "--since", span["begin"])


def test_explain_names_what_a_unit_rests_on(demo: str) -> None:
    chosen = ("--model", "support-chat", "--model-version", "v1")
    rows = asked(demo, "explain", *chosen, "--unit", "output_tokens")
    about = {row["about"]: row for row in rows}
    assert about["units used"]["value"].endswith(" output_tokens")
    assert "counted by engine, authority 4" in about["units used"]["meaning"]
    (unit,) = (
        row
        for row in asked(demo, "cost", "--unit", "output_tokens")
        if (row["model"], row["model_version"]) == ("support-chat", "v1")
    )
    assert about["unit cost"]["value"] == f"{unit['cost_usd_per_million']:.6g} USD per million"
    assert about["coverage"]["value"].endswith(" %")
    assert "skypilot-catalog" in about["price"]["meaning"]
    flags = {row["value"] for row in rows if row["about"] == "flag"}
    assert "partial" in flags
    table = ran("explain", "--where", "labels.precision=fp8", "--store", demo).stdout
    assert table.startswith("What the cost of labels.precision fp8 rests on\n")
    (first, *_) = asked(demo, "query", "SELECT gpu FROM attribution FINAL")
    by_name, by_beginning = (
        asked(demo, "explain", "--gpu", name) for name in (first["gpu"], first["gpu"][:12])
    )
    assert by_name == by_beginning
    nothing = asked(demo, "explain", *chosen, "--unit", "images")[-1]
    assert (nothing["about"], nothing["value"]) == ("unit cost", "none")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("cost", "--by", "day,month"), "two calendar steps at once"),
        (("cost", "--by", "dya"), "did you mean day"),
        (("cost", "--by", "day", "--tz", "Europe/Berlim"), "did you mean Europe/Berlin"),
        (("runs", "--tz", "Europe/Berlim"), "did you mean Europe/Berlin"),
        (("cost", "--since", "next week"), "write 2026-06-01"),
        (("cost", "--since", "2026-06-02", "--until", "2026-06-01"), "--since must be before --until"),
        (("cost", "--unallocated", "all"), "separate, owner, tenants"),
        (("cost", "--unallocated", "owner"), "--by team"),
        (("cost", "--compare-policies", "--unit", "requests"), "leave out --unit"),
        (("cost", "--policy", "fair"), "equal, memory, active"),
        (("reconcile", "--by", "model"), "is not known"),
        (("reconcile", "--invoice", "-1"), "an amount of 0 or more"),
        (("reconcile", "--policy", "fair"), "equal, memory, active"),
        (("host", "add", "x", "--from", "2026-06-01"), "was not seen yet"),
        (("host", "remove", "x' OR '1'='1"), "nothing is declared"),
        (("explain", "--where", "pod"), "COLUMN=VALUE"),
        (("explain", "--where", "pdo=x"), "did you mean pod"),
        (("explain", "--account", "unobserved"), "wattribute reconcile"),
        (("explain", "--gpu", "GPU-"), "'GPU-' begins 4 names: GPU-"),
        (("explain", "--gpu", ""), "--gpu is empty: write the beginning of a GPU's name"),
        (("explain", "--team", "x' OR 1=1 -- 渋谷"), "nothing was measured that matches"),
        (("explain", "--team", "support", "--unit", "requests"), "units cannot be chosen by team"),
    ],
)
def test_a_wrong_question_gets_one_line(demo: str, arguments: tuple[str, ...], line: str) -> None:
    done = ran(*arguments, "--store", demo, status=2)
    assert line in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_names_that_nothing_has_are_said_to_be_nobody_s(demo: str) -> None:
    said = ran(
        "cost", "--unit", "tokens", "--by", "model,labels.costcentre", "--store", demo, status=2
    ).stderr
    assert "with --unit use" in said
    said = ran("cost", "--unit", "tokens", "--by", "model", "--store", demo).stdout
    assert "no tokens were counted in this span; these were: input_tokens, output_tokens, requests" in said
    said = ran("cost", "--by", "team,labels.costcentre", "--store", demo).stdout
    assert "no row has the label costcentre" in said
    said = ran("compare", "support-chat", "support-chat@v2", "--store", demo, status=2).stderr
    assert (
        "support-chat without a version was not seen in this span; the nearest known is support-chat@" in said
    )
    assert "Value error" not in ran("cost", "--format", "xml", "--store", demo, status=2).stderr


def test_an_empty_span_says_so(demo: str) -> None:
    span = ("--since", "2001-01", "--until", "2001-02", "--store", demo)
    assert "nothing was measured in this span" in ran("cost", *span).stdout
    assert "nothing was measured in this span" in ran("cost", "--compare-policies", *span).stdout
    assert "nothing was measured or billed in this span" in ran("reconcile", *span).stdout
    assert ran("reconcile", "--format", "csv", *span).stdout.startswith("host,billed_gpu_hours,process_usd")


def on_terminal(columns: int, store: str, *arguments: str) -> list[str]:
    """The lines of a command on a terminal so wide, without its colours."""
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 50, columns, 0, 0))
    command = [sys.executable, "-m", "wattribute", *arguments, "--store", store]
    environment = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    with subprocess.Popen(command, stdout=its, env={**environment, "TERM": "xterm"}) as process:
        os.close(its)
        said = b""
        with suppress(OSError):  # which is the end of a terminal
            while part := os.read(mine, 65536):
                said += part
        os.close(mine)
        assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).splitlines()


@pytest.mark.parametrize("columns", [120, 80])
@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("models", [r"^ support-chat +v2 ", r"^ code-review +v1 "]),
        ("runs", [r"^ support-chat-v3-sft-1 .* finished "]),
        ("reconcile", [r"^ demo-1 "]),
        ("cost", [r"^ support-chat +v2 "]),
    ],
)
def test_a_table_fits_its_terminal(demo: str, question: str, names: list[str], columns: int) -> None:
    lines = on_terminal(columns, demo, question)
    assert max(map(len, lines)) <= columns
    for name in names:
        assert sum(re.search(name, line) is not None for line in lines) == 1  # nothing is folded
