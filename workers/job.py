"""One batch inside the pool: what of it is pending, leased, resting before a retry, or stopped."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Sequence
from time import monotonic

from workers.backend import Begun, Ending, Listener, Order, Outcome, Remarks, RetryPolicy
from workers.loop import Timer
from workers.messages import Lease
from workers.pending import Pending

#: How much work one lease is, and how much a worker may have before it, in seconds: small enough to
#: be shared out, large enough not to be felt.
LEASE_S = 0.008
AHEAD_S = 0.016
UNKNOWN_S = 1.0
BRISK_TASK_S = 0.0002
_SHARES_PER_WORKER = 2


class Pace:
    """How long the tasks of one function have lately taken, in seconds."""

    __slots__ = ("task_s",)

    def __init__(self) -> None:
        self.task_s = UNKNOWN_S


class TaskStop:
    """The stop of one task of a batch that goes on. Owner of every field: the pool's thread."""

    __slots__ = ("asked", "key", "kill_due", "kill_timer", "waiters")

    def __init__(self, key: str) -> None:
        """key: the Manager's event for processes that the task has started."""
        self.key = key
        self.asked = monotonic()
        self.kill_due: float | None = None
        self.kill_timer: Timer | None = None
        self.waiters: list[Callable[[], None]] = []


class Job:
    """The pool's own record of a batch. Owner of every field: the pool's thread."""

    def __init__(self, order: Order, listener: Listener, pace: Pace) -> None:
        """pace: that of the task function, shared by all its batches."""
        self.order = order
        self.listener = listener
        self.id = order.batch_id
        self.priority = order.priority
        self.leases_out = 0
        self.has_begun = False
        self.is_stopping = False
        self.has_settled = False
        self.stop_asked = 0.0
        self.kill_due: float | None = None
        self.kill_timer: Timer | None = None
        self.resting: dict[int, None] = {}  # waits for its next attempt
        self.unkillable: tuple[int, ...] = ()
        self.task_stops: dict[int, TaskStop] = {}  # by index, until nothing of the task runs
        self._pending = Pending(len(order.items), order.ended)
        # How the last attempt ended at what is to be tried again: it failed, or was cut off.
        self._last: dict[int, Outcome] = {}
        self._savepoints: dict[int, bytes] = {}  # of tasks that may be tried again
        self._free_attempts: dict[int, int] = {}  # of tasks that began before: not counted
        for index, begun in order.begun.items():
            self._take_up(index, begun)
        self._lease_tasks = 1
        self._pace = pace
        self._task_s: float | None = None  # how long one of its own takes, once that is known

    @property
    def task_s(self) -> float:
        """How long one of its tasks takes, as far as is known."""
        return self._pace.task_s if self._task_s is None else self._task_s

    @property
    def pending(self) -> int:
        """How many tasks wait for a worker."""
        return len(self._pending)

    @property
    def is_runnable(self) -> bool:
        """Whether a worker may get a lease of it now."""
        if self.is_stopping or not self._pending:
            return False
        most = self.order.max_parallel
        return most is None or self.leases_out < most

    @property
    def is_brisk(self) -> bool:
        """Whether its tasks are so short that they may wait behind others in a worker."""
        return self.task_s < BRISK_TASK_S and self.order.max_parallel is None

    @property
    def is_settled(self) -> bool:
        """Whether nothing of it runs, waits or rests."""
        return not self.leases_out and not self._pending and not self.resting

    def take_lease(self, number: int, workers: int, most: int) -> Lease:
        """The next tasks for one worker; there must be some."""
        share = self.pending // (workers * _SHARES_PER_WORKER) + 1
        count = min(self._lease_tasks, share, most)
        self.leases_out += 1
        if self._pending.has_returned:
            return self._lease_of_returned(number, count)
        first, ends, text = self.order.items.run(*self._pending.take(count))
        self._pending.taken(len(ends))
        indexes = array("I", range(first, first + len(ends)))
        return self._lease(number, 1, indexes, ends, text)

    def give_back(self, indexes: Sequence[int], attempt: int) -> list[Outcome]:
        """Take back tasks that have not begun: they are next, unless they have been stopped.

        returns  the outcomes of those that have been
        """
        if self.is_stopping:
            return [self._last.pop(index) for index in indexes if index in self._last]
        if not self.task_stops:
            self._pending.give_back(indexes, attempt)
            return []
        kept = [index for index in indexes if index not in self.task_stops]
        self._pending.give_back(kept, attempt)
        return [self._unstarted(index) for index in indexes if index in self.task_stops]

    def learn(self, count: int, lasted_s: float) -> None:
        """Size the next lease by the last one: twice as large, as far as it fits LEASE_S."""
        self._task_s = self._pace.task_s = max(lasted_s / count, 1e-6)
        fitting = int(LEASE_S / self._task_s)
        self._lease_tasks = max(1, min(self._lease_tasks * 2, fitting))

    def shrink(self) -> None:
        """A lease took too long: start again from one task."""
        self._lease_tasks = 1
        self._task_s = self._pace.task_s = UNKNOWN_S

    def stop(self) -> list[Outcome]:
        """Drop what never started; the last outcomes of tasks that waited for their next attempt."""
        self.is_stopping = True
        waiting = [*self.resting, *self._pending.clear()]
        self.resting.clear()
        return [self._last.pop(index) for index in waiting if index in self._last]

    def stop_task(self, index: int) -> Outcome | None:
        """Drop one task that waits for a worker or rests, with the outcome it gets; else None."""
        if index in self.resting:
            del self.resting[index]
        elif not self._pending.drop(index):
            return None
        return self._unstarted(index)

    def used(self, outcome: Outcome) -> int:
        """How many attempts of its task, this one included, count against the limit."""
        return outcome.attempt - self._free_attempts.get(outcome.index, 0)

    def rest(self, outcome: Outcome) -> float:
        """Keep a failed task for another attempt; how long it must rest, in seconds."""
        self.resting[outcome.index] = None
        self._last[outcome.index] = outcome
        return retry_delay_s(self.used(outcome) + 1, self.order.retries)

    def wake(self, index: int) -> None:
        """A task has rested: it is pending again, unless it was stopped meanwhile."""
        if index in self.resting:
            del self.resting[index]
            self._pending.add(index, self._last[index].attempt + 1)

    def save(self, index: int, savepoint: bytes) -> None:
        """A running task has saved how far it has come, for its next attempt."""
        if self.order.retries.max_attempts > 1:
            self._savepoints[index] = savepoint

    def ended(self, index: int) -> None:
        """A task will not be tried again."""
        self._last.pop(index, None)
        self._savepoints.pop(index, None)
        self._free_attempts.pop(index, None)

    def _take_up(self, index: int, begun: Begun) -> None:
        """A task goes on from an earlier run, unless it has ended."""
        if not self._pending.go_on(index, begun.attempt + 1):
            return
        if begun.savepoint:
            self._savepoints[index] = begun.savepoint
        if begun.ended is not None:
            self._last[index] = begun.ended
        if begun.attempt > begun.used:
            self._free_attempts[index] = begun.attempt - begun.used

    def _unstarted(self, index: int) -> Outcome:
        """A task stopped before it began: how its last attempt ended, or no attempt at all."""
        last = self._last.get(index)
        self.ended(index)
        if last is not None:
            return last
        now = monotonic()
        return Outcome(index, 0, Ending.SKIPPED, b"", now, now, 0.0, 0, Remarks.NONE)

    def _lease_of_returned(self, number: int, count: int) -> Lease:
        """Tasks of one attempt number, as they come; one by one if there are savepoints to go along."""
        indexes, attempt = self._pending.take_returned(1 if self._savepoints else count)
        texts = [self.order.items.one(index) for index in indexes]
        ends, end = array("I"), 0
        for text in texts:
            end += len(text)
            ends.append(end)
        return self._lease(number, attempt, indexes, ends, b"".join(texts))

    def _lease(
        self, number: int, attempt: int, indexes: array[int], ends: array[int], text: bytes
    ) -> Lease:
        order, timeout_s = self.order, self.order.timeout_s or 0.0
        lease = Lease(number, self.id, order.task, attempt, timeout_s, indexes, ends, text)
        if not self._savepoints or len(indexes) > 1:
            return lease
        return lease._replace(savepoint=self._savepoints.get(indexes[0], b""))


def retry_delay_s(attempt: int, policy: RetryPolicy) -> float:
    """Seconds to wait before `attempt`, drawn with full jitter.

    attempt  2 or more; attempt 1 never waits
    returns  0 <= delay <= min(max_backoff_s, backoff_s * 2 ** (attempt - 2))
    source   M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015
    """
    if attempt < 2:
        raise ValueError("the first attempt never waits")
    doublings = min(attempt - 2, 60)
    most = min(policy.max_backoff_s, policy.backoff_s * 2**doublings)
    return random.uniform(0.0, most)
