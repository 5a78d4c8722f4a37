from __future__ import annotations

import os
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest

from tests.sinks.conftest import AsColumns
from wattribute.commands.output import Format, write_rows
from wattribute.errors import StoreError, UsageError
from wattribute.sinks.billing import BilledHost, list_billed
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.folder import SOCKET
from wattribute.sinks.prices import Price, list_prices
from wattribute.sinks.query_server import (
    QueryServer,
    RemoteStore,
    add_billed_to,
    add_prices_to,
    open_store_for_reading,
    remove_billed_from,
    serve,
)
from wattribute.sinks.reading import Reader, columns_of
from wattribute.sinks.store import Readable, open_store


@pytest.fixture
def server(sink: ClickHouseSink) -> Iterator[QueryServer]:
    made = serve(sink.store)
    assert made is not None
    yield made
    made.close()


@pytest.fixture
def remote(server: QueryServer, folder: Path) -> Iterator[RemoteStore]:
    store = RemoteStore(folder)
    yield store
    store.close()


def test_the_owner_answers(
    sink: ClickHouseSink, remote: RemoteStore, as_columns: AsColumns, start_ms: int
) -> None:
    sink.write_attribution(as_columns([{"labels": {"a": "é"}, "memory_bytes": 2**63}]))
    answer = remote.query(
        "SELECT window_start, labels, memory_bytes, account, toFloat64(0.1), NULL AS n FROM attribution FINAL"
        " WHERE host = {host:String}",
        {"host": "h"},
    )
    start = datetime.fromtimestamp(start_ms / 1000, UTC)
    assert answer.rows == [(start, {"a": "é"}, 2**63, "process", 0.1, None)]
    assert answer.columns[0] == "window_start"
    assert columns_of(remote, "SELECT host FROM attribution WHERE 0") == ["host"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT toDecimal64(1.5, 2) AS d, toDate('2026-01-01') AS day, NULL AS n",
        "SELECT toInt128('170141183460469231731687303715884105727') AS i, toDecimal64(1.5, 2) AS d",
        "SELECT [toDateTime('2026-01-01 00:00:00', 'UTC')] AS l, map('a', toDateTime64(0, 3, 'UTC')) AS m",
        "SELECT toDateTime('2026-07-01 00:00:00', 'Europe/Berlin') AS t",
        "SELECT map(toDecimal64(1.5, 2), map(toDateTime(0, 'UTC'), 1)) AS m, map((1, 2), [map(1, 2)]) AS n",
    ],
)
def test_the_owner_s_answer_is_what_the_store_itself_would_say(
    sink: ClickHouseSink, remote: RemoteStore, sql: str
) -> None:
    def shown(store: Readable) -> str:
        to = StringIO()
        write_rows(store.query(sql).dicts(), Format.json, to=to)
        return to.getvalue()

    with closing(Reader(sink.store)) as reader:
        assert shown(remote) == shown(reader)


def test_what_the_owner_takes_no_more_of_is_refused_in_words(remote: RemoteStore) -> None:
    with pytest.raises(UsageError, match=r"more than 16 MiB.*send it in parts"):
        remote.query("SELECT 1 -- " + "x" * (16 << 20))
    assert remote.query("SELECT 1").rows == [(1,)]


