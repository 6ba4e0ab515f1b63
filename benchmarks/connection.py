"""One kept-alive HTTP/1.1 connection that costs next to nothing, so that the server is measured."""

from __future__ import annotations

import json
import re
import socket
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from benchmarks.measurement import MeasurementFailed

READ_BYTES = 1 << 16
LIMIT_S = 120.0

_HEAD_END = b"\r\n\r\n"
_status = re.compile(rb"HTTP/1\.1 (\d{3})").match
_length = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE).search


class Reply(NamedTuple):
    """What came back."""

    status: int
    body: bytes


def connect(url: str) -> socket.socket:
    """A connection on which small requests are sent at once."""
    where = urlsplit(url)
    assert where.hostname is not None
    connected = socket.create_connection((where.hostname, where.port or 80), LIMIT_S)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def request_bytes(
    method: str, target: str, body: bytes = b"", media_type: str = "application/json"
) -> bytes:
    """One request as it is sent."""
    head = f"{method} {target} HTTP/1.1\r\nHost: benchmark\r\n"
    if body:
        head += f"Content-Type: {media_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode("ascii") + b"\r\n" + body


def parse_reply(text: bytes) -> Reply | None:
    """The reply that `text` is; None as long as it has not all come. Raises MeasurementFailed."""
    head_end = text.find(_HEAD_END)
    if head_end < 0:
        return None
    status, length = _status(text), _length(text, 0, head_end)
    if status is None or length is None:
        raise MeasurementFailed(f"not a reply that is understood here: {text[:head_end]!r}")
    start = head_end + len(_HEAD_END)
    if len(text) < start + int(length[1]):
        return None
    return Reply(int(status[1]), text[start:])


class Connection:
    """Asks, and waits for the reply. Raises MeasurementFailed for any status but the wanted one."""

    def __init__(self, url: str) -> None:
        self._socket = connect(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._socket.close()

    def ask(self, request: bytes, wanted: int = 200) -> Any:
        """Send a request (made by `request_bytes`); the JSON that comes back."""
        return json.loads(self.exchange(request, wanted))

    def exchange(self, request: bytes, wanted: int = 200) -> bytes:
        """The same, without reading what comes back."""
        self._socket.sendall(request)
        text = b""
        while (reply := parse_reply(text)) is None:
            more = self._socket.recv(READ_BYTES)
            if not more:
                raise MeasurementFailed("the server hung up")
            text += more
        if reply.status != wanted:
            raise MeasurementFailed(f"answered {reply.status}, not {wanted}: {reply.body[:500]!r}")
        return reply.body
