"""Statements that are run for many rows: compiled once, and with as few calls as may be.

Each call into a database lets go of the interpreter, and may have to wait to get it back; a call for
every row would make the writer wait for the event loop hundreds of times in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Insert

Values = dict[str, Any]

#: Rows that one INSERT has at most; what is left over is written in halves of it.
MOST_ROWS = 256


class ManyInserts:
    """One INSERT for many rows, which says what to do ON CONFLICT."""

    def __init__(self, statement: Insert) -> None:
        self._statement = statement
        self._names = [column.name for column in statement.table.columns]
        self._pick: Callable[[Values], tuple[Any, ...]] = itemgetter(*self._names)
        self._texts: dict[int, str] = {}  # by number of rows

    def execute(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Insert these; each has every column."""
        # Past SQLAlchemy, which takes longer for it than SQLite.
        driver: Any = connection.connection.driver_connection
        start, size = 0, MOST_ROWS
        picked = list(map(self._pick, rows))
        while start < len(picked):
            while size > len(picked) - start:
                size //= 2
            some = tuple(chain.from_iterable(picked[start : start + size]))
            driver.execute(self._text(connection, size), some)
            start += size

    def _text(self, connection: Connection, size: int) -> str:
        text = self._texts.get(size)
        if text is None:
            compiled = self._statement.compile(dialect=connection.dialect, column_keys=self._names)
            mark = "?" if compiled.positional else "%s"
            row = f"({', '.join([mark] * len(self._names))})"
            head, _, rest = str(compiled).partition(" VALUES ")
            tail = rest[rest.index(" ON CONFLICT ") :]
            text = f"{head} VALUES {', '.join([row] * size)}{tail}"
            self._texts[size] = text
        return text


class ManyTimes:
    """Another statement, run once for each row of values; for few."""

    def __init__(self, statement: Any) -> None:
        self._statement = statement

    def execute(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Run it with each of these."""
        if rows:
            connection.execute(self._statement, rows)
