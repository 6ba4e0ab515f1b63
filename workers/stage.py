"""What a worker sets up around the task that runs: its event, its critical sections, its counters."""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from math import inf
from time import monotonic, sleep
from typing import TypeVar

from workers.gaps import SHORT_GAP_S, Tallies, Tally
from workers.inbox import Inbox
from workers.interrupts import Interrupts
from workers.messages import Lease
from workers.page import BEGAN, DOOMED, LOOKED, MAX_GAP, PLACE, SHIELD, WAITING, WORST_GAP, Page
from workers.stop import StopEvent, set_current

Found = TypeVar("Found")

#: How often a task that is to be killed looks whether it still is, at the end of its section.
PARK_S = 0.001


class Stage:
    """The host of a worker's StopEvents. The main thread's, but for what is said to be shared."""

    def __init__(self, page: Page, inbox: Inbox, max_shield_s: float) -> None:
        self.sections: list[float] = []  # when each open one ends at the latest; any thread's
        self.flag = inbox.flag
        self.interrupting = Interrupts(inbox, page.times, self.sections)
        self.is_async = False  # the task runs in an event loop
        self.on_section_end: Callable[[bool], None] | None = None  # how a stop gets into that loop
        self.has_strays = False  # the task has left something that nothing but a new worker ends
        self.was_shielded = False  # in a critical section after it had been asked to stop
        self.present: StopEvent | None = None  # the running task's, once it is wanted
        self.position = 0
        self._times, self._places = page.times, page.places
        self._max_shield_s = max_shield_s
        self._tallies = Tallies(page)
        self._tally: Tally
        self._lease: Lease | None = None
        self._short_attempts = 0
        self._pid = os.getpid()
        set_current(self.stop_event)

    # --- the worker's side ------------------------------------------------------------------------

    def open(self, lease: Lease, max_gap_s: float) -> None:
        """The tasks of a lease are about to begin."""
        self._lease = lease
        self._tally = self._tallies.of(lease.task)
        self._times[MAX_GAP] = max_gap_s

    def leave_task(self, ended: float) -> tuple[float, bool]:
        """A task has ended: when it noticed its stop (0.0: never), and whether it was shielded."""
        stop, lasted_s = self.present, ended - self._times[BEGAN]
        if stop is None:
            if lasted_s < SHORT_GAP_S:
                self._short_attempts += 1
            else:
                self._tally.end(1, 1, 0)
                self._tally.note(lasted_s)
            return 0.0, False
        self.present = None
        self.interrupting.reset()
        if self.sections:
            self.sections.clear()
            self._times[SHIELD] = 0.0
        last_gap_s = stop.last_gap_s(ended)
        if last_gap_s >= SHORT_GAP_S:
            self._tally.note(last_gap_s)
        is_short = last_gap_s < SHORT_GAP_S
        self._tally.end(1, not stop.has_looked, stop.short_gaps + is_short)
        was_shielded, self.was_shielded = self.was_shielded, False
        return stop.noticed, was_shielded

    def close(self) -> None:
        """The lease has ended."""
        self._lease = None
        if self._short_attempts:
            count, self._short_attempts = self._short_attempts, 0
            self._tally.end(count, count, count)

    def stop_event(self) -> StopEvent | None:
        """The running task's event; None between two tasks."""
        lease = self._lease
        if self.present is None and lease is not None:
            began, position = self._times[BEGAN], self.position
            ends = began + lease.timeout_s if lease.timeout_s else inf
            self.present = StopEvent(self.flag, lambda: _keys(lease, position), ends, self, began)
            if os.getpid() != self._pid:  # this is a task's own fork
                self.present.become_remote()
        return self.present

    # --- the task's side --------------------------------------------------------------------------

    def looked(self, now: float, gap_s: float) -> None:
        """The task has looked at its event."""
        times = self._times
        times[LOOKED] = now
        times[WORST_GAP] = max(times[WORST_GAP], gap_s)
        if gap_s >= SHORT_GAP_S:
            self._tally.note(gap_s)

    def wait(self, timeout: float | None) -> bool:
        """Wait for the flag, visibly for the pool."""
        return self.wait_in(self.flag.wait, timeout)

    def wait_in(self, call: Callable[[float | None], Found], timeout: float | None) -> Found:
        """What the call finds; it waits where a stop would end the task at once."""
        self._times[WAITING] = 1.0
        try:
            return call(timeout)
        finally:
            self._times[WAITING] = 0.0

    def interrupts(self, stop: StopEvent) -> AbstractContextManager[None]:
        """A block that a stop breaks into."""
        if self.is_async:
            raise RuntimeError("an async task is cancelled at its next await, without interrupts()")
        return self.interrupting.block(stop)

    def shield(self, seconds: float) -> AbstractContextManager[None]:
        """A block that a kill waits for."""
        return Section(self, min(seconds, self._max_shield_s))

    @property
    def is_shielded(self) -> bool:
        """Whether the task is in a critical section."""
        return bool(self.sections)

    @property
    def can_interrupt(self) -> bool:
        """Whether `interrupts` would work here: a sync task's code in the main thread."""
        return not self.is_async and threading.current_thread() is threading.main_thread()

    def hold(self) -> AbstractContextManager[None]:
        """A block into which a stop does not break, even if it is inside one of those."""
        return self.interrupting.hold() if self.can_interrupt else nullcontext()

    def detach(self) -> None:
        """In a task's own fork: the page is still the worker's, and not ours to write."""
        self._times = self.interrupting.times = memoryview(array("d", [0.0] * (MAX_GAP + 1)))

    def enter_section(self, ends: float) -> None:
        """Shared: sections of several threads or coroutines may overlap."""
        self.sections.append(ends)
        self._times[SHIELD] = max(self.sections)
        self.was_shielded |= self.flag.is_on

    def leave_section(self, ends: float) -> None:
        """At the end of the last one, a task that is to be killed goes no further."""
        if ends not in self.sections:  # left after its task has ended
            return
        self.was_shielded |= self.flag.is_on
        others = self.sections.copy()
        others.remove(ends)
        self._times[SHIELD] = max(others, default=0.0)
        while not others and self._places[DOOMED] == self._places[PLACE]:
            sleep(PARK_S)
        self.sections.remove(ends)  # from here on, a stop may break in again

    def break_in(self, *, may_raise: bool) -> None:
        """A section has been left: a stop that was put off breaks in, wherever the task is now."""
        if self.on_section_end is not None:
            self.on_section_end(may_raise)
        elif may_raise and self.can_interrupt:
            self.interrupting.strike()


class Section:
    """`with stop.shield(seconds):` as it is entered and left."""

    __slots__ = ("_ends", "_seconds", "_stage")

    def __init__(self, stage: Stage, seconds: float) -> None:
        self._stage, self._seconds, self._ends = stage, seconds, 0.0

    def __enter__(self) -> None:
        self._ends = monotonic() + self._seconds
        self._stage.enter_section(self._ends)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stage.leave_section(self._ends)
        self._stage.break_in(may_raise=kind is None)


def _keys(lease: Lease, position: int) -> tuple[str, str]:
    """The Manager's events that stop a task: its batch's, and its own."""
    return lease.batch_id, task_key(lease.batch_id, lease.indexes[position], lease.attempt)


def task_key(batch_id: str, index: int, attempt: int) -> str:
    """The event of one attempt at one task, for processes that the task starts itself."""
    return f"{batch_id}/{index}/{attempt}"
