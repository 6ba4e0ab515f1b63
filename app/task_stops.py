"""Stops of single tasks: the pool is asked once, however many clients wait for the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic
from typing import Any

from app.record import Record
from app.rows import StopRow
from app.storage.store import Store
from workers.backend import Backend


class Settling:
    """One stop that is under way; awaiting it takes until the store has it that nothing of it runs."""

    __slots__ = ("_is_over", "asked", "has_settled", "kill_at")

    def __init__(self) -> None:
        self.asked = monotonic()  # the pool counts the grace from here
        self.kill_at = inf
        self.has_settled = False  # nothing of the task runs, whether or not the store knows
        self._is_over = asyncio.Event()

    def end(self) -> None:
        """Wake everybody who waits."""
        self._is_over.set()

    def __await__(self) -> Generator[Any, None, None]:
        yield from self._is_over.wait().__await__()


class TaskStops:
    """The stops of single tasks that are under way. Belongs to the event loop's thread.

    An entry goes when its stop has settled, whether or not anybody still waits.
    """

    def __init__(
        self,
        backend: Backend,
        store: Store,
        settle_when: Callable[[Record, Callable[[], None]], None],
    ) -> None:
        """settle_when: calls what it is given once nothing of a batch's task can run elsewhere."""
        self._backend, self._store, self._settle_when = backend, store, settle_when
        self._settling: dict[tuple[str, int], Settling] = {}

    def __len__(self) -> int:
        return len(self._settling)

    def stop(self, record: Record, index: int, stop: StopRow) -> Settling:
        """Have the pool stop a task as its record says; a repeat only tells it of an earlier kill."""
        key = (record.given.id, index)
        settling, kill_at = self._settling.get(key), inf if stop.kill_at is None else stop.kill_at
        if settling is None:
            settling = self._settling[key] = Settling()
        elif kill_at >= settling.kill_at:
            return settling
        settling.kill_at = kill_at
        grace_s = None if stop.kill_at is None else max(0.0, stop.kill_at - settling.asked)
        settled = partial(self._settled, record, index, settling, asyncio.get_running_loop())
        told = partial(self._settle_when, record, settled)
        self._backend.request_task_stop(*key, grace_s, told)
        return settling

    def let_go(self, batch_ids: Iterable[str]) -> None:
        """Nobody waits any more for a stop of a task in these batches: it does not end here."""
        gone = frozenset(batch_ids)
        for key in [key for key in self._settling if key[0] in gone]:
            self._wake(key)

    def _settled(
        self, record: Record, index: int, settling: Settling, loop: asyncio.AbstractEventLoop
    ) -> None:
        """On the pool's thread: first the fact, then the news, once the store has it."""
        record.settle_task_stop(index, monotonic())
        settling.has_settled = True
        record.then(partial(self._tell, (record.given.id, index), loop))
        self._store.mark(record)

    def _tell(self, key: tuple[str, int], loop: asyncio.AbstractEventLoop) -> None:
        """On the writer's thread."""
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(self._wake, key)

    def _wake(self, key: tuple[str, int]) -> None:
        settling = self._settling.pop(key, None)
        if settling is not None:
            settling.end()
