"""The whole path, by the command and in processes of their own: readings to what a model cost."""

from __future__ import annotations

import io
import json
import math
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.needs import need
from tests.survival.processes import POLICIES, completed, ran, started, wait_until
from wattribute.bus import TOPICS
from wattribute.commands.up import NEXT

GOLDEN = Path(__file__).parent / "data" / "golden"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
ALL_ROWS = "SELECT * FROM attribution FINAL ORDER BY ALL"

pytestmark = pytest.mark.usefixtures("_chdb")


@pytest.fixture(scope="session")
def _chdb() -> None:
    need("chdb")


def asked(store: str, sql: str) -> list[dict[str, Any]]:
    rows = json.loads(ran("query", sql, "--store", store, "--format", "json").stdout)
    assert isinstance(rows, list)
    return rows


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with the golden trace and the price that its figures were made with."""
    store = f"chdb://{tmp_path_factory.mktemp('golden')}/store"
    done = ran("replay", GOLDEN / "exclusive.ndjson", "--store", store)
    assert "348 lines, 301 samples" in done.stderr
    price = EXPECTED["price_per_gpu_hour_usd"]
    ran("price", "add", "--gpu", "NVIDIA H200", "--per-gpu-hour", str(price), "--store", store)
    return store


def test_a_query_on_standard_input_may_begin_with_a_byte_order_mark(
    golden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeffSELECT 1 AS one\r\n"))
    assert ran("query", "--store", golden, "--format", "csv").stdout.split() == ["one", "1"]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_golden_trace_comes_out_exactly_by_query(golden: str, policy: str) -> None:
    rows = asked(
        golden,
        "SELECT model, toString(account) AS account,"
        f" sum(active_energy_uj + idle_energy_{policy}_uj) AS energy_uj,"
        f" sum(gpu_time_{policy}_ns) AS gpu_time_ns FROM attribution FINAL GROUP BY model, account",
    )
    found = {(row["account"], row["model"]): (row["energy_uj"], row["gpu_time_ns"]) for row in rows}
    due = {
        ("process", name): (part["energy_uj"], part["gpu_time_ns"])
        for name, part in EXPECTED["process"].items()
    }
    due["unheld", ""] = (EXPECTED["unheld"]["energy_uj"], EXPECTED["unheld"]["gpu_time_ns"])
    assert found == due
    units = asked(
        golden,
        "SELECT model, quantity, energy_uj, j_per_unit, cost_usd FROM unit_cost("
        f"policy = '{policy}', since = '1970-01-01', until = '2100-01-01', unit = 'output_tokens')",
    )
    assert {row["model"] for row in units} == set(EXPECTED["process"])
    for row in units:
        part = EXPECTED["process"][row["model"]]
        assert (row["quantity"], row["energy_uj"]) == (part["output_tokens"], part["energy_uj"])
        assert row["j_per_unit"] == pytest.approx(part["j_per_output_token"], rel=1e-12)
        assert row["cost_usd"] == pytest.approx(EXPECTED["cost_usd"][row["model"]], abs=1e-9)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_golden_trace_comes_out_exactly_by_cost(golden: str, policy: str) -> None:
    arguments = ("--by", "model", "--policy", policy, "--unit", "output_tokens", "--format", "json")
    rows = {
        row["model"] or row["account"]: row
        for row in json.loads(ran("cost", *arguments, "--store", golden).stdout)
    }
    assert set(rows) == {"alpha", "beta", "unheld"}
    for name, row in rows.items():
        part = EXPECTED["process"].get(name, EXPECTED["unheld"])
        assert row["energy_j"] == pytest.approx(part["energy_uj"] / 1e6, rel=1e-12)
        assert row["gpu_hours"] == pytest.approx(part["gpu_time_ns"] / 3.6e12, rel=1e-12)
        assert row["cost_usd"] == pytest.approx(EXPECTED["cost_usd"][name], abs=1e-9)
        assert row["active_cost_usd"] + row["idle_cost_usd"] == pytest.approx(row["cost_usd"], abs=1e-12)
        assert row["quantity"] == part.get("output_tokens")
        if "j_per_output_token" in part:
            assert row["j_per_unit"] == pytest.approx(part["j_per_output_token"], rel=1e-12)


@pytest.mark.long
def test_what_models_draw_is_where_a_stream_may_begin(golden: str, tmp_path: Path) -> None:
    watts = {
        row["model"]: row for row in json.loads(ran("watts", "--store", golden, "--format", "json").stdout)
    }
    drawn = asked(
        golden,
        "SELECT model, sum(active_energy_uj) / 1e6 AS joules, sum(active_time_ns) / 1e9 AS busy_s"
        " FROM attribution FINAL WHERE account = 'process' GROUP BY model",
    )
    assert {row["model"] for row in drawn} == set(watts) == {"alpha", "beta"}
    for row in drawn:
        found = watts[row["model"]]
        assert found["watts_per_percent"] == pytest.approx(row["joules"] / row["busy_s"] / 100)
        assert (found["gpu_model"], found["gpus"], found["spread_w"]) == (
            "NVIDIA H200",
            1,
            pytest.approx(0, abs=1e-6),
        )
    assert "W per percent" in ran("watts", "--store", golden).stdout
    file = tmp_path / "watts.csv"
    file.write_text(ran("watts", "--store", golden, "--format", "csv").stdout)
    trace, store = GOLDEN / "exclusive.ndjson", f"chdb://{tmp_path}/again"
    ran("replay", trace, "--store", store, watts_file=str(file))
    assert asked(store, "SELECT count() AS n FROM conservation") == [{"n": 0}]
    file.write_text("nonsense")
    said = ran("replay", trace, "--store", store, status=2, watts_file=str(file)).stderr
    assert "has no column gpu_model: 'wattribute watts --format csv' writes it" in said


def test_the_golden_windows_add_up_and_are_all_there(golden: str) -> None:
    assert asked(golden, "SELECT * FROM conservation") == []
    (row,) = asked(
        golden,
        "SELECT count() AS windows, sum(energy) AS energy_uj FROM (SELECT any(device_energy_uj) AS energy"
        " FROM attribution FINAL GROUP BY host, gpu, window_start)",
    )
    assert row == {"windows": EXPECTED["window_count"], "energy_uj": EXPECTED["total_energy_uj"]}


@pytest.mark.long
def test_a_repeated_replay_changes_nothing(golden: str) -> None:
    before = asked(golden, ALL_ROWS)
    rollup = asked(golden, "SELECT * FROM attribution_hour FINAL ORDER BY ALL")
    ran("replay", GOLDEN / "exclusive.ndjson", "--store", golden)
    assert asked(golden, ALL_ROWS) == before
    assert asked(golden, "SELECT * FROM attribution_hour FINAL ORDER BY ALL") == rollup
    assert asked(golden, "SELECT count() AS n, sum(quantity) AS q FROM unit FINAL")[0]["q"] == 20_000


def test_windows_of_another_length_do_not_count_the_same_time_twice(golden: str) -> None:
    before = asked(golden, ALL_ROWS)
    again = ("replay", GOLDEN / "exclusive.ndjson", "--store", golden)
    assert "holds windows of 1000 ms, and window_ms is 2000" in ran(*again, status=2, window_ms="2000").stderr
    assert asked(golden, ALL_ROWS) == before


@pytest.mark.long
def test_where_nobody_sets_their_length_windows_are_as_those_in_the_store(tmp_path: Path) -> None:
    replay = ("replay", GOLDEN / "exclusive.ndjson", "--store", f"chdb://{tmp_path}/store")
    ran(*replay, window_ms="2000")
    before = asked(replay[-1], ALL_ROWS)
    ran(*replay)
    assert asked(replay[-1], ALL_ROWS) == before
    assert {row["window_ms"] for row in before} == {2000}


def test_a_replay_says_what_is_older_than_the_store_keeps(tmp_path: Path) -> None:
    places = ("--store", f"chdb://{tmp_path}/store")
    ran("stream", "--until-idle", "--bus", f"local://{tmp_path}/bus", *places, retention_days="30")
    trace = tmp_path / "of_2001.ndjson"
    readings = (
        {"kind": "device", "t": (10**9 + second) * 10**9, "gpu": "GPU-1", "energy_mj": 100_000 * second}
        for second in range(100)
    )
    lines = [{"kind": "trace", "version": 1, "host": "h", "boot_id": "b"}, *readings]
    trace.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert "3 minutes of a GPU are older than retention_days" in ran("replay", trace, *places).stderr
    cut = "windows older than 30 days (retention_days) are deleted"
    by_seconds = ("--since", "2001-09-09T01:46:41Z", "--until", "2001-09-09T01:47Z", *places)
    for command in (("cost",), ("cost", "--compare-policies"), ("runs",), ("models",), ("reconcile",)):
        said = ran(*command, *by_seconds).stdout
        assert f"{cut}, so this span's part of the minute 2001-09-09 01:46 UTC is missing" in said, command
    within = ran("cost", "--since", "2001-09-09T01:46:41Z", "--until", "2001-09-09T01:46:50Z", *places)
    assert within.stdout.count(cut) == 1
    by_minutes = ran("cost", "--since", "2001-09-09T01:46Z", "--until", "2001-09-09T01:47Z", *places)
    assert cut not in by_minutes.stdout


def test_the_cost_table_is_plain_and_names_its_policy(golden: str) -> None:
    out = ran("cost", "--store", golden, "--unit", "output_tokens", "--policy", "memory").stdout
    assert "\x1b" not in out
    assert re.search(r"^alpha +v1 +process +2,7\d\d +7\d\d +3,500 ", out, re.MULTILINE)
    assert re.search(r"^ +unheld +0 +800 +800 ", out, re.MULTILINE)
    assert re.search(r"^ +total .* 9,300 .* 0\.03000$", out, re.MULTILINE)
    assert "policy memory:" in out
    assert re.search(r"^alpha +v1 +10,000 +0\.01000 +1\.000 +0\.3500$", out, re.MULTILINE)


def test_explain_says_what_a_figure_rests_on(golden: str) -> None:
    rows = json.loads(ran("explain", "--model", "alpha", "--store", golden, "--format", "json").stdout)
    about = {row["about"]: row for row in rows}
    assert about["figure"]["value"] == "0.01 USD"
    assert about["figure"]["energy_j"] == 3500.0
    assert "windows: 10, GPUs: 1, processes: 1;" in about["figure"]["meaning"]
    assert about["energy source"]["value"] == "counter"
    assert about["weight source"]["value"] == "exclusive"
    assert about["price"]["value"] == "3.6 USD/h"
    assert "wattribute price add" in about["price"]["meaning"]
    window = ("--window", "2026-05-28T20:26:45.5Z", "--store", golden, "--format", "json")
    rows = json.loads(ran("explain", *window).stdout)
    assert rows[0]["energy_j"] == 350.0
    assert (
        "nothing was measured that matches"
        in ran("explain", "--run", "no", "--store", golden, status=2).stderr
    )


@pytest.mark.long
def test_without_a_price_money_is_null_and_the_table_says_what_to_do(tmp_path: Path) -> None:
    trace = tmp_path / "trace.ndjson"
    text = (GOLDEN / "exclusive.ndjson").read_text()
    trace.write_text(text.replace("NVIDIA H200", "NVIDIA X9"))
    store = f"chdb://{tmp_path}/store"
    out = ran("up", "--replay", trace, "--store", store).stdout
    assert "unpriced" in out
    assert "wattribute price add --gpu 'NVIDIA X9'" in out
    rows = json.loads(ran("cost", "--store", store, "--format", "json").stdout)
    assert {row["cost_usd"] for row in rows} == {None}


@pytest.mark.long
def test_bad_lines_are_counted_and_shown_and_good_ones_kept(tmp_path: Path) -> None:
    lines = (GOLDEN / "exclusive.ndjson").read_text().splitlines()
    lines.insert(5, '{"kind":"device","t":')
    lines.insert(9, '{"kind":"device","t":1780000000000000000,"gpu":"G","power_mw":NaN}')
    lines.insert(20, '{"kind":"surprise","t":1780000000000000000}')
    trace = tmp_path / "bad.ndjson"
    trace.write_text("\n".join(lines))
    store = f"chdb://{tmp_path}/store"
    done = ran("replay", trace, "--store", store, status=1)
    assert f"{trace}:6 not JSON" in done.stderr
    assert f"{trace}:21 unknown kind 'surprise'" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("wattribute: 3 records could not be used")
    assert "more" not in done.stderr
    (row,) = asked(
        store, "SELECT sum(active_energy_uj + idle_energy_equal_uj) AS energy_uj FROM attribution FINAL"
    )
    assert row["energy_uj"] == EXPECTED["total_energy_uj"]
    assert len(asked(store, "SELECT * FROM dead FINAL")) == 3

    assert "is neither a trace" not in done.stderr
    trace.write_text("gpu_model,price\nNVIDIA H200,3.6\n")
    other = ran("replay", trace, "--store", f"chdb://{tmp_path}/other", status=1).stderr
    assert f"{trace} is neither a trace nor a log of nvidia-smi: none of its lines could be used" in other

    trace.write_text("\n".join(lines + ["{"] * 7))
    more = ran("replay", trace, "--store", f"chdb://{tmp_path}/more", status=1).stderr.splitlines()
    assert more[-2] == "… and 5 more"
    assert more[-1].startswith("wattribute: 10 records could not be used")


@pytest.mark.long
def test_a_log_of_nvidia_smi_is_costed_to_whom_an_option_names(tmp_path: Path) -> None:
    log = tmp_path / "gpu.csv"
    cells = [f"2026/06/01 12:00:{second:02d}.000, 300.00 W, 90 %" for second in range(30)]
    log.write_text("\n".join(["timestamp, power.draw.instant [W], utilization.gpu [%]", *cells]))
    store = f"chdb://{tmp_path}/store"
    owner = ("--workload", "model=square,run=r1", "--timezone", "Europe/Berlin", "--host", "lab")
    ran("replay", log, *owner, "--store", store)
    (row,) = json.loads(ran("cost", "--by", "host,model,run", "--store", store, "--format", "json").stdout)
    assert (row["host"], row["model"], row["run"], row["account"]) == ("lab", "square", "r1", "process")
    assert row["energy_j"] == pytest.approx(29 * 300, rel=1e-6)
    (first,) = asked(store, "SELECT min(window_start) AS t, any(gpu) AS gpu FROM attribution FINAL")
    assert first == {"t": "2026-06-01T10:00:00Z", "gpu": "log:gpu:0"}
    assert row["cost_usd"] is None  # the log does not say what GPU it is
    assert "replay it with --gpu-model" in ran("cost", "--store", store).stdout
    ran("replay", log, *owner, "--gpu-model", "NVIDIA X9", "--store", store)
    ran("price", "add", "--gpu", "NVIDIA X9", "--per-gpu-hour", "3.6", "--store", store)
    (row,) = json.loads(ran("cost", "--by", "model", "--store", store, "--format", "json").stdout)
    assert row["cost_usd"] == pytest.approx(29 * 0.001, rel=1e-9)
    ran("replay", GOLDEN / "exclusive.ndjson", *owner, "--store", store, status=2)


def cells_of(table: str, account: str) -> list[list[float]]:
    """The seven figures of each line of an account on a cost table. What is shown as less than one of its
    last digit, as <1, is no part of the sums."""
    lines = [line.split() for line in table.splitlines() if account in line.split()]
    return [
        [0.0 if cell.startswith("<") else float(cell.replace(",", "")) for cell in line[-7:]]
        for line in lines
    ]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that a few seconds of ``up --simulate`` left, and what it printed."""
    folder = tmp_path_factory.mktemp("simulated")
    arguments = ("--simulate", "--duration", "6", "--fresh", "--store", f"chdb://{folder}/store")
    return folder, ran("up", *arguments).stdout


