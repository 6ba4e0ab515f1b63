"""The shared page of one worker: what it is in right now, readable even while it holds the GIL."""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import NamedTuple

# Eight-byte words. An aligned eight-byte store is atomic on every 64-bit Linux, so the place (lease
# and position together) is one word: a worker killed in mid-write leaves the old place or the new.
PLACE, BEGAN, LOOKED, WORST_GAP, VOID, SHIELD, WAITING, DOOMED, MAX_GAP, KEPT = range(10)
HEAD_WORDS = 512
#: The whole file, of which only what is touched takes memory: the words above, the counters of each
#: task function (`workers.gaps`), and at the end the room for one stack sample.
PAGE_BYTES = 1 << 20
STACK_BYTES = 1 << 16
STACK_AT = PAGE_BYTES - STACK_BYTES
WORD_BYTES = 8
POSITION_BITS = 16
MAX_LEASE_TASKS = 2**POSITION_BITS - 1


class Place(NamedTuple):
    """Which task of which lease; lease 0 means none yet."""

    lease: int
    position: int


class Page:
    """Memory that a worker writes and the pool reads. Times are on the monotonic clock."""

    def __init__(self, fd: int) -> None:
        """Map the page behind `fd`; the descriptor stays the caller's."""
        self._memory = mmap.mmap(fd, PAGE_BYTES)
        view = memoryview(self._memory)
        self.places = view.cast("Q")
        self.times = view.cast("d")

    def enter(self, lease: int, position: int, now: float) -> None:
        """Say that this task is about to begin: written before its first instruction."""
        self.times[BEGAN] = now
        self.places[PLACE] = lease << POSITION_BITS | position

    def is_void(self) -> bool:
        """Whether the pool has taken back the task that was just entered, see `void`."""
        return self.places[KEPT] < self.places[PLACE] <= self.places[VOID]

    def has_voided(self, lease: int) -> bool:
        """Whether the pool has taken this lease back before it was opened, or one after it."""
        return self.places[VOID] >> POSITION_BITS >= lease

    def void(self, lease: int) -> None:
        """Take back whatever comes after the present place, to the end of this lease.

        Only while the worker is frozen: then what `place` says and what the worker will find here
        cannot contradict each other.
        """
        self.places[KEPT] = self.places[PLACE]
        end = lease << POSITION_BITS | MAX_LEASE_TASKS
        self.places[VOID] = max(end, self.places[VOID])  # what was taken back stays so

    def place(self) -> Place:
        """The task that began last; whether it has ended is for the result pipe to say."""
        lease, position = divmod(self.places[PLACE], 1 << POSITION_BITS)
        return Place(lease, position)

    def began(self) -> float:
        """When that task began."""
        return self.times[BEGAN]

    def looked(self) -> float:
        """When that task last looked at its event; its beginning if it has not."""
        return max(self.times[BEGAN], self.times[LOOKED])

    def worst_gap_s(self) -> float:
        """The longest time from one of its looks to the next."""
        has_looked = self.times[LOOKED] >= self.times[BEGAN]
        return self.times[WORST_GAP] if has_looked else 0.0

    def is_waiting(self) -> bool:
        """Whether it waits for its event, or where a stop breaks in: a stop would end it at once."""
        return self.times[WAITING] != 0.0

    def max_gap_s(self) -> float:
        """How long the task function promises to go without a look; 0.0 if it says nothing."""
        return self.times[MAX_GAP]

    def shielded_until(self) -> float:
        """When its critical section ends at the latest; 0.0 outside one."""
        return self.times[SHIELD]

    def doom(self) -> None:
        """Have the task wait for its death at the end of its critical section."""
        self.places[DOOMED] = self.places[PLACE]

    def clear_stack(self) -> None:
        """Make room for a stack sample."""
        self._memory[STACK_AT:] = bytes(STACK_BYTES)

    def stack(self) -> str:
        """The stack sample that was written since; "" if there is none yet."""
        return self._memory[STACK_AT:].partition(b"\0")[0].decode(errors="replace")

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
