"""A database with very many batches in it, written as the store writes, but without a pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from time import monotonic

from app.clock import Clock
from app.ids import Ids
from app.record import Record
from app.rows import NewBatchRow
from app.storage.database import Database
from app.storage.table_rows import TableRows, of_segments
from app.storage.transaction import Insertion, Transactions
from tests.app.records import outcome
from workers.items import Items

MUCH = 1 << 30
BATCHES_PER_TRANSACTION = 100


def fill(url: str, how_many: int, tasks: int, *, have_ended: bool = True) -> list[str]:
    """Batches of so many tasks each that succeeded, or that wait; gives their ids, oldest first."""
    ids, serials = Ids(), count(1)
    items = Items([b'{"number":%d}' % number for number in range(tasks)])
    with closing(Database.open(url, Path())) as database:
        transactions = Transactions(database, TableRows(Clock()))

        def make() -> Iterator[tuple[Record, Insertion]]:
            for serial in islice(serials, how_many):
                given = NewBatchRow(ids.new(), "noop", tasks, monotonic(), serial=serial)
                record = Record(given)
                insertion = Insertion(given, record.take(0), [*of_segments(serial, items)])
                if have_ended:
                    record.append([outcome(index) for index in range(tasks)])
                    record.settle(monotonic())
                yield record, insertion

        made, written = make(), []
        while some := [*islice(made, BATCHES_PER_TRANSACTION)]:
            with database.writing() as connection:
                transactions.insert(connection, [insertion for _, insertion in some])
                transactions.write(connection, [record.take(MUCH) for record, _ in some])
            written += [record.given.id for record, _ in some]
    return written
