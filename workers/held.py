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
