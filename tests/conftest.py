"""Fixtures that several folders of tests share."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tests.kafka_broker import kafka_broker

__all__ = ["kafka_broker"]

# Compiled once, by whichever test or process comes first. A folder for each text of the kernels, because
# numba does not see that a cached kernel's jitted callee in another file has changed.
_ROOT = Path(__file__).parents[1]
_TEXT = b"".join(path.read_bytes() for path in sorted((_ROOT / "kernels").glob("*.py")))
_CACHE = _ROOT / ".pytest_cache" / f"kernels-{hashlib.sha256(_TEXT).hexdigest()[:12]}"
os.environ.setdefault("NUMBA_CACHE_DIR", str(_CACHE))
