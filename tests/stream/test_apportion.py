"""Whole numbers split, and a product that passes 63 bits: by Python's own arithmetic, without compiling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattribute.kernels.apportion import apportion, product_over


def parts_of(total: int, weights: list[float]) -> list[int]:
    ratios = np.array([weights]) / sum(weights)
    parts = np.zeros(len(weights), np.int64)
    split: Any = apportion  # without py_func where the kernels are plain Python
    getattr(split, "py_func", split)(total, ratios, 0, len(weights), parts, np.zeros(len(weights)))
    return [int(part) for part in parts]


@pytest.mark.parametrize(
    ("total", "weights", "due"),
    [
        (10, [1, 1, 1], [4, 3, 3]),  # equal remainders in order
        (11, [1, 1, 1], [4, 4, 3]),
        (7, [0.5, 0.3, 0.2], [4, 2, 1]),  # 3.5, 2.1, 1.4: the greatest remainder
        (1, [0, 1, 1], [0, 1, 0]),  # nothing to whom nothing is due
        (0, [1, 2], [0, 0]),
    ],
)
def test_the_greatest_remainders_get_what_is_left(total: int, weights: list[float], due: list[int]) -> None:
    assert parts_of(total, weights) == due


@given(
    total=st.integers(0, 1 << 52),  # µJ: 52 days of 1 kW
    weights=st.lists(st.just(0.0) | st.floats(1e-9, 1e9), min_size=1, max_size=9).filter(any),
)
def test_the_parts_are_the_whole_and_each_is_due(total: int, weights: list[float]) -> None:
    parts = parts_of(total, weights)
    assert sum(parts) == total
    assert all(part >= 0 for part in parts)
    assert all(part == 0 for part, weight in zip(parts, weights, strict=True) if weight == 0.0)


@given(st.integers(0, (1 << 62) - 1), st.integers(0, (1 << 62) - 1), st.integers(1, (1 << 62) - 1))
def test_a_part_of_a_gain_is_exact_beyond_63_bits(gain: int, part: int, length: int) -> None:
    of, part = max(part, length), min(part, length)
    exact: Any = product_over
    assert getattr(exact, "py_func", exact)(gain, part, of) == gain * part // of
