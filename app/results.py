"""Results as NDJSON: read in slices and written as the workers wrote them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sqlalchemy import Connection

from app.errors import BatchActive, BatchNotFound
from app.rows import BatchRow, Row
from app.storage.queries import Queries
from app.storage.store import Store
from app.views import line_of

TASKS_PER_TURN = 1_000
BYTES_PER_TURN = 262_144


async def result_lines(store: Store, batch: BatchRow) -> AsyncIterator[bytes]:
    """Chunks of lines in index order, of the tasks that had ended when the batch was looked at."""
    start, is_more = 0, True
    while is_more:
        rows = await store.read(_some_rows, store.queries, batch, start)
        if rows:
            yield b"".join([line_of(row) + b"\n" for row in rows])
            start = rows[-1].index + 1
        is_cut = sum(len(row.payload) for row in rows) >= BYTES_PER_TURN
        is_more = is_cut or len(rows) == TASKS_PER_TURN


def _some_rows(connection: Connection, queries: Queries, batch: BatchRow, start: int) -> list[Row]:
    """The next results, if they are still those of this batch: else there would be gaps in them."""
    run = queries.run_of(connection, batch.given.serial)
    if run is None:
        raise BatchNotFound(batch.given.id)
    if run != batch.run:
        raise BatchActive(batch.given.id)
    return queries.results(connection, batch, start, TASKS_PER_TURN, BYTES_PER_TURN)


async def begun(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same once the first is there: what goes wrong until then can still be answered."""
    first = await anext(chunks, b"")

    async def all_of_them() -> AsyncIterator[bytes]:
        yield first
        async for chunk in chunks:
            yield chunk

    return all_of_them()
