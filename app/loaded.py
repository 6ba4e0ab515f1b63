"""A batch as it is read from the store to go on: its record, its items, and what it has done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from time import monotonic
from typing import NamedTuple

from sqlalchemy import Connection

from app.orders import end_of, order_of
from app.record import Record
from app.rows import BatchRow, Note
from app.storage.queries import BATCHES_AT_A_TIME, Queries
from workers.backend import Order, Outcome

#: Items that are read at a time, if they are of several batches.
TASKS_AT_A_TIME = 20_000


class Loaded(NamedTuple):
    """Everything of one batch that is needed to go on with it, or to end it."""

    record: Record
    order: Order
    notes: Mapping[int, Note]  # on the tasks that have not ended

    @property
    def is_done(self) -> bool:
        """Whether there is no task that is to run."""
        return self.order.ended.count(1) == len(self.order.items)

    @property
    def stopped(self) -> list[int]:
        """Tasks that somebody has stopped alone: they are not to run, and will have ended."""
        return [index for index, note in self.notes.items() if note.stop is not None]

    def cut_short(self, now: float) -> list[Outcome]:
        """How the tasks ended that had begun, given that nothing of the batch runs any more."""
        ends = (end_of(index, note, now) for index, note in self.notes.items())
        return [end for end in ends if end is not None]


def load(connection: Connection, queries: Queries, row: BatchRow) -> Loaded:
    """Read a batch."""
    [loaded] = load_all(connection, queries, [row])
    return loaded


def load_all(
    connection: Connection, queries: Queries, rows: Sequence[BatchRow]
) -> Iterator[Loaded]:
    """Read many, one after the other."""
    serials = [row.given.serial for row in rows]
    all_notes = queries.open_notes(connection, serials)
    events = queries.count_history(connection, serials)
    for part in _parts(rows):
        items = queries.items(connection, [row.given.serial for row in part])
        for row in part:
            serial, notes = row.given.serial, all_notes[row.given.serial]
            ended = None
            if row.ended_tasks or row.run > 1:
                ended = queries.ended(connection, serial, row.given.total)
            not_to_run = _not_to_run(ended, notes, row.given.total)
            order = order_of(row.given, items.pop(serial), not_to_run, notes, monotonic())
            yield Loaded(Record.restored(row, ended, notes, events[serial]), order, notes)


def _parts(rows: Sequence[BatchRow]) -> Iterator[list[BatchRow]]:
    """Batches whose items are read with one question: not too many, nor with too many tasks."""
    part: list[BatchRow] = []
    tasks = 0
    for row in rows:
        if part and (len(part) >= BATCHES_AT_A_TIME or tasks + row.given.total > TASKS_AT_A_TIME):
            yield part
            part, tasks = [], 0
        part.append(row)
        tasks += row.given.total
    if part:
        yield part


def _not_to_run(ended: bytearray | None, notes: Mapping[int, Note], total: int) -> bytes:
    """1 for each task that has ended, or was stopped alone; empty if there is none."""
    stopped = [index for index, note in notes.items() if note.stop is not None]
    if not stopped:
        return bytes(ended or b"")
    marks = bytearray(ended or total)
    for index in stopped:
        marks[index] = 1
    return bytes(marks)
