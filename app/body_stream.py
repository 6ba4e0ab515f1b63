"""The body of a request as it arrives: in windows, counted, checked to be UTF-8, with pauses."""

from __future__ import annotations

import asyncio
import codecs
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from app.errors import BodyNotJson, BodyTooLarge

#: However many bodies are read at once, each gets this far in one go.
LEAST_SLICE_S = 0.0005
#: How long other threads wait for the interpreter meanwhile. Each call into the database lets go of it,
#: and with Python's own 5 ms the least transaction took up to 0.1 s beside a large body.
SWITCH_S = 0.0005

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class Turns:
    """The time that reading bodies may take before the event loop goes round, shared by all of them."""

    def __init__(self, slice_s: float) -> None:
        self._slice_s = slice_s
        self._readers = 0
        self._switch_s = 0.0  # as it was before

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """While it lasts, one more body is being read, and no other thread waits for long."""
        if not self._readers:
            self._switch_s = sys.getswitchinterval()
            sys.setswitchinterval(SWITCH_S)
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                sys.setswitchinterval(self._switch_s)

    @property
    def slice_s(self) -> float:
        """How long one body may keep the event loop."""
        return max(LEAST_SLICE_S, self._slice_s / max(1, self._readers))


class BodyStream:
    """Takes in UTF-8, and nothing else, one window after the other; the next only when it is wanted.

    turns         how long it may work before the event loop goes round
    limit_bytes   the whole body
    window_bytes  what is taken in at a time, at least: small chunks then cost no more than large
    first         a message that was received before
    """

    def __init__(
        self,
        receive: Receive,
        turns: Turns,
        *,
        limit_bytes: int,
        window_bytes: int,
        first: Message | None = None,
    ) -> None:
        self._receive, self._first = receive, first
        self._turns = turns
        self._turn_ends = 0.0  # a body that needs more than one slice begins with a pause
        self._limit_bytes = limit_bytes
        self._window_bytes = window_bytes
        self._utf8 = _Utf8Decoder()
        self._message, self._message_at, self._is_last = b"", 0, False  # of the server, and how far
        self._raw = b""
        self._at = 0
        self._dropped = 0  # bytes in front of the window
        self._is_whole = False  # whether the window ends where the body does

    async def give_way(self) -> None:
        """Let the event loop go round once the slice is used up."""
        if perf_counter() >= self._turn_ends:
            await asyncio.sleep(0)
            self._turn_ends = perf_counter() + self._turns.slice_s

    async def _take_in(self) -> None:
        """Move the window on: drop what was read, and at least double what is left."""
        rest = self._raw[self._at :]
        self._dropped += self._at
        parts, missing = [rest], max(self._window_bytes, len(rest))
        size = self._dropped + len(rest)
        while missing > 0 and not self._is_whole:
            chunk = await self._next_chunk()
            size += len(chunk)
            if size > self._limit_bytes:
                raise BodyTooLarge(self._limit_bytes)
            self._check_encoding(chunk, size - len(chunk))
            parts.append(chunk)
            missing -= len(chunk)
        self._raw = b"".join(parts)
        if not self._dropped and self._raw.startswith(codecs.BOM_UTF8):
            raise BodyNotJson("it starts with a byte order mark")
        self._at = 0

    async def _next_chunk(self) -> bytes:
        """What comes next: a message of the server's, or a window's worth of a longer one."""
        chunk, begin = self._message, self._message_at
        if begin == len(chunk):
            message, self._first = self._first or await self._receive(), None
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            self._message, begin = message.get("body", b""), 0
            chunk = self._message
            self._is_last = not message.get("more_body", False)
        self._message_at = end = min(begin + self._window_bytes, len(chunk))
        self._is_whole = self._is_last and end == len(chunk)
        return chunk[begin:end]

    def _check_encoding(self, chunk: bytes, offset: int) -> None:
        """Refuse what is not UTF-8. Text that is all ASCII, the common case, costs next to nothing."""
        pending = len(self._utf8.getstate()[0])
        if chunk.isascii() and not pending:
            return
        try:
            self._utf8.decode(chunk, final=self._is_whole)
        except UnicodeDecodeError as error:
            start = error.start - pending  # negative in what the chunk before left over
            where = f"byte {offset + start}{self._also_called(chunk[: max(0, start)])}"
            raise BodyNotJson(f"not UTF-8 at {where}: {error.reason}") from None

    def _also_called(self, _before: bytes) -> str:
        """What else to say of a place in the chunk that is being taken in, `before` which this is."""
        return ""
