"""What a worker sets up around the task that runs: its event, its critical sections, its counters."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from math import inf
from os import getpid  # here and now: a task may patch the module
from time import monotonic, sleep
from typing import Protocol, TypeVar

from workers.gaps import SHORT_GAP_S, Tallies, Tally
from workers.inbox import Inbox
from workers.interrupts import Interrupts
from workers.messages import Lease
from workers.page import BEGAN, DOOMED, LOOKED, MAX_GAP, PLACE, SHIELD, WAITING, WORST_GAP, Page
from workers.stop import StopEvent, set_current

Found = TypeVar("Found")

#: How often a task that is to be killed looks whether it still is, at the end of its section.
PARK_S = 0.001


class Course(Protocol):
    """An async task on its way, which a stop can reach only between its critical sections."""

    def section_begins(self) -> None:
        """A section is about to be entered; raises if the task is to be cancelled first."""

    def section_ended(self) -> None:
        """A section has been left."""


class Stage:
    """The host of a worker's StopEvents. The main thread's, but for what is said to be shared."""

    def __init__(self, page: Page, inbox: Inbox, max_shield_s: float) -> None:
        self.sections: list[Section] = []  # that are open, in any thread
        self._changing = threading.RLock()  # what threads of the task may change at the same time
        self.flag = inbox.flag
        self.interrupting = Interrupts(inbox, page.times, self.sections)
        self.is_async = False  # the task runs in an event loop
        self.course: Course | None = None  # then: how a stop gets into that loop
        self.strays: list[object] = []  # what a task has left that only the process's end ends
        self.was_shielded = False  # in a critical section after it had been asked to stop
        self.present: StopEvent | None = None  # the running task's, once it is wanted
        self.position = 0
        self._times, self._places = page.times, page.places
        self._max_shield_s = max_shield_s
        self._tallies = Tallies(page)
        self._tally: Tally
        self._lease: Lease | None = None
        self._short_attempts = 0
        self._pid = getpid()
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
        self._times[WORST_GAP] = 0.0  # for the next task
        self.present = None
        self.interrupting.reset()
        if self.sections:
            self.sections.clear()
            self._show_sections()
        last_gap_s = stop.last_gap_s(ended)
        if last_gap_s >= SHORT_GAP_S:
            self._tally.note(last_gap_s)
        is_short = last_gap_s < SHORT_GAP_S
        self._tally.end(1, not stop.has_looked, stop.short_gaps + is_short)
        was_shielded, self.was_shielded = self.was_shielded, False
        return stop.noticed, was_shielded

    def forget_late(self) -> None:
        """What a thread of the task did here after the task had ended is not the next task's."""
        self.present, self.was_shielded = None, False
        self._times[WORST_GAP] = 0.0
        self.sections.clear()
        self._show_sections()

    def close(self) -> None:
        """The lease has ended."""
        self._lease = None
        if self._short_attempts:
            count, self._short_attempts = self._short_attempts, 0
            self._tally.end(count, count, count)

    def stop_event(self) -> StopEvent | None:
        """Shared: the running task's event; None between two tasks."""
        if self.present is None and self._lease is not None:
            with self._changing:
                if self.present is None:
                    self.present = self._new_event(self._lease, self.position)
        return self.present

    def _new_event(self, lease: Lease, position: int) -> StopEvent:
        began = self._times[BEGAN]
        ends = began + lease.timeout_s if lease.timeout_s else inf
        stop = StopEvent(self.flag, lambda: _keys(lease, position), ends, self, began)
        if getpid() != self._pid:  # this is a task's own fork
            stop.become_remote()
        return stop

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
            self._times[WAITING] = 1.0 if self.interrupting.depth else 0.0

    def interrupts(self, stop: StopEvent) -> AbstractContextManager[None]:
        """A block that a stop breaks into."""
        if self.is_async:
            raise RuntimeError("an async task is cancelled at its next await, without interrupts()")
        self.stop_event()  # whoever's the event: what is left open here is closed with this task
        return self.interrupting.block(stop)

    def shield(self, seconds: float) -> AbstractContextManager[None]:
        """A block that a kill waits for."""
        self.stop_event()  # as above
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
        self._changing = threading.RLock()  # some thread that is not here may have had it

    def enter_section(self, section: Section) -> None:
        """Shared: sections of several threads or coroutines may overlap."""
        if self.course is not None:
            self.course.section_begins()
        self._park_unless_within(section)
        with self._changing:
            self.sections.append(section)
            self._show_sections()
        self.was_shielded |= self.flag.is_on

    def leave_section(self, section: Section) -> None:
        """A task that is to be killed goes no further than here."""
        if section not in self.sections:  # left after its task has ended
            return
        self.was_shielded |= self.flag.is_on
        with self._changing:
            section.ends = 0.0
            self._show_sections()
        self._park_unless_within(section)
        with self._changing:
            if section in self.sections:
                self.sections.remove(section)  # from here on, a stop may break in again

    def _show_sections(self) -> None:
        self._times[SHIELD] = max((section.ends for section in self.sections), default=0.0)

    def _park_unless_within(self, section: Section) -> None:
        """Stay here if the task is to be killed, unless this thread is in another section as well."""
        others = [each for each in self.sections if each is not section]
        if not any(each.thread == section.thread for each in others):
            while self._places[DOOMED] == self._places[PLACE]:
                sleep(PARK_S)

    def break_in(self, *, may_raise: bool) -> None:
        """A section has been left: a stop that was put off breaks in, wherever the task is now."""
        if self.course is not None:
            self.course.section_ended()
        elif may_raise and self.can_interrupt:
            self.interrupting.strike()


class Section:
    """`with stop.shield(seconds):` as it is entered and left."""

    __slots__ = ("_seconds", "_stage", "ends", "thread")

    def __init__(self, stage: Stage, seconds: float) -> None:
        self._stage, self._seconds = stage, seconds
        self.ends = 0.0  # at the latest
        self.thread = 0

    def __enter__(self) -> None:
        self.ends = monotonic() + self._seconds
        self.thread = threading.get_ident()
        self._stage.enter_section(self)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stage.leave_section(self)
        self._stage.break_in(may_raise=kind is None)


def _keys(lease: Lease, position: int) -> tuple[str, str]:
    """The Manager's events that stop a task: its batch's, and its own."""
    return lease.batch_id, task_key(lease.batch_id, lease.indexes[position], lease.attempt)


def task_key(batch_id: str, index: int, attempt: int) -> str:
    """The event of one attempt at one task, for processes that the task starts itself."""
    return f"{batch_id}/{index}/{attempt}"
