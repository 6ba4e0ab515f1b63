"""A store without a pool, and the few things that tests of it do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from app.clock import Clock
from app.database import Database
from app.loaded import Loaded, load
from app.record import Record
from app.rows import BatchRow, NewBatchRow
from app.store import Store
from app.table_rows import of_segments
from tests.app.serving import eventually
from workers.items import Items

T = TypeVar("T")
LIMIT_S = 30.0


@contextmanager
def running_store(database: Database, clock: Clock | None = None) -> Iterator[Store]:
    """A store that writes, until the context ends."""
    store = Store(database, clock or Clock(), on_written=lambda *_: None, on_tick=lambda: None)
    store.start()
    try:
        yield store
    finally:
        assert store.close(LIMIT_S)


def insert(
    store: Store,
    given: NewBatchRow,
    key: tuple[str, bytes] | None = None,
) -> Record:
    """A batch whose items are numbers; it is in the store."""
    record = Record(given)
    items = [*of_segments(given.serial, Items([b"%d" % n for n in range(given.total)]))]
    wait_for(lambda: store.insert(record, items, key, lambda: None))
    return record


def save(store: Store, *records: Record) -> None:
    """Until the store has all that was said of these."""
    for record in records:
        store.mark(record)
    for record in records:
        wait_for(lambda record=record: store.saved(record))  # type: ignore[misc]


def shown(store: Store, batch_id: str) -> BatchRow:
    """A batch as the store has it."""
    row = store.ask(store.queries.batch, batch_id)
    assert row is not None
    return row


def reloaded(store: Store, batch_id: str) -> Loaded:
    """A batch as a restarted service finds it."""
    return store.ask(load, store.queries, shown(store, batch_id))


def wait_for(call: Callable[[], Awaitable[T]]) -> T:
    """What it gives in an event loop of its own."""

    async def run() -> T:
        async with asyncio.timeout(LIMIT_S):
            return await call()

    return asyncio.run(run())


__all__ = ["eventually", "insert", "reloaded", "running_store", "save", "shown", "wait_for"]
