"""The kernels take half a minute to compile where no cache has them; afterwards they load at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from wattribute.commands.output import note

if TYPE_CHECKING:
    from wattribute.stream.engine import Engine

_PATIENCE_S: Final = 2.0  # from a cache they take 0.4 s


def compiled_engine() -> tuple[type[Engine], Callable[..., Any]]:
    """The engine, its kernels compiled, and ``replay`` which drives one; says so where that takes a while."""
    hint = threading.Timer(_PATIENCE_S, note, ["compiling the kernels (once) …"])
    hint.daemon = True
    hint.start()
    try:
        from wattribute.stream.engine import Engine
        from wattribute.stream.replay import replay
    finally:
        hint.cancel()
    return Engine, replay
