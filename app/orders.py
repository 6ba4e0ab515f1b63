"""What the pool is to do of a batch, or of what is left of it."""

from __future__ import annotations

from collections.abc import Mapping

from app.rows import NewBatchRow, Note
from workers.backend import Begun, Order, RetryPolicy
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
        index: Begun(note.attempt, note.used, note.savepoint or b"")
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
