"""What is asked of the store about batches; each function runs in one read transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from sqlalchemy import Connection, Select, and_, exists, func, not_, select

from app.glance import Glance
from app.history import plain_history
from app.lifecycle import FINAL, BatchState, TaskState
from app.rows import BatchRow, HistoryRow, Note, Row, TaskRow
from app.storage.table_rows import TableRows, segment
from app.storage.tables import batches, history, keys, labels, notes, outcomes, segments
from workers.items import Items, Segment

#: How many tasks one look for the next match covers, the first time and at most.
FIRST_SPAN, MOST_SPAN = 1 << 10, 1 << 16
BATCHES_AT_A_TIME = 500
#: Rows that are fetched at a time where each may be large.
ROWS_AT_A_TIME = 50

_is_visible = not_(batches.c.purge & batches.c.finished.is_not(None))


@dataclass(frozen=True, slots=True)
class Filter:
    """Which batches: any of `states`, any of `tasks`, all of `labels`; an empty one lets all by."""

    states: frozenset[BatchState] = frozenset()
    tasks: frozenset[str] = frozenset()
    labels: frozenset[tuple[str, str]] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.states or self.tasks or self.labels)

    def matches(self, row: BatchRow) -> bool:
        given = row.given
        return (
            (not self.states or row.state in self.states)
            and (not self.tasks or given.task in self.tasks)
            and (not self.labels or self.labels <= given.labels.items())
        )


class Page(NamedTuple):
    """Some tasks, and the index of the next; None if there is none."""

    tasks: list[TaskRow]
    following: int | None


class Queries:
    """Every question. Holds nothing but how rows are read."""

    def __init__(self, table_rows: TableRows) -> None:
        self._rows = table_rows

    # --- batches ----------------------------------------------------------------------------------

    def batch(self, connection: Connection, batch_id: str) -> BatchRow | None:
        """A batch, unless it is not there or to be purged."""
        found = connection.execute(select(batches).where(batches.c.id == batch_id, _is_visible))
        values = found.mappings().first()
        return None if values is None else self._rows.batch(values)

    def list_batches(
        self, connection: Connection, wanted: Filter, before: str | None, limit: int
    ) -> list[BatchRow]:
        """Matching batches older than `before`, newest first."""
        statement = _matching(wanted).order_by(batches.c.id.desc()).limit(limit)
        if before is not None:
            statement = statement.where(batches.c.id < before)
        return [self._rows.batch(values) for values in connection.execute(statement).mappings()]

    def active(self, connection: Connection) -> list[BatchRow]:
        """Every batch that has not ended, oldest first."""
        statement = select(batches).where(batches.c.finished.is_(None)).order_by(batches.c.serial)
        return [self._rows.batch(values) for values in connection.execute(statement).mappings()]

    def last_serial(self, connection: Connection) -> int:
        """The highest number that a batch has, 0 without any."""
        return connection.scalar(select(func.max(batches.c.serial))) or 0

    def last_id(self, connection: Connection) -> str | None:
        """The highest id."""
        found: str | None = connection.scalar(select(func.max(batches.c.id)))
        return found

    def items(self, connection: Connection, serials: Sequence[int]) -> dict[int, Items]:
        """The items of these batches, which are few."""
        found: dict[int, list[Segment]] = {serial: [] for serial in serials}
        statement = (
            select(segments)
            .where(segments.c.batch.in_(serials))
            .order_by(segments.c.batch, segments.c.first)
        )
        for values in connection.execute(statement).mappings():
            found[values["batch"]].append(segment(values))
        return {serial: Items.of(parts) for serial, parts in found.items()}

    def history(self, connection: Connection, row: BatchRow) -> list[HistoryRow]:
        """Every state that a batch was in, in order."""
        its_own = history.c.batch == row.given.serial
        written = connection.execute(select(history).where(its_own).order_by(history.c.number))
        return [*map(self._rows.history, written.mappings())] or plain_history(row)

    def count_history(self, connection: Connection, serials: Sequence[int]) -> dict[int, int]:
        """How many of them are written, by batch; none if its row tells as much."""
        found = dict.fromkeys(serials, 0)
        for some in _parts(serials):
            statement = (
                select(history.c.batch, func.max(history.c.number) + 1)
                .where(history.c.batch.in_(some))
                .group_by(history.c.batch)
            )
            found.update(map(tuple, connection.execute(statement)))
        return found

    def key(self, connection: Connection, key: str) -> tuple[bytes, BatchRow] | None:
        """The digest of the request that used a key, and the batch that it made."""
        statement = (
            select(batches, keys.c.digest)
            .join(keys, keys.c.batch == batches.c.serial)
            .where(keys.c.key == key, _is_visible)
        )
        values = connection.execute(statement).mappings().first()
        return None if values is None else (values["digest"], self._rows.batch(values))

    def to_purge(
        self, connection: Connection, ended_before: float, limit: int
    ) -> list[tuple[int, bool]]:
        """Ended batches that nobody is to read any more, or that are too old (UTC): their numbers,
        and whether somebody wants them purged.
        """
        found: list[tuple[int, bool]] = []
        # Two questions: each has an index, and both together would read every batch there is.
        for is_due in (
            and_(batches.c.purge, batches.c.state.in_([state.value for state in FINAL])),
            and_(batches.c.finished < ended_before, not_(batches.c.purge)),
        ):
            statement = select(batches.c.serial, batches.c.purge).where(is_due)
            rows = connection.execute(statement.limit(limit - len(found)))
            found += [(serial, purge) for serial, purge in rows]
        return found

    # --- tasks ------------------------------------------------------------------------------------

    def task(
        self, connection: Connection, serial: int, index: int
    ) -> tuple[Row | None, Note | None]:
        """What is known of one task."""
        rows, found = (
            self.rows(connection, serial, [index]),
            self.notes(connection, serial, [index]),
        )
        return rows.get(index), found.get(index)

    def rows(self, connection: Connection, serial: int, indexes: Sequence[int]) -> dict[int, Row]:
        """Those of these tasks that have ended."""
        if not indexes:
            return {}
        statement = select(outcomes).where(
            outcomes.c.batch == serial, outcomes.c.index.in_(indexes)
        )
        found = connection.execute(statement).mappings()
        return {values["index"]: self._rows.outcome(values) for values in found}

    def notes(
        self, connection: Connection, serial: int, indexes: Sequence[int] | None = None
    ) -> dict[int, Note]:
        """What is known of these tasks besides; of all, if `indexes` is None."""
        statement = select(notes).where(notes.c.batch == serial)
        if indexes is not None:
            statement = statement.where(notes.c.index.in_(indexes))
        found = connection.execute(statement).mappings()
        return {values["index"]: self._rows.note(values) for values in found}

    def open_notes(
        self, connection: Connection, serials: Sequence[int]
    ) -> dict[int, dict[int, Note]]:
        """What is known of the tasks of these batches that have not ended, by batch and task."""
        ended = exists().where(outcomes.c.batch == notes.c.batch, outcomes.c.index == notes.c.index)
        found: dict[int, dict[int, Note]] = {serial: {} for serial in serials}
        for some in _parts(serials):
            statement = select(notes).where(notes.c.batch.in_(some), not_(ended))
            for values in connection.execute(statement).mappings():
                found[values["batch"]][values["index"]] = self._rows.note(values)
        return found

    def has_failed(self, connection: Connection, serial: int, run: int) -> bool:
        """Whether a task of a batch has failed in this run."""
        statement = select(
            exists().where(
                outcomes.c.batch == serial,
                outcomes.c.run == run,
                outcomes.c.state == TaskState.FAILED.value,
            )
        )
        return bool(connection.scalar(statement))

    def run_of(self, connection: Connection, serial: int) -> int | None:
        """The run that a batch is in; None if nobody is to read of it any more."""
        return connection.scalar(
            select(batches.c.run).where(batches.c.serial == serial, _is_visible)
        )

    def ended(self, connection: Connection, serial: int, total: int) -> bytearray | None:
        """1 for each task that has ended, in index order; None if none has."""
        found = None
        statement = select(outcomes.c.index).where(outcomes.c.batch == serial)
        for part in connection.scalars(statement).partitions(MOST_SPAN):
            found = bytearray(total) if found is None else found
            for index in part:
                found[index] = 1
        return found

    def page(
        self,
        connection: Connection,
        glance: Glance,
        states: Collection[TaskState],
        start: int,
        limit: int,
        most_bytes: int,
    ) -> Page:
        """A page of tasks in one of `states`, in index order from `start` on: at most `limit`.

        Ends early, after at least one task, when the payloads reach `most_bytes`.
        """
        found = self._find(connection, glance, states, start, limit + 1)
        count, size = 0, 0
        for _, payload_bytes in found[:limit]:
            count, size = count + 1, size + payload_bytes
            if size >= most_bytes:
                break
        indexes = [index for index, _ in found[:count]]
        serial = glance.row.given.serial
        rows, known = (
            self.rows(connection, serial, indexes),
            self.notes(connection, serial, indexes),
        )
        tasks = [glance.task(index, rows.get(index), known.get(index)) for index in indexes]
        shown = [_without_savepoint(task) for task in tasks]
        return Page(shown, found[count][0] if count < len(found) else None)

    def _find(
        self,
        connection: Connection,
        glance: Glance,
        states: Collection[TaskState],
        start: int,
        limit: int,
    ) -> list[tuple[int, int]]:
        """At most `limit` tasks in one of `states` from `start` on: index, and bytes of payload."""
        found: list[tuple[int, int]] = []
        running, rest = {task.index for task in glance.running}, glance.open_state
        wants_open = rest in states or TaskState.RUNNING in states
        serial, total, span = glance.row.given.serial, glance.row.given.total, FIRST_SPAN
        while start < total and len(found) < limit:
            end = min(start + span, total)
            ended = self._ended_between(
                connection, serial, start, end, None if wants_open else states
            )
            if wants_open:
                for at in range(start, end):
                    state, size = ended.get(at) or (TaskState.RUNNING if at in running else rest, 0)
                    if state in states:
                        found.append((at, size))
            else:
                found += [(at, size) for at, (_, size) in ended.items()]
            start, span = end, min(span * 4, MOST_SPAN)
        return found[:limit]

    def _ended_between(
        self,
        connection: Connection,
        serial: int,
        start: int,
        end: int,
        states: Collection[TaskState] | None,
    ) -> dict[int, tuple[TaskState, int]]:
        statement = (
            select(outcomes.c.index, outcomes.c.state, func.length(outcomes.c.payload))
            .where(outcomes.c.batch == serial, outcomes.c.index >= start, outcomes.c.index < end)
            .order_by(outcomes.c.index)
        )
        if states is not None:
            statement = statement.where(outcomes.c.state.in_([state.value for state in states]))
        found = connection.execute(statement)
        return {index: (TaskState(state), size) for index, state, size in found}

    def results(
        self, connection: Connection, batch: BatchRow, start: int, limit: int, most_bytes: int
    ) -> list[Row]:
        """In index order from `start` on, tasks that ran and had ended when the batch was so.

        Ends early, after at least one row, when the payloads reach `most_bytes`.
        """
        statement = (
            select(outcomes)
            .where(
                outcomes.c.batch == batch.given.serial,
                outcomes.c.index >= start,
                outcomes.c.number < batch.ended_tasks,
                outcomes.c.attempt > 0,
            )
            .order_by(outcomes.c.index)
            .limit(limit)
        )
        rows: list[Row] = []
        size = 0
        streamed = statement.execution_options(stream_results=True, max_row_buffer=ROWS_AT_A_TIME)
        with connection.execute(streamed) as found:
            for values in found.mappings():
                rows.append(self._rows.outcome(values))
                size += len(rows[-1].payload)
                if size >= most_bytes:
                    break
        return rows

    def stopped(self, connection: Connection, batch: BatchRow, limit: int) -> list[Row]:
        """The first tasks that ran when the batch's stop came, in the order they ended."""
        statement = (
            select(outcomes)
            .where(
                outcomes.c.batch == batch.given.serial,
                outcomes.c.run == batch.run,
                outcomes.c.is_late,
                outcomes.c.number < batch.ended_tasks,
            )
            .order_by(outcomes.c.number)
            .limit(limit)
        )
        return [self._rows.outcome(values) for values in connection.execute(statement).mappings()]

    def all_rows(self, connection: Connection, serial: int) -> list[Row]:
        """Every task of a batch that has an outcome, in index order."""
        statement = select(outcomes).where(outcomes.c.batch == serial).order_by(outcomes.c.index)
        return [self._rows.outcome(values) for values in connection.execute(statement).mappings()]


def _parts(serials: Sequence[int]) -> Iterator[Sequence[int]]:
    """So few at a time that every database takes them as parameters."""
    for first in range(0, len(serials), BATCHES_AT_A_TIME):
        yield serials[first : first + BATCHES_AT_A_TIME]


def _without_savepoint(task: TaskRow) -> TaskRow:
    """In a list: it may be large."""
    if task.note.savepoint is None:
        return task
    return task._replace(note=replace(task.note, savepoint=None))


def _matching(wanted: Filter) -> Select[tuple[object, ...]]:
    statement = select(batches).where(_is_visible)
    if wanted.states:
        names = [state.value for state in wanted.states]
        statement = statement.where(batches.c.state.in_(names))
        if wanted.states.isdisjoint(FINAL):  # then an index has them
            statement = statement.where(batches.c.finished.is_(None))
    if wanted.tasks:
        statement = statement.where(batches.c.task.in_(wanted.tasks))
    for key, value in wanted.labels:
        labelled = select(labels.c.batch).where(labels.c.key == key, labels.c.value == value)
        statement = statement.where(batches.c.serial.in_(labelled))
    return statement
