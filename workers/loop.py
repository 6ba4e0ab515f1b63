"""The pool's thread: waits for pipes, timers and calls from other threads, in one epoll."""

from __future__ import annotations

import heapq
import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Any

log = logging.getLogger("quiesce.pool")

READ = select.EPOLLIN
WRITE = select.EPOLLOUT


class Timer:
    """A call that is due at some time, unless it is cancelled before."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call


class Loop:
    """One thread that owns what it is given; everybody else only `call`s."""

    def __init__(self, name: str) -> None:
        self._epoll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._calls: deque[tuple[Any, ...]] = deque()  # a function and its arguments
        self._lock = threading.Lock()
        self._cancelled = 0
        self._last_call: Callable[[], None] | None = None
        self._wakes = 0.0  # when it will by itself, while it sleeps; else 0
        self._is_woken = False
        self._is_ending = False
        self._is_closed = False
        self.turned = monotonic()  # when the loop last went round: proof of progress
        self.errors = 0  # unexpected ones; each is logged
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.watch(self._wakeup, READ, self._drain_wakeups)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call it on the loop's thread, after the calls before it. From any thread."""
        self._calls.append((function, *arguments))
        self._wake()

    def call_soon(self, function: Callable[..., None], *arguments: Any) -> None:
        """As `call`, but a loop that wakes by itself within SOON_S is left alone until then."""
        self._calls.append((function, *arguments))
        # Set only while the loop sleeps, after it has seen that there was no call.
        if not 0.0 < self._wakes - monotonic() < SOON_S:
            self._wake()

    def call_last(self, function: Callable[[], None]) -> None:
        """Call it at the end of every turn, after whatever happened in it. Before the start only."""
        self._last_call = function

    def call_at(self, when: float, function: Callable[[], None]) -> Timer:
        """Call it at a time on the monotonic clock. On the loop's thread only."""
        timer = Timer(function)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def cancel(self, timer: Timer) -> None:
        """Do not make the call, and forget whatever it refers to. On the loop's thread only."""
        if timer.call is not None:
            timer.call = None
            self._cancelled += 1
            if self._cancelled > MAX_CANCELLED and self._cancelled > len(self._timers) // 2:
                self._timers = [entry for entry in self._timers if entry[2].call is not None]
                heapq.heapify(self._timers)
                self._cancelled = 0

    def watch(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        """Call `handler(mask)` whenever `fd` is ready."""
        self._handlers[fd] = handler
        self._epoll.register(fd, mask)

    def change(self, fd: int, mask: int) -> None:
        """Wait for something else on a watched descriptor; one that is not watched stays so."""
        if fd in self._handlers:
            self._epoll.modify(fd, mask)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def end(self) -> None:
        """End the loop after its present turn; from its own thread."""
        self._is_ending = True

    @property
    def timers(self) -> int:
        """How many calls are due at some time."""
        return sum(entry[2].call is not None for entry in list(self._timers))

    @property
    def is_running(self) -> bool:
        """Whether the thread has been started and has not ended."""
        return self._thread.is_alive()

    def join(self, limit_s: float) -> bool:
        """Wait for the thread to end; whether it did."""
        if self._thread.ident is not None:
            self._thread.join(limit_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Give up the descriptors; after the thread has ended."""
        with self._lock:  # whoever calls later must not write into somebody else's file
            self._is_closed = True
            self._epoll.close()
            os.close(self._wakeup)

    def _wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            with self._lock:
                if not self._is_closed:
                    os.eventfd_write(self._wakeup, 1)

    def _run(self) -> None:
        while not self._is_ending:
            patience_s = self._patience_s()
            self._wakes = monotonic() + patience_s
            ready = self._epoll.poll(patience_s)
            self._wakes = 0.0
            for fd, mask in ready:
                handler = self._handlers.get(fd)  # an earlier one in this turn may have removed it
                if handler is not None:
                    self._make(handler, mask)
            self._make_due_calls()
            self.turned = monotonic()

    def _make_due_calls(self) -> None:
        calls = self._calls
        for _ in range(len(calls)):
            self._make(*calls.popleft())
        now = monotonic()
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers)[2])
        for timer in due:  # one that sets itself anew, even for the past, waits for the next turn
            call, timer.call = timer.call, None
            if call is not None:
                self._make(call)
        if self._last_call is not None:
            self._make(self._last_call)

    def _make(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception:  # one broken handler must not take every batch with it
            self.errors += 1
            log.exception("the pool's thread goes on after an unexpected error")

    def _patience_s(self) -> float:
        if self._calls:
            return 0.0
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        due_in_s = self._timers[0][0] - monotonic() if self._timers else TURN_EVERY_S
        return min(max(0.0, due_in_s), TURN_EVERY_S)

    def _drain_wakeups(self, _: int) -> None:
        os.eventfd_read(self._wakeup)
        # Only now: whoever saw True until here has its call in the queue, which is emptied next.
        self._is_woken = False


#: From so many cancelled timers on, they are cleared out when they are the greater part.
MAX_CANCELLED = 1_000
#: How long a call that is in no hurry may wait for a loop that is about to wake anyway.
SOON_S = 0.001
#: The loop turns at least this often, so that `turned` tells a live loop from a stuck one.
TURN_EVERY_S = 1.0
