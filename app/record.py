"""One batch as it is kept: what was asked, where it is, and what became of its tasks."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from app.columns import ENDING_OF, Columns, Row
from app.lifecycle import BATCH_MOVES, FINAL, BatchState, TaskState, batch_end
from app.notes import Notes
from app.rows import BatchRow, GraceAsked, NewBatchRow, StopRow, TaskRow
from workers.backend import Ending, Outcome, RunningTask, StackSample

#: About what a record takes besides its tasks' columns, for the limit on ended batches.
RECORD_BYTES = 4_096
#: A page of tasks is written in one go, so it ends where their results reach this.
PAGE_BYTES = 1 << 20

_UNDER_WAY = frozenset({BatchState.QUEUED, BatchState.RUNNING, BatchState.STOPPING})
_NO_COUNTS = dict.fromkeys(TaskState, 0)


class Record:
    """The mutable record; every method takes its lock, and none of them waits for anything else."""

    __slots__ = (
        "_columns",
        "_failed_fast",
        "_finished",
        "_lock",
        "_notes",
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
        self._notes: Notes | None = None  # most batches need none

    def __len__(self) -> int:
        return self.given.total

    @property
    def state(self) -> BatchState:
        return self._state

    @property
    def memory_bytes(self) -> int:
        """About what the record takes."""
        notes = 0 if self._notes is None else self._notes.memory_bytes
        return RECORD_BYTES + self._columns.memory_bytes + notes

    def outcome(self, index: int) -> tuple[Ending, bytes] | None:
        """How a task ended, for the batch's AsyncResult; None if it never started."""
        with self._lock:
            row = self._columns.row(index)
        ending = None if row is None else ENDING_OF.get(row.state)
        return None if row is None or ending is None else (ending, row.payload)

    def snapshot(self, running: Sequence[RunningTask] = ()) -> BatchRow:
        """The batch now; `running` is what the workers' pages show of it."""
        with self._lock:
            if running:  # a page may tell of the begin before the pool does
                self._begin(min(task.began for task in running))
            return BatchRow(
                self.given,
                self._state,
                self._counts(running, is_over=self._state in FINAL),
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
        self, now: float, reason: str | None, grace_s: GraceAsked, *, failed_fast: bool = False
    ) -> StopRow | None:
        """Note a stop, or join the one under way; None if the batch had ended before.

        A repeat changes nothing but the grace, and can only shorten it.
        """
        with self._lock:
            if self._state in FINAL:
                return None
            if self._stop is None:
                self._move({BatchState.QUEUED, BatchState.RUNNING}, BatchState.STOPPING)
                stop = self.given.first_stop(now, reason, grace_s, len(self._columns))
                self._failed_fast = failed_fast
            else:
                stop = self._stop.joined(grace_s)
            if stop is not self._stop:
                self._stop = stop
                self._version += 1
                if self._notes is not None:
                    self._notes.tighten(stop)
            return stop

    def request_task_stop(
        self, index: int, now: float, reason: str | None, grace_s: GraceAsked
    ) -> StopRow | None:
        """Note a stop of one task, or join its own or its batch's; None if it had ended before.

        raises  IndexError if there is no such task
        """
        if not 0 <= index < self.given.total:
            raise IndexError(index)
        with self._lock:
            known = None if self._notes is None else self._notes.stops.get(index)
            has_ended = self._state in FINAL or self._columns.state(index) is not None
            # The outcome of a stopped task may be here while something it left is still ended.
            if has_ended and (known is None or known.settled is not None):
                return None
            stop = known or self._stop or self.given.first_stop(now, reason, grace_s)
            self._noted().stops[index] = stop = stop.joined(grace_s)
            return stop

    def settle_task_stop(self, index: int, now: float) -> None:
        """Nothing of a stopped task runs, or will: without an outcome it was dropped before."""
        with self._lock:
            self._noted().settle_stop(index, now)
            if self._state not in FINAL:
                self._columns.skip(index, now)
                self._version += 1

    def append(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Tasks have ended; gives the outcomes that came for tasks that had ended before."""
        with self._lock:
            refused = self._columns.append(outcomes)
            self._version += 1
            if self._started is None:  # over so soon that nobody announced its begin
                ran = [outcome.began for outcome in outcomes if outcome.attempt]  # 0: skipped
                if ran:
                    self._begin(min(ran))
            if self._notes is not None:
                self._notes.ended(outcomes)
        return refused

    def retry(self, outcome: Outcome) -> None:
        """An attempt failed, and there will be another."""
        with self._lock:
            self._noted().retry(outcome)
            self._version += 1

    def progress(self, index: int, text: bytes) -> None:
        """A running task reported its progress."""
        with self._lock:
            self._noted().progress[index] = text

    def save(self, index: int, savepoint: bytes) -> None:
        """A running task saved how far it has come."""
        with self._lock:
            self._noted().savepoints[index] = savepoint

    def sample(self, index: int, attempt: int, sample: StackSample) -> None:
        """A running task has not looked at its event for longer than its limit."""
        with self._lock:
            self._noted().sample(index, attempt, sample)

    def settle(self, now: float) -> dict[TaskState, int] | None:
        """Nothing of the batch runs any more: give it its final state.

        returns  its tasks by state; None if it had ended before
        """
        with self._lock:
            counts = self._counts((), is_over=True)
            end = batch_end(
                counts, was_stopped=self._stop is not None, failed_fast=self._failed_fast
            )
            if not self._move(_UNDER_WAY, end):
                return None
            self._finished = now
            if self._stop is not None:
                self._stop = replace(self._stop, settled=now)
            if self._notes is not None:
                self._notes.settle(now)
            return counts

    def ended_since_stop(self, limit: int) -> list[Row]:
        """The first tasks that ran when the stop was asked for, in the order they ended."""
        with self._lock:
            stop = self._stop
            late = self._columns.late_rows(stop.first_row, stop.requested) if stop else ()
            return [*islice(late, limit)]

    def count_since_stop(self) -> int:
        """How many tasks ran when the stop was asked for, and have ended since."""
        with self._lock:
            stop = self._stop
            return 0 if stop is None else self._columns.count_late(stop.first_row, stop.requested)

    def still_running(self, running: Sequence[RunningTask]) -> list[TaskRow]:
        """Those of the tasks on the workers' pages that have no outcome yet."""
        with self._lock:
            pages = {} if self._state in FINAL else {task.index: task for task in running}
            return [self._task(at, pages) for at in pages if self._columns.state(at) is None]

    def task(self, index: int, running: Mapping[int, RunningTask]) -> TaskRow:
        """One task now. Raises IndexError if there is none."""
        if not 0 <= index < self.given.total:
            raise IndexError(index)
        with self._lock:
            task, notes = self._task(index, running), self._notes
            return task if notes is None else notes.savepoint_added_to(task)

    def tasks(
        self,
        states: Collection[TaskState],
        running: Mapping[int, RunningTask],
        start: int,
        limit: int,
        most_bytes: int = PAGE_BYTES,
    ) -> tuple[list[TaskRow], int | None]:
        """A page of tasks in one of `states`, in index order from `start` on: at most `limit`.

        Ends early, after at least one task, when the payloads reach `most_bytes`.
        returns  the tasks, and the index of the next; None if there is none
        """
        with self._lock:
            pages = {} if self._state in FINAL else running
            opened = {at: page for at, page in pages.items() if self._columns.state(at) is None}
            found = self._columns.find(states, self._open_state(), opened, start, limit + 1)
            count = self._columns.count_within(found[:limit], most_bytes)
            tasks = [self._task(index, opened) for index in found[:count]]
            return tasks, found[count] if count < len(found) else None

    def ended_tasks(self) -> int:
        """How many tasks have ended."""
        return len(self._columns)

    def ended_rows(self, start: int, stop: int, before: int, most_bytes: int) -> list[Row]:
        """In index order, the tasks in [start, stop) among the first `before` that ended.

        Ends early, after at least one row, when the payloads reach `most_bytes`.
        """
        with self._lock:
            return self._columns.rows(self._columns.next_ended(start, stop, before), most_bytes)

    def _task(self, index: int, running: Mapping[int, RunningTask]) -> TaskRow:
        row, page = self._columns.row(index), None
        if row is not None:
            state = row.state
        else:
            page = running.get(index) if self._state not in FINAL else None
            state = self._open_state() if page is None else TaskState.RUNNING
        task = TaskRow(index, state, row, page)
        return task if self._notes is None else self._notes.added_to(task)

    def _noted(self) -> Notes:
        if self._notes is None:
            self._notes = Notes()
        return self._notes

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

    def _counts(self, running: Sequence[RunningTask], *, is_over: bool) -> dict[TaskState, int]:
        counts = _NO_COUNTS | self._columns.counts
        rest = self.given.total - len(self._columns)
        if is_over:
            counts[TaskState.SKIPPED] += rest
        else:
            opened = sum(self._columns.state(task.index) is None for task in running)
            counts[TaskState.RUNNING] = opened
            counts[TaskState.PENDING] = rest - opened
        return counts
