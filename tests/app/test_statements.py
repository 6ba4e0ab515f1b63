"""Statements for many rows: each row is written once, with few calls into the database."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, select

from app.storage.database import Database
from app.storage.statements import MOST_ROWS, MOST_ROWS_EXACT, ManyInserts, ManyUpdates
from app.storage.tables import keys

#: Each side of each limit, and what no single statement takes.
AMOUNTS = (
    0, 1, 2, MOST_ROWS_EXACT - 1, MOST_ROWS_EXACT, MOST_ROWS_EXACT + 1,
    MOST_ROWS - 1, MOST_ROWS, MOST_ROWS + 1, 2 * MOST_ROWS + MOST_ROWS_EXACT + 3,
)  # fmt: skip


def rows(amount: int, digest: bytes) -> list[dict[str, Any]]:
    return [{"key": f"{at:04}", "digest": digest, "batch": at} for at in range(amount)]


def kept_in(connection: Connection) -> list[tuple[str, bytes, int]]:
    found = connection.execute(select(keys).order_by(keys.c.key))
    return [(row.key, bytes(row.digest), row.batch) for row in found]


@pytest.mark.parametrize("amount", AMOUNTS)
def test_each_of_many_rows_is_inserted_and_updated(database: Database, amount: int) -> None:
    """A row that fell between two statements would be a result that nobody ever hears of."""
    insert = ManyInserts(database.insert_new(keys))
    update = ManyUpdates(keys, ["digest", "batch"], "key", "old.batch = new.batch")

    with database.writing() as connection:
        insert.execute(connection, rows(amount, b"first"))
        inserted = kept_in(connection)
        update.execute(connection, rows(amount, b"then"))
        updated = kept_in(connection)

    assert inserted == [(f"{at:04}", b"first", at) for at in range(amount)]
    assert updated == [(f"{at:04}", b"then", at) for at in range(amount)]


class Counted:
    """A connection, and how often its driver is asked for something."""

    def __init__(self, connection: Connection) -> None:
        self.dialect = connection.dialect
        self.connection = SimpleNamespace(driver_connection=self)
        self.calls = 0
        self._driver: Any = connection.connection.driver_connection

    def execute(self, *given: Any) -> Any:
        self.calls += 1
        return self._driver.execute(*given)


@pytest.mark.parametrize(("amount", "calls"), [(MOST_ROWS_EXACT - 1, 1), (MOST_ROWS - 1, 4)])
def test_few_rows_take_few_calls(database: Database, amount: int, calls: int) -> None:
    """Each call lets go of the interpreter, and to a server it is a journey."""
    insert = ManyInserts(database.insert_new(keys))
    with database.writing() as connection:
        counted: Any = Counted(connection)
        insert.execute(counted, rows(amount, b"digest"))
        assert len(kept_in(connection)) == amount

    assert counted.calls == (calls if counted.dialect.name == "sqlite" else 1)
