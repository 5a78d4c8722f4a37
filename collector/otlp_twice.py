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
# Only calls that run at the same time matter. Of more calls than this some may count twice; without limits a
# flood of them would take all memory, and one of equal calls all time.
_CALLS_MOST: Final = 20_000
_EQUAL_MOST: Final = 1_000


@dataclass(slots=True, eq=False)
class _Seen(Generic[_Call]):
    """A call that counts."""

    call: _Call
    begin_ns: int
    end_ns: int

    def is_within(self, other: _Seen[_Call]) -> bool:
        return other.begin_ns <= self.begin_ns and self.end_ns <= other.end_ns


# By the instrumentations that reported a call. Each reports it once, so that those that also reported it are
# not searched: where there is one instrumentation, none are.
_Equal = dict[frozenset[str], list[_Seen[_Call]]]


class Twice(Generic[_Call]):
    """Remembers the last calls of each application, model and usage."""

    def __init__(self) -> None:
        self._equal: OrderedDict[Hashable, _Equal[_Call]] = OrderedDict()
        self._calls = 0

    def outer(self, key: Hashable, scope: str, span: tuple[int, int], call: _Call) -> _Call | None:
        """Of a new call and a known one that are the same: the one that does not count; None where the new
        one is not known. ``key`` is equal for calls that may be the same, ``span`` its begin and end."""
        equal = self._equal.setdefault(key, {})
        self._equal.move_to_end(key)
        new = _Seen(call, *span)
        kept, outer, scopes = new, None, frozenset[str]()
        others = [(of, other) for of, seen in equal.items() if scope not in of for other in seen]
        inner = [(of, other) for of, other in others if other.is_within(new)]
        around = [(of, other) for of, other in others if new.is_within(other)]
        if inner:  # the one that began first: it fits the fewest of the calls that are still to come
            scopes, kept = min(inner, key=lambda found: found[1].begin_ns)
            outer = call
            equal[scopes].remove(kept)
        elif around:
            scopes, known = min(around, key=lambda found: found[1].end_ns)
            outer = known.call
            equal[scopes].remove(known)
        seen = equal.setdefault(scopes | {scope}, [])
        seen.append(kept)
        self._calls += 1 if outer is None else 0
        self._make_room(seen)
        return outer

    def _make_room(self, seen: list[_Seen[_Call]]) -> None:
        if len(seen) > _EQUAL_MOST:
            del seen[0]
            self._calls -= 1
        while self._calls > _CALLS_MOST:
            _, gone = self._equal.popitem(last=False)
            self._calls -= sum(len(calls) for calls in gone.values())
