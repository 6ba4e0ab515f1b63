"""Results as NDJSON: read in slices and written as the workers wrote them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from app.record import Record
from app.views import line_of

TASKS_PER_TURN = 1_000
BYTES_PER_TURN = 262_144


async def result_lines(record: Record) -> AsyncIterator[bytes]:
    """Chunks of lines in index order, of the tasks that had ended when the first one was read."""
    before, start, total = record.ended_tasks(), 0, record.given.total
    while start < total:
        stop = min(start + TASKS_PER_TURN, total)
        rows = record.ended_rows(start, stop, before, BYTES_PER_TURN)
        if rows:
            yield b"".join([line_of(row) + b"\n" for row in rows])
        # Cut short by its size, the slice goes on after its last line.
        is_cut = sum(len(row.payload) for row in rows) >= BYTES_PER_TURN
        start = rows[-1].index + 1 if is_cut else stop
        await asyncio.sleep(0)
