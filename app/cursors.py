"""Cursors: where the next page of a list begins, in a form that clients only hand back."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode

from app.errors import CursorInvalid

_BATCH, _TASK = "b", "t"
_MAX_CHARS = 64


def encode(place: str | int) -> str:
    """The cursor for a batch's id or a task's index."""
    kind = _BATCH if isinstance(place, str) else _TASK
    return _write(f"{kind}{place}")


def decode_id(cursor: str) -> str:
    """The batch id in a cursor. Raises CursorInvalid."""
    return _decode(cursor, _BATCH)


def decode_index(cursor: str) -> int:
    """The task index in a cursor. Raises CursorInvalid."""
    text = _decode(cursor, _TASK)
    # Leading zeros and digits of other scripts are numbers for Python, but not what we wrote.
    if not text.isdigit() or encode(int(text)) != cursor:
        raise CursorInvalid
    return int(text)


def _decode(cursor: str, kind: str) -> str:
    if len(cursor) > _MAX_CHARS:
        raise CursorInvalid
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        text = urlsafe_b64decode(padded).decode("ascii")
    except (UnicodeError, binascii.Error):
        raise CursorInvalid from None
    # Decoding forgives much; a cursor that would not be written like this is not one of ours.
    if text[:1] != kind or _write(text) != cursor:
        raise CursorInvalid
    return text[1:]


def _write(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")
