"""The path to a server: a small HTTP front, in this process, before the same engine."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from wattribute.errors import StoreError
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.contract import Column
from wattribute.sinks.costs import cost_rows
from wattribute.sinks.prices import Price, add_prices
from wattribute.sinks.query_server import open_store_for_reading
from wattribute.sinks.store import open_store

AsColumns = Callable[[Sequence[Mapping[str, Any]]], dict[str, Column]]


class Front(BaseHTTPRequestHandler):
    """ClickHouse's HTTP interface, as far as the client uses it."""

    engine: Any
    lock = threading.Lock()
    folder: Path
    settings_seen: set[tuple[str, str]] = set()  # noqa: RUF012 - shared on purpose
    fail_inserts = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        given = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        sql = given.get("query") or body.decode()
        values = {name[6:]: value for name, value in given.items() if name.startswith("param_")}
        type(self).settings_seen |= {(n, v) for n, v in given.items() if not n.startswith("param_")}
        try:
            if "query" in given and body:
                spool = self.folder / f"body-{threading.get_ident()}"
                spool.write_bytes(body)
                sql = re.sub(r"FORMAT (\w+)\s*$", rf"FROM INFILE '{spool}' FORMAT \1", sql)
            with self.lock:
                self.engine.query(f"USE `{given.get('database', 'default')}`")
                answer = self.engine.query(sql, "TabSeparated", params=values).bytes()
            if sql.startswith("INSERT INTO attribution") and type(self).fail_inserts:
                type(self).fail_inserts -= 1
                raise RuntimeError("the answer is lost after the insert")
            self._reply(200, answer or b"")
        except RuntimeError as error:
            self._reply(500, str(error).encode())

    do_GET = do_POST  # noqa: N815 - the name is given

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-ClickHouse-Summary", "{}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
        pass


@pytest.fixture
def server_url(engine: Any, folder: Path, tmp_path: Path, _numbers: Iterator[int]) -> Iterator[str]:
    import chdb  # type: ignore[import-untyped,unused-ignore]

    Front.engine = chdb.connect(str(folder))  # type: ignore[no-untyped-call,unused-ignore]
    Front.folder = tmp_path
    Front.settings_seen.clear()
    Front.fail_inserts = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"clickhouse://me@127.0.0.1:{server.server_address[1]}/http{next(_numbers)}"
    server.shutdown()
    server.server_close()
    thread.join()
    Front.engine.close()


def test_the_same_sink_and_the_same_figures(server_url: str, as_columns: AsColumns, start_ms: int) -> None:
    sink = ClickHouseSink(open_store(server_url))
    rows = [
        {
            "window_start": start_ms + 1000 * n,
            "model": "é",
            "gpu_time_memory_ns": 10**12,
            "labels": {"a": "b"},
        }
        for n in range(120)
    ]
    sink.write_attribution(as_columns(rows))
    sink.refresh_rollups()
    add_prices(sink.store, [Price(gpu_model="NVIDIA H200", price=3.6)])
    sink.close()
    reader = open_store_for_reading(server_url)
    (row,) = cost_rows(reader, ["model"], None, None, "memory", "requests")
    assert (row["model"], row["cost_usd"]) == ("é", pytest.approx(120))
    assert reader.query("SELECT sum(window_count) FROM attribution_day FINAL").rows == [(120,)]
    reader.close()
    assert ("async_insert", "0") in Front.settings_seen
    assert ("readonly", "1") in Front.settings_seen


def test_an_insert_whose_answer_was_lost_may_be_repeated(server_url: str, as_columns: AsColumns) -> None:
    sink = ClickHouseSink(open_store(server_url))
    columns = as_columns([{"active_energy_uj": 5}])
    Front.fail_inserts = 1
    with pytest.raises(StoreError, match="the answer is lost"):
        sink.write_attribution(columns)
    sink.write_attribution(columns)
    sink.refresh_rollups()
    assert sink.store.query("SELECT sum(active_energy_uj) FROM attribution FINAL").rows == [(5,)]
    assert sink.store.query("SELECT sum(active_energy_uj) FROM attribution_day FINAL").rows == [(5,)]
    sink.close()
