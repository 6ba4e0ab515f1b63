"""What the pool is to do of a batch, or of what is left of it."""

from __future__ import annotations

from collections.abc import Mapping

from app.rows import NewBatchRow, Note
from workers.backend import Begun, Ending, Order, Outcome, Remarks, RetryPolicy
from workers.items import Items


def order_of(
    given: NewBatchRow,
    items: Items,
    ended: bytes = b"",
    notes: Mapping[int, Note] | None = None,
    now: float = 0.0,
) -> Order:
    """What the pool is to do.

    ended  1 for each task that has ended before, if any has
    notes  on those that have not, as they are `now`
    """
    options = given.options
    retries = options.retries
    begun = {
        index: Begun(note.attempt, note.used, note.savepoint or b"", end_of(index, note, now))
        for index, note in (notes or {}).items()
        if note.attempt
    }
    return Order(
        batch_id=given.id,
        task=given.task,
        items=items,
        max_parallel=options.max_parallel,
        priority=options.priority,
        timeout_s=options.timeout,
        timeout_grace_s=options.timeout_grace,
        retries=RetryPolicy(retries.max_attempts, retries.backoff, retries.max_backoff),
        fail_fast=options.fail_fast,
        ended=ended,
        begun=begun,
    )


def end_of(index: int, note: Note, now: float) -> Outcome | None:
    """How a task has ended of which nothing runs, if there is no other attempt at it.

    One that waited for its next attempt has failed; one that ran was cut off with the service. None
    if it has not started in this run.
    """
    began, pid = note.began, note.pid or 0
    if note.error is not None:
        at = began or 0.0
        return Outcome(
            index, note.attempt, Ending.RAISED, note.error, at, at, 0.0, pid, Remarks.NONE
        )
    if began is not None:
        return Outcome(index, note.attempt, Ending.KILLED, b"", began, now, 0.0, pid, Remarks.NONE)
    return None
