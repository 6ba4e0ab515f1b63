"""Who is next: strict priority with aging, round robin within a priority; pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

#: A batch that has waited this long for a lease counts as one priority higher, and so on.
AGING_S = 5.0


class Candidate(Protocol):
    """Something that waits for workers."""

    @property
    def priority(self) -> int:
        """Higher goes first."""


C = TypeVar("C", bound=Candidate)


class Scheduler(Generic[C]):
    """The batches that have a lease to hand out, in the order in which they get one.

    Within a priority whoever has waited longest is next, so only the first of each needs looking
    at: choosing costs the number of different priorities, not of batches.
    """

    def __init__(self) -> None:
        self._lines: dict[int, OrderedDict[C, float]] = {}

    def add(self, candidate: C, now: float) -> None:
        """Queue it behind those of its priority; one that already waits keeps its place."""
        line = self._lines.get(candidate.priority)
        if line is None:
            line = self._lines[candidate.priority] = OrderedDict()
        line.setdefault(candidate, now)

    def remove(self, candidate: C) -> None:
        """Take it out, if it is in."""
        line = self._lines.get(candidate.priority)
        if line is not None and candidate in line:
            del line[candidate]
            if not line:
                del self._lines[candidate.priority]

    def first(self, now: float) -> C | None:
        """Whoever is next, left where it is; None if nobody waits."""
        if len(self._lines) == 1:
            [line] = self._lines.values()
            return next(iter(line))
        best: C | None = None
        best_rank = float("-inf")
        for priority, line in self._lines.items():
            candidate, since = next(iter(line.items()))
            rank = priority + (now - since) // AGING_S
            if rank > best_rank or (rank == best_rank and best and priority > best.priority):
                best, best_rank = candidate, rank
        return best

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._lines)

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))
