"""The tasks that the benchmarks run: doing nothing, waiting to be stopped, looking at the event."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from time import thread_time
from typing import Literal

from workers import StopEvent, task

#: Longer than any measurement; a run that forgets to stop its batch still ends.
HOLD_S = 600.0
LOOPS = 10


@task
def noop(number: int) -> int:
    """Give back what was given: all that is measured is the way there and back."""
    return number


@task
def hold(number: int, *, stop: StopEvent) -> int:
    """Wait for the stop, and for nothing else."""
    stop.wait(HOLD_S)
    return number


@task
def receive(number: int, *, stop: StopEvent) -> int:
    """Block in `recv` on a connection that never says anything, where a stop breaks in."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(HOLD_S)
        with stop.interrupts():
            ours.recv(1)
    return number


@task
def look(event: Literal["stop", "threading"] | None, looks: int, *, stop: StopEvent) -> float:
    """How many seconds one look takes at the task's own event, or at an ordinary one beside it.

    In a loop, as `timeit` has it; the fastest of several, because what else the machine does can
    only add to it. None is the loop itself.
    """
    is_set = {"stop": stop.is_set, "threading": threading.Event().is_set, None: None}[event]
    return min(_seconds_per_look(is_set, looks // LOOPS + 1) for _ in range(LOOPS))


def _seconds_per_look(is_set: Callable[[], bool] | None, looks: int) -> float:
    began = thread_time()
    if is_set is None:
        for _ in range(looks):
            pass
    else:
        for _ in range(looks):
            is_set()
    return (thread_time() - began) / looks
