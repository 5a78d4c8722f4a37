"""A small size of every benchmark: that it runs, and that its results are right. Nothing is said of time."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.__main__ import TOPICS
from benchmarks.contender import ContenderError, check, run
from benchmarks.synthetic import GPUS_PER_HOST, host_name, messages, readings, records
from benchmarks.table import BEGIN, END, Bar, Row, as_markdown, load, store, write_readme
from benchmarks.wire_format import decode
from tests.needs import missing, need
from wattribute.wire import Encoder


@pytest.mark.long
@pytest.mark.parametrize("topic", TOPICS)
def test_a_small_size_of(topic: str) -> None:
    if topic in ("peers", "ratio"):
        need("polars")
    rows = TOPICS[topic](True)
    assert rows
    for row in rows:
        if row.skipped:
            missing(row.skipped)
        assert row.figures
        assert all(math.isfinite(figure) and figure > 0 for figure in row.figures.values()), row
        assert all(bar.unit in row.figures for bar in row.bars)


def test_messages_are_the_bytes_that_a_collector_sends() -> None:
    made = readings(2 * GPUS_PER_HOST, hz=10, seconds=3, processes=4)
    encoders = [Encoder(host_name(host), "boot-1", epoch=1) for host in range(2)]
    for number, (host, message) in enumerate(messages(made)):
        ((_, key, expected),) = encoders[host].encode(records(made, host, number // 2))
        assert (key, message) == (host_name(host), expected)


def test_a_wrong_result_has_no_speed() -> None:
    with pytest.raises(ContenderError, match="wrong result: the parts"):
        check(False, "the parts are not the whole")


def test_a_contender_that_fails_is_an_error() -> None:
    with pytest.raises(ContenderError, match=r"wire_format:decode .*'hz': 0.* ended with status 1"):
        run(decode, hz=0, seconds=1, repetitions=1)


def test_a_bar_is_met_or_not() -> None:
    at_least, at_most = Bar("times", 10), Bar("ms", 100, at_most=True)
    assert Row("t", "w", {"times": 10.0, "ms": 100.0}, [at_least, at_most]).met() is True
    assert Row("t", "w", {"times": 9.9, "ms": 100.0}, [at_least, at_most]).met() is False
    assert Row("t", "w", {"times": 11.0, "ms": 101.0}, [at_least, at_most]).met() is False
    assert Row("t", "w", {"times": 1.0}).met() is None
    assert Row("t", "w", bars=[at_least], skipped="no compiler").met() is None


def test_the_table_is_written_between_its_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.table.RESULTS", tmp_path / "results")
    rows = [
        Row("kernel", "100 Hz", {"M samples/s": 482.4, "of memcpy": 0.3051}, [Bar("of memcpy", 0.5)]),
        Row("kernel", "10 Hz", skipped="no reason"),
    ]
    kept = store(rows, {"date": "2026-06-01 08:00", "memory": "23 GiB"}, small=False)
    assert kept.name == "2026-06-01T0800.json"
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nan old table\n{END}\nafter\n")
    for _ in range(2):
        write_readme(*load(kept), readme)
        facts = "- date: 2026-06-01 08:00\n- memory: 23 GiB"
        assert readme.read_text() == f"before\n{BEGIN}\n{facts}\n\n{as_markdown(rows)}\n{END}\nafter\n"
    lines = as_markdown(rows).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")] == [
        "", "kernel", "100 Hz", "482 M samples/s, 0.305 of memcpy", "≥ 0.5 of memcpy", "NOT MET", "",
    ]  # fmt: skip
    assert [cell.strip() for cell in lines[3].split("|")] == [
        "",
        "",
        "10 Hz",
        "skipped: no reason",
        "",
        "",
        "",
    ]
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="lacks the markers"):
        write_readme(rows, {}, readme)
