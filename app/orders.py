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
) -> Order:
    """What the pool is to do.

    ended  1 for each task that has ended before, if any has
    notes  on those that have not
    """
    options = given.options
    retries = options.retries
    begun = {
        index: Begun(note.attempt, note.used, note.savepoint or b"", failure_of(index, note))
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


def failure_of(index: int, note: Note) -> Outcome | None:
    """How the last attempt at a task failed that waits for its next."""
    if note.error is None:
        return None
    began, pid = note.began or 0.0, note.pid or 0
    return Outcome(
        index, note.attempt, Ending.RAISED, note.error, began, began, 0.0, pid, Remarks.NONE
    )