REFUSED = [
    "INSERT INTO gap (host) VALUES ('x')",
    "DROP TABLE gap",
    "SELECT 1; DROP TABLE gap",
    "SELECT 1; SELECT 2",
    "SELECT 1 /* ; */ ; -- \n DROP TABLE gap",
    "SET readonly = 0",
    "USE system",
    "KILL QUERY WHERE 1",
    "SYSTEM FLUSH LOGS",
    "SELECT file('{secret}')",
    "SELECT `file`('{secret}')",
    "SELECT \"file\" /**/ ('{secret}')",
    "SELECT x APPLY(file) FROM (SELECT '{secret}' AS x)",
    "SELECT * FROM file('{secret}', 'CSV', 'a String')",
    "SELECT * FROM `FILE`('{secret}', 'CSV', 'a String')",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM `{secret}`",
    "DESCRIBE file('{secret}')",
    "DESCRIBE TABLE `{secret}`",
    "SELECT 1 INTO OUTFILE '{written}'",
    "SELECT * FROM sqlite('{written}', 't')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
    "SELECT * FROM s3('http://127.0.0.1:1/bucket/a', 'CSV', 'a String')",
    "SELECT * FROM remote('127.0.0.1:1', system.one)",
    "SELECT * FROM executable('ls', 'TSV', 'a String')",
    "SELECT 1 SETTINGS readonly = 0",
    "WITH x AS (SELECT 1) INSERT INTO gap (host) SELECT 'x'",
    "EXPLAIN AST DROP TABLE gap; DROP TABLE gap",
    "CREATE TEMPORARY TABLE q (a Int32)",
    "SELECT $$ ' $$; DROP TABLE gap",
    "SELECT 'unfinished",
    "SELECT `\\x66ile`('{secret}')",
    "SELECT \"\\x66ile\"('{secret}')",
    "SELECT \u2018'\u2019 AS a, file('{secret}') AS b, \u2018'\u2019 AS c",
    "SELECT \u2018'\u2019 AS a INTO OUTFILE '{written}' -- '",
    "SELECT \u201c'\u201d FROM sqlite('{written}', 't') -- '",
    "SELECT 1 /* /* */ ' */, file('{secret}') --'",
    "SELECT 1 /* /* */ ' */ INTO OUTFILE '{written}' --'",
    "SELECT 1 // '\n, file('{secret}') --'",
    "SELECT 1 // '\n INTO OUTFILE '{written}' --'",
    "SELECT number FROM numbers(10000000)",
    "SELECT * FROM nowhere",
    "",
    ";",
    "\x00",
]


@pytest.mark.parametrize("sql", REFUSED)
def test_only_reading_is_answered(
    sink: ClickHouseSink, remote: RemoteStore, tmp_path: Path, sql: str
) -> None:
    secret, written = tmp_path / "secret.csv", tmp_path / "written"
    secret.write_text("hidden\n")
    with pytest.raises((UsageError, StoreError)) as refused:
        remote.query(sql.replace("{secret}", str(secret)).replace("{written}", str(written)))
    assert "hidden" not in str(refused.value)
    assert not written.exists()
    assert remote.query("SELECT count() FROM gap").rows == [(0,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 ;",
        "-- why\nSELECT ';' AS x, 'it''s; \\' DROP' AS y",
        "WITH 1 AS x SELECT x",
        "(SELECT 1)",
        "SHOW TABLES",
        "DESCRIBE attribution",
        "EXPLAIN SELECT 1",
        "SELECT cluster, user, part FROM attribution",
        "SELECT * FROM numbers(3)",
        "SELECT 1 # a comment; with a semicolon",
        "SELECT 1 // a comment; with a semicolon",
        "SELECT 1 // FROM cost(policy = 'equal', since = '2026-01-01', until = '2027-01-01')",
        "SELECT 1 /* a * b / c */ /**/ /***/",
        "SELECT 'who\u2019s \u2018there\u2019' AS x",
        "SELECT * FROM cost(policy = 'equal', since = '2026-01-01', until = '2027-01-01')",
    ],
)
def test_what_reads_is_answered(remote: RemoteStore, sql: str) -> None:
    assert remote.query(sql).columns or columns_of(remote, sql)


@pytest.mark.parametrize(
    "sql", ["SELECT", "SELECT (1", "SELECT 1 FROM", "DESCRIBE", "SELECT host FROM gap GROUP BY ;"]
)
def test_an_unfinished_query_is_told_in_words_that_stand_in_it(remote: RemoteStore, sql: str) -> None:
    with pytest.raises(UsageError, match=r"^the query ends too early: something is missing after '") as told:
        remote.query(sql)
    assert "FORMAT" not in str(told.value)


@pytest.mark.parametrize("sql", ["SELECT * FROM cost", "SELECT * FROM cost('equal')"])
def test_a_view_without_its_parameters_is_told_how_it_is_asked(remote: RemoteStore, sql: str) -> None:
    with pytest.raises(UsageError, match=r"needs all of them, like cost\(policy = 'equal', since = "):
        remote.query(sql)


