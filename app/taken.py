"""What goes into a record and out of it: outcomes, and what the store's writer takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from app.lifecycle import TaskState
from app.notes import NoteChanges
from app.rows import BatchRow, HistoryRow
from workers.backend import Outcome


class OutcomeRow(NamedTuple):
    """A task that has ended, as it is written."""

    outcome: Outcome
    state: TaskState
    number: int
    is_late: bool  # it ran when the stop of its batch came


class Taken(NamedTuple):
    """What is to be written of a batch; once it is, `row` is what is shown."""

    row: BatchRow
    outcomes: Sequence[OutcomeRow]
    notes: NoteChanges
    history: Sequence[HistoryRow]
    told: Sequence[Callable[[], None]]  # to be called then
    is_whole: bool  # there was no more
    has_changed: bool  # since the last time; else only somebody is to be told
