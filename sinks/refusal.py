"""Errors of the store: the reason in one line, and whether a retry may succeed."""

from __future__ import annotations

import re
from typing import Final

from clickhouse_connect.driver.exceptions import OperationalError

from wattribute.errors import StoreAwayError, StoreError

CONNECT_S: Final = 5
# A server that still works sends a header 5 s before this, so one that is silent is gone. This is also less
# than half of the 300 s after which Kafka gives the partitions of a silent consumer to another.
ANSWER_S: Final = 120
# Error codes of ClickHouse after which a retry may succeed. The others (no such column, access denied) stay
# until somebody fixes the cause.
_PASSING: Final = frozenset(
    (
        *(159, 160, 198, 209, 210, 279, 1000),  # time and network
        *(201, 202, 203, 241, 252, 439, 574, 700, 745),  # too much at once: queries, memory, parts
        *(225, 242, 254, 285, 286, 319, 999),  # replicas and their keeper
        *(75, 243, 499),  # no space on the disk, no object store
        *(236, 394),  # shut down or cancelled
    )
)
GO_ON: Final = "use a new folder, and fill it with 'stream --from-beginning' from what the bus still has"
_PLAINLY: Final = {
    "(connect timeout=": f"no answer within {CONNECT_S} s",
    "(read timeout=": f"no answer for {ANSWER_S} s",
    "('Connection aborted.'": "the connection was cut",
    "(connection closed by server)": "the connection was cut",
    "Error initializing EmbeddedServer": f"its files are damaged (the engine says which); {GO_ON}",
}

# Where in the statement ClickHouse failed. For a view that is pages of SQL that the user did not write, and
# the error code after them would be cut off. The user's own text is shorter, and stays.
_WHERE: Final = re.compile(r"(: while executing '|[.:]? In scope .{200}).*?(?=\. \([A-Z_]+\)|$)")

_LACKS: Final = re.compile(
    r"Unknown table (function|expression)|Database \w+ does not exist"
    r"|Unknown expression (?!.*Maybe you meant)"  # a column; if it is similar to another, it is misspelt
)


def store_error(what: str, error: BaseException) -> StoreError:
    """The error to raise for an error of the client or the system; ``what`` begins its line."""
    kind = StoreAwayError if _may_pass(error) else StoreError
    return kind(f"{what}: {_first_line(error)}")


def _may_pass(error: BaseException) -> bool:
    """Whether a retry may succeed."""
    if (code := getattr(error, "code", None)) is not None:
        return code in _PASSING
    # An error without a code is not from ClickHouse, but from the network, a proxy, or a full disk.
    return isinstance(error, OSError | OperationalError) or "HTTP status 5" in str(error)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    network = re.search(r"\[Errno -?\d+\] ([^\"')]+)", text)
    if network and not isinstance(error, OSError):  # urllib3 wraps it in five lines
        return f"{network[1]}: check the address, and that ClickHouse listens there, on its HTTP port"
    for wrapped, plain in _PLAINLY.items():
        if wrapped in text:
            return plain
    line = re.sub(r" \(for url [^)]*\)$", "", text.splitlines()[0]).removeprefix("Code: ")
    line = _WHERE.sub("", line)[:500]
    lacks = _LACKS.search(line)
    return f"{line}; if an older wattribute made the store, run 'wattribute migrate'" if lacks else line
