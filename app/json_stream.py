"""A JSON text that arrives in pieces, read value by value; each value is also kept as it was sent."""

from __future__ import annotations

import asyncio
import codecs
import json
import re
from collections.abc import Callable
from contextlib import suppress
from json import JSONDecodeError
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.errors import BodyNotJson, BodyTooLarge, FieldError, RequestInvalid

T = TypeVar("T")
P = ParamSpec("P")

MAX_KEY_BYTES = 1 << 10
#: A scan that fails this close to the end of what has arrived may only lack the rest: the longest
#: thing that fails before its end is an escaped surrogate pair.
_LONGEST_CUT = 16
#: A number may go on behind `e+`.
_LONGEST_NUMBER_CUT = 2

_skip_space: Callable[[str, int], re.Match[str]] = re.compile(r"[ \t\n\r]*").match  # type: ignore[assignment]  # always matches
_plain_key = re.compile(r'[ \t\n\r]*"([A-Za-z0-9_ .-]{0,100})"[ \t\n\r]*:').match
_Utf8Decoder = codecs.getincrementaldecoder("utf-8")
_AFTER_ELEMENT = (",", "]")
_UNTERMINATED = "Unterminated string"


class Incomplete(Exception):
    """What has arrived so far ends inside a value."""


class _NotANumber(ValueError):
    """The text holds NaN or an infinity, which Python reads and JSON does not have."""


def _refuse_constant(name: str) -> Any:
    raise _NotANumber(f"{name} is not a JSON number")


_scan = json.JSONDecoder(parse_constant=_refuse_constant).scan_once  # type: ignore[attr-defined]


