"""What one transaction of the store's writer writes, table by table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, bindparam, delete, null, update

from app.rows import NewBatchRow
from app.storage import tables
from app.storage.database import Database
from app.storage.statements import ManyInserts, ManyTimes, ManyUpdates, Values
from app.storage.table_rows import FRESH, GIVEN, PLAIN, TableRows, of_labels
from app.taken import Taken


class Insertion(NamedTuple):
    """A new batch, as it is written.

    given    what never changes of it
    taken    the rest of its row, and its history
    items    rows of its segments
    key      its Idempotency-Key with the digest of the request, if it has one
    """

    given: NewBatchRow
    taken: Taken
    items: Sequence[Values]
    key: tuple[str, bytes] | None = None


class Transactions:
    """Writes insertions and what was taken of records. Belongs to the writer's thread.

    Every row is written so that writing it again changes nothing: nobody knows whether a commit that
    failed on the way to a server was one.
    """

    def __init__(self, database: Database, table_rows: TableRows) -> None:
        self._rows = table_rows
        self._insert = {
            table: ManyInserts(database.insert_new(table))
            for table in (
                tables.batches, tables.labels, tables.segments, tables.outcomes, tables.history,
            )
        }  # fmt: skip
        self._insert_fresh = ManyInserts(database.insert_new(tables.batches), FRESH)
        # The key of a batch that was purged may be used again before its row is gone.
        self._insert[tables.keys] = ManyInserts(database.upsert(tables.keys))
        self._upsert_note = ManyInserts(database.upsert(tables.notes))
        # Within the same run, and never back.
        expected = "old.run = new.run AND old.version <= new.version"
        changing = [c.name for c in tables.batches.columns if c.name not in GIVEN]
        self._update_batch = ManyUpdates(tables.batches, changing, "serial", expected)
        self._update_plain = ManyUpdates(tables.batches, PLAIN, "serial", expected)
        self._drop_note = ManyTimes(_of_task(delete(tables.notes)))
        self._unstack = ManyTimes(_of_task(update(tables.notes).values(stack=null())))

    def insert(self, connection: Connection, insertions: Sequence[Insertion]) -> None:
        """Write new batches."""
        rows, new = self._rows, [each.taken.row for each in insertions]
        self._insert_fresh.execute(connection, [rows.of_fresh(row) for row in new if row.is_fresh])
        for table, values in (
            (tables.batches, [
                rows.of_given(row.given) | rows.of_batch(row) for row in new if not row.is_fresh
            ]),
            (tables.segments, [row for i in insertions for row in i.items]),
            (tables.history, [*self._history([i.taken for i in insertions])]),
            (tables.labels, [
                row for i in insertions if i.given.labels
                for row in of_labels(i.given.serial, i.given.labels)
            ]),
            (tables.keys, [
                {"key": i.key[0], "digest": i.key[1], "batch": i.given.serial}
                for i in insertions if i.key is not None
            ]),
        ):  # fmt: skip
            self._insert[table].execute(connection, values)

    def write(self, connection: Connection, taken: Sequence[Taken]) -> None:
        """Write what has changed of batches; of several states of one the last is written."""
        of_outcomes, of_note = self._rows.of_outcomes, self._rows.of_note
        outcomes = [row for each in taken for row in of_outcomes(each.row, each.outcomes)]
        self._insert[tables.outcomes].execute_tuples(connection, outcomes)
        for each in taken:
            if any(each.notes):
                serial = each.row.given.serial
                written, dropped, unstacked = each.notes
                notes = [of_note(serial, index, note) for index, note in written]
                self._upsert_note.execute(connection, notes)
                self._drop_note.execute(connection, _keys(serial, dropped))
                self._unstack.execute(connection, _keys(serial, unstacked))
        self._insert[tables.history].execute(connection, [*self._history(taken)])
        last = {each.row.given.serial: each.row for each in taken if each.has_changed}
        rows = last.values()
        plain = [self._rows.of_plain(row) for row in rows if row.is_plain]
        self._update_plain.execute(connection, plain)
        others = [self._rows.of_batch(row) for row in rows if not row.is_plain]
        self._update_batch.execute(connection, others)

    def _history(self, taken: Sequence[Taken]) -> Iterator[Values]:
        for each in taken:
            for row in each.history:
                yield self._rows.of_history(each.row.given.serial, row)


def forget(connection: Connection, serials: Sequence[int]) -> None:
    """Leave nothing of batches that were refused, if they were written after all."""
    for table in tables.PARTS:
        connection.execute(delete(table).where(table.c.batch.in_(serials)))
    connection.execute(delete(tables.batches).where(tables.batches.c.serial.in_(serials)))


def _of_task(statement: Any) -> Any:
    table: Table = tables.notes
    return statement.where(
        table.c.batch == bindparam("_batch"), table.c.index == bindparam("_index")
    )


def _keys(serial: int, indexes: Sequence[int]) -> list[Values]:
    return [{"_batch": serial, "_index": index} for index in indexes]
