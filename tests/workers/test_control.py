"""The control thread of a worker: carries out what comes on its pipe, to the pipe's end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from workers.messages import Command, Control, pack_control, unpack_controls

LIMIT_S = 30.0
FOLLOWER = """
import json, os, sys, threading
from array import array
from tests.workers.driver import eventually
from workers.inbox import Inbox, follow
from workers.messages import Lease

control, answer = map(int, sys.argv[1:])
inbox = Inbox()
inbox.open(Lease(5, "b", "t", 1, 0.0, array("I", range(3)), array("I", [0] * 3), b""))
inbox.take()
threading.Thread(target=follow, args=(control, inbox), daemon=True).start()
eventually(lambda: inbox.is_closed)
found = [inbox.is_late, inbox.flag.is_on, inbox.is_closed, os.readlink("/proc/self/fd/1")]
os.write(answer, json.dumps(found).encode())
"""


@contextmanager
def following() -> Iterator[tuple[socket.socket, IO[bytes]]]:
    """A process that follows its control pipe, in a task of lease 5; and what it says at its end.

    The pipe keeps message boundaries, so that what is sent apart is read apart.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(LIMIT_S)
    read_end, write_end = os.pipe()
    fds = theirs.fileno(), write_end
    process = subprocess.Popen(
        [sys.executable, "-c", FOLLOWER, *map(str, fds)], pass_fds=fds, stdout=subprocess.PIPE
    )
    theirs.close()
    os.close(write_end)
    try:
        with ours, os.fdopen(read_end, "rb") as answer:
            yield ours, answer
    finally:
        process.communicate()


def test_commands_cut_anywhere_are_carried_out() -> None:
    """A pipe promises bytes, not messages; each byte is read alone here."""
    commands = [(Command.STOP, 7), (Command.TIME_UP, 5), (Command.RECALL, 5), (Command.STOP, 8)]
    with following() as (control, answer):
        for command, number in commands:
            for byte in pack_control(command, number):
                control.sendall(bytes([byte]))
        answers = [next(unpack_controls(control.recv(100))) for _ in range(3)]
        control.shutdown(socket.SHUT_WR)
        is_late, *_ = json.load(answer)

    assert answers == [
        Control(Command.VOIDED, 7, 0),
        Control(Command.RETURNED, 5, 1),
        Control(Command.VOIDED, 8, 0),
    ]
    assert is_late


def test_several_commands_read_at_once_are_all_carried_out() -> None:
    """And the last one, of which a byte is missing, waits for it."""
    whole = pack_control(Command.STOP, 7) + pack_control(Command.STOP, 8)
    with following() as (control, _):
        control.sendall(whole[:-1])
        first = next(unpack_controls(control.recv(100)))
        control.sendall(whole[-1:])
        second = next(unpack_controls(control.recv(100)))

    assert (first.lease, second.lease) == (7, 8)


def test_the_end_of_the_control_pipe_stops_everything() -> None:
    """The service has gone: the task sees its event, and may print without anybody reading it."""
    with following() as (control, answer):
        control.shutdown(socket.SHUT_WR)
        is_late, is_set, is_closed, output = json.load(answer)

    assert (is_late, is_set, is_closed) == (False, True, True)
    assert output == "/dev/null"
