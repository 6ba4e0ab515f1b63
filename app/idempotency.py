"""Idempotency-Key: a POST that is sent again gets the answer of the first one, and does nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

from app.accepted import Accepted
from app.errors import (
    BodyTooLarge,
    FieldError,
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    RequestInvalid,
)
from app.intake import media_type_of

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
MAX_KEY_CHARS = 255
#: What may be in a key: visible ASCII, but no quote, with or without quotes around all of it.
KEY_PATTERN = r'^(?:[!#-~]{1,255}|"[!#-~]{1,255}")$'

_NAME = HEADER.lower().encode()


#: The digest of the request that used a key, and what it was told; None if nobody did.
Find = Callable[[str], Awaitable[tuple[bytes, Accepted] | None]]


class Keys:
    """The keys that are being used; the store has those that were, as long as their batches.

    Belongs to the event loop's thread.
    """

    def __init__(self, find: Find) -> None:
        self.find = find
        self._under_way: set[str] = set()

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Use a key that is free. Raises IdempotencyKeyInUse if another request is doing so."""
        if key in self._under_way:
            raise IdempotencyKeyInUse(key)
        self._under_way.add(key)
        try:
            yield
        finally:
            self._under_way.remove(key)


def key_of(request: Request) -> str | None:
    """The request's key, None if it has none. Raises RequestInvalid."""
    headers: list[tuple[bytes, bytes]] = request.scope["headers"]
    found = [text for name, text in headers if name == _NAME]
    if not found:
        return None
    key = found[0].strip().decode("latin-1")
    key = key[1:-1] if key[:1] == key[-1:] == '"' else key
    if len(found) > 1:
        problem = "it is given more than once"
    elif not 0 < len(key) <= MAX_KEY_CHARS:
        problem = f"it has 1 to {MAX_KEY_CHARS} characters"
    elif not all("!" <= character <= "~" and character != '"' for character in key):
        problem = "it is visible ASCII, without spaces and quotes"
    else:
        return key
    raise RequestInvalid([FieldError(HEADER, problem, "header")])


def described_key() -> dict[str, Any]:
    """The header as OpenAPI has it."""
    return {
        "name": HEADER,
        "in": "header",
        "description": "A text of your own, best a new UUID: the same request with the same key gets "
        "the same answer, for as long as the batch's record is kept.",
        "schema": {"type": "string", "pattern": KEY_PATTERN},
        "example": "0b7e4d6c-31f5-4c0e-9d2a-5f6b8a9c7d10",
    }


async def create_once(
    request: Request,
    key: str,
    keys: Keys,
    limit_bytes: int,
    create: Callable[[Request, Callable[[], bytes]], Awaitable[Accepted]],
) -> tuple[Accepted, bool]:
    """What `create` makes of the request, or has made of it before; whether it was before.

    create  reads the request, and keeps the key with the batch and with the digest of all that it read
    raises  IdempotencyKeyReused if another request had the same key; IdempotencyKeyInUse;
            whatever `create` raises, and then the key is free again
    """
    body = _DigestedBody(request)
    with keys.claim(key):
        known = await keys.find(key)
        if known is None:
            return await create(Request(request.scope, body.receive), lambda: body.digest), False
    digest, accepted = known
    if await body.read_to_end(limit_bytes) != digest:
        raise IdempotencyKeyReused(key)
    return accepted, True


class _DigestedBody:
    """A request's body on its way to whoever reads it, and the digest of all that makes the batch."""

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self._hash = hashlib.sha256()
        announced = dict(request.scope["headers"]).get(b"content-type")
        for part in (media_type_of(announced), request.url.query):
            self._hash.update(b"%d %b" % (len(part), part.encode("utf-8", "surrogateescape")))

    @property
    def digest(self) -> bytes:
        """Of what has been read."""
        return self._hash.digest()

    async def receive(self) -> Message:
        """The next message of the server's."""
        message = await self._receive()
        self._hash.update(message.get("body", b""))
        return message

    async def read_to_end(self, limit_bytes: int) -> bytes:
        """The digest of the whole. Raises BodyTooLarge, ClientDisconnect."""
        size, is_whole = 0, False
        while not is_whole:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            size += len(message.get("body", b""))
            if size > limit_bytes:
                raise BodyTooLarge(limit_bytes)
            is_whole = not message.get("more_body", False)
        return self.digest
