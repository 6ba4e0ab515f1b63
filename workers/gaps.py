"""How long tasks go without a look at their event: counted by workers in their pages, by function.

A gap reaches from a task's beginning or its last look to its next look or its end. Counters only
grow, so the pool may read them at any time, and adds those of a dead worker to what it keeps.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import exp2, inf, log2

from workers.backend import Gaps
from workers.page import HEAD_WORDS, STACK_AT, WORD_BYTES, Page

#: Shorter gaps are counted without being measured: no stop feels them.
SHORT_GAP_S = 2.0**-12
_OCTAVE_OF_SHORT = -12
_BUCKETS_PER_OCTAVE = 2

# One function's counters, in words: its name, then these, then a bucket per half octave.
_SLOT_WORDS = 64
_NAME_WORDS = 13  # a task's name has at most 100 characters, all of them ASCII
_ATTEMPTS, _NEVER, _WORST = range(_NAME_WORDS, _NAME_WORDS + 3)
_FIRST_BUCKET = _WORST + 1
_BUCKETS = _SLOT_WORDS - _FIRST_BUCKET
_MAX_SLOTS = (STACK_AT // WORD_BYTES - HEAD_WORDS) // _SLOT_WORDS
_SHORT = 0  # the bucket of the gaps that are not measured


class Tally:
    """The worker's counters of one task function."""

    __slots__ = ("_at", "_places", "_times")

    def __init__(self, page: Page, slot: int) -> None:
        self._at = HEAD_WORDS + slot * _SLOT_WORDS
        self._places, self._times = page.places, page.times

    def end(self, attempts: int, never_looked: int, short_gaps: int) -> None:
        """So many attempts have ended, with so many gaps below SHORT_GAP_S."""
        at, places = self._at, self._places
        places[at + _ATTEMPTS] += attempts
        places[at + _NEVER] += never_looked
        places[at + _FIRST_BUCKET + _SHORT] += short_gaps

    def note(self, gap_s: float) -> None:
        """One gap of SHORT_GAP_S or more."""
        at = self._at
        self._times[at + _WORST] = max(self._times[at + _WORST], gap_s)
        self._places[at + _FIRST_BUCKET + bucket_of(gap_s)] += 1


class Tallies:
    """A worker's tallies, by task function; each gets its slot of the page when it first runs."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._known: dict[str, Tally] = {}

    def of(self, task: str) -> Tally:
        """The counters of a function; those that find no room share the last slot."""
        tally = self._known.get(task)
        if tally is None:
            slot = min(len(self._known), _MAX_SLOTS - 1)
            _write_name(self._page, slot, task)
            tally = self._known[task] = Tally(self._page, slot)
        return tally


@dataclass(slots=True)
class Counts:
    """One function's counters, added up."""

    attempts: int = 0
    never_looked: int = 0
    worst_s: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * _BUCKETS)

    def add(self, other: Counts) -> None:
        self.attempts += other.attempts
        self.never_looked += other.never_looked
        self.worst_s = max(self.worst_s, other.worst_s)
        self.buckets = [mine + more for mine, more in zip(self.buckets, other.buckets, strict=True)]

    def gaps(self) -> Gaps:
        """As the service sees them."""
        p99_s = min(percentile_s(self.buckets, 0.99), max(self.worst_s, SHORT_GAP_S))
        return Gaps(self.attempts, self.never_looked, self.worst_s, p99_s)


class GapBook:
    """The counters of all workers, also of those that have gone. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: dict[int, Page] = {}
        self._retired: dict[str, Counts] = {}

    def open(self, number: int, page: Page) -> None:
        """A worker has a page."""
        with self._lock:
            self._pages[number] = page

    def retire(self, number: int) -> None:
        """A worker has gone, and its page will: keep what it counted."""
        with self._lock:
            page = self._pages.pop(number, None)
            if page is not None:
                _add(self._retired, read(page))

    def add_lost(self, task: str, silent_s: float, *, has_looked: bool) -> None:
        """An attempt died with its worker, so long after its last look or its beginning."""
        counts = Counts(1, not has_looked, silent_s)
        counts.buckets[bucket_of(silent_s) if silent_s >= SHORT_GAP_S else _SHORT] = 1
        with self._lock:
            _add(self._retired, [(task, counts)])

    def gaps(self) -> dict[str, Gaps]:
        """By task function."""
        found: dict[str, Counts] = {}
        with self._lock:
            _add(found, self._retired.items())
            for page in self._pages.values():
                _add(found, read(page))
        return {task: counts.gaps() for task, counts in found.items()}


def bucket_of(gap_s: float) -> int:
    """Which half octave a gap of SHORT_GAP_S or more belongs to; the last one takes all above."""
    above = (log2(gap_s) - _OCTAVE_OF_SHORT) * _BUCKETS_PER_OCTAVE
    return min(int(above) + 1, _BUCKETS - 1)


def percentile_s(buckets: list[int], share: float) -> float:
    """The length that at most a `share` of the gaps exceed: the upper end of a bucket; 0.0 if empty.

    The last bucket has no end, so that is infinity.
    """
    left = sum(buckets) * share
    for bucket, count in enumerate(buckets):
        left -= count
        if count and left <= 0:
            is_last = bucket == _BUCKETS - 1
            return inf if is_last else exp2(_OCTAVE_OF_SHORT + bucket / _BUCKETS_PER_OCTAVE)
    return 0.0


def read(page: Page) -> Iterator[tuple[str, Counts]]:
    """What a worker has counted, by task function."""
    for slot in range(_MAX_SLOTS):
        at = HEAD_WORDS + slot * _SLOT_WORDS
        name = page.places[at : at + _NAME_WORDS].tobytes().rstrip(b"\0").decode("ascii", "replace")
        if not name:
            return
        first = at + _FIRST_BUCKET
        yield (
            name,
            Counts(
                page.places[at + _ATTEMPTS],
                page.places[at + _NEVER],
                page.times[at + _WORST],
                page.places[first : first + _BUCKETS].tolist(),
            ),
        )


def _write_name(page: Page, slot: int, task: str) -> None:
    at = HEAD_WORDS + slot * _SLOT_WORDS
    text = task.encode("ascii").ljust(_NAME_WORDS * WORD_BYTES, b"\0")
    page.places[at : at + _NAME_WORDS] = memoryview(text).cast("Q")


def _add(found: dict[str, Counts], more: Iterable[tuple[str, Counts]]) -> None:
    for task, counts in more:
        found.setdefault(task, Counts()).add(counts)
