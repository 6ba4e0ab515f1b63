"""What is known of a batch and its tasks at one moment: what the store gives to its readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from app.columns import Row
from app.lifecycle import BatchState, TaskState
from app.schemas import BatchOptions
from workers.backend import Outcome, RunningTask

DEFAULT_OPTIONS = BatchOptions()


class Grace(Enum):
    """What a stop says of the grace when it gives no seconds (None never kills)."""

    DEFAULT = "default"  # the first stop takes the batch's own; a repeat leaves it as it is


@dataclass(frozen=True, slots=True)
class StopRow:
    """A stop that was asked for. Times are seconds on the machine's monotonic clock."""

    requested: float
    reason: str | None
    grace_s: float | None  # from the request on; None never kills
    first_row: int  # tasks that ended before the request have lower rows
    settled: float | None = None


@dataclass(frozen=True, slots=True)
class NewBatchRow:
    """What is known of a batch when it is accepted, and never changes.

    options  with every default filled in, the service's own included
    """

    id: str
    task: str
    total: int
    created: float
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    options: BatchOptions = DEFAULT_OPTIONS


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
    """One task as it was at one moment; `row` once it has ended, `page` while it runs."""

    index: int  # type: ignore[assignment]  # tuple.index is never used here
    state: TaskState
    row: Row | None = None
    page: RunningTask | None = None
    retry_after: Outcome | None = None  # the attempt that failed, while it waits for the next
    progress: bytes | None = None
