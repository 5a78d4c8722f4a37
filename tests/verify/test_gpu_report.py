"""What `wattribute verify --trace` tells of a recording of three loads on one GPU: here of a simulated one,
of which the truth is known."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.survival.processes import ran
from wattribute.collector.nvml import Nvml, load_pynvml
from wattribute.collector.sampler import Sampler
from wattribute.collector.scenario import GpuPlan, HostPlan, Scenario, TenantPlan
from wattribute.collector.simulate import SimulatedHost, VirtualTime
from wattribute.collector.trace import TraceWriter
from wattribute.collector.workers import InlineWorker
from wattribute.errors import WattributeError
from wattribute.records import TRACE_VERSION, Device, Gap, Process, Record, Run, Trace, Unit, Workload
from wattribute.verify.gpu_plan import DUTY, LOADS, SECONDS, UNIT, Stretch, plan
from wattribute.verify.gpu_report import RUN, report, shapley
from wattribute.verify.recording import START_NS

WATTS = {"matmul": 6.2, "copy": 3.1, "decode": 1.5}  # per percent of SM time
S = 1_000_000_000
Change = Callable[[list[Record]], list[Record]]
"""Of what was recorded."""


@dataclass
class Simulated:
    """A recording, and what each load truly used above idle while they were switched, in µJ."""

    host: str
    boot_id: str
    records: list[Record] = field(default_factory=list)
    active_uj: dict[str, int] = field(default_factory=dict)


def works(stretches: list[Stretch], duty: float) -> tuple[float, ...]:
    """When a tenant works: what takes a part of each 0.1 s is that part of the GPU all along."""
    edges: list[float] = []
    for stretch in stretches:
        spans = [(stretch.from_s, stretch.to_s)]
        if stretch.on_s != duty * stretch.period_s:
            count = int((stretch.to_s - stretch.from_s) / stretch.period_s)
            starts = [stretch.from_s + place * stretch.period_s for place in range(count)]
            spans = [(start, start + stretch.on_s) for start in starts]
        for begin, end in spans:
            if edges and begin == edges[-1]:
                edges[-1] = end
            else:
                edges += [begin, end]
    return tuple(edges)


def simulated(contention_ratio: float) -> Simulated:
    whole = plan()
    begin_s = round(whole.nobody_s)
    begin_ns, end_s = START_NS + begin_s * S, begin_s + whole.steps[-1].to_s
    tenants = tuple(
        TenantPlan(
            name=load, model=load, gpus=(0,), start_s=float(begin_s), pattern="timetable",
            works_s=works(list(whole.stretches[load]), DUTY[load]), sm_percent=100 * DUTY[load],
            watts_per_sm_percent=WATTS[load], units={UNIT: 1000.0},
        )
        for load in LOADS
    )  # fmt: skip
    gpu = GpuPlan(leakage_w_per_c=0.3, contention_ratio=contention_ratio)
    clock = VirtualTime(START_NS)
    host = SimulatedHost(
        Scenario(host=HostPlan(name="h"), gpus=(gpu,), tenants=tenants, qualities=()), clock, 1, load_pynvml()
    )
    found = Simulated(host.name, host.processes.boot_id)
    found.records.append(Trace(version=TRACE_VERSION, host=found.host, boot_id=found.boot_id))
    (switched,) = whole.steps_of("switched")
    marks = [begin_ns + round(switched.from_s * S), begin_ns + round(switched.to_s * S)]
    truths: list[dict[int, int]] = []

    def outcomes(now_ns: int) -> list[Record]:
        if len(truths) < len(marks) and now_ns >= marks[len(truths)]:
            (of,) = host.truth(marks[len(truths)])["gpus"]
            truths.append({process["pid"]: process["active_uj"] for process in of["processes"]})
        return list(host.outcomes(now_ns))

    nvml = Nvml(host.nvml)
    found.records.append(Run(t=begin_ns, run=RUN, event="start", steps=SECONDS))
    Sampler(
        nvml, host.processes, host.clock, host.host, found.records.extend, fast_hz=20.0, outcomes=outcomes,
        start_worker=InlineWorker,
    ).run(threading.Event(), end_s + 3)  # fmt: skip
    nvml.close()
    found.records.append(Run(t=begin_ns + round(end_s * S), run=RUN, event="finish", steps=SECONDS))
    found.active_uj = {
        load: truths[1][pid] - truths[0][pid] for load, pid in zip(LOADS, sorted(truths[0]), strict=True)
    }
    return found


@pytest.fixture(scope="module")
def additive() -> Simulated:
    return simulated(0.0)


@pytest.fixture(scope="module")
def contended() -> Simulated:
    return simulated(0.4)


@pytest.fixture
def trace(contended: Simulated, tmp_path: Path) -> Path:
    return written(contended, contended.records, tmp_path)


def written(of: Simulated, records: list[Record], folder: Path) -> Path:
    path = folder / "verify-gpu.ndjson.gz"
    with TraceWriter(path, of.host, of.boot_id) as writer:
        writer.write(record for record in records if not isinstance(record, Trace))
    return path


def test_what_each_adds_in_the_mean_of_all_orders() -> None:
    """By hand: a glove game in which a left glove and either of two right ones are worth 6."""
    pairs = {"", "a", "b", "c", "bc"}
    sets = ("", "a", "b", "c", "ab", "ac", "bc", "abc")
    value = {frozenset(players): 0.0 if players in pairs else 6.0 for players in sets}
    assert shapley(value) == pytest.approx({"a": 4.0, "b": 1.0, "c": 1.0})


@pytest.mark.parametrize(("load", "within"), [("additive", 0.02), ("contended", 0.03)])
def test_what_the_mixes_tell_is_what_each_truly_used(
    load: str, within: float, request: pytest.FixtureRequest
) -> None:
    of: Simulated = request.getfixturevalue(load)
    """But for what heat draws (0.3 W a degree): the mixes charge it to whom it comes of."""
    found = report(of.records)
    true_j = {name: uj / 1e6 for name, uj in of.active_uj.items()}
    assert found.switched.used_j == pytest.approx(true_j, rel=within)
    assert found.switched.found_j == pytest.approx(true_j, rel=0.08)
    assert all(check.is_met for check in found.checks()), found.checks()
    errors = {name: of.error_ratio for name, of in found.switched.scores.items()}
    assert errors["wattribute"] < errors["counter ratio"] / 5


def test_sensors_and_levels(additive: Simulated) -> None:
    """Of the simulation: a new reading every 100 ms, of which the average is that of the second before."""
    found = report(additive.records)
    assert {name: of.period_ms for name, of in found.signals.items()} == pytest.approx(
        {"counter": 100, "power": 100, "average": 100}, abs=11
    )
    lags_ms = {name: of.lag_ms or 0.0 for name, of in found.signals.items()}
    assert 400 <= lags_ms["average"] - lags_ms["power"] <= 600
    assert found.nobody_w == pytest.approx(77.7, abs=4)
    assert found.contexts_w - found.nobody_w == pytest.approx(38, abs=4)
    alone = next(mix.watts for mix in found.mixes if mix.loads == ("matmul",))
    assert found.cold_w < found.warm_w == pytest.approx(alone, abs=5)
    assert found.power_ratio == pytest.approx(1, abs=0.005)


def test_work_that_differs_between_mixes_is_found(contended: Simulated) -> None:
    mix = next(step for step in plan().steps_of("mix") if step.loads == ("copy",))
    begin_ns = next(r.t for r in contended.records if isinstance(r, Run))
    records = [
        replace(r, quantity=r.quantity * 0.8)
        if isinstance(r, Unit) and mix.from_s * S < r.t - begin_ns <= mix.to_s * S
        else r
        for r in contended.records
    ]
    found = report(records)
    missed = [check.what for check in found.checks() if not check.is_met]
    assert "work per second differs between mixes by" in missed
    assert found.uneven_ratio == pytest.approx(0.15, abs=0.01)  # of four mixes one has 0.8: 0.8 / 0.95


def test_the_command_tells_of_a_recording(trace: Path) -> None:
    done = ran("verify", "--trace", str(trace))
    assert "NVIDIA H200, loaded for 440 s" in done.stdout
    for line in ("wattribute, from nothing", "matmul + copy + decode", "Kepler's form", "MISSED"):
        assert (line in done.stdout) == (line != "MISSED")
    rows = json.loads(ran("verify", "--trace", str(trace), "--format", "json").stdout)
    assert [row["figure"] for row in rows if row["what"] == "check" and row["figure"] > row["most"]] == []


def without(kind: type[Record], from_s: float = 0, to_s: float = 1e9) -> Change:
    """Leaves out what was told in those seconds of the plan."""

    def change(of: list[Record]) -> list[Record]:
        begin_ns = next(r.t for r in of if isinstance(r, Run))
        return [r for r in of if not (isinstance(r, kind) and from_s <= (r.t - begin_ns) / S < to_s)]

    return change


def every(kind: type[Record], **fields: Any) -> Change:
    """Tells something else in all of a kind."""
    return lambda of: [replace(r, **fields) if isinstance(r, kind) else r for r in of]


def counter_reset(of: list[Record]) -> list[Record]:
    begin_ns = next(r.t for r in of if isinstance(r, Run))
    return [replace(r, energy_mj=0) if isinstance(r, Device) and r.t > begin_ns + 200 * S else r for r in of]


def other_process(of: list[Record]) -> list[Record]:
    return [*of, next(replace(r, pid=4711) for r in of if isinstance(r, Process))]


def gap(of: list[Record]) -> list[Record]:
    begin_ns = next(r.t for r in of if isinstance(r, Run))
    t = begin_ns + 90 * S
    return [*of, Gap(t=t, from_ns=t - S // 10, to_ns=t, reason="the wall clock was set by +0.600 s")]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (without(Run), "not a whole recording of 'wattribute verify --gpu'"),
        (lambda of: [*of, *of], "not a whole recording"),
        (every(Run, steps=0), "not a whole recording"),
        (every(Run, steps=10**9), "the GPU was not read"),
        (without(Workload), "does not say which process is matmul"),
        (without(Process, -60), "does not say when matmul worked"),
        (without(Process, 320, 330), "nothing was read of matmul for more than 5 s"),
        (every(Process, sm_percent=None), "does not say when matmul worked"),
        (without(Device, -60), "has no energy counter"),
        (without(Device, 330, 340), "the GPU was not read for more than 1 s"),
        (without(Device, 380), "the GPU was not read for more than 1 s"),
        (every(Device, energy_mj=7), "a mix by itself varies by 0.0 W"),
        (without(Unit), "matmul did nothing in the mixes"),
        (counter_reset, "the energy counter went back"),
        (gap, "readings are missing: the wall clock was set by +0.600 s"),
        (other_process, "other processes were on the GPU: 4711"),
    ],
)
def test_what_tells_nothing_says_why(contended: Simulated, change: Change, line: str) -> None:
    with pytest.raises(WattributeError, match=re.escape(line)):
        report(change(contended.records))


@pytest.mark.parametrize("seed", [5, 18, 1, 2])  # in 2 of 20 each seems to draw something: in 5 and 18
def test_loads_that_draw_no_more_than_chance_tell_nothing(contended: Simulated, seed: int) -> None:
    """300 W whatever they do, of a counter that is read up to 0.1 s late: the mixes differ by some 0.1 W."""
    drawn = random.Random(seed)
    begin_ns = contended.records[1].t
    knots: dict[int, int] = {}

    def constant(r: Record) -> Record:
        if not isinstance(r, Device):
            return r
        tenth = (r.t - begin_ns) // (S // 10)
        late_s = knots.setdefault(tenth, drawn.randrange(100))
        return replace(r, energy_mj=1_000_000 + tenth * 30_000 + 300 * late_s)

    with pytest.raises(WattributeError, match="the mixes do not show what each load draws"):
        report([constant(r) for r in contended.records])


def test_a_gpu_without_power_readings_is_checked_by_its_counter_alone(contended: Simulated) -> None:
    found = report(every(Device, power_mw=None, power_average_mw=None)(contended.records))
    assert found.power_ratio is None
    assert set(found.signals) == {"counter"}
    assert not any("power" in check.what for check in found.checks())


def test_kepler_asks_for_power_as_it_is_where_there_is_no_average(contended: Simulated) -> None:
    """100 % off, it would make any other method look good."""
    whole, without_average = (
        report(records).switched.scores["Kepler's form"].error_ratio
        for records in (contended.records, every(Device, power_average_mw=None)(contended.records))
    )
    assert without_average == pytest.approx(whole, abs=0.1)


def test_the_command_says_in_a_line_what_tells_nothing(contended: Simulated, tmp_path: Path) -> None:
    done = ran("verify", "--trace", str(written(contended, gap(contended.records), tmp_path)), status=1)
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "wattribute: the recording cannot be evaluated: readings are missing: the wall clock"
    )