def test_of_a_value_that_is_given_twice_the_last_counts_with_a_comment_and_without(
    sink: ClickHouseSink, remote: RemoteStore, as_columns: AsColumns
) -> None:
    sink.write_attribution(as_columns([{"active_energy_uj": 5}]))
    asked = (
        "SELECT sum(energy_uj) FROM cost(policy = 'equal', since = '2100-01-01', since = '2000-01-01',"
        " until = '2101-01-01')"
    )
    (counted,) = remote.query(asked).rows
    assert counted[0] >= 5
    assert remote.query(asked + " -- why").rows == [counted]


@pytest.mark.parametrize("sql", ["SELECT {x:String}", "SELECT COLUMNS('none') FROM gap"])
def test_what_is_wrong_without_a_view_is_not_said_of_one(remote: RemoteStore, sql: str) -> None:
    with pytest.raises(StoreError, match="error from the store"):
        remote.query(sql)


def test_a_reader_in_the_process_itself_is_as_strict(sink: ClickHouseSink) -> None:
    reader = Reader(sink.store)
    with pytest.raises(UsageError, match="one statement"):
        reader.query("SELECT 1; DROP TABLE gap")
    with pytest.raises(UsageError, match="may not use file"):
        reader.query("SELECT file('/etc/passwd')")
    reader.close()


def test_prices_go_through_the_owner(sink: ClickHouseSink, server: QueryServer) -> None:
    june = datetime(2026, 6, 1, tzinfo=UTC)
    price = Price(gpu_model="NVIDIA H200", price=3.6, valid_to=june, source="contract 7", gpus_per_instance=8)
    assert add_prices_to(sink.store.url, [price]) == []
    (mine,) = [row for row in list_prices(sink.store) if row["origin"] == "user"]
    assert (mine["price_per_gpu_hour"], mine["valid_to"], mine["source"]) == (3.6, june, "contract 7")
    with pytest.raises(UsageError, match="overlaps"):
        add_prices_to(
            sink.store.url,
            [Price(gpu_model="NVIDIA H200", price=1, valid_from=datetime(2026, 1, 1, tzinfo=UTC))],
        )


def test_the_socket_is_its_owner_s_alone_and_goes_with_the_server(sink: ClickHouseSink, folder: Path) -> None:
    server = serve(sink.store)
    assert server is not None
    assert stat.S_IMODE((folder / SOCKET).stat().st_mode) == 0o600
    idle = RemoteStore(folder)
    server.close()
    assert not (folder / SOCKET).exists()
    with pytest.raises(StoreError, match=r"has closed the connection|does not answer"):
        idle.query("SELECT 1")
    idle.close()


