"""What is kept of single tasks besides outcomes: progress, savepoints, retries, stops, stacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from app.lifecycle import TaskState, task_state
from app.rows import StackRow, StopRow, TaskRow
from workers.backend import Outcome, StackSample

#: Progress of more tasks than this is not kept once they have ended.
KEPT_PROGRESS = 10_000
#: About what one report of progress, savepoint, stop and stack sample take besides their texts.
PROGRESS_BYTES = 200
SAVEPOINT_BYTES = 120
STOP_BYTES = 400
STACK_BYTES = 300
#: Stack samples that one batch keeps, in number and in characters; beyond it the oldest goes.
KEPT_STACKS = 100
KEPT_STACK_CHARS = 1 << 20
#: The longest stack that is kept whole: its innermost calls are its first lines.
MAX_STACK_CHARS = 1 << 15


class Notes:
    """The notes on the tasks of one batch. Not locked: whoever owns them does that."""

    __slots__ = ("_stack_chars", "progress", "retries", "savepoints", "stacks", "stops")

    def __init__(self) -> None:
        self.progress: dict[int, bytes] = {}
        self.retries: dict[int, Outcome] = {}
        self.savepoints: dict[int, bytes] = {}
        self.stops: dict[int, StopRow] = {}
        self.stacks: dict[int, StackRow] = {}
        self._stack_chars = 0

    @property
    def memory_bytes(self) -> int:
        """About what the notes take."""
        return (
            sum(map(len, self.progress.values()))
            + PROGRESS_BYTES * len(self.progress)
            + sum(map(len, self.savepoints.values()))
            + SAVEPOINT_BYTES * len(self.savepoints)
            + STOP_BYTES * len(self.stops)
            + self._stack_chars
            + STACK_BYTES * len(self.stacks)
        )

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        """These tasks have ended: what only mattered before goes."""
        if self.retries:
            for outcome in outcomes:
                self.retries.pop(outcome.index, None)
        if self.savepoints:
            for outcome in outcomes:
                if task_state(outcome.ending, outcome.noticed > 0) is TaskState.SUCCEEDED:
                    self.savepoints.pop(outcome.index, None)  # there is nothing left to go on with
        if len(self.progress) > KEPT_PROGRESS:
            for outcome in outcomes:
                self.progress.pop(outcome.index, None)

    def retry(self, outcome: Outcome) -> None:
        """An attempt failed, and there will be another."""
        self.retries[outcome.index] = outcome
        self.progress.pop(outcome.index, None)

    def sample(self, index: int, attempt: int, sample: StackSample) -> None:
        """Keep where a task was; a later attempt's stack replaces an earlier one's."""
        text = sample.stack[:MAX_STACK_CHARS]
        self._drop_stack(index)
        self.stacks[index] = StackRow(attempt, sample.taken, sample.silent_s, text)
        self._stack_chars += len(text)
        while len(self.stacks) > KEPT_STACKS or self._stack_chars > KEPT_STACK_CHARS:
            self._drop_stack(next(iter(self.stacks)))

    def added_to(self, task: TaskRow) -> TaskRow:
        """A task with what is noted about it."""
        at = task.index
        return task._replace(
            retry_after=self.retries.get(at),
            progress=self.progress.get(at),
            stop=self.stops.get(at),
            stack=self.stacks.get(at),
        )

    def savepoint_added_to(self, task: TaskRow) -> TaskRow:
        """A task with what it has saved."""
        return task._replace(savepoint=self.savepoints.get(task.index))

    def tighten(self, batch_stop: StopRow) -> None:
        """Stops of single tasks that are under way are over when that of their batch kills."""
        if batch_stop.kill_at is None:
            return
        for index, stop in self.stops.items():
            if stop.settled is None:
                self.stops[index] = stop.joined(round(batch_stop.kill_at - stop.requested, 6))

    def settle_stop(self, index: int, now: float) -> None:
        """Nothing of this task runs any more."""
        stop = self.stops[index]
        if stop.settled is None:
            self.stops[index] = replace(stop, settled=now)

    def settle(self, now: float) -> None:
        """Nothing of the batch runs any more, and nothing will be tried again."""
        self.retries.clear()
        for index in self.stops:
            self.settle_stop(index, now)

    def _drop_stack(self, index: int) -> None:
        stack = self.stacks.pop(index, None)
        if stack is not None:
            self._stack_chars -= len(stack.text)
