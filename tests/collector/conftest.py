"""Fixtures of the collector's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fake_nvml.library import FakeNvml, loaded


@pytest.fixture
def fake() -> Iterator[FakeNvml]:
    """The fake libnvidia-ml.so.1 with two devices, where NVIDIA's binding finds it."""
    with loaded(gpus=2) as fake:
        yield fake
