"""A lease in a worker's hands, and the order to kill a worker for what it holds."""

from __future__ import annotations

from dataclasses import dataclass

from workers.backend import Ending
from workers.job import Job
from workers.loop import Timer
from workers.messages import Lease


class Held:
    """A lease in a worker's hands. Tasks are run and reported in order, so a count says it all."""

    __slots__ = (
        "done",
        "first_began",
        "is_called_back",
        "job",
        "last_ended",
        "lease",
        "predicted_s",
        "timer",
        "told",
        "until",
    )

    def __init__(self, job: Job, lease: Lease) -> None:
        self.job = job
        self.lease = lease
        self.done = 0  # tasks reported
        self.until = len(lease.indexes)  # less once the rest has been given back
        self.is_called_back = False  # the worker was told to begin nothing more of it
        self.predicted_s = self.until * job.task_s
        self.timer: Timer | None = None  # of the batch's time limit
        self.told = -1  # the position that was told that its time is up
        self.first_began = 0.0
        self.last_ended = 0.0

    def find(self, index: int) -> int | None:
        """Where a task is in this lease, if it is to run or runs; None if it is not, or has ended."""
        indexes = self.lease.indexes
        if index in indexes:
            position = indexes.index(index)
            if self.done <= position < self.until:
                return position
        return None

    @property
    def lasted_s(self) -> float:
        """From the beginning of its first task to the end of the last one reported."""
        return self.last_ended - self.first_began


@dataclass(slots=True, eq=False)
class Doom:
    """Why a worker is to be killed: for which lease, and what its task will have ended as."""

    ending: Ending
    held: Held
    position: int | None  # of the task it is killed for; None: whatever it has of its lease
    is_carried_out: bool = False
    freeze_due: float = 0.0  # when it must stand still
    is_waiting: bool = False  # a critical section holds it up
    waits_until: float = 0.0  # for the end of a critical section, at the latest; 0.0 if it did not
