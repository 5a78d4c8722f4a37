"""What each engine's exposition says, and what of it cannot be used."""

from __future__ import annotations

import contextlib
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.collector.engine_server import exposition
from wattribute.collector.engines import ENGINES, WANTED, Reading, ScrapeError, Served, parsed, reading

RAY = "neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8"
QWEN = "Qwen/Qwen3-0.6B"


def read(text: str) -> Reading:
    lines = [line for line in text.encode().splitlines() if line.startswith(WANTED)]
    found = reading(parsed(lines))
    assert found is not None
    return found


def totals(found: Reading) -> dict[tuple[str, Served], float]:
    sums: dict[tuple[str, Served], float] = {}
    for (unit, served, _), value in found.counts.items():
        sums[unit, served] = sums.get((unit, served), 0.0) + value
    return sums


@pytest.mark.parametrize(
    ("name", "engine", "served", "units"),
    [
        ("vllm", "vllm", Served("facebook/opt-125m", ""), (122, 26, 64, 3)),
        ("triton_vllm", "vllm", Served("vllm_model", "1"), (10, 16, None, 1)),
        ("ray_vllm", "vllm", Served(RAY, ""), (58, 300, None, None)),
        ("sglang", "sglang", Served("facebook/opt-125m", ""), (5, 32, 1, 1)),
        ("sglang_streaming", "sglang", Served("qwen3.8-27b", ""), (178, 8, None, 1)),
        ("tensorrt_llm", "tensorrt-llm", Served(QWEN, ""), (1_240, 15_500, None, 155)),
        ("tensorrt_llm_without_prefix", "tensorrt-llm", Served("", ""), (None, None, None, 2)),
        ("nim", "nim", Served("meta/llama-3.1-8b-instruct", ""), (109, 174, None, 5)),
        ("tgi", "tgi", Served("", ""), (662, 3_423, None, 109)),
        ("llama_cpp", "llama.cpp", Served("", ""), (77_454 + 129_725, 1_426, 129_725, None)),
        ("ik_llama_cpp", "llama.cpp", Served("", ""), (6_886, 3_469, None, None)),
        ("triton", "triton", Served("densenet_onnx", "1"), (None, None, None, 3)),
    ],
)
def test_each_engine_s_exposition_gives_its_units(
    name: str, engine: str, served: Served, units: tuple[int | None, ...]
) -> None:
    found = read(exposition(name))
    assert (found.engine.name, found.unusable) == (engine, 0)
    names = ("input_tokens", "output_tokens", "cached_tokens", "requests")
    sums = totals(found)
    assert tuple(sums.get((unit, served)) for unit in names) == units
    if name != "triton":
        assert found.served == {served}


def test_cached_tokens_are_part_of_the_input_in_every_engine() -> None:
    for name in ("vllm", "sglang", "llama_cpp"):
        sums = totals(read(exposition(name)))
        (served,) = {served for _, served in sums}
        assert 0 < sums["cached_tokens", served] <= sums["input_tokens", served]


def test_of_two_names_of_one_thing_the_better_counts() -> None:
    text = exposition("vllm")
    older = "\n".join(line for line in text.splitlines() if "prompt_tokens_cached" not in line)
    for said in (text, older):
        assert totals(read(said))["cached_tokens", Served("facebook/opt-125m", "")] == 64
    latency = {series[2][0] for series, _ in read(text).buckets if series[0] == "itl"}
    assert latency == {"vllm:inter_token_latency_seconds_bucket"}


def test_a_prefix_may_be_written_in_two_ways() -> None:
    for name, prefix, other in (("sglang", "sglang:", "sglang_"), ("tensorrt_llm", "trtllm_", "trtllm:")):
        renamed = exposition(name).replace(prefix, other)
        assert totals(read(renamed)) == totals(read(exposition(name)))


@pytest.mark.parametrize(
    ("prefix", "rank", "engine"),
    [
        *(("sglang:", rank, "dp_rank") for rank in ("tp_rank", "pp_rank", "moe_ep_rank")),
        ("trtllm_", "rank", "engine"),
    ],
)
def test_ranks_that_count_the_same_tokens_are_not_added_and_engines_are(
    prefix: str, rank: str, engine: str
) -> None:
    """Of ranks the greatest counts, wherever it stands; so of their histograms."""
    text = "".join(
        f'{prefix}generation_tokens_total{{model_name="m",{engine}="{of}",{rank}="{number}"}} {value}\n'
        f"{prefix}time_to_first_token_seconds_bucket"
        f'{{model_name="m",{engine}="{of}",{rank}="{number}",le="+Inf"}} {value / 10}\n'
        for of, number, value in ((0, 0, 99), (0, 1, 100), (0, 2, 98), (1, 0, 30), (1, 1, 20))
    )
    found = read(text)
    assert totals(found) == {("output_tokens", Served("m", "")): 130.0}
    assert sorted(found.buckets.values()) == [3.0, 10.0]


def test_sources_of_the_cache_and_ways_of_answering_are_added() -> None:
    text = "".join(
        f'sglang:{name}{{{label}="{value}",model_name="m",tp_rank="0"}} {count}\n'
        for name, label, value, count in (
            ("cached_tokens_total", "cache_source", "device", 60),
            ("cached_tokens_total", "cache_source", "host", 3),
            ("num_requests_total", "is_streaming", "false", 2),
            ("num_requests_total", "is_streaming", "true", 5),
        )
    )
    served = Served("m", "")
    assert totals(read(text)) == {("cached_tokens", served): 63.0, ("requests", served): 7.0}


