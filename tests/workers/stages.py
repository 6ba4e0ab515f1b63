"""A worker's stage in the test's own process: what a task is given, without a pool around it."""

from __future__ import annotations

import os
import signal
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic
from typing import NamedTuple

from workers import StopEvent
from workers.inbox import Inbox, LocalFlag
from workers.interrupts import INTERRUPT
from workers.messages import Lease
from workers.page import Page, create_page
from workers.stage import Stage
from workers.stop import set_current

LEASE = 1
TASK = "a_task"


class Scene(NamedTuple):
    """A worker's parts, as they are while its first task runs."""

    page: Page
    inbox: Inbox
    stage: Stage

    @property
    def flag(self) -> LocalFlag:
        """The worker's own stop flag."""
        return self.inbox.flag

    def enter(self, position: int = 0) -> StopEvent:
        """Begin the task at this position of the lease; its event."""
        self.inbox.take()
        self.stage.position = position
        self.page.enter(LEASE, position, monotonic())
        stop = self.stage.stop_event()
        assert stop is not None
        return stop

    def leave(self) -> None:
        """End the task."""
        self.stage.leave_task(monotonic())


def lease_of(tasks: int, number: int = LEASE, timeout_s: float = 0.0) -> Lease:
    """A lease of so many tasks without parameters."""
    ends = array("I", [0] * tasks)
    return Lease(number, "batch", TASK, 1, timeout_s, array("I", range(tasks)), ends, b"")


def event_of(flag: LocalFlag, ends: float = inf) -> StopEvent:
    """An event as it is outside a worker, but on a flag of this process."""
    return StopEvent(flag, lambda: ("batch", "batch/0/1"), ends)


@contextmanager
def open_stage(
    tasks: int = 8, max_shield_s: float = 30.0, timeout_s: float = 0.0
) -> Iterator[Scene]:
    """A worker's page, inbox and stage with a lease open; this process is afterwards as before."""
    handler = signal.getsignal(INTERRUPT)
    fd = create_page()
    page, inbox = Page(fd), Inbox()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    stage = Stage(page, inbox, max_shield_s)
    lease = lease_of(tasks, timeout_s=timeout_s)
    try:
        assert inbox.open(lease)
        stage.open(lease, 0.0)
        yield Scene(page, inbox, stage)
    finally:
        stage.close()
        set_current(lambda: None)
        signal.signal(INTERRUPT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        del stage
        page.close()
        os.close(fd)
