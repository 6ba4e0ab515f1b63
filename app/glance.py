"""One look at one batch or one task, from which an answer is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.lifecycle import FINAL, TASK_FINAL, BatchState, TaskState
from app.record import Record
from app.rows import NO_NOTE, BatchRow, Note, Row, TaskRow
from workers.backend import Backend, Outcome, RunningTask

#: Tasks whose end is being written, of which one look takes at most so many.
MOST_ENDING = 1_000


@dataclass(frozen=True, slots=True)
class Glance:
    """One batch as it was at one moment: what the store has, and what runs.

    record   as long as the batch is live
    running  tasks that have begun, by the workers' pages, and those whose end is not in the store yet
    """

    row: BatchRow
    record: Record | None = None
    running: Sequence[RunningTask] = ()
    unkillable: Sequence[int] = ()

    @property
    def is_final(self) -> bool:
        return self.row.is_final

    @property
    def open_state(self) -> TaskState:
        """What a task is that has no outcome and does not run."""
        return TaskState.SKIPPED if self.is_final else TaskState.PENDING

    def task(self, index: int, row: Row | None, note: Note | None) -> TaskRow:
        """One of its tasks, of which the store knows this."""
        note = note or NO_NOTE
        if row is not None:
            return TaskRow(index, row.state, row, note=note)
        page = next((task for task in self.running if task.index == index), None)
        state = self.open_state if page is None else TaskState.RUNNING
        return TaskRow(index, state, page=page, note=note)


@dataclass(frozen=True, slots=True)
class TaskGlance:
    """One task, and its batch, as they were at one moment."""

    batch: Glance
    task: TaskRow

    @property
    def is_final(self) -> bool:
        """Whether it has ended, and if it was stopped, nothing of it runs any more."""
        stop = self.task.note.stop
        return self.task.state in TASK_FINAL and (stop is None or stop.settled is not None)


def glance_at(record: Record, backend: Backend) -> Glance:
    """Look at a live batch: at its record, and at the workers' pages."""
    row = record.shown
    # A page may tell of the begin before the store does.
    if row.state in FINAL or row.state in _NOT_BEGUN:
        return Glance(row, record)
    batch_id = row.given.id
    pages = [task for task in backend.running(batch_id) if not record.has_ended(task.index)]
    ending = [_as_running(outcome) for outcome in record.first_unshown(MOST_ENDING)]
    count = len(pages) + max(len(ending), record.count_unshown)
    pending = row.counts[TaskState.PENDING]
    return Glance(
        row.with_running(min(count, pending)),
        record,
        pages + ending,
        backend.unkillable(batch_id),
    )


_NOT_BEGUN = frozenset({BatchState.QUEUED, BatchState.INTERRUPTED})


def _as_running(outcome: Outcome) -> RunningTask:
    """A task that has ended, as it was until then."""
    return RunningTask(
        outcome.index, outcome.attempt, outcome.pid, outcome.began, outcome.ended, is_waiting=True
    )
