"""The outcomes of one live batch on their way to the store: each task once, counted and numbered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from app.lifecycle import TaskState, task_state
from app.rows import BatchRow, Row, StopRow, all_counts
from app.taken import OutcomeRow
from workers.backend import Ending, Outcome

#: Tasks that ran when the stop came: so many are kept at hand for the receipt.
KEPT_STOPPED = 1_000

_STATES = {
    noticed: {ending: task_state(ending, noticed) for ending in Ending} for noticed in (False, True)
}
_OPEN = frozenset({TaskState.PENDING, TaskState.RUNNING})
_ENDED = 1

#: So many outcomes were added, and bytes of their payloads.
Added = Callable[[int, int], None]


class OutcomeLog:
    """Not locked: whoever owns it does that.

    unshown        tasks whose end the store does not have yet, by index
    payload_bytes  of all outcomes, those included
    stopped_tasks  how many that ran when the batch's stop came were taken
    stopped        the first of those that the store has
    number         outcomes that were taken, in all runs
    """

    __slots__ = (
        "_counts", "_ended", "_total", "_unsaved", "number", "on_added", "payload_bytes", "stopped",
        "stopped_tasks", "unshown",
    )  # fmt: skip

    def __init__(self, row: BatchRow, ended: bytearray | None) -> None:
        """row: as the store has it; ended: 1 for each task that has an outcome, None if none has."""
        self._total = row.given.total
        self._ended = ended  # made when the first task has ended
        self._counts = {s: n for s, n in row.counts.items() if n and s not in _OPEN}
        self._unsaved: list[Outcome] = []
        self.unshown: dict[int, Outcome] = {}
        self.stopped: list[Row] = []
        self.payload_bytes = row.payload_bytes
        self.stopped_tasks, self.number = row.stopped_tasks, row.ended_tasks
        self.on_added: Added | None = None

    @property
    def is_taken(self) -> bool:
        """Whether everything was."""
        return not self._unsaved

    @property
    def waiting(self) -> int:
        """How many were not."""
        return len(self._unsaved)

    @property
    def added(self) -> int:
        """Outcomes there have ever been, those that were not taken included."""
        return self.number + len(self._unsaved)

    @property
    def is_complete(self) -> bool:
        """Whether every task has an outcome that was taken."""
        return sum(self._counts.values()) == self._total

    def counts(self, *, is_final: bool) -> dict[TaskState, int]:
        """All tasks by state, as far as their outcomes were taken."""
        return all_counts(self._counts, self._total, is_final=is_final)

    def has_ended(self, index: int) -> bool:
        """Whether a task has an outcome."""
        return self._ended is not None and self._ended[index] == _ENDED

    def add(self, outcomes: Sequence[Outcome]) -> tuple[Sequence[Outcome], Sequence[Outcome]]:
        """Tasks have ended; gives those that had not before, and those that had."""
        ended = self._ended
        if ended is None:
            ended = self._ended = bytearray(self._total)
        refused, fresh, size = [], [], 0
        for outcome in outcomes:
            index = outcome[0]
            if ended[index]:
                refused.append(outcome)
                continue
            ended[index] = _ENDED
            fresh.append(outcome)
            size += len(outcome[3])
        self.unshown.update([(outcome[0], outcome) for outcome in fresh])
        self._unsaved += fresh
        self.payload_bytes += size
        if self.on_added is not None:
            self.on_added(len(fresh), size)
        return fresh, refused

    def take(self, most: int, most_bytes: int, stop: StopRow | None) -> list[OutcomeRow]:
        """The next to be written: at most so many, and none after so many bytes of payload."""
        rows: list[OutcomeRow] = []
        counts, size, late_from = self._counts, 0, inf if stop is None else stop.requested
        for number, outcome in enumerate(self._unsaved[:most], self.number):
            state = _STATES[outcome.noticed > 0][outcome.ending]
            is_late = outcome.ended >= late_from and outcome.attempt > 0
            rows.append(OutcomeRow(outcome, state, number, is_late))
            counts[state] = counts.get(state, 0) + 1
            self.stopped_tasks += is_late
            size += len(outcome.payload)
            if size >= most_bytes:
                break
        del self._unsaved[: len(rows)]
        self.number += len(rows)
        return rows

    def written(self, rows: Sequence[OutcomeRow]) -> None:
        """The store has these."""
        for row in rows:
            self.unshown.pop(row.outcome.index, None)
            if row.is_late and len(self.stopped) < KEPT_STOPPED:
                self.stopped.append(_without_payload(row))


def _without_payload(row: OutcomeRow) -> Row:
    index, attempt, _, _, *times, pid, remarks = row.outcome
    began, ended, noticed = (round(moment, 6) for moment in times)  # as the store keeps them
    return Row(index, row.state, attempt, began, ended, noticed, pid, remarks, b"")
