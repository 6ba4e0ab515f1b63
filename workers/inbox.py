"""What a worker has been handed: the main thread takes from it, the control thread stops it."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

# Bound here and now: what a task patches in this module must not reach the control thread.
from os import _exit, read, write
from typing import NamedTuple

from workers.descriptors import PIPES_LOST, Pipe
from workers.messages import CONTROL_BYTES, Command, Lease, pack_control, unpack_controls

#: How often a main thread that wants to be called at a stop is called, until it says enough.
RING_EVERY_S = 0.01
_NOWHERE = -1


class LocalFlag:
    """The worker's stop flag: looked at without a call, waited for without polling."""

    __slots__ = ("_event", "is_on")

    def __init__(self) -> None:
        self._event = threading.Event()
        self.is_on = False

    def set(self) -> None:
        self.is_on = True
        self._event.set()

    def clear(self) -> None:
        if self.is_on:  # which is rare, and the rest costs as much as a short task
            self.is_on = False
            self._event.clear()

    def wait(self, timeout: float | None = None) -> bool:
        return self._event.wait(timeout)


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
        self.flag = LocalFlag()
        self.is_late = False  # the running task's time limit has passed
        self.alarm: Callable[[], None] | None = None  # how to reach a main thread that blocks
        self._is_alone = False  # the flag is on for the running task, not for its lease
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
            self.is_late = self._is_alone = False
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
            if self._is_alone:  # that was for the task before this one
                self.is_late = self._is_alone = False
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
                self._is_alone = False
                self.flag.set()
            return self._recall(lease)

    def stop_task(self, lease: int, position: int) -> Answer | None:
        """Set the event for one task if it runs; like `recall` for the rest of its lease."""
        with self._lock:
            if (lease, position) == (self._lease, self._position) and not self.flag.is_on:
                self._is_alone = True
                self.flag.set()
            return self._recall(lease)

    def time_up(self, lease: int, position: int) -> None:
        """Set the event for one task, if it is the one that runs and was not told to stop already."""
        with self._lock:
            if (lease, position) == (self._lease, self._position) and not self.flag.is_on:
                self.is_late = self._is_alone = True
                self.flag.set()

    def recall(self, lease: int) -> Answer | None:
        """Take back what has not begun."""
        with self._lock:
            return self._recall(lease)

    def close(self) -> None:
        """Stop everything, now and for ever: the service has gone."""
        with self._lock:
            self.is_closed = True
            self._left.clear()
            self.flag.set()

    def ring(self) -> bool:
        """Call a main thread that wants to hear of its stop at once; whether to look again soon.

        As long as the stopped task runs: it may come to want it only then.
        """
        if not self.flag.is_on or self._position == _NOWHERE:
            return False
        alarm = self.alarm
        if alarm is not None:
            alarm()
        return True

    def _recall(self, lease: int) -> Answer | None:
        if lease != self._lease:
            return self._void(lease)
        if not self._left:
            return None
        first = self._left[0]
        self._left.clear()
        return Answer(Command.RETURNED, first)

    def _void(self, lease: int) -> Answer | None:
        """A lease that is still in the pipe is never opened; one that has ended needs nothing."""
        if lease < self._lease:
            return None
        self._stopped.add(lease)
        return Answer(Command.VOIDED, 0)


def follow(control: int, inbox: Inbox) -> None:
    """Carry out what comes on the control pipe; the body of the control thread."""
    # What is sent to the process is for its main thread, which may be waiting for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pipe = Pipe(control)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    text, is_ringing = b"", False
    while True:
        if is_ringing and not poll.poll(RING_EVERY_S * 1000):
            is_ringing = inbox.ring()
            continue
        _insist_on(pipe)
        # From here to the last command, nothing lets go of the interpreter's lock: a busy main
        # thread would give it back only after milliseconds, and begin more tasks meanwhile.
        try:
            more = read(control, 4096)
        except MemoryError:  # a task has used it up; what there is to be read stays there
            time.sleep(RING_EVERY_S)
            continue
        except OSError:
            more = b""
        if not more:
            _insist_on(pipe)
            break
        text += more
        answers = b""
        for command, lease, position in unpack_controls(text):
            answer = _obey(inbox, command, lease, position)
            if answer is not None:
                answers += pack_control(answer.command, lease, answer.position)
        text = text[len(text) - len(text) % CONTROL_BYTES :]
        is_ringing = inbox.ring()
        if answers:
            _insist_on(pipe)  # it may have become another file while this thread waited
            with suppress(OSError):
                write(control, answers)
    _outlive_the_service(inbox)


def _insist_on(pipe: Pipe) -> None:
    """By some task's doing it may be closed or another file: a worker that cannot be stopped must go."""
    if not pipe.is_intact:
        _exit(PIPES_LOST)


def _obey(inbox: Inbox, command: int, lease: int, position: int) -> Answer | None:
    match command:
        case Command.STOP:
            return inbox.stop(lease)
        case Command.STOP_TASK:
            return inbox.stop_task(lease, position)
        case Command.RECALL:
            return inbox.recall(lease)
        case Command.TIME_UP:
            inbox.time_up(lease, position)
    return None


def _outlive_the_service(inbox: Inbox) -> None:
    """Nobody reads what tasks print while they clean up; the process ends with the grace."""
    with suppress(OSError):  # no descriptor left
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(null, stream)
    inbox.close()
    while True:
        inbox.ring()
        time.sleep(RING_EVERY_S)
