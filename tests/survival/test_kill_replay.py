"""A replay that is killed at any moment of its work, begun again and completed."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.survival.conftest import Recorded
from tests.survival.processes import assert_sound, is_killed, ran, rows_of, started

KILLS = 20


@pytest.mark.timeout(900)  # ten times what a replay takes, on a machine that others may use
def test_a_replay_killed_at_20_moments_leaves_what_an_undisturbed_one_leaves(
    churn: Recorded, undisturbed: str, tmp_path: Path
) -> None:
    begun_s = time.monotonic()
    ran("replay", churn.trace, "--store", f"chdb://{tmp_path}/timed")
    whole_s = time.monotonic() - begun_s
    store = f"chdb://{tmp_path}/store"
    rng = random.Random(20)
    # A moment of each twentieth of a whole run: opening the store, compiled code, decoding, writes, rollups.
    parts = [(part + rng.random()) / KILLS for part in range(KILLS)]
    rng.shuffle(parts)
    while parts:
        begun_s = time.monotonic()
        if is_killed(started("replay", churn.trace, "--store", store), whole_s * parts[-1]):
            parts.pop()
        else:  # the machine has become faster, and a run takes less than the first one took
            whole_s = time.monotonic() - begun_s
    ran("replay", churn.trace, "--store", store)
    assert_sound(store)
    left, due = rows_of(store), rows_of(undisturbed)
    for table, rows in due.items():
        assert left[table] == rows, table
    assert all(due[table] for table in ("attribution", "attribution_hour", "unit", "run_event"))
