"""Forgets batches: those that are too old, and those that somebody wants purged."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial

from sqlalchemy import Connection, delete, select, update

from app.errors import QuiesceError
from app.lifecycle import FINAL
from app.storage.store import Store
from app.storage.tables import PARTS, batches, notes, outcomes

log = logging.getLogger("quiesce.retention")

#: How often to look for what is too old; more often if nothing is kept for long, within reason.
LOOK_EVERY_S, LEAST_LOOK_EVERY_S = 60.0, 1.0
BATCHES_PER_LOOK = 100
#: One transaction deletes about so much: others are waiting to write.
ROWS_PER_TURN = 5_000
BYTES_PER_TURN = 8 << 20
#: The tables that may have very many rows of one batch, by what tells these apart.
MANY_ROWS = (outcomes.c.index, notes.c.index)


class Retention:
    """A loop beside the service. Belongs to the event loop's thread."""

    def __init__(self, store: Store, keep_s: float) -> None:
        """keep_s: how long after its end a batch is kept, in seconds."""
        self._store, self._keep_s = store, keep_s
        self._look_every_s = min(LOOK_EVERY_S, max(LEAST_LOOK_EVERY_S, keep_s / 2))
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
                async with asyncio.timeout(self._look_every_s):
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
        """Some of what there is to forget; nobody finds it any more, and so nobody resumes it."""
        oldest, find = time.time() - self._keep_s, self._store.queries.to_purge
        if not await self._store.read(find, oldest, 1):
            return []

        def claim(connection: Connection) -> list[tuple[int, bool]]:
            found = find(connection, oldest, BATCHES_PER_LOOK)
            for serial, _ in found:
                mark_to_purge(connection, serial)
            return found

        return await self._store.write(claim)


def mark_to_purge(connection: Connection, serial: int, run: int | None = None) -> bool:
    """From now on nobody reads this ended batch; False if it is active, or in another run."""
    is_it = [batches.c.serial == serial, batches.c.state.in_([state.value for state in FINAL])]
    if run is not None:
        is_it.append(batches.c.run == run)
    return bool(connection.execute(update(batches).where(*is_it).values(purge=True)).rowcount)


def forget_some(connection: Connection, serial: int) -> bool:
    """Delete some rows of a batch, all at once what it has only few of; whether that was all."""
    most = _rows_per_turn(connection, serial)
    for column in MANY_ROWS:
        of_batch = column.table.c.batch == serial
        some = select(column).where(of_batch).order_by(column).limit(1).offset(most)
        end = connection.scalar(some)
        if end is not None:
            connection.execute(delete(column.table).where(of_batch, column < end))
            # Nobody is to find a batch of which some is missing.
            mark_to_purge(connection, serial)
            return False
    for table in PARTS:
        connection.execute(delete(table).where(table.c.batch == serial))
    connection.execute(delete(batches).where(batches.c.serial == serial))
    return True


def _rows_per_turn(connection: Connection, serial: int) -> int:
    """Fewer where results are large."""
    size = select(batches.c.outcomes, batches.c.payload_bytes).where(batches.c.serial == serial)
    rows, payload_bytes = connection.execute(size).one_or_none() or (0, 0)
    if payload_bytes <= BYTES_PER_TURN:
        return ROWS_PER_TURN
    return max(1, min(ROWS_PER_TURN, rows * BYTES_PER_TURN // payload_bytes))
