"""Finds the processes of a service or pool, and sends them signals."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from workers.linux import parent_of

#: These end a worker, each in its own way.
DEADLY = (
    signal.SIGKILL,
    signal.SIGKILL,
    signal.SIGTERM,
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGHUP,
    signal.SIGUSR1,
)
#: These must not: a worker ignores the one and is continued after the other.
HARMLESS = (signal.SIGSTOP, signal.SIGINT)

WARDEN, MANAGER = "quiesce-warden", "quiesce-manager"


def children_of(pid: int) -> list[int]:
    """Pids of the process's children, dead and not yet reaped ones included."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def name_of(pid: int) -> str:
    """What the process calls itself; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def warden_of(service: int) -> int | None:
    """The warden of the service whose pid that is."""
    return next((pid for pid in children_of(service) if name_of(pid) == WARDEN), None)


def manager_of(service: int) -> int | None:
    """The Manager of the service whose pid that is; None while it is started again."""
    warden = warden_of(service)
    if warden is None:
        return None
    return next((pid for pid in children_of(warden) if name_of(pid) == MANAGER), None)


def send(pid: int, number: signal.Signals, service: int) -> bool:
    """Signal a descendant of the service; False if it had gone, whoever has its pid by now."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # The handle stays with this very process, so what is found out now holds for the signal.
        if not name_of(pid).startswith("quiesce-") or not _is_within(pid, service):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def _is_within(pid: int, service: int) -> bool:
    parent = parent_of(pid)
    return parent == service or (parent is not None and parent_of(parent) == service)
