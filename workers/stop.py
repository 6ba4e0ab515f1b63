"""StopEvent: what a task sees of its batch's stop event."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Unpack
from weakref import WeakSet

from workers.errors import NotInTask
from workers.events import remote_flag
from workers.gaps import SHORT_GAP_S
from workers.programs import Command, Options, run_program
from workers.stopped import Stopped

if TYPE_CHECKING:
    from subprocess import CompletedProcess

__all__ = ["StopEvent", "Stopped", "current"]

Item = TypeVar("Item")
Keys = Callable[[], Sequence[str]]

_NEVER = -inf
_ONLY_IN_A_WORKER = "works in the process that runs the task only, not in one that the task started"


class Flag(Protocol):
    """What a StopEvent looks at: the worker's own flag, or the Manager's event elsewhere."""

    @property
    def is_on(self) -> bool:
        """Whether the task was asked to stop."""

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it was, at most `timeout` seconds; whether it was."""


class Host(Protocol):
    """The worker around a task, as far as its StopEvent needs it."""

    def looked(self, now: float, gap_s: float) -> None:
        """The task has looked at its event, for the first time since `gap_s`."""

    def wait(self, timeout: float | None) -> bool:
        """Wait for the flag, visibly for the pool."""

    def interrupts(self, stop: StopEvent) -> AbstractContextManager[None]:
        """A block that a stop breaks into."""

    def shield(self, seconds: float) -> AbstractContextManager[None]:
        """A block that a kill waits for."""

    @property
    def is_shielded(self) -> bool:
        """Whether the task is in such a block."""

    @property
    def can_interrupt(self) -> bool:
        """Whether a block that a stop breaks into would work here."""

    def hold(self) -> AbstractContextManager[None]:
        """A block into which a stop does not break, even if it is inside one of those."""

    def detach(self) -> None:
        """This is a process that the task has forked."""


