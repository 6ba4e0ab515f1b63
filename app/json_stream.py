"""A JSON text that arrives in pieces, read value by value; each value is also kept as it was sent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from json import JSONDecodeError
from typing import Any, ParamSpec, TypeVar

from app.body_stream import BodyStream
from app.errors import BodyNotJson, FieldError, RequestInvalid
from app.json_span import Span

T = TypeVar("T")
P = ParamSpec("P")

MAX_KEY_BYTES = 1 << 10
#: A scan that fails this close to the end of what has arrived may only lack the rest: the longest
#: thing that fails before its end is an escaped surrogate pair.
_LONGEST_CUT = 16
#: A number may go on behind `e+`.
_LONGEST_NUMBER_CUT = 2
#: The end of a value that is longer is looked for in steps, without making objects of it.
_LONG_BYTES = 1 << 16

_skip_space: Callable[[str, int], re.Match[str]] = re.compile(r"[ \t\n\r]*").match  # type: ignore[assignment]  # always matches
_plain_key = re.compile(r'[ \t\n\r]*"([A-Za-z0-9_ .-]{0,100})"[ \t\n\r]*:').match
_AFTER_ELEMENT = (",", "]")
_UNTERMINATED = "Unterminated string"


class Incomplete(Exception):
    """What has arrived so far ends inside a value."""


class _NotANumber(ValueError):
    """The text holds NaN or an infinity, which Python reads and JSON does not have."""


def _refuse_constant(name: str) -> Any:
    raise _NotANumber(f"{name} is not a JSON number")


#: The value at a position of a text, and where it ends.
#: Raises StopIteration, ValueError, RecursionError.
scan = json.JSONDecoder(parse_constant=_refuse_constant).scan_once  # type: ignore[attr-defined]


class JsonStream(BodyStream):
    """Reads UTF-8 as RFC 8259 has it, and nothing else: no BOM, no NaN, nothing after the end.

    Memory: one window, or twice the longest value. Scanning runs on the bytes decoded as Latin-1:
    JSON's own characters are ASCII, so positions are bytes; the UTF-8 is checked as it arrives.
    """

    _text = ""

    async def read(self, one: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `one` (a method below) reads, once enough has arrived."""
        while True:
            try:
                return one(*args, **kwargs)
            except Incomplete:
                await self._take_in()
                await self.give_way()

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
                _, end = scan(text, start)
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
            _, end = scan(text, start)
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

    async def long_value(self, pointer: str, limit_bytes: int) -> bytes:
        """As `value`, but a long one is only known to be JSON as far as brackets and quotes go."""
        while True:
            try:
                return self.value(pointer, limit_bytes)
            except Incomplete:
                if len(self._text) - self._at > _LONG_BYTES and self._text[self._at] in "[{":
                    break
                await self._take_in()
                await self.give_way()
        span = Span()
        while not self._find_end(span, pointer, limit_bytes):
            if span.is_cut:
                await self._take_in()
            await self.give_way()
        start, self._at = self._at, self._at + span.size
        return self._raw[start : self._at]

    def _find_end(self, span: Span, pointer: str, limit_bytes: int) -> bool:
        try:
            found = span.go_on(self._text, self._at)
        except JSONDecodeError as error:
            raise self._not_json(_lower(error.msg), error.pos, pointer) from None
        if (len(self._text) - self._at if span.is_cut else span.size) > limit_bytes:
            raise _too_long(pointer, limit_bytes)
        if span.is_cut and self._is_whole:
            raise self._not_json("it ends", len(self._text), pointer)
        return found

    def _failure(self, pointer: str, message: str, at: int, limit_bytes: int) -> Exception:
        """Why a scan failed: for lack of the rest, for length, or because this is not JSON."""
        is_cut = message.startswith(_UNTERMINATED) or at >= len(self._text) - _LONGEST_CUT
        if self._is_whole or not is_cut:
            return self._not_json(_lower(message), at, pointer)
        if len(self._text) - self._at > limit_bytes:
            return _too_long(pointer, limit_bytes)
        return Incomplete()

    def _expected(self, what: str) -> BodyNotJson:
        found = repr(self._text[self._at]) if self._at < len(self._text) else "the end"
        return self._not_json(f"expected {what}, not {found}", self._at)

    def _not_json(self, message: str, at: int, pointer: str = "") -> BodyNotJson:
        return BodyNotJson(f"{message} at byte {self._dropped + at}{_inside(pointer)}")

    async def _take_in(self) -> None:
        await super()._take_in()
        self._text = self._raw.decode("latin-1")


def _lower(message: str) -> str:
    return f"{message[0].lower()}{message[1:].rstrip(': ')}"


def _inside(pointer: str) -> str:
    return f" (in {pointer})" if pointer else ""


def _too_long(pointer: str, limit_bytes: int) -> RequestInvalid:
    return RequestInvalid([FieldError(pointer, f"is longer than {limit_bytes} bytes")])
