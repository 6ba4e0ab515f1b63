"""Results as NDJSON: read in slices and written as the workers wrote them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from app.rows import BatchRow
from app.storage.store import Store
from app.views import line_of

TASKS_PER_TURN = 1_000
BYTES_PER_TURN = 262_144


async def result_lines(store: Store, batch: BatchRow) -> AsyncIterator[bytes]:
    """Chunks of lines in index order, of the tasks that had ended when the batch was looked at."""
    start, is_more = 0, True
    while is_more:
        rows = await store.read(store.queries.results, batch, start, TASKS_PER_TURN, BYTES_PER_TURN)
        if rows:
            yield b"".join([line_of(row) + b"\n" for row in rows])
            start = rows[-1].index + 1
        is_cut = sum(len(row.payload) for row in rows) >= BYTES_PER_TURN
        is_more = is_cut or len(rows) == TASKS_PER_TURN


async def begun(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same once the first is there: what goes wrong until then can still be answered."""
    first = await anext(chunks, b"")

    async def all_of_them() -> AsyncIterator[bytes]:
        yield first
        async for chunk in chunks:
            yield chunk

    return all_of_them()
