"""Forgets batches: those that are too old, and those that somebody wants purged."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial

from sqlalchemy import Connection, delete, select, update

from app.errors import QuiesceError
from app.lifecycle import FINAL
from app.store import Store
from app.tables import PARTS, batches, outcomes

log = logging.getLogger("quiesce.retention")

#: How often to look for what is too old.
LOOK_EVERY_S = 60.0
BATCHES_PER_LOOK = 100
#: One transaction deletes about so many rows: others are waiting to write.
ROWS_PER_TURN = 5_000


class Retention:
    """A loop beside the service. Belongs to the event loop's thread."""

    def __init__(self, store: Store, keep_s: float) -> None:
        """keep_s: how long after its end a batch is kept, in seconds."""
        self._store, self._keep_s = store, keep_s
        self._wanted = asyncio.Event()

    def look_soon(self) -> None:
        """There is something to forget."""
        self._wanted.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._forget()
            except QuiesceError as error:  # the store is in trouble, and says so elsewhere
                log.warning("nothing could be forgotten: %s", error)
            except Exception:
                log.exception("the retention goes on after an unexpected error")
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()

    async def _forget(self) -> None:
        """Forget what there is to forget, with room for others in between."""
        forgotten = 0
        while found := await self._next():
            for serial, was_asked in found:
                while not await self._store.write(partial(forget_some, serial=serial)):
                    pass
                forgotten += 1
                if was_asked:
                    self._store.totals.purged += 1
                else:
                    self._store.totals.expired += 1
        if forgotten:
            await self._store.work(self._store.shrink)

    async def _next(self) -> list[tuple[int, bool]]:
        oldest, queries = time.time() - self._keep_s, self._store.queries
        return await self._store.read(queries.to_purge, oldest, BATCHES_PER_LOOK)


def mark_to_purge(connection: Connection, serial: int) -> None:
    """From now on nobody reads this ended batch."""
    is_it = (batches.c.serial == serial, batches.c.state.in_([state.value for state in FINAL]))
    connection.execute(update(batches).where(*is_it).values(purge=True))


def forget_some(connection: Connection, serial: int) -> bool:
    """Delete some rows of a batch, all at once what it has besides outcomes; whether that was all."""
    some = (
        select(outcomes.c.index)
        .where(outcomes.c.batch == serial)
        .order_by(outcomes.c.index)
        .limit(1)
        .offset(ROWS_PER_TURN)
    )
    end = connection.scalar(some)
    if end is not None:
        connection.execute(
            delete(outcomes).where(outcomes.c.batch == serial, outcomes.c.index < end)
        )
        # Nobody is to find a batch of which some is missing.
        mark_to_purge(connection, serial)
        return False
    for table in PARTS:
        connection.execute(delete(table).where(table.c.batch == serial))
    connection.execute(delete(batches).where(batches.c.serial == serial))
    return True
