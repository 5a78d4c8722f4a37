"""Traces that several tests of this folder replay."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.needs import need
from tests.survival.processes import ran

SHARED = Path(__file__).parents[3] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder as long: they take minutes."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.long)


class Recorded(NamedTuple):
    """A trace of a simulated host, and the true energies behind it."""

    trace: Path
    truth: Path


@pytest.fixture(scope="session", autouse=True)
def _chdb() -> None:
    need("chdb")


@pytest.fixture(scope="session")
def churn(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Ten minutes of three GPUs on which processes start and end all the time."""
    return recorded(tmp_path_factory.mktemp("churn"), "churn", "10m")


@pytest.fixture(scope="session")
def undisturbed(churn: Recorded, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store into which ``churn`` was replayed without disturbance."""
    store = f"chdb://{tmp_path_factory.mktemp('undisturbed')}/store"
    ran("replay", churn.trace, "--store", store)
    return store


def recorded(folder: Path, scenario: str | Path, duration: str) -> Recorded:
    """A trace of a simulated host, recorded in virtual time."""
    name = Path(scenario).stem
    made = Recorded(folder / f"{name}.ndjson", folder / f"{name}.json")
    simulated = ("--simulate", "--scenario", scenario, "--virtual-time", "--duration", duration)
    ran("record", made.trace, *simulated, "--start", "2026-06-01", "--fast-hz", "20", "--truth", made.truth)
    return made
