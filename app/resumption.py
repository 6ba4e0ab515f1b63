"""A resume: some tasks of an ended batch become pending again, in its next run."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    Connection,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    not_,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.sql import false

from app.errors import BatchActive, BatchNotFound, NothingToResume
from app.history import History
from app.lifecycle import RESUMABLE, Actor, BatchState, TaskState
from app.loaded import Loaded, load
from app.rows import BatchRow, Cause
from app.storage.queries import Queries
from app.storage.table_rows import TableRows
from app.storage.tables import batches, history, notes, outcomes

#: Tasks that stay skipped, of which one transaction takes note: whatever comes next does not wait long.
SKIPPED_AT_A_TIME = 20_000


class Resumption:
    """One resume of one batch, as the client saw it: `prepare` until it is prepared, then `write`."""

    def __init__(
        self,
        queries: Queries,
        table_rows: TableRows,
        seen: BatchRow,
        states: Collection[TaskState],
        receipt: bytes | None,
        now: float,
    ) -> None:
        """states: of the tasks that are to run again; receipt: of the stop that ended the last run."""
        self._queries, self._rows = queries, table_rows
        self._seen, self._serial = seen, seen.given.serial
        self._states = sorted(set(states) & RESUMABLE)
        self._receipt, self._now = receipt, now
        self._prepared = 0  # tasks
        names = [state.value for state in self._states]
        self._chosen = and_(outcomes.c.batch == self._serial, outcomes.c.state.in_(names))

    @property
    def is_prepared(self) -> bool:
        """Whether each task that stays skipped has been written down."""
        stay = TaskState.SKIPPED not in self._states and self._seen.counts[TaskState.SKIPPED]
        return not stay or self._prepared == self._seen.given.total

    def prepare(self, connection: Connection) -> None:
        """Write down some of the tasks that never started and are not to.

        Such a row says what is so without it, as long as the batch is not resumed. Raises as `write`.
        """
        row = self._found(connection)
        end = min(self._prepared + SKIPPED_AT_A_TIME, row.given.total)
        self._write_skipped(connection, row, self._prepared, end)
        self._prepared = end

    def write(self, connection: Connection) -> Loaded:
        """Do it, whole or not at all; the batch as it goes on.

        raises  BatchNotFound, BatchActive (also if somebody else was quicker), NothingToResume
        """
        row = self._found(connection)
        freed = connection.scalar(
            select(func.sum(func.length(outcomes.c.payload))).where(self._chosen)
        )
        self._note_attempts(connection)
        connection.execute(delete(outcomes).where(self._chosen))
        self._start_run(connection, row, int(freed or 0))
        resumed = self._queries.batch(connection, row.given.id)
        assert resumed is not None
        return load(connection, self._queries, resumed)

    def confirm(self, connection: Connection) -> Loaded | None:
        """The batch as it goes on, if this was done and nobody was told."""
        row = self._queries.batch(connection, self._seen.given.id)
        if row is None or row.run != self._seen.run + 1 or row.state is not BatchState.QUEUED:
            return None
        return load(connection, self._queries, row)

    def _found(self, connection: Connection) -> BatchRow:
        """The batch, if it is what the client saw, and there is something to resume of it."""
        row = self._queries.batch(connection, self._seen.given.id)
        if row is None:
            raise BatchNotFound(self._seen.given.id)
        if not row.is_final or row.run != self._seen.run:
            raise BatchActive(row.given.id)
        again = sum(row.counts[state] for state in self._states)
        if not again or row.state is BatchState.SUCCEEDED:
            raise NothingToResume(row.given.id, self._states)
        return row

    def _write_skipped(self, connection: Connection, row: BatchRow, first: int, end: int) -> None:
        """Tasks from `first` up to `end` that never started: once others run, only a row says so."""
        every = select(literal(first).label("index")).cte("every", recursive=True)
        every = every.union_all(select(every.c.index + 1).where(every.c.index + 1 < end))
        has_row = exists().where(
            outcomes.c.batch == self._serial, outcomes.c.index == every.c.index
        )
        at = self._rows.clock.wall(row.finished or self._now)
        values: dict[str, Any] = {
            "batch": literal(self._serial),
            "index": every.c.index,
            "run": literal(row.run),
            "number": literal(0),
            "state": literal(TaskState.SKIPPED.value),
            "attempt": literal(0),
            "began": literal(at),
            "ended": literal(at),
            "pid": literal(0),
            "remarks": literal(0),
            "is_late": false(),
            "payload": literal(b""),
        }
        skipped = select(*values.values()).where(not_(has_row))
        connection.execute(insert(outcomes).from_select(list(values), skipped))

    def _note_attempts(self, connection: Connection) -> None:
        """Attempts go on being counted, but not towards the limit; stops of single tasks are over.

        A task without an outcome never started in this run; it is chosen, or it would have one by
        now. It may have an attempt from an earlier run, as one that was stopped before it started.
        """
        ran = and_(self._chosen, outcomes.c.attempt > 0)
        noted = exists().where(notes.c.batch == outcomes.c.batch, notes.c.index == outcomes.c.index)
        of_task = and_(outcomes.c.batch == notes.c.batch, outcomes.c.index == notes.c.index)
        is_chosen = or_(exists().where(of_task, self._chosen), not_(exists().where(of_task)))
        last = select(outcomes.c.attempt).where(of_task).scalar_subquery()
        connection.execute(
            update(notes)
            .where(notes.c.batch == self._serial, is_chosen)
            .values(
                attempt=case((last > notes.c.attempt, last), else_=notes.c.attempt), used=0,
                began=null(), pid=null(), error=null(), stop_requested=null(), stop_reason=null(),
                stop_grace=null(), stop_settled=null(),
            )
        )  # fmt: skip
        columns = (outcomes.c.batch, outcomes.c.index, outcomes.c.attempt)
        fresh = select(*columns, literal(0)).where(ran, not_(noted))
        names = [column.name for column in columns]
        connection.execute(insert(notes).from_select([*names, "used"], fresh))

    def _start_run(self, connection: Connection, row: BatchRow, freed: int) -> None:
        counts = {state.value: 0 for state in self._states}
        if TaskState.SKIPPED not in self._states:
            counts[TaskState.SKIPPED.value] = row.counts[TaskState.SKIPPED]
        run, version = row.run + 1, row.version + 1
        connection.execute(
            update(batches)
            .where(batches.c.serial == self._serial, batches.c.run == row.run)
            .values(
                state=BatchState.QUEUED.value, run=run, version=version, finished=null(),
                failed_fast=false(), stop_requested=null(), stop_reason=null(), stop_grace=null(),
                stop_settled=null(), stop_tasks=0, payload_bytes=row.payload_bytes - freed, **counts,
            )
        )  # fmt: skip
        cause = Cause(Actor.CLIENT, f"resume of {', '.join(self._states)}")
        written = self._queries.count_history(connection, [self._serial])[self._serial]
        told = History.of(row, written)
        told.add(self._now, run, BatchState.QUEUED, cause, self._receipt)
        entries = [self._rows.of_history(self._serial, entry) for entry in told.take()]
        connection.execute(insert(history), entries)
