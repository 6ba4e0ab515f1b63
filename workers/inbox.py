"""What a worker has been handed: the main thread takes from it, the control thread stops it."""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from typing import NamedTuple

from workers.messages import CONTROL_BYTES, Command, Lease, pack_control, unpack_controls

_NOWHERE = -1


class Answer(NamedTuple):
    """What the control thread tells the pool."""

    command: Command
    position: int


class Inbox:
    """The present lease and the worker's local stop flag.

    The lock makes "which task is running" and "is it told to stop" one fact: a command that
    arrives between two tasks hits one of them or neither, never the wrong one.
    """

    def __init__(self) -> None:
        self.flag = threading.Event()
        self.is_late = False  # the running task's time limit has passed
        self._lock = threading.Lock()
        self._lease = 0
        self._position = _NOWHERE
        self._left: deque[int] = deque()
        # Stops can overtake their lease on the other pipe; kept until that lease has been opened.
        self._stopped: set[int] = set()
        self.is_closed = False

    def open(self, lease: Lease) -> bool:
        """Make this the present lease; False if it was taken back before, and nobody expects it."""
        with self._lock:
            self._lease, self._position = lease.number, _NOWHERE
            self.is_late = False
            if self.is_closed:
                return False
            if self._stopped:
                is_void = lease.number in self._stopped
                self._stopped = {number for number in self._stopped if number > lease.number}
                if is_void:
                    return False
            self.flag.clear()
            self._left.extend(range(len(lease.indexes)))
            return True

    def take(self) -> int | None:
        """The position to run next; None when the lease has no more."""
        with self._lock:
            if not self._left:
                self._position = _NOWHERE
                return None
            if self.is_late:  # that was for the task before this one
                self.is_late = False
                self.flag.clear()
            self._position = self._left.popleft()
            return self._position

    def has_more(self) -> bool:
        """Whether `take` would hand out another one now."""
        return bool(self._left)

    def abandon(self) -> None:
        """Forget the present lease: it was taken back while this process stood still."""
        with self._lock:
            self._position = _NOWHERE
            self._left.clear()

    def stop(self, lease: int) -> Answer | None:
        """Set the event for the lease; nothing more of it begins."""
        with self._lock:
            if lease == self._lease:
                self._left.clear()
                self.flag.set()
                return None
            return self._void(lease)

    def time_up(self, lease: int, position: int) -> None:
        """Set the event for one task, if it is the one that runs and was not told to stop already."""
        with self._lock:
            if (lease, position) == (self._lease, self._position) and not self.flag.is_set():
                self.is_late = True
                self.flag.set()

    def recall(self, lease: int) -> Answer | None:
        """Take back what has not begun."""
        with self._lock:
            if lease != self._lease:
                return self._void(lease)
            if not self._left:
                return None
            first = self._left[0]
            self._left.clear()
            return Answer(Command.RETURNED, first)

    def close(self) -> None:
        """Stop everything, now and for ever: the service has gone."""
        with self._lock:
            self.is_closed = True
            self._left.clear()
            self.flag.set()

    def _void(self, lease: int) -> Answer | None:
        """A lease that is still in the pipe is never opened; one that has ended needs nothing."""
        if lease < self._lease:
            return None
        self._stopped.add(lease)
        return Answer(Command.VOIDED, 0)


def follow(control: int, inbox: Inbox) -> None:
    """Carry out what comes on the control pipe; the body of the control thread."""
    text = b""
    while True:
        try:
            more = os.read(control, 4096)
        except OSError:  # a task closed the descriptor: a worker that cannot be stopped must go
            os._exit(1)
        if not more:
            # The service has gone, and nobody reads what tasks print while they clean up.
            null = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(null, stream)
            inbox.close()
            return
        text += more
        for command, lease, position in unpack_controls(text):
            answer = None
            if command == Command.STOP:
                answer = inbox.stop(lease)
            elif command == Command.TIME_UP:
                inbox.time_up(lease, position)
            elif command == Command.RECALL:
                answer = inbox.recall(lease)
            if answer is not None:
                with suppress(OSError):
                    os.write(control, pack_control(answer.command, lease, answer.position))
        text = text[len(text) - len(text) % CONTROL_BYTES :]
