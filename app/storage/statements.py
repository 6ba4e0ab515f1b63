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

from sqlalchemy import Connection, Dialect, Double, Insert, Table

Values = dict[str, Any]

#: Rows that one statement has at most.
MOST_ROWS = 256
#: With marks for each value, so many, or fewer, go into one statement of just that size; more in halves
#: of MOST_ROWS. Each size is a text of its own, which the driver has to prepare and keep.
MOST_ROWS_EXACT = 32


class _Many(ABC):
    """One statement that takes many rows of values at a time, as text for the driver.

    Past SQLAlchemy, which takes longer for it than SQLite. A server gets an array for each column:
    one text for any number of rows, which it reads and runs four times as fast.
    """

    def __init__(self, table: Table, names: Sequence[str]) -> None:
        """names: of the values in each row, as the statement wants them."""
        self._table, self._names = table, names
        self._pick: Callable[[Values], tuple[Any, ...]] = itemgetter(*names)
        self._floats = [at for at, n in enumerate(names) if isinstance(table.c[n].type, Double)]
        self._texts: dict[int, str] = {}  # by number of rows; 0: any

    def execute(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Run it for these."""
        self.execute_tuples(connection, list(map(self._pick, rows)))

    def execute_tuples(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """The same for rows that are just their values, in the order of the names."""
        driver: Any = connection.connection.driver_connection
        takes_arrays = connection.dialect.name == "postgresql"
        start = 0
        while start < len(rows):
            size = min(len(rows) - start, MOST_ROWS)
            size = size if takes_arrays else _size_of_next(size)
            some = rows[start : start + size]
            text = self._text(connection.dialect, 0 if takes_arrays else size)
            driver.execute(text, self._arrays(some) if takes_arrays else (*chain(*some),))
            start += size

    def _text(self, dialect: Dialect, size: int) -> str:
        text = self._texts.get(size)
        if text is None:
            given = self._marks(size) if size else self._array_marks(dialect)
            text = self._texts[size] = self._compile(dialect, given)
        return text

    def _marks(self, size: int) -> str:
        row = f"({', '.join('?' * len(self._names))})"
        return f"VALUES {', '.join([row] * size)}"

    def _array_marks(self, dialect: Dialect) -> str:
        kinds = [self._table.c[name].type.compile(dialect) for name in self._names]
        return f"SELECT * FROM unnest({', '.join(f'CAST(%b AS {kind}[])' for kind in kinds)})"  # noqa: S608

    def _arrays(self, rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
        arrays = [list(values) for values in zip(*rows, strict=True)]
        for at in self._floats:  # the driver takes no array of both integers and floats
            arrays[at] = [None if value is None else float(value) for value in arrays[at]]
        return arrays

    @abstractmethod
    def _compile(self, dialect: Dialect, given: str) -> str:
        """The statement; `given` is the query that its rows come from."""


class ManyInserts(_Many):
    """One INSERT for many rows, which says what to do ON CONFLICT."""

    def __init__(self, statement: Insert, names: Sequence[str] = ()) -> None:
        """names: of the columns that each row gives; by default all of them."""
        table = statement.table
        assert isinstance(table, Table)
        columns = [column.name for column in table.columns]
        super().__init__(table, [name for name in columns if not names or name in names])
        self._statement = statement

    def _compile(self, dialect: Dialect, given: str) -> str:
        text = str(self._statement.compile(dialect=dialect, column_keys=self._names))
        head, _, rest = text.partition(" VALUES ")
        return f"{head} {given}{rest[rest.index(' ON CONFLICT ') :]}"


class ManyUpdates(_Many):
    """One UPDATE of many rows, each as long as it is where it is expected: compare-and-set."""

    def __init__(self, table: Table, changing: Sequence[str], key: str, expected: str) -> None:
        """expected: SQL that compares the `old` row with the `new` one, besides the key."""
        super().__init__(table, [key, *changing])
        self._changing = changing
        self._where = f"old.{key} = new.{key} AND {expected}"

    def _compile(self, dialect: Dialect, given: str) -> str:  # noqa: ARG002
        # These names are those of our own tables. SQLite's columns make of a value what they want.
        changes = ", ".join(f"{name} = new.{name}" for name in self._changing)
        return (
            f"WITH new ({', '.join(self._names)}) AS ({given}) "  # noqa: S608
            f"UPDATE {self._table.name} AS old SET {changes} FROM new WHERE {self._where}"
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
    """How many of the rows that are left one statement with marks takes."""
    if left <= MOST_ROWS_EXACT:
        return left
    size = MOST_ROWS
    while size > left:
        size //= 2
    return size
