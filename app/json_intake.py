"""The body of POST /batches as JSON: read in slices, every item checked, nothing kept twice."""

from __future__ import annotations

from difflib import get_close_matches

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import from_json

from app.batch_query import refuse_query
from app.draft import Draft, IntakeLimits, draft_of
from app.errors import BodyNotJson, FieldError, RequestInvalid, UnknownTask
from app.item_intake import STEP_ITEMS, ItemIntake, in_steps, mistakes_in
from app.json_pointer import pointer
from app.json_stream import JsonStream
from app.schemas import BatchFields, NewBatch
from app.small_body import object_of, read_small
from workers.catalog import Catalog
from workers.tasks import TaskSpec

#: Mistakes in the body's own members that are named before reading on makes no sense.
MAX_BAD_MEMBERS = 20
#: Of a name that no task has.
MAX_SHOWN_CHARS = 100
#: Everything but the items: the longest labels, fully escaped, fit.
FIELD_BYTES = 1 << 17

_MEMBERS = tuple(NewBatch.model_fields)


async def read_json(request: Request, catalog: Catalog, limits: IntakeLimits) -> Draft:
    """The new batch in a request with a JSON body.

    raises  RequestInvalid, UnknownTask, BodyTooLarge, BodyNotJson;
            ClientDisconnect if the client hangs up first
    """
    if request.scope.get("query_string"):
        refuse_query(request.scope["query_string"])
    first = await request.receive()
    draft = read_small(first, catalog, limits)
    if draft is not None:
        return draft
    stream = JsonStream(
        request.receive,
        limits.turns,
        limit_bytes=limits.body_bytes,
        window_bytes=limits.window_bytes,
        first=first,
    )
    with limits.turns.one_more():
        return await _Reader(stream, catalog, limits).read()


class _Reader:
    """One body under way."""

    def __init__(self, stream: JsonStream, catalog: Catalog, limits: IntakeLimits) -> None:
        self._stream, self._catalog, self._limits = stream, catalog, limits
        self._task: TaskSpec | None = None
        self._items = ItemIntake(limits.item_bytes)
        self._seen: set[str] = set()
        self._fields: dict[str, bytes] = {}  # everything but the items, as sent
        self._mistakes: list[FieldError] = []

    async def read(self) -> Draft:
        """The draft. Raises RequestInvalid with every mistake in it."""
        stream = self._stream
        opening = await stream.read(stream.peek)
        if not opening:
            raise BodyNotJson("it is empty")
        if opening != "{":
            if opening != "[":  # whatever is in an array, it is not what is wanted
                await self._value("")
                await stream.read(stream.end)
            raise RequestInvalid([FieldError("", "Input should be an object")])
        await self._read_members()
        await stream.read(stream.end)
        while self._items.check_some():
            await stream.give_way()
        return self._finish()

    async def _read_members(self) -> None:
        stream = self._stream
        stream.take("{")
        if await stream.read(stream.peek) == "}":
            stream.take("}")
            return
        goes_on = True
        while goes_on:
            await self._read_member(await stream.read(stream.key))
            goes_on = await stream.read(stream.take, ",}") == ","

    async def _read_member(self, name: str) -> None:
        where = pointer(name)
        if name in self._seen:
            raise RequestInvalid([FieldError(where, "is given twice")])
        if name in _MEMBERS:
            self._seen.add(name)
        else:
            self._add_mistake(FieldError(where, _unknown_member(name)))
        if name == "items":
            await self._read_items()
            return
        text = await self._value(where)
        if name in _MEMBERS:
            self._fields[name] = text
            value = _checked(where, text)
            if name == "task" and isinstance(value, str):  # else named with the other mistakes
                self._find_task(value)

    def _find_task(self, name: str) -> None:
        if name not in self._catalog:
            raise UnknownTask(name[:MAX_SHOWN_CHARS], self._catalog)
        self._task = self._catalog[name]
        self._items.know(self._task)

    async def _read_items(self) -> None:
        stream = self._stream
        if await stream.read(stream.peek) != "[":
            await self._value("/items")
            self._add_mistake(FieldError("/items", "Input should be an array"))
            return
        stream.take("[")
        if await stream.read(stream.peek) == "]":
            stream.take("]")
            return
        is_last = False
        while not is_last:
            texts, is_last = stream.elements(STEP_ITEMS)
            if not texts:  # the next one may be long: each look at it is a slice of its own
                await stream.give_way()
                where = pointer("items", self._items.count)
                texts = [await stream.long_value(where, self._limits.item_bytes)]
                is_last = await stream.read(stream.take, ",]") == "]"
                await stream.give_way()
            for some in in_steps(texts):
                self._items.add(some)
                await stream.give_way()

    async def _value(self, where: str) -> bytes:
        return await self._stream.read(self._stream.value, where, FIELD_BYTES)

    def _add_mistake(self, mistake: FieldError) -> None:
        self._mistakes.append(mistake)
        if len(self._mistakes) == MAX_BAD_MEMBERS:
            raise RequestInvalid(self._mistakes, is_complete=False)

    def _finish(self) -> Draft:
        """The fields checked, and everything put together."""
        mistakes = self._mistakes + self._items.mistakes
        if "items" not in self._seen:
            mistakes.append(FieldError("/items", "Field required"))
        text = object_of(self._fields)
        try:
            fields = BatchFields.model_validate_json(text)
        except ValidationError as error:
            mistakes += [FieldError(pointer(*at), why) for at, why in mistakes_in(text, error)]
            raise RequestInvalid(mistakes) from None
        if mistakes or self._task is None:
            raise RequestInvalid(mistakes, is_complete=self._items.is_complete)
        return draft_of(fields, self._task, self._items.finish())


def _checked(where: str, text: bytes) -> object:
    """The value, if it is one that the scanner lets pass and pydantic does, too."""
    try:
        return from_json(text)
    except ValueError as error:  # half a surrogate pair, or very deep nesting
        reason, _, _ = str(error).partition(" at line ")
        raise RequestInvalid([FieldError(where, f"Invalid JSON: {reason}")]) from None


def _unknown_member(name: str) -> str:
    close = get_close_matches(name, _MEMBERS, n=1)
    return f"Unknown member; did you mean {close[0]!r}?" if close else "Unknown member"
