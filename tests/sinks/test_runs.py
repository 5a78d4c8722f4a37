"""What a run cost, what of it was in vain and where it will end: figures worked out by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.sinks.conftest import AsColumns
from wattribute.commands.runs import end_notes
from wattribute.errors import UsageError
from wattribute.sinks.clickhouse import ClickHouseSink
from wattribute.sinks.costs import attempt_rows, run_places, run_rows, run_teams
from wattribute.sinks.earlier import earlier_attempts
from wattribute.sinks.prices import Price, add_prices

SECOND_NS = 10**9
USD_PER_S = 1e-3  # at 3.6 USD per GPU-hour


def used(start_ms: int, from_s: int, to_s: int, **more: Any) -> list[dict[str, Any]]:
    """A window a second of a process that has the GPU alone: 100 J and 1 s each."""
    row = {"pid": 1, "run": "r", "model": "m", "model_version": "v1", "active_energy_uj": 100_000_000}
    row |= {f"gpu_time_{policy}_ns": SECOND_NS for policy in ("equal", "memory", "active")}
    row |= {"active_time_ns": SECOND_NS} | more
    return [row | {"window_start": start_ms + 1000 * second} for second in range(from_s, to_s)]


def event(start_ms: int, second: float, name: str, attempt: int, step: int | None) -> dict[str, Any]:
    t = start_ms * 1_000_000 + int(second * SECOND_NS)
    return {"run": "r", "attempt": attempt, "t": t, "event": name, "step": step, "steps": 40}


def steps(start_ms: int, second: int, attempt: int, quantity: float, **more: Any) -> dict[str, Any]:
    """So many steps in the second before."""
    t = start_ms * 1_000_000 + second * SECOND_NS
    row = {"t": t, "period_ns": SECOND_NS, "run": "r", "attempt": attempt, "unit": "steps", "authority": 4}
    return row | {"quantity": quantity, "event_id": f"{attempt} {second}"} | more


def test_a_run_of_many_gpus_is_not_cut_to_64_bits(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """9.2e18 ns are 2,562,047 GPU hours: 16,384 GPUs have them within a week."""
    hours, each = 1_500_000, {"active_energy_uj": 5 * 10**18}
    each |= {f"gpu_time_{policy}_ns": hours * 3600 * SECOND_NS for policy in ("equal", "memory", "active")}
    gpus = [used(start_ms, 0, 1, gpu=f"G{n}", **each)[0] for n in range(2)]
    priced.write_attribution(as_columns(gpus))
    (row,) = run_rows(priced.store, None, None, "equal")
    assert (row["gpu_hours"], row["energy_j"]) == (2 * hours, 10**13)
    assert row["cost_usd"] == pytest.approx(2 * hours * 3600 * USD_PER_S)


def test_a_run_that_failed_and_goes_on(priced: ClickHouseSink, as_columns: AsColumns, start_ms: int) -> None:
    """Ten seconds to a failure at step 9, of which a checkpoint kept six steps; ten seconds of pause; then
    ten seconds, of which two and a half pass before the seventh step, two a second from then."""
    first, second = used(start_ms, 0, 10, attempt=0), used(start_ms, 20, 30, attempt=1)
    priced.write_attribution(as_columns([*first, *second]))
    events = [
        event(start_ms, 0, "start", 0, 0),
        event(start_ms, 3, "checkpoint", 0, 3),
        event(start_ms, 6, "checkpoint", 0, 6),
        event(start_ms, 10, "fail", 0, 9),
        event(start_ms, 20, "start", 1, 6),
    ]
    priced.write_rows("run_event", events)
    done = [steps(start_ms, 23, 1, 2.0), *(steps(start_ms, second, 1, 2.0) for second in range(24, 31))]
    priced.write_rows("unit", done)
    # the first of two steps in (22, 23] ends at 22.5, or with the other at 23
    wasted_s, wasted_most_s = (10 - 6) + 2.5, (10 - 6) + 3

    (row,) = run_rows(priced.store, None, None, "equal")

    assert (row["run"], row["model"], row["model_version"]) == ("r", "m", "v1")
    assert (row["attempts"], row["outcome"]) == (2, "running")
    assert row["energy_j"] == 2000
    assert row["gpu_hours"] == pytest.approx(20 / 3600)
    assert row["cost_usd"] == pytest.approx(20 * USD_PER_S)
    assert row["cost_usd_per_hour"] == pytest.approx(20 * USD_PER_S * 3600 / 30)
    assert row["wasted_usd"] == pytest.approx(wasted_s * USD_PER_S)
    assert row["wasted_most_usd"] == pytest.approx(wasted_most_s * USD_PER_S)
    assert (row["position"], row["target_position"]) == (6 + 16, 40)
    assert row["cost_usd_per_step"] == pytest.approx(20 * USD_PER_S / 22)
    assert row["j_per_step"] == pytest.approx(2000 / 22)
    per_step_s = (10 - 2.5) / 15  # of those after the first
    assert row["projected_cost_usd"] == pytest.approx((20 + 18 * per_step_s) * USD_PER_S)
    end = datetime.fromtimestamp(start_ms / 1000 + 30, UTC) + timedelta(seconds=18 * per_step_s)
    assert abs(row["projected_end"] - end) < timedelta(milliseconds=2)


def test_of_the_time_since_the_last_step_no_more_counts_than_what_is_told_next_may_take(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Two steps are told each second, until the tenth; then it hangs for five seconds."""
    priced.write_rows("run_event", [event(start_ms, 0, "start", 0, 0)])
    priced.write_rows("unit", [steps(start_ms, second, 0, 2.0) for second in range(1, 11)])
    for until_s, since_s in ((10, 0), (15, 1)):
        priced.write_attribution(as_columns(used(start_ms, 0, until_s)))

        (row,) = run_rows(priced.store, None, None, "equal")

        assert (row["position"], row["target_position"]) == (20, 40)
        rest_s = 20 * 0.5 - since_s
        end = datetime.fromtimestamp(start_ms / 1000 + until_s + rest_s, UTC)
        assert abs(row["projected_end"] - end) < timedelta(milliseconds=2)
        # each second costs what the seconds from its first step on did, hanging or not
        assert row["projected_cost_usd"] == pytest.approx((until_s + rest_s) * USD_PER_S)