class StopEvent:
    """The batch's stop event, as its task sees it: every look is a checkpoint.

    Inside the worker a look costs nanoseconds and a wait wakes at once. Handed to a process that the
    task starts, by pickling or by forking, it asks the Manager instead.
    """

    __slots__ = (
        "__weakref__",
        "_due",
        "_ends",
        "_flag",
        "_host",
        "_keys",
        "_last",
        "noticed",
        "short_gaps",
    )

    def __init__(
        self, flag: Flag, keys: Keys, ends: float, host: Host | None = None, began: float = 0.0
    ) -> None:
        """keys: the Manager's events for this task; ends: when its time limit passes, or inf."""
        self._flag, self._keys, self._ends, self._host = flag, keys, ends, host
        self._last = began
        self._due = _NEVER  # until then, looks are only counted
        self.short_gaps = 0
        self.noticed = 0.0  # when it first found the event set, on the monotonic clock
        if host is not None:
            _local.add(self)

    def is_set(self) -> bool:
        """Whether the task was asked to stop."""
        now = monotonic()
        if now > self._due or self._flag.is_on:
            return self._look(now)
        self._last = now
        self.short_gaps += 1
        return False

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until asked to stop, at most `timeout` seconds; whether it was asked."""
        if self.is_set():
            return True
        found = self._flag.wait(timeout) if self._host is None else self._host.wait(timeout)
        self.resume()  # time spent waiting here is one long look, not a gap
        if found:
            self.notice()
        return found

    def raise_if_set(self) -> None:
        """Raise Stopped if the task was asked to stop."""
        if self.is_set():
            raise Stopped

    def checked(self, iterable: Iterable[Item]) -> Iterator[Item]:
        """The iterable's items, one look before each, ending early once asked to stop."""
        for item in iterable:
            if self.is_set():
                return
            yield item

    def interrupts(self) -> AbstractContextManager[None]:
        """`with stop.interrupts():` a stop breaks into the blocking call inside, with Stopped.

        For one blocking call that gives no other way: `recv`, `sleep`, a read from a pipe, a wait
        for a process. The exception may come at any point of the block, so nothing that must be
        done whole belongs into it; a stop that was asked for before raises at once. Only in the
        main thread of the process that runs the task, and not in an async task.
        """
        if self._host is None:
            raise RuntimeError(f"interrupts() {_ONLY_IN_A_WORKER}")
        return self._host.interrupts(self)

    def shield(self, seconds: float) -> AbstractContextManager[None]:
        """`with stop.shield(seconds):` a critical section that no stop and no kill breaks into.

        A grace, a time limit and a shutdown wait for its end, for at most `seconds`, and never for
        longer than the service allows (`QUIESCE_MAX_SHIELD`). Inside, `is_set` tells the truth as
        ever, but `interrupts` and the cancellation of an async task are put off to the end.
        """
        if self._host is None:
            raise RuntimeError(f"shield() {_ONLY_IN_A_WORKER}")
        if not 0 < seconds < inf:
            raise ValueError(f"a critical section takes some seconds, not {seconds}")
        return self._host.shield(seconds)

    def run(
        self,
        args: Command,
        *,
        kill_after: float = 5.0,
        timeout: float | None = None,
        check: bool = False,
        input: str | bytes | None = None,  # noqa: A002  # as subprocess has it
        **options: Unpack[Options],
    ) -> CompletedProcess[Any]:
        """Run a child program, and end it when the task is asked to stop: `subprocess.run` that stops.

        On a stop the program and all of its process group get SIGTERM; what is left of them
        `kill_after` seconds later gets SIGKILL. Then Stopped is raised; also if the stop came first,
        and nothing is started then. Inside `shield` the program runs on, to the section's end.

        The rest is as in `subprocess.run`, except that a program ends at its `timeout` in the same
        way, that it reads nothing unless `input` or `stdin` says what, and that `text` is UTF-8.
        """
        return run_program(self, self._host, args, kill_after, timeout, check, input, options)

    def remaining(self) -> float | None:
        """Seconds until the task's time limit, 0.0 if it has passed; None without a limit."""
        return None if self._ends == inf else max(0.0, self._ends - monotonic())

    @property
    def has_looked(self) -> bool:
        """Whether the task has looked at it, ever."""
        return self._due != _NEVER

    def last_gap_s(self, now: float) -> float:
        """How long ago the last look was, or the task's beginning."""
        return now - self._last

    def notice(self) -> None:
        """The task has learnt that the event is set."""
        if not self.noticed:
            self.noticed = monotonic()

    def glance(self) -> None:
        """A checkpoint at which the task learns nothing itself: a stop would break in here."""
        self._measure(monotonic())

    def resume(self) -> None:
        """The task goes on after time that is no gap: it waited, or a stop would have broken in."""
        self._last = now = monotonic()
        self._due = now + SHORT_GAP_S
        if self._host is not None:
            self._host.looked(now, 0.0)

    def _measure(self, now: float) -> None:
        gap_s = now - self._last
        self._last = now
        self._due = now + SHORT_GAP_S
        if gap_s < SHORT_GAP_S:
            self.short_gaps += 1
        if self._host is not None:
            self._host.looked(now, gap_s)

    def _look(self, now: float) -> bool:
        self._measure(now)
        if not self._flag.is_on:
            return False
        if not self.noticed:
            self.noticed = now
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        return connect, (tuple(self._keys()), self._ends, *_address_of_the_manager())

    def become_remote(self) -> None:
        """In a forked child the worker's flag is a dead copy, and the page is still the worker's."""
        keys = tuple(self._keys())
        self._flag = remote_flag(keys, *_address_of_the_manager())
        self._keys = lambda: keys
        if self._host is not None:
            self._host.detach()
            self._host = None


def connect(keys: tuple[str, ...], ends: float, address: str) -> StopEvent:
    """What a pickled StopEvent becomes in the process that receives it."""
    return StopEvent(remote_flag(keys, address), lambda: keys, ends)


def current() -> StopEvent:
    """The running task's own event, for code that is not handed it.

    In the process that runs the task, or one that it forked. Raises NotInTask anywhere else.
    """
    stop = _provide[0]() if _provide else None
    if stop is None:
        raise NotInTask("current() is for code that a task calls; no task runs in this process")
    return stop


def set_current(provide: Callable[[], StopEvent | None]) -> None:
    """Say where `current` finds the running task's event; None from it means that none runs."""
    _provide[:] = [provide]


_provide: list[Callable[[], StopEvent | None]] = []
_local: WeakSet[StopEvent] = WeakSet()
_manager_address: list[str] = []


def set_manager_address(address: str) -> None:
    """Tell this process where the Manager listens; called once, by the worker."""
    _manager_address[:] = [address]


def _address_of_the_manager() -> list[str]:
    return list(_manager_address)


def _after_fork() -> None:
    for event in list(_local):
        event.become_remote()
    _local.clear()


os.register_at_fork(after_in_child=_after_fork)
