from __future__ import annotations

import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from wattribute.commands.price import import_, remove
from wattribute.errors import UsageError
from wattribute.sinks import prices
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.migrate import migrate
from wattribute.sinks.prices import (
    Price,
    add_prices,
    bundled,
    list_prices,
    load_bundled,
    parse_time,
    read_prices,
)
from wattribute.sinks.query_server import serve

H200 = "NVIDIA H200"


def test_the_bundled_prices_name_their_source_and_fit_their_instances() -> None:
    prices = bundled()
    assert len({price.price_id for price in prices}) == len(prices)
    for price in prices:
        assert price.source
        assert price.source_date
        assert price.price > 0
    nebius = {(p.gpu_model, p.category): p.price for p in prices if p.provider == "nebius"}
    assert nebius[H200, "on_demand"] == 3.5
    assert nebius["NVIDIA H100 80GB HBM3", "spot"] == 1.25
    assert [p.provider for p in prices if p.disputed] == ["aws"]


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"price": -1.0}, "from 0 to 1,000,000,000"),
        ({"price": float("nan")}, "from 0 to 1,000,000,000"),
        ({"price": float("inf")}, "from 0 to 1,000,000,000"),
        ({"currency": "usd"}, "did you mean USD"),
        ({"currency": "US"}, "'US' is not known; write its code, like USD or EUR"),
        ({"currency": "EURO"}, "did you mean EUR"),
        ({"gpu_model": ""}, "as NVML gives it"),
        ({"valid_from": datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)}, "whole minute"),
        (
            {"valid_from": datetime(2026, 1, 2, tzinfo=UTC), "valid_to": datetime(2026, 1, 1, tzinfo=UTC)},
            "before it begins",
        ),
        ({"valid_to": datetime(2300, 1, 1, tzinfo=UTC)}, "between 1970 and 2106"),
        ({"price": 44.0, "instance_price": 44.0, "gpus_per_instance": 8}, "that is 5.5 per GPU-hour"),
        ({"price": 3.6, "gpus_per_instance": 70_000}, "gpus_per_instance is 70000, not a whole number from"),
    ],
)
def test_a_price_that_makes_no_sense_is_refused(wrong: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError, match=line):
        made: dict[str, Any] = {"gpu_model": H200, "price": 3.6} | wrong
        Price(**made)


def test_overlapping_prices_are_refused_and_none_is_stored(sink: ClickHouseSink) -> None:
    june = datetime(2026, 6, 1, tzinfo=UTC)
    add_prices(sink.store, [Price(gpu_model=H200, price=3.6)])
    other = Price(gpu_model="NVIDIA L4", price=1)
    with pytest.raises(
        UsageError, match=r"overlaps the one from the beginning of time.*--until 2026-06-01T00:00Z"
    ):
        add_prices(sink.store, [other, Price(gpu_model=H200, price=4, valid_from=june)])
    assert [row["gpu_model"] for row in list_prices(sink.store) if row["origin"] == "user"] == [H200]
    # another place is another price; and the first may be given its end
    add_prices(sink.store, [Price(gpu_model=H200, price=3, provider="nebius", valid_from=june)])
    ended = Price(gpu_model=H200, price=3.6, valid_to=june)
    add_prices(sink.store, [Price(gpu_model=H200, price=4, valid_from=june), ended])  # wherever they stand
    mine = [row for row in list_prices(sink.store) if row["origin"] == "user"]
    assert [(row["provider"], row["price_per_gpu_hour"], row["valid_to"]) for row in mine] == [
        ("", 3.6, june),
        ("", 4.0, None),
        ("nebius", 3.0, None),
    ]


def test_adding_again_replaces(sink: ClickHouseSink) -> None:
    for amount in (3.6, 3.6, 3.7):
        add_prices(sink.store, [Price(gpu_model=H200, price=amount)])
    assert [row["price_per_gpu_hour"] for row in list_prices(sink.store) if row["origin"] == "user"] == [3.7]


def test_a_price_that_is_taken_back_is_gone_and_was_known(sink: ClickHouseSink) -> None:
    june = datetime(2026, 6, 1, tzinfo=UTC)
    told = [
        Price(gpu_model=H200, price=3.6, valid_to=june),
        Price(gpu_model=H200, price=3.7, valid_from=june),
    ]
    add_prices(sink.store, told)
    server = serve(sink.store)
    assert server is not None
    try:
        remove(gpu=H200, valid_from="2026-06-01", store=sink.store.url)
        with pytest.raises(UsageError, match="you have added no price of "):
            remove(gpu=H200, valid_from="2026-06-01", store=sink.store.url)
    finally:
        server.close()
    assert [row["price_per_gpu_hour"] for row in list_prices(sink.store) if row["origin"] == "user"] == [3.6]
    known = (
        "SELECT price_per_gpu_hour, known_until > now64(3) FROM price_book WHERE origin = 'user' ORDER BY 1"
    )
    assert sink.store.query(known).rows == [(3.6, 1), (3.7, 0)]
    add_prices(sink.store, [Price(gpu_model=H200, price=3.8, valid_from=june)])
    assert sink.store.query(known).rows == [(3.6, 1), (3.7, 0), (3.8, 1)]


