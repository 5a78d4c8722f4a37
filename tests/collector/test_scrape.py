"""From counters to what came out, through resets, restarts and gaps; from histograms to latencies."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattribute.collector.engines import ENGINES, Reading, Served
from wattribute.collector.scrape import OBSERVED, Latencies, Tally, Whose, quantile, units
from wattribute.records import Quality, Unit

S = 1_000_000_000
START = 1_790_000_000 * S
OUTPUT = ("output_tokens", Served("m", ""), ("vllm:generation_tokens_total",))
TTFT = ("ttft", Served("m", ""), ("vllm:time_to_first_token_seconds_bucket",))


def at(value: float | None, other: float | None = None) -> Reading:
    found = Reading(ENGINES[0])
    if value is not None:
        found.counts[OUTPUT] = value
    if other is not None:
        found.counts["requests", Served("m", ""), ("vllm:request_success_total",)] = other
    return found


def told(tally: Tally, second: float, reading: Reading, start_ns: int | None = None) -> dict[str, Any]:
    """What one reading tells: units by name, and (begin, end) in seconds from the start."""
    interval = tally.take(START + round(second * S), reading, start_ns)
    if interval is None:
        return {}
    records = [r for r in units(interval, Whose(), "e") if isinstance(r, Unit)]
    found: dict[str, Any] = {record.unit: record.quantity for record in records}
    return found | {"span": ((interval.begin_ns - START) / S, (interval.end_ns - START) / S)}


def test_the_first_reading_is_history_and_each_next_one_news() -> None:
    tally = Tally(START)
    assert told(tally, 1, at(1000), START - S) == {}
    assert told(tally, 6, at(1010), START - S) == {
        "output_tokens": 10.0,
        OBSERVED: 5e9,
        "span": (1.0, 6.0),
    }
    assert told(tally, 11, at(1010), START - S) == {OBSERVED: 5e9, "span": (6.0, 11.0)}


def test_a_reading_that_failed_costs_nothing() -> None:
    tally = Tally(START)
    told(tally, 1, at(5))
    assert told(tally, 31, at(105)) == {"output_tokens": 100.0, OBSERVED: 30e9, "span": (1.0, 31.0)}


def test_a_server_that_began_under_watch_is_counted_from_its_beginning() -> None:
    tally = Tally(START)
    assert told(tally, 9, at(40), START + 2 * S) == {
        "output_tokens": 40.0,
        OBSERVED: 7e9,
        "span": (2.0, 9.0),
    }


def test_a_server_that_began_anew_is_counted_from_then_though_it_shows_more_than_before() -> None:
    tally = Tally(START)
    told(tally, 1, at(100), START - S)
    assert told(tally, 9, at(400), START + 4 * S) == {
        "output_tokens": 400.0,
        OBSERVED: 5e9,
        "span": (4.0, 9.0),
    }


def test_counters_that_fall_began_anew_and_nobody_knows_when() -> None:
    tally = Tally(START)
    told(tally, 1, at(100, other=7))
    # The requests did not fall, but they are of the same server: all of them came since.
    assert told(tally, 6, at(30, other=9)) == {"output_tokens": 30.0, "requests": 9.0, "span": (1.0, 6.0)}
    assert told(tally, 11, at(35, other=9)) == {"output_tokens": 5.0, OBSERVED: 5e9, "span": (6.0, 11.0)}


def test_a_model_that_is_loaded_again_is_no_restart_of_its_server() -> None:
    """Triton: counters of the other models go on, and what they counted before is no news."""

    def both(a: float | None, b: float) -> Reading:
        reading = Reading(ENGINES[-1])
        for model, value in (("A", a), ("B", b)):
            if value is not None:
                series = ("requests", Served(model, "1"), ("nv_inference_request_success", model))
                reading.counts[series] = value
        return reading

    tally, found = Tally(START), []
    for number, counts in enumerate([(100, 500), (110, 510), (None, 520), (0, 530), (5, 540)]):
        interval = tally.take(START + number * S, both(*counts), None)
        told_units = units(interval, Whose(), "e") if interval else []
        found.append({(r.model, r.unit): r.quantity for r in told_units if isinstance(r, Unit)})
    requests = [{model: count for (model, unit), count in of.items() if unit == "requests"} for of in found]
    assert requests == [{}, {"A": 10, "B": 10}, {"B": 10}, {"B": 10}, {"A": 5, "B": 10}]
    observed = [{model for model, unit in of if unit == OBSERVED} for of in found]
    assert observed == [set(), {"A", "B"}, {"B"}, {"B"}, {"A", "B"}]


def test_one_counter_that_falls_takes_no_others_of_its_model_along() -> None:
    def reading(hits: float, output: float, requests: float) -> Reading:
        made = at(output, other=requests)
        made.counts["cached_tokens", Served("m", ""), ("vllm:prefix_cache_hits_total",)] = hits
        return made

    tally = Tally(START)
    told(tally, 1, reading(900, 1000, 70))
    assert told(tally, 6, reading(4, 1010, 71)) == {
        "cached_tokens": 4.0,
        "output_tokens": 10.0,
        "requests": 1.0,
        "span": (1.0, 6.0),
    }


def test_two_servers_behind_one_address_are_not_counted_twice() -> None:
    tally = Tally(START)
    one, other = START - 20 * S, START - 10 * S
    assert [told(tally, second, at(value), began) for second, value, began in (
        (1, 1000, one), (6, 500, other), (11, 1010, one), (16, 510, other), (21, 520, other)
    )][:4] == [{}, {}, {}, {}]  # fmt: skip


def test_a_series_that_comes_later_began_at_0_and_one_that_was_away_did_not() -> None:
    tally = Tally(START)
    told(tally, 1, at(100))
    assert told(tally, 6, at(100, other=2))["requests"] == 2
    assert "output_tokens" not in told(tally, 11, at(None, other=2))
    assert told(tally, 16, at(103, other=2))["output_tokens"] == 3


def test_a_better_name_that_comes_later_does_not_count_again() -> None:
    tally, served = Tally(START), Served("m", "")
    reading = at(None)
    reading.counts["cached_tokens", served, ("vllm:prefix_cache_hits_total",)] = 64
    told(tally, 1, reading)
    better = at(None)
    better.counts["cached_tokens", served, ("vllm:prompt_tokens_cached_total",)] = 70
    assert "cached_tokens" not in told(tally, 6, better)
    better.counts["cached_tokens", served, ("vllm:prompt_tokens_cached_total",)] = 75
    assert told(tally, 11, better)["cached_tokens"] == 5


def test_more_than_a_day_without_a_reading_is_not_told() -> None:
    tally = Tally(START)
    told(tally, 1, at(5))
    assert told(tally, 90_000, at(50)) == {}
    assert told(tally, 90_005, at(60))["output_tokens"] == 10


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.sampled_from(["works", "fails", "restarts"])),
        min_size=1,
        max_size=40,
    )
)
def test_never_more_and_never_less_than_came_out_between_readings(life: list[tuple[int, str]]) -> None:
    """Whatever a server does, the units are what it counted after the first reading, but for what it
    counted between the last reading and its end."""
    tally, second, total = Tally(START + 10**9 * S), 0, 0
    start_ns, unread, came, found = START - S, 0, 0, 0.0
    told(tally, 0, at(0), start_ns)
    for tokens, event in life:
        second += 5
        total, unread = total + tokens, unread + tokens
        if event == "restarts":
            start_ns, total, unread = START + (second - 1) * S, 0, 0
        elif event == "works":
            came, unread = came + unread, 0
            said = told(tally, second, at(total), start_ns)
            assert all(value >= 0 for value in said.values() if isinstance(value, float))
            found += said.get("output_tokens", 0.0)
    assert found == came


def test_units_carry_whose_they_are_and_one_that_is_told_again_has_the_same_name() -> None:
    tally = Tally(START)
    tally.take(START, at(0), None)
    interval = tally.take(START + S, at(7), None)
    assert interval is not None
    whose = Whose(
        pid=4, start_ns=START, pod="p", model="support-chat", model_version="v3", run="r", attempt=1
    )
    first, second = units(interval, whose, "h 4"), units(interval, whose, "h 4")
    assert first == second
    unit = first[0]
    assert isinstance(unit, Unit)
    assert (unit.source, unit.pid, unit.start_ns, unit.pod) == ("engine", 4, START, "p")
    assert (unit.model, unit.model_version, unit.run, unit.attempt) == ("support-chat", "v3", "r", 1)
    assert (unit.period_ns, unit.phase, unit.event_id) == (S, "inference", f"h 4 v3 {START + S}")


def test_a_tag_does_not_rename_each_of_several_models() -> None:
    reading = Reading(ENGINES[-1])
    for model in ("a", "b"):
        reading.counts["requests", Served(model, "1"), ("nv_inference_request_success", model)] = 3
    tally = Tally(START)
    interval = tally.take(START + 5 * S, reading, START + S)
    assert interval is not None
    told_units = [r for r in units(interval, Whose(model="tag"), "e") if isinstance(r, Unit)]
    assert {(r.model, r.model_version) for r in told_units} == {("a", "1"), ("b", "1")}


def test_versions_that_a_tag_makes_one_are_one() -> None:
    """Two units of one name would take each other's place in the store."""
    reading = Reading(ENGINES[-1])
    for version, count in (("1", 3.0), ("2", 4.0)):
        served = Served("a", version)
        reading.counts["requests", served, ("nv_inference_request_success", version)] = count
        reading.buckets |= {
            (("e2e", served, (version,)), 1.0): count,
            (("e2e", served, (version,)), math.inf): 5,
        }
    interval = Tally(START).take(START + 5 * S, reading, START + S)
    assert interval is not None
    told_units = {r.unit: r for r in units(interval, Whose(model_version="v3"), "e") if isinstance(r, Unit)}
    assert (told_units["requests"].quantity, told_units[OBSERVED].quantity) == (7.0, 4e9)
    latencies = Latencies()
    latencies.add(interval)
    told_qualities = latencies.told(START, Whose(model_version="v3"))
    assert [(r.metric, r.sample_count) for r in told_qualities if isinstance(r, Quality)] == [
        ("e2e_p50_s", 10),
        ("e2e_p95_s", 10),
    ]


