"""StopEvent and Stopped: what a task sees of its batch's stop event."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from workers.events import source_at
from workers.page import LOOKED, WORST_GAP

Item = TypeVar("Item")


class Stopped(BaseException):
    """Raised to end a task that was asked to stop; not an Exception, so a blanket except lets it by."""


class Source(Protocol):
    """Where a StopEvent looks: the worker's own flag, or the Manager for other processes."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


class StopEvent:
    """The batch's stop event, as its task sees it: every look is a checkpoint.

    Inside the worker a look costs nanoseconds and a wait wakes at once. Handed to a process that the
    task starts, by pickling or by forking, it asks the Manager instead.
    """

    __slots__ = ("__weakref__", "_key", "_last", "_source", "_times", "_worst", "noticed")

    def __init__(self, source: Source, key: str, times: memoryview[float] | None = None) -> None:
        """times: the worker's page, where the last look is shown; None outside a worker."""
        self._source = source
        self._key = key
        self._times = _own_times() if times is None else times
        self._last = monotonic()
        self._worst = 0.0
        self.noticed = 0.0  # when a look first found it set, on the monotonic clock
        if times is not None:
            _local.add(self)

    def is_set(self) -> bool:
        """Whether the task was asked to stop."""
        now = monotonic()
        gap = now - self._last
        self._last = now
        times = self._times
        times[LOOKED] = now
        if gap > self._worst:
            self._worst = times[WORST_GAP] = gap
        if self._source.is_set():
            if not self.noticed:
                self.noticed = now
            return True
        return False

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until asked to stop, at most `timeout` seconds; whether it was asked."""
        if self.is_set():
            return True
        found = self._source.wait(timeout)
        # Time spent waiting here is one long look, not a gap.
        self._last = self._times[LOOKED] = monotonic()
        if found and not self.noticed:
            self.noticed = self._last
        return found

    def raise_if_set(self) -> None:
        """Raise Stopped if the task was asked to stop."""
        if self.is_set():
            raise Stopped

    def checked(self, iterable: Iterable[Item]) -> Iterator[Item]:
        """The iterable's items, one look before each, ending early once asked to stop."""
        for item in iterable:
            if self.is_set():
                return
            yield item

    def __reduce__(self) -> tuple[Any, ...]:
        return connect, (self._key, *_address_of_the_manager())

    def _become_remote(self) -> None:
        """In a forked child the worker's flag is a dead copy, and the page is still the worker's."""
        self._source = source_at(self._key, *_address_of_the_manager())
        self._times = _own_times()


def connect(key: str, address: str) -> StopEvent:
    """What a pickled StopEvent becomes in the process that receives it."""
    return StopEvent(source_at(key, address), key)


def _own_times() -> memoryview[float]:
    """A page's words for a process that has no page."""
    return memoryview(array("d", [0.0] * (WORST_GAP + 1)))


_local: WeakSet[StopEvent] = WeakSet()
_manager_address: list[str] = []


def set_manager_address(address: str) -> None:
    """Tell this process where the Manager listens; called once, by the worker."""
    _manager_address[:] = [address]


def _address_of_the_manager() -> list[str]:
    return list(_manager_address)


def _after_fork() -> None:
    for event in list(_local):
        event._become_remote()
    _local.clear()


os.register_at_fork(after_in_child=_after_fork)
