"""The states of batches and tasks, the legal moves between them, and nothing else: pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from workers.backend import Ending


class BatchState(StrEnum):
    """Where one run of a batch is."""

    QUEUED = "queued"  # accepted; no task has started
    RUNNING = "running"  # at least one task has started
    STOPPING = "stopping"  # a stop was asked for; tasks may still be inside their grace
    SUCCEEDED = "succeeded"  # every task returned, and none saw the event set
    FAILED = "failed"  # a task failed for good
    STOPPED = "stopped"  # ended early: a task was stopped, skipped or killed
    INTERRUPTED = "interrupted"  # the service went down under it; it may go on later


class TaskState(StrEnum):
    """Where one task is."""

    PENDING = "pending"  # not begun, or waiting for its retry
    RUNNING = "running"  # begun, by its worker's page
    SUCCEEDED = "succeeded"  # returned, and never saw the event set
    FAILED = "failed"  # raised, ran out of time, lost its worker, or its result was not JSON
    STOPPED = "stopped"  # saw the event set and then returned, or raised `Stopped`
    SKIPPED = "skipped"  # never started, because it or its batch was stopped first
    KILLED = "killed"  # still running when the grace was over, or when the service ended


class Actor(StrEnum):
    """Who brought about a change of a batch's state."""

    CLIENT = "client"
    WORKER = "worker"
    SERVICE = "service"


B, T = BatchState, TaskState

#: What one run of a batch may do. Without ever running, a batch ends that has no tasks, or of whose
#: tasks each was stopped alone; those that a resume left as they were may have failed.
BATCH_MOVES: Mapping[BatchState, frozenset[BatchState]] = {
    B.QUEUED: frozenset({B.RUNNING, B.STOPPING, B.SUCCEEDED, B.FAILED, B.STOPPED, B.INTERRUPTED}),
    B.RUNNING: frozenset({B.STOPPING, B.SUCCEEDED, B.FAILED, B.STOPPED, B.INTERRUPTED}),
    B.STOPPING: frozenset({B.SUCCEEDED, B.FAILED, B.STOPPED, B.INTERRUPTED}),
    B.INTERRUPTED: frozenset({B.QUEUED, B.STOPPING}),
    B.SUCCEEDED: frozenset(),
    B.FAILED: frozenset(),
    B.STOPPED: frozenset(),
}

#: What one run of a task may do; back to pending is a retry.
TASK_MOVES: Mapping[TaskState, frozenset[TaskState]] = {
    T.PENDING: frozenset({T.RUNNING, T.SKIPPED, T.FAILED}),
    T.RUNNING: frozenset({T.SUCCEEDED, T.FAILED, T.STOPPED, T.KILLED, T.PENDING}),
    T.SUCCEEDED: frozenset(),
    T.FAILED: frozenset(),
    T.STOPPED: frozenset(),
    T.SKIPPED: frozenset(),
    T.KILLED: frozenset(),
}

FINAL = frozenset(state for state, moves in BATCH_MOVES.items() if not moves)
ACTIVE = frozenset(BatchState) - FINAL
TASK_FINAL = frozenset(state for state, moves in TASK_MOVES.items() if not moves)
TASK_ACTIVE = frozenset(TaskState) - TASK_FINAL

#: The tasks that a stop, and nothing else, kept from doing all their work.
CUT_SHORT = frozenset({T.STOPPED, T.SKIPPED, T.KILLED})

#: What a resume may run again; the first three if it is not told which.
RESUMABLE = CUT_SHORT | {T.FAILED}

_BY_ENDING = {
    Ending.RAISED: T.FAILED,
    Ending.STOPPED: T.STOPPED,
    Ending.TIMED_OUT: T.FAILED,
    Ending.LOST: T.FAILED,
    Ending.KILLED: T.KILLED,
    Ending.SKIPPED: T.SKIPPED,
}


def task_state(ending: Ending, noticed: bool) -> TaskState:
    """The final state of a task whose last attempt ended so.

    noticed  whether it saw its event set; a task that returned without looking did all its work
    """
    if ending is Ending.RETURNED:
        return T.STOPPED if noticed else T.SUCCEEDED
    return _BY_ENDING[ending]


def batch_end(
    counts: Mapping[TaskState, int], *, was_stopped: bool, failed_fast: bool
) -> BatchState:
    """The final state of a batch of which nothing runs any more.

    counts       tasks by final state; a missing state counts as none
    was_stopped  whether anybody asked for a stop
    failed_fast  whether its own failure stopped it
    """
    cut_short = any(map(counts.get, CUT_SHORT))
    if failed_fast:
        return B.FAILED
    if was_stopped and cut_short:
        return B.STOPPED
    if counts.get(T.FAILED):
        return B.FAILED
    # Unasked, a task that raised `Stopped` of its own accord still did not do all its work.
    return B.STOPPED if cut_short else B.SUCCEEDED
