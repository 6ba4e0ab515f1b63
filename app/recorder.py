"""Turns what the pool reports about one batch into state changes, in order, on the pool's thread."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from app.registry import Registry
from app.rows import Grace
from app.stopper import Stopper
from app.store import Store
from workers.backend import Outcome, StackSample, StopCause
from workers.result import AsyncResult

log = logging.getLogger("quiesce.recorder")

#: A batch's lock is let go after so many outcomes, so that no reader waits for long.
OUTCOMES_PER_LOCK = 1_000

_REASONS = {
    StopCause.FAIL_FAST: "a task failed and the batch was to fail fast",
    StopCause.EVENT_SET: "its event was set",
}


class Recorder:
    """The pool's listener for one batch: the only writer of what workers report.

    Nothing is announced per message: readers look when they ask, and those that wait for the end
    are woken once, by the batch's AsyncResult.
    """

    __slots__ = ("_batch_id", "_registry", "_result", "_stopper", "_store")

    def __init__(
        self,
        batch_id: str,
        result: AsyncResult,
        store: Store,
        registry: Registry,
        stopper: Stopper,
    ) -> None:
        self._batch_id, self._result = batch_id, result
        self._store, self._registry, self._stopper = store, registry, stopper

    def begun(self, at: float) -> None:
        self._store.begin(self._batch_id, at)

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        for first in range(0, len(outcomes), OUTCOMES_PER_LOCK):
            some = outcomes[first : first + OUTCOMES_PER_LOCK]
            for refused in self._store.append(self._batch_id, some):
                log.error("batch %s: second end of task %s", self._batch_id, refused)

    def retrying(self, outcome: Outcome) -> None:
        self._store.retry(self._batch_id, outcome)

    def progressed(self, index: int, attempt: int, progress: bytes) -> None:  # noqa: ARG002
        self._store.progress(self._batch_id, index, progress)

    def saved(self, index: int, attempt: int, savepoint: bytes) -> None:  # noqa: ARG002
        self._store.save(self._batch_id, index, savepoint)

    def sampled(self, index: int, attempt: int, sample: StackSample) -> None:
        self._store.sample(self._batch_id, index, attempt, sample)

    def stopping(self, cause: StopCause) -> None:
        failed_fast = cause is StopCause.FAIL_FAST
        stop = self._store.request_stop(
            self._batch_id, _REASONS[cause], Grace.DEFAULT, failed_fast=failed_fast
        )
        if stop is not None:
            # The pool knows of the stop, but not of the batch's grace.
            self._stopper.stop(self._batch_id, stop.grace_s)

    def settled(self) -> None:
        """First the state, then the news: whoever is woken finds the batch ended."""
        self._store.settle(self._batch_id)
        self._result.resolve()
        entry = self._registry.drop(self._batch_id)
        if entry is not None:
            entry.settled()
