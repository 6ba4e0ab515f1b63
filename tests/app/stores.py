"""A store without a pool, and the few things that tests of it do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar

from app.clock import Clock
from app.lifecycle import Actor, TaskState
from app.loaded import Loaded, load
from app.record import Record
from app.resumption import Resumption
from app.rows import BatchRow, Cause, NewBatchRow
from app.storage.database import Database
from app.storage.store import Store
from app.storage.table_rows import of_segments
from tests.app.records import new, outcome
from workers.backend import Ending
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


def ended(store: Store) -> Record:
    """A batch of three tasks: one succeeded, one failed, one stopped."""
    record = insert(store, new("a"))
    record.append([outcome(0), outcome(1, Ending.RAISED)])
    record.request_stop(5.0, Cause(Actor.CLIENT, "enough"), 7.0)
    record.append([outcome(2, Ending.STOPPED, noticed=5.5, ended=6.0)])
    record.settle(6.5)
    save(store, record)
    return record


def resume(
    store: Store, batch_id: str, states: set[TaskState], receipt: bytes | None = None
) -> None:
    """Have the store resume a batch."""
    seen = shown(store, batch_id)
    resumption = Resumption(store.queries, store.rows, seen, states, receipt, monotonic())
    while not resumption.is_prepared:
        wait_for(lambda: store.write(resumption.prepare))
    wait_for(lambda: store.write(resumption.write))


def wait_for(call: Callable[[], Awaitable[T]]) -> T:
    """What it gives in an event loop of its own."""

    async def run() -> T:
        async with asyncio.timeout(LIMIT_S):
            return await call()

    return asyncio.run(run())
