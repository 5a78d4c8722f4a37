"""The command: its help, its options, how it ends, and what it prints."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from wattribute import __version__, cli
from wattribute.commands import runs
from wattribute.commands.cost import cost_grid, write_policies
from wattribute.commands.output import Format, Grid, write_grid, write_rows
from wattribute.commands.replay import open_inputs
from wattribute.commands.top import show_live, top_grid
from wattribute.commands.unit_table import unit_grid
from wattribute.errors import UsageError
from wattribute.records import Device
from wattribute.sinks.store import open_store

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
COMMANDS = (
    *("up", "run", "collect", "stream", "record", "replay", "emit"),
    *("top", "cost", "reconcile", "models", "compare", "runs", "query", "explain"),
    *("price", "lineage", "host", "doctor", "check-config", "migrate"),
)


@pytest.fixture(autouse=True)
def _empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration file, and no user's store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    for name in [name for name in os.environ if name.startswith("WATTRIBUTE_")]:
        monkeypatch.delenv(name)


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command line."""
    status = cli.run(arguments)
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    "name",
    [
        *COMMANDS,
        "emit unit",
        "emit quality",
        "emit run",
        "price add",
        "price list",
        "price import",
        "price tariff",
        "host add",
    ],
)
def test_every_command_says_what_it_does_in_a_line(capsys: pytest.CaptureFixture[str], name: str) -> None:
    status, out, err = ended(capsys, *name.split(), "--help")
    assert (status, err) == (0, "")
    assert f"Usage: wattribute {name}" in out
    if " " not in name:
        assert "For example" in out


def test_help_breaks_lines_where_the_terminal_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    _, out, _ = ended(capsys, "models", "--help")
    assert "Training is a column of its own." in _line_with(out, "The average covers")
    _, out, _ = ended(capsys, "lineage", "add", "--help")
    assert "else on the day its run was last seen; else today." in _line_with(out, "The cost of the run")


def _line_with(text: str, words: str) -> str:
    return next(line for line in text.splitlines() if words in line)


def test_the_version_is_said_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(capsys, "--version") == (0, f"wattribute {__version__}\n", "")
    assert ended(capsys, "--version", "--debug") == (0, f"wattribute {__version__}\n", "")


