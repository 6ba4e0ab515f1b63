"""One look at one batch or one task, from which an answer is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.lifecycle import FINAL, TASK_FINAL
from app.record import Record
from app.rows import BatchRow, TaskRow
from workers.backend import Backend, RunningTask


@dataclass(frozen=True, slots=True)
class Glance:
    """One batch as it was at one moment."""

    record: Record
    row: BatchRow
    running: Sequence[RunningTask]
    unkillable: Sequence[int]

    @property
    def is_final(self) -> bool:
        return self.row.state in FINAL


@dataclass(frozen=True, slots=True)
class TaskGlance:
    """One task, and its batch, as they were at one moment."""

    batch: Glance
    task: TaskRow

    @property
    def is_final(self) -> bool:
        """Whether it has ended, and if it was stopped, nothing of it runs any more."""
        stop = self.task.stop
        return self.task.state in TASK_FINAL and (stop is None or stop.settled is not None)


def glance_at(record: Record, backend: Backend) -> Glance:
    """Look at a batch: at its record, and at the workers' pages while it is active."""
    if record.state in FINAL:
        return Glance(record, record.snapshot(), (), ())
    batch_id = record.given.id
    running = backend.running(batch_id)
    return Glance(record, record.snapshot(running), running, backend.unkillable(batch_id))


def glance_at_task(record: Record, index: int, backend: Backend) -> TaskGlance:
    """Look at one task of a batch. Raises IndexError."""
    glance = glance_at(record, backend)
    return TaskGlance(glance, record.task(index, {task.index: task for task in glance.running}))
