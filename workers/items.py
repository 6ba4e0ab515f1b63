"""The items of one batch, as JSON bytes in a few large segments: never a Python object per item."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

# A segment's offsets are 32 bits wide, which halves what a pending task costs.
_OFFSET = "I"
_MAX_SEGMENT_BYTES = 2**32 - 1


class Run(NamedTuple):
    """Consecutive items: their bytes end to end, and where each one ends in them."""

    first: int
    ends: array[int]
    text: bytes


class Items:
    """An append-only list of JSON texts.

    Memory: the texts themselves, 4 bytes per item, and a constant per segment.
    """

    __slots__ = ("_count", "_firsts", "_segments")

    def __init__(self, texts: Iterable[bytes] = ()) -> None:
        self._segments: list[tuple[bytes, array[int]]] = []
        self._firsts: list[int] = []
        self._count = 0
        texts = texts if isinstance(texts, list) else list(texts)
        if texts:
            self.append(texts)

    def __len__(self) -> int:
        return self._count

    def append(self, texts: Sequence[bytes]) -> None:
        """Add one segment. The texts must be valid JSON; raises ValueError over 4 GiB."""
        text = b"".join(texts)
        if len(text) > _MAX_SEGMENT_BYTES:
            raise ValueError("a segment holds at most 4 GiB of items")
        self._segments.append((text, array(_OFFSET, accumulate(map(len, texts)))))
        self._firsts.append(self._count)
        self._count += len(texts)

    def run(self, first: int, count: int) -> Run:
        """The items from `first` on: at most `count`, fewer where their segment ends."""
        number = bisect_right(self._firsts, first) - 1
        text, ends = self._segments[number]
        start = first - self._firsts[number]
        chosen = ends[start : start + count]
        begin = ends[start - 1] if start else 0
        if begin:
            chosen = array(_OFFSET, [end - begin for end in chosen])
        return Run(first, chosen, text[begin : begin + chosen[-1]])

    def one(self, index: int) -> bytes:
        """The JSON text of one item."""
        return self.run(index, 1).text
