"""One live batch: where it is, what the store has of it, and what it has not yet."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from app.history import BY_CLIENT, BY_SERVICE, BY_WORKER, History
from app.leaving import GOES_DOWN, Leaving
from app.lifecycle import ACTIVE, BATCH_MOVES, FINAL, Actor, BatchState, batch_end
from app.notes import NO_CHANGES, Notes
from app.orders import end_of
from app.outcome_log import Added, OutcomeLog
from app.rows import (
    BatchRow,
    Cause,
    GraceAsked,
    NewBatchRow,
    Note,
    Row,
    StopRow,
    all_counts,
)
from app.taken import Taken
from workers.backend import Ending, Outcome, Remarks, RunningTask, StackSample

_UNDER_WAY = frozenset({BatchState.QUEUED, BatchState.RUNNING, BatchState.STOPPING})


class Record:
    """The mutable record of a live batch, ahead of the store by what nobody is shown yet.

    The service and the pool's thread change it; the store's writer takes what has changed, writes
    it, and publishes. Every method takes the lock, and none waits for anything else.
    """

    __slots__ = (
        "_failed_fast", "_history", "_is_to_purge", "_leaving", "_lock", "_notes",
        "_outcomes", "_run", "_settled", "_started", "_state", "_stop", "_taken_version", "_told",
        "_version", "given", "is_marked", "is_noted", "shown", "was_restored",
    )  # fmt: skip

    def __init__(self, given: NewBatchRow) -> None:
        """A batch that is accepted now."""
        counts = all_counts({}, given.total, is_final=False)
        self._take_on(BatchRow(given, BatchState.QUEUED, counts), None)
        self._history.add(_on_grid(given.created), self._run, BatchState.QUEUED, BY_CLIENT)

    @classmethod
    def restored(
        cls, row: BatchRow, ended: bytearray | None, notes: Mapping[int, Note], events: int
    ) -> Record:
        """A batch that the store has.

        ended   1 for each task that has an outcome, in index order; None if none has
        notes   on those that have none
        events  rows that are written of its history
        """
        record = cls.__new__(cls)
        record._take_on(row, ended)
        record.was_restored = True
        record._history = History.of(row, events)
        if notes:
            record._notes = Notes(notes)
        return record

    def _take_on(self, row: BatchRow, ended: bytearray | None) -> None:
        self.given = row.given
        self.shown = row  # as the store has it; only the writer assigns it
        self.was_restored = False  # an older service may still run some of it
        self.is_marked = self.is_noted = False  # the writer will look, at once or soon
        self._lock = threading.Lock()
        self._state, self._run, self._version = row.state, row.run, row.version
        self._started, self._stop, self._settled = row.started, row.stop, row.finished
        self._taken_version = row.version
        self._failed_fast, self._is_to_purge = row.failed_fast, row.is_to_purge
        self._outcomes = OutcomeLog(row, ended)
        self._notes: Notes | None = None  # most batches need none
        self._history = History()
        self._told: deque[tuple[int, Callable[[], None]]] = deque()  # each after so many outcomes
        self._leaving: Leaving | None = None  # the service goes down under it

    @property
    def state(self) -> BatchState:
        """Where it is, whether or not the store knows."""
        return self._state

    @property
    def stop(self) -> StopRow | None:
        """Its stop, whether or not the store knows."""
        return self._stop

    @property
    def is_complete(self) -> bool:
        """Whether every task has an outcome that was taken."""
        return self._outcomes.is_complete

    @property
    def waiting(self) -> int:
        """Outcomes that were not taken."""
        return self._outcomes.waiting

    @property
    def has_settled(self) -> bool:
        """Whether nothing of it runs any more, whether or not the store knows."""
        return self._settled is not None

    def listen(self, on_added: Added) -> None:
        """Have `on_added` hear of each outcome that is to be written; before there is any."""
        self._outcomes.on_added = on_added

    # --- what users ask ---------------------------------------------------------------------------

    def request_stop(
        self,
        now: float,
        cause: Cause,
        grace_s: GraceAsked,
        *,
        failed_fast: bool = False,
    ) -> StopRow | None:
        """Note a stop, or join the one under way; None if the batch had ended before.

        A repeat changes nothing but the grace, and can only shorten it.
        """
        now = _on_grid(now)
        with self._lock:
            if self._settled is not None:
                return None
            if self._stop is None:
                self._move(now, ACTIVE, BatchState.STOPPING, cause)
                stop = self.given.first_stop(now, cause.reason, grace_s)
                self._failed_fast = failed_fast
                self._stay()
            else:
                stop = self._stop.joined(grace_s)
            if stop is not self._stop:
                self._stop = stop
                self._version += 1
                if self._notes is not None:
                    self._notes.tighten(stop)
            return stop

    def request_task_stop(
        self, index: int, now: float, reason: str | None, grace_s: GraceAsked
    ) -> StopRow | None:
        """Note a stop of one task, or join its own or its batch's; None if it had ended before.

        raises  IndexError if there is no such task
        """
        if not 0 <= index < self.given.total:
            raise IndexError(index)
        with self._lock:
            known = None if self._notes is None else self._notes.stop_of(index)
            has_ended = self._settled is not None or self._outcomes.has_ended(index)
            # The outcome of a stopped task may be here while something it left is still ended.
            if has_ended and (known is None or known.settled is not None):
                return None
            stop = known or self._stop or self.given.first_stop(_on_grid(now), reason, grace_s)
            stop = stop.joined(grace_s)
            self._noted().stop(index, stop)
            self._version += 1
            return stop

    def purge(self) -> None:
        """Nothing is to be left of the batch once it has ended."""
        with self._lock:
            self._is_to_purge = True
            self._version += 1

    def leave(self, now: float, grace_s: float) -> bool:
        """The service goes down under it: what is cut off will run again; False if it is over.

        grace_s  what its tasks have until they are killed, those that are being stopped alone as well
        """
        with self._lock:
            if self._settled is not None or self._state is BatchState.STOPPING:
                return False
            if self._leaving is None:
                self._leaving = Leaving(self.given.options.retries.max_attempts)
                if self._notes is not None:
                    self._notes.tighten(StopRow(now, None, grace_s))
            return True

    def rest(self, now: float, was_down: str) -> None:
        """The service was down, and the batch cannot go on yet."""
        with self._lock:
            self._move(now, _UNDER_WAY, BatchState.INTERRUPTED, Cause(Actor.SERVICE, was_down))

    def go_on(self, now: float, *, was_down: str, is_back: str) -> None:
        """The service is there again, and so is the batch, which says why and since when."""
        with self._lock:
            self._move(now, _UNDER_WAY, BatchState.INTERRUPTED, Cause(Actor.SERVICE, was_down))
            self._move(
                now, {BatchState.INTERRUPTED}, BatchState.QUEUED, Cause(Actor.SERVICE, is_back)
            )

    # --- what workers report ----------------------------------------------------------------------

    def begin(self, at: float) -> None:
        """Its first task has begun."""
        with self._lock:
            self._begin(at)

    def append(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Tasks have ended; gives the outcomes that came for tasks that had ended before."""
        with self._lock:
            if self._leaving is not None:
                outcomes = self._leaving.sort_out(outcomes, self._noted())
            refused = self._append(outcomes)
            if self._started is None or self._state is BatchState.QUEUED:
                # Over so soon that nobody announced its begin.
                ran = [outcome.began for outcome in outcomes if outcome.attempt]  # 0: skipped
                if ran:
                    self._begin(min(ran))
        return refused

    def retry(self, outcome: Outcome, used: int) -> None:
        """An attempt failed, and there will be another; `used` count against the limit."""
        with self._lock:
            self._noted().retry(outcome, used)
            self._version += 1

    def begun(self, task: RunningTask) -> bool:
        """A task has run for a while; whether that was news."""
        with self._lock:
            return not self._outcomes.has_ended(task.index) and self._noted().begun(task)

    def progress(self, index: int, text: bytes) -> None:
        """A running task reported its progress."""
        with self._lock:
            self._noted().progress(index, text)

    def save(self, index: int, attempt: int, savepoint: bytes, now: float) -> None:
        """A running task saved how far it has come."""
        with self._lock:
            self._noted().save(index, attempt, savepoint, now)

    def sample(self, index: int, attempt: int, sample: StackSample) -> None:
        """A running task has not looked at its event for longer than its limit."""
        with self._lock:
            self._noted().sample(index, attempt, sample)

    def settle_task_stop(self, index: int, now: float) -> None:
        """Nothing of a stopped task runs, or will: without an outcome it was dropped before."""
        with self._lock:
            if self._settled is None and not self._outcomes.has_ended(index):
                note = self._noted().get(index)
                never = Outcome(index, 0, Ending.SKIPPED, b"", now, now, 0.0, 0, Remarks.NONE)
                self._append([(note and end_of(index, note, now)) or never])
            self._noted().settle_stop(index, now, has_ended=self._outcomes.has_ended(index))
            self._version += 1

    def settle(self, now: float, told: Callable[[], None] | None = None) -> bool:
        """Nothing of the batch runs any more, and nothing will; whether this call settled it.

        told  called, on the writer's thread, once the store has that, and not a moment later
        """
        with self._lock:
            if self._settled is not None:
                return False
            self._settled = now = _on_grid(now)
            if self._notes is not None:
                for index in self._notes.stopped():
                    has_ended = self._outcomes.has_ended(index) or self._leaving is None
                    self._notes.settle_stop(index, now, has_ended=has_ended)
            if told is not None:
                self._told.append((self._outcomes.added, told))
            return True

    # --- the writer's side ------------------------------------------------------------------------

    def then(self, told: Callable[[], None]) -> None:
        """Call it, on the writer's thread, once the store has all that was said until now."""
        with self._lock:
            self._told.append((self._outcomes.added, told))

    def take(self, most: int, most_bytes: int = sys.maxsize) -> Taken:
        """What the store does not have yet, at most so much; what follows outcomes waits for them."""
        with self._lock:
            rows = self._outcomes.take(most, most_bytes, self._stop)
            self._version += bool(rows)
            is_whole = self._outcomes.is_taken
            if is_whole and self._settled is not None and self._state in _UNDER_WAY:
                self._finish(self._settled)
            notes = NO_CHANGES if self._notes is None else self._notes.take()
            history = self._history.take()
            has_changed = self._version > self._taken_version
            row = self.shown if self._version == self.shown.version else self._row()
            self._taken_version = self._version
            return Taken(row, rows, notes, history, self._due(), is_whole, has_changed)

    def publish(self, taken: Taken) -> None:
        """The store has it: show it."""
        with self._lock:
            if taken.row.version >= self.shown.version:
                self.shown = taken.row
            self._outcomes.written(taken.outcomes)

    def has_ended(self, index: int) -> bool:
        """Whether a task has an outcome, whether or not the store knows."""
        with self._lock:
            return self._outcomes.has_ended(index)

    def first_unshown(self, limit: int) -> list[Outcome]:
        """Tasks whose end the store does not have yet, at most so many."""
        with self._lock:
            return [*islice(self._outcomes.unshown.values(), limit)]

    @property
    def count_unshown(self) -> int:
        """How many there are."""
        return len(self._outcomes.unshown)

    def stopped(self, count: int) -> list[Row] | None:
        """The first so many tasks that ran when the stop came, if they are at hand."""
        with self._lock:
            stopped = self._outcomes.stopped
            return stopped[:count] if len(stopped) >= count else None

    # --- under the lock ---------------------------------------------------------------------------

    def _append(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        fresh, refused = self._outcomes.add(outcomes)
        if self._notes is not None:
            self._notes.ended(fresh)
        return refused

    def _due(self) -> list[Callable[[], None]]:
        """Those to be told who wait for nothing that was not taken."""
        due = []
        while self._told and self._told[0][0] <= self._outcomes.number:
            due.append(self._told.popleft()[1])
        return due

    def _stay(self) -> None:
        """Somebody stops it while the service goes down: what ended then has ended for good."""
        leaving, self._leaving = self._leaving, None
        if leaving is not None and leaving.kept_back:
            self._append(leaving.kept_back)

    def _finish(self, now: float) -> None:
        """Give it its final state, or none if the service goes down under it."""
        if self._leaving is not None and not self._outcomes.is_complete:
            self._move(now, _UNDER_WAY, BatchState.INTERRUPTED, GOES_DOWN)
            return
        counts = self._outcomes.counts(is_final=True)
        end = batch_end(counts, was_stopped=self._stop is not None, failed_fast=self._failed_fast)
        self._move(now, _UNDER_WAY, end, BY_SERVICE)
        if self._stop is not None:
            self._stop = replace(self._stop, settled=now)

    def _row(self) -> BatchRow:
        is_final = self._state in FINAL
        counts = self._outcomes.counts(is_final=is_final)
        return BatchRow(
            self.given, self._state, counts, self._started, self._settled if is_final else None,
            self._stop, self._version, self._outcomes.number, self._outcomes.payload_bytes,
            self._run, self._outcomes.stopped_tasks, self._failed_fast, self._is_to_purge,
        )  # fmt: skip

    def _noted(self) -> Notes:
        if self._notes is None:
            self._notes = Notes()
        return self._notes

    def _begin(self, at: float) -> None:
        if self._started is None:
            self._started = _on_grid(at)
            self._version += 1
        self._move(at, {BatchState.QUEUED}, BatchState.RUNNING, BY_WORKER)

    def _move(
        self, at: float, expected: Collection[BatchState], state: BatchState, cause: Cause
    ) -> bool:
        """The only place that assigns a batch's state."""
        if self._state not in expected or state not in BATCH_MOVES[self._state]:
            return False
        self._state = state
        self._note_state(at, cause)
        return True

    def _note_state(self, at: float, cause: Cause) -> None:
        self._version += 1
        self._history.add(_on_grid(at), self._run, self._state, cause)


def _on_grid(moment: float) -> float:
    """A time as the store keeps it, so that what is shown now is what will be shown."""
    return round(moment, 6)
