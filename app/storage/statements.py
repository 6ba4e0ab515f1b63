"""Statements that are run for many rows: compiled once, and with as few calls as may be.

Each call into a database lets go of the interpreter, and may have to wait to get it back; a call for
every row would make the writer wait for the event loop hundreds of times in one transaction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Dialect, Insert, Table

Values = dict[str, Any]

#: Rows that one statement has at most.
MOST_ROWS = 256
#: So many, or fewer, go into one statement of just that size; more in halves of MOST_ROWS. Each size
#: is a text of its own, which the driver has to prepare and keep.
MOST_ROWS_EXACT = 32
_MARKS = {"qmark": "?", "pyformat": "%s"}


class _Many(ABC):
    """One statement that takes many rows of values at a time, as text for the driver.

    Past SQLAlchemy, which takes longer for it than SQLite.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """names: of the values in each row, as the statement wants them."""
        self._names = names
        self._pick: Callable[[Values], tuple[Any, ...]] = itemgetter(*names)
        self._texts: dict[int, str] = {}  # by number of rows

    def execute(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Run it for these."""
        self.execute_tuples(connection, list(map(self._pick, rows)))

    def execute_tuples(self, connection: Connection, picked: Sequence[tuple[Any, ...]]) -> None:
        """The same for rows that are just their values, in the order of the names."""
        driver: Any = connection.connection.driver_connection
        start = 0
        while start < len(picked):
            size = _size_of_next(len(picked) - start)
            some = tuple(chain.from_iterable(picked[start : start + size]))
            driver.execute(self._text(connection.dialect, size), some)
            start += size

    def _text(self, dialect: Dialect, size: int) -> str:
        text = self._texts.get(size)
        if text is None:
            row = f"({', '.join([_MARKS[dialect.paramstyle]] * len(self._names))})"
            text = self._texts[size] = self._compile(dialect, ", ".join([row] * size))
        return text

    @abstractmethod
    def _compile(self, dialect: Dialect, rows: str) -> str:
        """The statement, with these marks for its rows."""


class ManyInserts(_Many):
    """One INSERT for many rows, which says what to do ON CONFLICT."""

    def __init__(self, statement: Insert, names: Sequence[str] = ()) -> None:
        """names: of the columns that each row gives; by default all of them."""
        columns = [column.name for column in statement.table.columns]
        super().__init__([name for name in columns if not names or name in names])
        self._statement = statement

    def _compile(self, dialect: Dialect, rows: str) -> str:
        text = str(self._statement.compile(dialect=dialect, column_keys=self._names))
        head, _, rest = text.partition(" VALUES ")
        return f"{head} VALUES {rows}{rest[rest.index(' ON CONFLICT ') :]}"


class ManyUpdates(_Many):
    """One UPDATE of many rows, each as long as it is where it is expected: compare-and-set."""

    def __init__(self, table: Table, changing: Sequence[str], key: str, expected: str) -> None:
        """expected: SQL that compares the `old` row with the `new` one, besides the key."""
        super().__init__([key, *changing])
        self._table, self._changing = table, changing
        self._where = f"old.{key} = new.{key} AND {expected}"

    def _compile(self, dialect: Dialect, rows: str) -> str:
        # These names are those of our own tables.
        changes = ", ".join(f"{name} = new.{name}" for name in self._changing)
        return (
            f"WITH {self._new(dialect, rows)} "  # noqa: S608
            f"UPDATE {self._table.name} AS old SET {changes} FROM new WHERE {self._where}"
        )

    def _new(self, dialect: Dialect, rows: str) -> str:
        names = ", ".join(self._names)
        if dialect.name == "sqlite":  # a column makes of a value what it wants
            return f"new ({names}) AS (VALUES {rows})"
        # A driver does not say of which type a NULL is; where it is used there is no doubt.
        columns = self._table.c
        kinds = [f"CAST({n} AS {columns[n].type.compile(dialect)}) AS {n}" for n in self._names]
        return (
            f"given ({names}) AS (VALUES {rows}), "  # noqa: S608
            f"new AS (SELECT {', '.join(kinds)} FROM given)"
        )


class ManyTimes:
    """Another statement, run once for each row of values; for few."""

    def __init__(self, statement: Any) -> None:
        self._statement = statement

    def execute(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Run it with each of these."""
        if rows:
            connection.execute(self._statement, rows)


def _size_of_next(left: int) -> int:
    """How many of the rows that are left one statement takes."""
    if left <= MOST_ROWS_EXACT:
        return left
    size = MOST_ROWS
    while size > left:
        size //= 2
    return size
