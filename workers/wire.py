"""Messages between the service and its warden: one JSON object each, with descriptors beside it."""

from __future__ import annotations

import json
import socket
from typing import Any

MAX_MESSAGE_BYTES = 1 << 17

MAX_DESCRIPTORS = 8

Message = dict[str, Any]


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends that keep message boundaries and carry descriptors."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, message: Message, descriptors: list[int] | None = None) -> None:
    """Send one message. Raises OSError if nobody is there to read it."""
    text = json.dumps(message).encode()
    socket.send_fds(end, [text], descriptors or [])


def receive(end: socket.socket, *, peek: bool = False) -> tuple[Message | None, list[int]]:
    """The next message and its descriptors; None when the other side has gone.

    peek  leave the message where it is, to be received again; without its descriptors
    """
    if peek:
        text = end.recv(MAX_MESSAGE_BYTES, socket.MSG_PEEK)
        return (json.loads(text) if text else None), []
    try:
        text, descriptors, _, _ = socket.recv_fds(
            end, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        # The other side closed without having read everything from here; said once, and before
        # what it had sent itself, which is still to be received.
        return receive(end)
    return (json.loads(text) if text else None), list(descriptors)
