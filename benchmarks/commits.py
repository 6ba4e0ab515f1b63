"""How long a commit takes on this disk: what no durable store can be faster than."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter


class Commits:
    """Commits of one row, in a file with the settings of the service's own."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        for statement in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "CREATE TABLE some (number INTEGER PRIMARY KEY, text TEXT)",
        ):
            connection.execute(statement)

    def commit_ms(self) -> float:
        """How long one takes."""
        began = perf_counter()
        self._connection.execute("INSERT INTO some (text) VALUES ('a row that says very little')")
        return (perf_counter() - began) * 1e3


@contextmanager
def committing(folder: Path) -> Iterator[Commits]:
    """In a file of its own in this folder."""
    with closing(sqlite3.connect(folder / "commits.db", isolation_level=None)) as connection:
        yield Commits(connection)
