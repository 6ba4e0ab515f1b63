"""What a task may leave running in its worker, and how it is brought to an end."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from _thread import _count as running_threads
from contextlib import suppress
from time import monotonic
from typing import Any

from workers.backend import Leftovers
from workers.linux import children

THREADS_WAIT_S = 0.05
CHILDREN_WAIT_S = 5.0


class StrayProcesses(Exception):
    """Children that even SIGKILL did not end in time; only a new worker can help."""


def has_children() -> bool:
    """Whether this process has any child, running or unreaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def end_children() -> Leftovers:
    """Kill and reap every descendant; the caller must be a subreaper. Raises StrayProcesses.

    Children that have ended and only wait to be reaped are nobody's leftovers, and neither are the
    standard library's own servants.
    """
    if not has_children():
        return Leftovers.NONE
    left = Leftovers.NONE
    end = monotonic() + CHILDREN_WAIT_S
    while _reap() and monotonic() < end:
        if strangers := children() - {pid for _, pid in _servants()}:
            left = Leftovers.PROCESSES
            _kill_and_wait(strangers, end)
        else:
            _dismiss_servants(end)
    if has_children():
        raise StrayProcesses(f"children {sorted(children())} do not end")
    return left


def await_threads(baseline: int) -> Leftovers:
    """Give threads a moment to end by themselves; whether any is left."""
    end = monotonic() + THREADS_WAIT_S
    mine = threading.current_thread()
    while running_threads() > baseline and (left_s := end - monotonic()) > 0:
        for thread in threading.enumerate():
            if thread is not mine and thread.name != "control":
                thread.join(min(left_s, 0.005))
        if running_threads() > baseline:
            threading.Event().wait(0.001)
    return Leftovers.THREADS if running_threads() > baseline else Leftovers.NONE


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
        os.kill(pid, signal.SIGKILL)
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


def _servants() -> list[tuple[Any, int]]:
    """multiprocessing's fork server and resource tracker, which live on by design: (it, pid)."""
    found = []
    for module, name, attribute in (
        ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
        ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
    ):
        servant = getattr(sys.modules.get(module), name, None)
        pid = getattr(servant, attribute, None)
        if pid is not None:
            found.append((servant, pid))
    return found


def _dismiss_servants(end: float) -> None:
    """End them through their own `_stop`, so that the next task can start them again.

    Nobody else holds their pipes any more, so they end by themselves; the tracker first removes
    shared memory that the task forgot.
    """
    for servant, pid in _servants():
        if pid in children():
            servant._stop()
            await_exit(pid, end - monotonic())
        else:
            servant.__init__()  # reaped behind its back: start afresh