def test_the_start_of_the_server_is_read() -> None:
    assert read(exposition("vllm")).started_ns == 1_718_140_558_300_000_000
    assert read(exposition("tgi")).started_ns is None


def test_samples_that_cannot_be_true_are_left_out_and_counted() -> None:
    line = 'vllm:generation_tokens_total{engine="%d",model_name="m"} %s\n'
    values = ["5", "NaN", "-3", "+Inf", "7", "1e300"]
    text = "".join(line % item for item in enumerate(values)) + line % (0, "5")
    found = read(text)
    assert found.unusable == 5
    assert totals(found) == {("output_tokens", Served("m", "")): 12.0}


def test_a_model_s_name_is_one_that_a_record_takes() -> None:
    found = read('vllm:generation_tokens_total{model_name="a\\nb' + "x" * 5000 + '"} 1\n')
    (served,) = found.served
    assert served.model == "a b" + "x" * 253


def test_a_bucket_without_a_bound_is_left_out() -> None:
    found = read('vllm:generation_tokens_total 1\nvllm:time_to_first_token_seconds_bucket{le="a"} 1\n')
    assert (found.unusable, found.buckets) == (1, {})


@pytest.mark.parametrize(
    "garbage",
    [
        b'vllm:generation_tokens_total{model_name="',
        b"vllm:generation_tokens_total",
        b"vllm:generation_tokens_total{} many",
        b"vllm:generation_tokens_total{=} 1",
        b"vllm:generation_tokens_total}{ 1",
        b"vllm:generation_tokens_total \xff",
        b'vllm:generation_tokens_total{a="b" c="d"} 1',
    ],
)
def test_garbage_is_one_error(garbage: bytes) -> None:
    try:
        found = reading(parsed([garbage]))
    except ScrapeError as error:
        assert "the answer is not in Prometheus' text format" in str(error)
    else:  # the library reads it all the same: then only whole numbers come out
        assert found is None or all(math.isfinite(value) for value in found.counts.values())


@given(st.data())
def test_whatever_an_endpoint_answers_it_is_samples_or_one_error(data: st.DataObject) -> None:
    """Garbage, and real expositions with a piece replaced by garbage."""
    text = exposition(data.draw(st.sampled_from(["vllm", "tgi", "triton"]))).encode()
    start, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 40))
    junk = data.draw(st.binary(max_size=40) | st.text('{}",=\\ #\t1eN', max_size=40).map(str.encode))
    answer = text[:start] + junk + text[start + length :]
    with contextlib.suppress(ScrapeError):
        found = reading(parsed([line for line in answer.split(b"\n") if line.startswith(WANTED)]))
        assert found is None or all(0 <= value <= 1e18 for value in found.counts.values())


def test_exemplars_of_openmetrics_are_passed_over() -> None:
    text = 'vllm:generation_tokens_total{model_name="m"} 4 # {trace_id="abc"} 0.67 1520879607.789\n# EOF\n'
    assert totals(read(text)) == {("output_tokens", Served("m", "")): 4.0}


def test_names_without_a_prefix_are_an_engine_s_only_with_its_label() -> None:
    other = 'request_success_total{app="shop"} 70\nprompt_tokens_total 5\ngeneration_tokens_total 7\n'
    assert reading(parsed(other.encode().splitlines())) is None
    for name in ("tensorrt_llm_without_prefix", "nim"):
        assert totals(read(other + exposition(name))) == totals(read(exposition(name)))
    assert read(exposition("nim")).started_ns == 1_730_312_854_900_000_000


def test_what_is_no_engine_is_none() -> None:
    assert reading(parsed([b"process_start_time_seconds 1.7e9\n", b"python_info 1\n"])) is None


def test_the_names_that_docs_units_md_shows_are_those_that_are_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "units.md").read_text()
    section = page.partition("## Names")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line[:1] == "|"
    ]
    units = [cell.strip("`") for cell in rows[0][2:6]]
    shown = {row[0]: row[1:] for row in rows[2:]}
    assert shown == {
        engine.name: [
            " ".join(f"`{prefix}`" if prefix else "none" for prefix in engine.prefixes),
            *(
                " / ".join(" + ".join(f"`{name}`" for name in way) for way in engine.units.get(unit, ()))
                for unit in units
            ),
            " / ".join(f"`{label}`" for label in engine.model_labels),
        ]
        for engine in ENGINES
    }
    assert {unit for engine in ENGINES for unit in engine.units} == set(units)
    options = {name for engine in ENGINES for name in (*engine.alias_options, *engine.model_options)}
    variables = {name for engine in ENGINES for name in engine.model_variables}
    assert options | variables <= set(re.findall(r"`([\w-]+)`", section))


def test_no_name_is_in_two_engines() -> None:
    """Recognising an engine by its names needs that; of names without a prefix, by a label."""
    names = [
        f"{prefix}{name} {'' if prefix else engine.own_label}"
        for engine in ENGINES
        for prefix in engine.prefixes
        for name in _names(engine)
    ]
    assert len(names) == len(set(names))


def _names(engine: object) -> set[str]:
    units = getattr(engine, "units")  # noqa: B009
    return {name for ways in units.values() for way in ways for name in way}