def test_quantiles_are_those_of_prometheus() -> None:
    buckets = {0.1: 0.0, 0.25: 40.0, 0.5: 100.0, math.inf: 100.0}
    assert quantile(buckets, 0.2) == pytest.approx(0.175)
    assert quantile(buckets, 0.5) == pytest.approx(0.25 + 0.25 * 10 / 60)
    assert quantile({0.1: 10.0, math.inf: 20.0}, 0.95) == 0.1  # above the last bound: on it
    assert quantile({1.0: 10.0, 2.0: 10.0, math.inf: 10.0}, 0.5) == 0.5  # the first begins at 0
    # Of engines whose bounds differ: 10 lie below 1, so 0.8 of the 2 that come after are below 2.8.
    assert quantile({1.0: 10.0, 2.0: 8.0, 4.0: 12.0, math.inf: 12.0}, 0.9) == pytest.approx(2.8)


def test_a_histogram_that_was_away_for_once_is_no_news_when_it_comes_back() -> None:
    tally, latencies = Tally(START), Latencies()
    for second, count in ((0, 1000.0), (5, None), (10, 1003.0)):
        reading = at(second)
        if count is not None:
            reading.buckets |= {(TTFT, 0.5): count, (TTFT, math.inf): count}
        interval = tally.take(START + second * S, reading, None)
        if interval is not None:
            latencies.add(interval)
    told_qualities = latencies.told(START + 10 * S, Whose())
    assert [r.sample_count for r in told_qualities if isinstance(r, Quality)] == [3, 3]


def test_latencies_are_of_what_happened_since_they_were_last_told() -> None:
    tally, latencies = Tally(START), Latencies()
    for second, (low, high) in ((0, (100.0, 1000.0)), (5, (104.0, 1008.0)), (10, (110.0, 1020.0))):
        reading = at(second)
        reading.buckets |= {(TTFT, 0.5): low, (TTFT, 1.0): high, (TTFT, math.inf): high}
        interval = tally.take(START + second * S, reading, None)
        if interval is not None:
            latencies.add(interval)
    found = {
        r.metric: r
        for r in latencies.told(START + 10 * S, Whose(model_version="v1"))
        if isinstance(r, Quality)
    }
    assert found.keys() == {"ttft_p50_s", "ttft_p95_s"}
    median = found["ttft_p50_s"]
    assert (median.value, median.sample_count, median.higher_is_better) == (0.5, 20, False)
    assert (median.model, median.model_version, median.source, median.t) == (
        "m",
        "v1",
        "engine",
        START + 10 * S,
    )
    assert found["ttft_p95_s"].value == pytest.approx(0.95)
    assert latencies.told(START + 20 * S, Whose()) == []
