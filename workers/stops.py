"""Stops a batch: sets its event where it runs, drops what waits, kills what outlives the grace."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic

from workers.backend import Ending, StopCause
from workers.dispatcher import Dispatcher
from workers.job import Job
from workers.killing import Executioner
from workers.loop import Loop
from workers.messages import Command
from workers.supervisor import Supervisor

KILL_AGAIN_S = 0.02


class Stops:
    """Every stop of one pool. Runs on the pool's thread."""

    def __init__(
        self,
        loop: Loop,
        staff: Supervisor,
        dispatcher: Dispatcher,
        kills: Executioner,
        *,
        on_settled: Callable[[Job], None],
    ) -> None:
        """on_settled: nothing of the batch runs, waits or rests any more."""
        self._loop = loop
        self._staff = staff
        self._dispatcher = dispatcher
        self._kills = kills
        self._on_settled = on_settled

    def stop(self, job: Job, grace_s: float | None, cause: StopCause | None) -> None:
        """Stop a batch; `cause` is None if the service asked. A repeat only shortens the grace."""
        if job.has_settled:
            return
        if not job.is_stopping:
            self._begin(job, cause)
        if job.is_settled:
            self._on_settled(job)
        elif grace_s is not None:
            due = job.stop_asked + grace_s
            if job.kill_due is None or due < job.kill_due:
                job.kill_due = due
                if job.kill_timer is not None:
                    self._loop.cancel(job.kill_timer)
                job.kill_timer = self._loop.call_at(due, partial(self._kill_rest, job))

    def _begin(self, job: Job, cause: StopCause | None) -> None:
        """Set the event where the batch runs; what has not begun never will."""
        job.stop_asked = monotonic()
        given_up = job.stop()
        self._dispatcher.withdraw(job)
        for worker in self._staff.workers.values():
            # From the last one: once the first is stopped, the worker goes on to the next.
            for held in reversed(worker.leases):
                if held.job is job:
                    self._dispatcher.call_back(worker, held, Command.STOP)
        if cause is not None:
            job.listener.stopping(cause)
            self._staff.events.set_soon(job.id)
        if given_up:
            job.listener.ended(given_up)

    def _kill_rest(self, job: Job) -> None:
        """The grace is over: kill whatever of the batch still runs, and nothing else.

        Again and again, because a worker may be about to begin with it, by reports not yet read.
        """
        if job.has_settled:
            return
        for worker in list(self._staff.workers.values()):
            if worker.held is not None and worker.held.job is job:
                self._kills.condemn(worker, Ending.KILLED)
        again = monotonic() + KILL_AGAIN_S
        job.kill_timer = self._loop.call_at(again, partial(self._kill_rest, job))
