"""The pool's end of a worker's control pipe: commands to its control thread, and the answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from workers.loop import READ, WRITE, Loop
from workers.messages import CONTROL_BYTES, Command, Control, pack_control, unpack_controls

#: As many as are read at once are whole.
READ_BYTES = 256 * CONTROL_BYTES


class ControlPipe:
    """One worker's. Runs on the pool's thread, which owns every field."""

    def __init__(self, fd: int, loop: Loop) -> None:
        """fd: non-blocking; closed by `close`."""
        self._fd, self._loop = fd, loop
        self._unwritten = bytearray()  # the control thread does not read while a task holds the GIL
        self._on_answer: Callable[[Control], None] = lambda _: None

    def watch(self, on_answer: Callable[[Control], None]) -> None:
        """Have the loop call back for each answer."""
        self._on_answer = on_answer
        self._loop.watch(self._fd, READ, lambda _: self._turn())

    def tell(self, command: Command, leases: Iterable[int], position: int = 0) -> None:
        """Send a command for each lease; what finds no room in the pipe is written by the loop.

        In one piece: as soon as it has read one, the control thread may have to wait for the next.
        """
        for lease in leases:
            self._unwritten += pack_control(command, lease, position)
        self._write()
        if self._unwritten:
            self._loop.change(self._fd, READ | WRITE)

    def close(self) -> None:
        """Give up the descriptor."""
        self._loop.unwatch(self._fd)
        os.close(self._fd)

    def _turn(self) -> None:
        if self._unwritten:
            self._write()
            self._loop.change(self._fd, READ | WRITE if self._unwritten else READ)
        try:
            text = os.read(self._fd, READ_BYTES)
        except (BlockingIOError, ConnectionResetError):
            return
        if not text:
            self._loop.unwatch(self._fd)
        for answer in unpack_controls(text):
            self._on_answer(answer)

    def _write(self) -> None:
        try:
            del self._unwritten[: os.write(self._fd, self._unwritten)]
        except BlockingIOError:
            pass
        except OSError:  # a worker that has died is noticed elsewhere
            self._unwritten.clear()
