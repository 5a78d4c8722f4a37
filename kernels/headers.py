"""Recognise messages by their headers: which host sent a message, in which layout, where its columns begin.

A host's header hardly ever changes, so its text is compared with those that were parsed before. In Python
that took 2.4 us a message, a tenth of the time that a stream spent on it.
"""

from typing import NamedTuple

from wattribute.kernels.jit import kernel, part
from wattribute.kernels.messages import (
    DEVICE_ROWS,
    HOST,
    KIND,
    LAYOUT,
    OFFSET,
    PROCESS_ROWS,
    SAMPLES_MESSAGE,
    WORD,
)
from wattribute.kernels.series import I32, I64, types

# KIND of a message that is not clear: it contains no samples; it or its header is cut short; its header has
# not been parsed; its columns do not have the size that its rows take; or only its epoch is another than
# before.
OF_RECORDS, CUT, NEW_HEADER, WRONG_SIZE, OTHER_EPOCH = -1, -2, -3, -4, -5
MAGIC = int.from_bytes(b"WSB1", "little")
PREFIX_WORDS = 4
NAMING_WORDS = 8  # the first words of a header, which contain schema and host
# Columns of ``places``: where a header begins in ``text`` and how long it is, in words; its host and layout;
# and how many 8-byte and 4-byte columns a device row and a process row have.
BEGIN, WORDS, OF_HOST, OF_LAYOUT, DEVICE_WIDE, DEVICE_NARROW, PROCESS_WIDE, PROCESS_NARROW = range(8)
PLACE_COLUMNS = 8


class Known(NamedTuple):
    """The headers that have been parsed, found by a hash of their length and first words."""

    text: I64
    places: I64  # (headers, 8)
    slots: I32  # rows of ``places`` by hash, -1 = empty; a power of two of them, at least half of them empty
    epochs: I64  # for each host the epoch of its latest collector


_i64, _i64_2 = types.Array(types.int64, 1, "C"), types.Array(types.int64, 2, "C")
_words = types.Array(types.int64, 1, "C", readonly=True)
KNOWN = types.NamedTuple((_i64, _i64_2, types.Array(types.int32, 1, "C"), _i64), Known)


@part
def _words_due(known: Known, place: int, rows: int, process_rows: int) -> int:
    """Return how many words the columns of so many rows take; -1 where there are rows and no columns."""
    wide, narrow = known.places[place, DEVICE_WIDE], known.places[place, DEVICE_NARROW]
    process_wide, process_narrow = known.places[place, PROCESS_WIDE], known.places[place, PROCESS_NARROW]
    if (rows > 0 and wide + narrow == 0) or (process_rows > 0 and process_wide + process_narrow == 0):
        return -1
    due = wide * rows + narrow * ((rows + 1) // 2)
    return int(due + process_wide * process_rows + process_narrow * ((process_rows + 1) // 2))


@part
def _hash(words: I64, begin: int, length: int) -> int:
    """FNV-1a of the length and the first words, in 32 bits."""
    found = length & 0xFFFFFFFF
    for i in range(begin, begin + min(length, NAMING_WORDS)):
        found ^= (words[i] & 0xFFFFFFFF) ^ ((words[i] >> 32) & 0xFFFFFFFF)
        found = (found * 16777619) & 0xFFFFFFFF
    return found


@part
def _find(words: I64, begin: int, length: int, known: Known) -> tuple[int, int]:
    """Return (row in ``places`` of the header at ``begin``, -1 if it is not known; its slot, or a free one
    for it)."""
    mask = known.slots.shape[0] - 1
    slot = _hash(words, begin, length) & mask
    while known.slots[slot] >= 0:
        place = known.slots[slot]
        if known.places[place, WORDS] == length:
            text, differing = known.places[place, BEGIN], 0
            for i in range(length):  # without an early exit several words are compared at a time
                differing |= words[begin + i] ^ known.text[text + i]
            if differing == 0:
                return int(place), int(slot)
        slot = (slot + 1) & mask
    return -1, int(slot)


@kernel(types.void(KNOWN, types.int64))
def note(known: Known, place: int) -> None:
    """Enter the header in row ``place`` of ``places`` in ``slots``, so that it is found. One slot must be
    empty."""
    _, slot = _find(known.text, known.places[place, BEGIN], known.places[place, WORDS], known)
    known.slots[slot] = place


@kernel(types.int64(_words, _i64, _i64, KNOWN, _i64_2))
def recognise(words: I64, lengths: I64, offsets: I64, known: Known, messages: I64) -> int:
    """Fill ``messages`` (columns: see ``kernels.messages``) for messages that follow each other in ``words``,
    with ``lengths`` in words. Return how many are not clear; their KIND says why."""
    at = unclear = 0
    for m in range(lengths.shape[0]):
        begin, end = at + PREFIX_WORDS, at + lengths[m]
        of_samples = end > at and words[at] & 0xFFFFFFFF == MAGIC
        header_bytes = (words[at] >> 32) & 0xFFFFFFFF if end >= begin else 0
        columns = begin + header_bytes // 8
        kind = CUT if of_samples else OF_RECORDS
        if of_samples and header_bytes % 8 == 0 and begin < columns <= end:
            kind = NEW_HEADER
            place, _ = _find(words, begin, columns - begin, known)
            if place >= 0:
                host = known.places[place, OF_HOST]
                rows, process_rows = words[at + 3] & 0xFFFFFFFF, (words[at + 3] >> 32) & 0xFFFFFFFF
                messages[m, HOST] = host
                messages[m, OFFSET] = offsets[m]
                messages[m, LAYOUT] = known.places[place, OF_LAYOUT]
                messages[m, WORD] = columns
                messages[m, DEVICE_ROWS] = rows
                messages[m, PROCESS_ROWS] = process_rows
                kind = SAMPLES_MESSAGE
                if _words_due(known, place, rows, process_rows) != end - columns:
                    kind = WRONG_SIZE
                elif words[at + 1] != known.epochs[host]:
                    kind = OTHER_EPOCH
        messages[m, KIND] = kind
        unclear += kind != SAMPLES_MESSAGE
        at = end
    return int(unclear)
