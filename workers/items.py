"""The items of one batch, as JSON bytes in a few large segments: never a Python object per item."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import NamedTuple

# A segment's offsets are 32 bits wide, which halves what a pending task costs.
_OFFSET = "I"
_OFFSET_BYTES = array(_OFFSET).itemsize
_MAX_SEGMENT_BYTES = 2**32 - 1


class Run(NamedTuple):
    """Consecutive items: their bytes end to end, and where each one ends in them."""

    first: int
    ends: array[int]
    text: bytes


class Segment(NamedTuple):
    """Some consecutive items."""

    first: int
    ends: bytes  # where each one ends in `text`, as 32-bit words
    text: bytes


#: A segment as it is kept: unlike those of a class, plain tuples are of no interest to the garbage
#: collector, and there may be very many small batches.
_Kept = tuple[int, bytes, bytes]
_first_of: Callable[[_Kept], int] = itemgetter(0)


class Items:
    """An append-only list of JSON texts.

    Memory: the texts themselves, 4 bytes per item, and a constant per segment.
    """

    __slots__ = ("_count", "_segments")

    def __init__(self, texts: Iterable[bytes] = ()) -> None:
        self._segments: tuple[_Kept, ...] = ()
        self._count = 0
        texts = texts if isinstance(texts, list) else list(texts)
        if texts:
            self.append(texts)

    @classmethod
    def of(cls, segments: Iterable[Segment]) -> Items:
        """The items of these segments, which follow each other."""
        items = cls()
        items._segments = tuple((s.first, s.ends, s.text) for s in segments)
        items._count = sum(len(ends) // _OFFSET_BYTES for _, ends, _ in items._segments)
        return items

    def __len__(self) -> int:
        return self._count

    @property
    def text_bytes(self) -> int:
        """Bytes of all texts."""
        return sum(len(text) for _, _, text in self._segments)

    def segments(self) -> list[Segment]:
        """All of it, in pieces that follow each other."""
        return [Segment(*kept) for kept in self._segments]

    def append(self, texts: Sequence[bytes]) -> None:
        """Add one segment. The texts must be valid JSON; raises ValueError over 4 GiB."""
        text = b"".join(texts)
        if len(text) > _MAX_SEGMENT_BYTES:
            raise ValueError("a segment holds at most 4 GiB of items")
        ends = array(_OFFSET, accumulate(map(len, texts)))
        self._segments += ((self._count, ends.tobytes(), text),)
        self._count += len(texts)

    def run(self, first: int, count: int) -> Run:
        """The items from `first` on: at most `count`, fewer where their segment ends."""
        number = bisect_right(self._segments, first, key=_first_of) - 1
        begins, words, text = self._segments[number]
        start = (first - begins) * _OFFSET_BYTES
        ends = array(_OFFSET, words[start : start + count * _OFFSET_BYTES])
        if not start:
            return Run(first, ends, text[: ends[-1]])
        [begin] = array(_OFFSET, words[start - _OFFSET_BYTES : start])
        return Run(first, array(_OFFSET, [end - begin for end in ends]), text[begin : ends[-1]])

    def one(self, index: int) -> bytes:
        """The JSON text of one item."""
        return self.run(index, 1).text
