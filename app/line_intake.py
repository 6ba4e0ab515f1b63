"""The body of POST /batches as NDJSON: an item a line; the rest of the batch is in the query."""

from __future__ import annotations

from fastapi import Request

from app.batch_query import batch_fields
from app.draft import Draft, IntakeLimits, draft_of
from app.errors import FieldError, RequestInvalid, UnknownTask
from app.item_intake import STEP_ITEMS, ItemIntake, in_steps, may_hold_constants
from app.json_pointer import pointer
from app.line_stream import SPACE, LineStream, LineTooLong
from workers.catalog import Catalog


async def read_lines(request: Request, catalog: Catalog, limits: IntakeLimits) -> Draft:
    """The new batch in a request with an NDJSON body.

    A line is a JSON text; one with nothing but space in it is skipped, though it counts as a line.
    raises  RequestInvalid, UnknownTask, BodyTooLarge, BodyNotJson;
            ClientDisconnect if the client hangs up first
    """
    fields = batch_fields(request.scope["query_string"])
    if fields.task not in catalog:
        raise UnknownTask(fields.task, catalog)
    task = catalog[fields.task]
    stream = LineStream(
        request.receive,
        limits.turns,
        limit_bytes=limits.body_bytes,
        window_bytes=limits.window_bytes,
    )
    reader = _Reader(stream, limits.item_bytes)
    reader.items.know(task)
    with limits.turns.one_more():
        await reader.read()
    return draft_of(fields, task, reader.items.finish())


class _Reader:
    """One body under way."""

    def __init__(self, stream: LineStream, item_bytes: int) -> None:
        self.items = ItemIntake(item_bytes, self._line_of)
        self._stream = stream
        self._item_bytes = item_bytes
        self._some: list[bytes] = []  # the lines at hand
        self._first_item, self._first_line = 0, 1  # of those

    async def read(self) -> None:
        """Take every item. Raises RequestInvalid with every mistake in them."""
        while lines := await self._next_lines():
            has_constants = may_hold_constants(self._stream.window)
            for first in range(0, len(lines), STEP_ITEMS):
                self._first_line += len(self._some)
                self._first_item = self.items.count
                self._some = lines[first : first + STEP_ITEMS]
                await self._take_some(has_constants)
        if self.items.mistakes:
            raise RequestInvalid(self.items.mistakes, is_complete=self.items.is_complete)

    async def _next_lines(self) -> list[bytes]:
        try:
            return await self._stream.read(self._item_bytes)
        except LineTooLong:
            where = pointer("items", self.items.count)
            line = self._first_line + len(self._some)
            told = f"is longer than {self._item_bytes} bytes (line {line})"
            mistakes = [*self.items.mistakes, FieldError(where, told)]
            raise RequestInvalid(mistakes, is_complete=False) from None

    async def _take_some(self, has_constants: bool) -> None:
        texts = [text for line in self._some if (text := line.strip(SPACE))]
        for some in in_steps(texts):
            if has_constants:
                self.items.refuse_other_than_json(some)
            self.items.add(some)
            await self._stream.give_way()

    def _line_of(self, index: int) -> int:
        numbered = enumerate(self._some, self._first_line)
        numbers = [number for number, line in numbered if line.strip(SPACE)]
        return numbers[index - self._first_item]