def test_the_help_names_every_column_of_a_file_of_prices() -> None:
    named = set(re.findall(r"\w+", import_.__doc__ or ""))
    assert {item.name for item in fields(Price)} | {"capital_per_gpu", "life_years"} <= named


@pytest.mark.parametrize(
    ("price", "remark"),
    [
        ({"gpu_model": "NVIDIA H200 "}, "one named 'NVIDIA H200' is known"),
        ({"gpu_model": "nvidia l40s"}, "one named 'NVIDIA L40S' is known"),
        ({"gpu_model": "H200"}, "one named 'NVIDIA H200' is known"),
        ({"gpu_model": "a100 80gb"}, "'NVIDIA A100 80GB PCIe' or 'NVIDIA A100-SXM4-80GB' is"),
        ({"gpu_model": "H20"}, None),
        ({"gpu_model": H200, "price": 28.0}, "is it the price of an instance"),
        ({"gpu_model": H200, "category": "on-demand"}, "one named 'on_demand' is known"),
        ({"gpu_model": H200, "category": "capacity_block"}, None),
        ({"gpu_model": H200, "includes_energy": False}, "there is no tariff yet"),
        ({"gpu_model": H200}, None),
        ({"gpu_model": "Contraption 9"}, None),
    ],
)
def test_remarks(sink: ClickHouseSink, price: dict[str, Any], remark: str | None) -> None:
    remarks = add_prices(sink.store, [Price(**{"price": 3.6} | price)])
    assert len(remarks) == (remark is not None)
    assert remark is None or remark in remarks[0]


def test_a_price_that_no_measured_host_is_charged_by_is_pointed_out(sink: ClickHouseSink) -> None:
    """A price of GPUs that one owns, on hosts that do not say so: all stayed unpriced, without a word."""
    sink.store.command(f"INSERT INTO attribution_day (gpu_model, provider) VALUES ('{H200}', 'lab')")
    owned = Price(gpu_model=H200, price=1.0, category="owned")
    assert add_prices(sink.store, [owned]) == [
        f"none of your prices of {H200} is for the hosts on which it was measured (provider lab, no region,"
        " no pricing): leave provider, region and category out of the price, or set 'provider', 'region' and"
        " 'pricing' on those hosts"
    ]
    assert add_prices(sink.store, [Price(gpu_model=H200, price=2.0, provider="lab")]) == []
    assert add_prices(sink.store, [Price(gpu_model=H200, price=1.0, category="spot")]) == []
    sink.store.command(f"INSERT INTO attribution_day (gpu_model, pricing) VALUES ('{H200}', 'owned')")
    assert add_prices(sink.store, [owned]) == []


