"""Everything on one machine, killed again and again: what its bus holds says what its store has to hold."""

from __future__ import annotations

import random
from pathlib import Path

from tests.survival.processes import asked, assert_sound, is_killed, ran, rows_of, started, wait_until
from wattribute.bus import SAMPLES
from wattribute.collector.local_log import LocalLog

KILLS = 6


def test_the_bus_that_a_killed_up_left_gives_an_empty_store_the_same_rows(tmp_path: Path) -> None:
    bus, store, afresh = f"local://{tmp_path}/bus", f"chdb://{tmp_path}/store", f"chdb://{tmp_path}/afresh"
    rng = random.Random(6)
    log = LocalLog(tmp_path / "bus")
    seen = 0

    def sends() -> bool:
        return log.end_offsets().get(SAMPLES, 0) > seen

    for kill in range(KILLS):
        simulated = ("--simulate", "--scenario", "churn", "--seed", str(kill), "--duration", "1m")
        process = started("up", *simulated, "--bus", bus, "--store", store)
        wait_until(sends, process)
        # Some die with their first second sent and not yet read, the others in the middle of a later one.
        assert is_killed(process, rng.uniform(0, 4) if kill % 3 else 0.0)
        seen = log.end_offsets()[SAMPLES]
    log.close()
    ran("stream", "--bus", bus, "--store", store, "--until-idle")
    ran("stream", "--bus", bus, "--store", afresh, "--from-beginning", "--until-idle")
    assert_sound(store)
    assert_sound(afresh)
    left, due = rows_of(store), rows_of(afresh)
    for table, rows in due.items():
        assert left[table] == rows, table
    ((boots,),) = asked(
        store, "SELECT uniqExact(boot_id) AS n, countIf(flags % 2 = 0) AS final FROM attribution FINAL"
    )
    assert boots["n"] == KILLS
    assert boots["final"] > 0
