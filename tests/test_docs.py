"""The pages in docs: what they name is all that there is, and what they show is what comes out."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from tests.needs import need
from tests.survival.processes import ran
from wattribute.bus import TOPICS
from wattribute.errors import RecordError
from wattribute.records import KINDS, Device, parse
from wattribute.sinks.store import open_store
from wattribute.wire import DEVICE_COLUMNS, MAGIC, PREFIX, PROCESS_COLUMNS, Encoder

ROOT: Final = Path(__file__).parents[1]
TRACE, BUS, STORE, ATTRIBUTION = (
    (ROOT / "docs" / f"{name}.md").read_text() for name in ("trace", "bus", "store", "attribution")
)
SECONDS: Final = re.compile(r"in [\d.]+ s$", re.MULTILINE)
SPAN: Final = "since = '2026-05-28', until = '2026-05-29'"
VIEWS: Final = {
    "cost": f"cost(policy = 'equal', {SPAN})",
    "cost_over_time": f"cost_over_time(policy = 'equal', {SPAN}, step = 'day', tz = 'UTC')",
    "cost_as_of": f"cost_as_of(policy = 'equal', {SPAN}, as_of = '2200-01-01')",
    "cost_by_policy": f"cost_by_policy({SPAN}, step = 'all', tz = 'UTC', as_of = '2200-01-01')",
    "priced_usage": f"priced_usage(policy = 'equal', {SPAN}, step = 'all', tz = 'UTC', as_of = '2200-01-01')",
    **{name: f"{name}(policy = 'equal', {SPAN})" for name in ("attempt_cost", "run_cost", "model_cost")},
    **{
        name: f"{name}(policy = 'equal', {SPAN})"
        for name in ("model_minute", "model_throughput", "amortised_training")
    },
    **{name: f"{name}({SPAN})" for name in ("model_quality", "model_watts", "renamed_model")},
    "unit_cost": f"unit_cost(policy = 'equal', {SPAN}, unit = 'output_tokens')",
    "billed": f"billed({SPAN}, step = 'day', tz = 'UTC', as_of = '2200-01-01')",
    "reconcile": f"reconcile(policy = 'equal', {SPAN})",
    "counted_unit": f"counted_unit(unit = 'output_tokens', {SPAN})",
    "lesser_unit": f"lesser_unit(unit = 'output_tokens', {SPAN})",
    "covered_cost_as_of": (
        f"covered_cost_as_of(policy = 'equal', {SPAN}, unit = 'output_tokens', as_of = '2200-01-01')"
    ),
    **{
        name: f"{name}(policy = 'equal', {SPAN}, unit = 'output_tokens')"
        for name in ("unit_coverage", "covered_cost")
    },
}
# As Grafana's ClickHouse data source expands them for a panel of one day.
MACROS: Final = (
    (r"\$__timeFilter\((\w+)\)", r"\1 >= toDateTime(1779926400) AND \1 <= toDateTime(1780012800)"),
    (r"\$__timeInterval\((\w+)\)", r"toStartOfInterval(toDateTime(\1), INTERVAL 20 second)"),
    (r"\$__fromTime", "toDateTime(1779926400)"),
    (r"\$__toTime", "toDateTime(1780012800)"),
    (r"\$__interval_s", "20"),
)


def sections(page: str) -> dict[str, str]:
    """The text under each heading of the third level."""
    parts = re.split(r"^#{1,3} ", page, flags=re.MULTILINE)
    headings = re.findall(r"^(#{1,3}) (.*)$", page, re.MULTILINE)
    bodies = zip(headings, parts[1:], strict=True)
    return {heading: body.partition("\n")[2] for (level, heading), body in bodies if level == "###"}


def tables(text: str) -> dict[str, list[list[str]]]:
    """The rows of each table, by what stands over its first column."""
    found = {}
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()]
        found[head[0]] = rows
    return found


def names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def all_names(rows: Sequence[Sequence[str]]) -> list[str]:
    return [name for row in rows for name in names(row[0])]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def shown(block: str) -> Iterator[tuple[list[str], str]]:
    """The commands of a block, which may go on over several lines, and what it shows of each."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.splitlines(keepends=True)
        for end in range(1, len(lines) + 1):
            try:
                words = shlex.split("".join(lines[:end]))
            except ValueError:  # within quotes
                continue
            yield words, "".join(lines[end:])
            break


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("chdb")
    made = tmp_path_factory.mktemp("docs")
    (made / "example.ndjson").write_text(blocks(TRACE, "json")[0])
    return made