class JsonStream:
    """Reads UTF-8 as RFC 8259 has it, and nothing else: no BOM, no NaN, nothing after the end.

    limit_bytes   the whole body
    slice_s       how long it may work before the event loop goes round
    window_bytes  what is taken in at a time, at least: small chunks then cost no more than large

    Memory: one window, or twice the longest value. Scanning runs on the bytes decoded as Latin-1:
    JSON's own characters are ASCII, so positions are bytes; the UTF-8 is checked as it arrives.
    """

    def __init__(
        self, receive: Receive, *, limit_bytes: int, slice_s: float, window_bytes: int
    ) -> None:
        self._receive = receive
        self._window_bytes = window_bytes
        self._slice_s = slice_s
        self._turn_ends = perf_counter() + slice_s
        self._limit_bytes = limit_bytes
        self._utf8 = _Utf8Decoder()
        self._raw = b""
        self._text = ""
        self._at = 0
        self._dropped = 0  # bytes in front of the window
        self._is_whole = False  # whether the window ends where the body does

    async def arrives_whole(self, most_bytes: int) -> bool:
        """Take in the first window; whether that is all, and small: then nothing is Incomplete."""
        await self._take_in()
        return self._is_whole and len(self._raw) <= most_bytes

    def start_over(self) -> None:
        """Read a body that has arrived whole once more."""
        self._at = 0

    async def read(self, one: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `one` (a method below) reads, once enough has arrived."""
        while True:
            try:
                return one(*args, **kwargs)
            except Incomplete:
                await self._take_in()
                await self.give_way()

    async def give_way(self) -> None:
        """Let the event loop go round once the slice is used up."""
        if perf_counter() >= self._turn_ends:
            await asyncio.sleep(0)
            self._turn_ends = perf_counter() + self._slice_s

    def peek(self) -> str:
        """The next character that is no space, or "" at the end."""
        found = self._text[self._at : self._at + 1]
        if found > " ":
            return found
        self._at = at = _skip_space(self._text, self._at).end()
        if at < len(self._text):
            return self._text[at]
        if self._is_whole:
            return ""
        raise Incomplete

    def take(self, wanted: str) -> str:
        """The next character, which must be one of `wanted`."""
        found = self.peek()
        if not found or found not in wanted:
            raise self._expected(" or ".join(repr(one) for one in wanted))
        self._at += 1
        return found

    def end(self) -> None:
        """Nothing but space may follow."""
        if self.peek():
            raise self._expected("nothing more")

    def key(self) -> str:
        """A member's name, and the colon behind it."""
        if plain := _plain_key(self._text, self._at):
            self._at = plain.end()
            return plain[1]
        if self.peek() != '"':
            raise self._expected("a member's name in double quotes")
        start = self._at
        raw = self.value("", MAX_KEY_BYTES)
        try:
            self.take(":")
        except Incomplete:
            self._at = start
            raise
        return str(json.loads(raw))

    def elements(self, count: int) -> tuple[list[bytes], bool]:
        """The next elements of an array that are here whole, with the comma or bracket behind each.

        returns  at most `count`, and whether the array ended. None if the next one has not all
                 arrived or is wrong: `value` and `take` tell which
        """
        text, raw, at = self._text, self._raw, self._at
        until = at + self._window_bytes
        found: list[bytes] = []
        mark = ","
        with suppress(StopIteration, ValueError, RecursionError):
            while mark == "," and at < until and len(found) < count:
                start = _skip_space(text, at).end()
                _, end = _scan(text, start)
                behind = _skip_space(text, end).end()
                mark = text[behind : behind + 1]
                if mark in _AFTER_ELEMENT:
                    found.append(raw[start:end])
                    at = behind + 1
        self._at = at
        return found, bool(found) and mark == "]"

    def value(self, pointer: str, limit_bytes: int) -> bytes:
        """The next value, as it was sent; `pointer` is for messages."""
        self.peek()
        start, text = self._at, self._text
        try:
            _, end = _scan(text, start)
        except StopIteration as stop:
            raise self._failure(pointer, "a value was expected", stop.value, limit_bytes) from None
        except JSONDecodeError as error:
            raise self._failure(pointer, error.msg, error.pos, limit_bytes) from None
        except _NotANumber as error:
            raise BodyNotJson(f"{error}{_inside(pointer)}") from None
        except RecursionError:
            raise RequestInvalid([FieldError(pointer, "is nested too deeply")]) from None
        except ValueError:  # Python's limit on the digits of an integer
            raise RequestInvalid(
                [FieldError(pointer, "has an integer of too many digits")]
            ) from None
        if end + _LONGEST_NUMBER_CUT >= len(text) and not self._is_whole:
            raise Incomplete
        if end - start > limit_bytes:
            raise _too_long(pointer, limit_bytes)
        self._at = end
        return self._raw[start:end]

    def _failure(self, pointer: str, message: str, at: int, limit_bytes: int) -> Exception:
        """Why a scan failed: for lack of the rest, for length, or because this is not JSON."""
        is_cut = message.startswith(_UNTERMINATED) or at >= len(self._text) - _LONGEST_CUT
        if self._is_whole or not is_cut:
            return self._not_json(f"{message[0].lower()}{message[1:].rstrip(': ')}", at, pointer)
        if len(self._text) - self._at > limit_bytes:
            return _too_long(pointer, limit_bytes)
        return Incomplete()

    def _expected(self, what: str) -> BodyNotJson:
        found = repr(self._text[self._at]) if self._at < len(self._text) else "the end"
        return self._not_json(f"expected {what}, not {found}", self._at)

    def _not_json(self, message: str, at: int, pointer: str = "") -> BodyNotJson:
        return BodyNotJson(f"{message} at byte {self._dropped + at}{_inside(pointer)}")

    async def _take_in(self) -> None:
        """Move the window on: drop what was read, and at least double what is left."""
        rest = self._raw[self._at :]
        self._dropped += self._at
        parts, missing = [rest], max(self._window_bytes, len(rest))
        size = self._dropped + len(rest)
        while missing > 0 and not self._is_whole:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk: bytes = message.get("body", b"")
            self._is_whole = not message.get("more_body", False)
            size += len(chunk)
            if size > self._limit_bytes:
                raise BodyTooLarge(self._limit_bytes)
            self._check_encoding(chunk, size - len(chunk))
            parts.append(chunk)
            missing -= len(chunk)
        self._raw = b"".join(parts)
        if not self._dropped and self._raw.startswith(codecs.BOM_UTF8):
            raise BodyNotJson("it starts with a byte order mark")
        self._text = self._raw.decode("latin-1")
        self._at = 0

    def _check_encoding(self, chunk: bytes, offset: int) -> None:
        """Refuse what is not UTF-8. Text that is all ASCII, the common case, costs next to nothing."""
        pending = len(self._utf8.getstate()[0])
        if chunk.isascii() and not pending:
            return
        try:
            self._utf8.decode(chunk, final=self._is_whole)
        except UnicodeDecodeError as error:
            at = offset - pending + error.start
            raise BodyNotJson(f"not UTF-8 at byte {at}: {error.reason}") from None


def _inside(pointer: str) -> str:
    return f" (in {pointer})" if pointer else ""


def _too_long(pointer: str, limit_bytes: int) -> RequestInvalid:
    return RequestInvalid([FieldError(pointer, f"is longer than {limit_bytes} bytes")])
