"""The store: every batch this service knows, in memory; a state change is compare-and-set."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from time import monotonic

from app.lifecycle import ACTIVE, FINAL, BatchState, TaskState
from app.record import Record
from app.rows import BatchRow, GraceAsked, NewBatchRow, StopRow
from workers.backend import Outcome, RunningTask, StackSample

#: So many ids of batches that were dropped may always be left.
MOST_STALE_IDS = 1_000


@dataclass(frozen=True, slots=True)
class Filter:
    """Which batches: any of `states`, any of `tasks`, all of `labels`; an empty one lets all by."""

    states: frozenset[BatchState] = frozenset()
    tasks: frozenset[str] = frozenset()
    labels: frozenset[tuple[str, str]] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.states or self.tasks or self.labels)

    def matches(self, record: Record) -> bool:
        given = record.given
        return (
            (not self.states or record.state in self.states)
            and (not self.tasks or given.task in self.tasks)
            and (not self.labels or self.labels <= given.labels.items())
        )


@dataclass(slots=True)
class Totals:
    """What has happened since the start, dropped batches included."""

    created: int = 0
    ended: Counter[BatchState] = field(default_factory=Counter)
    tasks: Counter[TaskState] = field(default_factory=Counter)
    retries: int = 0
    dropped: int = 0
    purged: int = 0


class Store:
    """Batches by id. Every method may be called from any thread, and none blocks for long.

    Ended batches are bounded: beyond `keep_ended`, or `keep_ended_bytes` in all, the one that ended
    first is dropped. The one that ended last is always kept.
    """

    def __init__(self, keep_ended: int, keep_ended_bytes: int) -> None:
        self._keep_ended = keep_ended
        self._keep_ended_bytes = keep_ended_bytes
        self._lock = threading.Lock()  # guards everything below; taken before a record's own
        self._records: dict[str, Record] = {}
        self._ids: list[str] = []  # sorted: ids grow with time; those of dropped ones still in it
        self._ended: OrderedDict[str, int] = OrderedDict()  # in the order they ended, with bytes
        self._ended_bytes = 0
        self._to_purge: set[str] = set()  # active ones, to be forgotten when they have ended
        self._totals = Totals()

    def __len__(self) -> int:
        return len(self._records)

    def insert(self, given: NewBatchRow) -> Record:
        """Accept a batch; its record is what the batch's AsyncResult reads."""
        record = Record(given)
        with self._lock:
            self._records[given.id] = record
            if self._ids and given.id < self._ids[-1]:  # two threads that made ids at once
                self._ids.insert(bisect_left(self._ids, given.id), given.id)
            else:
                self._ids.append(given.id)
            self._totals.created += 1
        return record

    def discard(self, batch_id: str) -> None:
        """Take back a batch that was never told to anybody."""
        with self._lock:
            self._totals.created -= 1
            self._remove(batch_id)

    def get(self, batch_id: str, running: Sequence[RunningTask] = ()) -> BatchRow | None:
        """A batch as it is now; `running` is what the workers' pages show of it."""
        record = self._records.get(batch_id)
        return None if record is None else record.snapshot(running)

    def record(self, batch_id: str) -> Record | None:
        """A batch's record, which stays readable for whoever holds it, also once dropped."""
        return self._records.get(batch_id)

    def scan(
        self, wanted: Filter, before: str | None, limit: int, most_looks: int
    ) -> tuple[list[Record], str | None]:
        """Newest first, matching batches older than `before`: at most `limit`.

        returns  the records and the id to go on before, which is None at the end; after `most_looks`
                 batches it pauses, so that a rare match never holds everybody else up
        """
        with self._lock:
            end = len(self._ids) if before is None else bisect_left(self._ids, before)
            chosen = self._ids[max(0, end - most_looks) : end]
        found: list[Record] = []
        for batch_id in reversed(chosen):
            record = self._records.get(batch_id)
            if record is not None and wanted.matches(record):
                found.append(record)
                if len(found) == limit:
                    return found, batch_id if batch_id != chosen[0] or end > most_looks else None
        return found, chosen[0] if end > most_looks else None

    def active_ids(self) -> list[str]:
        """Every batch that has not ended, oldest first."""
        with self._lock:
            return [i for i in self._ids if i in self._records and i not in self._ended]

    def compare_and_set(
        self, batch_id: str, expected: Collection[BatchState], state: BatchState
    ) -> bool:
        """Move a batch on if it is in one of `expected` and the move is legal; whether it moved."""
        record = self._records.get(batch_id)
        return record is not None and record.compare_and_set(expected, state)

    def begin(self, batch_id: str, at: float) -> None:
        """The batch's first task has begun."""
        self._records[batch_id].begin(at)

    def request_stop(
        self,
        batch_id: str,
        reason: str | None,
        grace_s: GraceAsked,
        *,
        failed_fast: bool = False,
    ) -> StopRow | None:
        """Note a stop or join the one under way; None if the batch has ended or is unknown."""
        record = self._records.get(batch_id)
        if record is None:
            return None
        return record.request_stop(monotonic(), reason, grace_s, failed_fast=failed_fast)

    def append(self, batch_id: str, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Tasks have ended; gives the outcomes refused because their task had ended before."""
        return self._records[batch_id].append(outcomes)

    def retry(self, batch_id: str, outcome: Outcome) -> None:
        """An attempt failed, and there will be another."""
        self._records[batch_id].retry(outcome)
        with self._lock:
            self._totals.retries += 1

    def progress(self, batch_id: str, index: int, text: bytes) -> None:
        """A running task reported its progress."""
        self._records[batch_id].progress(index, text)

    def save(self, batch_id: str, index: int, savepoint: bytes) -> None:
        """A running task saved how far it has come."""
        self._records[batch_id].save(index, savepoint)

    def sample(self, batch_id: str, index: int, attempt: int, sample: StackSample) -> None:
        """A running task has not looked at its event for longer than its limit."""
        self._records[batch_id].sample(index, attempt, sample)

    def settle(self, batch_id: str) -> bool:
        """The batch has ended; drops older ones over the limits; whether this call ended it."""
        record = self._records[batch_id]
        counts = record.settle(monotonic())
        if counts is None:
            return False
        size, tasks = record.memory_bytes, self._totals.tasks
        with self._lock:
            self._totals.ended[record.state] += 1
            for state, count in counts.items():
                if count:
                    tasks[state] += count
            if batch_id in self._to_purge:
                self._purge(batch_id)
                return True
            self._ended[batch_id] = size
            self._ended_bytes += size
            while len(self._ended) > 1 and self._is_over_limit():
                self._totals.dropped += 1
                self._remove(next(iter(self._ended)))
        return True

    def purge(self, batch_id: str) -> None:
        """Forget a batch: at once if it has ended, else as soon as it has."""
        with self._lock:
            if batch_id in self._ended:
                self._purge(batch_id)
            elif batch_id in self._records:
                self._to_purge.add(batch_id)

    def totals(self) -> tuple[Totals, Counter[BatchState], Counter[TaskState]]:
        """What happened since the start, the active batches by state, and their tasks by state."""
        states: Counter[BatchState] = Counter(dict.fromkeys(ACTIVE, 0))
        tasks: Counter[TaskState] = Counter()
        with self._lock:
            totals = Totals(
                self._totals.created,
                self._totals.ended.copy(),
                self._totals.tasks.copy(),
                self._totals.retries,
                self._totals.dropped,
                self._totals.purged,
            )
            # Under the lock, so that a batch that ends meanwhile is counted exactly once.
            for record in (r for i, r in self._records.items() if i not in self._ended):
                row = record.snapshot()
                states[row.state] += row.state not in FINAL
                tasks.update(row.counts)
        return totals, states, tasks

    def _is_over_limit(self) -> bool:
        return len(self._ended) > self._keep_ended or self._ended_bytes > self._keep_ended_bytes

    def _purge(self, batch_id: str) -> None:
        self._to_purge.discard(batch_id)
        self._totals.purged += 1
        self._remove(batch_id)

    def _remove(self, batch_id: str) -> None:
        self._records.pop(batch_id, None)
        self._ended_bytes -= self._ended.pop(batch_id, 0)
        # Taking one out of the list moves all behind it, so they go when they are half of it.
        if len(self._ids) > 2 * len(self._records) + MOST_STALE_IDS:
            self._ids = [each for each in self._ids if each in self._records]