@pytest.fixture(scope="module")
def answers(folder: Path) -> list[tuple[str, str, str]]:
    """Each command that the pages show, what they show of it, and what came out."""
    found = []
    for block in [block for page in (TRACE, ATTRIBUTION, STORE) for block in blocks(page, "console")]:
        for words, due in shown(block):
            if words[0] == "export":
                assert words[1:] == ["WATTRIBUTE_STORE=chdb:///tmp/example"]
                continue
            assert words[0] == "wattribute"
            arguments = [str(folder / word) if word == "example.ndjson" else word for word in words[1:]]
            done = ran(*arguments, store=f"chdb://{folder}/store")
            said = (done.stdout + done.stderr).replace(f"{folder}/", "").splitlines()
            lines = [f"{line.rstrip()}\n" for line in said if not line.startswith("compiling the kernels")]
            found.append((shlex.join(words), due, "".join(lines)))
    return found


@pytest.fixture(scope="module")
def store(folder: Path, answers: object) -> str:
    """The example, replayed and priced."""
    return f"chdb://{folder}/store"


def asked(store: str, *queries: str) -> list[list[dict[str, Any]]]:
    """The answers, in this process: to start one for each of two dozen views took a minute."""
    with closing(open_store(store, create=False)) as opened:
        return [opened.query(sql).dicts() for sql in queries]


@pytest.mark.long
def test_what_the_pages_show_is_what_comes_out(answers: list[tuple[str, str, str]]) -> None:
    assert len(answers) >= 8
    for command, due, said in answers:
        assert SECONDS.sub("", said) == SECONDS.sub("", due), command


@pytest.mark.long
def test_the_example_has_no_dead_letter_and_every_kind_of_record(store: str) -> None:
    assert asked(store, "SELECT * FROM dead") == [[]]
    kinds = {orjson.loads(line)["kind"] for line in blocks(TRACE, "json")[0].splitlines()}
    assert kinds == KINDS.keys() - {"instance", "reservation", "end"}


def test_every_kind_and_field_of_a_record_is_described() -> None:
    described = sections(TRACE)
    assert described.keys() == KINDS.keys()
    for kind, record in KINDS.items():
        rows = tables(described[kind])["field"]
        assert sorted(all_names(rows)) == sorted(item.name for item in fields(record)), kind
        assert bold_names(rows) == {
            item.name
            for item in fields(record)
            if item.default is MISSING and item.default_factory is MISSING
        }


def bold_names(rows: Sequence[Sequence[str]]) -> set[str]:
    return {name for row in rows for name in re.findall(r"\*\*`(\w+)`\*\*", row[0])}


def an_object(kind: str) -> dict[str, Any]:
    """A record with the fields that it has to have."""
    wanted = bold_names(tables(sections(TRACE)[kind])["field"])
    given: dict[str, object] = {
        "gpu": "GPU-1",
        "host": "h",
        "event": "start",
        "run": "r",
        "unit": "steps",
        "metric": "mmlu",
    }
    given |= {"to_ns": 4_102_444_800_000_000_000}
    size = {"slices": 1} if kind == "instance" else {}
    return {"kind": kind, **size, **{name: given.get(name, 1) for name in wanted}}


def test_every_number_has_the_limits_that_are_described() -> None:
    limits = {
        name: [orjson.loads(limit) for limit in row[1:]]
        for row in tables(TRACE.partition("## What is plausible")[2])["field"]
        for name in names(row[0])
    }
    numbers = {
        (kind, item.name): "float" in str(item.type)
        for kind, record in KINDS.items()
        for item in fields(record)
        if str(item.type).startswith(("int", "float")) and kind != "trace"
    }
    assert {name for _, name in numbers} == limits.keys()
    for (kind, name), is_float in numbers.items():
        least, greatest = limits[name]
        if (kind, name) == ("instance", "gpu_instance"):
            least = 0  # as its own table says
        parse(an_object(kind) | {name: least})
        parse(an_object(kind) | {name: greatest})
        below = math.nextafter(least, -math.inf) if is_float else least - 1
        above = math.nextafter(greatest, math.inf) if is_float else greatest + 1
        for wrong in (below, above):
            with pytest.raises(RecordError, match=name):
                parse(an_object(kind) | {name: wrong})


@pytest.mark.long
def test_every_table_and_column_is_described(store: str) -> None:
    columns: dict[str, list[str]] = {}
    of_tables, *of_views = asked(
        store,
        "SELECT table, name FROM system.columns WHERE database = currentDatabase()",
        *(f"DESCRIBE (SELECT * FROM {call})" for call in VIEWS.values()),
    )
    for row in of_tables:
        columns.setdefault(row["table"], []).append(row["name"])
    for view, rows in zip(VIEWS, of_views, strict=True):
        columns[view] = [row["name"] for row in rows]
    described = {
        table: tables(text).get("column", [])
        for heading, text in sections(STORE).items()
        for table in heading.split(", ")
    }
    assert described.keys() == columns.keys()
    for table, cells in described.items():
        if cells:
            assert sorted(all_names(cells)) == sorted(columns[table]), table
    assert [table for table, cells in described.items() if not cells] == [
        *("budget",),
        *("dirty_bucket", "migration"),
    ]