def test_up_ends_by_itself_with_a_table_whose_parts_add_up(simulated: tuple[Path, str]) -> None:
    folder, out = simulated
    table = out.partition("\npolicy ")[0]
    assert "SIMULATED DATA" in table
    (total,) = cells_of(table, "total")
    parts = [line for name in ("process", "unheld", "residual") for line in cells_of(table, name)]
    assert cells_of(table, "process")
    assert cells_of(table, "unheld")
    for place in range(7):
        assert math.fsum(part[place] for part in parts) == pytest.approx(total[place], abs=1e-9)
    assert total[6] > 0
    store = f"chdb://{folder}/store"
    hosts = "SELECT DISTINCT host, pricing FROM attribution FINAL ORDER BY host"
    assert [tuple(row.values()) for row in asked(store, hosts)] == [
        ("demo-1", "on_demand"),
        ("demo-2", "spot"),
    ]
    assert "unpriced" not in out
    assert f"export WATTRIBUTE_STORE={store}" in out
    for question in NEXT:
        assert f"wattribute {question} " in out
        assert ran(*question.split(), "--store", store).stdout
    counted = re.search(r"= ([\d,.]+) J; the GPUs used ([\d,.]+) J$", out, re.MULTILINE)
    assert counted is not None
    assert counted[1] == counted[2]
    assert "USD per million output_tokens" in out
    assert asked(f"chdb://{folder}/store", "SELECT * FROM conservation") == []


