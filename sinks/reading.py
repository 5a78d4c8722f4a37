"""Queries that anyone with read access may run: one statement, no writes, nothing outside the store.

chDB has no users and no grants. ``readonly = 1`` on the handle stops writes, DDL and table functions, but not
everything (tested with chDB 26.9): ``SELECT file('/etc/passwd')`` and ``DESCRIBE file(…)`` read files,
``INTO OUTFILE`` and ``sqlite('/new/file', …)`` write files, ``KILL`` and ``USE`` work, and statements after a
semicolon run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from wattribute.errors import StoreError, UsageError
from wattribute.sinks.store import Readable, Result, Store
from wattribute.sinks.view_texts import VIEWS, view

_TOKEN: Final = re.compile(
    r"""
      (?P<comment>(?:--|//|\#[!\ ])[^\n]*|/\*(?:(?!/\*).)*?\*/)
    | (?P<nested>/\*)  # in the engine each needs its own end, elsewhere the first ends both
    | (?P<text>'(?:[^'\\]|\\.|'')*')
    | (?P<quoted>`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*")
    | (?P<heredoc>\$\w*\$)
    | (?P<word>[^\W\d]\w*)
    | (?P<space>\s+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_FIRST: Final = frozenset({"select", "with", "show", "describe", "desc", "explain", "exists", "("})
_QUOTES: Final = frozenset("'`\"\u2018\u2019\u201c\u201d")  # the engine takes the last four as quotes too
_FORBIDDEN: Final = frozenset({"file", "outfile", "infile", "format"})
# The engine's errors for a view that is queried without its parameters, and for some other mistakes.
_UNASKED: Final = ("(UNKNOWN_QUERY_PARAMETER)", "(EMPTY_LIST_OF_COLUMNS_QUERIED)")
# The client appends FORMAT Native to a query, which may not contain that word itself. In an unfinished query
# the engine takes it for a column, a table or an alias.
_UNFINISHED: Final = re.compile(
    r"\((?:FORMAT|Native|end of query)\) \(line|['`.]FORMAT\b|\bFORMAT AS Native\b"
)
_HARMLESS_TABLES: Final = frozenset(
    {"numbers", "numbers_mt", "zeros", "values", "null", "generateseries", "generate_series"}
)


class Reader:
    """A store that can only be read."""

    def __init__(self, store: Store, owned: bool = False) -> None:
        """Read ``store`` on a separate handle; with ``owned``, closing this closes the store too."""
        self._store = store
        self._owned = owned
        self._handle = store.reader()
        self._forbidden = (
            frozenset(row[0].lower() for row in store.query("SELECT name FROM system.table_functions").rows)
            - _HARMLESS_TABLES
        )

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> Result:
        """Answer one statement that only reads, within the limits of time and size. Raises UsageError for
        anything else, StoreError if the store refuses."""
        sql = checked(sql, self._forbidden)
        try:
            return self._handle.query(sql, params)
        except StoreError as error:
            if any(code in str(error) for code in _UNASKED) and _names_a_view(sql):
                raise UsageError(
                    "a view with parameters needs all of them, like cost(policy = 'equal',"
                    " since = '2026-01-01', until = '2027-01-01'); 'wattribute query --help' names them"
                ) from error
            if "FORMAT" in sql or not _UNFINISHED.search(str(error)):
                raise
            raise UsageError(
                f"the query ends too early: something is missing after {' '.join(sql.split()[-3:])!r}, or a"
                " parenthesis is not closed"
            ) from error

    def close(self) -> None:
        """Close the handle, and the store if it is owned."""
        self._handle.close()
        if self._owned:
            self._store.close()


def columns_of(store: Readable, sql: str) -> list[str]:
    """The column names of an answer without rows, for which chDB gives none. Call it only to show them: it
    takes as long again as the answer, 1.7 s for run_cost."""
    sql = checked(sql, frozenset())
    if not sql.lstrip().upper().startswith(("SELECT", "WITH")):
        return []
    return [row[0] for row in store.query(f"DESCRIBE ({sql}\n)").rows]


def _names_a_view(sql: str) -> bool:
    """Whether a statement names a view that has parameters."""
    return any(name in VIEWS and ":String}" in view(name) for name in re.findall(r"\w+", sql))


def checked(sql: str, table_functions: frozenset[str]) -> str:
    """The statement without a closing semicolon. Raises UsageError unless it is one that only reads."""
    try:
        sql.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"a query must be UTF-8, this one is not after {sql[: error.start][-20:]!r}"
        ) from None
    tokens = [match for match in _TOKEN.finditer(sql) if match.lastgroup not in ("comment", "space")]
    while tokens and tokens[-1].group() == ";":
        sql = sql[: tokens.pop().start()]
    if not tokens or tokens[0].group().lower() not in _FIRST:
        raise UsageError("a query must begin with SELECT, WITH, SHOW, DESCRIBE, EXPLAIN or EXISTS")
    for place, token in enumerate(tokens):
        word = token.group().lower()
        if token.lastgroup == "quoted":
            word = word[1:-1]
        if token.lastgroup == "other" and word == ";":
            raise UsageError("a query must be one statement: leave out the semicolon and what follows")
        if token.lastgroup == "nested":
            raise UsageError("a query with an unfinished comment, or with a comment in a comment, is refused")
        if token.lastgroup == "heredoc" or (token.lastgroup == "other" and word in _QUOTES):
            raise UsageError("a query with an unfinished, $-quoted or typographically quoted text is refused")
        if token.lastgroup == "quoted" and "\\" in word:  # `\x66ile` is the engine's name of file
            raise UsageError("a query with a backslash in a quoted name is refused")
        if token.lastgroup not in ("word", "quoted"):
            continue
        called = place + 1 < len(tokens) and tokens[place + 1].group() == "("
        if word in _FORBIDDEN or (called and word in table_functions):
            raise UsageError(
                f"a query may not use {word}: it only reads the store, and --format says how to show it"
            )
    return sql