def test_a_command_loads_no_other() -> None:
    code = (
        "import sys; from wattribute.cli import run; run(['cost', '--help']);"
        " print(sorted(name for name in sys.modules if name.endswith(('commands.cost', 'commands.up'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['wattribute.commands.cost']"


def test_help_is_quick_and_loads_neither_engine_nor_store() -> None:
    code = (
        "import sys; from wattribute.cli import run; status = run(['--help']);"
        " heavy = {'numba', 'numpy', 'pyarrow', 'chdb', 'clickhouse_connect', 'confluent_kafka', 'pynvml'};"
        " print(sorted(heavy & set(sys.modules)), status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_collecting_needs_no_array_library(tmp_path: Path) -> None:
    code = (
        "import sys; from wattribute.cli import run;"
        " status = run(['collect', '--simulate', '--duration', '1', '--bus', sys.argv[1]]);"
        " heavy = {'numba', 'numpy', 'pyarrow', 'chdb', 'clickhouse_connect'};"
        " print(sorted(heavy & set(sys.modules)), status)"
    )
    bus = f"local://{tmp_path}/bus"
    done = subprocess.run([sys.executable, "-c", code, bus], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"


@pytest.mark.parametrize(
    ("arguments", "status", "what"),
    [
        ("bogus", 2, "No such command 'bogus'"),
        ("cost --fromat json", 2, "No such option: --fromat"),
        ("replay", 2, "Missing argument"),
        ("replay none.ndjson", 2, "there is no file none.ndjson"),
        ("verify --trace none.ndjson", 2, "there is no file none.ndjson"),
        ("up --store x", 2, "store 'x' is neither chdb:///"),
        ("up --bus http://x", 2, "bus 'http://x' is neither kafka://"),
        ("up --simulate --scenario nope", 2, "no bundled scenario 'nope'"),
        ("up --scenario demo", 2, "need --simulate"),
        ("up --simulate --duration soon", 2, "'soon' is not a duration"),
        ("up --replay x --simulate", 2, "cannot be combined with --simulate"),
        ("collect --simulate --fast-hz 1000", 2, "it must be 1 to 100"),
        ("collect --simulate --bus local:///proc/nowhere", 1, "local log /proc/nowhere"),
        ("record /nowhere/x.ndjson --simulate --duration 1", 1, "cannot write /nowhere/x.ndjson"),
        ("record x.ndjson --simulate --virtual-time", 2, "needs --duration"),
        ("record x.ndjson --simulate --start now", 2, "needs --virtual-time"),
        ("record x --simulate --virtual-time --duration 1 --start 2500-01-01", 2, "times from 1970 to 2100"),
        ("run --steps 0 -- true", 2, "--steps"),
        ("run", 2, "Missing argument"),
        ("run --progress step -- true", 2, "has 0 groups: put the step in parentheses"),
        ("run --resume (1) -- true", 2, "need --progress"),
        ("run --scenario demo -- true", 2, "--scenario needs --simulate"),
        ("run --policy fair -- true", 2, "unknown policy 'fair'"),
        ("up --simulate --policy fair", 2, "unknown policy 'fair'"),
        ("run --bus http://x -- true", 2, "bus 'http://x' is neither kafka://"),
        ("cost --since tomorrow", 2, "'tomorrow' is not a time"),
        ("cost --since 1h --until 2h", 2, "is empty"),
        ("cost --store chdb:///nowhere/store", 1, "there is no store in /nowhere/store"),
        ("cost --store clickhouse://127.0.0.1:1/x", 1, "cannot open the store clickhouse://127.0.0.1:1/x"),
        ("price remove --gpu x --store chdb:///nowhere/store", 1, "there is no store in /nowhere/store"),
        ("explain --policy fair", 2, "unknown policy 'fair'"),
        ("explain --window 2026-06-01 --since 1h", 2, "--window cannot be combined with"),
        ("price add --gpu x --per-gpu-hour -1", 2, "it must be from 0 to 1,000,000,000"),
        ("price add --gpu x --per-gpu-hour 1e308", 2, "it must be from 0 to 1,000,000,000"),
        ("cost --tz PST", 2, "time zone 'PST' is not known; write UTC or a name like Europe/Berlin"),
        ("cost --tz berlin", 2, "did you mean Europe/Berlin?"),
        ("price tariff add --per-kwh 1e308", 2, "it must be from 0 to 1,000,000,000"),
        ("price import .", 2, "cannot read the prices in .: Is a directory"),
        ("host add node --gpus 0 --from 2026-06-01", 2, "--gpus 0: it must be 1 or more"),
        ("reconcile --invoice 300 --format json", 2, "--invoice is compared only in the table"),
        ("run --output /nowhere/o.json -- true", 2, "--output /nowhere/o.json cannot be written"),
        ("replay /tmp/\x9b31m", 2, "there is no file /tmp/�31m"),
        ("price import none.csv", 2, "cannot read the prices in none.csv"),
        ("price add --gpu H\x9b200 --per-gpu-hour 1", 2, "gpu_model 'H�200' holds control characters"),
        (
            "lineage add --model m --run r\x7f --until 2099-01",
            2,
            "run 'r�' holds control characters",
        ),
        ("host add h\x1b --from 2026-01", 2, "host 'h�' holds control characters"),
        (
            "record o.ndjson --simulate --truth /nowhere/t.json",
            2,
            "--truth /nowhere/t.json cannot be written",
        ),
        ("verify additive --gpu", 2, "scenarios, --seeds and --picture are for simulations"),
        ("verify --seeds 3 --trace none.ndjson", 2, "scenarios, --seeds and --picture are for simulations"),
        ("verify --gpu --seconds 60", 2, "with --gpu it must be 200 to 3600"),
        ("verify --trace none.ndjson --index 1", 2, "--index, --overwrite and --seconds need --gpu"),
        ("verify additive --overwrite", 2, "--index and --overwrite need --gpu"),
        ("check-config --config none.toml", 2, "none.toml cannot be read"),
        ("check-config --store chdb://x", 2, "store 'chdb://x' is neither"),
        ("migrate --plan", 1, "there is no store"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: str, status: int, what: str
) -> None:
    got, out, err = ended(capsys, *arguments.split())
    assert got == status
    assert what in err
    assert err.startswith("wattribute: ")
    assert err.count("\n") == 1
    assert out == ""


def test_a_bug_is_one_line_unless_debug_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("the\nreason")

    monkeypatch.setattr("wattribute.commands.check_config.load_settings", broken)
    status, _, err = ended(capsys, "check-config")
    assert (status, err) == (
        1,
        "wattribute: this is a bug in wattribute: ZeroDivisionError: the reason; --debug shows where\n",
    )
    status, _, err = ended(capsys, "check-config", "--debug")
    assert status == 1
    assert "Traceback" in err


def test_where_no_compiled_kernel_can_be_kept_it_says_what_to_do() -> None:
    code = (
        "from numba.core import caching; caching.CodeLibraryCacheImpl._locator_classes.clear();"
        "caching.CompileResultCacheImpl._locator_classes.clear(); from wattribute.cli import run;"
        "raise SystemExit(run(['verify', 'constant']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "set NUMBA_CACHE_DIR to a folder" in done.stderr


def test_an_interrupt_ends_with_130_and_a_missing_extra_says_which(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def missing(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    def closed(*_: object) -> None:
        Path("/" + "x" * 300).exists()  # as of a folder that may not be looked into

    monkeypatch.setattr("wattribute.commands.check_config.load_settings", closed)
    assert ended(capsys, "check-config")[2].endswith("xxx: File name too long\n")
    monkeypatch.setattr("wattribute.commands.check_config.load_settings", interrupted)
    assert ended(capsys, "check-config") == (130, "", "wattribute: interrupted\n")
    monkeypatch.setattr("wattribute.commands.check_config.load_settings", missing)
    assert ended(capsys, "check-config")[2] == (
        "wattribute: this needs numpy: pip install 'wattribute[embedded]', or 'wattribute[stream]' for a"
        " ClickHouse server\n"
    )
    monkeypatch.setattr("wattribute.sinks.store.find_spec", lambda _: None)
    monkeypatch.setenv("WATTRIBUTE_STORE", f"chdb://{tmp_path}/store")
    assert ended(capsys, "migrate") == (
        1,
        "",
        "wattribute: this needs chdb: pip install 'wattribute[embedded]'\n",
    )
    assert not list(tmp_path.iterdir())


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m wattribute check-config --format json | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_without_a_gpu_up_says_so_and_offers_a_simulated_one() -> None:
    environ = os.environ | {"LD_LIBRARY_PATH": "/nowhere"}
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU here")
    done = subprocess.run(
        [sys.executable, "-m", "wattribute", "up"], capture_output=True, text=True, env=environ, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no GPU to read on this machine" in done.stderr
    assert "--simulate" in done.stderr


def test_fresh_empties_nothing_that_is_not_ours(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = tmp_path / "home"
    (store / "data").mkdir(parents=True)
    (store / "thesis.tex").write_text("mine")
    status, _, err = ended(capsys, "up", "--simulate", "--fresh", "--store", f"chdb://{store}")
    assert status == 2
    assert "it contains thesis.tex, which is not wattribute's" in err
    assert (store / "thesis.tex").read_text() == "mine"
    assert (store / "data").is_dir()
    (store / "thesis.tex").unlink()
    status, _, err = ended(capsys, "up", "--simulate", "--fresh", "--store", f"chdb://{store}")
    assert status == 2
    assert "it belongs to another program" in err
    assert (store / "data").is_dir()


def test_a_time_zone_that_the_engine_does_not_know_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TZ", "UTC+2")
    status, _, err = ended(capsys, "migrate", "--store", f"chdb://{tmp_path}/store")
    assert status == 1
    assert "does not know the time zone TZ=UTC+2" in err


def test_check_config_shows_values_and_their_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATTRIBUTE_KAFKA_PASSWORD", "hunter2")
    status, out, _ = ended(capsys, "check-config", "--host", "node-7", "--format", "json")
    rows = {row["key"]: row for row in json.loads(out)}
    assert status == 0
    assert (rows["host"]["value"], rows["host"]["from"]) == ("node-7", "option --host")
    assert "hunter2" not in out


def test_check_config_reads_the_file_of_watts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATTRIBUTE_WATTS_FILE", "none.csv")
    status, out, err = ended(capsys, "check-config")
    assert (status, out) == (2, "")
    assert "watts_file none.csv cannot be read" in err


def test_recording_in_virtual_time_takes_seconds_and_is_the_same_twice(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    begin = time.process_time()
    for name in ("one", "two"):
        arguments = (
            f"record {name}.ndjson --simulate --virtual-time --duration 60 --start 2026-06-01 --seed 5"
        )
        status, _, err = ended(capsys, *arguments.split(), "--truth", f"{name}.json")
        assert status == 0
        assert "SIMULATED" in err
    assert time.process_time() - begin < 60
    assert (tmp_path / "one.ndjson").read_bytes() == (tmp_path / "two.ndjson").read_bytes()
    truth = json.loads((tmp_path / "one.json").read_text())
    assert truth == json.loads((tmp_path / "two.json").read_text())
    assert sum(gpu["total_uj"] for gpu in truth["gpus"]) > 60 * 4 * 50e6  # four GPUs at no less than 50 W
    assert cli.run(["record", "one.ndjson", "--simulate", "--duration", "1"]) == 1  # it is there already
    assert cli.run(["record", "-", "--simulate", "--duration", "1"]) == 2
    assert not (tmp_path / "-").exists()


def test_a_store_or_bus_that_was_not_there_is_pointed_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A name that is mistyped would otherwise be one more store, and all would look as if it were well."""
    price = ("price", "add", "--gpu", "x", "--per-gpu-hour", "1", "--store", f"chdb://{tmp_path}/s")
    told = ("emit", "unit", "images", "3", "--model", "m", "--bus", f"local://{tmp_path}/b")
    for arguments, made in (
        (price, f"created a new store in {tmp_path}/s"),
        (told, f"a new bus in {tmp_path}/b"),
    ):
        for is_new in (True, False):
            code, _, errors = ended(capsys, *arguments)
            assert (code, made in errors) == (0, is_new), errors


def test_price_list_shows_the_bundled_book_with_its_sources(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = ended(capsys, "price", "list", "--format", "json")
    rows = json.loads(out)
    assert status == 0
    assert {row["origin"] for row in rows} == {"bundled"}
    assert all(row["source"] and row["price_per_gpu_hour"] > 0 for row in rows)
    _, out, _ = ended(capsys, "price", "list", "--format", "csv")
    assert len(list(csv.DictReader(io.StringIO(out)))) == len(rows)


def test_prices_and_lives_begin_and_end_by_the_clock_of_a_zone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """From 1 June was from midnight in UTC alone, and the first two hours of it in Berlin had no price."""

    def told(*arguments: str) -> tuple[str, str]:
        status, out, errors = ended(capsys, *arguments, "--store", f"chdb://{tmp_path}/store")
        assert status == 0, errors
        return out, errors

    def mine() -> list[tuple[str, str]]:
        rows = json.loads(told("price", "list", "--format", "json")[0])
        return [(row["valid_from"], row["valid_to"]) for row in rows if row["origin"] == "user"]

    span = ("--from", "2026-06-01", "--until", "2026-12-01", "--tz", "Europe/Berlin")
    told("price", "add", "--gpu", "NVIDIA H200", "--per-gpu-hour", "3.6", *span)
    assert mine() == [("2026-05-31T22:00:00Z", "2026-11-30T23:00:00Z")]
    told("price", "remove", "--gpu", "NVIDIA H200", *span[:2], *span[4:])
    assert mine() == []
    _, said = told("lineage", "add", "--model", "chat", "--run", "sft-7", *span)
    assert "from 2026-06-01 until 2026-12-01" in said
    (life,) = json.loads(told("lineage", "list", "--format", "json")[0])
    assert life["life_from"] == "2026-05-31T22:00:00Z"


def test_a_list_of_prices_can_be_edited_and_given_back(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def told(*arguments: str) -> str:
        status, out, errors = ended(capsys, "price", *arguments, "--store", f"chdb://{tmp_path}/store")
        assert status == 0, errors
        return out if arguments[0] == "list" else errors

    listed = tmp_path / "prices.csv"
    told("add", "--gpu", "NVIDIA H200", "--capital-per-gpu", "35000", "--life-years", "4")
    told("add", "--gpu", "NVIDIA H200", "--per-gpu-hour", "3.6", "--provider", "x", "--until", "2026-09-01")
    listed.write_text(before := told("list", "--format", "csv"))
    assert "2 prices from" in told("import", str(listed))
    assert told("list", "--format", "csv") == before

    bundled = "runpod,,on_demand,1.39,"
    listed.write_text(before.replace(bundled, "runpod,,on_demand,1.25,").replace(",3.6,", ",3.5,"))
    assert "3 prices from" in told("import", str(listed))
    rows = json.loads(told("list", "--format", "json"))
    yours = [row["price_per_gpu_hour"] for row in rows if row["origin"] == "user"]
    assert sorted(yours) == [pytest.approx(35000 / 4 / 8760), 1.25, 3.5]
    assert bundled in told("list", "--format", "csv")  # yours goes before it
    # until when one holds and from when the next does is moved in one go, whichever line comes first
    told("add", "--gpu", "X1", "--per-gpu-hour", "1", "--until", "2026-06-01")
    told("add", "--gpu", "X1", "--per-gpu-hour", "2", "--from", "2026-06-01")
    header = "gpu_model,price,valid_from,valid_to,deleted"
    first, last = "X1,1,,2026-07-01,", "X1,2,2026-07-01,,"
    listed.write_text(f"{header}\n{first}\n{last}\nX1,2,2026-06-01,,true\n")
    told("import", str(listed))
    mine = [line.split(",")[6:8] for line in told("list", "--format", "csv").splitlines() if "X1," in line]
    assert mine == [["", "2026-07-01T00:00:00Z"], ["2026-07-01T00:00:00Z", ""]]


def test_json_is_one_array_of_objects_without_nan(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"a": float("nan"), "b": 1 << 70, "c": NOW, "d": "µ'\"", "e": {"k": [1.5, float("inf")]}, "f": None}
    ]
    write_rows(rows, Format.json)
    (row,) = json.loads(capsys.readouterr().out)
    assert row == {
        "a": None, "b": 1 << 70, "c": "2026-06-15T12:00:00Z", "d": "µ'\"", "e": {"k": [1.5, None]}, "f": None,
    }  # fmt: skip
    write_rows([], Format.json, ["a"])
    assert capsys.readouterr().out == "[]\n"
    write_rows([], Format.csv, ["a", "b"])
    assert capsys.readouterr().out == "a,b\n"


@pytest.mark.parametrize("shape", [Format.json, Format.csv])
def test_what_programs_read_is_utf_8_whatever_the_locale(shape: Format) -> None:
    written = io.BytesIO()
    file = io.TextIOWrapper(written, encoding="latin-1", errors="replace")
    write_rows([{"team": "日本"}], shape, to=file)
    file.flush()
    assert "日本" in written.getvalue().decode()


def test_a_piped_table_is_plain_aligned_and_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    write_rows([{"model": "evil\x1b]0;x\x07[red]", "n": 5}, {"model": "b", "n": 1234567}], Format.table)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[red]" in out
    lines = out.splitlines()
    assert [len(line) for line in lines] == [len(lines[0])] * 3


def cost_row(account: str, active_j: float, idle_j: float, usd: float | None, **by: str) -> dict[str, object]:
    return {
        "model": "", **by, "account": account, "active_energy_j": active_j, "idle_energy_j": idle_j,
        "energy_j": active_j + idle_j, "gpu_hours": 1 / 3, "active_cost_usd": usd,
        "idle_cost_usd": None if usd is None else usd / 3, "cost_usd": None if usd is None else usd * 4 / 3,
    }  # fmt: skip


def figures(line: list[str]) -> list[float]:
    return [float(cell.replace(",", "")) for cell in line[2:]]


def test_the_parts_on_a_cost_table_add_up_to_its_total_down_and_across() -> None:
    rows = [
        cost_row("process", 1000 / 3, 100 / 3, 0.1, model="a"),
        cost_row("process", 1000 / 7, 100 / 7, 0.1 / 3, model="b"),
        cost_row("unheld", 0.0, 800 / 3, 0.1 / 7),
        cost_row("residual", 10 / 3, 0.0, 0.0),
    ]
    grid = cost_grid(rows, ["model"], "equal", [])
    *parts, total = [figures(list(line)) for line in grid.rows]
    assert [line[1] for line in grid.rows] == ["process", "process", "unheld", "residual", "total"]
    for column in range(7):
        assert sum(part[column] for part in parts) == pytest.approx(total[column], abs=1e-9)
    for line in [*parts, total]:
        assert line[0] + line[1] == pytest.approx(line[2], abs=1e-9)
        assert line[4] + line[5] == pytest.approx(line[6], abs=1e-9)
    assert total[2] == pytest.approx(1000 / 3 + 100 / 3 + 1000 / 7 + 100 / 7 + 800 / 3 + 10 / 3, abs=0.05)
    assert "policy equal" in grid.notes[0]


def test_what_is_little_beside_the_rest_does_not_read_nothing() -> None:
    rows = [
        cost_row("process", 0.1, 0.0, 0.001, model="a"),
        cost_row("process", 0.05, 0.0, 0.3, model="b"),
        cost_row("unheld", 0.0, 75_000.0, 12_810.0),
    ]
    grid = cost_grid(rows, ["model"], "equal", [])
    little, cents, much, total = [dict(zip(grid.headers, line, strict=True)) for line in grid.rows]
    assert (little["active USD"], little["idle USD"], little["cost USD"]) == ("<0.01", "<0.01", "<0.01")
    assert (cents["active USD"], cents["idle USD"], cents["cost USD"]) == ("0.30", "0.10", "0.40")
    assert (little["active J"], little["idle J"], little["energy J"]) == ("<1", "0", "<1")
    assert (much["active J"], total["active J"], total["energy J"]) == ("0", "<1", "75,000")
    assert (much["cost USD"], total["cost USD"]) == ("17,080.00", "17,080.40")


def test_what_is_little_beside_the_rest_has_cents_in_every_table_of_cost_and_in_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    amounts = (12_810.0, 0.3)
    made = [cost_row("process", 1.0, 0.0, usd, model="a") | {"covered_cost_usd": usd} for usd in amounts]
    counted = {"quantity": 1.0, "cost_usd_per_million": 1.0, "j_per_unit": 1.0, "coverage_ratio": None}
    grid = unit_grid([row | counted for row in made], ["model"], "requests")
    assert [row[2] for row in grid.rows] == ["12,810.00", "0.30"]

    columns = ("equal_usd", "memory_usd", "active_usd", "difference_usd", "difference_ratio")
    bills = [{"team": "t"} | dict.fromkeys(columns, usd) for usd in amounts]
    write_policies(bills, ["team"], Format.table, cut=[])
    assert capsys.readouterr().out.count(" 0.30 ") == 4

    names = [
        *("run", "model", "model_version", "attempts", "outcome", "position", "target_position"),
        *("energy_j", "gpu_hours", "cost_usd_per_hour", "wasted_usd", "wasted_most_usd"),
        *("cost_usd_per_step", "projected_cost_usd", "projected_end"),
    ]
    shown: Any = runs._grid
    listed = shown([dict.fromkeys(names) | {"cost_usd": usd} for usd in amounts], [], UTC, "UTC")
    assert [row[listed.headers.index("cost USD")] for row in listed.rows] == ["12,810.00", "0.30"]


def test_what_has_no_price_is_unpriced_never_nothing() -> None:
    rows = [cost_row("process", 1.0, 1.0, 3.0, model="a"), cost_row("unheld", 0.0, 1.0, None)]
    grid = cost_grid(rows, ["model"], "equal", [])
    assert [line[-1] for line in grid.rows] == ["4.000", "unpriced", "4.000 + unpriced"]
    grid = cost_grid(rows[1:], ["model"], "equal", [])
    assert [line[-1] for line in grid.rows] == ["unpriced", "unpriced"]


def test_a_unit_table_holds_what_made_units() -> None:
    made = cost_row("process", 1.0, 1.0, 3.0, model="a")
    made |= {"quantity": 2000.0, "covered_cost_usd": 4.0, "coverage_ratio": None}
    made |= {"cost_usd_per_unit": 0.002, "cost_usd_per_million": 2000.0, "j_per_unit": 0.001}
    grid = unit_grid([made, cost_row("unheld", 0.0, 1.0, 1.0) | {"quantity": None}], ["model"], "requests")
    assert [list(line) for line in grid.rows] == [["a", "2,000", "4.000", "2,000", "0.001000"]]
    assert unit_grid([], ["model"], "requests").notes == ["no requests were counted in this span"]
    told = cost_row("unmatched", 0.0, 0.0, 0.0, model="b") | {"quantity": 64.0, "coverage_ratio": None}
    (note,) = unit_grid([told], ["model"], "requests").notes  # it was counted: nothing says that it was not
    assert note == "unmatched: 64 requests of b; no GPU time of this name was seen"


PODS = Path(__file__).parent / "data" / "nodes" / "kubernetes-v1-containerd" / "pods.json"


@pytest.mark.parametrize(
    ("settings", "state", "finding"),
    [
        ({"KUBELET": str(PODS)}, "ok", "it lists 2 pods"),
        ({"KUBELET": str(PODS.with_name("none.json"))}, "weak", "No such file or directory"),
        ({"KUBELET": "http://127.0.0.1:1/pods"}, "weak", "Connection refused"),
        ({"KUBELET": "off"}, "ok", "there is none"),
        ({"KUBELET": str(PODS)}, "weak", "counts as unheld"),
        ({"KUBELET": str(PODS), "POD_RESOURCES": __file__}, "weak", "gRPC UNAVAILABLE"),
    ],
)
def test_doctor_tells_of_kubelet_and_pod_resources(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    state: str,
    finding: str,
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"WATTRIBUTE_{name}", value)
    _, out, err = ended(capsys, "doctor", "--format", "json")
    rows = [row for row in json.loads(out) if row["part"] == "kubelet"]
    assert [row["state"] for row in rows if finding in row["finding"]] == [state]
    assert all(row["advice"] for row in rows if row["state"] == "weak")
    assert "hidden" not in out + err


@pytest.mark.parametrize("name", ["of-another/notes.txt", "of-another"])
def test_what_is_there_and_no_store_is_told_before_it_is_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    (tmp_path / "of-another").mkdir()
    (tmp_path / "of-another" / "notes.txt").write_text("notes")
    store = ("--store", f"chdb://{tmp_path}/{name}")
    status, out, _ = ended(capsys, "doctor", "--simulate", *store, "--format", "json")
    (row,) = [row for row in json.loads(out) if row["part"] == "store"]
    assert (status, row["state"]) == (1, "broken")
    assert row["finding"] == f"{tmp_path}/{name} holds other files"
    status, _, err = ended(capsys, "up", "--simulate", "--fresh", *store)
    assert (status, "bug" in err) == (2, False)
    assert err.startswith(f"wattribute: --fresh does not empty {tmp_path}/{name}: ")
    assert (tmp_path / "of-another" / "notes.txt").read_text() == "notes"


def test_doctor_says_that_a_link_leads_nowhere(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """As where a disk is not mounted: 'there is none yet: up makes it', and up could not."""
    (tmp_path / "disk").symlink_to(tmp_path / "not-mounted")
    for folder in (tmp_path / "disk", tmp_path / "disk" / "wattribute"):
        places = ("--store", f"chdb://{folder}", "--bus", f"local://{folder}")
        _, out, _ = ended(capsys, "doctor", "--simulate", *places, "--format", "json")
        found = [row for row in json.loads(out) if row["part"] in ("store", "bus")]
        assert [row["state"] for row in found] == ["broken", "broken"]
        assert {row["finding"] for row in found} == {
            f"{folder} cannot be created: {tmp_path}/disk: No such file or directory"
        }


def test_doctor_says_that_an_older_program_made_the_store(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """'ok', it said, while explain failed."""
    store = f"chdb://{tmp_path}/store"
    assert ended(capsys, "migrate", "--store", store)[0] == 0

    def found() -> list[tuple[str, str]]:
        _, out, _ = ended(capsys, "doctor", "--simulate", "--store", store, "--format", "json")
        return [(row["state"], row["advice"]) for row in json.loads(out) if row["part"] == "store"]

    assert found() == [("ok", "")]
    with closing(open_store(store)) as opened:
        opened.command("ALTER TABLE migration DELETE WHERE number = 9 SETTINGS mutations_sync = 2")
    assert found() == [("ok", ""), ("weak", "wattribute migrate")]


def test_doctor_says_that_a_local_log_is_damaged_and_leaves_it_where_it_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "bus" / "bus.sqlite"
    file.parent.mkdir()
    file.write_bytes(b"no database " * 400)
    _, out, _ = ended(capsys, "doctor", "--simulate", "--bus", f"local://{tmp_path}/bus", "--format", "json")
    (row,) = [row for row in json.loads(out) if row["part"] == "bus"]
    assert (row["state"], row["finding"]) == ("broken", f"local log {file} is damaged")
    assert "to set it aside" in row["advice"]
    assert file.read_bytes() == b"no database " * 400


@pytest.mark.parametrize(("ratio", "shown"), [(0.75, ["3.000", "1,500", "75"]), (0.0, ["0.00", "-", "0"])])
def test_a_unit_table_shows_the_cost_that_its_price_is_of(ratio: float, shown: list[str]) -> None:
    made = cost_row("process", 1.0, 1.0, 3.0, model="a")
    made |= {"quantity": 2000.0, "covered_cost_usd": 4 * ratio, "coverage_ratio": ratio}
    made |= {"cost_usd_per_million": 2000 * ratio if ratio else None, "j_per_unit": None}
    grid = unit_grid([made], ["model"], "requests")
    assert grid.headers[2] == "counted USD"
    assert [grid.rows[0][place] for place in (2, 3, 5)] == shown
    assert "counted USD: spent while requests were counted" in grid.notes[0]


def test_a_log_on_standard_input_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    log = b"timestamp, uuid, power.draw [W]\n" + b"2023/07/14 10:12:46.483, GPU-1, 5 W\n" * 300
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(log))))
    ((_, lines, _),) = open_inputs([Path("-")])
    with pytest.raises(UsageError, match="a log of nvidia-smi cannot be read from standard input"):
        next(lines)


def test_the_power_of_a_part_time_sensor_is_levelled_where_that_is_asked(tmp_path: Path) -> None:
    log, trace = tmp_path / "run.csv", tmp_path / "run.ndjson"
    cells = [f"2026/06/01 12:00:0{second}.000, {60 + second % 2 * 120} W, 50 %" for second in range(8)]
    log.write_text("\n".join(["timestamp, power.draw.instant [W], utilization.gpu [%]", *cells]))
    found = []
    for asked in (False, True):
        ((_, lines, _),) = open_inputs([log], part_time_sensor=asked)
        found.append({line.record.power_mw for line in lines if isinstance(line.record, Device)})
    assert found == [{60_000, 180_000}, {120_000}]
    trace.write_text('{"kind":"trace","version":1,"host":"h","boot_id":"b"}\n')
    with pytest.raises(UsageError, match="does not begin like a log of nvidia-smi"):
        open_inputs([trace], part_time_sensor=True)


def test_logs_of_one_name_that_name_no_gpu_are_refused(tmp_path: Path) -> None:
    """The rows of one would take the place of the other's."""
    paths = [tmp_path / node / "run.csv" for node in ("node1", "node2")]
    for path in paths:
        path.parent.mkdir()
        path.write_text("timestamp, power.draw [W]\n2023/07/14 10:12:46.483, 5 W\n")
    (_, first, _), (_, second, _) = open_inputs(paths)
    assert len(list(first)) == 3
    with pytest.raises(UsageError, match=r"node1/run\.csv and .*node2/run\.csv are both for GPU log:run:0"):
        list(second)


@pytest.mark.parametrize(
    ("apart_ms", "is_said"), [((3, 997), True), ((3, 3, 3, 91), True), ((100, 140), False)]
)
def test_a_log_that_seems_to_be_of_several_gpus_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], apart_ms: tuple[int, ...], is_said: bool
) -> None:
    lines, ms = ["timestamp, power.draw.instant [W]"], 0
    for number in range(60):
        lines.append(f"2023/07/14 10:12:{ms // 1000:02d}.{ms % 1000:03d}, 300.00 W")
        ms += apart_ms[number % len(apart_ms)]
    path = tmp_path / "run.csv"
    path.write_text("\n".join(lines))
    ((_, items, _),) = open_inputs([path])
    assert len(list(items)) > 60
    assert ("run.csv name no GPU, so all were taken for one" in capsys.readouterr().err) == is_said


def test_a_log_without_energy_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.csv"
    for power, is_said in ((" 5 W", False), (" [N/A]", True), (" 0 W", False)):
        path.write_text(f"timestamp, power.draw [W]\n2023/07/14 10:12:46.483,{power}\n")
        ((_, lines, _),) = open_inputs([path])
        list(lines)
        assert ("run.csv contains no power and no energy" in capsys.readouterr().err) == is_said, power


def test_a_zone_of_a_log_that_there_is_not_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    path.write_text("timestamp, power.draw [W]\n2023/07/14 10:12:46.483, 5 W\n")
    with pytest.raises(UsageError, match="zone 'Europe/berlin' is not known; did you mean Europe/Berlin"):
        open_inputs([path], timezone="Europe/berlin")


def test_what_can_be_read_only_once_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="can be read only once"):
        open_inputs([tmp_path / "pipe"])


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_closed_stream_is_no_bug(tmp_path: Path, closed: str) -> None:
    command = f"{sys.executable} -m wattribute replay - --store chdb://{tmp_path}/store {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, input="", check=False)
    assert done.returncode == 1
    assert "bug" not in done.stderr


class Terminal(io.StringIO):
    """A file that says that a person looks at it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [30, 60, 80, 200])
def test_no_figure_is_cut_on_a_narrow_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    headers = ["model", "model_version", "output_tokens", "cost USD", "USD per million output_tokens", "J"]
    cells = ["support-chat", "v1", "2,160,000", "8.797", "1,234.567", "2.083"]
    terminal = Terminal()
    write_grid(Grid(headers, [cells], frozenset(range(2, 6)), spare=[5]), terminal)
    said = terminal.getvalue()
    assert all(f" {figure} " in said for figure in cells[2:5])
    assert all(word in said for word in ("output_tokens", "million"))
    assert ("narrow: J" in said) == (columns < 100)
    assert "supp" in said and "v1" in said


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_no_figure_is_cut_while_it_is_shown_live(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in {"COLUMNS": str(columns), "TERM": "xterm", "FORCE_COLOR": "1"}.items():
        monkeypatch.setenv(name, text)
    row = {"host": "h", "gpu": "GPU-1f2e3d4c", "account": "process", "pid": 1_234_567, "team": "research"}
    row |= {"model": "m", "model_version": "v1", "run": "r", "watts": 12_345.6, "sm_percent": 99.0}
    going_on = iter([True, False, False])
    show_live(
        lambda: top_grid([row | {"memory_bytes": 2**37, "usd_per_hour": 12.34}]), partial(next, going_on)
    )
    said = capsys.readouterr().out
    assert all(f" {figure} " in said for figure in ("12,345.6", "12.34"))
    assert ("left out" in said) == (columns < 100)
