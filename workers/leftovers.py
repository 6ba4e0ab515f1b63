"""What a task may leave running in its worker, and how it is brought to an end."""

from __future__ import annotations

import os
import select
import sys
from _thread import _count as running_threads
from contextlib import suppress
from time import monotonic, sleep
from typing import Any

from workers.linux import children, kill

THREADS_WAIT_S = 0.05
LOOK_EVERY_S = 0.001
CHILDREN_WAIT_S = 5.0
#: With threads that may start new ones as fast as they are ended, there is no use in going on.
BREEDING_WAIT_S = 0.1


class StrayProcesses(Exception):
    """Children that even SIGKILL did not end in time; only a new worker can help."""


def has_children() -> bool:
    """Whether this process has any child, running or unreaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def end_children(limit_s: float = CHILDREN_WAIT_S) -> bool:
    """Kill and reap every descendant; whether there was any. Raises StrayProcesses.

    The caller must be a subreaper. Children that have ended and only wait to be reaped are nobody's
    leftovers, and neither are the standard library's own servants.
    """
    if not has_children():
        return False
    found = False
    end = monotonic() + limit_s
    tracker, forkserver = _pid_of(*_TRACKER), _pid_of(*_FORKSERVER)
    while _reap() and monotonic() < end:
        present = children()
        if strangers := present - {tracker}:
            if strangers != {forkserver}:
                found = True
            _kill_and_wait(strangers, end)
        elif present:
            _dismiss_tracker(present, end)
    if has_children():
        raise StrayProcesses(f"children {sorted(children())} do not end")
    for servant in (_TRACKER, _FORKSERVER):
        _forget(*servant)
    return found


def await_threads(baseline: int) -> bool:
    """Give threads a moment to end by themselves; whether any is left."""
    end = monotonic() + THREADS_WAIT_S
    # Not joined: they may be starting others, and one that does not run yet cannot be.
    while running_threads() > baseline and monotonic() < end:
        sleep(LOOK_EVERY_S)
    return running_threads() > baseline


def _reap() -> bool:
    """Reap every child that has ended; whether any is left."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def _kill_and_wait(pids: set[int], end: float) -> None:
    """Kill our own children and wait until they have ended, without reaping them."""
    for pid in pids:
        # A child's pid is ours until we reap it, so this cannot hit a stranger.
        kill(pid)
    for pid in pids:
        await_exit(pid, end - monotonic())


def await_exit(pid: int, limit_s: float) -> None:
    """Wait until a process has ended, at most `limit_s`; one that is gone already is fine."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            poll.poll(max(0.0, limit_s) * 1000)
        finally:
            os.close(handle)


#: multiprocessing's servants, which live on by design: module, name, and where its pid is.
_TRACKER = ("multiprocessing.resource_tracker", "_resource_tracker", "_pid")
_FORKSERVER = ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid")
TRACKER_WAIT_S = 1.0


def _pid_of(module: str, name: str, attribute: str) -> int | None:
    servant = getattr(sys.modules.get(module), name, None)
    return getattr(servant, attribute, None)


def _dismiss_tracker(pids: set[int], end: float) -> None:
    """Let the resource tracker end by itself: it first removes shared memory that was forgotten.

    It does at the end of its pipe, which nobody else holds any more; if it does not, it is killed.
    """
    tracker: Any = getattr(sys.modules.get(_TRACKER[0]), _TRACKER[1], None)
    descriptor = getattr(tracker, "_fd", None)
    if descriptor is not None:
        with suppress(OSError):
            os.close(descriptor)
        tracker._fd = None
        for pid in pids:
            await_exit(pid, min(TRACKER_WAIT_S, end - monotonic()))
        if not _reap():
            return
    _kill_and_wait(children(), end)


def _forget(module: str, name: str, attribute: str) -> None:
    """A servant that has gone is started anew by the next task that wants it."""
    servant: Any = getattr(sys.modules.get(module), name, None)
    if getattr(servant, attribute, None) is None:
        return
    for descriptor in (
        getattr(servant, "_forkserver_alive_fd", None),
        getattr(servant, "_fd", None),
    ):
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)
    servant.__init__()
