"""What is known of a batch and its tasks at one moment: what the store gives to its readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from app.columns import Row
from app.lifecycle import BatchState, TaskState
from app.schemas import BatchOptions
from workers.backend import Outcome, RunningTask

DEFAULT_OPTIONS = BatchOptions()


class Grace(Enum):
    """What a stop says of the grace when it gives no seconds (None never kills)."""

    DEFAULT = "default"  # the first stop takes the batch's own; a repeat leaves it as it is


#: Seconds, None (never kill), or nothing said.
GraceAsked = float | Grace | None


@dataclass(frozen=True, slots=True)
class StopRow:
    """The stop of a batch or of one task. Times are seconds on the machine's monotonic clock."""

    requested: float
    reason: str | None
    grace_s: float | None  # from the request on; None never kills
    first_row: int = 0  # of a batch: tasks that ended before the request have lower rows
    settled: float | None = None

    @property
    def kill_at(self) -> float | None:
        """When the grace is over; None if it never is."""
        return None if self.grace_s is None else self.requested + self.grace_s

    def joined(self, grace_s: GraceAsked) -> StopRow:
        """This stop after a repeat, which changes nothing but the grace, and can only shorten it."""
        if isinstance(grace_s, Grace) or not is_shorter(grace_s, self.grace_s):
            return self
        return replace(self, grace_s=grace_s)


def is_shorter(grace_s: float | None, than_s: float | None) -> bool:
    """Whether one grace ends before another; None never ends."""
    return grace_s is not None and (than_s is None or grace_s < than_s)


class StackRow(NamedTuple):
    """Where one attempt was that had not looked at its event for longer than its limit."""

    attempt: int
    taken: float
    silent_s: float
    text: str


class NewBatchRow(NamedTuple):
    """What is known of a batch when it is accepted, and never changes.

    options  with every default filled in, the service's own included
    """

    id: str
    task: str
    total: int
    created: float
    name: str | None = None
    labels: Mapping[str, str] = MappingProxyType({})
    options: BatchOptions = DEFAULT_OPTIONS

    def first_stop(
        self, now: float, reason: str | None, grace_s: GraceAsked, first_row: int = 0
    ) -> StopRow:
        """A stop of the batch, or of one of its tasks, that nobody has asked for before."""
        own_s = self.options.grace if isinstance(grace_s, Grace) else grace_s
        return StopRow(now, reason, own_s, first_row)


class BatchRow(NamedTuple):
    """A batch as it was at one moment; the counts add up to the total.

    version  grows with every change but the begin of a task
    """

    given: NewBatchRow
    state: BatchState
    counts: dict[TaskState, int]
    started: float | None
    finished: float | None
    stop: StopRow | None
    version: int
    ended_tasks: int
    payload_bytes: int


class TaskRow(NamedTuple):
    """One task as it was at one moment; `row` once it has ended, `page` while it runs.

    stop  of this one task; a stop of its batch is told by the batch
    """

    index: int  # type: ignore[assignment]  # tuple.index is never used here
    state: TaskState
    row: Row | None = None
    page: RunningTask | None = None
    retry_after: Outcome | None = None  # the attempt that failed, while it waits for the next
    progress: bytes | None = None
    stop: StopRow | None = None
    stack: StackRow | None = None
    savepoint: bytes | None = None  # not in a list: it may be large
