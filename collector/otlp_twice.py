"""Calls that two instrumentations report in spans that no trace connects.

The instrumentations of frameworks that are told by callbacks, as LangChain's, do not make their span the
current one. So the span that the client library makes of the same call is not below it: it lies beside it,
or in a trace of its own. Two calls are taken for one where they are of one application, one model and one
usage, of different instrumentations, and the time of one lies within that of the other, which does not count.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

_Call = TypeVar("_Call")
# Only calls that run at the same time matter. More of one usage at once than this, or calls of more usages,
# may count twice; without limits a flood of equal calls would take all memory and time.
_CALLS_MOST: Final = 64
_KEYS_MOST: Final = 10_000


@dataclass(slots=True)
class _Seen(Generic[_Call]):
    """A call that counts, and the instrumentations that reported it: each reports it once."""

    call: _Call
    begin_ns: int
    end_ns: int
    scopes: set[str]

    def is_within(self, begin_ns: int, end_ns: int) -> bool:
        return begin_ns <= self.begin_ns and self.end_ns <= end_ns


class Twice(Generic[_Call]):
    """Remembers the last calls of each application, model and usage."""

    def __init__(self) -> None:
        self._seen: OrderedDict[Hashable, list[_Seen[_Call]]] = OrderedDict()

    def outer(self, key: Hashable, scope: str, span: tuple[int, int], call: _Call) -> _Call | None:
        """Of a new call and a known one that are the same: the one that does not count; None where the new
        one is not known. ``key`` is equal for calls that may be the same, ``span`` its begin and end."""
        seen = self._seen.setdefault(key, [])
        self._seen.move_to_end(key)
        if len(self._seen) > _KEYS_MOST:
            self._seen.popitem(last=False)
        others = [other for other in seen if scope not in other.scopes]
        inner = [other for other in others if other.is_within(*span)]
        if inner:  # of several the longest: it fits best, and leaves the others to shorter calls
            max(inner, key=lambda other: other.end_ns - other.begin_ns).scopes.add(scope)
            return call
        new = _Seen(call, *span, {scope})
        around = [other for other in others if new.is_within(other.begin_ns, other.end_ns)]
        outer = min(around, key=lambda other: other.end_ns - other.begin_ns, default=None)
        if outer is not None:
            new.scopes |= outer.scopes
            seen.remove(outer)
        seen.append(new)
        del seen[:-_CALLS_MOST]
        return None if outer is None else outer.call