def test_who_comes_after_one_that_never_had_a_gpu_does_nothing_again(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Of its image that could not be pulled, say. Steps are told at the end alone."""
    priced.write_attribution(as_columns(used(start_ms, 20, 30, attempt=1)))
    events = [
        event(start_ms, 0, "start", 0, None),
        event(start_ms, 10, "fail", 0, None),
        event(start_ms, 20, "start", 1, None),
        event(start_ms, 30, "finish", 1, 40),
    ]
    priced.write_rows("run_event", events)

    (row,) = run_rows(priced.store, None, None, "equal")

    assert row["wasted_usd"] == row["wasted_most_usd"] == 0
    assert row["cost_usd_per_step"] == pytest.approx(10 * USD_PER_S / 40)


def test_an_attempt_that_has_no_gpu_yet_is_waiting(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Of the first, which failed, is what the run cost; the second has begun."""
    priced.write_attribution(as_columns(used(start_ms, 0, 10, attempt=0)))
    told = [event(start_ms, 0, "start", 0, 0), event(start_ms, 10, "fail", 0, 9)]
    outcomes, expected = [], ["failed", "waiting", "running", "failed"]
    for more in (None, "start", "checkpoint", "fail"):
        told += [] if more is None else [event(start_ms, 20 + len(told), more, 1, 9)]
        priced.write_rows("run_event", told)
        (row,) = run_rows(priced.store, None, None, "equal")
        outcomes.append(row["outcome"])
        assert (row["attempts"], row["projected_end"]) == (1, None)
        assert row["cost_usd"] == pytest.approx(10 * USD_PER_S)
    assert outcomes == expected
    (row,) = run_rows(
        priced.store, None, f"{datetime.fromtimestamp(start_ms / 1000 + 15, UTC):%F %T}", "equal"
    )
    assert row["outcome"] == "failed"


def test_where_nobody_says_what_was_resumed_from_the_waste_is_a_span(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    first, second = used(start_ms, 0, 10, attempt=0), used(start_ms, 20, 30, attempt=1)
    priced.write_attribution(as_columns([*first, *second]))
    events = [
        event(start_ms, 0, "start", 0, 0),
        event(start_ms, 6, "checkpoint", 0, 6),
        event(start_ms, 10, "fail", 0, 9),
        event(start_ms, 20, "start", 1, None),
        event(start_ms, 21, "checkpoint", 1, 1),
    ]
    priced.write_rows("run_event", events)

    (row,) = run_rows(priced.store, None, None, "equal")

    assert row["wasted_usd"] == pytest.approx((4 + 1) * USD_PER_S)
    assert row["wasted_most_usd"] == pytest.approx((10 + 1) * USD_PER_S)
    failed, retry = attempt_rows(priced.store, "r", "equal")
    assert (failed["steps"], retry["steps"]) == (9, None)  # from where it went on is not known


def test_steps_whose_energy_is_not_there_yet_do_not_count(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Two steps a second; the store has ten seconds of energy, and eleven and a half of steps."""
    priced.write_attribution(as_columns(used(start_ms, 0, 10)))
    told = [event(start_ms, 0, "start", 0, 0), event(start_ms, 11, "checkpoint", 0, 22)]
    priced.write_rows("run_event", told)
    half = {"t": start_ms * 1_000_000 + int(10.5 * SECOND_NS), "event_id": "half"}
    priced.write_rows(
        "unit", [*(steps(start_ms, at, 0, 2.0) for at in range(1, 11)), steps(start_ms, 11, 0, 2.0)]
    )
    priced.write_rows("unit", [steps(start_ms, 10, 0, 2.0, **half)])

    (row,) = run_rows(priced.store, None, None, "equal")

    # of those in (9.5, 10.5] one half, of those from 10 on none
    assert row["position"] == 10 * 2 + 1
    assert row["cost_usd_per_step"] == pytest.approx(10 * USD_PER_S / 21)
    # the first came at 0.5 s, the other 20 until 10 s
    assert row["projected_cost_usd"] == pytest.approx((10 + 19 * 9.5 / 20) * USD_PER_S)

    priced.write_rows("run_event", [event(start_ms, 11.5, "finish", 0, 24)])
    (row,) = run_rows(priced.store, None, None, "equal")
    assert row["position"] == 24  # it has ended: there will be no energy of it any more


def test_between_two_checkpoints_counted_steps_tell_what_was_kept(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Ten steps in ten seconds; nobody said what was saved, and the next attempt goes on from the sixth."""
    priced.write_attribution(as_columns([*used(start_ms, 0, 10), *used(start_ms, 20, 22, attempt=1)]))
    told = [event(start_ms, 0, "start", 0, 0), event(start_ms, 10, "fail", 0, 10)]
    priced.write_rows("run_event", [*told, event(start_ms, 20, "start", 1, 6)])
    done = [steps(start_ms, at, 0, 1.0) for at in range(1, 11)]
    priced.write_rows("unit", [*done, steps(start_ms, 21, 1, 1.0), steps(start_ms, 22, 1, 1.0)])

    (row,) = run_rows(priced.store, None, None, "equal")

    assert row["wasted_usd"] == pytest.approx((4 + 1) * USD_PER_S)
    assert row["wasted_most_usd"] == pytest.approx((10 + 1) * USD_PER_S)  # it is not known for certain


def test_what_is_lost_of_a_window_that_an_attempt_was_in_for_a_part(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """From 0.25 s to 1.5 s, all of it lost: of the first window all that it had."""
    parts = [
        used(start_ms, 0, 1, gpu_time_equal_ns=750_000_000),
        used(start_ms, 1, 2, gpu_time_equal_ns=500_000_000),
    ]
    priced.write_attribution(as_columns([row for part in parts for row in part]))
    priced.write_rows("run_event", [event(start_ms, 0.25, "start", 0, 0), event(start_ms, 1.5, "fail", 0, 0)])

    (row,) = run_rows(priced.store, None, None, "equal")

    assert row["cost_usd"] == pytest.approx(1.25 * USD_PER_S)
    assert (row["wasted_usd"], row["wasted_most_usd"]) == (pytest.approx(row["cost_usd"]),) * 2


def test_a_retry_without_a_step_yet_and_what_is_reserved_are_in_vain(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    rows = [
        *used(start_ms, 0, 10, attempt=0),
        *used(start_ms, 10, 13, attempt=0, account="reserved", pid=0, active_energy_uj=0),
        *used(start_ms, 13, 15, attempt=1),
    ]
    priced.write_attribution(as_columns(rows))
    events = [
        event(start_ms, 0, "start", 0, 0),
        event(start_ms, 10, "checkpoint", 0, 10),
        event(start_ms, 13, "start", 1, 10),
    ]
    priced.write_rows("run_event", events)

    (row,) = run_rows(priced.store, None, None, "equal")

    assert row["wasted_usd"] == pytest.approx((3 + 2) * USD_PER_S)
    assert row["cost_usd"] == pytest.approx(15 * USD_PER_S)
    assert row["projected_cost_usd"] is None  # nobody knows what a step costs after the retry


# Of each run: its attempts as (from, to) seconds, a second each; its events as (second, event, attempt,
# step); what was in vain of each attempt in seconds, at least and at most.
Told = tuple[list[tuple[int, int]], list[tuple[float, str, int, int | None]], list[tuple[float, float]]]
RETRIES: dict[str, Told] = {
    "told of no step before its end": (
        [(0, 10), (20, 54)],
        [
            (0, "start", 0, 0),
            (6, "checkpoint", 0, 6),
            (10, "fail", 0, 9),
            (20, "start", 1, 6),
            (54, "finish", 1, 40),
        ],
        [(4, 4), (1, 34)],  # 34 steps in 34 s: the first after one, or all at its end
    ),
    "told of no step, and finished": (
        [(0, 10), (20, 30)],
        [
            (0, "start", 0, 0),
            (6, "checkpoint", 0, 6),
            (10, "fail", 0, 9),
            (20, "start", 1, 6),
            (30, "finish", 1, None),
        ],
        [(4, 4), (0, 10)],  # the first of its steps at once, or with its end
    ),
    "steps are never told, as without --progress": (
        [(0, 10), (20, 30)],
        [(0, "start", 0, 0), (10, "fail", 0, None), (20, "start", 1, None), (30, "finish", 1, None)],
        [(0, 10), (0, 10)],
    ),
    "told of no step, but the next goes on from one": (
        [(0, 10), (20, 30), (30, 40)],
        [
            (0, "start", 0, 0),
            (6, "checkpoint", 0, 6),
            (10, "fail", 0, 9),
            (20, "start", 1, 6),
            (30, "start", 2, 10),
            (31, "checkpoint", 2, 11),
            (40, "finish", 2, 20),
        ],
        [(4, 4), (10 / 4, 10), (1, 1)],
    ),
    "the third goes on from what the first made": (
        [(0, 10), (20, 23), (30, 40)],
        [
            (0, "start", 0, 0),
            (5, "checkpoint", 0, 5),
            (9, "checkpoint", 0, 9),
            (10, "fail", 0, 10),
            (20, "start", 1, 5),
            (23, "fail", 1, 6),
            (30, "start", 2, 9),
            (31, "checkpoint", 2, 10),
            (40, "finish", 2, 19),
        ],
        [(1, 1), (3, 3), (1, 1)],
    ),
    "the second from the first, the fourth from the second": (
        [(0, 10), (10, 20), (20, 23), (30, 40)],
        [
            (0, "start", 0, 0),
            (8, "checkpoint", 0, 8),
            (10, "start", 1, 8),
            (12, "checkpoint", 1, 9),
            (19, "checkpoint", 1, 16),
            (20, "fail", 1, 17),
            (20, "start", 2, 2),
            (22, "checkpoint", 2, 3),
            (23, "fail", 2, 3),
            (30, "start", 3, 16),
            (31, "checkpoint", 3, 17),
            (40, "finish", 3, 26),
        ],
        [(2, 2), (2 + 1, 2 + 1), (3, 3), (1, 1)],
    ),
    "the third goes back to before what the second went on from": (
        [(0, 20), (20, 30), (30, 40)],
        [
            (0, "start", 0, 0),
            (5, "checkpoint", 0, 5),
            (20, "checkpoint", 0, 20),
            (20, "start", 1, 20),
            (30, "checkpoint", 1, 30),
            (30, "start", 2, 5),
            (31, "checkpoint", 2, 6),
            (40, "finish", 2, 15),
        ],
        [(15, 15), (10, 10), (1, 1)],
    ),
    "one that came to nothing does not hide what was gone on from": (
        [(0, 10), (20, 23), (30, 40)],
        [
            (0, "start", 0, 0),
            (6, "checkpoint", 0, 6),
            (10, "fail", 0, 9),
            (20, "start", 1, None),
            (23, "fail", 1, None),
            (30, "start", 2, 6),
            (31, "checkpoint", 2, 7),
            (40, "finish", 2, 16),
        ],
        [(4, 4), (3, 3), (1, 1)],
    ),
    "from its first step anew: what was before the start was told is lost too": (
        [(0, 10), (10, 20)],
        [
            (5, "start", 0, 0),
            (9, "checkpoint", 0, 4),
            (10, "start", 1, 0),
            (11, "checkpoint", 1, 1),
            (20, "finish", 1, 10),
        ],
        [(10, 10), (1, 1)],
    ),
    "from between two checkpoints": (
        [(0, 12), (20, 30)],
        [
            (0, "start", 0, 0),
            (3, "checkpoint", 0, 3),
            (9, "checkpoint", 0, 9),
            (12, "fail", 0, 12),
            (20, "start", 1, 6),
            (21, "checkpoint", 1, 7),
            (30, "finish", 1, 16),
        ],
        [(6, 9), (1, 1)],
    ),
    "lost before its retry had come to a step": (
        [(0, 10), (10, 20), (20, 30)],
        [
            (0, "start", 0, 0),
            (9, "checkpoint", 0, 9),
            (10, "start", 1, 9),
            (18, "checkpoint", 1, 10),
            (20, "start", 2, 9),
            (21, "checkpoint", 2, 10),
            (30, "finish", 2, 19),
        ],
        [(1, 1), (10, 10), (1, 1)],
    ),
}


def test_what_of_each_retry_was_in_vain(priced: ClickHouseSink, as_columns: AsColumns, start_ms: int) -> None:
    rows, events = [], []
    for pid, (run, (attempts, told, _)) in enumerate(RETRIES.items(), 1):
        for attempt, (begin, end) in enumerate(attempts):
            rows += used(start_ms, begin, end, attempt=attempt, run=run, pid=pid)
        events += [event(start_ms, *of) | {"run": run} for of in told]
    priced.write_attribution(as_columns(rows))
    priced.write_rows("run_event", events)

    found = priced.store.query(
        "SELECT run, attempt, wasted_usd, wasted_most_usd FROM attempt_cost("
        "policy = 'equal', since = '1970-01-01', until = '2200-01-01') ORDER BY run, attempt"
    ).rows

    wasted: dict[str, list[tuple[float, float]]] = {run: [] for run in RETRIES}
    for run, _, least, most in found:
        wasted[run].append((round(least / USD_PER_S, 6), round(most / USD_PER_S, 6)))
    assert wasted == {run: of[2] for run, of in RETRIES.items()}
    for row in run_rows(priced.store, None, None, "equal"):
        assert 0 <= row["wasted_usd"] <= row["wasted_most_usd"] <= row["cost_usd"], row


@pytest.mark.parametrize("end", ["finish", "fail"])
def test_one_attempt(priced: ClickHouseSink, as_columns: AsColumns, start_ms: int, end: str) -> None:
    priced.write_attribution(as_columns(used(start_ms, 0, 10)))
    priced.write_rows(
        "run_event",
        [
            event(start_ms, 0, "start", 0, 0),
            event(start_ms, 8, "checkpoint", 0, 32),
            event(start_ms, 10, end, 0, 40),
        ],
    )

    (row,) = run_rows(priced.store, None, None, "equal")

    # of one that failed and that nobody has resumed, at least what came after its last progress is lost
    wasted_s = {"finish": (0, 0), "fail": (2, 10)}[end]
    assert (row["wasted_usd"], row["wasted_most_usd"]) == pytest.approx([s * USD_PER_S for s in wasted_s])
    assert row["position"] == 40
    assert row["projected_cost_usd"] is None


def test_a_run_of_which_nothing_is_told_has_its_cost(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    rows = [*used(start_ms, 0, 10, gpu_model="NVIDIA Nothing"), *used(start_ms, 0, 4, run="", pid=2)]
    sink.write_attribution(as_columns(rows))

    (row,) = run_rows(sink.store, None, None, "equal")

    assert row["outcome"] == ""
    assert row["energy_j"] == 1000
    for name in (
        "cost_usd",
        "wasted_usd",
        "wasted_most_usd",
        "position",
        "cost_usd_per_step",
        "projected_end",
    ):
        assert row[name] is None, name


def test_several_sources_of_steps_count_once(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    priced.write_attribution(as_columns(used(start_ms, 0, 10)))
    priced.write_rows("run_event", [event(start_ms, 0, "start", 0, 0)])
    counted = [
        steps(start_ms, 5, 0, 10.0),
        steps(start_ms, 5, 0, 9.0, authority=2, event_id="other", source="client"),
    ]
    priced.write_rows("unit", counted)

    (row,) = run_rows(priced.store, None, None, "equal")

    assert row["position"] == 10


ENGINE, CLIENT = 4, 2
# Of each run, what was told of its attempt 0, which held a GPU for 200 s: by whom, from and until when a
# step a second, and how many seconds a count is long; then how many steps there were.
SOURCES: dict[str, tuple[list[tuple[int, int, int, int]], float]] = {
    "client, then engine": ([(CLIENT, 0, 90, 1), (ENGINE, 90, 180, 1)], 180),
    "engine, then client": ([(ENGINE, 0, 90, 1), (CLIENT, 90, 180, 1)], 180),
    "both all the time": ([(CLIENT, 0, 180, 1), (ENGINE, 0, 180, 10)], 180),
    "both for a time: from 50 to 100 s": ([(CLIENT, 0, 100, 1), (ENGINE, 50, 180, 1)], 180),
    "a count of the client reaches into the engine's": ([(CLIENT, 0, 100, 20), (ENGINE, 90, 180, 10)], 180),
    "the engine is silent for 70 s": ([(CLIENT, 0, 180, 1), (ENGINE, 0, 60, 1), (ENGINE, 130, 180, 1)], 180),
    "the engine is silent for 20 s: it made none": (
        [(CLIENT, 0, 180, 1), (ENGINE, 0, 60, 1), (ENGINE, 80, 180, 1)], 160,
    ),
    "others, client and engine": ([(0, 0, 120, 1), (CLIENT, 60, 150, 1), (ENGINE, 100, 180, 1)], 180),
    "of what the engine told after the last window nothing counts": (
        [(CLIENT, 0, 90, 1), (ENGINE, 90, 230, 20)], 200,
    ),
    "of what the client told after the last window nothing counts": (
        [(ENGINE, 0, 90, 1), (CLIENT, 90, 230, 20)], 200,
    ),
}  # fmt: skip


@pytest.mark.parametrize("has_period", [True, False])
def test_where_the_source_of_steps_changes_each_counts_in_its_time(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int, has_period: bool
) -> None:
    """Without a period a count is of the time since the one before."""
    rows, counted = [], []
    for pid, (run, (told, _)) in enumerate(SOURCES.items(), 1):
        rows += used(start_ms, 0, 200, run=run, pid=pid)
        for authority, begin, end, length in told:
            row = {"run": run, "authority": authority, "period_ns": length * SECOND_NS if has_period else 0}
            counted += [
                steps(start_ms, at, 0, float(length), event_id=f"{run} {authority} {at}") | row
                for at in range(begin + length, end + 1, length)
            ]
    priced.write_attribution(as_columns(rows))
    priced.write_rows("run_event", [event(start_ms, 0, "start", 0, 0) | {"run": run} for run in SOURCES])
    priced.write_rows("unit", counted)

    found = {row["run"]: row for row in run_rows(priced.store, None, None, "equal")}

    for run, (_, made) in SOURCES.items():
        assert found[run]["position"] == pytest.approx(made), run
        assert found[run]["cost_usd_per_step"] == pytest.approx(200 * USD_PER_S / made), run


def test_a_change_of_source_and_a_retry(priced: ClickHouseSink, as_columns: AsColumns, start_ms: int) -> None:
    """A step a second. Of the first attempt the client tells 60, then the engine 40, of which the last 10
    come after its last window: it was killed, and nobody told so. The next goes on from step 70, of which no
    checkpoint tells: by an even pace of the 90 counted ones it came at 70 s. It starts up for 9 s, and makes
    20 steps that the engine tells, and 10 that the client tells."""
    priced.write_attribution(as_columns([*used(start_ms, 0, 90), *used(start_ms, 110, 149, attempt=1)]))
    priced.write_rows("run_event", [event(start_ms, 0, "start", 0, 0), event(start_ms, 110, "start", 1, 70)])
    counted = [steps(start_ms, at, 0, 1.0, authority=CLIENT) for at in range(1, 61)]
    counted += [steps(start_ms, at, 0, 1.0) for at in range(61, 101)]
    counted += [steps(start_ms, at, 1, 1.0) for at in range(120, 140)]
    counted += [steps(start_ms, at, 1, 1.0, authority=CLIENT) for at in range(140, 150)]
    priced.write_rows("unit", counted)

    killed, retry = attempt_rows(priced.store, "r", "equal")
    (row,) = run_rows(priced.store, None, None, "equal")

    assert (killed["steps"], retry["steps"]) == (90, 30)
    assert row["position"] == 70 + 30
    assert row["wasted_usd"] == pytest.approx((20 + 10) * USD_PER_S)
    assert row["wasted_most_usd"] == pytest.approx((90 + 10) * USD_PER_S)
    assert row["cost_usd_per_step"] == pytest.approx((90 + 39) * USD_PER_S / 100)


def test_a_price_that_changes_within_a_run(
    sink: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    change = datetime.fromtimestamp(start_ms / 1000 + 60, UTC)
    add_prices(
        sink.store,
        [
            Price(gpu_model="NVIDIA H200", price=3.6, valid_to=change),
            Price(gpu_model="NVIDIA H200", price=7.2, valid_from=change),
        ],
    )
    sink.write_attribution(as_columns(used(start_ms, 50, 70)))

    (row,) = run_rows(sink.store, None, None, "equal")

    assert row["cost_usd"] == pytest.approx((10 + 2 * 10) * USD_PER_S)


def test_a_policy_that_there_is_not(sink: ClickHouseSink) -> None:
    with pytest.raises(UsageError, match="unknown policy 'evenly'"):
        run_rows(sink.store, None, None, "evenly")


@pytest.mark.parametrize(("since_s", "until_s", "spent_s"), [(2, 60, 8), (0, 9, 9)])
def test_a_span_that_cuts_a_run_gives_its_cost_there_and_no_cost_of_a_step(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int, since_s: int, until_s: int, spent_s: int
) -> None:
    """The steps are of the whole run, the money of the span: one by the other would be neither."""
    priced.write_attribution(as_columns(used(start_ms, 0, 10)))
    priced.write_rows("run_event", [event(start_ms, 0, "start", 0, 0)])
    priced.write_rows("unit", [steps(start_ms, 10, 0, 20.0)])
    since, until = (datetime.fromtimestamp(start_ms / 1000 + s, UTC) for s in (since_s, until_s))

    (row,) = run_rows(priced.store, since, until, "equal")

    assert row["cost_usd"] == pytest.approx(spent_s * USD_PER_S)
    assert (row["position"], row["cost_usd_per_step"], row["j_per_step"]) == (20, None, None)
    assert (row["projected_cost_usd"], row["projected_end"]) == (None, None)
    (whole,) = run_rows(priced.store, None, None, "equal")
    assert whole["cost_usd_per_step"] == pytest.approx(10 * USD_PER_S / 20)


# Of each run, as above; then where it stands, what a useful step cost in seconds, and its cost at the end.
Going = tuple[
    list[tuple[int, int]], list[tuple[Any, ...]], tuple[float | None, int], float | None, float | None
]
PROJECTED: dict[str, Going] = {
    "each step of a retry takes a second, and its first is no part of its pace": (
        [(0, 10), (20, 30)],
        [(0, "start", 0, 0), (5, "checkpoint", 0, 5), (10, "fail", 0, 9),
         (20, "start", 1, 5), (25, "checkpoint", 1, 10), (30, "checkpoint", 1, 15)],
        (15, 40), 20 / 15, 20 + 25,
    ),
    "ten steps are told at a time, and nine seconds of the next are part of the rest": (
        [(0, 19)], [(0, "start", 0, 0), (10, "checkpoint", 0, 10)], (10, 40), 19 / 10, 40,
    ),
    "it starts up for 60 s, and a step takes a second": (
        [(0, 70)], [(0, "start", 0, 0), *((59 + step, "checkpoint", 0, step) for step in range(1, 12))],
        (11, 40), 70 / 11, 70 + 29,
    ),
    "it stands still for longer than that": (
        [(0, 40)], [(0, "start", 0, 0), (10, "checkpoint", 0, 10)], (10, 40), 40 / 10, 40 + 30 - 10,
    ),
    "one new step alone tells no pace": (
        [(0, 10), (20, 30)],
        [(0, "start", 0, 0), (5, "checkpoint", 0, 5), (20, "start", 1, 5), (30, "checkpoint", 1, 6)],
        (6, 40), 20 / 6, None,
    ),
    "nobody knows what it went on from": (
        [(0, 10), (20, 30)],
        [(0, "start", 0, 0), (10, "fail", 0, 9), (20, "start", 1, None), (25, "checkpoint", 1, 30)],
        (30, 40), 20 / 30, None,
    ),
    "nobody knows what it went on from, nor where it is": (
        [(0, 10), (20, 30)],
        [(0, "start", 0, 0), (10, "fail", 0, 9), (20, "start", 1, None)],
        (9, 40), 20 / 9, None,
    ),
    "the latest attempt told nothing": (
        [(0, 10), (20, 30)], [(0, "start", 0, 0), (10, "checkpoint", 0, 10)], (10, 40), 20 / 10, None,
    ),
    "it is to go less far than it was": (
        [(0, 10)], [(0, "start", 0, 0), (10, "checkpoint", 0, 10, 30)], (10, 30), 1, 30,
    ),
    "nobody told of its start": (
        [(0, 10)], [(5, "checkpoint", 0, 5), (10, "checkpoint", 0, 10)], (10, 40), 1, 40,
    ),
    "it began anew, before what it had begun from": (
        [(0, 10), (10, 20)],
        [(0, "start", 0, 20), (10, "checkpoint", 0, 30), (10, "start", 1, 0),
         (11, "checkpoint", 1, 1), (20, "checkpoint", 1, 10)],
        (10, 40), 20 / 10, 20 + 30,
    ),
    "the GPU was held for 100 s before the start": (
        [(0, 110)],
        [(100, "start", 0, 0), *((100 + step, "checkpoint", 0, step) for step in range(1, 11))],
        (10, 40), 110 / 10, 110 + 30,
    ),
    "the same of a retry": (
        [(0, 10), (10, 120)],
        [(0, "start", 0, 0), (10, "checkpoint", 0, 10), (110, "start", 1, 10), (115, "checkpoint", 1, 15),
         (120, "checkpoint", 1, 20)],
        (20, 40), 120 / 20, 120 + 20,
    ),
    "it waited for its GPU from the start on": (
        [(50, 60)],
        [(0, "start", 0, 0), *((50 + step, "checkpoint", 0, step) for step in range(1, 11))],
        (10, 40), 10 / 10, 10 + 30,
    ),
    "the same of a retry, whose steps are told five at a time": (
        [(0, 10), (70, 80)],
        [(0, "start", 0, 0), (5, "checkpoint", 0, 5), (10, "fail", 0, 9),
         (20, "start", 1, 5), (75, "checkpoint", 1, 10), (80, "checkpoint", 1, 15)],
        (15, 40), 20 / 15, 20 + 25,
    ),
    "nobody measured its first steps": (
        [(5, 10)], [(0, "start", 0, 0), *((step, "checkpoint", 0, step) for step in range(1, 11))],
        (10, 40), 5 / 10, 5 + 30,
    ),
    "it failed before its first step": (
        [(0, 10)], [(0, "start", 0, 0), (10, "fail", 0, 0)], (0, 40), None, None,
    ),
}  # fmt: skip


def test_where_a_run_will_end(priced: ClickHouseSink, as_columns: AsColumns, start_ms: int) -> None:
    rows, events = [], []
    for pid, (run, (attempts, told, *_)) in enumerate(PROJECTED.items(), 1):
        for attempt, (begin, end) in enumerate(attempts):
            rows += used(start_ms, begin, end, attempt=attempt, run=run, pid=pid)
        events += [
            event(start_ms, *of[:4]) | {"run": run} | ({"steps": of[4]} if of[4:] else {}) for of in told
        ]
    priced.write_attribution(as_columns(rows))
    priced.write_rows("run_event", events)
    priced.refresh_rollups()

    found = {row["run"]: row for row in run_rows(priced.store, None, None, "equal")}

    for run, (attempts, _, stands, per_step_s, whole_s) in PROJECTED.items():
        row = found[run]
        assert (row["position"], row["target_position"]) == stands, run
        for name, due in (("cost_usd_per_step", per_step_s), ("projected_cost_usd", whole_s)):
            assert row[name] == (None if due is None else pytest.approx(due * USD_PER_S)), (run, name)
        assert (row["projected_end"] is None) == (whole_s is None), run
        if whole_s is not None:  # the GPU is used from the last window on as it was
            spent_s = sum(end - begin for begin, end in attempts)
            end_s = start_ms / 1000 + attempts[-1][1] + whole_s - spent_s
            assert row["projected_end"].timestamp() == pytest.approx(end_s, abs=0.01), run
    assert found["the latest attempt told nothing"]["wasted_most_usd"] == pytest.approx(10 * USD_PER_S)

    # hours later others are measured, and of these runs nothing: perhaps they were killed
    priced.write_attribution(as_columns(used(start_ms, 7200, 7201, run="another")))
    priced.refresh_rollups()
    for row in run_rows(priced.store, None, None, "equal"):
        assert (row["projected_cost_usd"], row["projected_end"]) == (None, None)


def test_a_run_is_its_latest_attempts_and_goes_as_far_as_that_tells(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """It was begun by another team, for another model, and was to go further."""
    first = used(start_ms, 0, 10, team="before", model="old", model_version="v2")
    second = used(start_ms, 20, 30, attempt=1, team="after", model="new", model_version="v1")
    priced.write_attribution(as_columns([*first, *second]))
    told = [event(start_ms, 0, "start", 0, 0), event(start_ms, 10, "fail", 0, 10)]
    told += [event(start_ms, 20, "start", 1, 10) | {"steps": 30}]
    priced.write_rows("run_event", [*told, event(start_ms, 30, "checkpoint", 1, 20) | {"steps": 30}])

    (row,) = run_rows(priced.store, None, None, "equal")

    assert (row["team"], row["model"], row["model_version"]) == ("after", "new", "v1")
    assert (row["position"], row["target_position"]) == (20, 30)


@pytest.mark.parametrize(("since_s", "until_s"), [(15, None), (None, 27)])
def test_a_span_without_an_attempt_or_the_latest_windows_is_not_the_whole_run(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int, since_s: int | None, until_s: int | None
) -> None:
    priced.write_attribution(as_columns([*used(start_ms, 0, 10), *used(start_ms, 20, 30, attempt=1)]))
    told = [event(start_ms, 0, "start", 0, 0), event(start_ms, 6, "checkpoint", 0, 6)]
    told += [event(start_ms, 20, "start", 1, 6), event(start_ms, 25, "checkpoint", 1, 11)]
    priced.write_rows("run_event", told)
    since, until = (
        None if s is None else datetime.fromtimestamp(start_ms / 1000 + s, UTC) for s in (since_s, until_s)
    )

    (row,) = run_rows(priced.store, since, until, "equal")

    assert (row["cost_usd_per_step"], row["j_per_step"], row["projected_cost_usd"]) == (None, None, None)


def test_what_is_partly_unpriced_or_untold_is_not_summed(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """One attempt on a GPU without a price; then one of which no event came."""
    rows = [
        *used(start_ms, 0, 10, attempt=0),
        *used(start_ms, 10, 20, attempt=1, gpu_model="NVIDIA Nothing"),
        *used(start_ms, 20, 30, attempt=2),
    ]
    priced.write_attribution(as_columns(rows))
    events = [event(start_ms, 0, "start", 0, 0), event(start_ms, 10, "start", 1, 8)]
    priced.write_rows("run_event", [*events, event(start_ms, 20, "fail", 1, 9)])

    (row,) = run_rows(priced.store, None, None, "equal")

    assert (row["attempts"], row["outcome"], row["position"]) == (3, "failed", 9)
    assert row["energy_j"] == 3000
    for name in ("cost_usd", "wasted_usd", "wasted_most_usd", "cost_usd_per_step", "projected_cost_usd"):
        assert row[name] is None, name


def test_an_end_that_is_ages_away_is_a_time_all_the_same(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    priced.write_attribution(as_columns(used(start_ms, 0, 10)))
    far = event(start_ms, 0, "start", 0, 0) | {"steps": 1 << 62}
    priced.write_rows("run_event", [far])
    priced.write_rows("unit", [steps(start_ms, 9, 0, 1.0), steps(start_ms, 10, 0, 1.0)])

    (row,) = run_rows(priced.store, None, None, "equal")

    assert row["projected_end"] > datetime(2100, 1, 1, tzinfo=UTC)
    assert row["projected_cost_usd"] == pytest.approx((1 << 62) * USD_PER_S)


def test_runs_of_one_name_in_two_namespaces_are_told_of(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    rows = [
        *used(start_ms, 0, 2, namespace="vision"),
        *used(start_ms, 0, 2, namespace="speech", pid=2),
        *used(start_ms, 2, 4, namespace="", pid=2),  # before its pod was known
        *used(start_ms, 0, 2, namespace="vision", run="alone", pid=3),
        *used(start_ms, 0, 2, cluster="east", namespace="x", run="é';", pid=4),
        *used(start_ms, 0, 2, cluster="west", run="é';", pid=5),
    ]
    priced.write_attribution(as_columns(rows))
    priced.refresh_rollups()
    places = run_places(priced.store, None, None)
    assert places == {"r": ["speech", "vision"], "é';": ["east/x", "west"]}
    day = datetime.fromtimestamp(start_ms / 1000, UTC)
    assert run_places(priced.store, day + timedelta(minutes=1), day + timedelta(minutes=2)) == places
    assert run_places(priced.store, day + timedelta(days=1), None) == {}
    assert run_places(priced.store, None, day - timedelta(days=1)) == {}


def test_runs_of_one_name_of_two_teams_are_told_of(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    rows = [
        *used(start_ms, 0, 2, team="vision"),
        *used(start_ms, 0, 2, team="speech", pid=2),
        *used(start_ms, 2, 4, team="", pid=2),
        *used(start_ms, 0, 2, team="vision", run="alone", pid=3),
    ]
    priced.write_attribution(as_columns(rows))
    priced.refresh_rollups()
    assert run_teams(priced.store, None, None) == {"r": ["speech", "vision"]}
    day = datetime.fromtimestamp(start_ms / 1000, UTC)
    assert run_teams(priced.store, day + timedelta(days=1), None) == {}


def test_the_checkpoint_told_last_is_the_one_to_go_on_from(priced: ClickHouseSink, start_ms: int) -> None:
    told = [event(start_ms, 0, "start", 0, 0), event(start_ms, 6, "checkpoint", 0, 6)]
    told += [event(start_ms, 10, "start", 1, 0), event(start_ms, 13, "checkpoint", 1, 3)]
    priced.write_rows("run_event", [*told, event(start_ms, 14, "checkpoint", 1, None)])
    assert earlier_attempts(priced.store, "r").checkpoint_step == 3


def test_what_earlier_attempts_came_to(priced: ClickHouseSink, start_ms: int) -> None:
    told = [event(start_ms, 0, "start", 0, 0), event(start_ms, 6, "fail", 0, 7)]
    priced.write_rows("run_event", [*told, event(start_ms, 10, "start", 1, 5)])
    priced.write_rows("unit", [steps(start_ms, 11, 1, 4.0)])
    earlier = earlier_attempts(priced.store, "r")
    assert (earlier.attempt, sorted(earlier.ended)) == (1, [0])
    assert earlier.reached == {0: 7, 1: 9}


def test_how_far_an_attempt_has_come_is_what_was_told_of_it(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Its last window may end before its last step is told, and one that told no step is not at step 0."""
    priced.write_attribution(as_columns(used(start_ms, 0, 10, attempt=4)))
    priced.write_rows("run_event", [event(start_ms, 0, "start", 4, None)])
    assert earlier_attempts(priced.store, "r").reached == {}
    priced.write_rows("run_event", [event(start_ms, 2, "start", 4, 5_000)])
    priced.write_rows("unit", [steps(start_ms, 9, 4, 30.0), steps(start_ms, 11, 4, 20.0)])
    assert earlier_attempts(priced.store, "r").reached == {4: 5_050}
    priced.write_rows("unit", [steps(start_ms, 9, 4, 50.0, authority=3, event_id="as others told it")])
    assert earlier_attempts(priced.store, "r").reached == {4: 5_050}


def test_of_several_names_an_attempt_has_the_last_however_they_are_stored(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """What is said late names an attempt too: any of them was picked, now this and now that."""
    late = {"model": "", "model_version": "", "team": ""}
    for part in (
        used(start_ms, 0, 2, model="n", model_version="v1", team="a"),
        used(start_ms, 2, 5, **late),
        used(start_ms, 5, 7, model="m", model_version="v9", team="b"),
    ):
        priced.write_attribution(as_columns(part))
    (row,) = attempt_rows(priced.store, "r", "equal")
    assert (row["model"], row["model_version"], row["team"]) == ("n", "v1", "b")


def test_why_it_is_not_known_where_a_run_ends() -> None:
    row: dict[str, Any] = {
        "run": "a",
        "outcome": "running",
        "projected_end": None,
        "cost_usd": 1.0,
        "cost_usd_per_step": 0.1,
    }
    row |= {"position": 10, "target_position": 40}
    others = [
        row | {"run": "b", "target_position": None},
        row | {"run": "c", "target_position": None},
        row | {"run": "d", "position": 0},
        row | {"run": "e", "position": 41},
        row | {"run": "f", "cost_usd_per_step": None},
        row | {"run": "g", "outcome": "finished"},
        row | {"run": "h", "projected_end": datetime.now(UTC)},
    ]
    notes = end_notes([row, *others])
    assert [note.partition(":")[0] for note in notes] == [
        f"the end of {which} is not known" for which in ("a", "b, c", "d", "e", "f")
    ]
    assert "the number of steps" in notes[1]


def test_an_attempt_whose_start_nobody_told_begins_with_what_was_told(
    priced: ClickHouseSink, start_ms: int
) -> None:
    told = [event(start_ms, 5, "checkpoint", 0, 5), event(start_ms, 9, "fail", 0, 9)]
    priced.write_rows("run_event", [*told, event(start_ms, 20, "start", 1, 5)])
    started = [
        row["started"].timestamp() - start_ms / 1000
        for row in priced.store.query("SELECT started FROM attempt ORDER BY attempt").dicts()
    ]
    assert started == pytest.approx([5, 20])


def test_an_earlier_attempt_that_told_nothing_makes_the_next_a_retry(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """It held the GPU for 20 s. The next goes on from step 20, and its first new step takes a second."""
    rows = [*used(start_ms, 0, 20, attempt=0), *used(start_ms, 30, 50, attempt=1)]
    priced.write_attribution(as_columns(rows))
    events = [event(start_ms, 30, "start", 1, 20), event(start_ms, 31, "checkpoint", 1, 21)]
    priced.write_rows("run_event", [*events, event(start_ms, 50, "finish", 1, 40)])

    assert priced.store.query("SELECT attempt, is_retry FROM attempt_progress").rows == [(1, 1)]
    (row,) = run_rows(priced.store, None, None, "equal")

    assert row["wasted_usd"] == pytest.approx(1 * USD_PER_S)
    assert row["wasted_most_usd"] == pytest.approx((20 + 1) * USD_PER_S)
    assert row["cost_usd_per_step"] == pytest.approx(40 * USD_PER_S / 20)


def test_a_reservation_that_knows_no_attempt_makes_no_retry(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Of a requeued job, of which nothing was seen before: idle for 5 s, as of attempt 0, then attempt 2."""
    idle = used(start_ms, 0, 5, account="reserved", pid=0, attempt=0)
    priced.write_attribution(as_columns([*idle, *used(start_ms, 5, 45, attempt=2)]))
    events = [event(start_ms, 5, "start", 2, 0), event(start_ms, 6, "checkpoint", 2, 1)]
    priced.write_rows("run_event", [*events, event(start_ms, 45, "finish", 2, 40)])

    (row,) = run_rows(priced.store, None, None, "equal")

    assert row["wasted_usd"] == pytest.approx(5 * USD_PER_S)
    assert row["cost_usd_per_step"] == pytest.approx(45 * USD_PER_S / 40)


def test_a_retry_whose_first_steps_are_counted_together_was_in_vain_until_then_at_worst(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """It starts up for 60 s and makes ten steps in the next second, told as ten in 61 s, as `wattribute run`
    tells them."""
    priced.write_attribution(as_columns([*used(start_ms, 0, 50), *used(start_ms, 60, 130, attempt=1)]))
    events = [event(start_ms, 0, "start", 0, 0), event(start_ms, 45, "checkpoint", 0, 45)]
    events += [event(start_ms, 50, "fail", 0, 50), event(start_ms, 60, "start", 1, 45)]
    priced.write_rows("run_event", events)
    first = steps(start_ms, 121, 1, 10.0, period_ns=61 * SECOND_NS)
    priced.write_rows("unit", [first, *(steps(start_ms, at, 1, 10.0) for at in range(122, 131))])

    (row,) = run_rows(priced.store, None, None, "equal")

    assert row["wasted_usd"] == pytest.approx((5 + 61 / 10) * USD_PER_S)  # an even pace
    assert row["wasted_most_usd"] == pytest.approx((5 + 61) * USD_PER_S)


def test_steps_that_a_waiting_attempt_will_do_again_are_no_longer_useful(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Thirty steps in thirty seconds; the next attempt goes on from the tenth, and has no GPU yet."""
    priced.write_attribution(as_columns(used(start_ms, 0, 30)))
    priced.write_rows("unit", [steps(start_ms, second, 0, 1.0) for second in range(1, 31)])
    events = [event(start_ms, 0, "start", 0, 0), event(start_ms, 10, "checkpoint", 0, 10)]
    events.append(event(start_ms, 30, "fail", 0, None))
    found = []
    for more in ([], [event(start_ms, 40, "start", 1, None)], [event(start_ms, 41, "start", 1, 10)]):
        priced.write_rows("run_event", events + more)
        (row,) = run_rows(priced.store, None, None, "equal")
        assert row["cost_usd"] == pytest.approx(30 * USD_PER_S)
        found.append((row["outcome"], row["position"], round(row["cost_usd_per_step"] / USD_PER_S, 9)))
    assert found == [("failed", 30, 1), ("waiting", 30, 1), ("waiting", 10, 3)]
    assert row["wasted_usd"] == row["wasted_most_usd"] == pytest.approx(20 * USD_PER_S)
    before = f"{datetime.fromtimestamp(start_ms / 1000 + 35, UTC):%F %T}"
    (row,) = run_rows(priced.store, None, before, "equal")
    assert (row["outcome"], row["position"]) == ("failed", 30)


def test_what_is_reserved_alongside_is_part_of_what_the_rest_will_cost(
    priced: ClickHouseSink, as_columns: AsColumns, start_ms: int
) -> None:
    """Two GPUs, of which one stands idle: 100 of 200 steps in 100 s. Then a retry of it, that starts up for
    10 s: of what it costs per step, those are no part."""
    idle = {"account": "reserved", "pid": 0, "gpu": "GPU-2", "active_energy_uj": 0}
    priced.write_attribution(as_columns([*used(start_ms, 0, 100), *used(start_ms, 0, 100, **idle)]))
    whole = {"steps": 200}
    events = [event(start_ms, second, "checkpoint", 0, second) | whole for second in range(1, 101)]
    priced.write_rows("run_event", [event(start_ms, 0, "start", 0, 0) | whole, *events])

    (row,) = run_rows(priced.store, None, None, "equal")

    assert (row["cost_usd"], row["wasted_usd"]) == pytest.approx((200 * USD_PER_S, 100 * USD_PER_S))
    assert row["projected_cost_usd"] == pytest.approx(400 * USD_PER_S)

    again = [*used(start_ms, 100, 130, attempt=1), *used(start_ms, 100, 130, attempt=1, **idle)]
    priced.write_attribution(as_columns(again))
    events = [event(start_ms, 110 + second, "checkpoint", 1, 100 + second) | whole for second in range(1, 21)]
    resumed = event(start_ms, 100, "start", 1, 100) | whole
    priced.write_rows("run_event", [resumed, event(start_ms, 110, "checkpoint", 1, 100) | whole, *events])

    (row,) = run_rows(priced.store, None, None, "equal")

    assert row["projected_cost_usd"] == pytest.approx((260 + 2 * 80) * USD_PER_S)
