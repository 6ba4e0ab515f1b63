"""The shared page of one worker: what it is in right now, readable even while it holds the GIL."""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import NamedTuple

# Eight-byte words. An aligned eight-byte store is atomic on every 64-bit Linux, so the place (lease
# and position together) is one word: a worker killed in mid-write leaves the old place or the new.
PLACE, BEGAN, LOOKED, WORST_GAP, VOID = range(5)
PAGE_BYTES = mmap.PAGESIZE
POSITION_BITS = 16
MAX_LEASE_TASKS = 2**POSITION_BITS - 1


class Place(NamedTuple):
    """Which task of which lease; lease 0 means none yet."""

    lease: int
    position: int


class Page:
    """One page of memory that a worker writes and the pool reads."""

    def __init__(self, fd: int) -> None:
        """Map the page behind `fd`; the descriptor stays the caller's."""
        self._memory = mmap.mmap(fd, PAGE_BYTES)
        view = memoryview(self._memory)
        self.places = view.cast("Q")
        self.times = view.cast("d")

    def enter(self, lease: int, position: int, now: float) -> None:
        """Say that this task is about to begin: written before its first instruction."""
        times = self.times
        times[BEGAN] = now
        times[LOOKED] = now
        times[WORST_GAP] = 0.0
        self.places[PLACE] = lease << POSITION_BITS | position

    def is_void(self, lease: int) -> bool:
        """Whether the pool has taken this lease back; asked after `enter`, see `void`."""
        return self.places[VOID] >= lease

    def void(self, lease: int) -> None:
        """Take back this lease and those before it, as far as their place has not been entered.

        Only while the worker is frozen: then what `place` says and what the worker will find here
        cannot contradict each other.
        """
        self.places[VOID] = lease

    def place(self) -> Place:
        """The task that began last; whether it has ended is for the result pipe to say."""
        lease, position = divmod(self.places[PLACE], 1 << POSITION_BITS)
        return Place(lease, position)

    def began(self) -> float:
        """When that task began, on the monotonic clock."""
        return self.times[BEGAN]

    def looked(self) -> float:
        """When that task last looked at its event; its beginning if it has not."""
        return self.times[LOOKED]

    def close(self) -> None:
        """Unmap the page."""
        self.places.release()
        self.times.release()
        self._memory.close()


def create_page() -> int:
    """The descriptor of a new page, all zero; it has no name and goes with its last user."""
    fd = os.memfd_create("quiesce-page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PAGE_BYTES)
    # A task that truncated it would have the service killed by SIGBUS at its next look.
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd
