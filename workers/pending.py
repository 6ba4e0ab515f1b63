"""Which tasks of one batch wait for a worker, and in what order they are handed out."""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from collections.abc import Iterable, Sequence

#: What most batches never need more of than this: never to be changed, see `_own`.
_NONE_DROPPED: set[int] = set()
_NO_ORDER: list[int] = []
_NONE_RETURNED: deque[tuple[int, int]] = deque()


class Pending:
    """First those that came back, then the rest in index order; a task may be dropped alone."""

    __slots__ = ("_dropped", "_ended", "_left", "_next", "_order", "_returned", "_total")

    def __init__(self, total: int, ended: bytes = b"") -> None:
        """ended: one byte per task, 1 if it is never to be handed out. Raises ValueError."""
        if ended and (len(ended) != total or ended.count(0) + ended.count(1) != total):
            raise ValueError(f"there must be a 0 or a 1 for each of {total} tasks")
        self._total = total
        self._left = total - ended.count(1)
        self._ended: bytes | bytearray = ended
        self._next = 0  # what lies from here on has never been handed out
        self._dropped = _NONE_DROPPED  # some that lie there, and never will be
        self._order = _NO_ORDER  # those, as a heap
        self._returned = _NONE_RETURNED  # (index, attempt)

    def __len__(self) -> int:
        return self._left

    @property
    def has_returned(self) -> bool:
        """Whether some that were handed out before are next."""
        return bool(self._returned)

    def take(self, most: int) -> tuple[int, int]:
        """The next run of neighbours that were never handed out: first index, at most how many."""
        self._pass_dropped()
        before = self._order[0] if self._order else self._total
        most = min(most, before - self._next)
        if self._ended:
            ended = self._ended.find(1, self._next, self._next + most)
            most = ended - self._next if ended >= 0 else most
        return self._next, most

    def taken(self, count: int) -> None:
        """So many of that run were handed out."""
        self._next += count
        self._left -= count
        self._pass_dropped()

    def take_returned(self, most: int) -> tuple[array[int], int]:
        """Some of those that came back, of one attempt: their indexes, and the attempt."""
        attempt = self._returned[0][1]
        indexes = array("I")
        while self._returned and len(indexes) < most and self._returned[0][1] == attempt:
            indexes.append(self._returned.popleft()[0])
        self._left -= len(indexes)
        return indexes, attempt

    def go_on(self, index: int, attempt: int) -> bool:
        """This one was begun before: it comes before those that never were; False if it has ended.

        raises  ValueError if there is no such task
        """
        if not 0 <= index < self._total:
            raise ValueError(f"there is no task {index} among {self._total}")
        self._own()
        if not self._ended:
            self._ended = bytearray(self._total)
        elif isinstance(self._ended, bytes):
            self._ended = bytearray(self._ended)
        if self._ended[index]:
            return False
        self._ended[index] = 1
        self._returned.append((index, attempt))
        return True

    def give_back(self, indexes: Sequence[int], attempt: int) -> None:
        """These were handed out and have not begun: they are next."""
        self._own()
        self._left += len(indexes)
        self._returned.extendleft((index, attempt) for index in reversed(indexes))

    def add(self, index: int, attempt: int) -> None:
        """This one may be tried again: it comes after those that came back."""
        self._own()
        self._left += 1
        self._returned.append((index, attempt))

    def drop(self, index: int) -> bool:
        """Never hand this one out; whether it was waiting."""
        self._own()
        if self._next <= index < self._total and not self._is_never(index):
            self._dropped.add(index)
            heapq.heappush(self._order, index)
            self._left -= 1
            return True
        for entry in self._returned:
            if entry[0] == index:
                self._returned.remove(entry)
                self._left -= 1
                return True
        return False

    def clear(self) -> Iterable[int]:
        """Never hand anything out any more; which of those that came back were waiting."""
        returned = [index for index, _ in self._returned]
        self._next, self._left = self._total, 0
        self._dropped.clear()
        self._order.clear()
        self._returned.clear()
        return returned

    def _is_never(self, index: int) -> bool:
        """Whether it will not be handed out in its turn: dropped, ended, or to go on first."""
        return index in self._dropped or bool(self._ended and self._ended[index])

    def _pass_dropped(self) -> None:
        """Go to the next that may be handed out."""
        before = -1
        while before != self._next:
            before = self._next
            if self._ended:
                waiting = self._ended.find(0, self._next)
                self._next = waiting if waiting >= 0 else self._total
            while self._order and self._order[0] <= self._next:
                self._next = max(self._next, self._order[0] + 1)
                self._dropped.discard(heapq.heappop(self._order))

    def _own(self) -> None:
        """Have containers of its own. Not from the start: there may be very many small batches."""
        if self._returned is _NONE_RETURNED:
            self._dropped, self._order, self._returned = set(), [], deque()
