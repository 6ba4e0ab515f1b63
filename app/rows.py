"""What is known of a batch and its tasks at one moment: what the store gives to its readers.

Times are seconds on the machine's monotonic clock; those of an earlier life of the machine lie
before its zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from app.lifecycle import FINAL, Actor, BatchState, TaskState
from app.schemas import DEFAULT_OPTIONS, BatchOptions
from workers.backend import Remarks, RunningTask

_NO_COUNTS = dict.fromkeys(TaskState, 0)


class Grace(Enum):
    """What a stop says of the grace when it gives no seconds (None never kills)."""

    DEFAULT = "default"  # the first stop takes the batch's own; a repeat leaves it as it is


#: Seconds, None (never kill), or nothing said.
GraceAsked = float | Grace | None


class Cause(NamedTuple):
    """Who brought about a change of state, and why."""

    actor: Actor
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class StopRow:
    """The stop of a batch or of one task."""

    requested: float
    reason: str | None
    grace_s: float | None  # from the request on; None never kills
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
    serial   its number in the store
    """

    id: str
    task: str
    total: int
    created: float
    name: str | None = None
    labels: Mapping[str, str] = MappingProxyType({})
    options: BatchOptions = DEFAULT_OPTIONS
    serial: int = 0

    def first_stop(self, now: float, reason: str | None, grace_s: GraceAsked) -> StopRow:
        """A stop of the batch, or of one of its tasks, that nobody has asked for before."""
        own_s = self.options.grace if isinstance(grace_s, Grace) else grace_s
        return StopRow(now, reason, own_s)


class BatchRow(NamedTuple):
    """A batch as it was at one moment; the counts add up to the total.

    run            1, and one more with each resume
    version        grows with every change but the begin of a task
    ended_tasks    outcomes there have ever been, those of earlier runs included
    stopped_tasks  of the tasks that ran when the stop came, how many have ended
    """

    given: NewBatchRow
    state: BatchState
    counts: Mapping[TaskState, int]
    started: float | None = None
    finished: float | None = None
    stop: StopRow | None = None
    version: int = 1
    ended_tasks: int = 0
    payload_bytes: int = 0
    run: int = 1
    stopped_tasks: int = 0
    failed_fast: bool = False
    is_to_purge: bool = False  # gone, once it has ended

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    @property
    def is_fresh(self) -> bool:
        """Whether it was accepted, and nothing else has happened."""
        return self.state is BatchState.QUEUED and self.started is None and self.is_plain

    @property
    def is_plain(self) -> bool:
        """Whether it is neither stopped nor purged: nothing of that needs to be written."""
        return self.stop is None and not self.failed_fast and not self.is_to_purge

    def with_running(self, running: int) -> BatchRow:
        """The same with so many of its pending tasks running."""
        if not running or self.is_final:
            return self
        pending = self.counts[TaskState.PENDING] - running
        return self._replace(
            counts={**self.counts, TaskState.RUNNING: running, TaskState.PENDING: pending}
        )


def all_counts(ended: dict[TaskState, int], total: int, *, is_final: bool) -> dict[TaskState, int]:
    """How many tasks are in each state: those without an outcome are skipped once all is over."""
    counts = _NO_COUNTS | ended
    rest = total - sum(ended.values())
    counts[TaskState.SKIPPED if is_final else TaskState.PENDING] += rest
    return counts


class Row(NamedTuple):
    """One task that has ended, or alone was skipped."""

    index: int  # type: ignore[assignment]  # tuple.index is never used here
    state: TaskState
    attempt: int
    began: float
    ended: float
    noticed: float  # 0.0 if it never saw its event set
    pid: int
    remarks: Remarks
    payload: bytes


@dataclass(slots=True)
class Note:
    """What is known of a task besides its outcome."""

    attempt: int = 0  # the last one that is known to have begun
    used: int = 0  # attempts that count against the limit
    began: float | None = None
    pid: int | None = None
    error: bytes | None = None  # of the attempt that failed, until the next one has ended
    progress: bytes | None = None
    savepoint: bytes | None = None
    stop: StopRow | None = None  # of this one task; a stop of its batch is told by the batch
    stack: StackRow | None = None

    @property
    def outlives_its_task(self) -> bool:
        """Whether any of it is still to be read when the task has ended."""
        return bool(self.progress or self.savepoint or self.stop or self.stack)


NO_NOTE = Note()


class TaskRow(NamedTuple):
    """One task as it was at one moment; `row` once it has ended, `page` while it runs."""

    index: int  # type: ignore[assignment]  # tuple.index is never used here
    state: TaskState
    row: Row | None = None
    page: RunningTask | None = None
    note: Note = NO_NOTE


class HistoryRow(NamedTuple):
    """A state that a batch came into; `receipt` of the stop that ended the run before it."""

    number: int
    at: float
    run: int
    state: BatchState
    cause: Cause
    receipt: bytes | None = None
