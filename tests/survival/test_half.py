"""The beginning of a trace gives the rows that the whole gives, but for its last seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from tests.survival.conftest import Recorded
from tests.survival.processes import asked, ran

UNSETTLED_NS = 15_000_000_000


@pytest.mark.parametrize("share", [0.5, 0.31, 0.83])
def test_what_the_first_lines_give_the_whole_gives_too(
    churn: Recorded, undisturbed: str, tmp_path: Path, share: float
) -> None:
    lines = churn.trace.read_bytes().splitlines(keepends=True)
    first = lines[: int(len(lines) * share)]
    half = tmp_path / "half.ndjson"
    half.write_bytes(b"".join(first))
    store = f"chdb://{tmp_path}/store"
    ran("replay", half, "--store", store)
    newest_ns = max(orjson.loads(line).get("t", 0) for line in first)
    settled = datetime.fromtimestamp((newest_ns - UNSETTLED_NS) // 1_000_000_000, UTC)
    question = (
        "SELECT * FROM attribution FINAL WHERE window_start < toDateTime64('"
        f"{settled:%Y-%m-%d %H:%M:%S}', 3, 'UTC') ORDER BY ALL"
    )
    (rows,), (due,) = asked(store, question), asked(undisturbed, question)
    assert len(rows) > 3 * 60
    assert rows == due
