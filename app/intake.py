"""The body of POST /batches: its headers looked at, then read as JSON or as NDJSON."""

from __future__ import annotations

from email.message import Message

from fastapi import Request

from app.draft import Draft, IntakeLimits
from app.errors import BodyEncoded, BodyTooLarge, NotJsonMediaType
from app.json_intake import read_json
from app.line_intake import read_lines
from workers.catalog import Catalog

JSON = "application/json"
#: As the specification has it, its name without the x, and what JSON Lines says of itself.
LINES = "application/x-ndjson"
_ALSO_LINES = (LINES, "application/ndjson", "application/jsonl")
_UTF8 = ("utf-8", "us-ascii")


async def read_draft(request: Request, catalog: Catalog, limits: IntakeLimits) -> Draft:
    """The new batch in a request, read and checked in slices that nobody else can feel.

    raises  NotJsonMediaType, BodyEncoded, BodyTooLarge, BodyNotJson, UnknownTask, RequestInvalid;
            ClientDisconnect if the client hangs up first
    """
    if check_headers(request, limits.body_bytes) == JSON:
        return await read_json(request, catalog, limits)
    return await read_lines(request, catalog, limits)


def check_headers(request: Request, limit_bytes: int) -> str:
    """JSON or LINES; refuses a body by its announcement, before a byte of it is read."""
    # The names are in lower case; `request.headers` would search the list each time.
    headers = dict(request.scope["headers"])
    announced = headers.get(b"content-type")
    media_type = media_type_of(announced)
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"", b"identity"):
        raise BodyEncoded(encoding.decode("latin-1"))
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limit_bytes:
        raise BodyTooLarge(limit_bytes)
    return media_type


def media_type_of(announced: bytes | None) -> str:
    """JSON or LINES, however a Content-Type says it. Raises NotJsonMediaType."""
    if announced == b"application/json":
        return JSON
    message = Message()
    message["content-type"] = announced.decode("latin-1") if announced else "none"
    media_type = message.get_content_type()
    is_lines = media_type in _ALSO_LINES
    if not (is_lines or media_type == JSON) or message.get_content_charset("utf-8") not in _UTF8:
        raise NotJsonMediaType(announced.decode("latin-1") if announced else None)
    return LINES if is_lines else JSON
