"""The body of POST /batches as JSON that came in one small piece, read in one go if all is well."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress

from starlette.types import Message

from app.draft import Draft, IntakeLimits, draft_of
from app.json_stream import scan
from app.schemas import BatchFields, NewBatch
from workers.catalog import Catalog
from workers.items import Items

#: Reading so many bytes takes less than a slice of the event loop's time.
SMALL_BYTES = 1 << 12

_MEMBERS = frozenset(NewBatch.model_fields)
_BRACE = ord("{")

_begin = re.compile(r"[ \t\n\r]*\{").match
_member = re.compile(r'[ \t\n\r]*"([a-z]+)"[ \t\n\r]*:[ \t\n\r]*').match
_open = re.compile(r"\[[ \t\n\r]*").match
_behind = re.compile(r"[ \t\n\r]*([],}])[ \t\n\r]*").match


class _Amiss(ValueError):
    """The body is not as most are; it may be right all the same."""


def read_small(message: Message, catalog: Catalog, limits: IntakeLimits) -> Draft | None:
    """The draft in the first message of a body; None if there may be more, or anything is amiss.

    For the many small batches: who reads bodies in pieces takes several times as long, and knows
    what to say of mistakes.
    """
    raw: bytes = message.get("body", b"")
    if message.get("more_body") or len(raw) > min(SMALL_BYTES, limits.body_bytes):
        return None
    with suppress(StopIteration, ValueError, RecursionError):  # what scan and pydantic raise
        raw.decode()
        members, texts = _split(raw)
        fields = BatchFields.model_validate_json(members)
        if not texts or fields.task not in catalog:
            return None
        task = catalog[fields.task]
        for text in texts:
            if text[0] != _BRACE or len(text) > limits.item_bytes:
                return None
            task.validate(text)
        return draft_of(fields, task, Items(texts))
    return None


def object_of(members: Mapping[str, bytes]) -> bytes:
    """One JSON object of members as they were sent."""
    return b"{%b}" % b",".join(
        [b'"%b":%b' % (name.encode(), text) for name, text in members.items()]
    )


def _split(raw: bytes) -> tuple[bytes, list[bytes]]:
    """An object of all members but the items, and the items, each as it was sent.

    raises  _Amiss, and what `scan` does
    """
    text = raw.decode("latin-1")  # so that positions are bytes
    members: dict[str, bytes] = {}
    texts: list[bytes] = []
    at, mark = _after(_begin, text, 0), ","
    while mark == ",":
        found = _member(text, at)
        if found is None:
            raise _Amiss
        name, start = found[1], found.end()
        if name not in _MEMBERS or name in members or (name == "items" and texts):
            raise _Amiss
        if name == "items":
            texts, end = _elements(text, raw, start)
        else:
            _, end = scan(text, start)
            members[name] = raw[start:end]
        mark, at = _next(text, end)
    if mark != "}" or at != len(text):
        raise _Amiss
    return object_of(members), texts


def _elements(text: str, raw: bytes, start: int) -> tuple[list[bytes], int]:
    """Those of an array that begins there, at least one, and where it ends."""
    texts = []
    at, mark = _after(_open, text, start), ","
    while mark == ",":
        _, end = scan(text, at)
        texts.append(raw[at:end])
        mark, at = _next(text, end)
    if mark != "]":
        raise _Amiss
    return texts, at


def _next(text: str, at: int) -> tuple[str, int]:
    """The comma or bracket that is next, and where the text goes on."""
    found = _behind(text, at)
    if found is None:
        raise _Amiss
    return found[1], found.end()


def _after(match: Callable[[str, int], re.Match[str] | None], text: str, at: int) -> int:
    found = match(text, at)
    if found is None:
        raise _Amiss
    return found.end()
