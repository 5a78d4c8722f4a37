"""Why the store did not do what it was told: in one line, and whether it may do it later."""

from __future__ import annotations

import re
from typing import Final

from clickhouse_connect.driver.exceptions import OperationalError

from wattribute.errors import StoreAwayError, StoreError

CONNECT_S: Final = 5
# A server at work sends a header 5 s before this, so one that is silent is not there any more. And it is less
# than half of the 300 s after which Kafka gives the partitions of a silent consumer to another.
ANSWER_S: Final = 120
# Codes of ClickHouse after which the same statement may succeed later. What the others say (no such column,
# access denied) stays so until somebody does something about it.
_PASSING: Final = frozenset(
    (
        *(159, 160, 198, 209, 210, 279, 1000),  # time and network
        *(201, 202, 203, 241, 252, 439, 574, 700, 745),  # too much at once: queries, memory, parts
        *(225, 242, 254, 285, 286, 319, 999),  # replicas and their keeper
        *(75, 243, 499),  # no room on the disk, no object store
        *(236, 394),  # shut down or cancelled meanwhile
    )
)
GO_ON: Final = "go on with a new folder, and 'stream --from-beginning' brings what the bus still has"
_PLAINLY: Final = {
    "(connect timeout=": f"nobody answers within {CONNECT_S} s",
    "(read timeout=": f"it was silent for {ANSWER_S} s",
    "('Connection aborted.'": "the connection was cut",
    "(connection closed by server)": "the connection was cut",
    "Error initializing EmbeddedServer": f"its files are damaged (the engine says which); {GO_ON}",
}

# Where in its plan ClickHouse was: of a view that is pages of SQL which who asks did not write, and the code
# at the end is cut off with them. What one wrote oneself is shorter, and stays.
_WHERE: Final = re.compile(r"(: while executing '|[.:]? In scope .{200}).*?(?=\. \([A-Z_]+\)|$)")

_LACKS: Final = re.compile(
    r"Unknown table (function|expression)|Database \w+ does not exist"
    r"|Unknown expression (?!.*Maybe you meant)"  # a column; one that is near to another is misspelt
)


def store_error(what: str, error: BaseException) -> StoreError:
    """The error to raise for one of the client's or the system's."""
    kind = StoreAwayError if _may_pass(error) else StoreError
    return kind(f"{what}: {_first_line(error)}")


def _may_pass(error: BaseException) -> bool:
    """Whether the same statement may succeed later."""
    if (code := getattr(error, "code", None)) is not None:
        return code in _PASSING
    # Without a code it is not ClickHouse that speaks, but the network or a proxy; or a disk, which is full.
    return isinstance(error, OSError | OperationalError) or "HTTP status 5" in str(error)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    network = re.search(r"\[Errno -?\d+\] ([^\"')]+)", text)
    if network and not isinstance(error, OSError):  # urllib3 wraps it in five lines of its own
        return f"{network[1]}: does ClickHouse listen there, on its HTTP port?"
    for wrapped, plain in _PLAINLY.items():
        if wrapped in text:
            return plain
    line = re.sub(r" \(for url [^)]*\)$", "", text.splitlines()[0]).removeprefix("Code: ")
    line = _WHERE.sub("", line)[:500]
    lacks = _LACKS.search(line)
    return f"{line}; if an older wattribute made it, run 'wattribute migrate'" if lacks else line