def test_a_file_of_prices(sink: ClickHouseSink, tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.write_text("gpu_model,price,provider,valid_from\nNVIDIA H200,3.6,here,2026-06-01\nNVIDIA L4,0.5,,\n")
    prices = read_prices(path)
    path.write_text(path.read_text(), encoding="utf-8-sig")  # as Excel saves it
    assert read_prices(path) == prices
    path.write_text(path.read_text(encoding="utf-8-sig").replace(",", ";"))  # and where numbers have a comma
    assert read_prices(path) == prices
    assert prices[0].valid_from == datetime(2026, 6, 1, tzinfo=UTC)
    add_prices(sink.store, prices)
    assert sum(row["origin"] == "user" for row in list_prices(sink.store)) == 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("gpu_model,prise\nx,1\n", "did you mean price"),
        ("gpu_model,price\nx,1\ny,cheap\n", "line 3: price is 'cheap'"),
        ("gpu_model;price\nx;3,6\n", "line 2: price is '3,6', not a number"),
        ("gpu_model,price\n,1\n", "line 2: gpu_model is missing"),
        ("gpu_model,price,valid_from\nx,1,yesterday\n", "line 2: 'yesterday' is not a time"),
        (
            "gpu_model,price,gpus_per_instance,instance_price\nx,8,8,8\n",
            "line 2: 8 per GPU-hour does not match",
        ),
        ("gpu_model,price\nx,nan\n", "line 2: the price"),
        ("gpu_model,instance_price\nx,8\n", "line 2: the price of an instance needs its number of GPUs"),
        ("gpu_model,price,instance_price\nx,1,8\n", "line 2: an instance of x needs its number of GPUs"),
        ("gpu_model,instance_price,gpus_per_instance\nx,8,inf\n", "line 2: gpus_per_instance is inf"),
        ("gpu_model,provider\nx,y\n", "line 2: no price is given"),
        ("gpu_model,capital_per_gpu\nx,30000\n", "line 2: capital per GPU and its life"),
        ("gpu_model,capital_per_gpu,life_years\nx,30000,0\n", "line 2: a life of 0.0 years"),
        ("gpu_model,capital_per_gpu,life_years\nx,-5,3\n", "line 2: a capital of -5 per GPU"),
        ("gpu_model,instance_price,gpus_per_instance\nx,-8,4\n", "line 2: the instance price of x is -8"),
        (f"gpu_model,price\n{'x' * 200_000},1\n", "line 2: field larger than field limit"),
        ("gpu_model,price,price\nx,1,2\n", "the column 'price' appears twice"),
        ("gpu_model,price\nx,1,2,3\n", "line 2: it has more fields than the header, which names 2"),
        (
            "gpu_model,price,valid_from,valid_to\nx,1,,2026-06-01\nx,2,2026-06-01,\nx,3,2026-06-01,\n",
            "line 4: it has the GPU, place, category and beginning of line 3",
        ),
        ("gpu_model,price,capital_per_gpu,life_years\nx,1,30000,4\n", "line 2: give a price by the hour or"),
        ("gpu_model,price,includes_energy\nx,1,maybe\n", "line 2: includes_energy is 'maybe'"),
    ],
)
def test_a_file_with_an_error_names_the_line(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "prices.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=line):
        read_prices(path)


def test_a_price_by_the_instance_or_by_capital(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.write_text(
        "gpu_model,category,instance_price,gpus_per_instance,capital_per_gpu,life_years,includes_energy\n"
        "NVIDIA H200,committed,25.6,8,,,\nNVIDIA L4,owned,,,8760,2,\nNVIDIA L40S,owned,,,8760,4,yes\n"
        "NVIDIA A2,,,,8760,1,\n"
    )
    assert [(price.price, price.includes_energy) for price in read_prices(path)] == [
        (3.2, True),
        (0.5, False),
        (0.25, True),
        (1.0, False),
    ]


def test_time_between_two_prices_is_pointed_out(sink: ClickHouseSink) -> None:
    may, june, july = (datetime(2026, month, 1, tzinfo=UTC) for month in (5, 6, 7))
    assert add_prices(sink.store, [Price(gpu_model=H200, price=3.6, valid_to=may)]) == []
    (remark,) = add_prices(sink.store, [Price(gpu_model=H200, price=3.7, valid_from=june)])
    place = "for this place and category"
    assert remark == f"NVIDIA H200 has no price {place} from 2026-05-01T00:00Z to 2026-06-01T00:00Z"
    assert add_prices(sink.store, [Price(gpu_model=H200, price=3.6, valid_from=may, valid_to=june)]) == []
    assert add_prices(sink.store, [Price(gpu_model=H200, price=9.9, valid_to=july, region="x")]) == []


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the prices"):
        read_prices(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"\xe9\xff")
    with pytest.raises(UsageError, match=r"latin.csv is not UTF-8: save it as"):
        read_prices(tmp_path / "latin.csv")


def test_times() -> None:
    assert (
        parse_time("2026-06-01T02:00+02:00") == parse_time("2026-06-01") == datetime(2026, 6, 1, tzinfo=UTC)
    )


def test_what_is_paid_counts_before_what_is_contracted_and_that_before_what_is_listed(
    sink: ClickHouseSink,
) -> None:
    said = {"list_price": 3.0, "contracted_price": 2.0, "effective_price": 1.0}
    for count in (1, 2, 3):
        told = dict(list(said.items())[:count])
        sink.write_rows("price", [{"price_id": f"{count} told", "gpu_model": "x", **told}])
    due = {"1 told": 3.0, "2 told": 2.0, "3 told": 1.0}
    rows = sink.store.query("SELECT price_id, price_per_gpu_hour FROM price_book WHERE gpu_model = 'x'").rows
    assert dict(rows) == due
    listed = [row["price_per_gpu_hour"] for row in list_prices(sink.store) if row["gpu_model"] == "x"]
    assert sorted(listed) == sorted(due.values())


def test_the_bundled_prices_are_kept_in_step(sink: ClickHouseSink) -> None:
    count = "SELECT count() FROM price FINAL WHERE origin = 'bundled'"
    parts = "SELECT count() FROM price"
    assert sink.store.query(count).rows == [(len(bundled()),)]
    written = sink.store.query(parts).rows
    migrate(sink.store)
    assert sink.store.query(parts).rows == written
    sink.write_rows(
        "price", [{"price_id": "bundled|from an older program", "origin": "bundled", "gpu_model": "x"}]
    )
    stale = bundled()[0]
    sink.write_rows(
        "price", [{"price_id": f"bundled|{stale.price_id}", "origin": "bundled", "list_price": 99.0}]
    )
    load_bundled(sink.store)
    assert sink.store.query(count).rows == [(len(bundled()),)]
    assert sink.store.query("SELECT max(list_price) FROM price FINAL").rows == [(6.99,)]


def test_a_bundled_price_that_another_program_lacked_is_known_again(
    sink: ClickHouseSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = "SELECT count() FROM price_book WHERE known_until > now64(3)"
    ((count,),) = sink.store.query(known).rows
    with monkeypatch.context() as patch:
        patch.setattr(prices, "bundled", lambda: bundled()[1:])
        load_bundled(sink.store)
    assert sink.store.query(known).rows == [(count - 1,)]
    load_bundled(sink.store)
    assert sink.store.query(known).rows == [(count,)]
