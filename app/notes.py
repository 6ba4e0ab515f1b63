"""What is noted of single tasks besides outcomes: progress, savepoints, retries, stops, stacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from app.lifecycle import TaskState, task_state
from app.rows import Note, StackRow, StopRow
from workers.backend import Outcome, RunningTask, StackSample

#: Stack samples that one batch keeps, in number and in characters; beyond it the oldest goes.
KEPT_STACKS = 100
KEPT_STACK_CHARS = 1 << 20
#: The longest stack that is kept whole: its innermost calls are its first lines.
MAX_STACK_CHARS = 1 << 15


class NoteChanges(NamedTuple):
    """What has changed since it was last asked: whole notes by task, and tasks to forget of."""

    written: Sequence[tuple[int, Note]] = ()
    dropped: Sequence[int] = ()  # nothing is known of these any more
    unstacked: Sequence[int] = ()  # the stack samples of these are to go


NO_CHANGES = NoteChanges()


class Notes:
    """The notes on the tasks of one live batch that have not ended, or whose stop has not.

    Not locked: whoever owns them does that.
    """

    __slots__ = (
        "_changed",
        "_dropped",
        "_notes",
        "_saved",
        "_stack_chars",
        "_stacks",
        "_unstacked",
    )

    def __init__(self, known: Mapping[int, Note] | None = None) -> None:
        """known: as the store has them."""
        self._notes: dict[int, Note] = dict(known or {})
        self._saved: set[int] = set(self._notes)  # of which the store has a row
        self._changed: dict[int, Note] = {}
        self._dropped: list[int] = []
        self._unstacked: list[int] = []
        self._stacks: dict[int, int] = {}  # how long each is, in the order they were taken
        self._stack_chars = 0

    def __bool__(self) -> bool:
        return bool(self._notes or self._changed or self._dropped)

    def get(self, index: int) -> Note | None:
        """What is known of a task that has not ended."""
        return self._notes.get(index)

    def stop_of(self, index: int) -> StopRow | None:
        """The stop of a task that has not ended, or not settled."""
        note = self._notes.get(index)
        return None if note is None else note.stop

    def stopped(self) -> list[int]:
        """The tasks that are being stopped."""
        return [i for i, n in self._notes.items() if n.stop is not None and n.stop.settled is None]

    def begun(self, task: RunningTask) -> bool:
        """A task runs; whether that was news."""
        note = self._notes.get(task.index)
        # A savepoint tells of an attempt, but not when and where it began.
        if note is not None and (note.attempt, note.pid or 0) >= (task.attempt, task.pid):
            return False
        self._change(task.index, attempt=task.attempt, began=task.began, pid=task.pid, error=None)
        return True

    def cut_off(self, outcome: Outcome) -> None:
        """An attempt ended that says nothing of its task: it will run again."""
        self._change(outcome.index, attempt=outcome.attempt, began=outcome.began, pid=outcome.pid)

    def retry(self, outcome: Outcome, used: int) -> None:
        """An attempt failed, and there will be another; `used` count against the limit."""
        self.cut_off(outcome)
        self._change(outcome.index, used=used, error=outcome.payload, progress=None)

    def has_failed(self, outcome: Outcome) -> bool:
        """Whether this attempt is known to have failed, and its task to run again."""
        note = self._notes.get(outcome.index)
        return note is not None and note.error is not None and note.attempt == outcome.attempt

    def used(self, index: int) -> int:
        """How many attempts of a task count against the limit so far."""
        note = self._notes.get(index)
        return 0 if note is None else note.used

    def progress(self, index: int, text: bytes) -> None:
        """A running task reported its progress."""
        self._change(index, progress=text)

    def save(self, index: int, attempt: int, savepoint: bytes, now: float) -> None:
        """A running task saved how far it has come."""
        note = self._notes.get(index)
        if note is None or note.attempt < attempt:  # that it began is news
            self._change(index, attempt=attempt, began=now, pid=None)
        self._change(index, savepoint=savepoint, error=None)

    def stop(self, index: int, stop: StopRow) -> None:
        """A task is to be stopped."""
        self._change(index, stop=stop)

    def tighten(self, batch_stop: StopRow) -> None:
        """Stops of single tasks that are under way are over when that of their batch kills."""
        if batch_stop.kill_at is None:
            return
        for index in self.stopped():
            stop = self._notes[index].stop
            assert stop is not None
            self._change(index, stop=stop.joined(round(batch_stop.kill_at - stop.requested, 6)))

    def settle_stop(self, index: int, now: float, *, has_ended: bool) -> None:
        """Nothing of this task runs any more."""
        stop = self.stop_of(index)
        if stop is not None and stop.settled is None:
            self._change(index, stop=replace(stop, settled=now))
            if has_ended:
                del self._notes[index]

    def sample(self, index: int, attempt: int, sample: StackSample) -> None:
        """Keep where a task was; a later attempt's stack replaces an earlier one's."""
        text = sample.stack[:MAX_STACK_CHARS]
        self._change(index, stack=StackRow(attempt, sample.taken, sample.silent_s, text))
        self._stack_chars += len(text) - self._stacks.pop(index, 0)
        self._stacks[index] = len(text)
        while len(self._stacks) > KEPT_STACKS or self._stack_chars > KEPT_STACK_CHARS:
            self._forget_stack(next(iter(self._stacks)))

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        """These tasks have ended: what only mattered before goes."""
        if not self._notes:
            return
        for outcome in outcomes:
            note = self._notes.get(outcome.index)
            if note is not None:
                self._end(outcome, note)

    def take(self) -> NoteChanges:
        """What has changed since the last time."""
        written = [(index, replace(note)) for index, note in self._changed.items()]
        changes = NoteChanges(written, self._dropped, self._unstacked)
        self._saved.update(self._changed.keys() & self._notes.keys())
        self._changed, self._dropped, self._unstacked = {}, [], []
        return changes

    def _end(self, outcome: Outcome, note: Note) -> None:
        index = outcome.index
        note.error = None
        if task_state(outcome.ending, outcome.noticed > 0) is TaskState.SUCCEEDED:
            note.savepoint = None  # there is nothing left to go on with
        if note.stop is None or note.stop.settled is not None:
            del self._notes[index]
        if note.outlives_its_task:
            self._changed[index] = note
            return
        self._changed.pop(index, None)
        if index in self._saved:
            self._saved.discard(index)
            self._dropped.append(index)

    def _forget_stack(self, index: int) -> None:
        self._stack_chars -= self._stacks.pop(index)
        note = self._notes.get(index) or self._changed.get(index)
        if note is not None:
            note.stack = None
        self._unstacked.append(index)

    def _change(self, index: int, **fields: object) -> None:
        note = self._notes.get(index)
        if note is None:
            note = self._notes[index] = Note()
        for name, value in fields.items():
            setattr(note, name, value)
        self._changed[index] = note
