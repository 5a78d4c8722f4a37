from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from wattribute.errors import StoreError, UsageError
from wattribute.sinks import migrate as migrations
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.folder import hold, owner_of
from wattribute.sinks.migrate import migrate
from wattribute.sinks.query_server import open_store_for_reading, serve
from wattribute.sinks.reading import columns_of
from wattribute.sinks.schema import IDENTITY, SUMS
from wattribute.sinks.store import PASSWORD, PASSWORD_FILE, Store, open_store

MIGRATIONS = sorted(path.name for path in (Path(migrations.__file__).parent / "migrations").glob("*.sql"))
SCHEMA = "SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase() ORDER BY name"


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("clickhouse://me:secret@host/db", PASSWORD),
        ("postgres://host/db", "neither"),
        ("chdb://relative/path", "names no folder"),
        ("chdb:///", "names no folder"),
        ("clickhouse:///db", "neither"),
    ],
)
def test_urls_that_are_refused(url: str, line: str) -> None:
    with pytest.raises(UsageError, match=line) as refused:
        open_store(url)
    assert "secret" not in str(refused.value)


def test_a_server_that_does_not_answer_is_one_line() -> None:
    with pytest.raises(
        StoreError, match=r"cannot open the store clickhouse://me@127\.0\.0\.1:1/db: "
    ) as refused:
        open_store("clickhouse://me@127.0.0.1:1/db")
    assert "\n" not in str(refused.value)


def test_the_password_s_file_must_be_its_owner_s_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "password"
    monkeypatch.setenv(PASSWORD_FILE, str(path))
    with pytest.raises(UsageError, match="cannot be read"):
        open_store("clickhouse://me@127.0.0.1:1/db")
    path.write_text("secret\n")
    path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        open_store("clickhouse://me@127.0.0.1:1/db")


@pytest.mark.parametrize("name", [PASSWORD, PASSWORD_FILE])
def test_a_password_that_is_no_text_is_told_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"p\xff")
    file.chmod(0o600)
    monkeypatch.setenv(name, str(file) if name == PASSWORD_FILE else "p\udcff")
    with pytest.raises(UsageError, match=f"{name}.* is not UTF-8$"):
        open_store("clickhouse://u@127.0.0.1:1/w")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot use the folder"):
        open_store(f"chdb://{tmp_path}/file/store")
    with pytest.raises(StoreError, match="there is no store in"):
        open_store(f"chdb://{tmp_path}/none", create=False)
    for create in (True, False):  # as of a folder that only its owner may look into
        with pytest.raises(StoreError, match=r"cannot use the folder .* as a store: File name too long"):
            open_store(f"chdb://{tmp_path}/{'x' * 300}", create=create)


def test_the_folder_is_its_owner_s_alone_and_held_by_one_process(sink: ClickHouseSink, folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0
    asking = f"from wattribute.sinks.store import open_store; open_store({sink.store.url!r})"
    server = serve(sink.store)
    assert server is not None
    with closing(server):
        other = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, check=False)
    assert other.returncode != 0
    assert f"is in use by process {os.getpid()} " in other.stderr.splitlines()[-1]


def test_who_only_asks_is_waited_for(tmp_path: Path) -> None:
    os.close(hold(tmp_path / "store", create=True))
    asking = (
        "import sys, time; from pathlib import Path; from wattribute.sinks.folder import hold;"
        "hold(Path(sys.argv[1]), create=False); print(flush=True); time.sleep(2)"
    )
    command = [sys.executable, "-c", asking, str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert str(other.pid) in (owner_of(tmp_path / "store") or "")
        os.close(hold(tmp_path / "store", create=True))
    assert other.returncode == 0


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not touch")
    tmp_path.chmod(0o755)
    with pytest.raises(StoreError, match="holds other files"):
        open_store(f"chdb://{tmp_path}")
    with pytest.raises(StoreError, match="there is no store in"):
        open_store_for_reading(f"chdb://{tmp_path}")
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_damaged_folder_is_told_in_a_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wattribute", "migrate", "--store", f"chdb://{tmp_path}/store"]
    subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "store" / "metadata" / "wattribute.sql").write_text("garbage")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("wattribute: "))
    assert "its files are damaged" in line
    assert "Traceback" not in done.stderr


