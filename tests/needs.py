"""What tests need of the machine that runs them."""

from __future__ import annotations

import importlib
import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip the test for want of something; fail where everything has to be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def need(package: str) -> None:
    """Go on where a package can be imported."""
    try:
        importlib.import_module(package)
    except ImportError:
        missing(f"{package} is not installed: pip install -e '.[test,bench]'")
