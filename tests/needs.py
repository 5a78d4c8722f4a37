"""What tests need of the machine that runs them."""

from __future__ import annotations

import importlib
import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip the test because something is missing; fail it in CI, where everything must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def need(package: str) -> None:
    """Skip the test, or fail it in CI, unless a package can be imported."""
    try:
        importlib.import_module(package)
    except ImportError:
        missing(f"{package} is not installed: pip install -e '.[test,bench]'")
