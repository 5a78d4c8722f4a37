"""The errors that users see.

    WattributeError          one clear line: what is wrong, where, what to do; the command exits with status 1
    ├── UsageError           a wrong option, setting or argument: exit status 2
    ├── BusError             Kafka or the local log cannot be used
    │   ├── BusAwayError     … for now: a retry may succeed
    │   └── RefusedError     … for some messages, for ever
    └── StoreError           ClickHouse or chDB cannot be used
        └── StoreAwayError   … for now: a retry may succeed
    RecordError              a line, message or field that cannot be used; it goes to the dead letters

Anything else that reaches the user is a bug.
"""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, Final
from unicodedata import category

INTERRUPTED: Final = 130
"""The exit status after Ctrl-C."""


class WattributeError(Exception):
    """What went wrong, where, and what to do about it, in one line."""


class UsageError(WattributeError):
    """A wrong option, setting or argument."""


class BusError(WattributeError):
    """The bus (Kafka or the local log) cannot be reached, read or written."""


class BusAwayError(BusError):
    """The bus cannot be used for now. A retry may succeed."""


class RefusedError(BusError):
    """The bus will never take these messages: ``numbers`` counts them in the order of sending, from 0."""

    def __init__(self, text: str, numbers: Sequence[int]) -> None:
        super().__init__(text)
        self.numbers = numbers


class StoreError(WattributeError):
    """The store (ClickHouse or chDB) cannot be reached, read or written."""


class StoreAwayError(StoreError):
    """The store cannot be used for now: a network failure, a restart, too much load. Whether the store has
    done what was asked is not known. A retry may succeed."""


class RecordError(ValueError):
    """A record that cannot be used; the text says which field and why."""


def unusable(error: OSError) -> str:
    """What cannot be used, and why."""
    return f"cannot use {error.filename}: {error.strerror}" if error.filename is not None else str(error)


def meant(name: str, known: Iterable[str], otherwise: str = "", prefix: str = "") -> str:
    """The end of an error line about an unknown name: the nearest known name; where none is near,
    ``otherwise``, or a list of all. All names begin with ``prefix``, which ``known`` leaves out."""
    folded = {each.casefold(): f"{prefix}{each}" for each in known}
    near = get_close_matches(name.casefold().removeprefix(prefix.casefold()), folded, 1)
    if near:
        return f"did you mean {folded[near[0]]}?"
    return otherwise or f"it is one of {', '.join(folded.values())}"


def check_texts(told: Any) -> None:
    """Raise UsageError if a text in a dataclass contains characters that no record may have."""
    for item in fields(told):
        value = getattr(told, item.name)
        if isinstance(value, str) and has_controls(value):
            raise UsageError(f"{item.name} {printable(value)!r} holds control characters")


def has_controls(text: str) -> bool:
    """Whether a text contains control characters, line separators, or bytes that are not UTF-8, which Python
    shows as surrogates in the command line and the environment."""
    return not text.isprintable() and any(category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text)


def printable(text: str) -> str:
    """A text from outside, such as a workload's labels, without characters that control the terminal."""
    return "".join(char if char.isprintable() else "�" for char in text)
