"""One batch as it is kept: what was asked, where it is, and what became of its tasks."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from app.columns import ENDING_OF, Columns, Row
from app.lifecycle import BATCH_MOVES, FINAL, BatchState, TaskState, batch_end
from app.rows import BatchRow, Grace, NewBatchRow, StopRow, TaskRow
from workers.backend import Ending, Outcome, RunningTask

#: About what a record takes besides its tasks' columns, for the limit on ended batches.
RECORD_BYTES = 4_096
#: About what one report of progress takes besides its text.
PROGRESS_BYTES = 200
#: Progress of more tasks than this is not kept once they have ended.
KEPT_PROGRESS = 10_000

_NO_COUNTS = dict.fromkeys(TaskState, 0)


class Record:
    """The mutable record; every method takes its lock, and none of them waits for anything else."""

    __slots__ = (
        "_columns",
        "_failed_fast",
        "_finished",
        "_lock",
        "_progress",
        "_retries",
        "_started",
        "_state",
        "_stop",
        "_version",
        "given",
    )

    def __init__(self, given: NewBatchRow) -> None:
        self.given = given
        self._lock = threading.Lock()
        self._state = BatchState.QUEUED
        self._columns = Columns(given.total)
        self._started: float | None = None
        self._finished: float | None = None
        self._stop: StopRow | None = None
        self._failed_fast = False
        self._version = 1
        self._progress: dict[int, bytes] = {}
        self._retries: dict[int, Outcome] = {}

    def __len__(self) -> int:
        return self.given.total

    @property
    def state(self) -> BatchState:
        return self._state

    @property
    def memory_bytes(self) -> int:
        """About what the record takes."""
        progress = sum(map(len, self._progress.values())) + PROGRESS_BYTES * len(self._progress)
        return RECORD_BYTES + self._columns.memory_bytes + progress

    def outcome(self, index: int) -> tuple[Ending, bytes] | None:
        """How a task ended, for the batch's AsyncResult."""
        with self._lock:
            row = self._columns.row(index)
        return None if row is None else (ENDING_OF[row.state], row.payload)

    def snapshot(self, running: Sequence[RunningTask] = ()) -> BatchRow:
        """The batch now; `running` is what the workers' pages show of it."""
        with self._lock:
            if running:  # a page may tell of the begin before the pool does
                self._begin(min(task.began for task in running))
            return BatchRow(
                self.given,
                self._state,
                self._counts(running),
                self._started,
                self._finished,
                self._stop,
                self._version,
                len(self._columns),
                self._columns.payload_bytes,
            )

    def compare_and_set(self, expected: Collection[BatchState], state: BatchState) -> bool:
        """Move to `state` if it is in one of `expected` and the move is legal; whether it moved."""
        with self._lock:
            return self._move(expected, state)

    def begin(self, at: float) -> None:
        """Its first task has begun."""
        with self._lock:
            self._begin(at)

    def request_stop(
        self,
        now: float,
        reason: str | None,
        grace_s: float | Grace | None,
        *,
        failed_fast: bool = False,
    ) -> StopRow | None:
        """Note a stop, or join the one under way; None if the batch had ended before.

        A repeat changes nothing but the grace, and can only shorten it.
        """
        with self._lock:
            if self._state in FINAL:
                return None
            if self._stop is None:
                self._move({BatchState.QUEUED, BatchState.RUNNING}, BatchState.STOPPING)
                first_grace_s = self.given.options.grace if grace_s is Grace.DEFAULT else grace_s
                self._stop = StopRow(now, reason, first_grace_s, len(self._columns))
                self._failed_fast = failed_fast
                self._version += 1
            elif grace_s is not Grace.DEFAULT and is_shorter(grace_s, self._stop.grace_s):
                self._stop = replace(self._stop, grace_s=grace_s)
                self._version += 1
            return self._stop

    def append(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Tasks have ended; gives the outcomes that came for tasks that had ended before."""
        with self._lock:
            refused = self._columns.append(outcomes)
            self._version += 1
            if self._started is None:  # over so soon that nobody announced its begin
                self._begin(min(outcome.began for outcome in outcomes))
            if self._retries:
                for outcome in outcomes:
                    self._retries.pop(outcome.index, None)
            if len(self._progress) > KEPT_PROGRESS:
                for outcome in outcomes:
                    self._progress.pop(outcome.index, None)
        return refused

    def retry(self, outcome: Outcome) -> None:
        """An attempt failed, and there will be another."""
        with self._lock:
            self._retries[outcome.index] = outcome
            self._progress.pop(outcome.index, None)
            self._version += 1

    def progress(self, index: int, text: bytes) -> None:
        """A running task reported its progress."""
        with self._lock:
            self._progress[index] = text

    def settle(self, now: float) -> bool:
        """Nothing of the batch runs any more: give it its final state; whether this call did."""
        with self._lock:
            end = batch_end(
                self._final_counts(),
                was_stopped=self._stop is not None,
                failed_fast=self._failed_fast,
            )
            if not self._move({BatchState.QUEUED, BatchState.RUNNING, BatchState.STOPPING}, end):
                return False
            self._finished = now
            if self._stop is not None:
                self._stop = replace(self._stop, settled=now)
            self._retries.clear()
            return True

    def ended_since_stop(self, limit: int) -> list[Row]:
        """The first tasks that ended after the stop was asked for, in the order they ended."""
        with self._lock:
            stop = self._stop
            if stop is None:
                return []
            late = (r for r in self._columns.rows_from(stop.first_row) if r.ended >= stop.requested)
            return [row for row, _ in zip(late, range(limit), strict=False)]

    def count_since_stop(self) -> int:
        """How many tasks ended after the stop was asked for."""
        with self._lock:
            stop = self._stop
            return 0 if stop is None else self._columns.count_late(stop.first_row, stop.requested)

    def is_open(self, index: int) -> bool:
        """Whether a task has no outcome yet."""
        with self._lock:
            return self._state not in FINAL and self._columns.state(index) is None

    def task(self, index: int, running: Mapping[int, RunningTask]) -> TaskRow:
        """One task now. Raises IndexError if there is none."""
        if not 0 <= index < self.given.total:
            raise IndexError(index)
        with self._lock:
            return self._task(index, running)

    def tasks(
        self,
        states: Collection[TaskState],
        running: Mapping[int, RunningTask],
        start: int,
        limit: int,
    ) -> list[TaskRow]:
        """At most `limit` tasks in one of `states`, in index order from `start` on."""
        with self._lock:
            if self._state in FINAL:
                running = {}
            opened = {at: page for at, page in running.items() if self._columns.state(at) is None}
            found = self._columns.find(states, self._open_state(), opened, start, limit)
            return [self._task(index, opened) for index in found]

    def ended_tasks(self) -> int:
        """How many tasks have ended."""
        return len(self._columns)

    def ended_rows(self, start: int, stop: int, before: int, most_bytes: int) -> list[Row]:
        """In index order, the tasks in [start, stop) among the first `before` that ended.

        Ends early, after at least one row, when the payloads reach `most_bytes`.
        """
        with self._lock:
            found = self._columns.next_ended(start, stop, before)
            rows, size = [], 0
            for index in found:
                row = self._columns.row(index)
                assert row is not None
                rows.append(row)
                size += len(row.payload)
                if size >= most_bytes:
                    break
        return rows

    def _task(self, index: int, running: Mapping[int, RunningTask]) -> TaskRow:
        progress = self._progress.get(index)
        row = self._columns.row(index)
        if row is not None:
            return TaskRow(index, row.state, row, None, None, progress)
        page = running.get(index) if self._state not in FINAL else None
        state = self._open_state() if page is None else TaskState.RUNNING
        return TaskRow(index, state, None, page, self._retries.get(index), progress)

    def _open_state(self) -> TaskState:
        """What a task is that has no outcome and does not run."""
        return TaskState.SKIPPED if self._state in FINAL else TaskState.PENDING

    def _begin(self, at: float) -> None:
        if self._started is None and self._state not in FINAL:
            self._started = at
            self._version += 1
            self._move({BatchState.QUEUED}, BatchState.RUNNING)

    def _move(self, expected: Collection[BatchState], state: BatchState) -> bool:
        """The only place that assigns a batch's state."""
        if self._state not in expected or state not in BATCH_MOVES[self._state]:
            return False
        self._state = state
        self._version += 1
        return True

    def _counts(self, running: Sequence[RunningTask]) -> dict[TaskState, int]:
        counts = _NO_COUNTS | self._columns.counts
        rest = self.given.total - len(self._columns)
        if self._state in FINAL:
            counts[TaskState.SKIPPED] = rest
        else:
            opened = sum(self._columns.state(task.index) is None for task in running)
            counts[TaskState.RUNNING] = opened
            counts[TaskState.PENDING] = rest - opened
        return counts

    def _final_counts(self) -> dict[TaskState, int]:
        skipped = self.given.total - len(self._columns)
        return {**self._columns.counts, TaskState.SKIPPED: skipped}


def is_shorter(grace_s: float | None, than_s: float | None) -> bool:
    """Whether one grace ends before another; None never ends."""
    return grace_s is not None and (than_s is None or grace_s < than_s)
