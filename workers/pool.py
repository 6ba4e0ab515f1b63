"""The pool: takes batches, and stops, kills or settles them; the local backend."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable

from workers.backend import Event, Gaps, Listener, Order, PoolView, RunningTask, StopCause
from workers.engine import Engine
from workers.errors import PoolClosed, PoolStartError
from workers.events import BatchEvent
from workers.job import Job
from workers.loop import Loop
from workers.messages import MAX_NAME_BYTES
from workers.settings import PoolSettings

__all__ = ["Pool", "PoolSettings"]

START_LIMIT_S = 120.0
CLOSE_MARGIN_S = 10.0


class Pool:
    """The local backend: may be called from any thread, and leaves the work to its engine's."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._loop = Loop("quiesce-pool")
        self._engine = Engine(settings, self._loop)
        self._add = self._engine.add  # one bound method for all batches
        self._is_open = False
        self._closing = threading.Lock()
        self._is_closed = False
        self.staff = self._engine.staff  # to look at, for tests and tools
        self.mark = self.staff.mark  # every process of the pool carries it in its environment
        self.folder = self.staff.folder  # private, for the Manager's socket

    def start(self) -> None:
        """Bring the processes up; returns once a worker is ready. Raises PoolStartError."""
        self._loop.start()
        self._loop.call(self.staff.start)
        is_known = self._engine.started.wait(START_LIMIT_S)
        problem = self._engine.start_problem
        if not is_known:
            problem = f"no worker was ready within {START_LIMIT_S:.0f} s"
        if problem:
            self.close(0.0)
            raise PoolStartError(problem)
        self._is_open = True

    def submit(self, order: Order, listener: Listener) -> None:
        """Run a batch. Raises PoolClosed."""
        if not self._is_open:
            raise PoolClosed("the pool takes no new batch")
        if len(order.batch_id.encode()) > MAX_NAME_BYTES:
            raise ValueError(f"a batch's id has at most {MAX_NAME_BYTES} bytes")
        self._loop.call_soon(self._add, Job(order, listener, self._engine.paces[order.task]))

    def request_stop(self, batch_id: str, grace_s: float | None) -> None:
        """Set the batch's event in its workers and start no more of its tasks; returns at once."""
        self._loop.call(self._engine.stop, batch_id, grace_s, None)

    def request_task_stop(
        self, batch_id: str, index: int, grace_s: float | None, on_settled: Callable[[], None]
    ) -> None:
        """Stop one task of a batch, which goes on; returns at once."""
        self._loop.call(self._engine.stop_task, batch_id, index, grace_s, on_settled)

    def event(self, batch_id: str) -> Event:
        """The batch's event, hosted by the Manager."""
        return BatchEvent(batch_id, self.staff.events, self._event_was_set)

    def forget(self, batch_id: str) -> None:
        """Drop the event of a batch that has settled."""
        self.staff.events.forget(batch_id)

    def hold(self, why: str) -> None:
        """Hand out no task from now on, until `release` for the same reason; also before the start."""
        self._loop.call(self._engine.hold, why)

    def release(self, why: str) -> None:
        """One reason less to hand out no task."""
        self._loop.call(self._engine.release, why)

    def keep(self, descriptor: int) -> None:
        """Keep a copy of this open file until no task can run, whatever becomes of this process.

        Every warden has one besides the pool's own. Raises PoolClosed, OSError.
        """
        if self._is_closed:
            raise PoolClosed("the pool keeps no file any more")
        copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 0)
        self.staff.kept.append(copy)
        self._loop.call(self.staff.hand_on, copy)

    def running(self, batch_id: str) -> list[RunningTask]:
        """The batch's tasks that have begun and not ended, read from the workers' pages."""
        tasks = (worker.running(batch_id) for worker in list(self.staff.workers.values()))
        return [task for task in tasks if task is not None]

    def begun(self) -> list[tuple[str, RunningTask]]:
        """The same for all batches, with the id of each."""
        found = []
        for worker in list(self.staff.workers.values()):
            for batch_id in {held.job.id for held in list(worker.leases)}:
                task = worker.running(batch_id)
                if task is not None:
                    found.append((batch_id, task))
        return found

    def gaps(self) -> dict[str, Gaps]:
        """Checkpoint gaps by task function, since the start of the pool."""
        return self.staff.gap_book.gaps()

    def unkillable(self, batch_id: str) -> list[int]:
        """Pids of the batch's processes that even SIGKILL did not end within its limit."""
        job = self._engine.jobs.get(batch_id)
        return list(job.unkillable) if job is not None else []

    @property
    def turned(self) -> float:
        """When the pool's thread last went round, on the monotonic clock: proof of progress."""
        return self._loop.turned

    def view(self) -> PoolView:
        """The pool as it is now."""
        return PoolView(
            size=self._settings.workers,
            workers=[worker.view() for worker in list(self.staff.workers.values())],
            restarts=self.staff.restarts,
            pending=sum(job.pending for job in list(self._engine.jobs.values())),
            degraded=self._degraded(),
        )

    @property
    def timers(self) -> int:
        """How many things the pool has planned for later; for tests and tools."""
        return self._loop.timers

    def _degraded(self) -> list[str]:
        reasons = list(self.staff.degraded.values())
        if self._loop.errors:
            reasons.append(f"{self._loop.errors} unexpected errors, see the log")
        return reasons

    def close(self, grace_s: float) -> None:
        """Stop every batch, wait for the workers, kill what is left, end every process.

        However many call it: each returns when all of that is done.
        """
        with self._closing:
            if not self._is_closed:
                self._is_closed, self._is_open = True, False
                self._end(grace_s)

    def _end(self, grace_s: float) -> None:
        if self._loop.is_running:
            self._loop.call(self._engine.wind_up, grace_s)
            self._engine.all_settled.wait(grace_s + self._settings.max_shield_s + CLOSE_MARGIN_S)
            self._loop.call(self._loop.end)
            if not self._loop.join(CLOSE_MARGIN_S):
                return  # its thread still uses what would be closed here
        self.staff.close()
        self._loop.close()

    def hurry(self) -> None:
        """Cut a grace that `close` or a stop is waiting out to nothing."""
        self._loop.call(self._engine.stop_all, 0.0)

    def _event_was_set(self, batch_id: str) -> None:
        self._loop.call(self._engine.stop, batch_id, None, StopCause.EVENT_SET)
