"""The way down: refuse new work, stop what runs, answer who waits, then end the processes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic

from app.service import Service
from workers.backend import Backend

log = logging.getLogger("quiesce.drain")

#: From the last kill to the last outcome: reaping, reading, settling.
SETTLE_MARGIN_S = 5.0


class Drain:
    """One shutdown of one service. `begin` and `hurry` belong to the event loop's thread.

    It can begin while requests are still served, which is what lets waiting clients have their
    receipts; `close` begins it if nobody did.
    """

    def __init__(
        self, service: Service, backend: Backend, grace_s: float, max_shield_s: float
    ) -> None:
        """max_shield_s: how much longer a kill waits for a task in a critical section."""
        self._service, self._backend, self._grace_s = service, backend, grace_s
        self._limit_s = grace_s + max_shield_s + SETTLE_MARGIN_S
        self._task: asyncio.Task[None] | None = None
        self._deadline = 0.0

    @property
    def has_begun(self) -> bool:
        return self._task is not None

    def begin(self, then: Callable[[], None] | None = None) -> None:
        """Start the drain, unless it is under way; `then` is called at its end, in any case."""
        if self._task is None:
            self._deadline = monotonic() + self._grace_s
            self._task = asyncio.get_running_loop().create_task(self._run())
        if then is not None:
            self._task.add_done_callback(lambda _: then())

    def hurry(self) -> None:
        """Somebody asked a second time: now."""
        log.warning("asked again: killing what still runs")
        self._deadline = monotonic()
        self._service.stops.end_polls()
        self._backend.hurry()

    async def close(self) -> None:
        """See the drain through, then end the pool's processes."""
        self.begin()
        assert self._task is not None
        await asyncio.shield(self._task)
        self._service.close()
        left_s = max(0.0, self._deadline - monotonic())
        await asyncio.to_thread(self._backend.close, left_s)

    async def _run(self) -> None:
        live = len(self._service.registry)
        log.info("shutting down; batches to interrupt: %d, grace %g s", live, self._grace_s)
        try:
            await self._service.drain(self._limit_s)
        except Exception:
            # Whatever it was, the processes end all the same, and the exit code is not this one's.
            log.exception("the drain went wrong")
        left = [e for e in self._service.registry.entries() if not e.record.has_settled]
        if left:
            log.error("%d batches have not settled in time", len(left))
