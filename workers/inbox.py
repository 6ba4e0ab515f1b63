"""What a worker has been handed: the main thread takes from it, the control thread stops it."""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress

from workers.messages import CONTROL_BYTES, Command, Lease, pack_control, unpack_controls

_NOWHERE = -1


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

    def open(self, lease: Lease) -> None:
        """Make this the present lease."""
        with self._lock:
            self._lease, self._position = lease.number, _NOWHERE
            self.is_late = False
            if self.is_closed or lease.number in self._stopped:
                self.flag.set()
                self._left.clear()
            else:
                self.flag.clear()
                self._left.extend(range(len(lease.indexes)))
            if self._stopped:
                self._stopped = {number for number in self._stopped if number > lease.number}

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

    def stop(self, lease: int) -> None:
        """Set the event for the lease; nothing more of it begins."""
        with self._lock:
            if lease == self._lease:
                self._left.clear()
                self.flag.set()
            elif lease > self._lease:
                self._stopped.add(lease)

    def time_up(self, lease: int, position: int) -> None:
        """Set the event for one task, if it is the one that runs and was not told to stop already."""
        with self._lock:
            if (lease, position) == (self._lease, self._position) and not self.flag.is_set():
                self.is_late = True
                self.flag.set()

    def recall(self, lease: int) -> int | None:
        """Take back what has not begun: the first position that has not; None if all has."""
        with self._lock:
            if lease > self._lease:  # still in the pipe: it will be opened and found empty
                self._stopped.add(lease)
                return 0
            if lease != self._lease or not self._left:
                return None
            first = self._left[0]
            self._left.clear()
            return first

    def close(self) -> None:
        """Stop everything, now and for ever: the service has gone."""
        with self._lock:
            self.is_closed = True
            self._left.clear()
            self.flag.set()


def follow(control: int, inbox: Inbox) -> None:
    """Carry out what comes on the control pipe; the body of the control thread."""
    text = b""
    while True:
        try:
            more = os.read(control, 4096)
        except OSError:  # a task closed the descriptor: a worker that cannot be stopped must go
            os._exit(1)
        if not more:
            inbox.close()
            return
        text += more
        for command, lease, position in unpack_controls(text):
            if command == Command.STOP:
                inbox.stop(lease)
            elif command == Command.TIME_UP:
                inbox.time_up(lease, position)
            elif command == Command.RECALL:
                first = inbox.recall(lease)
                if first is not None:
                    with suppress(OSError):
                        os.write(control, pack_control(Command.RETURNED, lease, first))
        text = text[len(text) - len(text) % CONTROL_BYTES :]