@pytest.mark.long
def test_every_value_of_an_enum_is_described(store: str) -> None:
    sql = "SELECT name, type FROM system.columns WHERE table = 'attribution' AND startsWith(type, 'Enum')"
    types = {row["name"]: re.findall(r"'(\w+)' =", row["type"]) for row in asked(store, sql)[0]}
    described = tables(sections(STORE)["attribution"])
    described.pop("column")
    assert {name: sorted(all_names(rows)) for name, rows in described.items()} == {
        name: sorted(values) for name, values in types.items()
    }


def test_every_flag_is_described() -> None:
    from wattribute.commands.explain import FLAGS
    from wattribute.kernels import result

    rows = tables(ATTRIBUTION)["bit"]
    assert [int(bit) for bit, _, _ in rows] == list(FLAGS)
    assert [getattr(result, name) for _, name, _ in rows] == list(FLAGS)


def test_explain_knows_every_source_of_an_identity() -> None:
    from wattribute.commands.explain import _IDENTITY_SOURCES

    described = {row[0]: row[2] for row in tables(sections(TRACE)["workload"])["field"]}
    assert set(names(described["`identity_source`"])) <= _IDENTITY_SOURCES.keys()


@pytest.mark.long
def test_the_queries_for_grafana_answer(store: str) -> None:
    queries = blocks(STORE, "sql")
    assert queries
    for macro, expanded in MACROS:
        queries = [re.sub(macro, expanded, sql) for sql in queries]
    assert all(asked(store, *queries))
    spans = [sql for sql in queries if "since = " in sql]
    assert spans
    elsewhere = [f"{sql} SETTINGS session_timezone = 'Asia/Tokyo'" for sql in spans]
    assert asked(store, *elsewhere) == asked(store, *spans)


def test_the_layout_of_messages_is_described() -> None:
    assert [row[0].strip("`") for row in tables(BUS)["topic"]] == list(TOPICS)
    widths = {"8-byte integer": "q", "4-byte integer": "i", "4-byte float": "f"}
    layouts: dict[str, dict[str, str]] = {"device": {}, "process": {}}
    for section, cell, width in tables(BUS)["section"]:
        layouts[section] |= dict.fromkeys(names(re.sub(r" \(.*?\)", "", cell)), widths[width])
    assert [list(layouts[section].items()) for section in layouts] == [
        list(DEVICE_COLUMNS.items()),
        list(PROCESS_COLUMNS.items()),
    ]
    sample = Encoder("h", "b", epoch=3).encode([Device(t=5, gpu="G", energy_mj=7)])[0][2]
    assert sample[:4] == MAGIC == b"WSB1"
    edges = [int(row[0].partition("–")[0]) for row in tables(BUS)["bytes"]] + [PREFIX.size]
    prefix = [int.from_bytes(sample[a:b], "little") for a, b in pairwise(edges[1:])]
    assert prefix == list(PREFIX.unpack_from(sample)[1:])
    assert prefix[1:] == [3, 1, 1, 0]
    header = orjson.loads(sample[32 : 32 + prefix[0]])
    assert list(header) == all_names(tables(BUS)["key"])


def test_the_messages_that_are_shown_are_those_that_travel() -> None:
    from wattribute.stream.engine import ALGORITHM, Engine

    message, state, letter = (orjson.loads(block) for block in blocks(BUS, "json"))
    engine = Engine("wattribute.samples/0")
    engine.take([0], [orjson.dumps(message)])
    assert engine.tables.dropped == 0
    bad = message | {"records": [{"kind": "device", "t": 1, "gpu": "G", "power_mw": "300 W"}] * 4}
    engine.take([812], [orjson.dumps(bad)])
    last = orjson.loads(engine.tables.dead_letters()[-1][1])
    assert last | {"excerpt": letter["excerpt"]} == letter
    falls = [Device(t=t * 10**9, gpu="GPU-1", energy_mj=mj) for t, mj in ((1, 9), (2, 4))]
    engine.take([813], [Encoder("node-1", "boot-1", 1780000000).encode(falls)[0][2]])
    engine.rows()
    ((key, saved),) = engine.state()
    assert key == "node-1 boot-1 GPU-1"
    assert orjson.loads(saved).keys() == state.keys()
    assert f"`algorithm` is {ALGORITHM} " in " ".join(BUS.split())


def test_what_is_cited_and_linked_is_there() -> None:
    folders = ("collector", "stream", "kernels", "sinks", "src/wattribute", "tests", "benchmarks")
    sources = [
        path for name in folders for suffix in ("py", "sql") for path in (ROOT / name).rglob(f"*.{suffix}")
    ]
    cited = {page for path in sources for page in re.findall(r"docs/[\w-]+\.md", path.read_text())}
    assert cited
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    linked = {
        page: {page.parent / link for link in re.findall(r"\]\(([\w/.-]+\.md)\)", page.read_text())}
        for page in pages
    }
    for target in {ROOT / page for page in cited}.union(*linked.values()):
        assert target.is_file()
    assert linked[ROOT / "README.md"] >= set(pages[2:])
