"""The few Linux facilities that Python has no function for."""

from __future__ import annotations

import ctypes
import os
import select
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this signal to the process when the thread that forked it ends."""
    _prctl(_PR_SET_PDEATHSIG, number)


def become_subreaper() -> None:
    """Become the parent of every orphan among this process's descendants."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_process_name(name: str) -> None:
    """What `ps` and `top` show; at most 15 characters count."""
    Path("/proc/self/comm").write_text(name)


def prefer_for_oom(points: int) -> None:
    """Let the kernel, short of memory, end this process before others; 1000 is the most."""
    path = Path("/proc/self/oom_score_adj")
    with suppress(OSError):  # a sandbox may forbid it; nothing else depends on it
        path.write_text(str(min(1000, int(path.read_text()) + points)))


def thread_count() -> int:
    """How many threads this process has, whoever started them."""
    return len(os.listdir("/proc/self/task"))


def children() -> set[int]:
    """Pids of this process's children, dead and not yet reaped ones included."""
    return _children_of("/proc/self/task", os.listdir("/proc/self/task"))


def children_of_thread() -> set[int]:
    """Those that this thread has started, as far as the kernel tells; else as `children`."""
    return _children_of("/proc", ["thread-self"])


def _children_of(folder: str, threads: Sequence[str]) -> set[int]:
    try:
        lists = [Path(f"{folder}/{thread}/children").read_text() for thread in threads]
    # A kernel without CONFIG_PROC_CHILDREN, or a thread has ended before or in the middle of it.
    except (FileNotFoundError, ProcessLookupError):
        me = os.getpid()
        return {pid for pid in all_pids() if parent_of(pid) == me}
    return {int(pid) for text in lists for pid in text.split()}


def kill(pid: int) -> None:
    """SIGKILL, as far as it is there and may be killed (not, say, another user's)."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def still_alive(handles: list[int], limit_s: float) -> set[int]:
    """Wait until the processes behind these pidfds have ended; those that have not in time."""
    poll = select.poll()
    left = {handle for handle in handles if handle >= 0}
    for handle in left:
        poll.register(handle, select.POLLIN)
    end = monotonic() + limit_s
    while left and (patience_s := end - monotonic()) > 0:
        for handle, _ in poll.poll(patience_s * 1000):
            left.discard(handle)
            poll.unregister(handle)
    return left


def all_pids() -> list[int]:
    """Every process that /proc shows."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def parent_of(pid: int) -> int | None:
    """The parent's pid, or None if the process is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may itself hold spaces and parentheses.
    return int(stat.rpartition(")")[2].split()[1])


def group_members(group: int) -> list[int]:
    """The processes of a group that run; those that have ended and wait to be reaped do not."""
    found = []
    for pid in all_pids():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        state, _, its_group = stat.rpartition(")")[2].split(maxsplit=3)[:3]
        if int(its_group) == group and state not in "ZX":
            found.append(pid)
    return found


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 if it is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def pids_with_variable(name: str, value: str) -> list[int]:
    """Processes that were started with this environment variable, as far as we may look."""
    return sorted(_look_for(name, value)[0])


def end_marked(name: str, value: str, sweeps: int) -> None:
    """Kill all processes that were started with this environment variable, until none is left.

    One that forks and ends after it was listed, and before it is looked at, leaves a child that was
    not listed. So only a sweep during which nobody has vanished shows that there is none.
    """
    blank_before: set[int] = set()
    for _ in range(sweeps):
        marked, blank = _look_for(name, value)
        for pid in marked:
            kill(pid)
        if not marked and blank <= blank_before:
            return
        blank_before = blank


def _look_for(name: str, value: str) -> tuple[list[int], set[int]]:
    """Processes with this environment variable; and those that show none at all.

    Kernel threads never show any; others do not while they start a program, and once they have ended.
    """
    wanted = f"{name}={value}".encode()
    found, blank = [], set()
    for pid in reversed(all_pids()):  # those that are new are the likeliest to be gone soon
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            variables = b""
        if wanted in variables.split(b"\0"):
            found.append(pid)
        elif not variables:
            blank.add(pid)
    return found, blank


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
