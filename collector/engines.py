"""The names of each serving engine's counters, and the parser of an engine's exposition.

An engine is an entry of ``ENGINES``: to support another one, add an entry. Names are without the prefix,
because SGLang changed its own from ``sglang:`` to ``sglang_``, and Ray puts another before vLLM's.
docs/units.md shows the table, with the source of each name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from wattribute.errors import WattributeError
from wattribute.records import clean, is_plausible

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

METRICS: Final = "/metrics"
"""Where most programs show their counters."""
Names = tuple[str, ...]


class ScrapeError(WattributeError):
    """An endpoint gives no counters; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Engine:
    """The names of one engine.

    ``units``: for each unit the ways to count it, the best first. A way is a tuple of counters that are
    added; it is used where the first of them is present. ``latencies``: for each latency its histograms in
    seconds, the best first. ``model_labels``: the first one present names the model. ``replica_labels``
    distinguish ranks that count the same tokens: the greatest value is used. ``own_label``: where a prefix
    is empty, only samples with this label are the engine's. ``path``: where its counters are, if not at
    /metrics. ``alias_options``, ``model_options`` and ``model_variables`` name the model where the counters
    do not: only their values are kept of a server's command line and environment. A process with ``program``
    in its command line shows counters only if it was started with ``switch``.
    """

    name: str
    prefixes: Names
    units: Mapping[str, tuple[Names, ...]]
    latencies: Mapping[str, Names] = field(default_factory=dict)
    model_labels: Names = ()
    version_label: str = ""
    own_label: str = ""
    replica_labels: Names = ()
    path: str = METRICS
    ports: tuple[int, ...] = ()
    alias_options: Names = ()
    model_options: Names = ()
    model_variables: Names = ()
    program: str = ""
    switch: str = ""


_OPENAI_LATENCIES: Final = {
    "ttft": ("time_to_first_token_seconds",),
    "itl": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
    "e2e": ("e2e_request_latency_seconds",),
    "queue": ("request_queue_time_seconds", "queue_time_seconds"),
}
ENGINES: Final = (
    Engine(
        name="vllm",
        prefixes=("vllm:", "ray_vllm:", "ray_vllm_"),
        units={
            "input_tokens": (("prompt_tokens_total",),),
            "output_tokens": (("generation_tokens_total",),),
            "cached_tokens": (
                ("prompt_tokens_cached_total",),
                ("prefix_cache_hits_total", "external_prefix_cache_hits_total"),
            ),
            "requests": (("request_success_total",), ("e2e_request_latency_seconds_count",)),
        },
        latencies=_OPENAI_LATENCIES,
        model_labels=("model_name", "model"),  # "model", and a version, as a backend of Triton
        version_label="version",
        ports=(8000,),
        alias_options=("--served-model-name",),
        model_options=("--model", "serve"),
    ),
    Engine(
        name="sglang",
        prefixes=("sglang:", "sglang_"),
        units={
            "input_tokens": (("prompt_tokens_total",),),
            "output_tokens": (("generation_tokens_total",),),
            "cached_tokens": (("cached_tokens_total",),),
            "requests": (("num_requests_total",),),
        },
        latencies=_OPENAI_LATENCIES,
        model_labels=("model_name",),
        replica_labels=("tp_rank", "pp_rank", "moe_ep_rank"),
        ports=(30000,),
        alias_options=("--served-model-name",),
        model_options=("--model-path", "--model"),
        program="sglang",
        switch="--enable-metrics",
    ),
    Engine(
        name="tensorrt-llm",
        # its own, Dynamo's of old, and none at all before 1.3
        prefixes=("trtllm_", "trtllm:", ""),
        units={
            "input_tokens": (("prompt_tokens_total",),),
            "output_tokens": (("generation_tokens_total",),),
            "cached_tokens": (("prompt_cached_tokens_total",),),
            "requests": (("request_success_total",),),
        },
        latencies=_OPENAI_LATENCIES,
        model_labels=("model_name",),
        own_label="engine_type",
        replica_labels=("rank",),
        path="/prometheus/metrics",
        ports=(8000,),
        alias_options=("--served_model_name", "--served-model-name"),
        model_options=("serve", "trtllm-serve"),
    ),
    Engine(
        name="nim",  # NVIDIA NIM 1; NIM 2 is vLLM or SGLang behind a proxy, and they are read themselves
        prefixes=("",),
        units={
            "input_tokens": (("prompt_tokens_total",),),
            "output_tokens": (("generation_tokens_total",),),
            "requests": (("request_success_total",),),
        },
        latencies=_OPENAI_LATENCIES,
        model_labels=("model_name",),
        own_label="model_name",
        path="/v1/metrics",
        ports=(8000,),
    ),
    Engine(
        name="tgi",
        prefixes=("tgi_",),
        units={
            "input_tokens": (("request_input_length_sum",),),
            "output_tokens": (("request_generated_tokens_sum",),),
            "requests": (("request_success",), ("request_success_total",)),
        },
        latencies={
            "itl": ("request_mean_time_per_token_duration",),
            "e2e": ("request_duration",),
            "queue": ("request_queue_duration",),
        },
        ports=(80, 3000, 8080),
        model_options=("--model-id",),
        model_variables=("MODEL_ID",),
    ),
    Engine(
        name="llama.cpp",
        prefixes=("llamacpp:",),
        units={
            # Its prompt tokens are only those that were not in the cache.
            "input_tokens": (("prompt_tokens_total", "prompt_tokens_cached_total"),),
            "output_tokens": (("tokens_predicted_total",),),
            "cached_tokens": (("prompt_tokens_cached_total",),),
        },
        ports=(8080,),
        alias_options=("--alias", "-a"),
        model_options=("--model", "-m", "--hf-repo", "-hf", "-hfr"),
        model_variables=("LLAMA_ARG_ALIAS", "LLAMA_ARG_MODEL", "LLAMA_ARG_HF_REPO"),
        program="llama-server",
        switch="--metrics",
    ),
    Engine(
        name="triton",
        prefixes=("nv_inference_",),
        units={"requests": (("request_success",),)},
        model_labels=("model",),
        version_label="version",
        ports=(8002,),
    ),
)
_UNNAMED: Final = "undefined"  # what TensorRT-LLM's server calls every model; its command line names it
_STARTED: Final = "process_start_time_seconds"
_BUCKET: Final = "_bucket"
WANTED: Final = tuple(
    sorted(
        {
            f"{prefix}{name}".encode()
            for engine in ENGINES
            for prefix in engine.prefixes
            for name in chain(
                (name for ways in engine.units.values() for way in ways for name in way),
                (f"{name}{_BUCKET}" for names in engine.latencies.values() for name in names),
            )
        }
        | {_STARTED.encode()}
    )
)
"""The beginnings of the lines that are parsed; most lines are not."""


