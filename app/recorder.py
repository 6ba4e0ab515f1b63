"""Turns what the pool reports about one batch into state changes, in order, on the pool's thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic

from app.lifecycle import Actor
from app.registry import Entry, Registry
from app.rows import Cause, Grace
from app.stopper import Stopper
from app.storage.store import Store
from workers.backend import Outcome, StackSample, StopCause

log = logging.getLogger("quiesce.recorder")

#: A batch's lock is let go after so many outcomes, so that no reader waits for long.
OUTCOMES_PER_LOCK = 1_000

FAILED_FAST = Cause(Actor.SERVICE, "a task failed and the batch was to fail fast")
_CAUSES = {
    StopCause.FAIL_FAST: FAILED_FAST,
    StopCause.EVENT_SET: Cause(Actor.SERVICE, "its event was set"),
}


class Recorder:
    """The pool's listener for one batch: the only writer of what workers report.

    What it is told goes into the batch's record at once, and is shown once the store has it.
    """

    __slots__ = ("_entry", "_record", "_registry", "_settle_when", "_stopper", "_store")

    def __init__(
        self,
        entry: Entry,
        store: Store,
        registry: Registry,
        stopper: Stopper,
        settle_when: Callable[[Callable[[], None]], None],
    ) -> None:
        """settle_when: calls what it is given once nothing of the batch can run elsewhere."""
        self._entry, self._record = entry, entry.record
        self._store, self._registry = store, registry
        self._stopper, self._settle_when = stopper, settle_when

    def begun(self, at: float) -> None:
        self._record.begin(at)
        self._store.mark(self._record)

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        for first in range(0, len(outcomes), OUTCOMES_PER_LOCK):
            some = outcomes[first : first + OUTCOMES_PER_LOCK]
            for refused in self._record.append(some):
                log.error("batch %s: second end of task %s", self._record.given.id, refused)
        self._store.mark(self._record)

    def retrying(self, outcome: Outcome, used: int) -> None:
        self._record.retry(outcome, used)
        self._store.totals.retries += 1
        self._store.mark(self._record)

    def progressed(self, index: int, attempt: int, progress: bytes) -> None:  # noqa: ARG002
        self._record.progress(index, progress)
        self._store.mark_later(self._record)

    def saved(self, index: int, attempt: int, savepoint: bytes) -> None:
        self._record.save(index, attempt, savepoint, monotonic())
        self._store.mark_later(self._record)

    def sampled(self, index: int, attempt: int, sample: StackSample) -> None:
        self._record.sample(index, attempt, sample)
        self._store.mark_later(self._record)

    def stopping(self, cause: StopCause) -> None:
        failed_fast = cause is StopCause.FAIL_FAST
        stop = self._record.request_stop(
            monotonic(), _CAUSES[cause], Grace.DEFAULT, failed_fast=failed_fast
        )
        if stop is not None:
            # The pool knows of the stop, but not of the batch's grace.
            self._stopper.stop(self._record.given.id, stop.grace_s)
            self._store.mark(self._record)

    def settled(self) -> None:
        """Whoever is woken finds the batch ended, in the store."""
        self._settle_when(self._settle)

    def _settle(self) -> None:
        if self._record.settle(monotonic(), self._has_ended):
            self._store.mark(self._record)

    def _has_ended(self) -> None:
        """On the writer's thread: first the fact, then the news."""
        self._registry.drop(self._record.given.id)
        self._entry.result.resolve()
        self._entry.settled()