def test_parts_that_the_engine_leaves_out_as_damaged_are_told(tmp_path: Path) -> None:
    def ran(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "wattribute", *arguments, "--store", f"chdb://{tmp_path}/store"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == status
        return done

    assert ran("migrate").stderr == ""
    for file in (tmp_path / "store" / "store").rglob("data.bin"):
        file.write_bytes(b"cut off")
    said = ran("price", "list").stderr
    assert "parts of these tables are damaged, so answers lack their rows: migration, price" in said
    found = json.loads(ran("doctor", "--format", "json", status=1).stdout)
    broken = [row["finding"] for row in found if (row["part"], row["state"]) == ("store", "broken")]
    assert len(broken) == 1
    assert "migration, price" in broken[0]


def test_values_are_parameters(sink: ClickHouseSink) -> None:
    evil = "' OR 1=1; DROP TABLE attribution -- \\ \n é"
    assert sink.store.query("SELECT {x:String}", {"x": evil}).rows == [(evil,)]


def test_an_error_leaves_nothing_behind_for_the_next_query(sink: ClickHouseSink) -> None:
    """chDB 26.9 gave the rows of a failed query to the next one on the same handle."""
    reader = sink.store.reader()
    with pytest.raises(StoreError, match="max rows"):
        reader.query("SELECT number FROM numbers(2000000)")
    with pytest.raises(StoreError):
        reader.query("SELECT * FROM nowhere")
    assert reader.query("SELECT hostName() != ''").rows == [(1,)]
    reader.close()


def test_the_columns_of_an_empty_answer_are_found_out(sink: ClickHouseSink) -> None:
    sql = "SELECT host, pid AS p FROM attribution WHERE 0; -- none"
    assert columns_of(sink.store, sql) == ["host", "p"]
    assert columns_of(sink.store, "SHOW TABLES LIKE 'none'") == []


def test_migrating_again_changes_nothing(sink: ClickHouseSink) -> None:
    before = sink.store.query(SCHEMA).rows
    assert migrate(sink.store) == []
    assert sink.store.query(SCHEMA).rows == before
    assert sink.store.query("SELECT name FROM migration ORDER BY number").rows == [(n,) for n in MIGRATIONS]


def _statements(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the store is told from now on."""
    told: list[str] = []
    run = store.command

    def command(sql: str, params: Any = None) -> None:
        told.append(sql)
        run(sql, params)

    monkeypatch.setattr(store, "command", command)
    return told


def test_no_statement_is_one_that_older_servers_refuse(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ClickHouse 26.3 takes no COMMENT behind a CODEC, takes one behind a table for its alias, and NOT before
    a tuple for a function."""
    with closing(open_store(url)) as store:
        told = _statements(store, monkeypatch)
        migrate(store)
    assert any("CODEC(" in sql for sql in told)
    assert any(" VIEW " in sql for sql in told)
    for sql in told:
        assert not re.search(r"CODEC\((?:[^()]|\([^()]*\))*\) COMMENT", sql)
        assert not re.search(r"\bNOT \([^()]*,[^()]*\) IN\b", sql)
        assert not re.search(r"\w\s+COMMENT '\w{64}'$", sql)


def test_a_plan_does_nothing(url: str) -> None:
    store = open_store(url)
    assert migrate(store, plan=True) == MIGRATIONS
    assert store.query(SCHEMA).rows == []
    store.close()


@pytest.mark.parametrize("killed_at", [1, 4, 9])
def test_a_migration_that_was_killed_is_run_again(
    url: str, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    store = open_store(url)
    run, count = store.command, 0

    def killed(sql: str, params: Any = None) -> None:
        nonlocal count
        count += 1
        if count > killed_at:
            raise KeyboardInterrupt
        run(sql, params)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "command", killed)
        migrate(store)
    assert migrate(store) == MIGRATIONS
    assert migrate(store) == []
    assert store.query("SELECT count() FROM attribution_day FINAL").rows == [(0,)]
    store.close()


@pytest.mark.parametrize(
    ("number", "name", "told"),
    [
        (99, "0099_later.sql", "is at version 99, this program knows "),
        (1, "0001_tables.sql", r"another 0001_tables\.sql"),
    ],
)
def test_a_store_that_others_made_is_refused(url: str, number: int, name: str, told: str) -> None:
    with closing(open_store(url)) as store:
        migrate(store)
        store.command(
            "INSERT INTO migration (number, name, checksum) VALUES ({number:UInt32}, {name:String}, '')",
            {"number": number, "name": name},
        )
        with pytest.raises(StoreError, match=told):
            migrate(store)


def test_a_store_whose_tables_are_the_same_but_for_their_order_is_taken(url: str) -> None:
    """As it was made before, by host and GPU: it stays so."""
    by_host = re.sub(r"(\n--[^\n]*)*\nPRIMARY KEY [^\n]*", "", tables_without_key_hour())
    by_host = re.sub(r"(COMMENT '(?:[^']|'')*') (CODEC\((?:[^()]|\([^()]*\))*\))", r"\2 \1", by_host)
    by_host = re.sub(r"ORDER BY \(toStartOf\w+\(\w+\), ", "ORDER BY (", by_host)
    by_host = by_host.replace(
        "(bucket_start, host, gpu, gpu_instance, ", "(host, gpu, gpu_instance, bucket_start, "
    )
    tables = ("attribution", "attribution_minute", "attribution_hour", "attribution_day")
    with closing(open_store(url)) as store:
        migrate(store)
        for table in tables:
            store.command(f"DROP TABLE {table}")
        for statement in by_host.split(";\n"):
            store.command(statement)
        store.command(
            "INSERT INTO migration (number, name, checksum) VALUES (1, '0001_tables.sql', {sum:String})",
            {"sum": hashlib.sha256(by_host.encode()).hexdigest()},
        )
        assert migrate(store) == []
        keys = store.query(
            "SELECT sorting_key FROM system.tables"
            " WHERE database = currentDatabase() AND has({t:Array(String)}, name)",
            {"t": list(tables)},
        ).rows
    assert [key.startswith("host, gpu, gpu_instance, ") for (key,) in keys] == [True] * 4


def test_units_of_a_store_made_before_they_were_sorted_by_hours_count_as_others(url: str) -> None:
    made = re.search(r"CREATE TABLE IF NOT EXISTS unit\n.*?;\n", tables_without_key_hour(), re.DOTALL)
    assert made is not None
    with closing(open_store(url)) as store:
        migrate(store)
        store.command("DROP TABLE unit_teller_recorder")
        store.command("DROP TABLE unit")
        store.command(made[0])
        store.command(
            "INSERT INTO unit (t, period_ns, unit, quantity, model, authority, event_id)"
            " SELECT toDateTime64(1780273800 + number * 600, 9, 'UTC') AS t, 600000000000, 'output_tokens',"
            " 1, 'm', 4, concat('e ', toString(toUnixTimestamp64Nano(t))) FROM numbers(24)"
        )
        store.command("ALTER TABLE migration DELETE WHERE number = 9 SETTINGS mutations_sync = 2")
        assert migrate(store) == ["0009_unit_teller.sql"]
        counted = store.query(
            "SELECT sum(quantity) FROM counted_unit("
            "unit = 'output_tokens', since = '2026-06-01 00:00:00', until = '2026-06-01 02:00:00')"
        )
        assert counted.rows == [(10,)]
        told = store.query("SELECT unit, model, authority, first_ns, last_ns FROM unit_teller FINAL").rows
        last_s = 1780273800 + 23 * 600
        assert told == [("output_tokens", "m", 4, 1780273200 * 10**9, last_s * 10**9)]
        store.command("INSERT INTO unit (unit, model, authority, event_id) VALUES ('steps', 'm', 3, 'x')")
        assert len(store.query("SELECT authority FROM unit_teller").rows) == 2


def tables_without_key_hour() -> str:
    """0001_tables.sql as it was before."""
    sql = (Path(migrations.__file__).parent / "migrations" / "0001_tables.sql").read_text(encoding="utf-8")
    before = re.sub(r"    key_hour .*?',\n", "", sql, flags=re.DOTALL).replace("(unit, key_hour, ", "(unit, ")
    assert "key_hour" not in before
    return before


def test_a_view_of_another_text_is_made_anew_with_those_after_it_and_no_other(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view that was dropped, and one that an older program made."""
    with closing(open_store(url)) as store:
        migrate(store)
        told = _statements(store, monkeypatch)
        migrate(store)
        assert told == []
        store.command("DROP VIEW reconcile")
        told.clear()
        migrate(store)
        assert [sql.partition(" VIEW ")[2].split()[0] for sql in told] == ["reconcile"]
        store.command("CREATE OR REPLACE VIEW model_cost AS SELECT 1 AS old")
        told.clear()
        migrate(store)
        assert [sql.partition(" VIEW ")[2].split()[0] for sql in told] == [
            "model_cost",
            "billed",
            "reconcile",
        ]
        made = store.query("SELECT create_table_query FROM system.tables WHERE name = 'model_cost'").rows
        assert " AS old" not in made[0][0]


def test_rollups_and_cost_keep_every_identity(sink: ClickHouseSink) -> None:
    assert migrations.migrate(sink.store) == []
    fine = sink.store.column_types("attribution")
    for table in ("attribution_minute", "attribution_hour", "attribution_day"):
        coarse = sink.store.column_types(table)
        for name in (*IDENTITY, *SUMS, "host", "gpu", "gpu_instance", "account", "flags", "version"):
            assert coarse[name] == fine[name], (table, name)
    span = "policy = 'equal', since = '2000-01-01', until = '2100-01-01'"
    assert set(IDENTITY) < set(columns_of(sink.store, f"SELECT * FROM cost({span})"))