def test_rude_clients_do_no_harm(sink: ClickHouseSink, remote: RemoteStore, folder: Path) -> None:
    def raw(message: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(os.path.relpath(folder / SOCKET))
            connection.sendall(message)

    body = b'{"sql": "SELECT number FROM numbers(100000)"}'
    for message in (
        b"",
        b"\x00\x00",
        b"\xff\xff\xff\xff",
        struct.pack(">I", 5) + b"\xff\xfe{}[",
        struct.pack(">I", 4) + b"null",
        struct.pack(">I", 13) + b'{"sql": "\xed\xa0"}',
        struct.pack(">I", 100_000) + b"[" * 100_000,
        struct.pack(">I", len(body)) + body,  # gone before the answer
    ):
        raw(message)
    assert remote.query("SELECT 1").rows == [(1,)]
    sink.write_rows("gap", [{"host": "h"}])


@pytest.mark.parametrize(
    "message",
    [
        {"prices": [5]},
        {"tariffs": [{}]},
        {"billed": {"host": "h", "unheard_of": 1}},
        {"lineage": {"unheard_of": 1}},
        {"billed": {"host": "h", "gpu_model": "m", "gpus": 1, "billed_from": 5}},
    ],
)
def test_what_another_version_tells_is_answered_in_words(
    remote: RemoteStore, message: dict[str, object]
) -> None:
    with pytest.raises(StoreError, match=r"does not understand .*another version of wattribute"):
        remote.tell(message)
    assert remote.query("SELECT 1").rows == [(1,)]


@pytest.mark.parametrize(
    "labels",
    [
        {"\0kind": "datetime", "text": "garbage"},
        {"\0kind": "Decimal", "text": "garbage"},
        {"\0kind": "Decimal"},
    ],
)
def test_labels_of_any_name_and_value_are_handed_over(
    sink: ClickHouseSink, remote: RemoteStore, as_columns: AsColumns, labels: dict[str, str]
) -> None:
    sink.write_attribution(as_columns([{"labels": labels}]))
    assert remote.query("SELECT labels FROM attribution").rows == [(labels,)]


def test_a_query_that_is_not_utf_8_is_refused_in_words(remote: RemoteStore) -> None:
    with pytest.raises(UsageError, match='a query must be UTF-8, this one is not after "SELECT \'a"'):
        remote.query("SELECT 'a\udcff'")


def test_one_too_many_is_told_so(server: QueryServer, folder: Path) -> None:
    others = [RemoteStore(folder) for _ in range(8)]
    for other in others:
        assert other.query("SELECT 1").rows == [(1,)]
    one_more = RemoteStore(folder)
    hung_up = select.poll()
    hung_up.register(one_more._socket, select.POLLHUP)
    assert hung_up.poll(60_000)  # before it asks
    with pytest.raises(StoreError, match="8 others are connected already"):
        one_more.query("SELECT 1")
    for store in (*others, one_more):
        store.close()


def test_several_ask_while_the_owner_writes(
    sink: ClickHouseSink, server: QueryServer, folder: Path, as_columns: AsColumns, start_ms: int
) -> None:
    failures: list[BaseException] = []

    def ask() -> None:
        store = RemoteStore(folder)
        try:
            for _ in range(10):
                # a batch is one insert: it is seen whole or not at all
                assert store.query("SELECT count() % 50 FROM attribution").rows == [(0,)]
        except BaseException as error:
            failures.append(error)
        finally:
            store.close()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for batch in range(10):
        rows = [{"window_start": start_ms + 1000 * (50 * batch + place)} for place in range(50)]
        sink.write_attribution(as_columns(rows))
    for thread in threads:
        thread.join()
    assert failures == []


OWNER = """
import sys, time
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.query_server import serve
from wattribute.sinks.store import open_store
sink = ClickHouseSink(open_store(sys.argv[1]))
server = serve(sink.store)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_killed_owner_leaves_no_obstacle(tmp_path: Path) -> None:
    deep = tmp_path / ("a folder with a long name " * 6).strip()  # no Unix address is as long
    deep.mkdir(mode=0o700)
    address = f"chdb://{deep}"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, address], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner, owner.stdout:
        assert owner.stdout.readline() == "ready\n"
        store = open_store_for_reading(address)
        assert isinstance(store, RemoteStore)
        assert store.query("SELECT count() FROM attribution").rows == [(0,)]
        with pytest.raises(StoreError, match=f"in use by process {owner.pid}"):
            open_store(address)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        with pytest.raises(StoreError, match=r"has closed the connection|does not answer"):
            store.query("SELECT 1")
        store.close()
    assert (deep / SOCKET).exists()
    # in a process of its own: this one may have another engine open
    reading = (
        "import sys; from wattribute.sinks.query_server import open_store_for_reading as o;"
        "s = o(sys.argv[1]); print(type(s).__name__, s.query('SELECT count() FROM attribution').rows);"
        "s.close()"
    )
    after = subprocess.run(
        [sys.executable, "-c", reading, address], capture_output=True, text=True, check=True
    )
    assert after.stdout == "Reader [(0,)]\n"
    assert not (deep / SOCKET).exists()


def test_the_owner_is_told_what_is_billed(server: QueryServer, remote: RemoteStore, url: str) -> None:
    begin = datetime(2026, 6, 1, tzinfo=UTC)
    billed = BilledHost(host="new ü", gpu_model="NVIDIA H200", gpus=8, billed_from=begin)
    assert add_billed_to(url, billed) == []
    (row,) = list_billed(remote)
    assert (row["host"], row["gpus"], row["billed_from"], row["billed_to"]) == ("new ü", 8, begin, None)
    with pytest.raises(UsageError, match="both would count"):
        add_billed_to(url, replace(billed, billed_from=begin.replace(day=2)))
    remove_billed_from(url, "new ü")
    with pytest.raises(UsageError, match="nothing is declared"):
        remove_billed_from(url, "new ü")