def test_the_bus_that_up_left_gives_the_same_table_again(simulated: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = simulated
    again = f"chdb://{tmp_path}/store"
    ran("stream", "--bus", f"local://{folder}/bus", "--store", again, "--from-beginning", "--until-idle")
    rows = asked(again, ALL_ROWS)
    assert rows
    assert rows == asked(f"chdb://{folder}/store", ALL_ROWS)


@pytest.fixture(scope="module")
def minute(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with 50 simulated seconds: a run that failed and was resumed, and another on its way."""
    folder = tmp_path_factory.mktemp("minute")
    store = f"chdb://{folder}/store"
    trace = folder / "minute.ndjson"
    ran("record", trace, "--simulate", "--virtual-time", "--duration", "50s")
    ran("replay", trace, "--store", store)
    return store


@pytest.mark.long
def test_runs_say_what_was_in_vain_and_where_it_ends(minute: str) -> None:
    """Of the scenario: from 1 s on, two steps a second, a checkpoint every 4 s; it fails at 12 s, and goes on
    from 15 s to 28 s."""
    first, second = json.loads(ran("runs", "--store", minute, "--format", "json").stdout)
    assert (first["attempts"], first["outcome"]) == (2, "finished")
    assert (first["position"], first["target_position"]) == (16 + 26, 42)
    assert first["projected_cost_usd"] is None
    assert first["cost_usd_per_step"] == pytest.approx(first["cost_usd"] / 42)
    assert (second["attempts"], second["outcome"]) == (2, "running")
    assert (second["position"], second["target_position"]) == (16 + 8, 42)
    assert second["cost_usd"] < second["projected_cost_usd"] < 1.1 * first["cost_usd"]
    (spent,) = asked(
        minute,
        "SELECT sum(time_ns) AS all_ns, sumIf(time_ns, at >= 8 AND attempt = 0) AS lost_ns,"
        " sumIf(time_ns, at = 14) AS retry_ns FROM (SELECT attempt, gpu_time_equal_ns AS time_ns,"
        " dateDiff('second', min(started) OVER (), window_start) AS at FROM attribution FINAL"
        f" INNER JOIN attempt USING (run, attempt) WHERE run = '{first['run']}')",
    )
    # Eight seconds were kept. Of the second from the 14th on, whose two steps are told at its end, half
    # passes before the first new step by an even pace, and at most all.
    for wasted, before_ratio in (("wasted_usd", 0.5), ("wasted_most_usd", 1)):
        wasted_ns = spent["lost_ns"] + before_ratio * spent["retry_ns"]
        assert first[wasted] / first["cost_usd"] == pytest.approx(wasted_ns / spent["all_ns"])
    costs = json.loads(ran("cost", "--by", "run", "--store", minute, "--format", "json").stdout)
    assert {row["run"]: row["cost_usd"] for row in costs if row["run"]} == pytest.approx(
        {row["run"]: row["cost_usd"] for row in (first, second)}
    )


@pytest.mark.long
def test_models_say_what_a_token_costs_beside_how_good_it_is(minute: str) -> None:
    rows = json.loads(ran("models", "--store", minute, "--format", "json").stdout)
    by_name = {(row["model"], row["model_version"]): row for row in rows}
    assert by_name.keys() == {
        *(("support-chat", version) for version in ("v1", "v2", "v3")),
        *(("code-review", version) for version in ("v1", "v2")),
        ("", ""),  # a notebook
    }
    assert by_name.pop(("", ""))["unmatched"] == "no model"
    costs = json.loads(ran("cost", "--by", "model", "--store", minute, "--format", "json").stdout)
    assert sum(row["cost_usd"] + row["training_cost_usd"] for row in rows) == pytest.approx(
        sum(row["cost_usd"] for row in costs if row["account"] == "process")
    )
    trained = by_name.pop(("support-chat", "v3"))
    runs = json.loads(ran("runs", "--store", minute, "--format", "json").stdout)
    assert trained["training_cost_usd"] == pytest.approx(sum(run["cost_usd"] for run in runs))
    assert (trained["cost_usd"], trained["output_tokens"]) == (0, None)
    units = asked(
        minute,
        "SELECT model, model_version, cost_usd_per_million, j_per_unit FROM unit_cost(policy = 'equal',"
        " since = '1970-01-01', until = '2100-01-01', unit = 'output_tokens') WHERE quantity > 0",
    )
    assert len(units) == len(by_name)
    for unit in units:
        row = by_name[unit["model"], unit["model_version"]]
        assert row["cost_usd_per_million_output_tokens"] == pytest.approx(unit["cost_usd_per_million"])
        assert row["j_per_output_token"] == pytest.approx(unit["j_per_unit"])
        assert row["training_cost_usd"] == 0
    assert by_name["support-chat", "v1"]["quality"] == {"resolved_ratio on support-2026-09": 0.71}
    table = ran("models", "--store", minute).stdout
    assert "resolved_ratio 0.71" in table
    assert "quality: accepted_ratio on reviews-2026-09, resolved_ratio on support-2026-09" in table
    assert "policy equal: " in table
    assert "of processes that name no model" in table


@pytest.mark.long
def test_two_versions_side_by_side_and_what_they_came_of(minute: str) -> None:
    v1, v2 = "support-chat@v1", "support-chat@v2"
    told = json.loads(ran("compare", v1, v2, "--store", minute, "--format", "json").stdout)
    figures = {row["figure"]: row for row in told}
    quality = figures["resolved_ratio on support-2026-09"]
    assert (quality["first"], quality["second"], quality["better"]) == (0.71, 0.73, "same")
    assert "with 400 and 400 samples: up to" in ran("compare", v1, v2, "--store", minute).stdout
    assert "the nearest known is" in ran("compare", v1, "chat@v9", "--store", minute, status=2).stderr
    assert "MODEL@VERSION" in ran("compare", v1, "@v9", "--store", minute, status=2).stderr
    whose = ("--model", "support-chat", "--model-version", "v2", "--run", "support-chat-v3-sft-1")
    added = ran("lineage", "add", *whose, "--until", "2099-01-01", "--store", minute).stderr
    assert re.search(r"from 20\d\d-\d\d-\d\d \(it was first seen to serve then\) until 2099-01-01", added)
    ran("lineage", "add", *whose, "--from", "2026-01-01", "--until", "2036-01-01", "--store", minute)
    wrong = ran("lineage", "add", *whose, "--until", "2020-01-01", "--store", minute, status=2).stderr
    assert "the life ends (2020-01-01T00:00Z) before it begins" in wrong
    (declared,) = json.loads(ran("lineage", "list", "--store", minute, "--format", "json").stdout)
    assert (declared["run"], declared["is_seen"]) == ("support-chat-v3-sft-1", 1)
    assert "support-chat-v3-sft-1" in ran("lineage", "list", "--store", minute).stdout
    wide = ran("models", "--wide", "--limit", "2", "--store", minute)
    assert "fully loaded USD" in wide.stdout
    assert "4 cheaper model versions are left out" in wide.stderr


@pytest.mark.long
def test_runs_as_a_table(minute: str, golden: str) -> None:
    header, first, second, policy = ran("runs", "--store", minute).stdout.splitlines()
    assert header.split()[:3] == ["run", "model", "version"]
    assert " 42 of 42 " in first
    assert " 24 of 42 " in second
    assert policy.startswith("policy equal: ")
    assert "no run was seen in this span" in ran("runs", "--store", golden).stdout


@pytest.mark.long
def test_collect_and_stream_stop_cleanly_when_they_are_told_to(tmp_path: Path) -> None:
    bus, store = f"local://{tmp_path}/bus", f"chdb://{tmp_path}/store"
    collecting = started("collect", "--simulate", "--bus", bus)
    streaming = started("stream", "--bus", bus, "--store", store)
    try:
        wait_until((tmp_path / "store" / "query.sock").exists, collecting, streaming)
        # its owner answers for the store meanwhile, also to what writes prices
        wait_until(
            lambda: asked(store, "SELECT count() AS n FROM attribution FINAL")[0]["n"] > 8,
            collecting,
            streaming,
        )
        ran("price", "add", "--gpu", "NVIDIA H200", "--per-gpu-hour", "3.6", "--store", store)
        assert json.loads(ran("top", "--store", store, "--format", "json").stdout)[0]["watts"] > 0
        assert "in use by" in ran("replay", GOLDEN / "exclusive.ndjson", "--store", store, status=1).stderr
        collecting.send_signal(signal.SIGTERM)
        completed(collecting)
        streaming.send_signal(signal.SIGINT)
        completed(streaming)
    finally:
        collecting.kill()
        streaming.kill()
    ran("stream", "--bus", bus, "--store", store, "--until-idle")
    assert asked(store, "SELECT * FROM conservation") == []
    (gaps,) = asked(store, "SELECT count() AS n FROM dead FINAL")
    assert gaps["n"] == 0


@pytest.mark.long
def test_the_same_path_over_kafka(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.bus.conftest import mock_started

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))  # where the spool lies
    with mock_started() as cluster:
        for topic in TOPICS:
            cluster.create(topic, 3)
        bus, store = f"kafka://{cluster.servers}", f"chdb://{tmp_path}/store"
        sent = ran("collect", "--simulate", "--bus", bus, "--duration", "3")
        assert "still in" not in sent.stderr
        ran("emit", "unit", "images", "8", "--model", "painter", "--bus", bus)
        ran("stream", "--bus", bus, "--store", store, "--until-idle")
    assert asked(store, "SELECT * FROM conservation") == []
    rows = asked(store, "SELECT uniq(gpu) AS gpus, uniq(window_start) AS windows FROM attribution FINAL")
    assert rows[0]["gpus"] == 4
    assert rows[0]["windows"] >= 3
    counted = "SELECT model, sum(quantity) AS quantity FROM unit FINAL WHERE unit = 'images' GROUP BY model"
    assert asked(store, counted) == [{"model": "painter", "quantity": 8}]


def test_doctor_finds_what_is_broken(golden: str, tmp_path: Path) -> None:
    bus = f"local://{tmp_path}/bus"
    rows = json.loads(ran("doctor", "--simulate", "--store", golden, "--bus", bus, "--format", "json").stdout)
    assert {row["part"] for row in rows} == {"permissions", "clocks", "bus", "store"}
    assert "broken" not in {row["state"] for row in rows}
    away = ran("doctor", "--simulate", "--store", golden, "--bus", "local:///proc/no/bus", status=1)
    assert "broken: bus" in away.stderr
    assert "/proc/no/bus cannot be created" in away.stdout
