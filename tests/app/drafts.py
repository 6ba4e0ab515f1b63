"""Bodies of POST /batches as the server hands them over, for tests of how they are read."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import Request
from pydantic import AfterValidator

from app.draft import Draft, IntakeLimits
from app.errors import RequestInvalid
from app.intake import read_draft
from workers import task
from workers.catalog import Catalog
from workers.tasks import describe

JSON = {"content-type": "application/json"}
LINES = {"content-type": "application/x-ndjson"}

#: Windows and chunks this small put a boundary into every token.
PIECES = pytest.mark.parametrize("piece", [1, 3, 1 << 16])


@task
def measure(
    identifier: int, seconds: float = 1.0, paths: list[str] | None = None, *, size: Any = None
) -> None:
    """Take a few parameters of different kinds."""


def is_even(number: int) -> int:
    if number % 2:
        raise ValueError("is odd")
    return number


@task
def choose(choice: Annotated[int, AfterValidator(is_even)] | list[int]) -> None:
    """Take one of two kinds."""


CATALOG = Catalog([describe(measure, __name__), describe(choose, __name__)])


def request(
    body: bytes,
    piece: int = 1 << 16,
    headers: dict[str, str] | None = None,
    *,
    query: str = "",
    hang_up: bool = False,
) -> Request:
    """A request as the server hands it over, its body in pieces."""

    def messages() -> Iterator[dict[str, Any]]:
        for start in range(0, len(body) or 1, piece):
            end = start + piece
            goes_on = hang_up or end < len(body)
            yield {"type": "http.request", "body": body[start:end], "more_body": goes_on}
        while True:
            yield {"type": "http.disconnect"}

    coming = messages()

    async def receive() -> Any:
        return next(coming)

    raw = [(name.encode(), value.encode()) for name, value in (headers or JSON).items()]
    scope = {"type": "http", "method": "POST", "headers": raw, "query_string": query.encode()}
    return Request(scope, receive)


def read(body: bytes | dict[str, Any], piece: int = 1 << 16, **limits: Any) -> Draft:
    """The draft in a body that arrives in pieces and is read through windows of that size."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    chosen = IntakeLimits(window_bytes=piece, **limits)
    return asyncio.run(read_draft(request(text, piece), CATALOG, chosen))


def read_lines(
    body: bytes, query: str = "task=measure", piece: int = 1 << 16, **limits: Any
) -> Draft:
    """The same for NDJSON."""
    asked = request(body, piece, LINES, query=query)
    return asyncio.run(read_draft(asked, CATALOG, IntakeLimits(window_bytes=piece, **limits)))


def mistakes(
    body: bytes | dict[str, Any], reading: Callable[..., Draft] = read, **given: Any
) -> list[tuple[str, str]]:
    """What a refused body is told, as pointers and messages."""
    with pytest.raises(RequestInvalid) as caught:
        reading(body, **given)
    return [(error.pointer, error.message) for error in caught.value.errors]


def texts(draft: Draft) -> list[bytes]:
    return [draft.items.one(index) for index in range(len(draft.items))]
