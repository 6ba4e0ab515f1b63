"""Idempotency-Key: a POST that is sent again gets the answer of the first one, and does nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

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

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
MAX_KEY_CHARS = 255
#: What may be in a key: visible ASCII, but no quote, with or without quotes around all of it.
KEY_PATTERN = r'^(?:[!#-~]{1,255}|"[!#-~]{1,255}")$'
#: So many keys of batches that were dropped may always be left.
MOST_STALE_KEYS = 1_000

_NAME = HEADER.lower().encode()


class _Answer(NamedTuple):
    digest: bytes
    accepted: Accepted


class Keys:
    """The keys that were used, each as long as the record of its batch is kept.

    Belongs to the event loop's thread.
    """

    def __init__(self, is_kept: Callable[[str], bool]) -> None:
        """is_kept: whether the record of a batch is still there."""
        self._is_kept = is_kept
        self._answers: dict[str, _Answer] = {}
        self._under_way: set[str] = set()
        self._most = MOST_STALE_KEYS

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, key: str) -> _Answer | None:
        """What was answered under this key, if the batch is still known."""
        answer = self._answers.get(key)
        if answer is None or self._is_kept(answer.accepted.id):
            return answer
        del self._answers[key]
        return None

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

    def keep(self, key: str, digest: bytes, accepted: Accepted) -> None:
        """Remember the answer to a request with this digest."""
        self._answers[key] = _Answer(digest, accepted)
        if len(self._answers) > self._most:
            kept = {k: a for k, a in self._answers.items() if self._is_kept(a.accepted.id)}
            self._answers, self._most = kept, 2 * len(kept) + MOST_STALE_KEYS


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
    create: Callable[[Request], Awaitable[Accepted]],
) -> tuple[Accepted, bool]:
    """What `create` makes of the request, or has made of it before; whether it was before.

    raises  IdempotencyKeyReused if another request had the same key; IdempotencyKeyInUse;
            whatever `create` raises, and then the key is free again
    """
    body = _DigestedBody(request)
    known = keys.find(key)
    if known is not None:
        if await body.read_to_end(limit_bytes) != known.digest:
            raise IdempotencyKeyReused(key)
        return known.accepted, True
    with keys.claim(key):
        accepted = await create(Request(request.scope, body.receive))
        keys.keep(key, body.digest, accepted)
    return accepted, False


class _DigestedBody:
    """A request's body on its way to whoever reads it, and the digest of all that makes the batch."""

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self._hash = hashlib.sha256()
        for part in (request.headers.get("content-type", ""), request.url.query):
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
