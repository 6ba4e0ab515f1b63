"""Stops a batch, or one task: sets its event where it runs, drops what waits, kills what outlives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic

from workers.backend import Ending, Outcome, StopCause
from workers.dispatcher import Dispatcher
from workers.held import Held
from workers.job import Job, TaskStop
from workers.killing import Executioner
from workers.loop import Loop
from workers.messages import Command
from workers.process import WorkerProcess
from workers.stage import task_key
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
            self._allow(job, job.stop_asked + grace_s, partial(self._kill_rest, job))

    def _allow(self, stopped: Job | TaskStop, due: float, kill: Callable[[], None]) -> None:
        """Its grace is over then, unless it is before."""
        if stopped.kill_due is None or due < stopped.kill_due:
            stopped.kill_due = due
            if stopped.kill_timer is not None:
                self._loop.cancel(stopped.kill_timer)
            stopped.kill_timer = self._loop.call_at(due, kill)

    def _begin(self, job: Job, cause: StopCause | None) -> None:
        """Set the event where the batch runs; what has not begun never will."""
        job.stop_asked = monotonic()
        given_up = job.stop()
        self._dispatcher.withdraw(job)
        for worker in self._staff.workers.values():
            # From the last one: once the first is stopped, the worker goes on to the next.
            leases = [held for held in reversed(worker.leases) if held.job is job]
            if leases:
                self._dispatcher.call_back(worker, leases, Command.STOP)
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

    # --- one task ---------------------------------------------------------------------------------

    def stop_task(
        self, job: Job, index: int, grace_s: float | None, on_settled: Callable[[], None]
    ) -> None:
        """Stop one task; the batch goes on. A repeat only shortens the grace."""
        stop = job.task_stops.get(index)
        if stop is None:
            stop = self._begin_task(job, index)
            if stop is None:
                on_settled()
                return
        stop.waiters.append(on_settled)
        if grace_s is not None:
            self._allow(stop, stop.asked + grace_s, partial(self._kill_task, job, index, stop))

    def _begin_task(self, job: Job, index: int) -> TaskStop | None:
        """Tell the worker that has it in hand; None if nothing of it runs or will."""
        outcome = job.stop_task(index)
        if outcome is not None:
            self._give_up(job, outcome)
            return None
        found = self._find(job, index)
        if found is None:
            return None
        worker, held, position = found
        stop = job.task_stops[index] = TaskStop(task_key(job.id, index, held.lease.attempt))
        self._staff.events.set_soon(stop.key)
        self._dispatcher.call_back(worker, [held], Command.STOP_TASK, position)
        return stop

    def _give_up(self, job: Job, outcome: Outcome) -> None:
        job.listener.ended([outcome])
        if not job.pending:
            self._dispatcher.withdraw(job)
        if job.is_settled:
            self._on_settled(job)

    def _find(self, job: Job, index: int) -> tuple[WorkerProcess, Held, int] | None:
        """The worker that has a task in hand, and where in which lease."""
        for worker in self._staff.workers.values():
            for held in worker.leases:
                position = held.find(index) if held.job is job else None
                if position is not None:
                    return worker, held, position
        return None

    def _kill_task(self, job: Job, index: int, stop: TaskStop) -> None:
        """Its grace is over: kill its worker if that is in the very task, again and again."""
        if job.task_stops.get(index) is not stop:
            return
        found = self._find(job, index)
        if found is not None:
            worker, held, position = found
            if worker.held is held and worker.task_begun() == position:
                self._kills.condemn(worker, Ending.KILLED, position)
        again = monotonic() + KILL_AGAIN_S
        stop.kill_timer = self._loop.call_at(again, partial(self._kill_task, job, index, stop))

    def tasks_ended(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        """These have been told: answer whoever waits for one of them."""
        for outcome in outcomes:
            self._settle_task(job, outcome.index)

    def lease_ended(self, held: Held) -> None:
        """Nothing of its tasks runs any more, whatever they left."""
        for index in [index for index in held.job.task_stops if index in held.lease.indexes]:
            if self._find(held.job, index) is None:  # given back, it may run elsewhere by now
                self._settle_task(held.job, index)

    def _settle_task(self, job: Job, index: int) -> None:
        stop = job.task_stops.pop(index, None)
        if stop is None:
            return
        if stop.kill_timer is not None:
            self._loop.cancel(stop.kill_timer)
        self._staff.events.forget(stop.key)
        for on_settled in stop.waiters:
            on_settled()