class Served(NamedTuple):
    """The model that counters belong to; '' where they do not name it."""

    model: str
    model_version: str


Series = tuple[str, Served, tuple[str, ...]]
"""A unit or latency, its model, and its metric with all labels except those of replicas."""


@dataclass(slots=True)
class Reading:
    """The counters of an exposition. ``buckets``: cumulative counts by series and upper bound, in seconds.
    ``started_ns``: when the server began, as it reports. ``unusable``: the number of samples that are NaN,
    negative, implausibly large or there twice."""

    engine: Engine
    counts: dict[Series, float] = field(default_factory=dict)
    buckets: dict[tuple[Series, float], float] = field(default_factory=dict)
    started_ns: int | None = None
    unusable: int = 0

    @property
    def served(self) -> set[Served]:
        """The models that it counts for."""
        return {series[1] for series in self.counts}


def parsed(lines: Iterable[bytes]) -> list[Sample]:
    """The samples in lines of Prometheus' or OpenMetrics' text format. Raises ScrapeError."""
    from prometheus_client import parser  # noqa: PLC0415 - only where there is something to read

    try:
        text = b"\n".join(line.partition(b" # {")[0].rstrip() for line in lines).decode()  # no exemplars
        families = parser.text_string_to_metric_families(text)
        return [sample for family in families for sample in family.samples]
    except (ValueError, LookupError, AttributeError, TypeError) as problem:  # whatever garbage may raise
        what = f"the answer is not in Prometheus' text format ({type(problem).__name__})"
        raise ScrapeError(what) from None


def reading(samples: Sequence[Sample]) -> Reading | None:
    """The reading of the engine that these samples belong to; None if they belong to no known engine."""
    all_names = {sample.name for sample in samples}
    for engine in ENGINES:
        for prefix in engine.prefixes:
            own, names = samples, all_names
            if not prefix:
                own = [item for item in samples if engine.own_label in item.labels or item.name == _STARTED]
                names = {sample.name for sample in own}
            ways = {
                unit: way
                for unit, choices in engine.units.items()
                if (way := next((way for way in choices if f"{prefix}{way[0]}" in names), None))
            }
            if ways:
                return _read(engine, prefix, ways, own, names)
    return None


def _read(
    engine: Engine, prefix: str, ways: Mapping[str, Names], samples: Sequence[Sample], names: set[str]
) -> Reading:
    units: dict[str, list[str]] = {}
    for unit, way in ways.items():
        for name in way:
            units.setdefault(f"{prefix}{name}", []).append(unit)
    latencies = {
        f"{prefix}{chosen}{_BUCKET}": latency
        for latency, choices in engine.latencies.items()
        if (chosen := next((name for name in choices if f"{prefix}{name}{_BUCKET}" in names), None))
    }
    found = Reading(engine)
    seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    for sample in samples:
        if sample.name == _STARTED and 0 < sample.value < 4e9:
            found.started_ns = round(sample.value * 1e9)
        elif sample.name in units or sample.name in latencies:
            line = (sample.name, tuple(sorted(sample.labels.items())))
            if line in seen or not is_plausible("quantity", sample.value):  # NaN is not plausible either
                found.unusable += 1
                continue
            seen.add(line)
            for unit in units.get(sample.name, ()):
                series = _series(engine, unit, sample)
                found.counts[series] = max(found.counts.get(series, 0.0), sample.value)
            if sample.name in latencies:
                _add_bucket(found, _series(engine, latencies[sample.name], sample), sample)
    return found


def _series(engine: Engine, what: str, sample: Sample) -> Series:
    model = next((sample.labels[label] for label in engine.model_labels if label in sample.labels), "")
    model = "" if model == _UNNAMED else clean(model)
    served = Served(model, clean(sample.labels.get(engine.version_label, "")))
    rest = (
        part
        for item in sorted(sample.labels.items())
        if item[0] not in engine.replica_labels and item[0] != "le"
        for part in item
    )
    return what, served, (sample.name, *rest)


def _add_bucket(found: Reading, series: Series, sample: Sample) -> None:
    try:
        bound = float(sample.labels.get("le", ""))
    except ValueError:
        bound = math.nan
    if math.isnan(bound):
        found.unusable += 1
    else:
        found.buckets[series, bound] = max(found.buckets.get((series, bound), 0.0), sample.value)
